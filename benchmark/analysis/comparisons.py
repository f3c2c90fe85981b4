"""Paired comparisons of strategies: how far apart, how sure, and what it would take to know.

Shapes: S runs (pairs), K comparisons.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats, mean
from benchmark.analysis.savings import Price, Saving, generator, own_rule, savings
from benchmark.analysis.sequential import State, states
from benchmark.analysis.stats import Interval, Pairs, paired
from benchmark.analysis.tables import seeds
from benchmark.contract.scores import Metric
from benchmark.seeds import seed


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on one experiment; differences are strategy minus other, in the score's unit."""

    task: str
    metric: Metric
    strategy: str
    against: str
    pairs: Pairs
    rounds: dict[int, Interval]  # the difference in each round that all pairs have
    at: str  # the last of them
    final: Interval  # difference there
    final_p: float  # sign-flip test
    over: str  # what areas are over: all rounds, or where these are not equally dear the range of cost that both have
    areas: tuple[float, float]  # under the curves over that: the mean score on the way
    area: Interval  # their difference
    area_p: float
    by_round: Interval | None  # the difference of areas over all rounds, where that is not `area`
    by_round_p: float
    holm_p: float  # of `area_p`, over all comparisons made together
    family: int  # comparisons that are made together
    saving: Saving | None  # at the smaller of both final scores, or in the schedule's band
    why_not: str  # why there is no saving
    level: float
    spread: float  # standard deviation of the paired differences of areas
    paid: dict[str, tuple[float, float]]  # labels paid up to the last round, where they differ: images, boxes
    state: State | None = None  # where seeds=auto stands; None: seeds were told

    @property
    def detectable(self) -> float:
        """The difference of areas that as many pairs of this spread find in 4 of 5 cases; infinite: none."""
        found = stats.detectable(len(self.pairs.seeds), self.level, self.family)
        return found * self.spread if math.isfinite(found) else math.inf

    @property
    def verdict(self) -> str:
        """better or worse, by Holm's p of the areas; equivalent, where their difference surely lies within the metric's
        margin; or undecided. Of seeds=auto what its looks say."""
        if self.state is not None:
            return self.state.word
        if self.holm_p <= 1 - self.level:
            return "better" if self.metric.sign * self.area.value > 0 else "worse"
        return "equivalent" if self.equivalent else "undecided"

    @property
    def margin(self) -> float:
        """How far apart two scores may be and still agree; NaN where that is not defined."""
        return math.nan if self.metric.margin is None else self.metric.margin

    @property
    def equivalent(self) -> bool:
        """Whether the interval of twice the tail lies within the margin: two one-sided tests."""
        number, width = len(self.pairs.seeds), self.area.high - self.area.value
        half = width * stats.quantile(number - 1, self.level) / stats.quantile(number - 1, (1 + self.level) / 2)
        return abs(self.area.value) + half <= self.margin if number > 1 else False

    @property
    def why(self) -> str:
        """Why it is equivalent or undecided; "" where it is better or worse; of seeds=auto at which look."""
        if self.state is not None:
            return look_words(self.state)
        if self.verdict == "equivalent":
            return f"the {100 * (2 * self.level - 1):g} % interval lies within ± {self.margin:g}"
        if self.verdict != "undecided":
            return ""
        number = len(self.pairs.seeds)
        if not self.spread and not self.area.value and number > 1:
            return f"no difference in any of {seeds(number)}"
        least, wanted = stats.least_runs(self.level, self.family), self.seeds_wanted
        if number < least:
            among = f" in {self.family} comparisons" if self.family > 1 else ""
            told = f"{seeds(number)} can decide nothing{among}: it takes {seeds(least)}"
            if wanted is None:
                return told
            would = f"and {'they' if wanted == least else f'about {wanted}'} would find a difference of {self.margin:g}"
            return f"{told}, {would} in 4 of 5 cases"
        more = f"; about {wanted} would find a difference of {self.margin:g}" if (wanted or 0) > number else ""
        return f"{seeds(number)} find a difference of {self.detectable:.2g} in 4 of 5 cases{more}"

    @property
    def sentence(self) -> str:
        """The answer for people who are no statisticians."""
        first, second, number = self.strategy, self.against, len(self.pairs.seeds)
        if self.verdict in ("better", "worse"):
            look = f", {self.why}" if self.state else ""
            return f"{first} is {self.verdict} than {second}: {self.effect}, {seeds(number)}{look}"
        if self.verdict == "equivalent":
            return f"{first} is as good as {second} to within {self.margin:g}: {self.why}, {seeds(number)}"
        return f"{first} against {second} is {self.verdict}: {self.why}"

    @property
    def effect(self) -> str:
        """How much better or worse it is: in labels where that is known, else in the score."""
        paid, sign, sure = self.saving, 1 if self.verdict == "better" else -1, f", {100 * self.level:g} % interval"
        if paid is not None and paid.reached and sign * paid.percent.value > 0:
            low, high = sorted(sign * end for end in (paid.percent.low, paid.percent.high))
            known = f"{sure} {low:.0f} to {high:.0f} %" * (math.isfinite(low) and math.isfinite(high))
            kind = {"images": "labels", "time": "seconds"}.get(paid.price.kind, paid.price.kind)
            return f"it needs {abs(paid.percent.value):.0f} % {'fewer' if sign > 0 else 'more'} {kind}{known}"
        digits = self.metric.digits
        sign *= self.metric.sign
        low, high = sorted(sign * end for end in (self.area.low, self.area.high))
        height = f"{abs(self.area.value):.{digits}f} {'higher' if sign > 0 else 'lower'}"
        return f"its mean {self.metric} is {height}{sure} {low:.{digits}f} to {high:.{digits}f}"

    @property
    def seeds_wanted(self) -> int | None:
        """About how many seeds find a difference as large as the margin in 4 of 5 cases; None where it is not known."""
        if not self.spread or math.isnan(self.margin):
            return None
        return stats.runs_to_find(round(self.margin / self.spread, 2), self.level, self.family)


