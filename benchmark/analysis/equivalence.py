"""Whether two sets of runs agree: equivalence within a margin, by two one-sided tests at every number of labels.

That a difference is not significant says nothing of agreement: few runs never find one. Here more runs agree more often
where the truth lies within the margin, and no more often than in one case of twenty where it lies at it
(Schuirmann, 1987; Lakens, 2017). Shapes: R numbers of labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from benchmark.analysis.stats import MIN_RUNS, Interval, holm
from benchmark.text.words import plural

MAX_FORECAST_RUNS = 200  # of ours that a forecast considers
FORECAST_POWER = 0.8  # with which the runs of a forecast decide
REPRODUCED, STRONGER, WEAKER = "reproduced", "stronger", "weaker"
STRONGER_AND_WEAKER, INCONCLUSIVE = "stronger and weaker", "inconclusive"


@dataclass(frozen=True)
class Gap:
    """Our mean minus the published one at one number of labels."""

    num_labelled: float
    value: float
    num_runs: int  # of ours
    std: float  # of ours, NaN with one run
    num_other_runs: int
    other_std: float | None  # None: not published, and assumed to be as large as ours

    @property
    def standard_error(self) -> float:
        """Standard error of `value`; NaN where our runs are too few, or nothing is known to differ."""
        theirs = self.std if self.other_std is None else self.other_std
        error = math.sqrt(self.std**2 / self.num_runs + theirs**2 / self.num_other_runs)
        return error if self.num_runs >= MIN_RUNS and error else math.nan

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of `error`: Welch's and Satterthwaite's, or those of our runs where the spread is ours."""
        if self.other_std is None or self.num_other_runs < 2:
            return self.num_runs - 1
        own, theirs = self.std**2 / self.num_runs, self.other_std**2 / self.num_other_runs
        return (own + theirs) ** 2 / (own**2 / (self.num_runs - 1) + theirs**2 / (self.num_other_runs - 1))

    def half_width(self, tail: float) -> float:
        """How far the interval reaches whose upper tail has this probability."""
        return -float(special.stdtrit(self.degrees_of_freedom, tail)) * self.standard_error

    def interval(self, level: float) -> Interval:
        """The interval that holds the true gap in `level` of all cases."""
        half = self.half_width((1 - level) / 2)
        return Interval(self.value, self.value - half, self.value + half)

    def p_beyond(self, margin: float) -> float:
        """The two-sided p-value of "the true gap is at most `margin`, or on the other side of zero"."""
        tail = float(special.stdtr(self.degrees_of_freedom, (margin - abs(self.value)) / self.standard_error))
        return 1.0 if math.isnan(tail) else min(1.0, 2 * tail)


def judge(gaps: Sequence[Gap], margin: float, level: float, higher_is_better: bool = True) -> tuple[str, str]:
    """The verdict on what was measured at every number of labels, and why.

    Args:
        gaps: one a number of labels, at least one.
        margin: how far apart two scores may be and still agree, in the score's unit.
        level: 0.95: of 20 verdicts at most one is wrong.
        higher_is_better: of the score.

    Returns:
        reproduced: the interval of level 2 `level` - 1 (90 % for 95 %) lies within the margin at every number of
            labels: all one-sided tests reject together, so that no correction is needed.
        stronger, weaker, stronger and weaker: at some number of labels the true gap is beyond the margin, by Holm's
            correction over all of them.
        inconclusive: neither; `why` tells how many runs of ours would probably decide.
    """
    if any(math.isnan(gap.standard_error) for gap in gaps):
        return INCONCLUSIVE, f"it takes {MIN_RUNS} runs of ours that differ, there {is_or_are(gaps[0].num_runs)}"
    assumed = "; assumes equal spread, none is published" if gaps[0].other_std is None else ""
    adjusted_R = holm(np.array([gap.p_beyond(margin) for gap in gaps]))
    beyond = [gap for gap, p in zip(gaps, adjusted_R, strict=True) if p <= 1 - level]
    if beyond:
        better = {(gap.value > 0) == higher_is_better for gap in beyond}
        words = STRONGER_AND_WEAKER if len(better) > 1 else STRONGER if better == {True} else WEAKER
        furthest = max(beyond, key=lambda gap: abs(gap.value))
        many = f" and at {plural(len(beyond) - 1, 'other number')} of labels" if len(beyond) > 1 else ""
        at = f"{furthest.value:+.3g} at {furthest.num_labelled:,.0f} labels{many}"
        return words, f"beyond ± {margin:g}: {at}{assumed}"
    intervals = [gap.interval(2 * level - 1) for gap in gaps]
    reach = max(max(-one.low, one.high) for one in intervals)
    if reach <= margin:
        return REPRODUCED, f"within ± {reach:.2g} at every number of labels{assumed}"
    return (
        INCONCLUSIVE,
        f"known to ± {reach:.2g}, the margin is ± {margin:g}: {describe_forecast(gaps, margin, level)}{assumed}",
    )


def is_or_are(number: int) -> str:
    """`is 1`, `are 2`."""
    return f"{'is' if number == 1 else 'are'} {number}"


def describe_forecast(gaps: Sequence[Gap], margin: float, level: float) -> str:
    """How many runs of ours would probably decide, if gaps and spreads are what they seem."""
    num_runs = runs_to_decide(gaps, margin, level)
    if num_runs is not None:
        return f"about {num_runs} runs of ours would decide"
    return f"more runs of ours alone cannot decide, theirs {is_or_are(gaps[0].num_other_runs)}"


def runs_to_decide(gaps: Sequence[Gap], margin: float, level: float) -> int | None:
    """The fewest runs of ours that decide with probability POWER if gaps and spreads are what they seem; None where
    MOST_RUNS do not."""
    miss = (1 - FORECAST_POWER) / 2  # to either side
    for num_runs in range(max(MIN_RUNS, gaps[0].num_runs + 1), MAX_FORECAST_RUNS + 1):
        later = [replace(gap, num_runs=num_runs) for gap in gaps]
        agree = all(abs(gap.value) + gap.half_width(1 - level) + gap.half_width(miss) <= margin for gap in later)
        tail = (1 - level) / 2 / len(gaps)
        if agree or any(abs(gap.value) - gap.half_width(tail) - gap.half_width(miss) >= margin for gap in later):
            return num_runs
    return None
