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
from benchmark.analysis.curves import Curve, Experiment, Floats, mean_over_runs
from benchmark.analysis.savings import Price, Saving, bootstrap_generator, compute_savings, default_rule
from benchmark.analysis.sequential import SequentialState, sequential_states
from benchmark.analysis.stats import Interval, Pairs, pair_runs
from benchmark.analysis.tables import format_seeds
from benchmark.contract.metrics import Metric
from benchmark.seeds import seed


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on one experiment; differences are strategy minus other, in the score's unit."""

    task: str
    metric: Metric
    strategy: str
    against: str
    pairs: Pairs
    round_differences: dict[int, Interval]  # the difference in each round that all pairs have
    last_round: str  # the last of them
    final_difference: Interval  # difference there
    final_p: float  # sign-flip test
    area_over: (
        str  # what areas are over: all rounds, or where these are not equally dear the range of cost that both have
    )
    areas: tuple[float, float]  # under the curves over that: the mean score on the way
    area_difference: Interval  # their difference
    area_p: float
    all_rounds_difference: Interval | None  # the difference of areas over all rounds, where that is not `area`
    all_rounds_p: float
    holm_p: float  # of `area_p`, over all comparisons made together
    family_size: int  # comparisons that are made together
    saving: Saving | None  # at the smaller of both final scores, or in the schedule's band
    no_saving_reason: str  # why there is no saving
    level: float
    difference_std: float  # standard deviation of the paired differences of areas
    unequal_costs: dict[str, tuple[float, float]]  # labels paid up to the last round, where they differ: images, boxes
    sequential_state: SequentialState | None = None  # where seeds=auto stands; None: seeds were told

    @property
    def detectable_difference(self) -> float:
        """The difference of areas that as many pairs of this spread find in 4 of 5 cases; infinite: none."""
        found = stats.detectable_difference(len(self.pairs.seeds), self.level, self.family_size)
        return found * self.difference_std if math.isfinite(found) else math.inf

    @property
    def verdict(self) -> str:
        """better or worse, by Holm's p of the areas; equivalent, where their difference surely lies within the metric's
        margin; or undecided. Of seeds=auto what its looks say."""
        if self.sequential_state is not None:
            return self.sequential_state.status
        if self.holm_p <= 1 - self.level:
            return "better" if self.metric.sign * self.area_difference.value > 0 else "worse"
        return "equivalent" if self.is_equivalent else "undecided"

    @property
    def margin(self) -> float:
        """How far apart two scores may be and still agree; NaN where that is not defined."""
        return math.nan if self.metric.margin is None else self.metric.margin

    @property
    def is_equivalent(self) -> bool:
        """Whether the interval of twice the tail lies within the margin: two one-sided tests."""
        number, width = len(self.pairs.seeds), self.area_difference.high - self.area_difference.value
        half = (
            width
            * stats.student_quantile(number - 1, self.level)
            / stats.student_quantile(number - 1, (1 + self.level) / 2)
        )
        return abs(self.area_difference.value) + half <= self.margin if number > 1 else False

    @property
    def reason(self) -> str:
        """Why it is equivalent or undecided; "" where it is better or worse; of seeds=auto at which look."""
        if self.sequential_state is not None:
            return describe_state(self.sequential_state)
        if self.verdict == "equivalent":
            return f"the {100 * (2 * self.level - 1):g} % interval lies within ± {self.margin:g}"
        if self.verdict != "undecided":
            return ""
        number = len(self.pairs.seeds)
        if not self.difference_std and not self.area_difference.value and number > 1:
            return f"no difference in any of {format_seeds(number)}"
        least, wanted = stats.min_runs_to_reject(self.level, self.family_size), self.seeds_needed
        if number < least:
            among = f" in {self.family_size} comparisons" if self.family_size > 1 else ""
            told = f"{format_seeds(number)} can decide nothing{among}: it takes {format_seeds(least)}"
            if wanted is None:
                return told
            would = f"and {'they' if wanted == least else f'about {wanted}'} would find a difference of {self.margin:g}"
            return f"{told}, {would} in 4 of 5 cases"
        more = f"; about {wanted} would find a difference of {self.margin:g}" if (wanted or 0) > number else ""
        return f"{format_seeds(number)} find a difference of {self.detectable_difference:.2g} in 4 of 5 cases{more}"

    @property
    def sentence(self) -> str:
        """The answer for people who are no statisticians."""
        first, second, number = self.strategy, self.against, len(self.pairs.seeds)
        if self.verdict in ("better", "worse"):
            look = f", {self.reason}" if self.sequential_state else ""
            return f"{first} is {self.verdict} than {second}: {self.effect}, {format_seeds(number)}{look}"
        if self.verdict == "equivalent":
            return f"{first} is as good as {second} to within {self.margin:g}: {self.reason}, {format_seeds(number)}"
        return f"{first} against {second} is {self.verdict}: {self.reason}"

    @property
    def effect(self) -> str:
        """How much better or worse it is: in labels where that is known, else in the score."""
        paid, sign, sure = self.saving, 1 if self.verdict == "better" else -1, f", {100 * self.level:g} % interval"
        if paid is not None and paid.is_reached and sign * paid.percent.value > 0:
            low, high = sorted(sign * end for end in (paid.percent.low, paid.percent.high))
            known = f"{sure} {low:.0f} to {high:.0f} %" * (math.isfinite(low) and math.isfinite(high))
            kind = {"images": "labels", "time": "seconds"}.get(paid.price.kind, paid.price.kind)
            return f"it needs {abs(paid.percent.value):.0f} % {'fewer' if sign > 0 else 'more'} {kind}{known}"
        digits = self.metric.digits
        sign *= self.metric.sign
        low, high = sorted(sign * end for end in (self.area_difference.low, self.area_difference.high))
        height = f"{abs(self.area_difference.value):.{digits}f} {'higher' if sign > 0 else 'lower'}"
        return f"its mean {self.metric} is {height}{sure} {low:.{digits}f} to {high:.{digits}f}"

    @property
    def seeds_needed(self) -> int | None:
        """About how many seeds find a difference as large as the margin in 4 of 5 cases; None where it is not known."""
        if not self.difference_std or math.isnan(self.margin):
            return None
        return stats.runs_to_find(round(self.margin / self.difference_std, 2), self.level, self.family_size)


