"""Figures of learning curves and of savings along them.

Shapes: S runs (seeds), R rounds, T target scores.
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
    name_axis,
    single_plot,
    strategy_label,
    with_style,
)
from benchmark.analysis.savings import Price, Saving, TargetRule, bootstrap_generator, compute_savings

FEW_RUNS = 4  # up to so many runs are drawn as dots: their intervals would fill the plot


# --- learning curves ------------------------------------------------------------------------
@with_style
def learning_curves(experiment: Experiment, styles: StrategyStyles, axis: str = "images") -> Figure | None:
    """Draws the mean score of each strategy over the mean cost, as in Figures 3, 4, 7 and 8 of ISAL.

    The band is Student's 95 % interval over the runs; up to FEW_RUNS runs are dots instead. Bars are the standard
    deviation that a paper prints.

    Args:
        experiment: whose curves are drawn.
        styles: of the strategies.
        axis: the cost: images or boxes.

    Returns:
        The figure; None if no strategy counts this cost.
    """
    curves = [curve for curve in experiment.curves.values() if drawable_rounds(curve, axis).any()]
    if not curves:
        return None
    labels = [strategy_label(curve) for curve in curves]
    figure, axes = single_plot(labels)
    lines = [draw_curve(axes, curve, styles[curve.strategy], axis, band_opacity(labels)) for curve in curves]
    heights = [np.asarray(line.get_ydata()) for line in lines]
    limit_y_axis(axes, np.concatenate([*heights, *(curve.value_SR[single_run_dots(curve, axis)] for curve in curves)]))
    axes.set(xlabel=f"{axis} paid for", ylabel=name_axis(experiment.metric))
    has_bands = any(np.isfinite(interval_band(curve)).any() for curve in curves)
    has_bars = any(curve.std_R is not None for curve in curves)
    add_title(
        figure, experiment.title, runs_note(curves),
        "shaded: 95 % interval of the mean, round by round, not corrected" * has_bands,
        "dots: single runs" * any(single_run_dots(curve, axis).any() for curve in curves),
        "bars: standard deviation as published" * has_bars, dagger_note(curves), free=legend_width(labels),
    )  # fmt: skip
    add_legend(figure, lines, labels)
    return figure


def band_opacity(bands: Sequence[Any]) -> float:
    """The opacity of each of these bands: lower if there are many, so that the lines stay visible."""
    return min(0.15, 0.4 / len(bands))


def runs_note(curves: Iterable[Curve]) -> str:
    """How many runs the curves are the means of."""
    curves = list(curves)
    if not all(curve.has_known_runs for curve in curves):
        return "mean of an unknown number of runs"
    counts = sorted({curve.num_runs for curve in curves})
    words = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "1 run" if words == "1" else f"mean of {words} runs"


def drawable_rounds(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(R,): whether a round has a score and a cost."""
    if axis not in curve.cost:
        return np.zeros(curve.value_SR.shape[1], bool)
    return np.asarray(np.isfinite(curve.mean_R) & np.isfinite(mean_over_runs(curve.cost[axis])))


def interval_band(curve: Curve) -> Floats:
    """(2, R): the ends of Student's interval over the runs that have the round; NaN for up to FEW_RUNS runs."""
    ends_2R = np.full((2, curve.value_SR.shape[1]), np.nan)
    for column, values_S in enumerate(curve.value_SR.T):
        recorded_S = values_S[np.isfinite(values_S)]
        if len(recorded_S) > FEW_RUNS:
            interval = stats.student_interval(recorded_S)
            ends_2R[:, column] = interval.low, interval.high
    return ends_2R