def compare(experiment: Experiment, strategy: str, against: str, price: Price, level: float, start: int) -> Comparison:
    """The paired comparison of two strategies; `start` seeds what is drawn, together with their names.

    ValueError where they do not pair or share no round.
    """
    first, second = experiment.get(strategy), experiment.get(against)
    pairs = paired(first, second)
    rng = np.random.default_rng(seed("compare", experiment.title, strategy, against, start))
    gaps_SR = first.value_SR[pairs.first] - second.value_SR[pairs.second]
    whole = np.flatnonzero(np.isfinite(gaps_SR).all(0))
    if not len(whole):
        raise ValueError(f"{experiment.title}: {strategy} and {against} have no round in common")
    last = int(whole[-1])
    over, (mine_S, theirs_S), by_round_S = areas(experiment, first, second, pairs, price)
    area_S, final_S = mine_S - theirs_S, gaps_SR[:, last]
    p_K = stats.sign_flip(np.stack([final_S, area_S, by_round_S]), rng)
    saving, why_not = saved(experiment, strategy, against, price, level, start)
    return Comparison(
        experiment.title, experiment.metric, strategy, against, pairs,
        {experiment.rounds[number]: stats.student(gaps_SR[:, number], level) for number in whole},
        place(experiment, first, last),
        stats.student(final_S, level), float(p_K[0]), over, (float(mine_S.mean()), float(theirs_S.mean())),
        stats.student(area_S, level), float(p_K[1]), None if over == ROUNDS else stats.student(by_round_S, level),
        float(p_K[2]), float(p_K[1]), 1, saving, why_not, level,
        float(area_S.std(ddof=1)) if len(area_S) > 1 else 0.0, unequal(first, second, last),
    )  # fmt: skip


ROUNDS = "all rounds"


def areas(
    experiment: Experiment, first: Curve, second: Curve, pairs: Pairs, price: Price
) -> tuple[str, Floats, Floats]:
    """The areas of paired runs: (2, S) over what the verdict is of, what that is, and (S,) differences over all rounds.

    Where rounds cost both runs of a pair the same, areas are over the rounds that both have; else over the range of
    cost that both have: a strategy that is charged for a held-out set, or buys more boxes, would be compared at other
    prices. No other pair decides what a pair's areas are, so that they stay what they are when more seeds run.
    """
    costs = (price.of(first)[pairs.first], price.of(second)[pairs.second])
    values = (first.value_SR[pairs.first], second.value_SR[pairs.second])
    over, by_round = list[tuple[float, float]](), list[Floats]()
    areas_S2 = list[Floats]()
    for number, values_2R in enumerate(np.stack(values, 1)):
        costs_2R, there = np.stack([cost_SR[number] for cost_SR in costs]), np.isfinite(values_2R).all(0)
        rounds_R = np.array(experiment.rounds, np.float64)[there]
        by_round.append(np.array([stats.area(rounds_R, value_R) for value_R in values_2R[:, there]]))
        areas_S2.append(by_round[-1])
        if there.sum() > 1 and not np.array_equal(*costs_2R[:, there]):
            try:
                areas_S2[-1], *ends = stats.areas_at_equal_cost(costs_2R[:, there], values_2R[:, there])
            except ValueError as error:
                names = f"{first.strategy} and {second.strategy}"
                raise ValueError(f"{names} have no range of {price.kind} in common: {error}") from None
            over.append((ends[0], ends[1]))
    words = ROUNDS
    if over:
        (low, high), about = np.mean(over, 0), "about " * (len(set(over)) > 1)
        words = f"{about}{low:,.0f} to {high:,.0f} {price.unit}"
    return words, np.stack(areas_S2, 1), np.subtract(*np.stack(by_round, 1))


