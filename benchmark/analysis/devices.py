"""Whether records of two devices may stand in one table: the same cells, run on both, must score the same on average.

A device is no draw from many but this one or that: what it changes is a mean, which each seed's two runs tell. Records
may be mixed where that mean lies within the metric's margin, by two one-sided tests as in `equivalence`, for the scores
of every strategy and for the differences between strategies. Shapes: N initial sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis import comparisons, stats
from benchmark.analysis.curves import Experiment, Floats
from benchmark.analysis.equivalence import INCONCLUSIVE, REPRODUCED, Gap, judge, runs_to_decide
from benchmark.analysis.reading import check_agreement
from benchmark.analysis.savings import Price
from benchmark.analysis.stats import MIN_RUNS, Interval
from benchmark.contract.metrics import Metric
from benchmark.text.words import plural

MIXABLE, NOT_MIXABLE, UNDECIDED = "may be mixed", "may not be mixed", "undecided"


@dataclass(frozen=True)
class DeviceGap:
    """What the second device changes in a strategy's mean score, or in its difference from another's."""

    strategy: str
    against: str  # the other; "" for the scores themselves
    area_gap: Gap  # of the mean score on the way
    final_gap: Gap  # of the last score that both have

    @property
    def name(self) -> str:
        """`margin`, `margin minus random`."""
        return self.strategy + f" minus {self.against}" * bool(self.against)

    @property
    def gaps(self) -> tuple[Gap, Gap]:
        """Both measures."""
        return self.area_gap, self.final_gap


@dataclass(frozen=True)
class DeviceVerdict:
    """The answer on one experiment."""

    experiment: str
    metric: Metric
    devices: tuple[str, str]
    rows: list[DeviceGap]
    level: float

    @property
    def verdict(self) -> str:
        """Over everything that was compared: MIXED, APART or UNDECIDED."""
        return judge_gaps([gap for row in self.rows for gap in row.gaps], self.metric, self.level)

    @property
    def sentence(self) -> str:
        """The answer for people who are no statisticians."""
        both = f"records of {' and '.join(self.devices)}"
        if self.verdict == UNDECIDED:
            return f"{self.experiment}: whether {both} may be mixed is undecided: {self.reason}"
        return f"{self.experiment}: {both} {self.verdict}: {self.reason}"

    @property
    def reason(self) -> str:
        """What the verdict rests on."""
        gaps, margin = [gap for row in self.rows for gap in row.gaps], require_margin(self.metric)
        number = plural(min(gap.num_runs for gap in gaps), "initial set")
        if not nonzero_gaps(gaps):
            return f"all scores are the same, {number}"
        if self.verdict == NOT_MIXABLE:
            value, name = max(((gap.value, row.name) for row in self.rows for gap in row.gaps), key=lambda p: abs(p[0]))
            return f"the second changes {name} by {value:+.3g}, and the margin is ± {margin:g}; {number}"
        if any(math.isnan(gap.standard_error) for gap in nonzero_gaps(gaps)):
            return f"it takes {MIN_RUNS} initial sets that do not all change by the same; {number}"
        inner = f"by {100 * (2 * self.level - 1):g} % intervals no mean changes by more than"
        told = f"{inner} {interval_reach(gaps, self.level):.2g}, and the margin is ± {margin:g}; {number}"
        if self.verdict == MIXABLE:
            return told
        wanted = runs_to_decide(nonzero_gaps(gaps), margin, self.level)
        return f"{told}, about {wanted} would decide" if wanted else f"{told}; more would hardly decide"


def nonzero_gaps(gaps: Sequence[Gap]) -> list[Gap]:
    """The gaps that are not known to be none: there some set's two runs differ."""
    return [gap for gap in gaps if gap.value or gap.std]


def judge_gaps(gaps: Sequence[Gap], metric: Metric, level: float) -> str:
    """MIXED, APART or UNDECIDED of gaps that are judged together."""
    differing = nonzero_gaps(gaps)
    word = judge(differing, require_margin(metric), level)[0] if differing else REPRODUCED
    return {REPRODUCED: MIXABLE, INCONCLUSIVE: UNDECIDED}.get(word, NOT_MIXABLE)


def require_margin(metric: Metric) -> float:
    """How far apart two scores of it may be and still agree; there is no verdict on a metric that does not say so."""
    assert metric.margin is not None
    return metric.margin


