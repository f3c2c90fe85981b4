"""Compares our curves with published ones: reproduced, stronger, weaker, inconclusive or not comparable, and why.

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
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import Entry, build_row

NOT_COMPARABLE = "not comparable"
COUNT_TOLERANCE = 1.5  # numbers of labels that differ by no more are the same: papers round them
VERDICTS_NOTE = """\
published: what the paper calls the strategy
rounds, seeds: numbers of labels that both have, and runs of ours
largest, last: ours minus published where they are furthest apart, and at the last of these rounds
[ ]: interval of two one-sided tests (90 % at level=0.95); reproduced: it lies within the margin at every round
stronger, weaker: surely beyond the margin at one round or more, corrected (Holm) for the rounds of this curve alone
inconclusive: too few runs to tell"""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one published curve."""

    source: str
    task: str  # the title of our experiment
    strategy: str  # our label; the published one if we have none
    published_label: str
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
        """The gap that is furthest from zero. Raises ValueError if there is none."""
        return max(self.gaps, key=lambda gap: abs(gap.value))


def verify(ours: Sequence[Experiment], published: Sequence[Experiment], level: float = 0.95) -> list[Verdict]:
    """Judges every published curve that our experiments repeat.

    Args:
        ours: recorded experiments.
        published: the experiments of papers.
        level: 0.95: of 20 verdicts at most one is wrong.

    Raises:
        ValueError: nothing published belongs to our experiments.
    """
    pairs = [(mine, theirs) for mine in ours if mine.runs for theirs in counterparts(mine, published)]
    if not pairs:
        titles = ", ".join(experiment.title for experiment in ours)
        tasks = ", ".join(dict.fromkeys(experiment.task for experiment in published))
        raise ValueError(f"nothing published belongs to {titles}; there are curves of {tasks}")
    return [judge_curve(mine, theirs, label, level) for mine, theirs in pairs for label in theirs.curves]


def read_published(records: Sequence[str]) -> list[Experiment]:
    """Reads the published curves at these paths.

    Raises:
        ValueError: a path holds recorded runs; `compare` is for those.
    """
    published = read_experiments(records) if records else []
    if runs := [experiment.title for experiment in published if experiment.runs]:
        raise ValueError(f"against={','.join(records)}: {runs[0]} is a run, not a published curve")
    return published


def counterparts(mine: Experiment, published: Sequence[Experiment]) -> list[Experiment]:
    """The published experiments that ours repeats.

    They are found by the title of ours; if there is none, by the longest task name with which that title begins.
    """
    if named := [theirs for theirs in published if own_title(theirs) == mine.title]:
        return named
    candidates = [
        theirs for theirs in published if "experiments" not in theirs.source_info and mine.title.startswith(theirs.task)
    ]
    longest = max((len(theirs.task) for theirs in candidates), default=0)
    return [theirs for theirs in candidates if len(theirs.task) == longest]


def own_title(theirs: Experiment) -> str:
    """The title of the experiment in our grids that repeats a published one."""
    return str(theirs.source_info.get("experiments", {}).get(theirs.task, theirs.task))


def own_label(theirs: Experiment, label: str, mine: Mapping[str, Curve]) -> str | None:
    """The label of our strategy behind a published label: as sources.yaml says, the same, or the only one that has the
    same name without parameters. None: we have no such strategy."""
    mapped = theirs.source_info.get("strategies", {}).get(label)
    if mapped is not None or label in mine:
        return str(mapped or label) if (mapped or label) in mine else None
    same_name = [name for name in mine if name.partition("[")[0] == label.partition("[")[0]]
    return same_name[0] if len(same_name) == 1 else None


def judge_curve(mine: Experiment, theirs: Experiment, label: str, level: float) -> Verdict:
    """Judges one published curve."""
    name = own_label(theirs, label, mine.curves)
    reasons = list(mismatches(mine, theirs, label, name))
    num_runs = mine.curves[name].num_runs if name is not None else 0
    gaps = shared_gaps(mine.curves[name], theirs.curves[label]) if name is not None and num_runs else []
    if num_runs and not gaps:
        reasons.append("data: no number of labels in common")
    if reasons:
        verdict, why = NOT_COMPARABLE, "; ".join(reasons)
    else:
        assert mine.metric.margin is not None  # `mismatches` gives a reason where there is none
        verdict, why = judge(gaps, mine.metric.margin, level, mine.metric.higher_is_better)
    return Verdict(theirs.source, mine.title, name or label, label, num_runs, gaps, level, verdict, why)


def format_gaps(verdict: Verdict) -> dict[str, str]:
    """The largest and the last gap with their intervals; "" if there are no gaps."""
    if not verdict.gaps:
        return {"largest": "", "last": ""}
    largest, last = (format_interval(verdict.interval(gap), 3, "+") for gap in (verdict.largest_gap, verdict.gaps[-1]))
    return {"largest": f"{largest} at {verdict.largest_gap.num_labelled:,.0f}", "last": last}


