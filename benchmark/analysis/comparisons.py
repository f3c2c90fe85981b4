"""Paired comparisons of strategies: how large the difference is, how certain it is, and how many seeds would decide.

Shapes: S pairs of runs, K p-values, R rounds, N seeds.
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
    """The paired comparison of one strategy with another on one experiment.

    All differences are the strategy minus the other one, in the unit of the score.
    """

    task: str
    metric: Metric
    strategy: str
    against: str
    pairs: Pairs
    round_differences: dict[int, Interval]  # the mean difference in each round that all pairs have
    last_round: str  # the name of the last of these rounds
    final_difference: Interval  # the mean difference in it
    final_p: float  # p-value of the sign-flip test
    area_over: str  # what areas are taken over: ALL_ROUNDS, or a range of cost where rounds cost unequally
    areas: tuple[float, float]  # normalized areas under both curves: their mean scores over `area_over`
    area_difference: Interval
    area_p: float
    all_rounds_difference: Interval | None  # the difference of areas over all rounds, where `area_over` is a range
    all_rounds_p: float
    holm_p: float  # `area_p`, corrected for all comparisons of the family
    family_size: int  # comparisons that are corrected together
    saving: Saving | None  # at the smaller of both final scores, or in the band of the schedule
    no_saving_reason: str  # why there is no saving
    level: float  # confidence level of the intervals and the verdict
    difference_std: float  # standard deviation of the paired differences of areas
    unequal_costs: dict[str, tuple[float, float]]  # labels paid by both, by kind, where they differ
    sequential_state: SequentialState | None = None  # the state of seeds=auto; None where seeds were fixed

    @property
    def detectable_difference(self) -> float:
        """The area difference that so many pairs of this spread detect with power 0.8; infinite if they detect none."""
        in_deviations = stats.detectable_difference(len(self.pairs.seeds), self.level, self.family_size)
        return in_deviations * self.difference_std if math.isfinite(in_deviations) else math.inf

    @property
    def verdict(self) -> str:
        """The verdict: better, worse, equivalent or undecided; with seeds=auto the status of the sequential test.

        Better and worse follow from Holm's p-value of the areas; equivalent means that the difference of areas lies
        within the metric's margin.
        """
        if self.sequential_state is not None:
            return self.sequential_state.status
        if self.holm_p <= 1 - self.level:
            return "better" if self.metric.sign * self.area_difference.value > 0 else "worse"
        return "equivalent" if self.is_equivalent else "undecided"

    @property
    def margin(self) -> float:
        """The largest difference of two equivalent scores; NaN where the metric declares none."""
        return math.nan if self.metric.margin is None else self.metric.margin

    @property
    def is_equivalent(self) -> bool:
        """Whether two one-sided tests place the difference of areas within the margin."""
        num_pairs, half_width = len(self.pairs.seeds), self.area_difference.high - self.area_difference.value
        one_sided = stats.student_quantile(num_pairs - 1, self.level)
        one_sided_width = half_width * one_sided / stats.student_quantile(num_pairs - 1, (1 + self.level) / 2)
        return abs(self.area_difference.value) + one_sided_width <= self.margin if num_pairs > 1 else False

    @property
    def reason(self) -> str:
        """The reason of the verdicts equivalent and undecided, or the look of seeds=auto; empty for better and
        worse."""
        if self.sequential_state is not None:
            return describe_state(self.sequential_state)
        if self.verdict == "equivalent":
            return f"the {100 * (2 * self.level - 1):g} % interval lies within ± {self.margin:g}"
        if self.verdict != "undecided":
            return ""
        num_seeds = len(self.pairs.seeds)
        if not self.difference_std and not self.area_difference.value and num_seeds > 1:
            return f"no difference in any of {format_seeds(num_seeds)}"
        min_seeds, likely_seeds = stats.min_runs_to_reject(self.level, self.family_size), self.seeds_needed
        if num_seeds < min_seeds:
            among = f" in {self.family_size} comparisons" if self.family_size > 1 else ""
            too_few = f"{format_seeds(num_seeds)} can decide nothing{among}: it takes {format_seeds(min_seeds)}"
            if likely_seeds is None:
                return too_few
            seeds_text = "they" if likely_seeds == min_seeds else f"about {likely_seeds}"
            return f"{too_few}, and {seeds_text} would find a difference of {self.margin:g} in 4 of 5 cases"
        difference = f"{format_seeds(num_seeds)} find a difference of {self.detectable_difference:.2g} in 4 of 5 cases"
        if (likely_seeds or 0) <= num_seeds:
            return difference
        return f"{difference}; about {likely_seeds} would find a difference of {self.margin:g}"

    @property
    def sentence(self) -> str:
        """The result in one sentence, for readers who are no statisticians."""
        first, second, num_seeds = self.strategy, self.against, format_seeds(len(self.pairs.seeds))
        if self.verdict in ("better", "worse"):
            look = f", {self.reason}" if self.sequential_state else ""
            return f"{first} is {self.verdict} than {second}: {self.effect}, {num_seeds}{look}"
        if self.verdict == "equivalent":
            return f"{first} is as good as {second} to within {self.margin:g}: {self.reason}, {num_seeds}"
        return f"{first} against {second} is {self.verdict}: {self.reason}"

    @property
    def effect(self) -> str:
        """How much better or worse the strategy is: in labels where the saving is known, else in the score."""
        saving, sign = self.saving, 1 if self.verdict == "better" else -1
        interval = f", {100 * self.level:g} % interval"
        if saving is not None and saving.is_reached and sign * saving.percent.value > 0:
            low, high = sorted(sign * end for end in (saving.percent.low, saving.percent.high))
            ends = f"{interval} {low:.0f} to {high:.0f} %" * (math.isfinite(low) and math.isfinite(high))
            kind = {"images": "labels", "time": "seconds"}.get(saving.price.kind, saving.price.kind)
            return f"it needs {abs(saving.percent.value):.0f} % {'fewer' if sign > 0 else 'more'} {kind}{ends}"
        digits = self.metric.digits
        sign *= self.metric.sign
        low, high = sorted(sign * end for end in (self.area_difference.low, self.area_difference.high))
        height = f"{abs(self.area_difference.value):.{digits}f} {'higher' if sign > 0 else 'lower'}"
        return f"its mean {self.metric} is {height}{interval} {low:.{digits}f} to {high:.{digits}f}"

    @property
    def seeds_needed(self) -> int | None:
        """About how many seeds detect a difference of the margin with power 0.8; None where that is not known."""
        if not self.difference_std or math.isnan(self.margin):
            return None
        return stats.runs_to_find(round(self.margin / self.difference_std, 2), self.level, self.family_size)


def compare(
    experiment: Experiment, strategy: str, against: str, price: Price, level: float, base_seed: int
) -> Comparison:
    """Compares two strategies seed by seed.

    Args:
        experiment: the experiment, with runs of both strategies.
        strategy: the label of the first strategy.
        against: the label of the strategy that it is compared with.
        price: the cost that areas and savings are over.
        level: the confidence level of intervals and the verdict.
        base_seed: together with the names of experiment and strategies it seeds all random draws.

    Raises:
        ValueError: the runs cannot be paired, or have no round or no range of cost in common.
    """
    first, second = experiment.get_curve(strategy), experiment.get_curve(against)
    pairs = pair_runs(first, second)
    rng = np.random.default_rng(seed("compare", experiment.title, strategy, against, base_seed))
    gaps_SR = first.value_SR[pairs.first_rows] - second.value_SR[pairs.second_rows]
    complete = np.flatnonzero(np.isfinite(gaps_SR).all(0))
    if not len(complete):
        raise ValueError(f"{experiment.title}: {strategy} and {against} have no round in common")
    last = int(complete[-1])
    area_over, (mine_S, theirs_S), all_rounds_S = paired_areas(experiment, first, second, pairs, price)
    area_S, final_S = mine_S - theirs_S, gaps_SR[:, last]
    p_K = stats.sign_flip_test(np.stack([final_S, area_S, all_rounds_S]), rng)
    saving, no_saving_reason = compute_saving(experiment, strategy, against, price, level, base_seed)
    columns = {experiment.rounds[column]: stats.student_interval(gaps_SR[:, column], level) for column in complete}
    return Comparison(
        task=experiment.title, metric=experiment.metric, strategy=strategy, against=against, pairs=pairs,
        round_differences=columns, last_round=name_last_round(experiment, first, last),
        final_difference=stats.student_interval(final_S, level), final_p=float(p_K[0]), area_over=area_over,
        areas=(float(mine_S.mean()), float(theirs_S.mean())), area_difference=stats.student_interval(area_S, level),
        area_p=float(p_K[1]),
        all_rounds_difference=None if area_over == ALL_ROUNDS else stats.student_interval(all_rounds_S, level),
        all_rounds_p=float(p_K[2]), holm_p=float(p_K[1]), family_size=1, saving=saving,
        no_saving_reason=no_saving_reason, level=level,
        difference_std=float(area_S.std(ddof=1)) if len(area_S) > 1 else 0.0,
        unequal_costs=find_unequal_costs(first, second, last),
    )  # fmt: skip


ALL_ROUNDS = "all rounds"


def paired_areas(
    experiment: Experiment, first: Curve, second: Curve, pairs: Pairs, price: Price
) -> tuple[str, Floats, Floats]:
    """Computes the normalized areas under the curves of paired runs.

    Where the rounds of a pair cost the same, its areas are over the rounds that both runs have; otherwise over the
    range of cost that both have, so that a strategy that pays for a held-out set, or buys more boxes, is compared at
    equal cost. The areas of a pair depend on no other pair: they stay the same when more seeds run.

    Returns:
        What the areas are over, in words; (2, S) the areas; and (S,) their differences over all rounds.

    Raises:
        ValueError: the runs of a pair have no range of cost in common.
    """
    costs = (price.cumulative_cost(first)[pairs.first_rows], price.cumulative_cost(second)[pairs.second_rows])
    values = (first.value_SR[pairs.first_rows], second.value_SR[pairs.second_rows])
    ranges, all_rounds_S2 = list[tuple[float, float]](), list[Floats]()
    areas_S2 = list[Floats]()
    for row, values_2R in enumerate(np.stack(values, 1)):
        costs_2R, is_shared_R = np.stack([cost_SR[row] for cost_SR in costs]), np.isfinite(values_2R).all(0)
        rounds_R = np.array(experiment.rounds, np.float64)[is_shared_R]
        areas = [stats.normalized_area(rounds_R, value_R) for value_R in values_2R[:, is_shared_R]]
        all_rounds_S2.append(np.array(areas))
        areas_S2.append(all_rounds_S2[-1])
        if is_shared_R.sum() > 1 and not np.array_equal(*costs_2R[:, is_shared_R]):
            try:
                areas_S2[-1], *ends = stats.areas_at_equal_cost(costs_2R[:, is_shared_R], values_2R[:, is_shared_R])
            except ValueError as error:
                names = f"{first.strategy} and {second.strategy}"
                raise ValueError(f"{names} have no range of {price.kind} in common: {error}") from None
            ranges.append((ends[0], ends[1]))
    area_over = ALL_ROUNDS
    if ranges:
        (low, high), about = np.mean(ranges, 0), "about " * (len(set(ranges)) > 1)
        area_over = f"{about}{low:,.0f} to {high:,.0f} {price.unit}"
    return area_over, np.stack(areas_S2, 1), np.subtract(*np.stack(all_rounds_S2, 1))


def find_unequal_costs(first: Curve, second: Curve, last_column: int) -> dict[str, tuple[float, float]]:
    """Returns the mean labels that both strategies paid up to a round, by kind, where they paid unequally."""
    kinds = sorted(first.cost.keys() & second.cost.keys())
    mine_and_theirs = {kind: [mean_over_runs(curve.cost[kind]) for curve in (first, second)] for kind in kinds}
    paid = {kind: (float(a[last_column]), float(b[last_column])) for kind, (a, b) in mine_and_theirs.items()}
    return {kind: pair for kind, pair in paid.items() if pair[0] != pair[1] and np.isfinite(pair).all()}


def name_last_round(experiment: Experiment, curve: Curve, last_column: int) -> str:
    """Returns the name of the last round that all runs of a comparison have."""
    schedule = experiment.schedule
    if schedule is not None and schedule.budget_in == "boxes":
        return f"round {last_column}"
    early = ", the last that all have" if last_column + 1 < len(experiment.rounds) else ""
    return f"{mean_over_runs(curve.num_labelled_SR)[last_column]:,.0f} images{early}"


def compute_saving(
    experiment: Experiment, strategy: str, against: str, price: Price, level: float, base_seed: int
) -> tuple[Saving | None, str]:
    """Computes the saving by the experiment's default rule; returns None and the reason where there is none."""
    rng = bootstrap_generator(experiment, strategy, against, base_seed)
    try:
        return compute_savings(experiment, strategy, against, default_rule(experiment), price, rng, level)[0], ""
    except ValueError as error:
        return None, str(error)


