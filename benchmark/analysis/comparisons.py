"""Paired comparisons of strategies: how far apart, how sure, and what it would take to know.

Shapes: S runs (pairs), K comparisons.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats, mean
from benchmark.analysis.savings import Price, Saving, generator, own_rule, savings
from benchmark.analysis.sequential import State, states
from benchmark.analysis.stats import Interval, Pairs, paired
from benchmark.analysis.tables import MARGIN, csv_of, seeds
from benchmark.analysis.tables import places as places_of
from benchmark.seeds import seed
from benchmark.system import files
from benchmark.text.escaping import visible
from benchmark.text.words import plural, slug

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on one experiment; differences are strategy minus other, in the score's unit."""

    task: str
    metric: str
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
            return "better" if self.area.value > 0 else "worse"
        return "equivalent" if self.equivalent else "undecided"

    @property
    def margin(self) -> float:
        """How far apart two scores may be and still agree; NaN where that is not defined."""
        return MARGIN.get(self.metric, math.nan)

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
        pair, number = f"{self.strategy} {{}} {self.against}", len(self.pairs.seeds)
        if self.verdict in ("better", "worse"):
            look = f", {self.why}" if self.state else ""
            return f"{pair.format(f'is {self.verdict} than')}: {self.effect}, {seeds(number)}{look}"
        if self.verdict == "equivalent":
            return f"{pair.format('is as good as')} to within {self.margin:g}: {self.why}, {seeds(number)}"
        return f"{pair.format('against')} is {self.verdict}: {self.why}"

    @property
    def effect(self) -> str:
        """How much better or worse it is: in labels where that is known, else in the score."""
        paid, sign, sure = self.saving, 1 if self.verdict == "better" else -1, f", {100 * self.level:g} % interval"
        if paid is not None and paid.reached and sign * paid.percent.value > 0:
            low, high = sorted(sign * end for end in (paid.percent.low, paid.percent.high))
            known = f"{sure} {low:.0f} to {high:.0f} %" * (math.isfinite(low) and math.isfinite(high))
            kind = {"images": "labels", "time": "seconds"}.get(paid.price.kind, paid.price.kind)
            return f"it needs {abs(paid.percent.value):.0f} % {'fewer' if sign > 0 else 'more'} {kind}{known}"
        digits = places_of(self.metric)
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
                known[name] = differences(experiment, name, other, price)
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


def lines(one: Comparison, places: int) -> list[str]:
    """The answer in five lines, or six where rounds are not equally dear."""
    alone = f" (left out: {', '.join(one.pairs.alone)})" if one.pairs.alone else ""
    holm = f", corrected for {one.family} tasks (Holm): {one.holm_p:.3g}" if one.family > 1 else ""
    return [
        f"{one.strategy} minus {one.against} on {one.task}: {seeds(len(one.pairs.seeds))}, paired{alone}",
        f"{one.metric} at {one.at}{charged(one)}: {shown(one.final, places, '+')}, p = {one.final_p:.3g} (sign flips)",
        f"mean {one.metric} over {one.over}: {shown(one.area, places, '+')}, p = {one.area_p:.3g}{holm}",
        *rounds_line(one, places),
        saving_line(one, places),
        one.sentence,
    ]


def rounds_line(one: Comparison, places: int) -> list[str]:
    """The difference over all rounds, where the verdict is over the price."""
    if one.by_round is None:
        return []
    gap = shown(one.by_round, places, "+")
    return [f"over all rounds, whatever was paid for them: {gap}, p = {one.by_round_p:.3g}"]


def charged(one: Comparison) -> str:
    """What the two paid where they did not pay the same."""
    told = [f"{mine:,.0f} and {theirs:,.0f} {kind}" for kind, (mine, theirs) in one.paid.items()]
    return f" (paid: {', '.join(told)})" if told else ""


def saving_line(one: Comparison, places: int) -> str:
    """What is saved, in a line."""
    paid = one.saving
    if paid is None:
        return f"saving: {one.why_not}"
    figures = f"saves {shown(paid.saved, 0)} {paid.unit}, {shown(paid.percent, 1)} %"
    if paid.rule.kind == "band":
        return f"in {paid.rule}: {paid.words or figures}"
    rough = f"; {paid.few_rounds}" * bool(paid.few_rounds and not paid.words)
    return f"at {one.metric} {paid.target:.{places}f}, the smaller final one: {paid.words or figures}{rough}"


def shown(interval: Interval, places: int, sign: str = "") -> str:
    """`+1.20 [0.30, 2.10]`; without ends where there are none or no spread to tell them from, with ∞ where they are not
    bounded."""
    value = f"{interval.value:{sign}z,.{places}f}"
    if math.isnan(interval.low) or interval.low == interval.high:
        return value
    ends = (f"{end:{sign},.{places}f}".replace("inf", "∞") for end in (interval.low, interval.high))
    return f"{value} [{', '.join(ends)}]"


