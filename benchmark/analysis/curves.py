"""Learning curves: what every analysis reads, of our own runs and of papers alike.

Shapes: S runs (seeds), R rounds.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.cell import SAW_EVALUATION
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY, Variant
from benchmark.plugins.discovery import declares_companion
from benchmark.plugins.places import folders
from benchmark.records.agreement import Agreement, Mixture
from benchmark.records.manifest import variant_of
from benchmark.records.record import Header, Measured, Record
from benchmark.records.sources import Sources
from benchmark.records.store import Store
from benchmark.records.versions import mixed
from benchmark.system.files import read as read_file
from benchmark.system.typed import LARGEST, converted
from benchmark.text.escaping import csv_read
from benchmark.text.words import unknown

if TYPE_CHECKING:
    import pandas as pd

Floats: TypeAlias = npt.NDArray[np.float64]

REMEDY = "tabulate folders apart, or run what is outdated anew with `run ... rerun_changed=true`"
COLUMNS = ("source", "task", "strategy", "num_runs", "round", "num_labelled", "metric", "value")  # of a CSV, at least
SOURCES = "sources.yaml"  # beside CSV files: what is known of each source
MANY = 500  # cells above which the collector of cycles would take longer than reading them


class Source(TypedDict, total=False):
    """What SOURCES tells of a source; results/published/sources.yaml says what each of it is."""

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
    companion: bool  # the strategy trains something beside the model, so its round 0 is its own
    header: Header | None  # None: nothing is recorded
    records: list[Record]
    failed: bool
    damage: str  # what of its file is not used
    store: Store  # that it is in
    variant: Variant = ORDINARY

    @property
    def name(self) -> str:
        """How people name it among the runs of its experiment."""
        return f"{self.strategy} seed {self.seed}{self.variant.words}"

    @property
    def file(self) -> Path:
        """Its records."""
        return self.store.path(self.path)

    @property
    def folder(self) -> Path:
        """The results folder that it is in."""
        return self.store.folder

    @cached_property
    def measured(self) -> list[Measured]:
        """What each round took; read when it is first asked for, since tables do without."""
        return self.store.measured(self.path)

    @cached_property
    def start(self) -> str:
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
    wanted: int  # runs that were asked for
    value_SR: Floats
    num_labelled_SR: Floats  # images trained on
    cost: dict[str, Floats]  # labels paid so far, each (S, R): images, boxes where the task counts them
    seeds: tuple[int, ...] = ()  # of the runs; () where only their mean is told
    starts: tuple[str, ...] = ()  # see Run.start
    unfinished: frozenset[int] = frozenset()  # seeds whose runs lack rounds
    daggers: tuple[str, ...] = ()
    failed: int = 0
    ended_R: tuple[int, ...] = ()  # runs whose last round was before this one
    std_R: Floats | None = None  # as a paper tells it
    printed: dict[str, tuple[str, ...]] = field(default_factory=dict)  # value, boxes: a paper's own digits
    companion: bool = False  # see Run.companion
    variant: Variant = ORDINARY  # of its runs

    @property
    def mean_R(self) -> Floats:
        """(R,): the mean over the runs that have the round."""
        return mean(self.value_SR)


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is compared with each other: a task under a schedule."""

    title: str
    source: str  # a grid or a paper
    task: str
    metric: str
    rounds: tuple[int, ...]  # what the R columns are
    curves: dict[str, Curve]  # by strategy, in the order asked for
    schedule: Schedule | None = None  # None: a paper's
    runs: tuple[Run, ...] = ()  # (): a paper's
    variants: tuple[Run, ...] = ()  # runs that vary training or selection alone: they count for `variance`, in no curve
    auto: AutoSeeds | None = None  # None: seeds were told
    told: Source = field(default_factory=Source)  # of its source, see SOURCES

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Its runs, those that vary training or selection alone among them."""
        return self.runs + self.variants

    @cached_property
    def varied(self) -> dict[Variant, dict[str, Curve]]:
        """The curves of each variant of training and selection, the ordinary one aside, by strategy."""
        return {
            one: by_strategy([run for run in self.variants if run.variant == one], self.schedule)
            for one in sorted({run.variant for run in self.variants})
            if self.schedule is not None
        }

    @property
    def all_curves(self) -> list[Curve]:
        """Its curves, those of variants behind the ordinary ones."""
        return [curve for curves in (self.curves, *self.varied.values()) for curve in curves.values()]

    @property
    def counts_boxes(self) -> bool:
        """Whether boxes are paid for."""
        return any("boxes" in curve.cost for curve in self.curves.values())

    @property
    def data_set(self) -> str:
        """Which data set it is on: the fingerprint of its pool and test set; of a paper the plug-in of its task, where
        that is told, or the task."""
        known = {run.header.data for run in self.runs if run.header is not None}
        recipe = self.told.get("recipes", {}).get(self.task, self.task)
        return min(known, default=str(recipe).partition("[")[0])

    @cached_property
    def mixed_versions(self) -> dict[str, list[str]]:
        """The libraries that its rounds were made with several versions of, each with all of them."""
        return mixed(one.versions for run in self.runs for one in run.measured if one.round < len(run.records))

    @cached_property
    def sources(self) -> list[Sources]:
        """The files that its images are from, and what is odd about them, of each results folder that tells them."""
        stores = dict.fromkeys(run.store for run in self.runs)
        return [sources for store in stores if (sources := store.sources(self.task)) is not None]

    def file_names(self, run: Run) -> list[str]:
        """The file of each image of the pool that a run bought from; [] where that is not known."""
        data = None if run.header is None else run.header.data
        return next((sources.names("pool") for sources in self.sources if sources.data == data), [])

    @property
    def num_labelled_R(self) -> Floats:
        """(R,): images trained on, those of the strategy that has most rounds."""
        longest = max(self.curves.values(), key=lambda curve: np.isfinite(curve.num_labelled_SR).any(0).sum())
        return mean(longest.num_labelled_SR)

    @property
    def reference(self) -> str | None:
        """What others are compared with unless told: what the source names, or the first strategy that has runs."""
        told = self.auto.reference if self.auto else self.told.get("reference")
        first = next((name for name, curve in self.curves.items() if curve.num_runs), None)
        return told if told in self.curves else first

    def get(self, strategy: str) -> Curve:
        """The curve of a strategy; ValueError names what there is."""
        if strategy not in self.curves:
            raise ValueError(f"{self.title} has no strategy {unknown(strategy, self.curves)}")
        return self.curves[strategy]


def mean(values_SR: Floats) -> Floats:
    """(R,): the mean over what is there; NaN where nothing is."""
    there = np.isfinite(values_SR)
    total = np.where(there, values_SR, 0.0).sum(0)
    return np.asarray(np.divide(total, there.sum(0), out=np.full(total.shape, np.nan), where=there.any(0)))


SCALES = "one is in shares (0 to 1), the other in per cent"


def best_score(curves: Iterable[Curve]) -> float:
    """The highest score of these curves; NaN where there is none."""
    return max((float(np.nanmax(one.value_SR)) for one in curves if np.isfinite(one.value_SR).any()), default=np.nan)


def apart(first: float, second: float) -> bool:
    """Whether one of two best scores is a share and the other in per cent, as it seems: a tenth, and 1 lies between."""
    low, high = sorted((first, second))
    return low <= 1 < high and low < high / 10


def read(records: str | Sequence[str], only: str = "") -> list[Experiment]:
    """The experiments of results folders, CSV files and folders of CSV files; only: that one.

    records: paths, or a text as `places.folders` reads it.

    The cells of folders that hold an experiment of the same name are put together. ValueError where a path holds
    nothing, or two hold the same cell with other settings.
    """
    stores, files = placed(records)
    found = [*(ours(stores, only) if stores else ()), *(one for file in files for one in published(file))]
    twice = [title for title, count in Counter(one.title for one in found).items() if count > 1]
    if twice:
        told = records if isinstance(records, str) else ",".join(records)
        raise ValueError(f"records={told}: {twice[0]} is there twice")
    return found


def sizes(records: str | Sequence[str]) -> dict[str, int]:
    """How many cells each experiment of results folders has; {} where there are CSV files too."""
    stores, files = placed(records)
    manifests = [] if files else [store.manifest() for store in stores]
    asked = [(one["name"], len(one["cells"])) for manifest in manifests for one in manifest["experiments"]]
    return {name: sum(count for other, count in asked if other == name) for name, _ in asked}


def placed(records: str | Sequence[str]) -> tuple[list[Store], list[Path]]:
    """The results folders and the CSV files that these paths are. ValueError where one holds neither."""
    stores, files = list[Store](), list[Path]()
    for path in map(Path, folders(records, records) if isinstance(records, str) else records):
        if (path / "grid.json").exists():
            stores.append(Store(path))
        elif path.suffix == ".csv" and path.exists():
            files.append(path)
        elif inside := sorted(path.glob("[!.]*.csv")):
            files += inside
        else:
            raise ValueError(
                f"{path} holds no results: neither a run nor CSV files of curves; name another folder with out="
            )
    return stores, files


def chosen(experiments: Sequence[Experiment], task: str) -> list[Experiment]:
    """Those of that title or on that task, with any parameters; all where `task` is empty. ValueError: none."""
    found = [one for one in experiments if task in ("", one.title, one.task, one.task.partition("[")[0])]
    if not found:
        known = dict.fromkeys(name for one in experiments for name in (one.title, one.task))
        raise ValueError(f"task={task}: these records have no {unknown(task, known)}")
    return found


# --- our runs -------------------------------------------------------------------------------
def ours(stores: Sequence[Store], only: str = "") -> list[Experiment]:
    """The experiments of results folders, in the order in which they were asked for; only: that one."""
    asked: dict[str, tuple[dict[str, Any], str, dict[str, Run]]] = {}
    for store in stores:
        manifest = store.manifest()
        for new in (one for one in manifest["experiments"] if only in ("", one["name"])):
            old, _, runs = asked.setdefault(new["name"], (new, manifest["grid"], {}))
            for setting in ("task", "schedule"):
                if old[setting] != new[setting]:
                    told = f"{setting} {new[setting]}, elsewhere {old[setting]}"
                    raise ValueError(f"{store.folder} holds {new['name']} with {told}: not the same experiment")
            with uncollected() if len(new["cells"]) > MANY else contextlib.nullcontext():
                for cell in new["cells"]:
                    add(runs, run_of(cell, store))
    return [experiment(old, grid, list(runs.values())) for old, grid, runs in asked.values()]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, which else walks all that is read again and again, then and later, for none."""
    was_on = gc.isenabled()
    gc.collect()  # what is frozen below stays
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def add(runs: dict[str, Run], new: Run) -> None:
    """Adds a run; the longer one where two folders hold the same. ValueError where they differ."""
    old = runs.setdefault(new.path, new)
    if old is not new:
        check_agreement(new.path, (old, new))
    shared = min(len(old.records), len(new.records))
    if (old.header and new.header and old.header != new.header) or old.records[:shared] != new.records[:shared]:
        raise ValueError(f"{new.file} and {old.file} are the same cell with other settings, data or records")
    if len(new.records) > len(old.records):
        runs[new.path] = new


