"""Learning curves, of our own runs and of papers alike: the input of every analysis.

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
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.records.versions import find_mixed_versions
from benchmark.system.validation import Amount
from benchmark.text.words import did_you_mean

Floats: TypeAlias = npt.NDArray[np.float64]


class SourceInfo(TypedDict, total=False):
    """What sources.yaml says about a paper; results/published/sources.yaml explains each key."""

    cite: str
    reference: str
    recipes: dict[str, str]
    experiments: dict[str, str]
    strategies: dict[str, str]
    saw_evaluation_labels: list[str]
    one_pass: list[str]
    all_labels: dict[str, Amount]
    seconds: dict[str, dict[str, Amount]]


@dataclass(frozen=True)
class Run:
    """One run: a task, a strategy and a seed, with its records."""

    path: str  # the path of the run inside its results folder
    strategy: str  # its label
    seed: int
    daggers: tuple[str, ...]  # why the strategy carries a dagger in tables, one sentence each
    has_companion: bool  # whether the strategy trains something beside the model, which changes scores in round 0
    header: Header | None  # None where nothing is recorded
    records: list[Record]
    has_failed: bool
    damage: str  # what part of the file of records is ignored, and why; empty for a sound file
    store: Store  # the results folder that holds the run
    variant: Variant = ORDINARY

    @property
    def name(self) -> str:
        """The name of the run within its experiment: `margin seed 3`."""
        return f"{self.strategy} seed {self.seed}{self.variant.description}"

    @property
    def file(self) -> Path:
        """The file of its records."""
        return self.store.path(self.path)

    @property
    def folder(self) -> Path:
        """The results folder that holds the run."""
        return self.store.folder

    @cached_property
    def measurements(self) -> list[Measured]:
        """Seconds, memory, device and versions of each round. They are read on first use, because tables need none."""
        return self.store.measurements(self.path)

    @cached_property
    def start_fingerprint(self) -> str:
        """A hash of the data, the initial set (if there is one) and the held-out set.

        Runs of one seed are paired only if their fingerprints are equal.
        """
        if self.header is None or not self.records:
            return ""
        schedule = self.header.cell.get("schedule")
        has_initial_set = not isinstance(schedule, dict) or schedule.get("initial") != 0
        initial = sorted(self.records[0].bought) if has_initial_set else []
        index_sets = (np.array(indices, np.int64) for indices in (initial, self.header.held_out))
        parts = [self.header.data.encode(), *(np.append(len(part), part).tobytes() for part in index_sets)]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Curve:
    """The learning curves of a strategy: S single runs, or the mean curve of a paper. NaN where a value is missing."""

    strategy: str
    num_runs: int  # runs behind the values: S, or the number that the paper averaged; 1 if it does not tell
    num_planned: int  # runs that the grid asks for
    value_SR: Floats  # scores
    num_labelled_SR: Floats  # labelled images that the model was trained on
    cost: dict[str, Floats]  # labels paid so far, (S, R) each: images, and boxes where the task counts them
    seeds: tuple[int, ...] = ()  # seeds of the runs; empty for the mean of a paper
    start_fingerprints: tuple[str, ...] = ()  # see Run.start_fingerprint
    unfinished_seeds: frozenset[int] = frozenset()  # seeds whose runs lack rounds
    daggers: tuple[str, ...] = ()  # see Run.daggers
    num_failed: int = 0
    num_ended_R: tuple[int, ...] = ()  # runs whose last round was before this one
    std_R: Floats | None = None  # the standard deviations that a paper publishes
    printed_digits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # value, std, boxes as a paper prints them
    has_companion: bool = False  # see Run.has_companion
    variant: Variant = ORDINARY
    has_known_runs: bool = True  # False where a paper does not tell how many runs it averaged

    @property
    def known_runs(self) -> int | None:
        """The number of runs behind the values; None where a paper does not tell."""
        return self.num_runs if self.has_known_runs else None

    @property
    def mean_R(self) -> Floats:
        """(R,): the mean score over the runs that have the round."""
        return mean_over_runs(self.value_SR)


@dataclass(frozen=True, eq=False)
class Experiment:
    """One task under one schedule, with the curves of its strategies: what is compared with each other."""

    title: str
    source: str  # the grid or the paper
    task: str  # the label of the task
    metric: Metric
    rounds: tuple[int, ...]  # the numbers of the R rounds
    curves: dict[str, Curve]  # by strategy, in the order of the grid
    schedule: Schedule | None = None  # None for a paper
    runs: tuple[Run, ...] = ()  # empty for a paper
    variant_runs: tuple[Run, ...] = ()  # runs that vary training or selection alone: only `variance` uses them
    auto_seeds: AutoSeeds | None = None  # None where seeds were fixed
    source_info: SourceInfo = field(default_factory=SourceInfo)  # what sources.yaml says about the paper

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """All runs, with those that vary training or selection alone."""
        return self.runs + self.variant_runs

    @cached_property
    def variant_curves(self) -> dict[Variant, dict[str, Curve]]:
        """The curves of `variant_runs`, by variant and strategy."""
        return {
            variant: curves_by_strategy([run for run in self.variant_runs if run.variant == variant], self.schedule)
            for variant in sorted({run.variant for run in self.variant_runs})
            if self.schedule is not None
        }

    @property
    def all_curves(self) -> list[Curve]:
        """The curves of all runs; those of variants come last."""
        return [curve for curves in (self.curves, *self.variant_curves.values()) for curve in curves.values()]

    @property
    def counts_boxes(self) -> bool:
        """Whether labels are paid for by boxes."""
        return any("boxes" in curve.cost for curve in self.curves.values())

    @property
    def data_set(self) -> str:
        """A name of the data set: the fingerprint of pool and test set; for a paper the name of its task."""
        fingerprints = {run.header.data for run in self.runs if run.header is not None}
        recipe = self.source_info.get("recipes", {}).get(self.task, self.task)
        return min(fingerprints, default=str(recipe).partition("[")[0])

    @cached_property
    def mixed_versions(self) -> dict[str, list[str]]:
        """The libraries of which the rounds used several versions, with these versions."""
        return find_mixed_versions(
            row.versions for run in self.runs for row in run.measurements if row.round < len(run.records)
        )

    @cached_property
    def image_sources(self) -> list[Sources]:
        """The image files of the task and their faults, one entry for each results folder that lists them."""
        stores = dict.fromkeys(run.store for run in self.runs)
        return [sources for store in stores if (sources := store.sources(self.task)) is not None]

    def file_names(self, run: Run) -> list[str]:
        """Returns the file name of each image of a run's pool; empty where files are not listed."""
        data = None if run.header is None else run.header.data
        return next((sources.names("pool") for sources in self.image_sources if sources.data == data), [])

    @property
    def num_labelled_R(self) -> Floats:
        """(R,): labelled images in each round, of the strategy that has most rounds."""
        longest = max(self.curves.values(), key=lambda curve: np.isfinite(curve.num_labelled_SR).any(0).sum())
        return mean_over_runs(longest.num_labelled_SR)

    @property
    def reference(self) -> str | None:
        """The strategy that others are compared with: the one that the source names, else the first that has runs."""
        named = self.auto_seeds.reference if self.auto_seeds else self.source_info.get("reference")
        first = next((name for name, curve in self.curves.items() if curve.num_runs), None)
        return named if named in self.curves else first

    def get_curve(self, strategy: str) -> Curve:
        """Returns the curve of a strategy.

        Raises:
            ValueError: the experiment has no such strategy; the message names similar ones.
        """
        if strategy not in self.curves:
            raise ValueError(f"{self.title} has no strategy {did_you_mean(strategy, self.curves)}")
        return self.curves[strategy]


