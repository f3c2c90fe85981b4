"""Reads experiments from results folders and CSV files, and joins the runs of one experiment from several folders."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.analysis.curves import Experiment, Run, curves_by_strategy
from benchmark.analysis.published import read_curve_file
from benchmark.contract.metrics import resolve_metric
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY
from benchmark.plugins.discovery import declares_companion
from benchmark.plugins.paths import parse_paths
from benchmark.records.agreement import Agreement, MixedRecordsError
from benchmark.records.manifest import cell_variant
from benchmark.records.record import records_agree
from benchmark.records.store import Store
from benchmark.text.words import did_you_mean

REMEDY = "analyse the folders one at a time, or run the outdated cells again with `run ... rerun_changed=true`"
GC_PAUSE_MIN_CELLS = 500  # cells above which garbage collection would take longer than reading them


def read_experiments(records: str | Sequence[str], title: str = "") -> list[Experiment]:
    """Reads experiments from results folders, CSV files and folders of CSV files.

    Cells of equally named experiments in several folders are joined.

    Args:
        records: paths, or one text that holds several paths, see `paths.parse_paths`.
        title: reads only the experiment of this title from results folders; all where it is empty.

    Raises:
        ValueError: a path holds no records, or two paths hold the same cell with other settings.
    """
    stores, files = find_stores_and_files(records)
    experiments = read_stores(stores, title) if stores else []
    experiments += [experiment for file in files for experiment in read_curve_file(file)]
    counts = Counter(experiment.title for experiment in experiments)
    if duplicates := [name for name, count in counts.items() if count > 1]:
        paths = records if isinstance(records, str) else ",".join(records)
        raise ValueError(f"records={paths}: {duplicates[0]} is there twice")
    return experiments


def count_cells(records: str | Sequence[str]) -> dict[str, int]:
    """Counts the cells of each experiment in results folders; empty where there are CSV files, too."""
    stores, files = find_stores_and_files(records)
    manifests = [] if files else [store.manifest() for store in stores]
    counts = Counter[str]()
    for manifest in manifests:
        for entry in manifest["experiments"]:
            counts[entry["name"]] += len(entry["cells"])
    return dict(counts)


def find_stores_and_files(records: str | Sequence[str]) -> tuple[list[Store], list[Path]]:
    """Sorts paths into results folders and CSV files; a folder of CSV files counts as its files.

    Raises:
        ValueError: a path is neither.
    """
    stores, files = list[Store](), list[Path]()
    for path in map(Path, parse_paths(records, records) if isinstance(records, str) else records):
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


def select_experiments(experiments: Sequence[Experiment], task: str) -> list[Experiment]:
    """Selects experiments by title or task.

    Args:
        experiments: the experiments.
        task: a title, or the name of a task with or without its parameters; empty for all.

    Raises:
        ValueError: there is no such experiment; the message names similar ones.
    """
    selected = [
        experiment
        for experiment in experiments
        if task in ("", experiment.title, experiment.task, experiment.task.partition("[")[0])
    ]
    if not selected:
        known = dict.fromkeys(name for experiment in experiments for name in (experiment.title, experiment.task))
        raise ValueError(f"task={task}: these records have no {did_you_mean(task, known)}")
    return selected


def read_stores(stores: Sequence[Store], title: str = "") -> list[Experiment]:
    """Reads the experiments of results folders in the order of their manifests; only that of a title, if given.

    Raises:
        ValueError: two folders hold experiments of one name with other tasks, schedules or records.
    """
    by_name: dict[str, tuple[dict[str, Any], str, dict[str, Run]]] = {}
    for store in stores:
        manifest = store.manifest()
        for new in (entry for entry in manifest["experiments"] if title in ("", entry["name"])):
            old, _, runs = by_name.setdefault(new["name"], (new, manifest["grid"], {}))
            for setting in ("task", "schedule"):
                if old[setting] != new[setting]:
                    difference = f"{setting} {new[setting]}, elsewhere {old[setting]}"
                    raise ValueError(f"{store.folder} holds {new['name']} with {difference}: not the same experiment")
            with pause_garbage_collection() if len(new["cells"]) > GC_PAUSE_MIN_CELLS else contextlib.nullcontext():
                for cell in new["cells"]:
                    add_run(runs, read_run(cell, store))
    return [build_experiment(entry, grid, list(runs.values())) for entry, grid, runs in by_name.values()]


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Pauses the collector of reference cycles, which would scan all new objects repeatedly and find none to free.

    Afterwards these objects are frozen, so that later collections skip them."""
    was_on = gc.isenabled()
    gc.collect()  # garbage must not be frozen below
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def add_run(runs: dict[str, Run], new: Run) -> None:
    """Adds a run to `runs`; of two runs of one cell the one with more rounds stays.

    Raises:
        ValueError: the two differ in settings, data or records.
    """
    old = runs.setdefault(new.path, new)
    if old is new:
        return
    check_agreement(new.path, (old, new))
    rounds_agree = all(map(records_agree, old.records, new.records))
    if (old.header and new.header and old.header != new.header) or not rounds_agree:
        raise ValueError(f"{new.file} and {old.file} are the same cell with other settings, data or records")
    if len(new.records) > len(old.records):
        runs[new.path] = new


def read_run(cell: Mapping[str, Any], store: Store) -> Run:
    """Reads the run of a cell of the manifest.

    Raises:
        ValueError: the file of records is of another cell.
    """
    path, file = cell["path"], store.read(cell["path"])
    companion = cell.get("companion", declares_companion(cell["strategy"]))
    if file.header is not None and file.header.key != cell["key"]:
        raise ValueError(f"{store.path(path)} is not the cell that grid.json asks for")
    return Run(
        path, cell["strategy"], cell["seed"], tuple(cell["dagger"]), bool(companion),
        file.header, file.records, store.read_failure(path) is not None, file.damage, store, cell_variant(cell),
    )  # fmt: skip


def build_experiment(entry: Mapping[str, Any], grid: str, runs: Sequence[Run]) -> Experiment:
    """Builds an experiment from its entry in the manifest and its runs.

    Raises:
        MixedRecordsError: runs were made with different versions, parameters, data or weights.
    """
    check_agreement(entry["name"], runs)
    variant_runs = tuple(run for run in runs if run.variant != ORDINARY)
    runs = [run for run in runs if run.variant == ORDINARY]
    schedule = Schedule.read(entry["schedule"])
    metric = next((run.header.task_metric for run in runs if run.header is not None), resolve_metric("score"))
    return Experiment(
        entry["name"], grid, entry["task"], metric, tuple(range(schedule.rounds)), curves_by_strategy(runs, schedule),
        schedule, tuple(runs), variant_runs, AutoSeeds.read(entry.get("auto")),
    )  # fmt: skip


def check_agreement(title: str, runs: Sequence[Run]) -> None:
    """Checks that runs of one experiment agree on what all of them must share.

    Raises:
        MixedRecordsError: they were made with different versions, parameters, data or weights.
    """
    agreement = Agreement()
    for run in runs:
        if run.header is None:
            continue
        if difference := agreement.add(run.header, run.strategy, run.store.path(run.path)):
            raise MixedRecordsError(f"{title} holds records that were made with other {difference}: {REMEDY}")