def run_of(cell: Mapping[str, Any], store: Store) -> Run:
    """The run of a cell of the manifest."""
    path, found = cell["path"], store.read(cell["path"])
    companion = cell.get("companion", declares_companion(cell["strategy"]))
    if found.header is not None and found.header.key != cell["key"]:
        raise ValueError(f"{store.path(path)} is not the cell that grid.json asks for")
    return Run(
        path, cell["strategy"], cell["seed"], tuple(cell["dagger"]), bool(companion),
        found.header, found.records, store.failure(path) is not None, found.damage, store, variant_of(cell),
    )  # fmt: skip


def experiment(asked: Mapping[str, Any], grid: str, runs: Sequence[Run]) -> Experiment:
    """One experiment of a manifest with its runs. Mixture where they were made with other versions, data or weights."""
    check_agreement(asked["name"], runs)
    variants = tuple(run for run in runs if run.variant != ORDINARY)
    runs = [run for run in runs if run.variant == ORDINARY]
    schedule = Schedule.read(asked["schedule"])
    curves = by_strategy(runs, schedule)
    metric = next((run.header.metric for run in runs if run.header is not None), "score")
    rounds = tuple(range(schedule.rounds))
    auto = AutoSeeds.read(asked.get("auto"))
    own = curves, schedule, tuple(runs), variants, auto
    return Experiment(asked["name"], grid, asked["task"], metric, rounds, *own)