def unequal(first: Curve, second: Curve, last: int) -> dict[str, tuple[float, float]]:
    """The mean labels paid up to a round, of the kinds of which the two paid unequally many."""
    both = {kind: (mean(first.cost[kind]), mean(second.cost[kind])) for kind in first.cost.keys() & second.cost.keys()}
    paid = {kind: (float(one[last]), float(other[last])) for kind, (one, other) in sorted(both.items())}
    return {kind: pair for kind, pair in paid.items() if pair[0] != pair[1] and np.isfinite(pair).all()}


def place(experiment: Experiment, curve: Curve, last: int) -> str:
    """What the last round that all runs of a pair have is called."""
    schedule = experiment.schedule
    if schedule is not None and schedule.budget_in == "boxes":
        return f"round {last}"
    early = ", the last that all have" if last + 1 < len(experiment.rounds) else ""
    return f"{mean(curve.num_labelled_SR)[last]:,.0f} images{early}"


def saved(
    experiment: Experiment, strategy: str, against: str, price: Price, level: float, start: int
) -> tuple[Saving | None, str]:
    """The saving by the experiment's own rule, or why there is none."""
    rng = generator(experiment, strategy, against, start)
    try:
        return savings(experiment, strategy, against, own_rule(experiment), price, rng, level)[0], ""
    except ValueError as error:
        return None, str(error)


def against(
    experiment: Experiment, other: str, price: Price, level: float, start: int
) -> tuple[list[Comparison], list[str]]:
    """Every other strategy against one, Holm's correction over all of them, and who is refused and why."""
    made, refused = list[Comparison](), list[str]()
    for name, curve in experiment.curves.items():
        if name != other and curve.num_runs and experiment.get(other).num_runs:
            try:
                made.append(compare(experiment, name, other, price, level, start))
            except ValueError as error:
                refused.append(str(error))
    looked = looks(experiment, other)
    return [replace(one, state=looked.get(one.strategy)) for one in corrected(made)], refused


def looks(experiment: Experiment, other: str) -> dict[str, State]:
    """Where each comparison with the reference stands under seeds=auto; {} where seeds were told, or `other` is not it.

    At the experiment's own price, whatever cost is asked for: what is decided stays so.
    """
    auto = experiment.auto
    if auto is None or other != auto.reference or other not in experiment.curves:
        return {}
    price = Price("boxes" if experiment.counts_boxes else "images")
    known, apart = dict[str, Floats](), dict[str, State]()
    for name in experiment.curves:
        if name != other:
            try:
                known[name] = experiment.metric.sign * differences(experiment, name, other, price)
            except ValueError:  # why not, `compare` tells
                apart[name] = State("not comparable", auto.looks[0])
    return apart | states(known, auto, len(apart))


def differences(experiment: Experiment, strategy: str, other: str, price: Price) -> Floats:
    """(N,): areas of a strategy minus those of another, of the seeds 0, 1 ... that both have finished."""
    first, second = experiment.curves[strategy], experiment.curves[other]
    ready = set(first.seeds) & set(second.seeds) - first.unfinished - second.unfinished
    num_seeds = next(number for number in itertools.count() if number not in ready)
    if not num_seeds:
        return np.empty(0)
    pairs = paired(first, second)
    _, areas_2S, _ = areas(experiment, first, second, pairs, price)
    by_seed = dict(zip(pairs.seeds, areas_2S[0] - areas_2S[1], strict=True))
    return np.array([by_seed[number] for number in range(num_seeds)])


def look_words(state: State) -> str:
    """What a look says, for people."""
    return {
        "open": f"the next look is at {seeds(state.num_seeds)}",
        "not comparable": "their prices have no range in common, or they started from other images",
        "given up": f"at the look at {seeds(state.num_seeds)}: a verdict became unlikely, which does not mean equal",
        "undecided": f"after {seeds(state.num_seeds)}, the most that were asked for",
    }.get(state.word, f"at the look at {seeds(state.num_seeds)}")


def corrected(made: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's p over all of them."""
    adjusted_K = stats.holm(np.array([one.area_p for one in made]))
    return [replace(one, holm_p=float(p), family=len(made)) for one, p in zip(made, adjusted_K, strict=True)]
