"""How much annotation a strategy saves: the costs at which two strategies reach the same score.

Learning curves are averaged over runs first; see `annotation_cost` for the cost of a score.
Shapes: S runs, R rounds, M replicates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from benchmark.analysis import stats
from benchmark.analysis.annotation_cost import StrategyRuns, crossing_cost, rounding_offsets
from benchmark.analysis.curves import (
    SCALE_MISMATCH,
    Curve,
    Experiment,
    Floats,
    best_score,
    mean_over_runs,
    scales_differ,
)
from benchmark.analysis.stats import MIN_PAIRS, Interval, bootstrap_weights, pair_runs, percentile_interval
from benchmark.experiment.schedule import parse_band
from benchmark.seeds import seed
from benchmark.text.words import plural

REPLICATES = 4_000
MIN_PRECISE_ROUNDS = 6  # with fewer rounds, interpolated costs are marked as rough: see docs/statistics.md
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class TargetRule:
    """The rule that sets the score at which two strategies are compared.

    Args:
        kind: `final`: the smaller of both scores in the last round, which both strategies reach. (The other strategy's
            final score would be reached by an equally good one in half of all cases only: those that favour it.)
            `value`: the score `low`. `band`: each run pays for its first round that scores `low` or more, as schedules
            with `until` end; the scores of those rounds may differ. `curve`: every score of the other, round by round.
        low: the target score, or the lower end of the band.
        high: the upper end of the band.
    """

    kind: str
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def read(cls, text: str) -> TargetRule:
        """Reads `final`, `curve`, `0.42` or `band:0.217,0.223`.

        Raises:
            ValueError: the text is none of these.
        """
        if text in ("final", "curve"):
            return cls(text)
        match = re.fullmatch(r"(?:band:([^,]+),)?([^,]+)", text)
        try:
            low, high = (float(match[1] or match[2]), float(match[2])) if match else (math.nan, math.nan)
        except ValueError:
            low = high = math.nan
        if not (math.isfinite(low) and low <= high < math.inf):
            raise ValueError(f"at={text}: use final, curve, a score, or band:LOW,HIGH")
        return cls("value" if match and match[1] is None else "band", low, high)

    def __str__(self) -> str:
        return {"value": f"{self.low:g}", "band": f"band:{self.low:g},{self.high:g}"}.get(self.kind, self.kind)


@dataclass(frozen=True)
class Price:
    """The unit in which annotation is paid: images, boxes, or seconds per image and per box.

    Args:
        kind: `images`, `boxes` or `time`.
        per_image: seconds per image; used by `time`.
        per_box: seconds per box; used by `time`.
    """

    kind: str
    per_image: float = 0.0
    per_box: float = 0.0

    @property
    def unit(self) -> str:
        """The unit of costs: images, boxes or seconds."""
        return "seconds" if self.kind == "time" else self.kind

    def cumulative_cost(self, curve: Curve) -> Floats:
        """(S, R): what each run has paid up to each round.

        Raises:
            ValueError: the curve does not count this kind of label.
        """
        if self.kind in curve.cost:
            return curve.cost[self.kind]
        if self.kind != "time":
            raise ValueError(f"cost={self.kind}: {curve.strategy} counts no {self.kind}, only {', '.join(curve.cost)}")
        boxes = curve.cost.get("boxes", np.zeros_like(curve.cost["images"]))
        return self.per_image * curve.cost["images"] + self.per_box * boxes


@dataclass(frozen=True)
class Saving:
    """What `strategy` saves compared with `against`, in the unit of the price and in per cent of the other's cost.

    Positive: cheaper. NaN: the target is not reached. The ends of an interval are NaN where there are too few runs for
    one, and infinite where the data set no bound.
    """

    experiment: str
    task: str  # of recorded runs: the title of their experiment
    source: str
    strategy: str
    against: str
    rule: TargetRule
    price: Price
    target: float  # the score at which both are compared; of a band, its lower end
    strategy_cost: float  # at which `strategy` reaches the target
    against_cost: float  # at which `against` reaches the target
    amount: Interval
    percent: Interval
    num_pairs: int  # of runs; 0: published means
    areas: tuple[float, float]  # under the two mean curves: see `stats.normalized_area`
    start_costs: tuple[float, float]  # what each strategy has paid in round 0
    total_costs: tuple[float, float]  # all that each strategy has paid: the end of its curve
    num_rounds: int  # that every run has
    num_reached: tuple[int, int] | None = None  # runs of each strategy that reached the band; None: another rule

    @property
    def is_reached(self) -> bool:
        """Whether both strategies reach the target."""
        return math.isfinite(self.strategy_cost) and math.isfinite(self.against_cost)

    @property
    def unit(self) -> str:
        """The unit of the costs: images, boxes or seconds."""
        return self.price.unit

    @property
    def note(self) -> str:
        """The caveats of the saving, in one line; "" if there are none."""
        costs = zip(
            (self.strategy, self.against), (self.strategy_cost, self.against_cost), self.start_costs, strict=True
        )
        early = [name for name, cost, start in costs if cost <= start]
        early_note = f"already in round 0: {', '.join(early)}" if early and self.is_reached else ""
        notes = [early_note, *self.censoring_notes, self.few_seeds_note, self.few_rounds_note]
        return self.not_reached_note or "; ".join(filter(None, notes))

    @property
    def few_seeds_note(self) -> str:
        """What few seeds do to the interval; "" where there are enough."""
        if self.num_pairs == 1:
            return "one seed: no interval"
        if 1 < self.num_pairs < MIN_PAIRS:
            effect = "no interval" if self.rule.kind == "band" else "where curves are flat the interval is too narrow"
            return f"{self.num_pairs} seeds: {effect}"
        return ""

    @property
    def few_rounds_note(self) -> str:
        """What few rounds do to an interpolated cost; "" where there are enough, and for a band."""
        if self.rule.kind == "band" or self.num_rounds >= MIN_PRECISE_ROUNDS:
            return ""
        return f"{plural(self.num_rounds, 'round')}: prices are linear between them, so what is saved is rough"

    @property
    def censoring_notes(self) -> list[str]:
        """For each strategy with runs that ended before the band: how many of its runs reach it.

        Runs that ended earlier count with all that they paid.
        """
        counts = zip((self.strategy, self.against), self.num_reached or (), strict=False)
        return [f"{name}: {num} of {self.num_pairs} runs reach it" for name, num in counts if num < self.num_pairs]

    @property
    def not_reached_note(self) -> str:
        """Which strategy does not reach the target; "" if both do."""
        sides = zip(
            (self.strategy, self.against), (self.strategy_cost, self.against_cost), self.total_costs, strict=True
        )
        late = [
            f"{name} has not reached it within {total:,.0f} {self.unit}"
            for name, cost, total in sides
            if not math.isfinite(cost)
        ]
        return "not reached: " + "; ".join(late) if late else ""


def default_rule(experiment: Experiment) -> TargetRule:
    """The rule of an experiment: the band in which its runs end, or else the final score.

    Raises:
        ValueError: the runs end by another metric than the one that is compared.
    """
    if experiment.schedule is None or not experiment.schedule.until:
        return TargetRule("final")
    metric, value, width = parse_band(experiment.schedule.until)
    if metric != experiment.metric.name:
        raise ValueError(f"{experiment.title} ends by {metric}, and is compared by {experiment.metric}")
    return TargetRule("band", float(value - width), float(value + width))


def bootstrap_generator(experiment: Experiment, strategy: str, against: str, base_seed: int) -> Generator:
    """The random generator of a saving's bootstrap, seeded by names, so that every command gives the same interval."""
    return np.random.default_rng(seed("savings", experiment.title, strategy, against, base_seed))


