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
from benchmark.analysis.curves import SCALES, Curve, Experiment, Floats, apart, best_score, mean
from benchmark.analysis.stats import RANKED, Interval, paired, percentiles, weights
from benchmark.experiment.schedule import band
from benchmark.seeds import seed
from benchmark.text.words import plural

Bools: TypeAlias = npt.NDArray[np.bool_]

REPLICATES = 4_000
ROUGH = 6  # rounds below which prices that are linear between them are rough: see docs/statistics.md
SLACK = 1e-12  # of a target: a sum that rounds otherwise still reaches it


@dataclass(frozen=True)
class Rule:
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
    def read(cls, text: str) -> Rule:
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

    def of(self, curve: Curve) -> Floats:
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
    rule: Rule
    price: Price
    target: float  # the score at which both are compared; of a band, its lower end
    paid: float  # by `strategy`
    other: float  # by `against`
    saved: Interval
    percent: Interval
    num_pairs: int  # 0: means that a paper tells
    areas: tuple[float, float]  # under the two mean curves: see stats.area
    start: tuple[float, float]  # what each has paid in round 0
    spent: tuple[float, float]  # all that each has paid: the end of its curve
    num_rounds: int  # that every run has
    num_reached: tuple[int, int] | None = None  # runs of each that reached the band; None of other rules

    @property
    def reached(self) -> bool:
        """Whether both get there."""
        return math.isfinite(self.paid) and math.isfinite(self.other)

    @property
    def unit(self) -> str:
        """What is counted."""
        return self.price.unit

    @property
    def note(self) -> str:
        """What a reader must know of the figure, `words` first."""
        sides = zip((self.strategy, self.against), (self.paid, self.other), self.start, strict=True)
        first = [name for name, cost, begin in sides if cost <= begin]
        early = f"already in round 0: {', '.join(first)}" if first and self.reached else ""
        return self.words or "; ".join(filter(None, [early, *self.censored, self.few, self.few_rounds]))

    @property
    def few(self) -> str:
        """What few seeds do to the interval; "" where they are enough."""
        if self.num_pairs == 1:
            return "one seed: no interval"
        if 1 < self.num_pairs < RANKED:
            none = "no interval" if self.rule.kind == "band" else "where curves are flat the interval is too narrow"
            return f"{self.num_pairs} seeds: {none}"
        return ""

    @property
    def few_rounds(self) -> str:
        """What few rounds do to a price that lies between two of them; "" where they are enough or it lies in one."""
        if self.rule.kind == "band" or self.num_rounds >= ROUGH:
            return ""
        return f"{plural(self.num_rounds, 'round')}: prices are linear between them, so what is saved is rough"

    @property
    def censored(self) -> list[str]:
        """Which runs ended before they reached the band; they count with all that they paid."""
        sides = zip((self.strategy, self.against), self.num_reached or (), strict=False)
        return [f"{name}: {num} of {self.num_pairs} runs reach it" for name, num in sides if num < self.num_pairs]

    @property
    def words(self) -> str:
        """What there is to know in words where a figure does not do."""
        late = [
            f"{name} has not reached it within {end:,.0f} {self.unit}"
            for name, cost, end in zip((self.strategy, self.against), (self.paid, self.other), self.spent, strict=True)
            if not math.isfinite(cost)
        ]
        return "not reached: " + "; ".join(late) if late else ""


def crossing(x_MR: Floats, y_MR: Floats, target_M: Floats) -> Floats:
    """(M,): the cost at which each curve first reaches its target: linear between the running maxima of two rounds.

    Round 0's cost where that is enough already, infinite where no round is.
    """
    best_MR = np.maximum.accumulate(y_MR, axis=1)
    hit_MR = best_MR >= (target_M - SLACK * np.abs(target_M))[:, None]
    rows, at = np.arange(len(x_MR)), hit_MR.argmax(1)
    before = np.maximum(at - 1, 0)
    rise = best_MR[rows, at] - best_MR[rows, before]
    share = np.divide(target_M - best_MR[rows, before], rise, out=np.zeros(len(rows)), where=rise > 0)
    x_M = x_MR[rows, before] + share.clip(0, 1) * (x_MR[rows, at] - x_MR[rows, before])
    return np.where(hit_MR.any(1), x_M, np.inf)


def own_rule(experiment: Experiment) -> Rule:
    """The rule of an experiment: the band in which its runs end, or else the final score."""
    if experiment.schedule is None or not experiment.schedule.until:
        return Rule("final")
    metric, value, width = band(experiment.schedule.until)
    if metric != experiment.metric.name:
        raise ValueError(f"{experiment.title} ends by {metric}, and is compared by {experiment.metric}")
    return Rule("band", float(value - width), float(value + width))


def generator(experiment: Experiment, strategy: str, against: str, start: int) -> Generator:
    """The generator of a saving's replicates, from names, so that every command gives it the same interval."""
    return np.random.default_rng(seed("savings", experiment.title, strategy, against, start))