def tidy_rows(made: Sequence[Comparison]) -> list[dict[str, object]]:
    """One row a comparison."""
    return [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric,
            "seeds": len(one.pairs.seeds), "final": one.final.value, "final_low": one.final.low,
            "final_high": one.final.high, "final_p": one.final_p, "own_area": one.areas[0],
            "other_area": one.areas[1], "area": one.area.value, "area_low": one.area.low,
            "area_high": one.area.high, "area_p": one.area_p, "area_over": one.over,
            "rounds_area": one.area.value if one.by_round is None else one.by_round.value,
            "rounds_area_p": one.by_round_p, "holm_p": one.holm_p, "level": one.level,
            "detectable": one.detectable if math.isfinite(one.detectable) else math.nan,
            "saved": one.saving.saved.value if one.saving else math.nan,
            "percent": one.saving.percent.value if one.saving else math.nan, "verdict": one.verdict,
            "look": one.state.num_seeds if one.state else None,
        }
        for one in made
    ]  # fmt: skip


def tidy(made: Sequence[Comparison]) -> pd.DataFrame:
    """The `tidy_rows`."""
    import pandas as pd  # takes a fifth of a second: no run needs it

    return pd.DataFrame(tidy_rows(made))


def by_round(made: Sequence[Comparison]) -> list[dict[str, object]]:
    """One row a comparison and round: the mean paired difference and its interval."""
    return [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric, "round": number,
            "seeds": len(one.pairs.seeds), "difference": gap.value, "low": gap.low, "high": gap.high,
            "level": one.level,
        }
        for one in made
        for number, gap in one.rounds.items()
    ]  # fmt: skip


def rows(made: Sequence[Comparison], places: int) -> list[dict[str, object]]:
    """The comparisons for people."""
    return [
        {
            "strategy": one.strategy, "seeds": len(one.pairs.seeds), "verdict": one.verdict,
            "final": shown(one.final, places, "+"), "final p": f"{one.final_p:.2g}",
            "area": shown(one.area, places, "+"), "area p": f"{one.area_p:.2g}", "Holm": f"{one.holm_p:.2g}",
            "detectable": f"{one.detectable:.{places}f}" if math.isfinite(one.detectable) else "none",
            "saved %": percent(one.saving),
        }
        for one in made
    ]  # fmt: skip


def note(made: Sequence[Comparison]) -> str:
    """What the columns of `rows` are, a line each."""
    first = made[0]
    in_band = first.saving is not None and first.saving.rule.kind == "band"
    units = [one.over.rpartition(" ")[2] for one in made if one.over != ROUNDS]
    over = ROUNDS + "".join(
        f", or over the {unit} that both paid for where rounds cost unequally" for unit in units[:1]
    )
    decides = ": it gives the verdict" if first.state is None else ""
    goal = "the band of scores in which runs end" if in_band else "the smaller of both final scores"
    rough = next((f". {one.saving.few_rounds}" for one in made if one.saving and one.saving.few_rounds), "")
    lines = {
        "seeds": "pairs of runs that are compared, one with each seed",
        "final": f"difference of the {first.metric} in the last round, and its {100 * first.level:g} % interval",
        "area": f"difference of the mean score over {over}, and its interval",
        "final p, area p": "share of all ways to flip the signs of the seeds' differences that give as large a mean",
        "Holm": f"area p, corrected for the {plural(first.family, 'comparison')} of this table alone{decides}",
        "verdict": verdicts_note(first),
        "[ ]": INTERVALS,
        "detectable": "area difference that so many seeds of this spread find in 4 of 5 cases (none: they cannot)",
        "saved %": f"labels saved on the way to {goal}{rough}",
        "no interval": f"fewer than {stats.FEWEST} seeds, or all seeds differ by the same",
    }
    return "\n".join(visible(f"{name}: {words}") for name, words in lines.items())


def verdicts_note(one: Comparison) -> str:
    """What the verdicts mean."""
    if one.state is not None:
        return LOOKS
    inner = f"; equivalent: the {100 * (2 * one.level - 1):g} % interval of the area lies within ± {one.margin:g}"
    same = "" if math.isnan(one.margin) else inner
    return f"better, worse: at {100 * one.level:g} %{same}; undecided: too few seeds to tell"


INTERVALS = "intervals, each for itself: not corrected for how many there are"
LOOKS = (
    "of seeds=auto, by looks at growing numbers of seeds (docs/auto_seeds.md); given up: a verdict became unlikely, "
    "which does not mean equal. Where a look stopped early, differences are a little too far from zero"
)


def percent(saving: Saving | None) -> str:
    """Per cent saved, or that one of the two does not get there."""
    if saving is None:
        return ""
    return "not reached" if saving.words else shown(saving.percent, 0)


def write(made: Mapping[str, Sequence[Comparison]], folder: Path) -> None:
    """comparisons/NAME.csv, and NAME-rounds.csv round by round, for each experiment that has any; earlier ones of an
    experiment that has none are removed."""
    for title, found in made.items():
        for ending, rows in (("-rounds", by_round(found)), ("", tidy_rows(found))):
            path = folder / "comparisons" / f"{slug(title)}{ending}.csv"
            if rows:
                files.replace(path, csv_of(rows), folder.parent)
            else:
                files.remove(path, folder.parent)
