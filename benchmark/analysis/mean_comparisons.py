"""Two strategies of a paper, of which only means are known: how far apart they are, without pairs and so without a verdict.

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
    """Published means of `strategy` minus those of `against`, at the last number of labels that both have.

    Args:
        task: what both were run on.
        source: the paper.
        metric: of the scores.
        strategy: a label.
        against: the label of the one that it is compared with.
        num_runs: behind the means of the two.
        num_labelled: labelled images at which `final_difference` is taken.
        final_difference: in the score's unit; its ends are NaN where the paper prints no standard deviation.
        areas: the mean score of each over the rounds that both have.
        level: of the interval.
    """

    task: str
    source: str
    metric: Metric
    strategy: str
    against: str
    num_runs: tuple[int, int]
    num_labelled: float
    final_difference: Interval
    areas: tuple[float, float]
    level: float


def compare_means(experiment: Experiment, strategy: str, against: str, level: float) -> MeanComparison:
    """Compares two curves of a paper, which holds no single runs.

    Args:
        experiment: of a paper.
        strategy: a label.
        against: the label of the one that it is compared with.
        level: of the interval: Welch's, from standard deviations and numbers of runs, as if no run had a partner.

    Raises:
        ValueError: the two have no number of labels in common, or scores of different scales.
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
        experiment.task, experiment.source, experiment.metric, strategy, against, (first.num_runs, second.num_runs),
        float(labelled_R[last]), final_difference(first, second, last, level), (areas[0], areas[1]), level,
    )  # fmt: skip


def counts(curve: Curve) -> Floats:
    """(R,): labelled images by round."""
    return curve.num_labelled_SR[0]


def final_difference(first: Curve, second: Curve, last: int, level: float) -> Interval:
    """The difference in round `last`, with Welch's interval where both standard deviations are printed."""
    value = float(first.mean_R[last] - second.mean_R[last])
    std, other_std = (math.nan if curve.std_R is None else float(curve.std_R[last]) for curve in (first, second))
    if math.isnan(std) or math.isnan(other_std) or min(first.num_runs, second.num_runs) < 2:
        return Interval(value, math.nan, math.nan)
    return Gap(float(counts(first)[last]), value, first.num_runs, std, second.num_runs, other_std).interval(level)


def describe_means(comparison: MeanComparison) -> list[str]:
    """The answer in four lines."""
    digits, metric = comparison.metric.digits, comparison.metric
    num, other_num = comparison.num_runs
    has_interval = math.isfinite(comparison.final_difference.low)
    how = (
        f"{100 * comparison.level:g} % interval by Welch's t, as if no run had a partner"
        if has_interval
        else "no interval: the paper prints no standard deviation"
    )
    area = comparison.areas[0] - comparison.areas[1]
    return [
        f"{comparison.strategy} minus {comparison.against} on {comparison.task}: means of {num} and {other_num} runs, as "
        f"{comparison.source} prints them, not paired",
        f"{metric} at {comparison.num_labelled:,.0f} labelled images: "
        f"{format_interval(comparison.final_difference, digits, '+')} ({how})",
        f"mean {metric} over the rounds of both: {area:+z,.{digits}f}",
        "no verdict: that takes runs of the same seeds, and the paper prints means; `savings` compares what was paid",
    ]


def mean_rows(comparisons: Sequence[MeanComparison]) -> list[dict[str, object]]:
    """One row a comparison, in the columns of paired ones; what needs pairs is missing."""
    return [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric.name, "seeds": 0,
            "final": one.final_difference.value, "final_low": one.final_difference.low,
            "final_high": one.final_difference.high, "own_area": one.areas[0], "other_area": one.areas[1],
            "area": one.areas[0] - one.areas[1], "level": one.level, "verdict": "means only",
        }
        for one in comparisons
    ]  # fmt: skip