def compute_savings(
    experiment: Experiment,
    strategy: str,
    against: str,
    rule: TargetRule,
    price: Price,
    rng: Generator,
    level: float = 0.95,
) -> list[Saving]:
    """Computes what a strategy saves compared with another, over paired runs.

    Args:
        experiment: with the curves of both.
        strategy: the label of the strategy that saves.
        against: the label of the strategy that it is compared with.
        rule: which score both must reach.
        price: what is paid.
        rng: of the bootstrap.
        level: of the intervals.

    Returns:
        One saving; for the rule `curve`, one per round of `against`.

    Raises:
        ValueError: the two cannot be compared.
    """
    first, second = experiment.get_curve(strategy), experiment.get_curve(against)
    if first.seeds and second.seeds:
        pairs = pair_runs(first, second)
        rows = (pairs.first_rows, pairs.second_rows)
    elif first.seeds or second.seeds:
        raise ValueError(f"{strategy} and {against} do not pair: for one of them only the mean is known")
    else:
        rows = ([0], [0])
    check_comparable(experiment, first, second, rule, price)
    weights_MS = bootstrap_weights(len(rows[0]), REPLICATES, rng)
    sign = experiment.metric.sign  # makes higher better, so that every curve reaches its target from below
    sides = [
        StrategyRuns(price.cumulative_cost(curve)[kept_rows], sign * curve.value_SR[kept_rows])
        for curve, kept_rows in zip((first, second), rows, strict=True)
    ]
    areas = (mean_curve_area(experiment, first, rows[0]), mean_curve_area(experiment, second, rows[1]))
    blank = Saving(
        experiment.title, experiment.title if experiment.runs else experiment.task, experiment.source, strategy,
        against, rule, price, math.nan, math.nan, math.nan, UNKNOWN, UNKNOWN, len(rows[0]) if first.seeds else 0, areas,
        (sides[0].start_cost, sides[1].start_cost), (sides[0].total_cost, sides[1].total_cost),
        int((sides[0].complete_rounds_R & sides[1].complete_rounds_R).sum()),
    )  # fmt: skip
    if rule.kind == "band":
        return [band_saving(blank, sides, weights_MS, level)]
    (cost_MR, score_MR), (against_cost_MR, against_score_MR) = (side.replicate_means(weights_MS) for side in sides)
    savings = []
    for target_M in target_scores(rule, score_MR, against_score_MR, sign):
        cost_M = crossing_cost(cost_MR, score_MR, target_M)
        against_cost_M = crossing_cost(against_cost_MR, against_score_MR, target_M)
        savings.append(fill_saving(blank, cost_M, against_cost_M, sign * float(target_M[0]), level))
    return savings


