"""How much annotation a strategy saves: the cost at which it is as good as another.

Curves are piecewise linear between rounds, averaged over runs first, and made monotone by their running maximum.
Shapes: S runs, R rounds, M replicates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from benchmark.analysis import stats
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

Bools: TypeAlias = npt.NDArray[np.bool_]

REPLICATES = 4_000
MIN_PRECISE_ROUNDS = 6  # rounds below which prices that are linear between them are rough: see docs/statistics.md
TARGET_TOLERANCE = 1e-12  # of a target: a sum that rounds otherwise still reaches it


@dataclass(frozen=True)
class TargetRule:
    """At which score two strategies are compared. `kind`: final, curve, value or band.

    final: the smaller of both scores in the last round, which both reach: at the other's own, equal strategies reach it
    in half of all cases, and those favour the one that does. value: LOW. band: each at its first round that scores LOW
    or more, as schedules with `until` end: those rounds may score differently. curve: every score of the other, round
    by round.
    """

    kind: str
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def read(cls, text: str) -> TargetRule:
        """`final`, `curve`, `0.42` or `band:0.217,0.223`; ValueError otherwise."""
        if text in ("final", "curve"):
            return cls(text)
        match = re.fullmatch(r"(?:band:([^,]+),)?([^,]+)", text)
        try:
            low, high = (float(one) for one in (match[1] or match[2], match[2])) if match else (math.nan, math.nan)
        except ValueError:
            low = high = math.nan
        if not (math.isfinite(low) and low <= high < math.inf):
            raise ValueError(f"at={text}: use final, curve, a score, or band:LOW,HIGH")
        return cls("value" if match and match[1] is None else "band", low, high)

    def __str__(self) -> str:
        return {"value": f"{self.low:g}", "band": f"band:{self.low:g},{self.high:g}"}.get(self.kind, self.kind)


@dataclass(frozen=True)
class Price:
    """What is counted: images or boxes, or seconds of annotation: so many an image and so many a box."""

    kind: str
    per_image: float = 0.0
    per_box: float = 0.0

    @property
    def unit(self) -> str:
        """What is counted."""
        return "seconds" if self.kind == "time" else self.kind

    def cumulative_cost(self, curve: Curve) -> Floats:
        """(S, R): the cost of a curve so far."""
        if self.kind in curve.cost:
            return curve.cost[self.kind]
        if self.kind != "time":
            raise ValueError(f"cost={self.kind}: {curve.strategy} counts no {self.kind}, only {', '.join(curve.cost)}")
        boxes = curve.cost.get("boxes", np.zeros_like(curve.cost["images"]))
        return self.per_image * curve.cost["images"] + self.per_box * boxes


@dataclass(frozen=True)
class Saving:
    """What `strategy` saves against `against`, in the cost's unit and in per cent of what the other pays.

    Positive: cheaper. NaN: not reached; the interval's ends are NaN with fewer than two runs, infinite where the data
    set no bound.
    """

    experiment: str
    task: str  # ours are called by their experiment
    source: str
    strategy: str
    against: str
    rule: TargetRule
    price: Price
    target: float  # the score at which both are compared; of a band, its lower end
    strategy_cost: float  # by `strategy`
    against_cost: float  # by `against`
    amount: Interval
    percent: Interval
    num_pairs: int  # 0: means that a paper tells
    areas: tuple[float, float]  # under the two mean curves: see stats.area
    start_costs: tuple[float, float]  # what each has paid in round 0
    total_costs: tuple[float, float]  # all that each has paid: the end of its curve
    num_rounds: int  # that every run has
    num_reached: tuple[int, int] | None = None  # runs of each that reached the band; None of other rules

    @property
    def is_reached(self) -> bool:
        """Whether both get there."""
        return math.isfinite(self.strategy_cost) and math.isfinite(self.against_cost)

    @property
    def unit(self) -> str:
        """What is counted."""
        return self.price.unit

    @property
    def note(self) -> str:
        """What a reader must know of the figure, `words` first."""
        sides = zip(
            (self.strategy, self.against), (self.strategy_cost, self.against_cost), self.start_costs, strict=True
        )
        first = [name for name, cost, begin in sides if cost <= begin]
        early = f"already in round 0: {', '.join(first)}" if first and self.is_reached else ""
        return self.not_reached_note or "; ".join(
            filter(None, [early, *self.censoring_notes, self.few_seeds_note, self.few_rounds_note])
        )

    @property
    def few_seeds_note(self) -> str:
        """What few seeds do to the interval; "" where they are enough."""
        if self.num_pairs == 1:
            return "one seed: no interval"
        if 1 < self.num_pairs < MIN_PAIRS:
            none = "no interval" if self.rule.kind == "band" else "where curves are flat the interval is too narrow"
            return f"{self.num_pairs} seeds: {none}"
        return ""

    @property
    def few_rounds_note(self) -> str:
        """What few rounds do to a price that lies between two of them; "" where they are enough or it lies in one."""
        if self.rule.kind == "band" or self.num_rounds >= MIN_PRECISE_ROUNDS:
            return ""
        return f"{plural(self.num_rounds, 'round')}: prices are linear between them, so what is saved is rough"

    @property
    def censoring_notes(self) -> list[str]:
        """Which runs ended before they reached the band; they count with all that they paid."""
        sides = zip((self.strategy, self.against), self.num_reached or (), strict=False)
        return [f"{name}: {num} of {self.num_pairs} runs reach it" for name, num in sides if num < self.num_pairs]

    @property
    def not_reached_note(self) -> str:
        """What there is to know in words where a figure does not do."""
        late = [
            f"{name} has not reached it within {end:,.0f} {self.unit}"
            for name, cost, end in zip(
                (self.strategy, self.against), (self.strategy_cost, self.against_cost), self.total_costs, strict=True
            )
            if not math.isfinite(cost)
        ]
        return "not reached: " + "; ".join(late) if late else ""


def crossing_cost(cost_MR: Floats, score_MR: Floats, target_M: Floats) -> Floats:
    """(M,): the cost at which each curve first reaches its target: linear between the running maxima of two rounds.

    Round 0's cost where that is enough already, infinite where no round is.
    """
    best_MR = np.maximum.accumulate(score_MR, axis=1)
    hit_MR = best_MR >= (target_M - TARGET_TOLERANCE * np.abs(target_M))[:, None]
    rows, at = np.arange(len(cost_MR)), hit_MR.argmax(1)
    before = np.maximum(at - 1, 0)
    rise = best_MR[rows, at] - best_MR[rows, before]
    share = np.divide(target_M - best_MR[rows, before], rise, out=np.zeros(len(rows)), where=rise > 0)
    x_M = cost_MR[rows, before] + share.clip(0, 1) * (cost_MR[rows, at] - cost_MR[rows, before])
    return np.where(hit_MR.any(1), x_M, np.inf)


def default_rule(experiment: Experiment) -> TargetRule:
    """The rule of an experiment: the band in which its runs end, or else the final score."""
    if experiment.schedule is None or not experiment.schedule.until:
        return TargetRule("final")
    metric, value, width = parse_band(experiment.schedule.until)
    if metric != experiment.metric.name:
        raise ValueError(f"{experiment.title} ends by {metric}, and is compared by {experiment.metric}")
    return TargetRule("band", float(value - width), float(value + width))


def bootstrap_generator(experiment: Experiment, strategy: str, against: str, base_seed: int) -> Generator:
    """The generator of a saving's replicates, from names, so that every command gives it the same interval."""
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
    """One saving, or one a round of `against` for the rule `curve`. The strategies' runs are paired."""
    first, second = experiment.get_curve(strategy), experiment.get_curve(against)
    if first.seeds and second.seeds:
        pairs = pair_runs(first, second)
        rows = (pairs.first_rows, pairs.second_rows)
    elif first.seeds or second.seeds:
        raise ValueError(f"{strategy} and {against} do not pair: of one of them only the mean is known")
    else:
        rows = ([0], [0])
    check_comparable(experiment, first, second, rule, price)
    weights_MS = bootstrap_weights(len(rows[0]), REPLICATES, rng)
    sign = experiment.metric.sign  # scores that fall are turned round, so that a curve reaches its target from below
    sides = [
        StrategyRuns(price.cumulative_cost(one)[keep], sign * one.value_SR[keep])
        for one, keep in zip((first, second), rows, strict=True)
    ]
    num_pairs = len(rows[0]) if first.seeds else 0
    task = experiment.title if experiment.runs else experiment.task
    unknown = Interval(math.nan, math.nan, math.nan)
    plain = Saving(
        experiment.title, task, experiment.source, strategy, against, rule, price, math.nan, math.nan, math.nan,
        unknown, unknown, num_pairs, (mean_curve_area(experiment, first, rows[0]), mean_curve_area(experiment, second, rows[1])),
        (sides[0].start_cost, sides[1].start_cost), (sides[0].total_cost, sides[1].total_cost),
        int((sides[0].complete_rounds_R & sides[1].complete_rounds_R).sum()),
    )  # fmt: skip
    if rule.kind == "band":
        return [band_saving(plain, sides, weights_MS, level)]
    mine, theirs = (side.replicate_means(weights_MS) for side in sides)
    return [
        fill_saving(
            plain, crossing_cost(*mine, target_M), crossing_cost(*theirs, target_M), sign * float(target_M[0]), level
        )
        for target_M in target_scores(rule, mine[1], theirs[1], sign)
    ]


