"""Reads experiments: the records of results folders, and what of them belongs together."""

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

REMEDY = "tabulate folders apart, or run what is outdated anew with `run ... rerun_changed=true`"
GC_PAUSE_MIN_CELLS = 500  # cells above which the collector of cycles would take longer than reading them


def read_experiments(records: str | Sequence[str], title: str = "") -> list[Experiment]:
    """The experiments of results folders, CSV files and folders of CSV files; only: that one.

    records: paths, or a text as `places.folders` reads it.

    The cells of folders that hold an experiment of the same name are put together. ValueError where a path holds
    nothing, or two hold the same cell with other settings.
    """
    stores, files = find_stores_and_files(records)
    found = [*(read_stores(stores, title) if stores else ()), *(one for file in files for one in read_curve_file(file))]
    twice = [title for title, count in Counter(one.title for one in found).items() if count > 1]
    if twice:
        told = records if isinstance(records, str) else ",".join(records)
        raise ValueError(f"records={told}: {twice[0]} is there twice")
    return found


def count_cells(records: str | Sequence[str]) -> dict[str, int]:
    """How many cells each experiment of results folders has; {} where there are CSV files too."""
    stores, files = find_stores_and_files(records)
    manifests = [] if files else [store.manifest() for store in stores]
    asked = [(one["name"], len(one["cells"])) for manifest in manifests for one in manifest["experiments"]]
    return {name: sum(count for other, count in asked if other == name) for name, _ in asked}


def find_stores_and_files(records: str | Sequence[str]) -> tuple[list[Store], list[Path]]:
    """The results folders and the CSV files that these paths are. ValueError where one holds neither."""
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
    """Those of that title or on that task, with any parameters; all where `task` is empty. ValueError: none."""
    found = [one for one in experiments if task in ("", one.title, one.task, one.task.partition("[")[0])]
    if not found:
        known = dict.fromkeys(name for one in experiments for name in (one.title, one.task))
        raise ValueError(f"task={task}: these records have no {did_you_mean(task, known)}")
    return found


def read_stores(stores: Sequence[Store], title: str = "") -> list[Experiment]:
    """The experiments of results folders, in the order in which they were asked for; only: that one."""
    asked: dict[str, tuple[dict[str, Any], str, dict[str, Run]]] = {}
    for store in stores:
        manifest = store.manifest()
        for new in (one for one in manifest["experiments"] if title in ("", one["name"])):
            old, _, runs = asked.setdefault(new["name"], (new, manifest["grid"], {}))
            for setting in ("task", "schedule"):
                if old[setting] != new[setting]:
                    told = f"{setting} {new[setting]}, elsewhere {old[setting]}"
                    raise ValueError(f"{store.folder} holds {new['name']} with {told}: not the same experiment")
            with pause_garbage_collection() if len(new["cells"]) > GC_PAUSE_MIN_CELLS else contextlib.nullcontext():
                for cell in new["cells"]:
                    add_run(runs, read_run(cell, store))
    return [build_experiment(old, grid, list(runs.values())) for old, grid, runs in asked.values()]


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
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


def add_run(runs: dict[str, Run], new: Run) -> None:
    """Adds a run; the longer one where two folders hold the same. ValueError where they differ."""
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
    """The run of a cell of the manifest."""
    path, found = cell["path"], store.read(cell["path"])
    companion = cell.get("companion", declares_companion(cell["strategy"]))
    if found.header is not None and found.header.key != cell["key"]:
        raise ValueError(f"{store.path(path)} is not the cell that grid.json asks for")
    return Run(
        path, cell["strategy"], cell["seed"], tuple(cell["dagger"]), bool(companion),
        found.header, found.records, store.read_failure(path) is not None, found.damage, store, cell_variant(cell),
    )  # fmt: skip


def build_experiment(entry: Mapping[str, Any], grid: str, runs: Sequence[Run]) -> Experiment:
    """One experiment of a manifest with its runs. Mixture where they were made with other versions, data or weights."""
    check_agreement(entry["name"], runs)
    variants = tuple(run for run in runs if run.variant != ORDINARY)
    runs = [run for run in runs if run.variant == ORDINARY]
    schedule = Schedule.read(entry["schedule"])
    curves = curves_by_strategy(runs, schedule)
    metric = next((run.header.task_metric for run in runs if run.header is not None), resolve_metric("score"))
    rounds = tuple(range(schedule.rounds))
    auto = AutoSeeds.read(entry.get("auto"))
    own = curves, schedule, tuple(runs), variants, auto
    return Experiment(entry["name"], grid, entry["task"], metric, rounds, *own)


def check_agreement(title: str, runs: Sequence[Run]) -> None:
    """Mixture where runs of one experiment do not agree on what all of them must share."""
    agreement = Agreement()
    for run in runs:
        words = agreement.add(run.header, run.strategy, run.store.path(run.path)) if run.header is not None else ""
        if words:
            raise MixedRecordsError(f"{title} holds records that were made with other {words}: {REMEDY}")