def check_agreement(title: str, runs: Sequence[Run]) -> None:
    """Mixture where runs of one experiment do not agree on what all of them must share."""
    agreement = Agreement()
    for run in runs:
        words = agreement.add(run.header, run.strategy, run.store.place(run.path)) if run.header is not None else ""
        if words:
            raise Mixture(f"{title} holds records that were made with other {words}: {REMEDY}")


def by_strategy(runs: Sequence[Run], schedule: Schedule) -> dict[str, Curve]:
    """The curves of runs of one variant."""
    names = dict.fromkeys(run.strategy for run in runs)
    return {name: curve([run for run in runs if run.strategy == name], schedule) for name in names}


def curve(cells: Sequence[Run], schedule: Schedule) -> Curve:
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
        value[row, columns] = [record.scores[run.header.metric] for record in records]
        labelled[row, columns] = [record.num_labelled for record in records]
        for kind, paid_SR in cost.items():
            paid_SR[row, columns] = [record.cost.get(kind, np.nan) for record in records]
    lengths = [len(run.records) for run in runs if schedule.finished(run.records)]
    return Curve(
        cells[0].strategy, len(runs), len(cells), value, labelled, cost,
        tuple(run.seed for run in runs), tuple(run.start for run in runs),
        frozenset(run.seed for run in runs if not schedule.finished(run.records)), cells[0].daggers,
        failed=sum(run.failed and not schedule.finished(run.records) for run in cells),
        ended_R=tuple(sum(length <= number for length in lengths) for number in range(schedule.rounds)),
        companion=cells[0].companion, variant=cells[0].variant,
    )  # fmt: skip


