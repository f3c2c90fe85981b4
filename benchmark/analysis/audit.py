"""The audit: what records say about the run that wrote them. A table that fails it says so in its caption."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.analysis.curves import Curve, Experiment, Run, mean
from benchmark.schedule import Schedule
from benchmark.store import Header, Record

FEW_IMAGES = 3  # a batch of as few gives batch normalisation no statistics to speak of
COLLAPSE = 1 / 3  # a fit that scores less than this share of the cell's best so far has not converged


@dataclass(frozen=True)
class Fault:
    """One thing that should not be so."""

    check: str
    experiment: str
    where: str  # a strategy, a cell, a label count
    words: str

    def __str__(self) -> str:
        return f"{self.where}: {self.words}"


Found = Iterator[tuple[str, str]]  # where, words


def audit(experiment: Experiment) -> list[Fault]:
    """Every fault of an experiment, check by check. [] where all is well."""
    return [
        Fault(name, experiment.title, where, words)
        for name, check in CHECKS.items()
        for where, words in check(experiment)
    ]


def round_0_agrees(experiment: Experiment) -> Found:
    """Nothing is selected yet, so every strategy of a seed starts from the same images and scores the same; but for
    the score of those that train something beside the model, and where a schedule starts from no label. Of a paper's
    curves: all score the same."""
    if experiment.schedule is not None and not experiment.schedule.initial:
        return
    groups: dict[int, list[tuple[str, str, float, bool]]] = defaultdict(list)
    for run in experiment.runs:
        if run.records and run.header is not None and run.records[0].round == 0:
            score = run.records[0].scores[run.header.metric]
            groups[run.seed].append((run.path, run.start, score, run.companion))
    if not experiment.runs:
        first = {name: float(curve.mean_R[0]) for name, curve in experiment.curves.items()}
        groups[0] = [(name, "", value, False) for name, value in first.items() if np.isfinite(value)]
    for members in filter(None, groups.values()):
        [(usual, _)] = Counter(start for _, start, _, _ in members).most_common(1)
        yield from ((path, "starts from other data or images") for path, start, _, _ in members if start != usual)
        alike = [(path, score) for path, start, score, companion in members if start == usual and not companion]
        [(common, _)] = Counter(score for _, score in alike).most_common(1) or [(0.0, 0)]
        yield from (
            (path, f"{score:g} in round 0, where others score {common:g}") for path, score in alike if score != common
        )


def within_budget(experiment: Experiment) -> Found:
    """Replayed from the indices: exact sizes, each image once, from the pool, none that is held out, and each paid.
    Under a budget of boxes: enough of them each round; by how many the last image goes past it is not recorded. Of a
    paper's curves, which have no indices: label counts grow by equal steps."""
    for run in experiment.runs:
        if run.header is None or experiment.schedule is None:
            continue
        for words in ledger(run, experiment.schedule):
            yield run.path, words
    if not experiment.runs:
        yield from drifts(experiment)


def ledger(run: Run, schedule: Schedule) -> Iterator[str]:
    """What is wrong with the purchases of a cell."""
    assert run.header is not None
    seen, num_seen, num_held_out = set[int](), 0, len(set(run.header.held_out))
    in_order = distinct(run)
    boxes, start = 0.0, run.records[0].cost.get("boxes", 0.0) if run.records else 0.0
    for record in run.records:
        told = f"round {record.round}"
        wanted = schedule.budget if record.round or not schedule.initial else schedule.initial
        exact = record.round == 0 or schedule.budget_in == "images"
        if exact and len(record.bought) != wanted:
            yield f"{told} buys {len(record.bought)} images of a budget of {wanted}"
        num_seen += len(record.bought)
        if not in_order:
            yield from (f"{told} buys {words}" for words in wrongly(record, seen, run.header))
            num_seen = len(seen)
        if record.num_labelled != num_seen:
            yield f"{told} was trained on {record.num_labelled} images, {num_seen} were bought"
        if record.cost.get("images") not in (num_seen, num_seen + num_held_out):
            yield f"{told} is charged {record.cost.get('images', 0):g} images for {num_seen} bought"
        if record.cost.get("boxes", boxes) < boxes:
            yield f"{told} is charged fewer boxes than the round before"
        boxes = record.cost.get("boxes", boxes)
        left = run.header.num_pool - num_seen - num_held_out
        if schedule.budget_in == "boxes" and boxes - start < record.round * schedule.budget and left:
            yield f"{told} has bought {boxes - start:g} boxes since round 0 of {record.round * schedule.budget}"


def distinct(run: Run) -> bool:
    """Whether all that was bought or is held out are different images of the pool, as it should be."""
    assert run.header is not None
    every_N = np.sort(np.concatenate([run.header.held_out, *(record.bought for record in run.records)]))
    inside = not len(every_N) or (every_N[0] >= 0 and every_N[-1] < run.header.num_pool)
    return bool(inside and (every_N[1:] > every_N[:-1]).all())


