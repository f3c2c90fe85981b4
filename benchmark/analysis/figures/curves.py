"""Learning curves, and curves of what is saved.

Shapes: S runs (seeds), R rounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats, mean_over_runs
from benchmark.analysis.figures.style import (
    INK,
    StrategyStyle,
    StrategyStyles,
    add_legend,
    add_title,
    dagger_note,
    legend_width,
    limit_y_axis,
    single_plot,
    strategy_label,
    with_style,
)
from benchmark.analysis.savings import Price, Saving, TargetRule, bootstrap_generator, compute_savings
from benchmark.text.escaping import make_visible

FEW_RUNS = 4  # runs whose intervals would fill a plot and tell little


# --- learning curves ------------------------------------------------------------------------
@with_style
def learning_curves(experiment: Experiment, styles: StrategyStyles, axis: str = "images") -> Figure | None:
    """The mean score over the mean cost paid, in `axis` (images or boxes): Figures 3, 4, 7 and 8 of ISAL.

    The band is Student's 95 % interval over the runs, where they are FEW dots are single runs, bars are the deviation
    that a paper tells. None: no strategy counts that cost in a round.
    """
    curves = [curve for curve in experiment.curves.values() if drawable_rounds(curve, axis).any()]
    if not curves:
        return None
    labels = [strategy_label(curve) for curve in curves]
    figure, axes = single_plot(labels)
    lines = [draw_curve(axes, curve, styles[curve.strategy], axis, band_opacity(labels)) for curve in curves]
    drawn = [np.asarray(line.get_ydata()) for line in lines]
    limit_y_axis(axes, np.concatenate([*drawn, *(curve.value_SR[single_run_dots(curve, axis)] for curve in curves)]))
    axes.set(xlabel=f"{axis} paid for", ylabel=make_visible(experiment.metric.name))
    banded = any(np.isfinite(interval_band(curve)).any() for curve in curves)
    barred = any(curve.std_R is not None for curve in curves)
    add_title(
        figure, experiment.title, runs_note(curves),
        "shaded: 95 % interval of the mean, round by round, not corrected" * banded,
        "dots: single runs" * any(single_run_dots(curve, axis).any() for curve in curves),
        "bars: standard deviation as published" * barred, dagger_note(curves), free=legend_width(labels),
    )  # fmt: skip
    add_legend(figure, lines, labels)
    return figure


def band_opacity(bands: Sequence[Any]) -> float:
    """How opaque each of these bands is: less where they are many, so that the lines stay visible."""
    return min(0.15, 0.4 / len(bands))


def runs_note(curves: Iterable[Curve]) -> str:
    """How many runs are behind the curves."""
    counts = sorted({curve.num_runs for curve in curves})
    told = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "1 run" if told == "1" else f"mean of {told} runs"


def drawable_rounds(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(R,): rounds that have a score and a cost."""
    if axis not in curve.cost:
        return np.zeros(curve.value_SR.shape[1], bool)
    return np.asarray(np.isfinite(curve.mean_R) & np.isfinite(mean_over_runs(curve.cost[axis])))


def interval_band(curve: Curve) -> Floats:
    """(2, R): ends of Student's interval over the runs that have the round, NaN where they are FEW."""
    ends_2R = np.full((2, curve.value_SR.shape[1]), np.nan)
    for place, values_S in enumerate(curve.value_SR.T):
        there = values_S[np.isfinite(values_S)]
        if len(there) > FEW_RUNS:
            found = stats.student_interval(there)
            ends_2R[:, place] = found.low, found.high
    return ends_2R


