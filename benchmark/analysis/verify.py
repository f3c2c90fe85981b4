"""Our curves beside published ones: reproduced, stronger, weaker, inconclusive, or not comparable and why.

Shapes: S runs, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import SCALE_MISMATCH, Curve, Experiment, best_score, scales_differ
from benchmark.analysis.equivalence import Gap, judge
from benchmark.analysis.reading import read_experiments
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import Entry, build_row


@dataclass(frozen=True)
class Verdict:
    """One published curve and ours."""

    source: str
    task: str  # ours
    strategy: str  # ours; the published label where we have none
    published_label: str  # its label there
    num_runs: int  # of ours
    gaps: list[Gap]  # ours minus published, at each number of labels that both have
    level: float
    verdict: str  # reproduced, stronger, weaker, stronger and weaker, inconclusive, not comparable
    why: str

    def interval(self, gap: Gap) -> Interval:
        """The interval of one of its gaps: of level 0.9 for a verdict at 0.95, see `equivalence.judge`."""
        return gap.interval(2 * self.level - 1)

    @property
    def largest_gap(self) -> Gap:
        """The gap that is furthest from zero. ValueError where there is none."""
        return max(self.gaps, key=lambda gap: abs(gap.value))


def verify(ours: Sequence[Experiment], published: Sequence[Experiment], level: float = 0.95) -> list[Verdict]:
    """A verdict on every published curve of the tasks that ours have. ValueError where none of ours was published."""
    pairs = [(mine, theirs) for mine in ours if mine.runs for theirs in counterparts(mine, published)]
    if not pairs:
        names = ", ".join(one.title for one in ours)
        known = ", ".join(dict.fromkeys(one.task for one in published))
        raise ValueError(f"nothing published belongs to {names}; there are curves of {known}")
    return [judge_curve(mine, theirs, label, level) for mine, theirs in pairs for label in theirs.curves]


def read_published(records: Sequence[str]) -> list[Experiment]:
    """The published curves at these paths. ValueError where they are runs: `compare` pairs those."""
    found = read_experiments(records) if records else []
    if runs := [one.title for one in found if one.runs]:
        raise ValueError(f"against={','.join(records)}: {runs[0]} is a run, not a published curve")
    return found


def counterparts(mine: Experiment, published: Sequence[Experiment]) -> list[Experiment]:
    """The published experiments that ours repeats, by its name; else those whose task its name begins with."""
    named = [one for one in published if own_title(one) == mine.title]
    if named:
        return named
    alike = [one for one in published if "experiments" not in one.source_info and mine.title.startswith(one.task)]
    longest = max((len(one.task) for one in alike), default=0)
    return [one for one in alike if len(one.task) == longest]


def own_title(theirs: Experiment) -> str:
    """The experiment of our grids that repeats a published one."""
    return str(theirs.source_info.get("experiments", {}).get(theirs.task, theirs.task))


def own_label(theirs: Experiment, label: str, mine: Mapping[str, Curve]) -> str | None:
    """Our strategy behind a published label: as its source tells, the same, or the only one of that name."""
    told = theirs.source_info.get("strategies", {}).get(label)
    if told is not None or label in mine:
        return str(told or label) if (told or label) in mine else None
    alike = [name for name in mine if name.partition("[")[0] == label.partition("[")[0]]
    return alike[0] if len(alike) == 1 else None


def judge_curve(mine: Experiment, theirs: Experiment, label: str, level: float) -> Verdict:
    """The verdict on one published curve."""
    name = own_label(theirs, label, mine.curves)
    reasons = list(mismatches(mine, theirs, label, name))
    num_runs = mine.curves[name].num_runs if name is not None else 0
    gaps = shared_gaps(mine.curves[name], theirs.curves[label]) if name is not None and num_runs else []
    if num_runs and not gaps:
        reasons.append("data: no number of labels in common")
    if reasons:
        word, why = NOT_COMPARABLE, "; ".join(reasons)
    else:
        assert mine.metric.margin is not None  # see `differences`
        word, why = judge(gaps, mine.metric.margin, level, mine.metric.higher_is_better)
    return Verdict(theirs.source, mine.title, name or label, label, num_runs, gaps, level, word, why)


NOT_COMPARABLE = "not comparable"
VERDICTS_NOTE = """\
published: what the paper calls the strategy
rounds, seeds: numbers of labels that both have, and runs of ours
largest, last: ours minus published where they are furthest apart, and at the last of these rounds
[ ]: interval of twice the tail (90 % at level=0.95): reproduced is what lies within the margin at every round
stronger, weaker: surely beyond the margin at one round or more, corrected (Holm) for the rounds of this curve alone
inconclusive: too few runs to tell"""


def format_gaps(verdict: Verdict) -> dict[str, str]:
    """The largest gap and the last, for people; nothing where there is none."""
    if not verdict.gaps:
        return {"largest": "", "last": ""}
    largest = (
        f"{format_interval(verdict.interval(verdict.largest_gap), 3, '+')} at {verdict.largest_gap.num_labelled:,.0f}"
    )
    return {"largest": largest, "last": format_interval(verdict.interval(verdict.gaps[-1]), 3, "+")}


def published_entries(mine: Experiment, published: Sequence[Experiment]) -> dict[str, dict[str, list[Entry]]]:
    """What was published of our strategies, at our label counts, by source: rows for `tables.table`."""
    rows = dict[str, dict[str, list[Entry]]]()
    for theirs in counterparts(mine, published):
        for label, curve in theirs.curves.items():
            name = own_label(theirs, label, mine.curves)
            if name is not None:
                told = dict(zip(curve.num_labelled_SR[0], build_row(curve, theirs), strict=True))
                rows.setdefault(name, {})[theirs.source] = [nearest_entry(told, count) for count in mine.num_labelled_R]
    return rows


def nearest_entry(entry_by_count: Mapping[float, Entry], count: float) -> Entry:
    """The entry of a label count; an empty one where there is none."""
    found = [entry for other, entry in entry_by_count.items() if abs(other - count) <= COUNT_TOLERANCE]
    return found[0] if found else Entry(None, None, 0, 0, 0, None, {})


def mismatches(mine: Experiment, theirs: Experiment, label: str, name: str | None) -> Iterator[str]:
    """What keeps the two from being compared."""
    wanted = theirs.source_info.get("recipes", {}).get(theirs.task)
    if name is None:
        yield f"strategy: ours has none that is called {label}"
    elif not mine.curves[name].num_runs:
        yield "runs: none of ours has finished a round"
    if wanted is None:
        yield "recipe: not told of this source"
    elif mine.task.partition("[")[0] != str(wanted).partition("[")[0]:
        yield f"data: ours {mine.task}, published {wanted}"
    elif mine.task != wanted:
        yield f"recipe: ours {mine.task}, published {wanted}"
    if mine.metric.margin is None:
        yield f"metric: how close two scores must be is not defined for {mine.metric}"
    if mine.metric.name != theirs.metric.name:
        yield f"metric: ours {mine.metric}, published {theirs.metric}"
    elif scale := scale_mismatch(mine, theirs):
        yield scale


def scale_mismatch(mine: Experiment, theirs: Experiment) -> str:
    """That one of the two is in per cent and the other in shares, as far as their best scores tell; "" otherwise."""
    best, published = (best_score(one.curves.values()) for one in (mine, theirs))
    return (
        f"scores: ours reach {best:.3g}, published {published:.3g}: {SCALE_MISMATCH}"
        if scales_differ(best, published)
        else ""
    )


def shared_gaps(mine: Curve, theirs: Curve) -> list[Gap]:
    """Ours minus published at every number of labels that both have and that all of our runs reached."""
    counts_R = mine.num_labelled_SR.max(0, initial=-np.inf, where=np.isfinite(mine.num_labelled_SR))
    gaps = []
    for number, count in enumerate(counts_R):
        values_S = mine.value_SR[:, number]
        for other in np.flatnonzero(np.isclose(theirs.num_labelled_SR[0], count, atol=COUNT_TOLERANCE)):
            published = float(theirs.value_SR[0, other])
            if np.isfinite(values_S).all() and math.isfinite(published):
                std = float(values_S.std(ddof=1)) if len(values_S) > 1 else math.nan
                told = math.nan if theirs.std_R is None else float(theirs.std_R[other])
                value, spread = float(values_S.mean()) - published, told if math.isfinite(told) else None
                gaps.append(Gap(float(count), value, len(values_S), std, theirs.num_runs, spread))
    return gaps


COUNT_TOLERANCE = 1.5  # label counts that rounding sets apart are the same