def band_saving(blank: Saving, sides: Sequence[StrategyRuns], weights_MS: Floats, level: float) -> Saving:
    """The saving of a band: each run pays the cost of its first round in the band.

    Runs that never reach the band count with all that they paid (restricted mean). The costs are whole rounds, so a few
    runs may agree by chance: the spread is taken to be at least that of rounding to a round. Fewer than MIN_PAIRS runs
    have no interval.
    """
    (cost_S, hit_S), (against_cost_S, against_hit_S) = (side.cost_to_reach(blank.rule.low) for side in sides)
    if not (hit_S.any() and against_hit_S.any()):
        cost_M, against_cost_M = (
            np.array([costs.mean() if hits.any() else np.inf])
            for costs, hits in ((cost_S, hit_S), (against_cost_S, against_hit_S))
        )
        return fill_saving(blank, cost_M, against_cost_M, blank.rule.low, level)
    weights_MS = weights_MS if len(cost_S) >= MIN_PAIRS else weights_MS[:1]
    rounding_std = max(side.round_cost for side in sides) / math.sqrt(12)
    offsets_S = rounding_offsets(rounding_std, cost_S - against_cost_S)
    counted = replace(blank, num_reached=(int(hit_S.sum()), int(against_hit_S.sum())))
    return fill_saving(
        counted, weights_MS @ (cost_S + offsets_S), weights_MS @ against_cost_S, blank.rule.low, level
    )  # fmt: skip


def check_comparable(experiment: Experiment, first: Curve, second: Curve, rule: TargetRule, price: Price) -> None:
    """Raises ValueError where a rule or a price does not apply to these curves."""
    if scales_differ(best_score([first]), best_score([second])):
        raise ValueError(f"{first.strategy} and {second.strategy} cannot be compared: {SCALE_MISMATCH}")
    if rule.kind == "band" and not experiment.metric.higher_is_better:
        raise ValueError(f"at=band:LOW,HIGH takes a metric where more is better: of {experiment.metric} less is better")
    if experiment.schedule is not None and experiment.schedule.until and rule.kind != "band":
        until = experiment.schedule.until
        raise ValueError(f"runs of {experiment.title} end by score ({until}): compare them at=band:LOW,HIGH")
    if price.kind == "time" and ("boxes" in first.cost) != ("boxes" in second.cost):
        raise ValueError(f"cost=time: only one of {first.strategy} and {second.strategy} counts boxes")