def interval_reach(gaps: Sequence[Gap], level: float) -> float:
    """How far from zero the intervals of twice the tail go."""
    ends = [equivalence_interval(gap, level) for gap in nonzero_gaps(gaps)]
    return max((end for one in ends for end in (-one.low, one.high)), default=0.0)


def equivalence_interval(gap: Gap, level: float) -> Interval:
    """The interval of twice the tail of `level`: 90 % for 0.95; without ends where too few sets differ."""
    if math.isnan(gap.standard_error):
        return Interval(gap.value, math.nan, math.nan)
    return gap.interval(2 * level - 1)


def compare_devices(first: Experiment, second: Experiment, against: str, price: Price, level: float) -> DeviceVerdict:
    """What the device of the second changes.

    Args:
        first: an experiment of one device.
        second: the same experiment, run on another.
        against: the strategy that others are compared with.
        price: what areas are over where rounds are not equally dear.
        level: 0.95: of 20 verdicts at most one is wrong.

    Raises:
        ValueError: the two are not the same cells on two devices, or the metric has no margin.
        Mixture: they were made with other versions, parameters or data.
    """
    if first.metric.margin is None:
        raise ValueError(f"{first.title}: how close two scores must be is not defined for {first.metric}")
    for name in ("task", "schedule"):
        if (own := getattr(first, name)) != (other := getattr(second, name)):
            raise ValueError(f"{first.title}: {name} {own} and {other}: not the same experiment")
    devices = find_device(first), find_device(second)
    if devices[0] == devices[1]:
        raise ValueError(f"{first.title}: both ran on {devices[0]}: there is nothing to compare")
    check_agreement(first.title, first.runs + second.runs)
    rows = list(device_gaps(first, second, against, price))
    if not rows:
        raise ValueError(f"{first.title}: no strategy has a seed that both devices finished")
    return DeviceVerdict(first.title, first.metric, devices, rows, level)


def find_device(experiment: Experiment) -> str:
    """What an experiment ran on. ValueError where that is more than one device, or none."""
    found = sorted({one.device for run in experiment.runs for one in run.measurements})
    if len(found) != 1:
        told = " and on ".join(found) or "no device that is told"
        where = experiment.runs[0].folder if experiment.runs else experiment.source
        raise ValueError(f"{where}: {experiment.title} ran on {told}: give a folder for each device")
    return found[0]


def device_gaps(first: Experiment, second: Experiment, against: str, price: Price) -> Iterator[DeviceGap]:
    """A row a strategy that both have, and one for its difference from another's."""
    changes = {name: device_changes(first, second, name, price) for name in first.curves if name in second.curves}
    changes = {name: by_seed for name, by_seed in changes.items() if by_seed}
    for other in dict.fromkeys(("", against)):
        for name, by_seed in changes.items():
            base = changes.get(other, {})
            seeds = [one for one in by_seed if not other or one in base]
            if name != other and seeds and (not other or base):
                both_N2 = np.array([by_seed[one] - base[one] if other else by_seed[one] for one in seeds])
                yield DeviceGap(name, other, paired_gap(both_N2[:, 0]), paired_gap(both_N2[:, 1]))


def device_changes(first: Experiment, second: Experiment, strategy: str, price: Price) -> dict[int, Floats]:
    """By seed what the second device changes in a strategy's area and final score; {} where no seed has both."""
    ours, theirs = second.curves[strategy], first.curves[strategy]
    if not set(ours.seeds) & set(theirs.seeds) - ours.unfinished_seeds - theirs.unfinished_seeds:
        return {}
    try:
        pairs = stats.pair_runs(ours, theirs)
    except ValueError as error:
        raise ValueError(f"{first.title}: on the two devices {error}") from None
    _, areas_2N, _ = comparisons.paired_areas(first, ours, theirs, pairs, price)
    gaps_NR = ours.value_SR[pairs.first_rows] - theirs.value_SR[pairs.second_rows]
    last = int(np.flatnonzero(np.isfinite(gaps_NR).all(0))[-1])
    both_2N = np.stack([areas_2N[0] - areas_2N[1], gaps_NR[:, last]])
    return dict(zip(pairs.seeds, both_2N.T, strict=True))


def paired_gap(values_N: Floats) -> Gap:
    """The mean of paired differences as a gap to a fixed number: all of the spread is theirs."""
    std = float(values_N.std(ddof=1)) if len(values_N) > 1 else math.nan
    return Gap(math.nan, float(values_N.mean()), len(values_N), std, len(values_N), 0.0)
