"""Runs the cells of a grid on this machine one after the other, and checks them against the records that exist."""

from __future__ import annotations

import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from msgspec import structs

from benchmark.api import FromFiles, Machine, Task, check_encoder_weights
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Grid
from benchmark.experiment.schedule import IncompatibleScheduleError, Schedule
from benchmark.experiment.spec import Spec
from benchmark.records.agreement import Agreement, MixedRecordsError
from benchmark.records.record import Header, Measured, Record
from benchmark.records.sources import Sources
from benchmark.records.store import REMEDY, Store
from benchmark.runner import loop
from benchmark.runner.fit_cache import FitCache
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.files import StoreWriteError
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import describe_error, error_message, plural


@dataclass(frozen=True)
class CellStarted:
    """Event: a cell was started."""

    cell: Cell


@dataclass(frozen=True)
class Round:
    """Event: a round was recorded."""

    cell: Cell
    record: Record
    measured: Measured

    @property
    def is_last(self) -> bool:
        """Whether it is the last round of its cell."""
        schedule = self.cell.schedule
        return self.record.round == schedule.rounds - 1 or schedule.reaches_target(self.record.scores)

    @property
    def num_skipped_rounds(self) -> int:
        """The number of rounds that are not run because this one has reached the schedule's target score."""
        schedule = self.cell.schedule
        return schedule.rounds - 1 - self.record.round if schedule.reaches_target(self.record.scores) else 0


@dataclass(frozen=True)
class Failure:
    """Event: a cell failed; the other cells go on."""

    cell: Cell
    error: BaseException
    whole_task: bool  # the task cannot be built, or does not fit the schedule: all such cells fail

    @property
    def line(self) -> str:
        """The failure in one line."""
        text = error_message(self.error).strip().splitlines() or [""]
        kind = "" if isinstance(self.error, ValueError) else f"{type(self.error).__name__}: "
        return f"{self.cell.task.label if self.whole_task else self.cell.label}: {kind}{text[0]}"

    @property
    def trace(self) -> str:
        """The traceback."""
        return "".join(traceback.format_exception(self.error))


Event: TypeAlias = CellStarted | Round | Failure


def has_incompatible_schedule(failure: Failure) -> bool:
    """Whether the cell failed because its schedule does not fit the task, so that the same command cannot succeed."""
    return isinstance(failure.error, IncompatibleScheduleError)


def find_shorter_cells(cells: Sequence[Cell], store: Store) -> dict[Cell, Cell]:
    """Returns, for cells without records, the longest recorded cell that differs from it only in having fewer rounds.

    The number of rounds of a schedule does not influence any single round, unless everything is selected at once. Only
    cells that the manifest lists count: files that were taken over before are not taken over again.
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
    """Checks that what an experiment has recorded of other seeds and strategies agrees with this run.

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

    Yields a line for each experiment where it did.
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
            num_edited[cell.strategy] += bool(store.codes(cell.path) - {code})
    for spec, number in (+num_edited).items():
        change = f"{spec.label}, or what it imports, was edited since {number} of its cells were recorded"
        advice = "their rounds stay; to run it again, raise its version and add rerun_changed=true"
        yield f"{change}, but is still version {spec.plugin.version}: {advice}"


def check_encoders(cells: Iterable[Cell], machine: Machine) -> None:
    """Raises ValueError where an encoder's weight file is missing or does not fit, before images are read."""
    plugins = {plugin_and_label for cell in cells for plugin_and_label in cell.strategy.nested_plugins()}
    for label in {label for plugin, label in plugins if plugin.kind == "encoder"}:
        check_encoder_weights(label, machine)


