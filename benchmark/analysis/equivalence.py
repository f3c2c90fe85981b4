"""Equivalence of two sets of runs: two one-sided tests within a margin, at every number of labels.

A difference that is not significant is no evidence of agreement: few runs never show a difference. Here more runs find
agreement more often where the true difference lies within the margin, and find it in at most one case of 20 where it
lies at the margin (Schuirmann, 1987; Lakens, 2017). Shapes: R numbers of labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from benchmark.analysis.stats import MIN_RUNS, Interval, holm
from benchmark.text.words import plural

MAX_FORECAST_RUNS = 200  # the most runs of ours that a forecast considers
FORECAST_POWER = 0.8  # the probability that the runs of a forecast decide
REPRODUCED, STRONGER, WEAKER = "reproduced", "stronger", "weaker"
STRONGER_AND_WEAKER, INCONCLUSIVE = "stronger and weaker", "inconclusive"


@dataclass(frozen=True)
class Gap:
    """The difference of two mean scores at one number of labels: ours minus the published one."""

    num_labelled: float
    value: float
    num_runs: int  # of ours
    std: float  # standard deviation over our runs; NaN for one run
    num_other_runs: int | None  # None where it is not published; then it is taken to be 1
    other_std: float | None  # None where it is not published; then it is taken to equal ours

    @property
    def standard_error(self) -> float:
        """The standard error of `value`; NaN where our runs are too few, or nothing varies."""
        other_std = self.std if self.other_std is None else self.other_std
        error = math.sqrt(self.std**2 / self.num_runs + other_std**2 / (self.num_other_runs or 1))
        return error if self.num_runs >= MIN_RUNS and error else math.nan

    @property
    def degrees_of_freedom(self) -> float:
        """The degrees of freedom of `standard_error`, after Welch and Satterthwaite.

        They are those of our runs where the other standard deviation is taken from ours.
        """
        if self.other_std is None or self.num_other_runs is None or self.num_other_runs < 2:
            return self.num_runs - 1
        own, theirs = self.std**2 / self.num_runs, self.other_std**2 / self.num_other_runs
        return (own + theirs) ** 2 / (own**2 / (self.num_runs - 1) + theirs**2 / (self.num_other_runs - 1))

    def half_width(self, tail: float) -> float:
        """Returns half the width of the interval whose upper tail has the probability `tail`."""
        return -float(special.stdtrit(self.degrees_of_freedom, tail)) * self.standard_error

    def interval(self, level: float) -> Interval:
        """Returns the confidence interval of the true gap at a level."""
        half = self.half_width((1 - level) / 2)
        return Interval(self.value, self.value - half, self.value + half)

    def p_beyond(self, margin: float) -> float:
        """Returns the two-sided p-value of "the true gap is within the margin, or on the other side of zero"."""
        tail = float(special.stdtr(self.degrees_of_freedom, (margin - abs(self.value)) / self.standard_error))
        return 1.0 if math.isnan(tail) else min(1.0, 2 * tail)


def judge(gaps: Sequence[Gap], margin: float, level: float, higher_is_better: bool = True) -> tuple[str, str]:
    """Judges whether scores agree at every number of labels.

    Args:
        gaps: one for each number of labels, at least one.
        margin: the largest difference of two equivalent scores, in the unit of the score.
        level: the confidence level; with 0.95 at most one verdict of 20 is wrong.
        higher_is_better: whether higher scores are better.

    Returns:
        The verdict, and its reason.
        reproduced: the interval of level 2 `level` - 1 (90 % for 95 %) lies within the margin at every number of
            labels. All one-sided tests reject together, so no correction is needed.
        stronger, weaker, stronger and weaker: at some number of labels the true gap exceeds the margin, with Holm's
            correction over all of them.
        inconclusive: neither; the reason says how many runs of ours would probably decide.
    """
    if any(math.isnan(gap.standard_error) for gap in gaps):
        return INCONCLUSIVE, f"it takes {MIN_RUNS} runs of ours that differ; there {is_or_are(gaps[0].num_runs)}"
    assumption = "; assumes equal spread, none is published" if gaps[0].other_std is None else ""
    if gaps[0].num_other_runs is None:
        assumption += "; the paper's number of runs, which is not published, is taken as 1"
    adjusted_R = holm(np.array([gap.p_beyond(margin) for gap in gaps]))
    beyond = [gap for gap, p in zip(gaps, adjusted_R, strict=True) if p <= 1 - level]
    if beyond:
        better = {(gap.value > 0) == higher_is_better for gap in beyond}
        verdict = STRONGER_AND_WEAKER if len(better) > 1 else STRONGER if better == {True} else WEAKER
        furthest = max(beyond, key=lambda gap: abs(gap.value))
        others = f" and at {plural(len(beyond) - 1, 'other number')} of labels" if len(beyond) > 1 else ""
        at = f"{furthest.value:+.3g} at {furthest.num_labelled:,.0f} labels{others}"
        return verdict, f"beyond ± {margin:g}: {at}{assumption}"
    intervals = [gap.interval(2 * level - 1) for gap in gaps]
    reach = max(max(-interval.low, interval.high) for interval in intervals)
    if reach <= margin:
        return REPRODUCED, f"within ± {reach:.2g} at every number of labels{assumption}"
    forecast = describe_forecast(gaps, margin, level)
    return INCONCLUSIVE, f"known to ± {reach:.2g}, the margin is ± {margin:g}: {forecast}{assumption}"


def is_or_are(number: int) -> str:
    """Returns a number with its verb: `is 1`, `are 2`."""
    return f"{'is' if number == 1 else 'are'} {number}"


def describe_forecast(gaps: Sequence[Gap], margin: float, level: float) -> str:
    """Says how many runs of ours would probably decide if gaps and spreads stay as they are."""
    num_runs = runs_to_decide(gaps, margin, level)
    if num_runs is not None:
        return f"about {num_runs} runs of ours would decide"
    return f"more runs of ours cannot decide: the paper has {plural(gaps[0].num_other_runs or 1, 'run')}"


def runs_to_decide(gaps: Sequence[Gap], margin: float, level: float) -> int | None:
    """Returns the fewest runs of ours that decide with probability FORECAST_POWER if gaps and spreads stay as they are.

    It is None where MAX_FORECAST_RUNS are too few.
    """
    miss = (1 - FORECAST_POWER) / 2  # to either side
    for num_runs in range(max(MIN_RUNS, gaps[0].num_runs + 1), MAX_FORECAST_RUNS + 1):
        later = [replace(gap, num_runs=num_runs) for gap in gaps]
        agree = all(abs(gap.value) + gap.half_width(1 - level) + gap.half_width(miss) <= margin for gap in later)
        tail = (1 - level) / 2 / len(gaps)
        if agree or any(abs(gap.value) - gap.half_width(tail) - gap.half_width(miss) >= margin for gap in later):
            return num_runs
    return None
