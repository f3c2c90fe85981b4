"""Our curves beside published ones: reproduced, stronger, weaker, or not comparable and why.

Shapes: S runs, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis.curves import SCALES, Curve, Experiment, Floats, apart, best_score, read
from benchmark.analysis.stats import FEWEST, Interval, quantile
from benchmark.analysis.tables import Entry, entries

# An interval that holds zero says "reproduced" where half its width is at most this: a point of accuracy, 0.01 mAP
MARGIN = {"accuracy": 1.0, "map": 0.01, "ap": 0.01}


@dataclass(frozen=True)
class Verdict:
    """One published curve and ours."""

    source: str
    task: str  # ours
    strategy: str  # ours; the published label where we have none
    published: str  # its label there
    rounds: int  # label counts that both have
    num_runs: int  # of ours
    deviation: Interval  # ours minus published, mean over those label counts
    last: Interval  # at the last of them
    verdict: str  # reproduced, stronger, weaker, not comparable
    why: str


def verify(ours: Sequence[Experiment], published: Sequence[Experiment], level: float = 0.95) -> list[Verdict]:
    """A verdict on every published curve of the tasks that ours have. ValueError where none of ours was published."""
    pairs = [(mine, theirs) for mine in ours if mine.runs for theirs in counterparts(mine, published)]
    if not pairs:
        names = ", ".join(one.title for one in ours)
        known = ", ".join(dict.fromkeys(one.task for one in published))
        raise ValueError(f"nothing published belongs to {names}; there are curves of {known}")
    return [verdict(mine, theirs, label, level) for mine, theirs in pairs for label in theirs.curves]


def papers(records: Sequence[str]) -> list[Experiment]:
    """The published curves at these paths. ValueError where they are runs: `compare` pairs those."""
    found = read(records) if records else []
    if runs := [one.title for one in found if one.runs]:
        raise ValueError(f"against={','.join(records)}: {runs[0]} is a run, not a published curve")
    return found


def counterparts(mine: Experiment, published: Sequence[Experiment]) -> list[Experiment]:
    """The published experiments that ours repeats, by its name; else those whose task its name begins with."""
    named = [one for one in published if repeated(one) == mine.title]
    if named:
        return named
    alike = [one for one in published if "experiments" not in one.told and mine.title.startswith(one.task)]
    longest = max((len(one.task) for one in alike), default=0)
    return [one for one in alike if len(one.task) == longest]


def repeated(theirs: Experiment) -> str:
    """The experiment of our grids that repeats a published one."""
    return str(theirs.told.get("experiments", {}).get(theirs.task, theirs.task))


def own_label(theirs: Experiment, label: str, mine: Mapping[str, Curve]) -> str | None:
    """Our strategy behind a published label: as its source tells, the same, or the only one of that name."""
    told = theirs.told.get("strategies", {}).get(label)
    if told is not None or label in mine:
        return str(told or label) if (told or label) in mine else None
    alike = [name for name in mine if name.partition("[")[0] == label.partition("[")[0]]
    return alike[0] if len(alike) == 1 else None


def verdict(mine: Experiment, theirs: Experiment, label: str, level: float) -> Verdict:
    """The verdict on one published curve."""
    name = own_label(theirs, label, mine.curves)
    reasons = list(differences(mine, theirs, label, name))
    nothing = Interval(math.nan, math.nan, math.nan)
    num_runs = mine.curves[name].num_runs if name is not None else 0
    gaps = deviations(mine.curves[name], theirs.curves[label], level) if name is not None and num_runs else None
    if gaps is None:
        reasons += ["data: no number of labels in common"] * bool(num_runs)
        why = "; ".join(reasons)
        return Verdict(theirs.source, mine.title, name or label, label, 0, num_runs, nothing, nothing, NOT, why)
    mean, last, shared = gaps
    word, why = judged(mean, MARGIN.get(mine.metric, 0.0), num_runs)
    if reasons:
        word, why = NOT, "; ".join(reasons)
    return Verdict(theirs.source, mine.title, name or label, label, shared, num_runs, mean, last, word, why)


NOT = "not comparable"


def beside(mine: Experiment, published: Sequence[Experiment]) -> dict[str, dict[str, list[Entry]]]:
    """What was published of our strategies, at our label counts, by source: rows for `tables.table`."""
    rows = dict[str, dict[str, list[Entry]]]()
    for theirs in counterparts(mine, published):
        for label, curve in theirs.curves.items():
            name = own_label(theirs, label, mine.curves)
            if name is not None:
                told = dict(zip(curve.num_labelled_SR[0], entries(curve, theirs), strict=True))
                rows.setdefault(name, {})[theirs.source] = [nearest(told, count) for count in mine.num_labelled_R]
    return rows


def nearest(told: Mapping[float, Entry], count: float) -> Entry:
    """The entry of a label count; an empty one where there is none."""
    found = [entry for other, entry in told.items() if abs(other - count) <= STEP]
    return found[0] if found else Entry(None, None, 0, 0, 0, None, {})


def differences(mine: Experiment, theirs: Experiment, label: str, name: str | None) -> Iterator[str]:
    """What keeps the two from being compared."""
    wanted = theirs.told.get("recipes", {}).get(theirs.task)
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
    if mine.metric not in MARGIN:
        yield f"metric: how close two scores must be is not defined for {mine.metric}"
    if mine.metric != theirs.metric:
        yield f"metric: ours {mine.metric}, published {theirs.metric}"
    elif scale := other_scale(mine, theirs):
        yield scale


def other_scale(mine: Experiment, theirs: Experiment) -> str:
    """That one of the two is in per cent and the other in shares, as far as their best scores tell; "" otherwise."""
    best, published = (best_score(one.curves.values()) for one in (mine, theirs))
    return f"scores: ours reach {best:.3g}, published {published:.3g}: {SCALES}" if apart(best, published) else ""


def judged(gap: Interval, margin: float, num_runs: int) -> tuple[str, str]:
    """The verdict on a deviation whose two sides are comparable."""
    if math.isnan(gap.low):
        return NOT, f"seeds: {num_runs} of ours give no interval, it takes {FEWEST} that differ"
    if gap.sign:
        return ("stronger" if gap.sign > 0 else "weaker"), ""
    half = (gap.high - gap.low) / 2
    if half > margin:
        return NOT, f"seeds: with {num_runs} of ours the difference is only known to ± {half:.3g}"
    return "reproduced", f"within ± {half:.3g}"


def deviations(mine: Curve, theirs: Curve, level: float) -> tuple[Interval, Interval, int] | None:
    """Ours minus published over the label counts that both have: the mean, the last, and how many; None of none.

    The published runs are taken to spread as theirs are told to, or else as ours do.
    """
    counts_R = mine.num_labelled_SR.max(0, initial=-np.inf, where=np.isfinite(mine.num_labelled_SR))
    places = [
        (number, other)
        for number, count in enumerate(counts_R)
        for other in np.flatnonzero(np.isclose(theirs.num_labelled_SR[0], count, atol=STEP))
        if np.isfinite(mine.value_SR[:, number]).all() and np.isfinite(theirs.value_SR[0, other])
    ]
    if not places:
        return None
    own, other = np.array(places).T
    gaps_SR = mine.value_SR[:, own] - theirs.value_SR[0, other]
    told = None if theirs.std_R is None else theirs.std_R[other]
    mean = interval(gaps_SR.mean(1), None if told is None else float(np.nanmean(told)), theirs.num_runs, level)
    last = interval(gaps_SR[:, -1], None if told is None else float(told[-1]), theirs.num_runs, level)
    return mean, last, len(places)


STEP = 1.5  # label counts that rounding sets apart are the same


def interval(gaps_S: Floats, their_std: float | None, their_runs: int, level: float) -> Interval:
    """Mean and interval of gaps to a published mean, whose own error counts; NaN as ends with fewer than FEWEST runs of
    ours, or where nothing is known to differ."""
    value = float(gaps_S.mean())
    if len(gaps_S) < FEWEST:
        return Interval(value, math.nan, math.nan)
    own = float(gaps_S.std(ddof=1))
    error = math.sqrt(own**2 / len(gaps_S) + (own if their_std is None else their_std) ** 2 / their_runs)
    half = quantile(len(gaps_S) - 1, (1 + level) / 2) * error if error else math.nan
    return Interval(value, value - half, value + half)