def band_saving(blank: Saving, sides: Sequence[StrategyRuns], weights_MS: Floats, level: float) -> Saving:
    """The saving of a band: each run's price of its first round there.

    Runs that never get there count with all that they paid: the restricted mean. What a run pays is a multiple of its
    rounds' budgets, so that few runs may differ less by chance than they would: their spread is taken to be that of
    rounding at least. Fewer than RANKED runs have no interval.
    """
    (paid_S, hit_S), (other_S, other_hit_S) = (side.cost_to_reach(blank.rule.low) for side in sides)
    if not (hit_S.any() and other_hit_S.any()):
        paid, other = (
            np.array([costs.mean() if hits.any() else np.inf])
            for costs, hits in ((paid_S, hit_S), (other_S, other_hit_S))
        )
        return fill_saving(blank, paid, other, blank.rule.low, level)
    weights_MS = weights_MS if len(paid_S) >= MIN_PAIRS else weights_MS[:1]
    rounding_S = rounding_offsets(max(side.round_cost for side in sides) / math.sqrt(12), paid_S - other_S)
    paid_M, other_M = weights_MS @ (paid_S + rounding_S), weights_MS @ other_S
    counted = replace(blank, num_reached=(int(hit_S.sum()), int(other_hit_S.sum())))
    return fill_saving(counted, paid_M, other_M, blank.rule.low, level)