def mean_over_runs(values_SR: Floats) -> Floats:
    """(R,): the mean over the finite values of each round; NaN where there are none."""
    is_finite = np.isfinite(values_SR)
    total = np.where(is_finite, values_SR, 0.0).sum(0)
    has_any = is_finite.any(0)
    return np.asarray(np.divide(total, is_finite.sum(0), out=np.full(total.shape, np.nan), where=has_any))


SCALE_MISMATCH = "one is in shares (0 to 1), the other in per cent"


def best_score(curves: Iterable[Curve]) -> float:
    """Returns the highest score of these curves; NaN where they have none."""
    scores = (float(np.nanmax(curve.value_SR)) for curve in curves if np.isfinite(curve.value_SR).any())
    return max(scores, default=np.nan)


def scales_differ(first: float, second: float) -> bool:
    """Whether one of two best scores seems to be a share and the other a percentage.

    That is assumed where 1 lies between them and the lower one is below a tenth of the higher.
    """
    low, high = sorted((first, second))
    return low <= 1 < high and low < high / 10


def curves_by_strategy(runs: Sequence[Run], schedule: Schedule) -> dict[str, Curve]:
    """Builds the curve of each strategy from runs of one variant."""
    names = dict.fromkeys(run.strategy for run in runs)
    return {name: build_curve([run for run in runs if run.strategy == name], schedule) for name in names}


def build_curve(cells: Sequence[Run], schedule: Schedule) -> Curve:
    """Builds the curve of one strategy from its runs, of which some may have no records yet."""
    runs = sorted((run for run in cells if run.records), key=lambda run: run.seed)
    shape = (len(runs), schedule.rounds)
    kinds = sorted({kind for run in runs for record in run.records for kind in record.cost})
    value_SR, num_labelled_SR = np.full(shape, np.nan), np.full(shape, np.nan)
    cost: dict[str, Floats] = {kind: np.full(shape, np.nan) for kind in kinds}
    for row, run in enumerate(runs):
        assert run.header is not None
        records = run.records[: schedule.rounds]
        columns = [min(record.round, schedule.rounds - 1) for record in records]
        value_SR[row, columns] = [record.scores[run.header.task_metric.name] for record in records]
        num_labelled_SR[row, columns] = [record.num_labelled for record in records]
        for kind, cost_SR in cost.items():
            cost_SR[row, columns] = [record.cost.get(kind, np.nan) for record in records]
    lengths = [len(run.records) for run in runs if schedule.is_finished(run.records)]
    return Curve(
        cells[0].strategy, len(runs), len(cells), value_SR, num_labelled_SR, cost,
        tuple(run.seed for run in runs), tuple(run.start_fingerprint for run in runs),
        frozenset(run.seed for run in runs if not schedule.is_finished(run.records)), cells[0].daggers,
        num_failed=sum(run.has_failed and not schedule.is_finished(run.records) for run in cells),
        num_ended_R=tuple(sum(length <= column for length in lengths) for column in range(schedule.rounds)),
        has_companion=cells[0].has_companion, variant=cells[0].variant,
    )  # fmt: skip
