"""The figure of what each strategy saves at the end: the labels that it needs for the same score as the reference."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.curves import runs_note
from benchmark.analysis.figures.style import (
    BETTER,
    INK,
    UNDECIDED,
    WORSE,
    add_title,
    blank_figure,
    dagger_note,
    row_pitch,
    strategy_label,
    text_extent,
    with_style,
)
from benchmark.analysis.savings import Price, Saving, TargetRule, bootstrap_generator, compute_savings

TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # of the labels that the reference needs
LARGEST = 10.0  # ends of intervals beyond it, or below its inverse, are cut off


@with_style
def labels_needed(experiment: Experiment, against: str, level: float = 0.95) -> Figure | None:
    """Draws the labels that each strategy needs to reach the smaller of its own and the reference's final score.

    They are multiples of what the reference needs (`savings at=final`). The most saving strategy comes first.

    Args:
        experiment: whose curves are compared.
        against: the label of the reference.
        level: the confidence level of the intervals.

    Returns:
        The figure; None if no strategy can be compared.
    """
    savings = [saving for name in experiment.curves if (saving := final_saving(experiment, name, against, level))]
    if not savings:
        return None
    savings.sort(key=lambda saving: -saving.percent.value)
    curves = [experiment.get_curve(saving.strategy) for saving in savings]
    labels = [strategy_label(curve) for curve in curves]
    pitch = row_pitch(labels, 0.24)
    figure = blank_figure(4.2 + text_extent(labels)[0], pitch * len(labels) + 0.9)
    axes = figure.add_subplot()
    for place, saving in enumerate(savings):
        draw_row(axes, place, saving)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params("y", length=0)
    limit_axis(axes, savings)
    unit = "boxes" if experiment.counts_boxes else "images"
    axes.set_xlabel(f"{unit} to pay for, where {against} needs 1")
    has_intervals = any(math.isfinite(saving.percent.low) for saving in savings)
    add_title(
        figure, f"{experiment.title}: labels needed for the same score", runs_note(curves),
        f"bars: {100 * level:g} % intervals; blue needs fewer, orange more, grey is undecided" * has_intervals,
        dagger_note(curves),
    )  # fmt: skip
    return figure


def final_saving(experiment: Experiment, strategy: str, against: str, level: float) -> Saving | None:
    """What a strategy saves at the smaller of both final scores; None if the two cannot be compared there."""
    curve = experiment.get_curve(strategy)
    if strategy == against or not (curve.value_SR.size and experiment.get_curve(against).value_SR.size):
        return None
    price = Price("boxes" if experiment.counts_boxes else "images")
    rng = bootstrap_generator(experiment, strategy, against, 0)
    try:
        [saving] = compute_savings(experiment, strategy, against, TargetRule("final"), price, rng, level)
    except ValueError:  # they do not pair, or share no round
        return None
    return saving if math.isfinite(saving.percent.value) and saving.percent.value < 100 else None


def draw_row(axes: Axes, place: int, saving: Saving) -> None:
    """Draws one strategy: a dot, and a bar for its interval."""
    most, least = (as_multiple(percent) for percent in (saving.percent.low, saving.percent.high))
    colour = INK
    if math.isfinite(most):
        colour = BETTER if most < 1 else WORSE if least > 1 else UNDECIDED
        axes.plot([least, most], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([as_multiple(saving.percent.value)], [place], "o", color=colour, markersize=5, markeredgewidth=0)


def as_multiple(percent: float) -> float:
    """A saving as a multiple of what the reference pays, between 1 / LARGEST and LARGEST."""
    multiple = 1 - percent / 100
    return multiple if math.isnan(multiple) else min(max(multiple, 1 / LARGEST), LARGEST)


def limit_axis(axes: Axes, savings: list[Saving]) -> None:
    """Gives the x axis equal steps for equal factors, and limits it to what is drawn."""
    values = [
        1.0,
        *(
            as_multiple(end)
            for saving in savings
            for end in (saving.percent.value, saving.percent.low, saving.percent.high)
        ),
    ]
    drawn = [value for value in values if math.isfinite(value)]
    low, high = min(drawn) / 1.15, max(drawn) * 1.15
    axes.set(xscale="log", xlim=(low, high))
    axes.minorticks_off()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g} x" for tick in ticks])
    axes.axvline(1, color=INK, linewidth=0.8, zorder=0)
    axes.grid(True, axis="x")