def rounding_offsets(min_std: float, differences_S: Floats) -> Floats:
    """(S,): what to add so that differences spread by `least` at least: of mean zero and uncorrelated with them."""
    num_runs, centred_S = len(differences_S), differences_S - differences_S.mean()
    lacking = min_std**2 - float(centred_S @ centred_S) / max(num_runs - 1, 1)
    if num_runs < MIN_PAIRS or lacking <= 0:
        return np.zeros(num_runs)
    taken_S2 = np.stack([np.ones(num_runs), centred_S], 1)
    free_S = np.linalg.qr(np.concatenate([taken_S2, np.eye(num_runs)], 1))[0][:, 2]
    return np.asarray(free_S * math.sqrt(lacking * (num_runs - 1)))


def check_comparable(experiment: Experiment, first: Curve, second: Curve, rule: TargetRule, price: Price) -> None:
    """ValueError where a rule or a price means nothing for these curves."""
    if scales_differ(best_score([first]), best_score([second])):
        raise ValueError(f"{first.strategy} and {second.strategy} cannot be compared: {SCALE_MISMATCH}")
    if rule.kind == "band" and not experiment.metric.higher_is_better:
        raise ValueError(f"at=band:LOW,HIGH is for scores that rise, and of {experiment.metric} less is better")
    if experiment.schedule is not None and experiment.schedule.until and rule.kind != "band":
        until = experiment.schedule.until
        raise ValueError(f"runs of {experiment.title} end by score ({until}): compare them at=band:LOW,HIGH")
    if price.kind == "time" and ("boxes" in first.cost) != ("boxes" in second.cost):
        raise ValueError(f"cost=time: only one of {first.strategy} and {second.strategy} counts boxes")


def mean_curve_area(experiment: Experiment, curve: Curve, rows: Sequence[int]) -> float:
    """The area under the mean curve of these runs."""
    return stats.normalized_area(np.array(experiment.rounds, np.float64), mean_over_runs(curve.value_SR[rows]))


def target_scores(rule: TargetRule, strategy_MR: Floats, against_MR: Floats, sign: int) -> list[Floats]:
    """The targets of a rule, each (M,), from the replicates of both scores, which are turned round where `sign` is
    -1."""
    if rule.kind == "value":
        return [np.full(len(against_MR), sign * rule.low)]
    if rule.kind == "final":
        return [np.minimum(strategy_MR[:, -1], against_MR[:, -1])]
    return list(against_MR.T)


