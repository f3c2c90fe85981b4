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
from benchmark.analysis.curves import Curve, Experiment, Floats, mean
from benchmark.analysis.figures.style import (
    INK,
    Look,
    Looks,
    beside,
    daggers,
    entitle,
    framed,
    key,
    limits,
    marked,
    styled,
)
from benchmark.analysis.savings import Price, Rule, Saving, generator, savings
from benchmark.text.escaping import visible

FEW = 4  # runs whose intervals would fill a plot and tell little


# --- learning curves ------------------------------------------------------------------------
@styled
def learning_curves(experiment: Experiment, looks: Looks, axis: str = "images") -> Figure | None:
    """The mean score over the mean cost paid, in `axis` (images or boxes): Figures 3, 4, 7 and 8 of ISAL.

    The band is Student's 95 % interval over the runs, where they are FEW dots are single runs, bars are the deviation
    that a paper tells. None: no strategy counts that cost in a round.
    """
    curves = [curve for curve in experiment.curves.values() if drawable(curve, axis).any()]
    if not curves:
        return None
    labels = [marked(curve) for curve in curves]
    figure, axes = framed(labels)
    lines = [draw_curve(axes, curve, looks[curve.strategy], axis, sheer(labels)) for curve in curves]
    drawn = [np.asarray(line.get_ydata()) for line in lines]
    limits(axes, np.concatenate([*drawn, *(curve.value_SR[dotted(curve, axis)] for curve in curves)]))
    axes.set(xlabel=f"{axis} paid for", ylabel=visible(experiment.metric.name))
    banded = any(np.isfinite(band(curve)).any() for curve in curves)
    barred = any(curve.std_R is not None for curve in curves)
    entitle(
        figure, experiment.title, num_runs(curves),
        "shaded: 95 % interval of the mean, round by round, not corrected" * banded,
        "dots: single runs" * any(dotted(curve, axis).any() for curve in curves),
        "bars: standard deviation as published" * barred, daggers(curves), free=beside(labels),
    )  # fmt: skip
    key(figure, lines, labels)
    return figure


def sheer(bands: Sequence[Any]) -> float:
    """How opaque each of these bands is: less where they are many, so that the lines stay visible."""
    return min(0.15, 0.4 / len(bands))


def num_runs(curves: Iterable[Curve]) -> str:
    """How many runs are behind the curves."""
    counts = sorted({curve.num_runs for curve in curves})
    told = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "1 run" if told == "1" else f"mean of {told} runs"


def drawable(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(R,): rounds that have a score and a cost."""
    if axis not in curve.cost:
        return np.zeros(curve.value_SR.shape[1], bool)
    return np.asarray(np.isfinite(curve.mean_R) & np.isfinite(mean(curve.cost[axis])))


def band(curve: Curve) -> Floats:
    """(2, R): ends of Student's interval over the runs that have the round, NaN where they are FEW."""
    ends_2R = np.full((2, curve.value_SR.shape[1]), np.nan)
    for place, values_S in enumerate(curve.value_SR.T):
        there = values_S[np.isfinite(values_S)]
        if len(there) > FEW:
            found = stats.student(there)
            ends_2R[:, place] = found.low, found.high
    return ends_2R


def dotted(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(S, R): the scores of single runs that are drawn: of rounds that more than one run has, and no band."""
    there_SR = np.isfinite(curve.value_SR) & np.isfinite(curve.cost.get(axis, np.nan))
    num_R = there_SR.sum(0)
    return np.asarray(there_SR & (num_R > 1) & (num_R <= FEW))


def draw_curve(axes: Axes, curve: Curve, look: Look, axis: str, alpha: float) -> Line2D:
    """Draws a curve with its band, dots or bars, and returns its line."""
    there_R = drawable(curve, axis)
    x, y = mean(curve.cost[axis])[there_R], curve.mean_R[there_R]
    axes.fill_between(x, *band(curve)[:, there_R], color=look.colour, alpha=alpha, linewidth=0)
    dots_SR = dotted(curve, axis)
    axes.plot(curve.cost[axis][dots_SR], curve.value_SR[dots_SR], ".", color=look.colour, markersize=3, alpha=0.6)
    if curve.std_R is not None:
        axes.errorbar(x, y, curve.std_R[there_R], fmt="none", ecolor=look.colour, elinewidth=0.8, capsize=2)
    return axes.plot(x, y, **look.line)[0]


# --- savings --------------------------------------------------------------------------------
@styled
def savings_curve(experiment: Experiment, looks: Looks, against: str) -> Figure | None:
    """Per cent of the boxes (images, where boxes are not counted) saved against `against`, at each of its scores.

    Scores that a strategy has not reached are left out, and so are strategies that do not pair. None: nothing is left.
    """
    found = {name: saved(experiment, name, against) for name in experiment.curves if name != against}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return None
    labels = [marked(experiment.get(name)) for name in found]
    figure, axes = framed(labels)
    axes.axhline(0, color=INK, linewidth=0.8)
    lines = [draw_savings(axes, points, looks[name], sheer(labels)) for name, points in found.items()]
    limits(axes, np.array([0.0, *(one.percent.value for points in found.values() for one in points)]))
    unit = "boxes" if experiment.counts_boxes else "images"
    axes.set(xlabel=visible(f"{experiment.metric} to reach"), ylabel=f"{unit} saved (%)")
    entitle(
        figure, f"{experiment.title}: {unit} saved against {against}", num_runs(map(experiment.get, found)),
        intervals(list(itertools.chain(*found.values()))), rough(found),
        daggers(map(experiment.get, [*found, against])), free=beside(labels),
    )  # fmt: skip
    key(figure, lines, labels)
    return figure


def saved(experiment: Experiment, strategy: str, against: str) -> list[Saving]:
    """The savings that are reached, by score; none where the two cannot be compared."""
    if not (experiment.get(strategy).value_SR.size and experiment.get(against).value_SR.size):
        return []
    price, rng = Price("boxes" if experiment.counts_boxes else "images"), generator(experiment, strategy, against, 0)
    try:
        found = savings(experiment, strategy, against, Rule("curve"), price, rng)
    except ValueError:  # they do not pair, or share no round
        return []
    return sorted((one for one in found if math.isfinite(one.percent.value)), key=lambda one: one.target)


def intervals(points: Sequence[Saving]) -> str:
    """What is said of the intervals of savings, which are drawn of more than FEW pairs."""
    if any(one.num_pairs > FEW and math.isfinite(one.percent.high) for one in points):
        return "shaded: 95 % interval, pointwise, not corrected"
    return "too few runs for intervals" * any(0 < one.num_pairs <= FEW for one in points)


def rough(found: Mapping[str, Sequence[Saving]]) -> str:
    """What is said of savings that rest on few rounds; "" where there are enough."""
    return next((one.few_rounds for points in found.values() for one in points if one.few_rounds), "")


def draw_savings(axes: Axes, points: Sequence[Saving], look: Look, alpha: float) -> Line2D:
    """Draws a line of savings with its band, and returns the line. Where the data set no bound the band has no end."""
    score = [one.target for one in points]
    if points[0].num_pairs > FEW:
        low, high = (np.array([getattr(one.percent, end) for one in points]).clip(-1e4, 1e4) for end in ("low", "high"))
        axes.fill_between(score, low, high, color=look.colour, alpha=alpha, linewidth=0)
    return axes.plot(score, [one.percent.value for one in points], **look.line)[0]
