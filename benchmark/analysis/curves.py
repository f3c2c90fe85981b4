"""Learning curves: what every analysis reads, of our own runs and of papers alike.

Shapes: S runs (seeds), R rounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from benchmark.contract.metrics import Metric
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY, Variant
from benchmark.records.record import Header, Measured, Record
from benchmark.records.sources import Sources
from benchmark.records.store import Store
from benchmark.records.versions import find_mixed_versions
from benchmark.text.words import did_you_mean

Floats: TypeAlias = npt.NDArray[np.float64]


class SourceInfo(TypedDict, total=False):
    """What sources.yaml tells of a source; results/published/sources.yaml says what each of it is."""

    cite: str
    reference: str
    recipes: dict[str, str]
    experiments: dict[str, str]
    strategies: dict[str, str]
    saw_evaluation_labels: list[str]


@dataclass(frozen=True)
class Run:
    """One cell of ours: what was asked for and what is recorded."""

    path: str
    strategy: str
    seed: int
    daggers: tuple[str, ...]
    has_companion: bool  # the strategy trains something beside the model, so its round 0 is its own
    header: Header | None  # None: nothing is recorded
    records: list[Record]
    has_failed: bool
    damage: str  # what of its file is not used
    store: Store  # that it is in
    variant: Variant = ORDINARY

    @property
    def name(self) -> str:
        """How people name it among the runs of its experiment."""
        return f"{self.strategy} seed {self.seed}{self.variant.description}"

    @property
    def file(self) -> Path:
        """Its records."""
        return self.store.path(self.path)

    @property
    def folder(self) -> Path:
        """The results folder that it is in."""
        return self.store.folder

    @cached_property
    def measurements(self) -> list[Measured]:
        """What each round took; read when it is first asked for, since tables do without."""
        return self.store.measurements(self.path)

    @cached_property
    def start_fingerprint(self) -> str:
        """A fingerprint of the data, the initial set, where there is one, and the held-out draw: runs with the same one
        are paired."""
        if self.header is None or not self.records:
            return ""
        schedule = self.header.cell.get("schedule")
        shared = not isinstance(schedule, dict) or schedule.get("initial") != 0
        initial = sorted(self.records[0].bought) if shared else []
        drawn = (np.array(part, np.int64) for part in (initial, self.header.held_out))
        told = [self.header.data.encode(), *(np.append(len(part), part).tobytes() for part in drawn)]
        return hashlib.sha256(b"".join(told)).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Curve:
    """One strategy of an experiment: S runs that are told apart, or the one mean that a paper tells. NaN: not there."""

    strategy: str
    num_runs: int  # behind the values: S, or as many as the paper averaged
    num_planned: int  # runs that were asked for
    value_SR: Floats
    num_labelled_SR: Floats  # images trained on
    cost: dict[str, Floats]  # labels paid so far, each (S, R): images, boxes where the task counts them
    seeds: tuple[int, ...] = ()  # of the runs; () where only their mean is told
    start_fingerprints: tuple[str, ...] = ()  # see Run.start
    unfinished_seeds: frozenset[int] = frozenset()  # seeds whose runs lack rounds
    daggers: tuple[str, ...] = ()
    num_failed: int = 0
    num_ended_R: tuple[int, ...] = ()  # runs whose last round was before this one
    std_R: Floats | None = None  # as a paper tells it
    printed_digits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # value, boxes: a paper's own digits
    has_companion: bool = False  # see Run.companion
    variant: Variant = ORDINARY  # of its runs

    @property
    def mean_R(self) -> Floats:
        """(R,): the mean over the runs that have the round."""
        return mean_over_runs(self.value_SR)


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is compared with each other: a task under a schedule."""

    title: str
    source: str  # a grid or a paper
    task: str
    metric: Metric
    rounds: tuple[int, ...]  # what the R columns are
    curves: dict[str, Curve]  # by strategy, in the order asked for
    schedule: Schedule | None = None  # None: a paper's
    runs: tuple[Run, ...] = ()  # (): a paper's
    variant_runs: tuple[
        Run, ...
    ] = ()  # runs that vary training or selection alone: they count for `variance`, in no curve
    auto_seeds: AutoSeeds | None = None  # None: seeds were told
    source_info: SourceInfo = field(default_factory=SourceInfo)  # of its source

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Its runs, those that vary training or selection alone among them."""
        return self.runs + self.variant_runs

    @cached_property
    def variant_curves(self) -> dict[Variant, dict[str, Curve]]:
        """The curves of each variant of training and selection, the ordinary one aside, by strategy."""
        return {
            one: curves_by_strategy([run for run in self.variant_runs if run.variant == one], self.schedule)
            for one in sorted({run.variant for run in self.variant_runs})
            if self.schedule is not None
        }

    @property
    def all_curves(self) -> list[Curve]:
        """Its curves, those of variants behind the ordinary ones."""
        return [curve for curves in (self.curves, *self.variant_curves.values()) for curve in curves.values()]

    @property
    def counts_boxes(self) -> bool:
        """Whether boxes are paid for."""
        return any("boxes" in curve.cost for curve in self.curves.values())

    @property
    def data_set(self) -> str:
        """Which data set it is on: the fingerprint of its pool and test set; of a paper the plug-in of its task, where
        that is told, or the task."""
        known = {run.header.data for run in self.runs if run.header is not None}
        recipe = self.source_info.get("recipes", {}).get(self.task, self.task)
        return min(known, default=str(recipe).partition("[")[0])

    @cached_property
    def mixed_versions(self) -> dict[str, list[str]]:
        """The libraries that its rounds were made with several versions of, each with all of them."""
        return find_mixed_versions(
            one.versions for run in self.runs for one in run.measurements if one.round < len(run.records)
        )

    @cached_property
    def image_sources(self) -> list[Sources]:
        """The files that its images are from, and what is odd about them, of each results folder that tells them."""
        stores = dict.fromkeys(run.store for run in self.runs)
        return [sources for store in stores if (sources := store.sources(self.task)) is not None]

    def file_names(self, run: Run) -> list[str]:
        """The file of each image of the pool that a run bought from; [] where that is not known."""
        data = None if run.header is None else run.header.data
        return next((sources.names("pool") for sources in self.image_sources if sources.data == data), [])

    @property
    def num_labelled_R(self) -> Floats:
        """(R,): images trained on, those of the strategy that has most rounds."""
        longest = max(self.curves.values(), key=lambda curve: np.isfinite(curve.num_labelled_SR).any(0).sum())
        return mean_over_runs(longest.num_labelled_SR)

    @property
    def reference(self) -> str | None:
        """What others are compared with unless told: what the source names, or the first strategy that has runs."""
        told = self.auto_seeds.reference if self.auto_seeds else self.source_info.get("reference")
        first = next((name for name, curve in self.curves.items() if curve.num_runs), None)
        return told if told in self.curves else first

    def get_curve(self, strategy: str) -> Curve:
        """The curve of a strategy; ValueError names what there is."""
        if strategy not in self.curves:
            raise ValueError(f"{self.title} has no strategy {did_you_mean(strategy, self.curves)}")
        return self.curves[strategy]


def mean_over_runs(values_SR: Floats) -> Floats:
    """(R,): the mean over what is there; NaN where nothing is."""
    there = np.isfinite(values_SR)
    total = np.where(there, values_SR, 0.0).sum(0)
    return np.asarray(np.divide(total, there.sum(0), out=np.full(total.shape, np.nan), where=there.any(0)))


SCALE_MISMATCH = "one is in shares (0 to 1), the other in per cent"


def best_score(curves: Iterable[Curve]) -> float:
    """The highest score of these curves; NaN where there is none."""
    return max((float(np.nanmax(one.value_SR)) for one in curves if np.isfinite(one.value_SR).any()), default=np.nan)


def scales_differ(first: float, second: float) -> bool:
    """Whether one of two best scores is a share and the other in per cent, as it seems: a tenth, and 1 lies between."""
    low, high = sorted((first, second))
    return low <= 1 < high and low < high / 10


def curves_by_strategy(runs: Sequence[Run], schedule: Schedule) -> dict[str, Curve]:
    """The curves of runs of one variant."""
    names = dict.fromkeys(run.strategy for run in runs)
    return {name: build_curve([run for run in runs if run.strategy == name], schedule) for name in names}


def build_curve(cells: Sequence[Run], schedule: Schedule) -> Curve:
    """The curve of a strategy's cells."""
    runs = sorted((run for run in cells if run.records), key=lambda run: run.seed)
    shape = (len(runs), schedule.rounds)
    kinds = sorted({kind for run in runs for record in run.records for kind in record.cost})
    value, labelled = np.full(shape, np.nan), np.full(shape, np.nan)
    cost: dict[str, Floats] = {kind: np.full(shape, np.nan) for kind in kinds}
    for row, run in enumerate(runs):
        assert run.header is not None
        records = run.records[: schedule.rounds]
        columns = [min(record.round, schedule.rounds - 1) for record in records]
        value[row, columns] = [record.scores[run.header.task_metric.name] for record in records]
        labelled[row, columns] = [record.num_labelled for record in records]
        for kind, paid_SR in cost.items():
            paid_SR[row, columns] = [record.cost.get(kind, np.nan) for record in records]
    lengths = [len(run.records) for run in runs if schedule.is_finished(run.records)]
    return Curve(
        cells[0].strategy, len(runs), len(cells), value, labelled, cost,
        tuple(run.seed for run in runs), tuple(run.start_fingerprint for run in runs),
        frozenset(run.seed for run in runs if not schedule.is_finished(run.records)), cells[0].daggers,
        num_failed=sum(run.has_failed and not schedule.is_finished(run.records) for run in cells),
        num_ended_R=tuple(sum(length <= number for length in lengths) for number in range(schedule.rounds)),
        has_companion=cells[0].has_companion, variant=cells[0].variant,
    )  # fmt: skip