@dataclass(frozen=True)
class StrategyRuns:
    """Cost and score of one strategy's runs, each (S, R)."""

    cost_SR: Floats
    value_SR: Floats

    @property
    def complete_rounds_R(self) -> Bools:
        """(R,): the rounds that every run has."""
        return np.asarray((np.isfinite(self.cost_SR) & np.isfinite(self.value_SR)).all(0))

    @property
    def start_cost(self) -> float:
        """The mean cost of round 0."""
        return float(self.cost_SR[:, 0].mean())

    @property
    def total_cost(self) -> float:
        """The mean cost of each run's last round."""
        return float(np.nanmax(self.cost_SR, axis=1).mean())

    def replicate_means(self, weights_MS: Floats) -> tuple[Floats, Floats]:
        """Replicates of the mean cost and the mean score, over the rounds that every run has."""
        if not self.complete_rounds_R.any():
            raise ValueError("no round is finished by every run: nothing can be compared yet")
        return weights_MS @ self.cost_SR[:, self.complete_rounds_R], weights_MS @ self.value_SR[
            :, self.complete_rounds_R
        ]

    @property
    def round_cost(self) -> float:
        """What a round costs on average."""
        num_rounds = self.cost_SR.shape[1] - 1
        return (self.total_cost - self.start_cost) / num_rounds if num_rounds else 0.0

    def cost_to_reach(self, low: float) -> tuple[Floats, Bools]:
        """(S,): what each run has paid in its first round that scores `low` or more, all that it has paid where it has
        no such round; and whether it has one."""
        hit_SR = np.nan_to_num(self.value_SR, nan=-np.inf) >= low - TARGET_TOLERANCE * abs(low)
        hit_S: Bools = np.asarray(hit_SR.any(1))
        first_S = self.cost_SR[np.arange(len(hit_SR)), hit_SR.argmax(1)]
        return np.where(hit_S, first_S, np.nanmax(self.cost_SR, axis=1)), hit_S


def fill_saving(blank: Saving, strategy_cost_M: Floats, against_cost_M: Floats, target: float, level: float) -> Saving:
    """The saving of these replicates; a cost that is never reached counts as infinite, and two of them as unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        strategy_cost_M, against_cost_M = (
            np.where(np.isfinite(one), one.clip(begin), np.inf)  # nobody pays less than the start
            for one, begin in zip((strategy_cost_M, against_cost_M), blank.start_costs, strict=True)
        )
        saved_M = against_cost_M - strategy_cost_M
        percent_M = 100 * np.where(
            np.isposinf(against_cost_M), np.where(np.isposinf(strategy_cost_M), np.nan, 100), saved_M / against_cost_M
        )
    saved, percent = percentile_interval(saved_M, level), percentile_interval(percent_M, level)
    if not (math.isfinite(strategy_cost_M[0]) and math.isfinite(against_cost_M[0])):
        saved = percent = blank.amount
    return replace(
        blank, target=target, strategy_cost=float(strategy_cost_M[0]), against_cost=float(against_cost_M[0]), amount=saved, percent=percent
    )  # fmt: skip


def strategy_pairs(
    experiments: Sequence[Experiment], strategies: Sequence[str], against: Sequence[str]
) -> list[tuple[Experiment, str, str]]:
    """All pairs of `strategies` and `against` in each experiment that has both, every strategy where one is empty.

    ValueError where no experiment has one of them.
    """
    for name in (*strategies, *against):
        if not any(name in one.curves for one in experiments):
            experiments[0].get_curve(name)
    return [
        (one, a, b)
        for one in experiments
        for a in strategies or one.curves
        for b in against or one.curves
        if a != b and a in one.curves and b in one.curves and one.curves[a].num_runs and one.curves[b].num_runs
    ]


def tidy_row(saving: Saving) -> dict[str, object]:
    """A saving as a row of numbers: they are in the cost's unit, null where there is none or it is not bounded."""
    return {
        "experiment": saving.experiment, "task": saving.task, "source": saving.source, "strategy": saving.strategy,
        "against": saving.against, "at": str(saving.rule), "cost": saving.price.kind, "unit": saving.unit,
        "seconds_per_image": saving.price.per_image, "seconds_per_box": saving.price.per_box, "target": finite_or_none(saving.target),
        "paid": finite_or_none(saving.strategy_cost), "other": finite_or_none(saving.against_cost), "saved": finite_or_none(saving.amount.value),
        "low": finite_or_none(saving.amount.low), "high": finite_or_none(saving.amount.high), "percent": finite_or_none(saving.percent.value),
        "percent_low": finite_or_none(saving.percent.low), "percent_high": finite_or_none(saving.percent.high), "pairs": saving.num_pairs,
        "area": finite_or_none(saving.areas[0]), "against_area": finite_or_none(saving.areas[1]), "reached": saving.is_reached,
        "num_reached": saving.num_reached and saving.num_reached[0],
        "against_num_reached": saving.num_reached and saving.num_reached[1], "note": saving.note,
    }  # fmt: skip


def finite_or_none(value: float) -> float | None:
    """A finite number, or None."""
    return value if math.isfinite(value) else None