class TaskLoader:
    """Builds the tasks on a machine at first use, and keeps the last one in memory."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.by_label: dict[str, Task | Exception] = {}

    def __call__(self, spec: Spec) -> Task | Exception:
        """Returns the task, or the exception that its construction raised; see `build_task`."""
        if spec.label not in self.by_label:
            self.by_label.clear()
            self.by_label[spec.label] = build_task(spec, self.machine)
        return self.by_label[spec.label]


def run_locally(cells: Sequence[Cell], store: Store, fits: FitCache, tasks: TaskLoader) -> Generator[Event]:
    """Runs the cells, records their rounds and yields what happens."""
    for cell in cells:
        yield CellStarted(cell)
        rounds = run_cell(cell, store, fits, tasks)
        while (event := next_event(cell, rounds, store, tasks)) is not None:
            yield event


def next_event(cell: Cell, rounds: Iterator[Round], store: Store, tasks: TaskLoader) -> Round | Failure | None:
    """Returns the next round of a cell, or why it failed; None after its last round.

    A plug-in may raise anything: `sys.exit(0)` in a strategy is a failure of its cell and must not end the run.

    Raises:
        StoreWriteError: the results folder cannot be written.
        KeyboardInterrupt: the user stops the run.
    """
    try:
        with isolate_plugin(cell.task.label, seed("global", cell.path)):
            return next(rounds, None)
    except (StoreWriteError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the one place where a cell's failure is caught
        of_task = error is tasks.by_label.get(cell.task.label)
        failure = Failure(cell, error, of_task or isinstance(error, IncompatibleScheduleError | MixedRecordsError))
        store.save_failure(cell.path, failure.trace)
        release_frames(error)
        return failure


def release_frames(error: BaseException | None) -> None:
    """Releases what the frames of a failed cell hold, since failures are kept until the run ends."""
    visited = set[int]()  # causes may form a cycle
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def build_task(spec: Spec, machine: Machine) -> Task | Exception:
    """Builds a task once; returns the exception if that fails, which then is the failure of all its cells."""
    try:
        with isolate_plugin(spec.label, seed("global build", spec.label)), activity.stage(f"loading {spec.label}"):
            task: Task = spec.plugin.build(machine, spec.values)
        return task
    except Exception as error:
        return error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = RuntimeError(describe_error(error))
        failure.__cause__ = error
        return failure


def run_cell(cell: Cell, store: Store, fits: FitCache, tasks: TaskLoader) -> Iterator[Round]:
    """Runs the rounds that a cell's records lack, and records them."""
    task, machine = tasks(cell.task), tasks.machine
    if isinstance(task, Exception):
        raise task
    past = store.start_cell(cell.path, checked_header(cell, task, store, machine))
    save_sources(cell.task, task, store)
    for record, measured in loop.run(cell, task, fits, machine, past):
        store.append(cell.path, record, measured)
        yield Round(cell, record, measured)


def checked_header(cell: Cell, task: Task, store: Store, machine: Machine) -> Header:
    """Returns the header of a cell's records.

    Raises:
        MixedRecordsError: there are records of other data; the message names the files that changed.
    """
    header, old = loop.build_header(cell, task, machine), None
    try:
        store.check_header(cell.path, header)
    except MixedRecordsError as error:
        if isinstance(task, FromFiles):
            old = store.sources(cell.task.label)
        if old is None or old.data == header.data:
            raise
        raise MixedRecordsError(f"{old.describe_changes(task_sources(task))}: {error}") from None
    return header


def task_sources(task: Any) -> Sources:
    """Returns the files that a task's images come from, and remarks on them."""
    return Sources(task.fingerprint, task.source_files(), task.data_remarks())


def save_sources(spec: Spec, task: Task, store: Store) -> None:
    """Writes the list of a task's image files beside its records, unless the same list is there already."""
    key = (spec.label, task.fingerprint)
    if key in store.saved_sources or not isinstance(task, FromFiles):
        return
    store.saved_sources.add(key)
    old, new = store.sources(spec.label), task_sources(task)
    if (old is None or new.to_json() != old.to_json()) and (new.files or new.remarks):
        store.save_sources(spec.label, new)


def stop_after_gpu_hours(
    events: Generator[Event],
    gpu_hours: float | None,
    gpu_share: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Passes events on while the running rounds are likely to end within the budget of GPU hours.

    A round is expected to take as long as the longest so far of its task. A running cell uses `gpu_share` of a GPU.
    Rounds that are running when the budget ends are abandoned.

    Args:
        events: what the launcher yields.
        gpu_hours: the budget; None for no limit.
        gpu_share: the share of a GPU that a cell occupies.
        say: shows a line to the user.
        clock: the time in seconds.
    """
    if gpu_hours is None:
        yield from events
        return
    budget, spent, now = 3600 * gpu_hours, 0.0, clock()
    round_starts, longest = dict[Cell, float](), defaultdict[str, float](float)  # of running cells; by task
    for event in events:
        spent, now = spent + gpu_share * len(round_starts) * (clock() - now), clock()
        cell, task = event.cell, event.cell.task.label
        if isinstance(event, Round):
            longest[task] = max(longest[task], now - round_starts[cell])
        round_starts[cell] = now
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            del round_starts[cell]
        ahead = sum(
            max(0.0, longest[running.task.label] - (now - start_time)) for running, start_time in round_starts.items()
        )
        if round_starts and spent + gpu_share * ahead > budget:
            if not isinstance(event, CellStarted):
                yield event
            events.close()
            say(f"gpu_hours={gpu_hours:g}: {spent / 3600:.3g} are spent; the same command goes on from here")
            return
        yield event
