"""The figure of single classes: how far each strategy is from the reference strategy in each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.analysis.class_scores import ClassScore, compare_by_metric
from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.curves import FEW_RUNS
from benchmark.analysis.figures.style import BETTER, INK, UNDECIDED, WORSE, add_title, panels, text_extent, with_style
from benchmark.contract.metrics import PERCENT
from benchmark.text.escaping import make_visible
from benchmark.text.words import shorten_names

MAX_NAMED_CLASSES = 30  # of more classes only the first and the last ones are named
NUM_EXTREMES = 10  # named classes at either end, of many
MAX_CLASS_NAME = 20  # characters
ROW_PITCH, MANY_CLASSES_HEIGHT = 0.14, 4.6  # inches: of a class, and of all of many classes
COLUMNS = 3


@with_style
def class_differences(experiment: Experiment, number: int | None = None, level: float = 0.95) -> Figure | None:
    """Draws each strategy's score minus the reference's in each class, sorted: a panel for each strategy.

    Bars are Student's intervals over the seeds; up to FEW_RUNS seeds are dots instead.

    Args:
        experiment: whose records are drawn.
        number: the round; None: the last one.
        level: the confidence level of the intervals.

    Returns:
        The figure; None if no strategy can be compared with the reference in that round.
    """
    rows = compare_by_metric(experiment, number, level)
    panel_rows = {name: sorted_rows(rows, name, experiment.metric.sign) for name in experiment.curves}
    panel_rows = {name: own for name, own in panel_rows.items() if own}
    if not panel_rows:
        return None
    against, score = rows[0].against, rows[0].score
    levels = {row.class_name: row.mean.value for row in rows if row.strategy == against}
    names = label_classes(levels, 2 if experiment.metric.is_share else 1)
    most = max(map(len, panel_rows.values()))
    height = ROW_PITCH * most + 0.1 if most <= MAX_NAMED_CLASSES else MANY_CLASSES_HEIGHT
    titles = [f"{name} ({count_seeds(own)})" for name, own in panel_rows.items()]
    figure, grid = panels(titles, COLUMNS, 1.7 + text_extent(names.values())[0], height, sharex=True)
    for axes, own in zip(grid, panel_rows.values(), strict=True):
        draw_differences(axes, own, names, experiment.metric.sign)
    limit_x_axis(grid[0], [row for own in panel_rows.values() for row in own])
    unit = ", percentage points" * (experiment.metric.unit == PERCENT)
    figure.supxlabel(make_visible(f"{score} of the class minus {against}'s{unit}"), fontsize=9)
    has_bars = any(len(row.differences) > FEW_RUNS for row in rows)
    has_dots = any(1 < len(row.differences) <= FEW_RUNS for row in rows)
    add_title(
        figure, f"{experiment.title}: {score} of single classes in round {rows[0].round}",
        f"numbers beside the names: {against}'s",
        f"bars: {100 * level:g} % intervals, each class alone, not corrected" * has_bars,
        "small dots: single seeds" * has_dots,
        f"named: the {NUM_EXTREMES} first and last of {most:,} classes" * (most > MAX_NAMED_CLASSES),
    )  # fmt: skip
    return figure


def sorted_rows(rows: Sequence[ClassScore], strategy: str, sign: int) -> list[ClassScore]:
    """The rows of a strategy that can be compared with the reference, those in which it is best first."""
    own = [row for row in rows if row.strategy == strategy and row.differences]
    return sorted(own, key=lambda row: -sign * row.difference.value)


def count_seeds(rows: Sequence[ClassScore]) -> str:
    """The number of pairs of runs behind these rows: `5 seeds`."""
    number = max(len(row.differences) for row in rows)
    return f"{number} seed{'s' * (number != 1)}"


def label_classes(levels: Mapping[str, float], digits: int) -> dict[str, str]:
    """The label of each class: its name, shortened, and the score of the reference."""
    short = shorten_names([make_visible(name) for name in levels], MAX_CLASS_NAME)
    return {
        name: f"{text}: {level:.{digits}f}" if math.isfinite(level) else text
        for (name, level), text in zip(levels.items(), short, strict=True)
    }


def draw_differences(axes: Axes, rows: Sequence[ClassScore], names: Mapping[str, str], sign: int) -> None:
    """Draws the differences of one strategy, a row for each class."""
    size = 4.0 if len(rows) <= MAX_NAMED_CLASSES else 2.2
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, row in enumerate(rows):
        gap, colour = row.difference, INK
        if len(row.differences) > FEW_RUNS:
            better, worse = (sign * end > 0 for end in sorted((gap.low, gap.high), key=lambda end: sign * end))
            colour = BETTER if better else UNDECIDED if worse or math.isnan(gap.low) else WORSE
            axes.plot([gap.low, gap.high], [place, place], color=colour, linewidth=size / 3, solid_capstyle="butt")
        elif len(row.differences) > 1:
            axes.plot(row.differences, [place] * len(row.differences), ".", color=UNDECIDED, markersize=size / 2)
        axes.plot([gap.value], [place], "o", color=colour, markersize=size, markeredgewidth=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(True, axis="x")
    label_rows(axes, [names[row.class_name] for row in rows])


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Writes the names of classes beside their rows; of many classes those at both ends, with lines to their rows."""
    axes.tick_params("y", length=0, labelsize=7)
    if len(labels) <= MAX_NAMED_CLASSES:
        axes.set_yticks(range(len(labels)), labels)
        return
    axes.set_yticks([])
    leader = {"arrowstyle": "-", "color": "#b0b0b0", "linewidth": 0.5, "relpos": (1, 0.5)}
    pitch = ROW_PITCH / MANY_CLASSES_HEIGHT * len(labels)  # of names, in rows
    for place in range(NUM_EXTREMES):
        for row, height in ((place, place * pitch), (-1 - place, len(labels) - 1 - place * pitch)):
            axes.annotate(
                labels[row], (0, row % len(labels)), (-0.14, height), ("axes fraction", "data"),
                ("axes fraction", "data"), leader,
                ha="right", va="center", fontsize=7, annotation_clip=False,
            )  # fmt: skip


def limit_x_axis(axes: Axes, rows: Sequence[ClassScore]) -> None:
    """Limits the x axis to the means and a third of their range on both sides: wide bars are cut off."""
    values = np.array([0.0, *(row.difference.value for row in rows)])
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 3 or 1.0
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, low - room), min(right, high + room))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
