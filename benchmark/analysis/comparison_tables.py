"""Comparisons as people read them, and as tables: lines, rows, notes and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.analysis import stats
from benchmark.analysis.comparisons import ROUNDS, Comparison
from benchmark.analysis.savings import Saving
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import csv_of, seeds
from benchmark.system import files
from benchmark.text.escaping import visible
from benchmark.text.words import plural, slug

if TYPE_CHECKING:
    import pandas as pd


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
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric.name,
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
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric.name,
            "round": number, "seeds": len(one.pairs.seeds), "difference": gap.value, "low": gap.low, "high": gap.high,
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