def savings(
    experiment: Experiment, strategy: str, against: str, rule: Rule, price: Price, rng: Generator, level: float = 0.95
) -> list[Saving]:
    """One saving, or one a round of `against` for the rule `curve`. The strategies' runs are paired."""
    first, second = experiment.get(strategy), experiment.get(against)
    if first.seeds and second.seeds:
        pairs = paired(first, second)
        rows = (pairs.first, pairs.second)
    elif first.seeds or second.seeds:
        raise ValueError(f"{strategy} and {against} do not pair: of one of them only the mean is known")
    else:
        rows = ([0], [0])
    check_comparable(experiment, first, second, rule, price)
    weights_MS = weights(len(rows[0]), REPLICATES, rng)
    sign = experiment.metric.sign  # scores that fall are turned round, so that a curve reaches its target from below
    sides = [
        Side(price.of(one)[keep], sign * one.value_SR[keep]) for one, keep in zip((first, second), rows, strict=True)
    ]
    num_pairs = len(rows[0]) if first.seeds else 0
    task = experiment.title if experiment.runs else experiment.task
    unknown = Interval(math.nan, math.nan, math.nan)
    plain = Saving(
        experiment.title, task, experiment.source, strategy, against, rule, price, math.nan, math.nan, math.nan,
        unknown, unknown, num_pairs, (area(experiment, first, rows[0]), area(experiment, second, rows[1])),
        (sides[0].start, sides[1].start), (sides[0].spent, sides[1].spent),
        int((sides[0].whole_R & sides[1].whole_R).sum()),
    )  # fmt: skip
    if rule.kind == "band":
        return [in_band(plain, sides, weights_MS, level)]
    mine, theirs = (side.means(weights_MS) for side in sides)
    return [
        filled(plain, crossing(*mine, target_M), crossing(*theirs, target_M), sign * float(target_M[0]), level)
        for target_M in targets(rule, mine[1], theirs[1], sign)
    ]


def in_band(plain: Saving, sides: Sequence[Side], weights_MS: Floats, level: float) -> Saving:
    """The saving of a band: each run's price of its first round there.

    Runs that never get there count with all that they paid: the restricted mean. What a run pays is a multiple of its
    rounds' budgets, so that few runs may differ less by chance than they would: their spread is taken to be that of
    rounding at least. Fewer than RANKED runs have no interval.
    """
    (paid_S, hit_S), (other_S, other_hit_S) = (side.first_at(plain.rule.low) for side in sides)
    if not (hit_S.any() and other_hit_S.any()):
        paid, other = (
            np.array([costs.mean() if hits.any() else np.inf])
            for costs, hits in ((paid_S, hit_S), (other_S, other_hit_S))
        )
        return filled(plain, paid, other, plain.rule.low, level)
    weights_MS = weights_MS if len(paid_S) >= RANKED else weights_MS[:1]
    rounding_S = spread_to(max(side.step for side in sides) / math.sqrt(12), paid_S - other_S)
    paid_M, other_M = weights_MS @ (paid_S + rounding_S), weights_MS @ other_S
    counted = replace(plain, num_reached=(int(hit_S.sum()), int(other_hit_S.sum())))
    return filled(counted, paid_M, other_M, plain.rule.low, level)


def spread_to(least: float, differences_S: Floats) -> Floats:
    """(S,): what to add so that differences spread by `least` at least: of mean zero and uncorrelated with them."""
    num_runs, centred_S = len(differences_S), differences_S - differences_S.mean()
    lacking = least**2 - float(centred_S @ centred_S) / max(num_runs - 1, 1)
    if num_runs < RANKED or lacking <= 0:
        return np.zeros(num_runs)
    taken_S2 = np.stack([np.ones(num_runs), centred_S], 1)
    free_S = np.linalg.qr(np.concatenate([taken_S2, np.eye(num_runs)], 1))[0][:, 2]
    return np.asarray(free_S * math.sqrt(lacking * (num_runs - 1)))


def check_comparable(experiment: Experiment, first: Curve, second: Curve, rule: Rule, price: Price) -> None:
    """ValueError where a rule or a price means nothing for these curves."""
    if apart(best_score([first]), best_score([second])):
        raise ValueError(f"{first.strategy} and {second.strategy} cannot be compared: {SCALES}")
    if rule.kind == "band" and not experiment.metric.higher_is_better:
        raise ValueError(f"at=band:LOW,HIGH is for scores that rise, and of {experiment.metric} less is better")
    if experiment.schedule is not None and experiment.schedule.until and rule.kind != "band":
        until = experiment.schedule.until
        raise ValueError(f"runs of {experiment.title} end by score ({until}): compare them at=band:LOW,HIGH")
    if price.kind == "time" and ("boxes" in first.cost) != ("boxes" in second.cost):
        raise ValueError(f"cost=time: only one of {first.strategy} and {second.strategy} counts boxes")


def area(experiment: Experiment, curve: Curve, rows: Sequence[int]) -> float:
    """The area under the mean curve of these runs."""
    return stats.area(np.array(experiment.rounds, np.float64), mean(curve.value_SR[rows]))


