"""Comparisons as people read them, and as tables: lines, rows, notes and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.analysis import stats
from benchmark.analysis.comparisons import ALL_ROUNDS, Comparison
from benchmark.analysis.savings import Saving
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import format_seeds, to_csv
from benchmark.system import files
from benchmark.text.escaping import make_visible
from benchmark.text.words import plural, slug

if TYPE_CHECKING:
    import pandas as pd


def describe_comparison(comparison: Comparison, digits: int) -> list[str]:
    """The answer in five lines, or six where rounds are not equally dear."""
    alone = f" (left out: {', '.join(comparison.pairs.unpaired_runs)})" if comparison.pairs.unpaired_runs else ""
    holm = (
        f", corrected for {comparison.family_size} tasks (Holm): {comparison.holm_p:.3g}"
        if comparison.family_size > 1
        else ""
    )
    return [
        f"{comparison.strategy} minus {comparison.against} on {comparison.task}: {format_seeds(len(comparison.pairs.seeds))}, paired{alone}",
        f"{comparison.metric} at {comparison.last_round}{format_unequal_costs(comparison)}: {format_interval(comparison.final_difference, digits, '+')}, p = {comparison.final_p:.3g} (sign flips)",
        f"mean {comparison.metric} over {comparison.area_over}: {format_interval(comparison.area_difference, digits, '+')}, p = {comparison.area_p:.3g}{holm}",
        *describe_all_rounds(comparison, digits),
        describe_saving(comparison, digits),
        comparison.sentence,
    ]


def describe_all_rounds(comparison: Comparison, digits: int) -> list[str]:
    """The difference over all rounds, where the verdict is over the price."""
    if comparison.all_rounds_difference is None:
        return []
    gap = format_interval(comparison.all_rounds_difference, digits, "+")
    return [f"over all rounds, whatever was paid for them: {gap}, p = {comparison.all_rounds_p:.3g}"]


def format_unequal_costs(comparison: Comparison) -> str:
    """What the two paid where they did not pay the same."""
    told = [f"{mine:,.0f} and {theirs:,.0f} {kind}" for kind, (mine, theirs) in comparison.unequal_costs.items()]
    return f" (paid: {', '.join(told)})" if told else ""


def describe_saving(comparison: Comparison, digits: int) -> str:
    """What is saved, in a line."""
    paid = comparison.saving
    if paid is None:
        return f"saving: {comparison.no_saving_reason}"
    figures = f"saves {format_interval(paid.amount, 0)} {paid.unit}, {format_interval(paid.percent, 1)} %"
    if paid.rule.kind == "band":
        return f"in {paid.rule}: {paid.not_reached_note or figures}"
    rough = f"; {paid.few_rounds_note}" * bool(paid.few_rounds_note and not paid.not_reached_note)
    return f"at {comparison.metric} {paid.target:.{digits}f}, the smaller final one: {paid.not_reached_note or figures}{rough}"


def format_interval(interval: Interval, digits: int, sign: str = "") -> str:
    """`+1.20 [0.30, 2.10]`; without ends where there are none or no spread to tell them from, with ∞ where they are not
    bounded."""
    value = f"{interval.value:{sign}z,.{digits}f}"
    if math.isnan(interval.low) or interval.low == interval.high:
        return value
    ends = (f"{end:{sign},.{digits}f}".replace("inf", "∞") for end in (interval.low, interval.high))
    return f"{value} [{', '.join(ends)}]"


def tidy_rows(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """One row a comparison."""
    return [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric.name,
            "seeds": len(one.pairs.seeds), "final": one.final_difference.value, "final_low": one.final_difference.low,
            "final_high": one.final_difference.high, "final_p": one.final_p, "own_area": one.areas[0],
            "other_area": one.areas[1], "area": one.area_difference.value, "area_low": one.area_difference.low,
            "area_high": one.area_difference.high, "area_p": one.area_p, "area_over": one.area_over,
            "rounds_area": one.area_difference.value if one.all_rounds_difference is None else one.all_rounds_difference.value,
            "rounds_area_p": one.all_rounds_p, "holm_p": one.holm_p, "level": one.level,
            "detectable": one.detectable_difference if math.isfinite(one.detectable_difference) else math.nan,
            "saved": one.saving.amount.value if one.saving else math.nan,
            "percent": one.saving.percent.value if one.saving else math.nan, "verdict": one.verdict,
            "look": one.sequential_state.num_seeds if one.sequential_state else None,
        }
        for one in comparisons
    ]  # fmt: skip


def tidy_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """The `tidy_rows`."""
    import pandas as pd  # takes a fifth of a second: no run needs it

    return pd.DataFrame(tidy_rows(comparisons))


def rows_by_round(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """One row a comparison and round: the mean paired difference and its interval."""
    return [
        {
            "task": one.task, "strategy": one.strategy, "against": one.against, "metric": one.metric.name,
            "round": number, "seeds": len(one.pairs.seeds), "difference": gap.value, "low": gap.low, "high": gap.high,
            "level": one.level,
        }
        for one in comparisons
        for number, gap in one.round_differences.items()
    ]  # fmt: skip


def display_rows(comparisons: Sequence[Comparison], digits: int) -> list[dict[str, object]]:
    """The comparisons for people."""
    return [
        {
            "strategy": one.strategy, "seeds": len(one.pairs.seeds), "verdict": one.verdict,
            "final": format_interval(one.final_difference, digits, "+"), "final p": f"{one.final_p:.2g}",
            "area": format_interval(one.area_difference, digits, "+"), "area p": f"{one.area_p:.2g}", "Holm": f"{one.holm_p:.2g}",
            "detectable": f"{one.detectable_difference:.{digits}f}" if math.isfinite(one.detectable_difference) else "none",
            "saved %": format_percent_saved(one.saving),
        }
        for one in comparisons
    ]  # fmt: skip


def explain_columns(comparisons: Sequence[Comparison]) -> str:
    """What the columns of `rows` are, a line each."""
    first = comparisons[0]
    in_band = first.saving is not None and first.saving.rule.kind == "band"
    units = [one.area_over.rpartition(" ")[2] for one in comparisons if one.area_over != ALL_ROUNDS]
    over = ALL_ROUNDS + "".join(
        f", or over the {unit} that both paid for where rounds cost unequally" for unit in units[:1]
    )
    decides = ": it gives the verdict" if first.sequential_state is None else ""
    goal = "the band of scores in which runs end" if in_band else "the smaller of both final scores"
    rough = next(
        (f". {one.saving.few_rounds_note}" for one in comparisons if one.saving and one.saving.few_rounds_note), ""
    )
    lines = {
        "seeds": "pairs of runs that are compared, one with each seed",
        "final": f"difference of the {first.metric} in the last round, and its {100 * first.level:g} % interval",
        "area": f"difference of the mean score over {over}, and its interval",
        "final p, area p": "share of all ways to flip the signs of the seeds' differences that give as large a mean",
        "Holm": f"area p, corrected for the {plural(first.family_size, 'comparison')} of this table alone{decides}",
        "verdict": explain_verdicts(first),
        "[ ]": INTERVALS_NOTE,
        "detectable": "area difference that so many seeds of this spread find in 4 of 5 cases (none: they cannot)",
        "saved %": f"labels saved on the way to {goal}{rough}",
        "no interval": f"fewer than {stats.MIN_RUNS} seeds, or all seeds differ by the same",
    }
    return "\n".join(make_visible(f"{name}: {words}") for name, words in lines.items())


def explain_verdicts(comparison: Comparison) -> str:
    """What the verdicts mean."""
    if comparison.sequential_state is not None:
        return LOOKS_NOTE
    inner = f"; equivalent: the {100 * (2 * comparison.level - 1):g} % interval of the area lies within ± {comparison.margin:g}"
    same = "" if math.isnan(comparison.margin) else inner
    return f"better, worse: at {100 * comparison.level:g} %{same}; undecided: too few seeds to tell"


INTERVALS_NOTE = "intervals, each for itself: not corrected for how many there are"
LOOKS_NOTE = (
    "of seeds=auto, by looks at growing numbers of seeds (docs/auto_seeds.md); given up: a verdict became unlikely, "
    "which does not mean equal. Where a look stopped early, differences are a little too far from zero"
)


def format_percent_saved(saving: Saving | None) -> str:
    """Per cent saved, or that one of the two does not get there."""
    if saving is None:
        return ""
    return "not reached" if saving.not_reached_note else format_interval(saving.percent, 0)


def write_comparisons(comparisons: Mapping[str, Sequence[Comparison]], folder: Path) -> None:
    """comparisons/NAME.csv, and NAME-rounds.csv round by round, for each experiment that has any; earlier ones of an
    experiment that has none are removed."""
    for title, found in comparisons.items():
        for ending, rows in (("-rounds", rows_by_round(found)), ("", tidy_rows(found))):
            path = folder / "comparisons" / f"{slug(title)}{ending}.csv"
            if rows:
                files.write_atomically(path, to_csv(rows), folder.parent)
            else:
                files.remove(path, folder.parent)