# --- published curves -----------------------------------------------------------------------
def published(path: Path) -> list[Experiment]:
    """The experiments of a CSV file: one a source and task. ValueError, in one line, for what does not fit."""
    import pandas as pd  # takes a quarter of a second: only where it is used

    content = io.BytesIO(read_file(path))
    try:
        frame = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frame = frame.map(csv_read)
    if lacking := [name for name in COLUMNS if name not in frame]:
        raise ValueError(f"{path} is no file of curves: it lacks the columns {', '.join(lacking)}")
    frame = frame[frame["value"] != ""]
    if frame.empty:
        raise ValueError(f"{path} holds no curves")
    whole = {name: counts_of(frame[name], f"{path}: {name}", least) for name, least in (("num_runs", 1), ("round", 0))}
    frame = frame.assign(**whole)
    twice = frame.duplicated(["source", "task", "strategy", "round"])
    if twice.any():
        raise ValueError(f"{path}: {' '.join(frame[twice].iloc[0][list(COLUMNS[:3])])} has a round twice")
    metrics = frame.groupby(["source", "task"])["metric"].nunique()
    if (metrics > 1).any():
        raise ValueError(f"{path}: {' '.join(metrics[metrics > 1].index[0])} has more than one metric")
    sources = known_sources(path.parent / SOURCES)
    groups = frame.groupby(["source", "task"], sort=False)
    return [
        paper(str(source), str(task), rows, sources.get(str(source), Source()), path) for (source, task), rows in groups
    ]