def compare_all(
    experiment: Experiment, against: str, price: Price, level: float, base_seed: int
) -> tuple[list[Comparison], list[str]]:
    """Compares every other strategy with one; Holm's method corrects all of these comparisons together.

    Args:
        experiment: the experiment.
        against: the label of the strategy that all others are compared with.
        price: the cost that areas and savings are over.
        level: the confidence level of intervals and verdicts.
        base_seed: seeds all random draws, see `compare`.

    Returns:
        The comparisons, and a line for each strategy that cannot be compared.
    """
    comparisons, refusals = list[Comparison](), list[str]()
    for name, curve in experiment.curves.items():
        if name != against and curve.num_runs and experiment.get_curve(against).num_runs:
            try:
                comparisons.append(compare(experiment, name, against, price, level, base_seed))
            except ValueError as error:
                refusals.append(str(error))
    states = compare_sequentially(experiment, against)
    return [replace(row, sequential_state=states.get(row.strategy)) for row in apply_holm(comparisons)], refusals


def compare_sequentially(experiment: Experiment, against: str) -> dict[str, SequentialState]:
    """Returns the state of each comparison with the reference under seeds=auto, by strategy.

    It is empty where seeds were fixed, or where `against` is not the reference. Areas are at the experiment's own
    price, whatever cost the user asks for, so that a decision stays the same.
    """
    auto = experiment.auto_seeds
    if auto is None or against != auto.reference or against not in experiment.curves:
        return {}
    price = Price("boxes" if experiment.counts_boxes else "images")
    differences, not_comparable = dict[str, Floats](), dict[str, SequentialState]()
    for name in experiment.curves:
        if name != against:
            try:
                differences[name] = experiment.metric.sign * area_differences(experiment, name, against, price)
            except ValueError:  # `compare` gives the reason
                not_comparable[name] = SequentialState("not comparable", auto.looks[0])
    return not_comparable | sequential_states(differences, auto, len(not_comparable))


