"""Compares two strategies of a paper that publishes means only: without paired runs, and so without a verdict.

Shapes: R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis import stats
from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import SCALE_MISMATCH, Curve, Experiment, Floats, best_score, scales_differ
from benchmark.analysis.equivalence import Gap
from benchmark.analysis.stats import Interval
from benchmark.contract.metrics import Metric


@dataclass(frozen=True)
class MeanComparison:
    """The published means of `strategy` minus those of `against`.

    Args:
        task: the label of the task.
        source: the paper.
        metric: the metric of the scores.
        strategy: the label of the strategy.
        against: the label of the strategy that it is compared with.
        num_runs: the numbers of runs behind the means of the two; None where the paper does not tell.
        num_labelled: the largest number of labelled images at which both have a score.
        final_difference: the difference there. Its ends are NaN if the paper prints no standard deviation.
        areas: the mean score of each, over the rounds that both have.
        level: the confidence level of the interval.
    """

    task: str
    source: str
    metric: Metric
    strategy: str
    against: str
    num_runs: tuple[int | None, int | None]
    num_labelled: float
    final_difference: Interval
    areas: tuple[float, float]
    level: float


def compare_means(experiment: Experiment, strategy: str, against: str, level: float) -> MeanComparison:
    """Compares two curves of a paper.

    Args:
        experiment: an experiment of a paper.
        strategy: the label of the strategy.
        against: the label of the strategy that it is compared with.
        level: the confidence level of the interval, which is Welch's and takes all runs as independent.

    Raises:
        ValueError: the two have no number of labels in common, or their scores have different scales.
    """
    first, second = experiment.get_curve(strategy), experiment.get_curve(against)
    if scales_differ(best_score([first]), best_score([second])):
        raise ValueError(f"{strategy} and {against} cannot be compared: {SCALE_MISMATCH}")
    shared_R = np.isfinite(first.mean_R) & np.isfinite(second.mean_R) & (counts(first) == counts(second))
    if not shared_R.any():
        raise ValueError(f"{strategy} and {against} have no number of labels in common")
    last = int(np.flatnonzero(shared_R)[-1])
    labelled_R = counts(first)
    areas = [stats.normalized_area(labelled_R[shared_R], curve.mean_R[shared_R]) for curve in (first, second)]
    return MeanComparison(
        experiment.task, experiment.source, experiment.metric, strategy, against, (first.known_runs, second.known_runs),
        float(labelled_R[last]), final_difference(first, second, last, level), (areas[0], areas[1]), level,
    )  # fmt: skip


def counts(curve: Curve) -> Floats:
    """Returns the labelled images by round, (R,)."""
    counts_R: Floats = curve.num_labelled_SR[0]
    return counts_R


def final_difference(first: Curve, second: Curve, last: int, level: float) -> Interval:
    """Returns the difference in round `last`, with Welch's interval if both standard deviations are published."""
    value = float(first.mean_R[last] - second.mean_R[last])
    std, other_std = (math.nan if curve.std_R is None else float(curve.std_R[last]) for curve in (first, second))
    if math.isnan(std) or math.isnan(other_std) or min(first.num_runs, second.num_runs) < 2:
        return Interval(value, math.nan, math.nan)
    return Gap(float(counts(first)[last]), value, first.num_runs, std, second.num_runs, other_std).interval(level)


def describe_means(comparison: MeanComparison) -> list[str]:
    """Returns the comparison in four lines."""
    digits, metric = comparison.metric.digits, comparison.metric
    num, other_num = comparison.num_runs
    means = "means" if None in (num, other_num) else f"means of {num} and {other_num} runs"
    has_interval = math.isfinite(comparison.final_difference.low)
    how = (
        f"{100 * comparison.level:g} % interval by Welch's t, taking runs as independent"
        if has_interval
        else "no interval: the paper prints no standard deviation"
    )
    area = comparison.areas[0] - comparison.areas[1]
    return [
        f"{comparison.strategy} minus {comparison.against} on {comparison.task}: {means}, "
        f"published by {comparison.source}, not paired",
        f"{metric} at {comparison.num_labelled:,.0f} labelled images: "
        f"{format_interval(comparison.final_difference, digits, '+')} ({how})",
        f"mean {metric} over the rounds that both have: {area:+z,.{digits}f}",
        "no verdict: it takes single runs with common seeds, and only means are published",
    ]


def mean_rows(comparisons: Sequence[MeanComparison]) -> list[dict[str, object]]:
    """Returns one row for each comparison, with those columns of paired comparisons that need no pairs."""
    return [
        {
            "task": row.task, "strategy": row.strategy, "against": row.against, "metric": row.metric.name, "seeds": 0,
            "final": row.final_difference.value, "final_low": row.final_difference.low,
            "final_high": row.final_difference.high, "own_area": row.areas[0], "other_area": row.areas[1],
            "area": row.areas[0] - row.areas[1], "level": row.level, "verdict": "means only",
        }
        for row in comparisons
    ]  # fmt: skip
