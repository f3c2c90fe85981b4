"""Reads experiments: the records of results folders, and what of them belongs together."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.analysis.curves import Experiment, Run, by_strategy
from benchmark.analysis.published import published
from benchmark.contract.scores import metric_of
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY
from benchmark.plugins.discovery import declares_companion
from benchmark.plugins.places import folders
from benchmark.records.agreement import Agreement, Mixture
from benchmark.records.manifest import variant_of
from benchmark.records.record import agree
from benchmark.records.store import Store
from benchmark.text.words import unknown

REMEDY = "tabulate folders apart, or run what is outdated anew with `run ... rerun_changed=true`"
MANY = 500  # cells above which the collector of cycles would take longer than reading them


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
    if old is new:
        return
    check_agreement(new.path, (old, new))
    rounds_agree = all(map(agree, old.records, new.records))
    if (old.header and new.header and old.header != new.header) or not rounds_agree:
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
    metric = next((run.header.measure for run in runs if run.header is not None), metric_of("score"))
    rounds = tuple(range(schedule.rounds))
    auto = AutoSeeds.read(asked.get("auto"))
    own = curves, schedule, tuple(runs), variants, auto
    return Experiment(asked["name"], grid, asked["task"], metric, rounds, *own)


def check_agreement(title: str, runs: Sequence[Run]) -> None:
    """Mixture where runs of one experiment do not agree on what all of them must share."""
    agreement = Agreement()
    for run in runs:
        words = agreement.add(run.header, run.strategy, run.store.path(run.path)) if run.header is not None else ""
        if words:
            raise Mixture(f"{title} holds records that were made with other {words}: {REMEDY}")