def published_entries(mine: Experiment, published: Sequence[Experiment]) -> dict[str, dict[str, list[Entry]]]:
    """The published scores of our strategies at our numbers of labels.

    Returns:
        By our label and by source, the rows for `tables.build_table`.
    """
    rows = dict[str, dict[str, list[Entry]]]()
    for theirs in counterparts(mine, published):
        for label, curve in theirs.curves.items():
            name = own_label(theirs, label, mine.curves)
            if name is not None:
                entries = dict(zip(curve.num_labelled_SR[0], build_row(curve, theirs), strict=True))
                row = [nearest_entry(entries, count) for count in mine.num_labelled_R]
                rows.setdefault(name, {})[theirs.source] = row
    return rows


def describe_all_labels(mine: Experiment, published: Sequence[Experiment]) -> list[str]:
    """Says which scores are published for our data set with all labels, a line for each source."""
    task = mine.task.partition("[")[0]
    scores = {theirs.source: theirs.source_info.get("all_labels", {}).get(task) for theirs in published}
    return [
        f"{mine.title}: with all labels {source} publishes {score:.2f}"
        for source, score in scores.items()
        if score is not None
    ]


def nearest_entry(entry_by_count: Mapping[float, Entry], count: float) -> Entry:
    """The entry at a number of labels; an empty one if there is none."""
    entries = [entry for other, entry in entry_by_count.items() if abs(other - count) <= COUNT_TOLERANCE]
    return entries[0] if entries else Entry(None, None, 0, 0, 0, None, {})


def mismatches(mine: Experiment, theirs: Experiment, label: str, name: str | None) -> Iterator[str]:
    """The reasons why a published curve and ours are not comparable.

    Args:
        mine: our experiment.
        theirs: the published experiment.
        label: the published label.
        name: our label; None if we have no such strategy.
    """
    if name is None:
        yield f"strategy: none of ours is called {label}"
    elif not mine.curves[name].num_runs:
        yield "runs: none of ours has finished a round"
    if theirs.task not in theirs.source_info.get("recipes", {}):
        yield "recipe: not known for this source"
    elif other_task := task_mismatch(mine, theirs):
        yield other_task
    if mine.metric.margin is None:
        yield f"metric: how close two scores must be is not defined for {mine.metric}"
    if mine.metric.name != theirs.metric.name:
        yield f"metric: ours {mine.metric}, published {theirs.metric}"
    elif scale := scale_mismatch(mine, theirs):
        yield scale


def task_mismatch(mine: Experiment, theirs: Experiment) -> str:
    """Says that ours has other data or trains otherwise than the source; "" if not, or if the source's is not known."""
    recipe = str(theirs.source_info.get("recipes", {}).get(theirs.task, mine.task))
    if mine.task == recipe:
        return ""
    difference = f"ours {mine.task}, published {recipe}"
    if mine.task.partition("[")[0] != recipe.partition("[")[0]:
        return f"data: {difference}"
    is_variant = mine.title != own_title(theirs)  # as voc2012_fcos_torchvision is one of voc2012_fcos
    return f"recipe: a variant of {own_title(theirs)}: {difference}" if is_variant else f"recipe: {difference}"


def scale_mismatch(mine: Experiment, theirs: Experiment) -> str:
    """Says that one of the two is in per cent and the other in shares, judged by their best scores; "" if not."""
    best, published = (best_score(experiment.curves.values()) for experiment in (mine, theirs))
    if not scales_differ(best, published):
        return ""
    return f"scores: ours reach {best:.3g}, published {published:.3g}: {SCALE_MISMATCH}"


def shared_gaps(mine: Curve, theirs: Curve) -> list[Gap]:
    """Ours minus published at every number of labels that both have and that all of our runs reached."""
    counts_R = mine.num_labelled_SR.max(0, initial=-np.inf, where=np.isfinite(mine.num_labelled_SR))
    gaps = []
    for column, count in enumerate(counts_R):
        values_S = mine.value_SR[:, column]
        for other in np.flatnonzero(np.isclose(theirs.num_labelled_SR[0], count, atol=COUNT_TOLERANCE)):
            published = float(theirs.value_SR[0, other])
            if np.isfinite(values_S).all() and math.isfinite(published):
                std = float(values_S.std(ddof=1)) if len(values_S) > 1 else math.nan
                their_std = math.nan if theirs.std_R is None else float(theirs.std_R[other])
                value, known_std = float(values_S.mean()) - published, their_std if math.isfinite(their_std) else None
                gaps.append(Gap(float(count), value, len(values_S), std, theirs.known_runs, known_std))
    return gaps