def known_sources(path: Path) -> dict[str, Source]:
    """What SOURCES tells by source; nothing where the file is not there."""
    import yaml

    try:
        found = yaml.safe_load(read_file(path).decode("utf-8-sig")) if path.exists() else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must be a mapping of sources, each of them a mapping")
    try:
        return dict(converted(found, dict[str, Source]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def paper(source: str, task: str, rows: pd.DataFrame, told: Source, path: Path) -> Experiment:
    """One experiment of a paper from its rows."""
    rounds = tuple(sorted(set(rows["round"])))
    saw, ours = told.get("saw_evaluation_labels", []), told.get("strategies", {})
    curves = {
        str(name): paper_curve(str(name), found.set_index("round"), rounds, SAW_EVALUATION if name in saw else "", path)
        for name, found in rows.groupby("strategy", sort=False)
    }
    curves = {name: replace(one, companion=declares_companion(ours.get(name, name))) for name, one in curves.items()}
    title = f"{source}_{task}".replace("-", "_")
    return Experiment(title, source, task, str(rows["metric"].iloc[0]), rounds, curves, told=told)


def paper_curve(name: str, rows: pd.DataFrame, rounds: Sequence[int], dagger: str, path: Path) -> Curve:
    """A curve as a paper tells it: one mean."""
    rows = rows.reindex(list(rounds))
    paid = rows["cost_images"] if "cost_images" in rows else rows["num_labelled"]
    texts = {"images": paid, "boxes": rows.get("boxes"), "std": rows.get("std")}
    numbers = {kind: numbers_of(text, f"{path}: {name}: {kind}") for kind, text in texts.items() if text is not None}
    cost = {kind: numbers[kind][None] for kind in ("images", "boxes") if np.isfinite(numbers.get(kind, np.nan)).any()}
    std = numbers.get("std", np.full(len(rounds), np.nan))
    there = rows["value"].notna()
    labelled = numbers_of(rows["num_labelled"], f"{path}: {name}: num_labelled")
    if np.isnan(labelled[there]).any() or "images" not in cost:
        raise ValueError(f"{path}: {name}: a value lacks its num_labelled")
    own = "num_wanted" in rows  # a table of ours, whose digits are all that a float has
    return Curve(
        name, int(rows["num_runs"].max()), int(rows["num_runs"].max()),
        numbers_of(rows["value"], f"{path}: {name}: value")[None], labelled[None], cost,
        daggers=(dagger,) if dagger else (), std_R=std if np.isfinite(std).any() else None,
        ended_R=tuple(0 if one else int(rows["num_runs"].max()) for one in there),
        printed={kind: tuple(rows[kind].fillna("")) for kind in ("value", "std", "boxes") if kind in rows and not own},
    )  # fmt: skip


def numbers_of(texts: Iterable[Any], what: str) -> Floats:
    """Texts as numbers, NaN where there is none. ValueError where one is no finite number."""
    found = []
    for text in texts:
        try:
            number = float(text) if isinstance(text, str) and text else None
        except ValueError as error:
            raise ValueError(f"{what} {text!r} is no number") from error
        if number is not None and not abs(number) <= LARGEST:
            raise ValueError(f"{what} {text} is {'too large' if np.isfinite(number) else 'not finite'}")
        found.append(np.nan if number is None else number)
    return np.array(found, np.float64)


def counts_of(texts: Iterable[str], what: str, least: int) -> list[int]:
    """Texts as whole numbers. ValueError where one is none, or smaller or larger than it can be."""
    found = []
    for text in texts:
        try:
            number = int(text)
        except ValueError as error:
            raise ValueError(f"{what} {text[:40]!r} is no whole number") from error
        if not least <= number <= 2**53:
            raise ValueError(f"{what} must be at least {least}" + f" and at most {2**53}" * (number > least))
        found.append(number)
    return found