def area_differences(experiment: Experiment, strategy: str, against: str, price: Price) -> Floats:
    """(N,): the differences of areas, strategy minus the other, for the seeds 0, 1 ... that both have finished."""
    first, second = experiment.curves[strategy], experiment.curves[against]
    finished = set(first.seeds) & set(second.seeds) - first.unfinished_seeds - second.unfinished_seeds
    num_seeds = next(number for number in itertools.count() if number not in finished)
    if not num_seeds:
        return np.empty(0)
    pairs = pair_runs(first, second)
    _, areas_2S, _ = paired_areas(experiment, first, second, pairs, price)
    by_seed = dict(zip(pairs.seeds, areas_2S[0] - areas_2S[1], strict=True))
    return np.array([by_seed[number] for number in range(num_seeds)])


def describe_state(state: SequentialState) -> str:
    """Describes what a look of seeds=auto found."""
    num_seeds = format_seeds(state.num_seeds)
    return {
        "open": f"the next look is at {num_seeds}",
        "not comparable": "their costs have no range in common, or they started from different images",
        "given up": f"at the look at {num_seeds}: a verdict became unlikely, which does not mean equal",
        "undecided": f"after {num_seeds}, the most that max_seeds allows",
    }.get(state.status, f"at the look at {num_seeds}")


def apply_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons with p-values that Holm's method corrects over all of them."""
    adjusted_K = stats.holm(np.array([comparison.area_p for comparison in comparisons]))
    size = len(comparisons)
    return [
        replace(comparison, holm_p=float(p), family_size=size)
        for comparison, p in zip(comparisons, adjusted_K, strict=True)
    ]