def targets(rule: Rule, mine_MR: Floats, other_MR: Floats, sign: int) -> list[Floats]:
    """The targets of a rule, each (M,), from the replicates of both scores, which are turned round where `sign` is
    -1."""
    if rule.kind == "value":
        return [np.full(len(other_MR), sign * rule.low)]
    if rule.kind == "final":
        return [np.minimum(mine_MR[:, -1], other_MR[:, -1])]
    return list(other_MR.T)


@dataclass(frozen=True)
class Side:
    """Cost and score of one strategy's runs, each (S, R)."""

    cost_SR: Floats
    value_SR: Floats

    @property
    def whole_R(self) -> Bools:
        """(R,): the rounds that every run has."""
        return np.asarray((np.isfinite(self.cost_SR) & np.isfinite(self.value_SR)).all(0))

    @property
    def start(self) -> float:
        """The mean cost of round 0."""
        return float(self.cost_SR[:, 0].mean())

    @property
    def spent(self) -> float:
        """The mean cost of each run's last round."""
        return float(np.nanmax(self.cost_SR, axis=1).mean())

    def means(self, weights_MS: Floats) -> tuple[Floats, Floats]:
        """Replicates of the mean cost and the mean score, over the rounds that every run has."""
        if not self.whole_R.any():
            raise ValueError("no round is finished by every run: nothing can be compared yet")
        return weights_MS @ self.cost_SR[:, self.whole_R], weights_MS @ self.value_SR[:, self.whole_R]

    @property
    def step(self) -> float:
        """What a round costs on average."""
        num_rounds = self.cost_SR.shape[1] - 1
        return (self.spent - self.start) / num_rounds if num_rounds else 0.0

    def first_at(self, low: float) -> tuple[Floats, Bools]:
        """(S,): what each run has paid in its first round that scores `low` or more, all that it has paid where it has
        no such round; and whether it has one."""
        hit_SR = np.nan_to_num(self.value_SR, nan=-np.inf) >= low - SLACK * abs(low)
        hit_S: Bools = np.asarray(hit_SR.any(1))
        first_S = self.cost_SR[np.arange(len(hit_SR)), hit_SR.argmax(1)]
        return np.where(hit_S, first_S, np.nanmax(self.cost_SR, axis=1)), hit_S


def filled(plain: Saving, paid_M: Floats, other_M: Floats, target: float, level: float) -> Saving:
    """The saving of these replicates; a cost that is never reached counts as infinite, and two of them as unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        paid_M, other_M = (
            np.where(np.isfinite(one), one.clip(begin), np.inf)  # nobody pays less than the start
            for one, begin in zip((paid_M, other_M), plain.start, strict=True)
        )
        saved_M = other_M - paid_M
        percent_M = 100 * np.where(np.isposinf(other_M), np.where(np.isposinf(paid_M), np.nan, 100), saved_M / other_M)
    saved, percent = percentiles(saved_M, level), percentiles(percent_M, level)
    if not (math.isfinite(paid_M[0]) and math.isfinite(other_M[0])):
        saved = percent = plain.saved
    return replace(
        plain, target=target, paid=float(paid_M[0]), other=float(other_M[0]), saved=saved, percent=percent
    )  # fmt: skip


def pairs_of(
    experiments: Sequence[Experiment], strategies: Sequence[str], against: Sequence[str]
) -> list[tuple[Experiment, str, str]]:
    """All pairs of `strategies` and `against` in each experiment that has both, every strategy where one is empty.

    ValueError where no experiment has one of them.
    """
    for name in (*strategies, *against):
        if not any(name in one.curves for one in experiments):
            experiments[0].get(name)
    return [
        (one, a, b)
        for one in experiments
        for a in strategies or one.curves
        for b in against or one.curves
        if a != b and a in one.curves and b in one.curves and one.curves[a].num_runs and one.curves[b].num_runs
    ]


def tidy(one: Saving) -> dict[str, object]:
    """A saving as a row of numbers: they are in the cost's unit, null where there is none or it is not bounded."""
    return {
        "experiment": one.experiment, "task": one.task, "source": one.source, "strategy": one.strategy,
        "against": one.against, "at": str(one.rule), "cost": one.price.kind, "unit": one.unit,
        "seconds_per_image": one.price.per_image, "seconds_per_box": one.price.per_box, "target": known(one.target),
        "paid": known(one.paid), "other": known(one.other), "saved": known(one.saved.value),
        "low": known(one.saved.low), "high": known(one.saved.high), "percent": known(one.percent.value),
        "percent_low": known(one.percent.low), "percent_high": known(one.percent.high), "pairs": one.num_pairs,
        "area": known(one.areas[0]), "against_area": known(one.areas[1]), "reached": one.reached,
        "num_reached": one.num_reached and one.num_reached[0],
        "against_num_reached": one.num_reached and one.num_reached[1], "note": one.note,
    }  # fmt: skip


def known(value: float) -> float | None:
    """A finite number, or None."""
    return value if math.isfinite(value) else None
