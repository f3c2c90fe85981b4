"""What the records of a results folder hold already, and whether a run may add to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from benchmark.api import FromFiles, Machine, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Grid
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.records.agreement import Agreement, MixedRecordsError
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Header
from benchmark.records.store import REMEDY, Store
from benchmark.runner import loop
from benchmark.runner.task_loading import TaskLoader
from benchmark.text.words import plural


def find_shorter_cells(cells: Sequence[Cell], store: Store) -> dict[Cell, Cell]:
    """Returns, for cells without records, the longest recorded cell that differs from it only in having fewer rounds.

    The number of rounds of a schedule does not influence any single round, unless everything is selected at once. Only
    cells that the manifest lists count, so that records are not copied twice.
    """
    listed_paths = {cell["path"] for experiment in store.experiments() for cell in experiment["cells"]}
    recorded_schedules, shorter_cells = dict[tuple[str, Schedule], list[Schedule]](), dict[Cell, Cell]()
    for cell in cells:
        key = cell.task.label, cell.schedule
        if key not in recorded_schedules:
            lengths = [] if cell.schedule.one_pass else range(cell.schedule.rounds - 1, 0, -1)
            shorter = [replace(cell, schedule=replace(cell.schedule, rounds=rounds)) for rounds in lengths]
            recorded_schedules[key] = [
                candidate.schedule for candidate in shorter if store.path(candidate.path).parents[1].is_dir()
            ]
        if recorded_schedules[key] and not store.path(cell.path).exists():
            candidates = (replace(cell, schedule=schedule) for schedule in recorded_schedules[key])
            pairs = ((shorter, store.header(shorter.path)) for shorter in candidates if shorter.path in listed_paths)
            matches = (
                shorter for shorter, header in pairs if header and header.belongs_to(shorter.key, shorter.identity())
            )
            if (longest := next(matches, None)) is not None:
                shorter_cells[cell] = longest
    return shorter_cells


def copy_shorter_records(cells: Sequence[Cell], store: Store) -> Iterator[str]:
    """Copies records of cells with fewer rounds to where longer cells continue them; yields a line per schedule."""
    num_cells = Counter[tuple[str, str]]()
    for cell, shorter in find_shorter_cells(cells, store).items():
        header = store.header(shorter.path)
        assert header is not None
        identity = {**header.cell, "schedule": cell.schedule.identity()}
        store.copy_cell(shorter.path, cell.path, structs.replace(header, key=cell.key, cell=identity))
        num_cells[cell.task.label, shorter.schedule.label] += 1
    for (task, schedule_label), number in num_cells.items():
        yield f"{task}: {number} cells go on from their records of {schedule_label}"


def count_rounds_left(cells: Sequence[Cell], store: Store) -> dict[Cell, int]:
    """Returns the number of rounds, at most, that each unfinished cell lacks.

    Raises:
        MixedRecordsError: a file holds the records of other settings.
    """
    rounds_left, shorter = {}, find_shorter_cells(cells, store)
    for cell in cells:
        header, records = store.records(shorter.get(cell, cell).path)
        if cell not in shorter and header is not None and not header.belongs_to(cell.key, cell.identity()):
            store.check_own_records(store.path(cell.path), header, partial_header(cell))
        if not cell.schedule.is_finished(records):
            rounds_left[cell] = cell.schedule.rounds - len(records)
    return rounds_left


def find_unfinished_cells(cells: Sequence[Cell], store: Store) -> list[Cell]:
    """Returns the cells whose records lack rounds, whatever their run reported."""
    return [cell for cell in cells if not cell.schedule.is_finished(store.records(cell.path)[1])]


def partial_header(cell: Cell) -> Header:
    """Returns the header that a cell would write, without the fields that only its task knows."""
    return Header(cell.key, cell.identity(), "", 0, "", [])


def check_versions(grid: Grid, experiments: Sequence[Mapping[str, Any]], store: Store) -> None:
    """Checks that records of other seeds and strategies of an experiment agree with this run.

    Args:
        grid: the grid of this run.
        experiments: the experiments of the manifest, with those of this run.
        store: the results folder.

    Raises:
        MixedRecordsError: they were made with other versions or parameters of plug-ins.
    """
    cells_by_experiment = {experiment["name"]: experiment["cells"] for experiment in experiments}
    for experiment in grid.experiments:
        agreement, cells = Agreement(), list(experiment.cells())
        for cell in cells[: len(experiment.strategies)]:  # the first seed
            agreement.add(partial_header(cell), cell.strategy.label, "this run")
        own_paths = {cell.path for cell in cells}
        for other in cells_by_experiment[experiment.name]:
            header = None if other["path"] in own_paths else store.header(other["path"])
            difference = agreement.difference(header, other["strategy"], "the file") if header else ""
            if difference:
                raise MixedRecordsError(f"{store.path(other['path'])} was written with other {difference}: {REMEDY}")


def set_aside_changed(grid: Grid, store: Store, tasks: TaskLoader) -> Iterator[str]:
    """Moves records made with other versions, parameters, data or weight files into a folder of their own.

    Yields a line for each experiment with such records.
    """
    old_experiments = {experiment["name"]: experiment for experiment in store.experiments()}
    for experiment in grid.experiments:
        task, agreement = tasks(experiment.task), Agreement()
        if isinstance(task, Exception):
            raise task
        cells = list(experiment.cells())[: len(experiment.strategies)]  # the first seed
        for cell in cells:
            agreement.add(loop.build_header(cell, task, tasks.machine), cell.strategy.label, "this run")
        old = old_experiments.get(experiment.name, {"cells": []})
        old_headers = [(cell, store.header(cell["path"])) for cell in old["cells"]]
        changed = [
            cell for cell, header in old_headers if header and agreement.difference(header, cell["strategy"], "")
        ]
        if changed:
            folder = store.set_aside(old, changed)
            num_cells = plural(len(changed), "cell")
            yield f"{experiment.name}: {num_cells} of other versions, data or weights, now in {folder}"


def edited_code_remarks(cells: Sequence[Cell], store: Store) -> Iterator[str]:
    """Yields a line for each strategy whose code was edited since its records were made, while its version stayed."""
    num_edited, codes = Counter[Spec](), {spec: spec.code_hash for spec in {cell.strategy for cell in cells}}
    for cell in cells:
        if code := codes[cell.strategy]:
            num_edited[cell.strategy] += bool(store.code_hashes(cell.path) - {code})
    for spec, number in (+num_edited).items():
        change = f"{spec.label}, or what it imports, was edited since {number} of its cells were recorded"
        advice = "their rounds stay; to run it again, raise its version and add rerun_changed=true"
        yield f"{change}, but is still version {spec.plugin.version}: {advice}"


def checked_header(cell: Cell, task: Task, store: Store, machine: Machine) -> Header:
    """Returns the header of a cell's records. MixedRecordsError as `check_header`."""
    header = loop.build_header(cell, task, machine)
    check_header(cell, header, store, lambda: find_sources(task))
    return header


