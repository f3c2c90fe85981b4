"""Whether records of two devices may stand in one table: the same cells, run on both, must score the same on average.

A device is a fixed factor, not a random sample: it changes means by an amount that the two runs of each seed measure.
Records may be mixed where this change lies within the metric's margin, by two one-sided tests as in `equivalence`, for
the scores of every strategy and for the differences between strategies. Shapes: N initial sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis import comparisons, stats
from benchmark.analysis.curves import Experiment, Floats
from benchmark.analysis.equivalence import INCONCLUSIVE, REPRODUCED, Gap, judge, runs_to_decide
from benchmark.analysis.load_experiments import check_agreement
from benchmark.analysis.savings import Price
from benchmark.analysis.stats import MIN_RUNS, Interval
from benchmark.contract.metrics import Metric
from benchmark.text.words import plural

MIXABLE, NOT_MIXABLE, UNDECIDED = "may be mixed", "may not be mixed", "undecided"


@dataclass(frozen=True)
class DeviceGap:
    """What the second device changes in a strategy's mean score, or in its difference from another strategy."""

    strategy: str
    against: str  # the other strategy; empty for the scores themselves
    area_gap: Gap  # in the mean score over the rounds
    final_gap: Gap  # in the score of the last round that both have

    @property
    def name(self) -> str:
        """The row's name: `margin`, or `margin minus random`."""
        return self.strategy + f" minus {self.against}" * bool(self.against)

    @property
    def gaps(self) -> tuple[Gap, Gap]:
        """The gaps of both measures."""
        return self.area_gap, self.final_gap


@dataclass(frozen=True)
class DeviceVerdict:
    """The verdict on whether two devices give the same results in one experiment."""

    experiment: str
    metric: Metric
    devices: tuple[str, str]
    rows: list[DeviceGap]
    level: float

    @property
    def verdict(self) -> str:
        """The verdict over all rows and both measures: MIXABLE, NOT_MIXABLE or UNDECIDED."""
        return judge_gaps([gap for row in self.rows for gap in row.gaps], self.metric, self.level)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence, for readers who are no statisticians."""
        both = f"records of {' and '.join(self.devices)}"
        if self.verdict == UNDECIDED:
            return f"{self.experiment}: whether {both} may be mixed is undecided: {self.reason}"
        return f"{self.experiment}: {both} {self.verdict}: {self.reason}"

    @property
    def reason(self) -> str:
        """The numbers that the verdict rests on."""
        gaps, margin = [gap for row in self.rows for gap in row.gaps], require_margin(self.metric)
        num_sets = plural(min(gap.num_runs for gap in gaps), "initial set")
        if not nonzero_gaps(gaps):
            return f"all scores are the same, {num_sets}"
        if self.verdict == NOT_MIXABLE:
            changes = ((gap.value, row.name) for row in self.rows for gap in row.gaps)
            value, name = max(changes, key=lambda change: abs(change[0]))
            return f"the second changes {name} by {value:+.3g}, and the margin is ± {margin:g}; {num_sets}"
        if any(math.isnan(gap.standard_error) for gap in nonzero_gaps(gaps)):
            return f"it takes {MIN_RUNS} initial sets that do not all change by the same amount; {num_sets}"
        limit = f"by {100 * (2 * self.level - 1):g} % intervals no mean changes by more than"
        within = f"{limit} {interval_reach(gaps, self.level):.2g}, and the margin is ± {margin:g}; {num_sets}"
        if self.verdict == MIXABLE:
            return within
        needed = runs_to_decide(nonzero_gaps(gaps), margin, self.level)
        return f"{within}, about {needed} would decide" if needed else f"{within}; more would hardly decide"


def nonzero_gaps(gaps: Sequence[Gap]) -> list[Gap]:
    """Returns the gaps that are not exactly zero in every set."""
    return [gap for gap in gaps if gap.value or gap.std]


def judge_gaps(gaps: Sequence[Gap], metric: Metric, level: float) -> str:
    """Judges gaps together: MIXABLE, NOT_MIXABLE or UNDECIDED."""
    nonzero = nonzero_gaps(gaps)
    verdict = judge(nonzero, require_margin(metric), level)[0] if nonzero else REPRODUCED
    return {REPRODUCED: MIXABLE, INCONCLUSIVE: UNDECIDED}.get(verdict, NOT_MIXABLE)


def require_margin(metric: Metric) -> float:
    """Returns the margin of a metric that has one: the largest difference of two equivalent scores."""
    assert metric.margin is not None
    return metric.margin


def interval_reach(gaps: Sequence[Gap], level: float) -> float:
    """Returns the largest distance from zero of the ends of the equivalence intervals."""
    intervals = [equivalence_interval(gap, level) for gap in nonzero_gaps(gaps)]
    return max((end for interval in intervals for end in (-interval.low, interval.high)), default=0.0)


def equivalence_interval(gap: Gap, level: float) -> Interval:
    """Returns the interval of a one-sided test at `level`: 90 % for 0.95.

    Its ends are NaN where too few sets differ."""
    if math.isnan(gap.standard_error):
        return Interval(gap.value, math.nan, math.nan)
    return gap.interval(2 * level - 1)


def compare_devices(first: Experiment, second: Experiment, against: str, price: Price, level: float) -> DeviceVerdict:
    """Judges what the device of the second experiment changes.

    Args:
        first: an experiment on one device.
        second: the same experiment, run on another device.
        against: the strategy that others are compared with.
        price: the cost that areas are over where rounds cost unequally.
        level: the confidence level; with 0.95 at most one verdict of 20 is wrong.

    Raises:
        ValueError: the two are not the same cells on two devices, or the metric has no margin.
        MixedRecordsError: they were made with other versions, parameters or data.
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
    """Returns the device that an experiment ran on.

    Raises:
        ValueError: it ran on several devices, or none is recorded.
    """
    devices = sorted({row.device for run in experiment.runs for row in run.measurements})
    if len(devices) != 1:
        names = " and on ".join(devices) or "no device that is recorded"
        where = experiment.runs[0].folder if experiment.runs else experiment.source
        raise ValueError(f"{where}: {experiment.title} ran on {names}: give a folder for each device")
    return devices[0]


def device_gaps(first: Experiment, second: Experiment, against: str, price: Price) -> Iterator[DeviceGap]:
    """Yields a row for each strategy that both devices have, and one for its difference from `against`."""
    changes = {name: device_changes(first, second, name, price) for name in first.curves if name in second.curves}
    changes = {name: by_seed for name, by_seed in changes.items() if by_seed}
    for other in dict.fromkeys(("", against)):
        for name, by_seed in changes.items():
            base = changes.get(other, {})
            seeds = [seed for seed in by_seed if not other or seed in base]
            if name != other and seeds and (not other or base):
                both_N2 = np.array([by_seed[seed] - base[seed] if other else by_seed[seed] for seed in seeds])
                yield DeviceGap(name, other, paired_gap(both_N2[:, 0]), paired_gap(both_N2[:, 1]))


def device_changes(first: Experiment, second: Experiment, strategy: str, price: Price) -> dict[int, Floats]:
    """Returns by seed what the second device changes in a strategy's area and in its final score.

    It is empty where no seed has finished on both devices."""
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
    """Returns the mean of paired differences as a gap from zero; the other side has no spread of its own."""
    std = float(values_N.std(ddof=1)) if len(values_N) > 1 else math.nan
    return Gap(math.nan, float(values_N.mean()), len(values_N), std, len(values_N), 0.0)