def mean_curve_area(experiment: Experiment, curve: Curve, rows: Sequence[int]) -> float:
    """The area under the mean curve of these runs."""
    return stats.normalized_area(np.array(experiment.rounds, np.float64), mean_over_runs(curve.value_SR[rows]))


def target_scores(rule: TargetRule, strategy_MR: Floats, against_MR: Floats, sign: int) -> list[Floats]:
    """The target scores of a rule, each (M,), from replicates of both strategies' scores.

    Scores are multiplied by `sign`, which is -1 where lower is better.
    """
    if rule.kind == "value":
        return [np.full(len(against_MR), sign * rule.low)]
    if rule.kind == "final":
        return [np.minimum(strategy_MR[:, -1], against_MR[:, -1])]
    return list(against_MR.T)


def fill_saving(blank: Saving, strategy_cost_M: Floats, against_cost_M: Floats, target: float, level: float) -> Saving:
    """Completes a saving from replicates of both costs; the first replicate is the estimate.

    A target that is never reached has an infinite cost; if neither reaches it, the saving is unknown.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        strategy_cost_M, against_cost_M = (
            np.where(np.isfinite(cost_M), cost_M.clip(start_cost), np.inf)  # nobody pays less than for round 0
            for cost_M, start_cost in zip((strategy_cost_M, against_cost_M), blank.start_costs, strict=True)
        )
        amount_M = against_cost_M - strategy_cost_M
        percent_M = 100 * np.where(
            np.isposinf(against_cost_M), np.where(np.isposinf(strategy_cost_M), np.nan, 100), amount_M / against_cost_M
        )
    amount, percent = percentile_interval(amount_M, level), percentile_interval(percent_M, level)
    if not (math.isfinite(strategy_cost_M[0]) and math.isfinite(against_cost_M[0])):
        amount = percent = UNKNOWN
    return replace(
        blank, target=target, strategy_cost=float(strategy_cost_M[0]), against_cost=float(against_cost_M[0]),
        amount=amount, percent=percent,
    )  # fmt: skip


def strategy_pairs(
    experiments: Sequence[Experiment], strategies: Sequence[str], against: Sequence[str]
) -> list[tuple[Experiment, str, str]]:
    """All pairs of strategies in each experiment that has runs of both.

    Args:
        experiments: where to look.
        strategies: the first of each pair; all strategies if empty.
        against: the second of each pair; all strategies if empty.

    Raises:
        ValueError: no experiment has one of them.
    """
    for name in (*strategies, *against):
        if not any(name in experiment.curves for experiment in experiments):
            experiments[0].get_curve(name)
    return [
        (experiment, first, second)
        for experiment in experiments
        for first in strategies or experiment.curves
        for second in against or experiment.curves
        if first != second and {first, second} <= experiment.curves.keys()
        if experiment.curves[first].num_runs and experiment.curves[second].num_runs
    ]


def tidy_row(saving: Saving) -> dict[str, object]:
    """A saving as a row of numbers in the unit of the price; None where a value is missing or not bounded."""
    first_reached, second_reached = saving.num_reached or (None, None)
    return {
        "experiment": saving.experiment, "task": saving.task, "source": saving.source, "strategy": saving.strategy,
        "against": saving.against, "at": str(saving.rule), "cost": saving.price.kind, "unit": saving.unit,
        "seconds_per_image": saving.price.per_image, "seconds_per_box": saving.price.per_box,
        "target": finite_or_none(saving.target), "paid": finite_or_none(saving.strategy_cost),
        "other": finite_or_none(saving.against_cost), "saved": finite_or_none(saving.amount.value),
        "low": finite_or_none(saving.amount.low), "high": finite_or_none(saving.amount.high),
        "percent": finite_or_none(saving.percent.value), "percent_low": finite_or_none(saving.percent.low),
        "percent_high": finite_or_none(saving.percent.high), "pairs": saving.num_pairs,
        "area": finite_or_none(saving.areas[0]), "against_area": finite_or_none(saving.areas[1]),
        "reached": saving.is_reached, "num_reached": first_reached, "against_num_reached": second_reached,
        "note": saving.note,
    }  # fmt: skip


def finite_or_none(value: float) -> float | None:
    """The number if it is finite, else None."""
    return value if math.isfinite(value) else None