def compare(
    experiment: Experiment, strategy: str, against: str, price: Price, level: float, base_seed: int
) -> Comparison:
    """The paired comparison of two strategies; `start` seeds what is drawn, together with their names.

    ValueError where they do not pair or share no round.
    """
    first, second = experiment.get_curve(strategy), experiment.get_curve(against)
    pairs = pair_runs(first, second)
    rng = np.random.default_rng(seed("compare", experiment.title, strategy, against, base_seed))
    gaps_SR = first.value_SR[pairs.first_rows] - second.value_SR[pairs.second_rows]
    whole = np.flatnonzero(np.isfinite(gaps_SR).all(0))
    if not len(whole):
        raise ValueError(f"{experiment.title}: {strategy} and {against} have no round in common")
    last = int(whole[-1])
    over, (mine_S, theirs_S), by_round_S = paired_areas(experiment, first, second, pairs, price)
    area_S, final_S = mine_S - theirs_S, gaps_SR[:, last]
    p_K = stats.sign_flip_test(np.stack([final_S, area_S, by_round_S]), rng)
    saving, why_not = compute_saving(experiment, strategy, against, price, level, base_seed)
    return Comparison(
        experiment.title, experiment.metric, strategy, against, pairs,
        {experiment.rounds[number]: stats.student_interval(gaps_SR[:, number], level) for number in whole},
        name_last_round(experiment, first, last),
        stats.student_interval(final_S, level), float(p_K[0]), over, (float(mine_S.mean()), float(theirs_S.mean())),
        stats.student_interval(area_S, level), float(p_K[1]), None if over == ALL_ROUNDS else stats.student_interval(by_round_S, level),
        float(p_K[2]), float(p_K[1]), 1, saving, why_not, level,
        float(area_S.std(ddof=1)) if len(area_S) > 1 else 0.0, find_unequal_costs(first, second, last),
    )  # fmt: skip


ALL_ROUNDS = "all rounds"


def paired_areas(
    experiment: Experiment, first: Curve, second: Curve, pairs: Pairs, price: Price
) -> tuple[str, Floats, Floats]:
    """The areas of paired runs: (2, S) over what the verdict is of, what that is, and (S,) differences over all rounds.

    Where rounds cost both runs of a pair the same, areas are over the rounds that both have; else over the range of
    cost that both have: a strategy that is charged for a held-out set, or buys more boxes, would be compared at other
    prices. No other pair decides what a pair's areas are, so that they stay what they are when more seeds run.
    """
    costs = (price.cumulative_cost(first)[pairs.first_rows], price.cumulative_cost(second)[pairs.second_rows])
    values = (first.value_SR[pairs.first_rows], second.value_SR[pairs.second_rows])
    over, by_round = list[tuple[float, float]](), list[Floats]()
    areas_S2 = list[Floats]()
    for number, values_2R in enumerate(np.stack(values, 1)):
        costs_2R, there = np.stack([cost_SR[number] for cost_SR in costs]), np.isfinite(values_2R).all(0)
        rounds_R = np.array(experiment.rounds, np.float64)[there]
        by_round.append(np.array([stats.normalized_area(rounds_R, value_R) for value_R in values_2R[:, there]]))
        areas_S2.append(by_round[-1])
        if there.sum() > 1 and not np.array_equal(*costs_2R[:, there]):
            try:
                areas_S2[-1], *ends = stats.areas_at_equal_cost(costs_2R[:, there], values_2R[:, there])
            except ValueError as error:
                names = f"{first.strategy} and {second.strategy}"
                raise ValueError(f"{names} have no range of {price.kind} in common: {error}") from None
            over.append((ends[0], ends[1]))
    words = ALL_ROUNDS
    if over:
        (low, high), about = np.mean(over, 0), "about " * (len(set(over)) > 1)
        words = f"{about}{low:,.0f} to {high:,.0f} {price.unit}"
    return words, np.stack(areas_S2, 1), np.subtract(*np.stack(by_round, 1))