def wrongly(record: Record, seen: set[int], header: Header) -> Iterator[str]:
    """What of a purchase should not have been bought. Adds the purchase to those `seen`."""
    bought, held_out = set(record.bought), set(header.held_out)
    if twice := len(record.bought) - len(bought):
        yield f"{twice} images twice"
    if again := len(bought & seen):
        yield f"{again} images that were bought before"
    if taken := len(bought & held_out):
        yield f"{taken} images that are held out"
    if outside := sum(not 0 <= index < header.num_pool for index in bought):
        yield f"{outside} images that are not in the pool"
    seen |= bought


def drifts(experiment: Experiment) -> Found:
    """A paper's label counts that grow by unequal steps (one more or less is rounding)."""
    for name, curve in experiment.curves.items():
        labelled_R = mean(curve.num_labelled_SR)
        there = np.isfinite(labelled_R)
        steps = np.diff(labelled_R[there]) / np.diff(np.array(experiment.rounds)[there])
        if len(steps) and np.ptp(steps) > 1:
            yield name, f"between {steps.min():,.0f} and {steps.max():,.0f} images a round"


def no_common_dip(experiment: Experiment) -> Found:
    """No label count at which every strategy (three at least) scores less than in the round before and, where there is
    one, the round after: what all share comes from training, not from selection."""
    for number in range(1, len(experiment.rounds)):
        dips = [dip for curve in experiment.curves.values() if (dip := dipped(curve, number)) is not None]
        if len(dips) >= 3 and all(dips):
            yield f"{experiment.num_labelled_R[number]:,.0f} images", f"all {len(dips)} strategies dip"


def dipped(curve: Curve, number: int) -> bool | None:
    """Whether the mean of the runs that have this round and those around it dips there; None where none has."""
    around_SR = curve.value_SR[:, number - 1 : number + 2]
    around_SR = around_SR[:, : 2 + bool(np.isfinite(around_SR[:, 2:]).any())]
    means = around_SR[np.isfinite(around_SR).all(1)].mean(0) if np.isfinite(around_SR).all(1).any() else None
    return None if means is None else bool(means[1] < means[0] and (len(means) < 3 or means[1] < means[2]))


def no_tail_batch(experiment: Experiment) -> Found:
    """No fit whose batches end in one of a few images, where layers take their statistics from the batch."""
    for run in experiment.runs:
        if run.header is None:
            continue
        parameters = run.header.cell.get("task", {}).get("parameters", {})
        for record in run.records:
            size = smallest_batch(parameters, record.num_labelled)
            if size is not None and size <= FEW_IMAGES:
                yield run.path, f"round {record.round}: a batch of {size} of {record.num_labelled} images"


def smallest_batch(recipe: Mapping[str, Any], num_images: int) -> int | None:
    """The smallest batch of an epoch; None where no statistics depend on it or the recipe does not tell.

    A recipe with `drop_last` drops the tail or else makes batches of equal size; one without has a tail.
    """
    size = int(recipe.get("batch_size") or 0)
    if not size or recipe.get("drop_last") or recipe.get("norm", "batch") != "batch" or size <= FEW_IMAGES:
        return None
    return num_images // -(-num_images // size) if "drop_last" in recipe else num_images % size or size


def rounds_are_whole(experiment: Experiment) -> Found:
    """Rounds 0, 1, 2 ... each once, and no line of a file that is torn or damaged."""
    for run in experiment.runs:
        if run.damage:
            yield run.path, run.damage


def fits_converged(experiment: Experiment) -> Found:
    """No score below a third of the cell's best so far, and none of round 0 below a third of the median seed's."""
    for curve in experiment.curves.values():
        median = float(np.nanmedian(curve.value_SR[:, 0])) if np.isfinite(curve.value_SR[:, 0]).any() else 0.0
        before_SR = np.insert(curve.value_SR[:, :-1], 0, median, axis=1)
        best_SR = np.fmax.accumulate(before_SR, axis=1)
        for row, number in np.argwhere(curve.value_SR < COLLAPSE * best_SR):
            value, best = curve.value_SR[row, number], best_SR[row, number]
            seed = f" seed {curve.seeds[row]}" if curve.seeds else ""
            words = f"round {number} scores {value:.4g}, after {best:.4g}: not converged"
            yield f"{curve.strategy}{seed}", words


def selection_was_blind(experiment: Experiment) -> Found:
    """No strategy chose by labels that it had not paid for."""
    for name, curve in experiment.curves.items():
        yield from ((name, dagger) for dagger in curve.daggers)


CHECKS: dict[str, Callable[[Experiment], Found]] = {
    "round 0 agrees": round_0_agrees,
    "within budget": within_budget,
    "rounds are whole": rounds_are_whole,
    "no common dip": no_common_dip,
    "no tail batch": no_tail_batch,
    "fits converged": fits_converged,
    "selection was blind": selection_was_blind,
}