def check_header(cell: Cell, header: Header, store: Store, sources: Callable[[], Sources | None]) -> None:
    """Checks that recorded cells agree with a header.

    Args:
        cell: the cell.
        header: the header of its records.
        store: the results folder.
        sources: returns the files that the task's images come from now.

    Raises:
        MixedRecordsError: there are records of other data; the message names the files that changed.
    """
    try:
        store.check_header(cell.path, header)
    except MixedRecordsError as error:
        new = sources()
        old = store.sources(cell.task.label) if new is not None else None
        if new is None or old is None or old.data == header.data:
            raise
        raise MixedRecordsError(f"{old.describe_changes(new)}: {error}") from None


def find_sources(task: Task) -> Sources | None:
    """Returns the files that a task's images come from, and remarks on them; None where it knows no files."""
    return Sources(task.fingerprint, task.source_files(), task.data_remarks()) if isinstance(task, FromFiles) else None


def save_task_sources(spec: Spec, task: Task, store: Store) -> None:
    """Writes the list of a task's image files beside its records; see `save_sources`."""
    is_saved = (spec.label, task.fingerprint) in store.saved_sources
    if not is_saved and (sources := find_sources(task)) is not None:
        save_sources(spec, sources, store)


def save_sources(spec: Spec, sources: Sources, store: Store) -> None:
    """Writes a list of image files, unless it is empty or the same list is there already."""
    store.saved_sources.add((spec.label, sources.data))
    old = store.sources(spec.label)
    if (old is None or sources.to_json() != old.to_json()) and (sources.files or sources.remarks):
        store.save_sources(spec.label, sources)