def single_run_dots(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(S, R): whether a single run's score is drawn as a dot: in rounds that 2 to FEW_RUNS runs have."""
    recorded_SR = np.isfinite(curve.value_SR) & np.isfinite(curve.cost.get(axis, np.nan))
    num_runs_R = recorded_SR.sum(0)
    return np.asarray(recorded_SR & (num_runs_R > 1) & (num_runs_R <= FEW_RUNS))


def draw_curve(axes: Axes, curve: Curve, style: StrategyStyle, axis: str, alpha: float) -> Line2D:
    """Draws a curve with its band, dots or bars, and returns its line."""
    drawable_R = drawable_rounds(curve, axis)
    x, y = mean_over_runs(curve.cost[axis])[drawable_R], curve.mean_R[drawable_R]
    axes.fill_between(x, *interval_band(curve)[:, drawable_R], color=style.colour, alpha=alpha, linewidth=0)
    dots_SR = single_run_dots(curve, axis)
    axes.plot(curve.cost[axis][dots_SR], curve.value_SR[dots_SR], ".", color=style.colour, markersize=3, alpha=0.6)
    if curve.std_R is not None:
        axes.errorbar(x, y, curve.std_R[drawable_R], fmt="none", ecolor=style.colour, elinewidth=0.8, capsize=2)
    return axes.plot(x, y, **style.line_arguments)[0]


# --- savings --------------------------------------------------------------------------------
@with_style
def savings_curve(experiment: Experiment, styles: StrategyStyles, against: str) -> Figure | None:
    """Draws what each strategy saves compared with `against`, in per cent, at each score that `against` reached.

    The unit is boxes, or images where boxes are not counted. Scores that a strategy has not reached are left
    out, and so are strategies that do not pair with `against`.

    Returns:
        The figure; None if nothing is left to draw.
    """
    savings = {name: reached_savings(experiment, name, against) for name in experiment.curves if name != against}
    savings = {name: points for name, points in savings.items() if points}
    if not savings:
        return None
    labels = [strategy_label(experiment.get_curve(name)) for name in savings]
    figure, axes = single_plot(labels)
    axes.axhline(0, color=INK, linewidth=0.8)
    lines = [draw_savings(axes, points, styles[name], band_opacity(labels)) for name, points in savings.items()]
    limit_y_axis(axes, np.array([0.0, *(saving.percent.value for points in savings.values() for saving in points)]))
    unit = "boxes" if experiment.counts_boxes else "images"
    axes.set(xlabel=f"{name_axis(experiment.metric)} to reach", ylabel=f"{unit} saved (%)")
    add_title(
        figure, f"{experiment.title}: {unit} saved against {against}", runs_note(map(experiment.get_curve, savings)),
        intervals_note(list(itertools.chain(*savings.values()))), few_rounds_note(savings),
        dagger_note(map(experiment.get_curve, [*savings, against])), free=legend_width(labels),
    )  # fmt: skip
    add_legend(figure, lines, labels)
    return figure


def reached_savings(experiment: Experiment, strategy: str, against: str) -> list[Saving]:
    """The savings at the scores that both strategies reached, by score; none if the two cannot be compared."""
    if not (experiment.get_curve(strategy).value_SR.size and experiment.get_curve(against).value_SR.size):
        return []
    price = Price("boxes" if experiment.counts_boxes else "images")
    rng = bootstrap_generator(experiment, strategy, against, 0)
    try:
        savings = compute_savings(experiment, strategy, against, TargetRule("curve"), price, rng)
    except ValueError:  # they do not pair, or share no round
        return []
    return sorted(
        (saving for saving in savings if math.isfinite(saving.percent.value)), key=lambda saving: saving.target
    )  # fmt: skip


def intervals_note(savings: Sequence[Saving]) -> str:
    """The note on the intervals of savings, which are drawn for more than FEW_RUNS pairs."""
    if any(saving.num_pairs > FEW_RUNS and math.isfinite(saving.percent.high) for saving in savings):
        return "shaded: 95 % interval, pointwise, not corrected"
    return "too few runs for intervals" * any(0 < saving.num_pairs <= FEW_RUNS for saving in savings)


def few_rounds_note(savings_by_strategy: Mapping[str, Sequence[Saving]]) -> str:
    """The note on savings from few rounds; "" where there are enough."""
    savings = itertools.chain(*savings_by_strategy.values())
    return next((saving.few_rounds_note for saving in savings if saving.few_rounds_note), "")


def draw_savings(axes: Axes, savings: Sequence[Saving], style: StrategyStyle, alpha: float) -> Line2D:
    """Draws savings over the score with their band, and returns the line. The band is cut off where it is unbounded."""
    scores = [saving.target for saving in savings]
    if savings[0].num_pairs > FEW_RUNS:
        ends_2T = np.array([[saving.percent.low, saving.percent.high] for saving in savings]).clip(-1e4, 1e4).T
        axes.fill_between(scores, *ends_2T, color=style.colour, alpha=alpha, linewidth=0)
    return axes.plot(scores, [saving.percent.value for saving in savings], **style.line_arguments)[0]