def find_unequal_costs(first: Curve, second: Curve, last_column: int) -> dict[str, tuple[float, float]]:
    """The mean labels paid up to a round, of the kinds of which the two paid unequally many."""
    both = {
        kind: (mean_over_runs(first.cost[kind]), mean_over_runs(second.cost[kind]))
        for kind in first.cost.keys() & second.cost.keys()
    }
    paid = {kind: (float(one[last_column]), float(other[last_column])) for kind, (one, other) in sorted(both.items())}
    return {kind: pair for kind, pair in paid.items() if pair[0] != pair[1] and np.isfinite(pair).all()}


def name_last_round(experiment: Experiment, curve: Curve, last_column: int) -> str:
    """What the last round that all runs of a pair have is called."""
    schedule = experiment.schedule
    if schedule is not None and schedule.budget_in == "boxes":
        return f"round {last_column}"
    early = ", the last that all have" if last_column + 1 < len(experiment.rounds) else ""
    return f"{mean_over_runs(curve.num_labelled_SR)[last_column]:,.0f} images{early}"


def compute_saving(
    experiment: Experiment, strategy: str, against: str, price: Price, level: float, base_seed: int
) -> tuple[Saving | None, str]:
    """The saving by the experiment's own rule, or why there is none."""
    rng = bootstrap_generator(experiment, strategy, against, base_seed)
    try:
        return compute_savings(experiment, strategy, against, default_rule(experiment), price, rng, level)[0], ""
    except ValueError as error:
        return None, str(error)


def compare_all(
    experiment: Experiment, against: str, price: Price, level: float, base_seed: int
) -> tuple[list[Comparison], list[str]]:
    """Every other strategy against one, Holm's correction over all of them, and who is refused and why."""
    made, refused = list[Comparison](), list[str]()
    for name, curve in experiment.curves.items():
        if name != against and curve.num_runs and experiment.get_curve(against).num_runs:
            try:
                made.append(compare(experiment, name, against, price, level, base_seed))
            except ValueError as error:
                refused.append(str(error))
    looked = compare_sequentially(experiment, against)
    return [replace(one, sequential_state=looked.get(one.strategy)) for one in apply_holm(made)], refused


def compare_sequentially(experiment: Experiment, against: str) -> dict[str, SequentialState]:
    """Where each comparison with the reference stands under seeds=auto; {} where seeds were told, or `other` is not it.

    At the experiment's own price, whatever cost is asked for: what is decided stays so.
    """
    auto = experiment.auto_seeds
    if auto is None or against != auto.reference or against not in experiment.curves:
        return {}
    price = Price("boxes" if experiment.counts_boxes else "images")
    known, apart = dict[str, Floats](), dict[str, SequentialState]()
    for name in experiment.curves:
        if name != against:
            try:
                known[name] = experiment.metric.sign * area_differences(experiment, name, against, price)
            except ValueError:  # why not, `compare` tells
                apart[name] = SequentialState("not comparable", auto.looks[0])
    return apart | sequential_states(known, auto, len(apart))


def area_differences(experiment: Experiment, strategy: str, against: str, price: Price) -> Floats:
    """(N,): areas of a strategy minus those of another, of the seeds 0, 1 ... that both have finished."""
    first, second = experiment.curves[strategy], experiment.curves[against]
    ready = set(first.seeds) & set(second.seeds) - first.unfinished_seeds - second.unfinished_seeds
    num_seeds = next(number for number in itertools.count() if number not in ready)
    if not num_seeds:
        return np.empty(0)
    pairs = pair_runs(first, second)
    _, areas_2S, _ = paired_areas(experiment, first, second, pairs, price)
    by_seed = dict(zip(pairs.seeds, areas_2S[0] - areas_2S[1], strict=True))
    return np.array([by_seed[number] for number in range(num_seeds)])


def describe_state(state: SequentialState) -> str:
    """What a look says, for people."""
    return {
        "open": f"the next look is at {format_seeds(state.num_seeds)}",
        "not comparable": "their prices have no range in common, or they started from other images",
        "given up": f"at the look at {format_seeds(state.num_seeds)}: a verdict became unlikely, which does not mean equal",
        "undecided": f"after {format_seeds(state.num_seeds)}, the most that were asked for",
    }.get(state.status, f"at the look at {format_seeds(state.num_seeds)}")


def apply_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's p over all of them."""
    adjusted_K = stats.holm(np.array([one.area_p for one in comparisons]))
    return [
        replace(one, holm_p=float(p), family_size=len(comparisons))
        for one, p in zip(comparisons, adjusted_K, strict=True)
    ]
