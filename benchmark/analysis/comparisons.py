"""Paired comparisons of strategies: how far apart, how sure, and what it would take to know.

Shapes: S runs (pairs), K comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.analysis import stats
from benchmark.analysis.curves import Experiment, Floats
from benchmark.analysis.savings import Price, Rule, Saving, generator, savings
from benchmark.analysis.stats import Interval, Pairs, paired
from benchmark.seeds import seed
from benchmark.store import replace as replace_file
from benchmark.store import slug


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on one experiment; differences are strategy minus other, in the score's unit."""

    task: str
    metric: str
    strategy: str
    against: str
    pairs: Pairs
    at: str  # the last round that all pairs have
    final: Interval  # difference there
    final_p: float  # sign-flip test
    areas: tuple[float, float]  # under the curves over images trained on, per image: the mean score on the way
    area: Interval  # their difference
    area_p: float
    holm_p: float  # of `area_p`, over all comparisons made together
    detectable: float  # the difference of areas that as many pairs of this spread find in 4 of 5 cases
    saving: Saving  # at the other's final score
    level: float

    @property
    def smallest_p(self) -> float:
        """The smallest p that the sign-flip test can give for as many pairs."""
        return float(2.0 ** (1 - len(self.pairs.seeds)))

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
        if self.smallest_p > alpha:
            least = math.ceil(1 - math.log2(alpha))
            return f"{seeds(number)} cannot give p below {self.smallest_p:.2g}: it takes {least}"
        return f"{seeds(number)} find a difference of {self.detectable:.2g} in 4 of 5 cases, not a smaller one"


def seeds(number: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} seed" + "s" * (number != 1)


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
    rounds = slice(0, int(whole[-1]) + 1)
    mine_S, theirs_S = (
        areas(experiment, name, rows, rounds) for name, rows in ((strategy, pairs.first), (against, pairs.second))
    )
    area_S = mine_S - theirs_S
    final_S = gaps_SR[:, whole[-1]]
    p_2 = stats.sign_flip(np.stack([final_S, area_S]), rng)
    spread = float(area_S.std(ddof=1)) if len(area_S) > 1 else math.nan
    chance = generator(experiment, strategy, against, start)
    [saving] = savings(experiment, strategy, against, Rule("final"), price, chance, level)
    return Comparison(
        experiment.title, experiment.metric, strategy, against, pairs,
        f"{experiment.num_labelled_R[whole[-1]]:,.0f} images", stats.student(final_S, level), float(p_2[0]),
        (float(mine_S.mean()), float(theirs_S.mean())), stats.student(area_S, level), float(p_2[1]), float(p_2[1]),
        stats.detectable(len(area_S), level) * spread, saving, level,
    )  # fmt: skip


def areas(experiment: Experiment, strategy: str, rows: Sequence[int], rounds: slice) -> Floats:
    """(S,): areas over the rounds that both have."""
    curve = experiment.get(strategy)
    cut = replace(curve, value_SR=curve.value_SR[:, rounds], num_labelled_SR=curve.num_labelled_SR[:, rounds])
    return stats.areas(cut, rows)


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
    return [replace(one, holm_p=float(p)) for one, p in zip(made, adjusted_K, strict=True)]


def lines(one: Comparison, places: int) -> list[str]:
    """The answer in five lines."""
    alone = f" (without a partner: {', '.join(one.pairs.alone)})" if one.pairs.alone else ""
    paid = one.saving
    saved = paid.words or f"saves {shown(paid.saved, 0)} {unit(paid)}, {shown(paid.percent, 1)} %"
    return [
        f"{one.strategy} against {one.against} on {one.task}: {seeds(len(one.pairs.seeds))}, paired{alone}",
        f"{one.metric} at {one.at}: {shown(one.final, places, '+')}, p {one.final_p:.3g} (sign flips)",
        f"area under the curve: {shown(one.area, places, '+')}, p {one.area_p:.3g}, Holm {one.holm_p:.3g}",
        f"at {one.against}'s final {one.metric} {paid.target:.{places}f}: {saved}",
        f"{one.verdict}{': ' * bool(one.why)}{one.why}",
    ]


def shown(interval: Interval, places: int, sign: str = "") -> str:
    """`+1.20 [0.30, 2.10]`; without ends where there are none, with ∞ where they are not bounded."""
    value = f"{interval.value:{sign},.{places}f}"
    if math.isnan(interval.low):
        return value
    ends = (f"{end:{sign},.{places}f}".replace("inf", "∞") for end in (interval.low, interval.high))
    return f"{value} [{', '.join(ends)}]"


def unit(saving: Saving) -> str:
    """What a saving counts."""
    return "s of annotation" if saving.price.kind == "time" else saving.price.kind


def tidy(made: Sequence[Comparison]) -> pd.DataFrame:
    """One row a comparison."""
    rows = [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric,
            "seeds": len(one.pairs.seeds), "final": one.final.value, "final_low": one.final.low,
            "final_high": one.final.high, "final_p": one.final_p, "own_area": one.areas[0],
            "other_area": one.areas[1], "area": one.area.value, "area_low": one.area.low,
            "area_high": one.area.high, "area_p": one.area_p, "holm_p": one.holm_p, "detectable": one.detectable,
            "saved": one.saving.saved.value, "percent": one.saving.percent.value, "verdict": one.verdict,
        }
        for one in made
    ]  # fmt: skip
    return pd.DataFrame(rows)


def rows(made: Sequence[Comparison], places: int) -> list[dict[str, object]]:
    """The comparisons for people."""
    return [
        {
            "strategy": one.strategy, "final": shown(one.final, places, "+"), "p": f"{one.final_p:.2g}",
            "area": shown(one.area, places, "+"), "p ": f"{one.area_p:.2g}", "Holm": f"{one.holm_p:.2g}",
            "detectable": f"{one.detectable:.{places}f}",
            "saved %": "not reached" if one.saving.words else shown(one.saving.percent, 0), "verdict": one.verdict,
        }
        for one in made
    ]  # fmt: skip


def write(made: Mapping[str, Sequence[Comparison]], folder: Path) -> None:
    """NAME-comparisons.csv for each experiment that has any."""
    for title, found in made.items():
        if found:
            replace_file(folder / f"{slug(title)}-comparisons.csv", tidy(found).to_csv(index=False))