def single_run_dots(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(S, R): the scores of single runs that are drawn: of rounds that more than one run has, and no band."""
    there_SR = np.isfinite(curve.value_SR) & np.isfinite(curve.cost.get(axis, np.nan))
    num_R = there_SR.sum(0)
    return np.asarray(there_SR & (num_R > 1) & (num_R <= FEW_RUNS))


def draw_curve(axes: Axes, curve: Curve, style: StrategyStyle, axis: str, alpha: float) -> Line2D:
    """Draws a curve with its band, dots or bars, and returns its line."""
    there_R = drawable_rounds(curve, axis)
    x, y = mean_over_runs(curve.cost[axis])[there_R], curve.mean_R[there_R]
    axes.fill_between(x, *interval_band(curve)[:, there_R], color=style.colour, alpha=alpha, linewidth=0)
    dots_SR = single_run_dots(curve, axis)
    axes.plot(curve.cost[axis][dots_SR], curve.value_SR[dots_SR], ".", color=style.colour, markersize=3, alpha=0.6)
    if curve.std_R is not None:
        axes.errorbar(x, y, curve.std_R[there_R], fmt="none", ecolor=style.colour, elinewidth=0.8, capsize=2)
    return axes.plot(x, y, **style.line_arguments)[0]


# --- savings --------------------------------------------------------------------------------
@with_style
def savings_curve(experiment: Experiment, styles: StrategyStyles, against: str) -> Figure | None:
    """Per cent of the boxes (images, where boxes are not counted) saved against `against`, at each of its scores.

    Scores that a strategy has not reached are left out, and so are strategies that do not pair. None: nothing is left.
    """
    found = {name: reached_savings(experiment, name, against) for name in experiment.curves if name != against}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return None
    labels = [strategy_label(experiment.get_curve(name)) for name in found]
    figure, axes = single_plot(labels)
    axes.axhline(0, color=INK, linewidth=0.8)
    lines = [draw_savings(axes, points, styles[name], band_opacity(labels)) for name, points in found.items()]
    limit_y_axis(axes, np.array([0.0, *(one.percent.value for points in found.values() for one in points)]))
    unit = "boxes" if experiment.counts_boxes else "images"
    axes.set(xlabel=make_visible(f"{experiment.metric} to reach"), ylabel=f"{unit} saved (%)")
    add_title(
        figure, f"{experiment.title}: {unit} saved against {against}", runs_note(map(experiment.get_curve, found)),
        intervals_note(list(itertools.chain(*found.values()))), few_rounds_note(found),
        dagger_note(map(experiment.get_curve, [*found, against])), free=legend_width(labels),
    )  # fmt: skip
    add_legend(figure, lines, labels)
    return figure


def reached_savings(experiment: Experiment, strategy: str, against: str) -> list[Saving]:
    """The savings that are reached, by score; none where the two cannot be compared."""
    if not (experiment.get_curve(strategy).value_SR.size and experiment.get_curve(against).value_SR.size):
        return []
    price, rng = (
        Price("boxes" if experiment.counts_boxes else "images"),
        bootstrap_generator(experiment, strategy, against, 0),
    )
    try:
        found = compute_savings(experiment, strategy, against, TargetRule("curve"), price, rng)
    except ValueError:  # they do not pair, or share no round
        return []
    return sorted((one for one in found if math.isfinite(one.percent.value)), key=lambda one: one.target)


def intervals_note(points: Sequence[Saving]) -> str:
    """What is said of the intervals of savings, which are drawn of more than FEW pairs."""
    if any(one.num_pairs > FEW_RUNS and math.isfinite(one.percent.high) for one in points):
        return "shaded: 95 % interval, pointwise, not corrected"
    return "too few runs for intervals" * any(0 < one.num_pairs <= FEW_RUNS for one in points)


def few_rounds_note(savings_by_strategy: Mapping[str, Sequence[Saving]]) -> str:
    """What is said of savings that rest on few rounds; "" where there are enough."""
    return next(
        (one.few_rounds_note for points in savings_by_strategy.values() for one in points if one.few_rounds_note), ""
    )


def draw_savings(axes: Axes, points: Sequence[Saving], style: StrategyStyle, alpha: float) -> Line2D:
    """Draws a line of savings with its band, and returns the line. Where the data set no bound the band has no end."""
    score = [one.target for one in points]
    if points[0].num_pairs > FEW_RUNS:
        low, high = (np.array([getattr(one.percent, end) for one in points]).clip(-1e4, 1e4) for end in ("low", "high"))
        axes.fill_between(score, low, high, color=style.colour, alpha=alpha, linewidth=0)
    return axes.plot(score, [one.percent.value for one in points], **style.line_arguments)[0]
