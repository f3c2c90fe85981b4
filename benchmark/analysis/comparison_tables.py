"""Comparisons of strategies as people read them and as tables: lines, rows, notes and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.analysis import stats
from benchmark.analysis.comparisons import ALL_ROUNDS, Comparison
from benchmark.analysis.savings import Saving
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import format_seeds, to_csv
from benchmark.system import files
from benchmark.text.escaping import make_visible
from benchmark.text.words import plural, slug


def describe_comparison(comparison: Comparison, digits: int) -> list[str]:
    """Returns a comparison in five lines of text, or in six where the rounds of the two strategies cost unequally."""
    unpaired = f" (left out: {', '.join(comparison.pairs.unpaired_runs)})" if comparison.pairs.unpaired_runs else ""
    num_seeds = format_seeds(len(comparison.pairs.seeds))
    at = f"{comparison.last_round}{format_unequal_costs(comparison)}"
    final = format_interval(comparison.final_difference, digits, "+")
    area = format_interval(comparison.area_difference, digits, "+")
    holm = f", corrected for {comparison.family_size} tasks (Holm): {comparison.holm_p:.3g}"
    return [
        f"{comparison.strategy} minus {comparison.against} on {comparison.task}: {num_seeds}, paired{unpaired}",
        f"{comparison.metric} at {at}: {final}, p = {comparison.final_p:.3g} (sign flips)",
        f"mean {comparison.metric} over {comparison.area_over}: {area}, p = {comparison.area_p:.3g}"
        + holm * (comparison.family_size > 1),
        *describe_all_rounds(comparison, digits),
        describe_saving(comparison, digits),
        comparison.sentence,
    ]


def describe_all_rounds(comparison: Comparison, digits: int) -> list[str]:
    """Returns a line on the difference over all rounds where the verdict is on the difference at equal cost."""
    if comparison.all_rounds_difference is None:
        return []
    difference = format_interval(comparison.all_rounds_difference, digits, "+")
    return [f"over all rounds, whatever was paid for them: {difference}, p = {comparison.all_rounds_p:.3g}"]


def format_unequal_costs(comparison: Comparison) -> str:
    """Formats what the two strategies paid where they paid unequally; empty where they paid the same."""
    costs = [f"{mine:,.0f} and {theirs:,.0f} {kind}" for kind, (mine, theirs) in comparison.unequal_costs.items()]
    return f" (paid: {', '.join(costs)})" if costs else ""


def describe_saving(comparison: Comparison, digits: int) -> str:
    """Returns a line on the labels that are saved, or on why that is not known."""
    saving = comparison.saving
    if saving is None:
        return f"saving: {comparison.no_saving_reason}"
    figures = f"saves {format_interval(saving.amount, 0)} {saving.unit}, {format_interval(saving.percent, 1)} %"
    if saving.rule.kind == "band":
        return f"in {saving.rule}: {saving.not_reached_note or figures}"
    note = f"; {saving.few_rounds_note}" * bool(saving.few_rounds_note and not saving.not_reached_note)
    at = f"at {comparison.metric} {saving.target:.{digits}f}, the smaller final one"
    return f"{at}: {saving.not_reached_note or figures}{note}"


def format_interval(interval: Interval, digits: int, sign: str = "") -> str:
    """Formats an estimate and its interval: `+1.20 [0.30, 2.10]`.

    The interval is left out where it is unknown or has no width; an unbounded end is ∞.
    """
    value = f"{interval.value:{sign}z,.{digits}f}"
    if math.isnan(interval.low) or interval.low == interval.high:
        return value
    ends = (f"{end:{sign},.{digits}f}".replace("inf", "∞") for end in (interval.low, interval.high))
    return f"{value} [{', '.join(ends)}]"


def tidy_rows(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """Returns one row for each comparison, in the columns of `comparisons/NAME.csv`."""
    return [tidy_row(comparison) for comparison in comparisons]


def tidy_row(row: Comparison) -> dict[str, object]:
    """Returns a comparison as a row of numbers; NaN for what is not known."""
    final, area, saving = row.final_difference, row.area_difference, row.saving
    return {
        "task": row.task, "strategy": row.strategy, "against": row.against, "metric": row.metric.name,
        "seeds": len(row.pairs.seeds), "final": final.value, "final_low": final.low, "final_high": final.high,
        "final_p": row.final_p, "own_area": row.areas[0], "other_area": row.areas[1], "area": area.value,
        "area_low": area.low, "area_high": area.high, "area_p": row.area_p, "area_over": row.area_over,
        "rounds_area": area.value if row.all_rounds_difference is None else row.all_rounds_difference.value,
        "rounds_area_p": row.all_rounds_p, "holm_p": row.holm_p, "level": row.level,
        "detectable": row.detectable_difference if math.isfinite(row.detectable_difference) else math.nan,
        "saved": saving.amount.value if saving else math.nan,
        "percent": saving.percent.value if saving else math.nan, "verdict": row.verdict,
        "look": row.sequential_state.num_seeds if row.sequential_state else None,
    }  # fmt: skip


def rows_by_round(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """Returns one row for each comparison and round: the mean paired difference and its interval."""
    return [
        {
            "task": row.task, "strategy": row.strategy, "against": row.against, "metric": row.metric.name,
            "round": number, "seeds": len(row.pairs.seeds), "difference": difference.value, "low": difference.low,
            "high": difference.high, "level": row.level,
        }
        for row in comparisons
        for number, difference in row.round_differences.items()
    ]  # fmt: skip


def display_rows(comparisons: Sequence[Comparison], digits: int) -> list[dict[str, object]]:
    """Returns one row of text for each comparison, in the columns that `explain_columns` explains."""
    return [
        {
            "strategy": row.strategy, "seeds": len(row.pairs.seeds), "verdict": row.verdict,
            "final": format_interval(row.final_difference, digits, "+"), "final p": f"{row.final_p:.2g}",
            "area": format_interval(row.area_difference, digits, "+"), "area p": f"{row.area_p:.2g}",
            "Holm": f"{row.holm_p:.2g}", "detectable": format_detectable(row, digits),
            "saved %": format_percent_saved(row.saving),
        }
        for row in comparisons
    ]  # fmt: skip


def format_detectable(comparison: Comparison, digits: int) -> str:
    """Formats the difference that so many seeds can detect; `none` where they cannot detect any."""
    difference = comparison.detectable_difference
    return f"{difference:.{digits}f}" if math.isfinite(difference) else "none"


def explain_columns(comparisons: Sequence[Comparison]) -> str:
    """Returns the note below a table of comparisons: a line for each of its columns."""
    first = comparisons[0]
    in_band = first.saving is not None and first.saving.rule.kind == "band"
    units = [row.area_over.rpartition(" ")[2] for row in comparisons if row.area_over != ALL_ROUNDS]
    at_equal_cost = (f", or over the {unit} that both paid for where rounds cost unequally" for unit in units[:1])
    decides = ": it gives the verdict" if first.sequential_state is None else ""
    goal = "the band of scores in which runs end" if in_band else "the smaller of both final scores"
    notes = (f". {row.saving.few_rounds_note}" for row in comparisons if row.saving and row.saving.few_rounds_note)
    lines = {
        "seeds": "pairs of runs that are compared, one pair for each seed",
        "final": f"difference of the {first.metric} in the last round, and its {100 * first.level:g} % interval",
        "area": f"difference of the mean score over {ALL_ROUNDS}{''.join(at_equal_cost)}, and its interval",
        "final p, area p": "share of the sign flips of the seeds' differences that give a mean at least as large",
        "Holm": f"area p, corrected for the {plural(first.family_size, 'comparison')} of this table alone{decides}",
        "verdict": explain_verdicts(first),
        "[ ]": INTERVALS_NOTE,
        "detectable": "area difference that so many seeds of this spread find in 4 of 5 cases (none: they cannot)",
        "saved %": f"labels saved on the way to {goal}{next(notes, '')}",
        "no interval": f"fewer than {stats.MIN_RUNS} seeds, or all seeds differ by the same amount",
    }
    return "\n".join(make_visible(f"{name}: {meaning}") for name, meaning in lines.items())


def explain_verdicts(comparison: Comparison) -> str:
    """Returns what the verdicts of a table of comparisons mean."""
    if comparison.sequential_state is not None:
        return LOOKS_NOTE
    interval = f"the {100 * (2 * comparison.level - 1):g} % interval of the area"
    equivalent = f"; equivalent: {interval} lies within ± {comparison.margin:g}"
    without_margin = math.isnan(comparison.margin)
    return (
        f"better, worse: at {100 * comparison.level:g} %{'' if without_margin else equivalent}; "
        "undecided: too few seeds to tell"
    )


INTERVALS_NOTE = "intervals, each taken alone: not corrected for their number"
LOOKS_NOTE = (
    "of seeds=auto, by looks at growing numbers of seeds (docs/auto_seeds.md); given up: a verdict became unlikely, "
    "which does not mean equal. Where a look stopped early, differences are a little too far from zero"
)


def format_percent_saved(saving: Saving | None) -> str:
    """Formats the percentage of labels saved; `not reached` where a strategy does not reach the score."""
    if saving is None:
        return ""
    return "not reached" if saving.not_reached_note else format_interval(saving.percent, 0)


def write_comparisons(comparisons: Mapping[str, Sequence[Comparison]], folder: Path) -> None:
    """Writes comparisons/NAME.csv and, with a row for each round, comparisons/NAME-rounds.csv for each experiment.

    Removes the files of an experiment that has no comparisons any more.

    Args:
        comparisons: the comparisons of each experiment, by its title.
        folder: the folder of the tables.
    """
    for title, rows in comparisons.items():
        for ending, table in (("-rounds", rows_by_round(rows)), ("", tidy_rows(rows))):
            path = folder / "comparisons" / f"{slug(title)}{ending}.csv"
            if table:
                files.write_atomically(path, to_csv(table), folder.parent)
            else:
                files.remove(path, folder.parent)
