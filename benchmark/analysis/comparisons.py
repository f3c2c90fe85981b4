"""Paired comparisons of strategies: how far apart, how sure, and what it would take to know.

Shapes: S runs (pairs), K comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import files
from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, mean
from benchmark.analysis.savings import Price, Saving, generator, own_rule, savings
from benchmark.analysis.stats import Interval, Pairs, paired
from benchmark.analysis.tables import csv_of, seeds
from benchmark.escaping import visible
from benchmark.manifest import slug
from benchmark.seeds import seed
from benchmark.words import plural

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
    areas: tuple[float, float]  # under the curves over images trained on, per image: the mean score on the way
    area: Interval  # their difference
    area_p: float
    holm_p: float  # of `area_p`, over all comparisons made together
    family: int  # comparisons that are made together
    saving: Saving | None  # at the smaller of both final scores, or in the schedule's band
    why_not: str  # why there is no saving
    level: float
    spread: float  # standard deviation of the paired differences of areas
    paid: dict[str, tuple[float, float]]  # labels paid up to the last round, where they differ: images, boxes

    @property
    def detectable(self) -> float:
        """The difference of areas that as many pairs of this spread find in 4 of 5 cases; infinite: none."""
        found = stats.detectable(len(self.pairs.seeds), self.level, self.family)
        return found * self.spread if math.isfinite(found) else math.inf

    @property
    def smallest_p(self) -> float:
        """The smallest p that the sign-flip test can give for as many pairs, after Holm's correction."""
        return min(1.0, float(self.family * 2.0 ** (1 - len(self.pairs.seeds))))

    @property
    def verdict(self) -> str:
        """better, worse or undecided, by Holm's p of the areas."""
        if not self.holm_p <= 1 - self.level:
            return "undecided"
        return "better" if self.area.value > 0 else "worse"

    @property
    def why(self) -> str:
        """Why it is undecided; "" where it is decided."""
        if self.verdict != "undecided":
            return ""
        number, alpha = len(self.pairs.seeds), 1 - self.level
        if not self.spread and not self.area.value and number > 1:
            return f"no difference in any of {seeds(number)}"
        if math.isinf(self.detectable):
            least = math.ceil(1 + math.log2(self.family / alpha) - 1e-9)
            among = f" in one of {self.family} comparisons" if self.family > 1 else ""
            return f"with {seeds(number)} p is {self.smallest_p:.2g} at least{among}: it takes {seeds(least)} to decide"
        return f"{seeds(number)} show a difference of {self.detectable:.2g} in 4 of 5 cases, smaller ones less often"


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
    mine_S, theirs_S = (
        stats.areas(replace(curve, value_SR=curve.value_SR[:, : last + 1]), experiment.rounds[: last + 1], rows)
        for curve, rows in ((first, pairs.first), (second, pairs.second))
    )
    area_S, final_S = mine_S - theirs_S, gaps_SR[:, last]
    p_2 = stats.sign_flip(np.stack([final_S, area_S]), rng)
    saving, why_not = saved(experiment, strategy, against, price, level, start)
    return Comparison(
        experiment.title, experiment.metric, strategy, against, pairs,
        {experiment.rounds[number]: stats.student(gaps_SR[:, number], level) for number in whole},
        place(experiment, first, last),
        stats.student(final_S, level), float(p_2[0]), (float(mine_S.mean()), float(theirs_S.mean())),
        stats.student(area_S, level), float(p_2[1]), float(p_2[1]), 1, saving, why_not, level,
        float(area_S.std(ddof=1)) if len(area_S) > 1 else 0.0, unequal(first, second, last),
    )  # fmt: skip


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
    return corrected(made), refused


def corrected(made: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's p over all of them."""
    adjusted_K = stats.holm(np.array([one.area_p for one in made]))
    return [replace(one, holm_p=float(p), family=len(made)) for one, p in zip(made, adjusted_K, strict=True)]


def lines(one: Comparison, places: int) -> list[str]:
    """The answer in five lines."""
    alone = f" (left out: {', '.join(one.pairs.alone)})" if one.pairs.alone else ""
    holm = f", corrected for {one.family} tasks (Holm): {one.holm_p:.3g}" if one.family > 1 else ""
    return [
        f"{one.strategy} minus {one.against} on {one.task}: {seeds(len(one.pairs.seeds))}, paired{alone}",
        f"{one.metric} at {one.at}{charged(one)}: {shown(one.final, places, '+')}, p = {one.final_p:.3g} (sign flips)",
        f"mean {one.metric} over all rounds: {shown(one.area, places, '+')}, p = {one.area_p:.3g}{holm}",
        saving_line(one, places),
        f"{one.verdict}{': ' * bool(one.why)}{one.why}",
    ]


def charged(one: Comparison) -> str:
    """What the two paid where they did not pay the same, which areas and their tests leave aside."""
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
    return f"at {one.metric} {paid.target:.{places}f}, the smaller final one: {paid.words or figures}"


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
            "area_high": one.area.high, "area_p": one.area_p, "holm_p": one.holm_p, "level": one.level,
            "detectable": one.detectable if math.isfinite(one.detectable) else math.nan,
            "saved": one.saving.saved.value if one.saving else math.nan,
            "percent": one.saving.percent.value if one.saving else math.nan, "verdict": one.verdict,
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
    goal = "the band of scores in which runs end" if in_band else "the smaller of both final scores"
    lines = {
        "seeds": "pairs of runs that are compared, one with each seed",
        "final": f"difference of the {first.metric} in the last round, and its {100 * first.level:g} % interval",
        "area": "difference of the mean score over all rounds, whatever was paid for them, and its interval",
        "final p, area p": "share of all ways to flip the signs of the seeds' differences that give as large a mean",
        "Holm": f"area p, corrected for {plural(first.family, 'comparison')}: it gives the verdict",
        "detectable": "area difference that so many seeds of this spread find in 4 of 5 cases (none: they cannot)",
        "saved %": f"labels saved on the way to {goal}",
        "no interval": f"fewer than {stats.FEWEST} seeds, or all seeds differ by the same",
    }
    return "\n".join(visible(f"{name}: {words}") for name, words in lines.items())


def percent(saving: Saving | None) -> str:
    """Per cent saved, or that one of the two does not get there."""
    if saving is None:
        return ""
    return "not reached" if saving.words else shown(saving.percent, 0)


def write(made: Mapping[str, Sequence[Comparison]], folder: Path) -> None:
    """comparisons/NAME.csv, and NAME-rounds.csv round by round, for each experiment that has any."""
    for title, found in made.items():
        if found:
            rounds = folder / "comparisons" / f"{slug(title)}-rounds.csv"
            files.replace(rounds, csv_of(by_round(found)), folder.parent)
            files.replace(folder / "comparisons" / f"{slug(title)}.csv", csv_of(tidy_rows(found)), folder.parent)
