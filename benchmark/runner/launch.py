"""Runs the cells of a grid on this machine, one after the other."""

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
    """A cell is in work."""

    cell: Cell


@dataclass(frozen=True)
class Round:
    """A round was recorded."""

    cell: Cell
    record: Record
    measured: Measured

    @property
    def is_last(self) -> bool:
        """Whether it is its cell's last."""
        schedule = self.cell.schedule
        return self.record.round == schedule.rounds - 1 or schedule.reaches_target(self.record.scores)

    @property
    def num_skipped_rounds(self) -> int:
        """Number of rounds that the schedule allows and that an ending by score has just made needless."""
        schedule = self.cell.schedule
        return schedule.rounds - 1 - self.record.round if schedule.reaches_target(self.record.scores) else 0


@dataclass(frozen=True)
class Failure:
    """A cell failed; the others go on."""

    cell: Cell
    error: BaseException
    whole_task: bool  # the task cannot be had, or not under this schedule: none of such cells can run

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
    """Whether the schedule does not fit the task, so that the same command cannot succeed."""
    return isinstance(failure.error, IncompatibleScheduleError)


def find_shorter_cells(cells: Sequence[Cell], store: Store) -> dict[Cell, Cell]:
    """For each cell without records, the one of fewer rounds, and else the same, that has most of them.

    How many rounds a schedule has decides nothing in any of them, unless everything is chosen at once. Only what the
    manifest lists counts: files that were taken over once are not taken over again.
    """
    listed = {cell["path"] for one in store.experiments() for cell in one["cells"]}
    known, found = dict[tuple[str, Schedule], list[Schedule]](), dict[Cell, Cell]()
    for cell in cells:
        task, schedule = cell.task.label, cell.schedule
        if (task, schedule) not in known:
            others = [replace(schedule, rounds=rounds) for rounds in range(schedule.rounds - 1, 0, -1)]
            there = [one for one in others if store.path(replace(cell, schedule=one).path).parents[1].is_dir()]
            known[task, schedule] = [] if schedule.one_pass else there
        if known[task, schedule] and not store.path(cell.path).exists():
            candidates = (replace(cell, schedule=one) for one in known[task, schedule])
            pairs = ((one, store.header(one.path)) for one in candidates if one.path in listed)
            fitting = (one for one, header in pairs if header and header.belongs_to(one.key, one.identity()))
            if (longest := next(fitting, None)) is not None:
                found[cell] = longest
    return found


def copy_shorter_records(cells: Sequence[Cell], store: Store) -> Iterator[str]:
    """Copies the records of fewer rounds to where cells go on from them, and yields a line for each schedule."""
    taken = Counter[tuple[str, str]]()
    for cell, shorter in find_shorter_cells(cells, store).items():
        header = store.header(shorter.path)
        assert header is not None
        schedule = {"schedule": cell.schedule.identity()}
        store.copy_cell(
            shorter.path, cell.path, structs.replace(header, key=cell.key, cell={**header.cell, **schedule})
        )
        taken[cell.task.label, shorter.schedule.label] += 1
    for (task, schedule_label), number in taken.items():
        yield f"{task}: {number} cells go on from their records of {schedule_label}"


def count_rounds_left(cells: Sequence[Cell], store: Store) -> dict[Cell, int]:
    """Rounds that each unfinished cell lacks, at most. Mixture where a file holds the records of other settings."""
    left, shorter = {}, find_shorter_cells(cells, store)
    for cell in cells:
        header, records = store.records(shorter.get(cell, cell).path)
        if cell not in shorter and header is not None and not header.belongs_to(cell.key, cell.identity()):
            store.check_own_records(store.path(cell.path), header, partial_header(cell))
        if not cell.schedule.is_finished(records):
            left[cell] = cell.schedule.rounds - len(records)
    return left


def find_unfinished_cells(cells: Sequence[Cell], store: Store) -> list[Cell]:
    """The cells that lack rounds in the records, whatever their run said."""
    return [cell for cell in cells if not cell.schedule.is_finished(store.records(cell.path)[1])]


def partial_header(cell: Cell) -> Header:
    """The header that a cell would write, without what only its task knows."""
    return Header(cell.key, cell.identity(), "", 0, "", [])


def check_versions(grid: Grid, experiments: Sequence[Mapping[str, Any]], store: Store) -> None:
    """Mixture where an experiment holds records of seeds or strategies that this run leaves alone, and that were made
    with other versions or parameters than those it is about to make.

    Args:
        experiments: as the manifest holds them, with those of this run.
        store: where the records are.
    """
    stored = {experiment["name"]: experiment["cells"] for experiment in experiments}
    for experiment in grid.experiments:
        agreement, cells = Agreement(), list(experiment.cells())
        for cell in cells[: len(experiment.strategies)]:  # the first seed
            agreement.add(partial_header(cell), cell.strategy.label, "this run")
        own = {cell.path for cell in cells}
        for other in stored[experiment.name]:
            header = None if other["path"] in own else store.header(other["path"])
            words = agreement.difference(header, other["strategy"], "the file") if header else ""
            if words:
                raise MixedRecordsError(f"{store.path(other['path'])} was written with other {words}: {REMEDY}")


def set_aside_changed(grid: Grid, store: Store, tasks: TaskLoader) -> Iterator[str]:
    """Moves records that were made with other versions, parameters, data or files of weights than this run's into a
    folder of their own, and yields a line where it did."""
    stored = {one["name"]: one for one in store.experiments()}
    for experiment in grid.experiments:
        task, agreement = tasks(experiment.task), Agreement()
        if isinstance(task, Exception):
            raise task
        cells = list(experiment.cells())[: len(experiment.strategies)]  # the first seed
        for cell in cells:
            agreement.add(loop.build_header(cell, task, tasks.machine), cell.strategy.label, "this run")
        old = stored.get(experiment.name, {"cells": []})
        known = [(cell, store.header(cell["path"])) for cell in old["cells"]]
        changed = [cell for cell, header in known if header and agreement.difference(header, cell["strategy"], "")]
        if changed:
            folder = store.set_aside(old, changed)
            count = plural(len(changed), "cell")
            yield f"{experiment.name}: {count} of other versions, data or weights, now in {folder}"


def edited_code_remarks(cells: Sequence[Cell], store: Store) -> Iterator[str]:
    """A line a strategy whose code is no longer what its records were made with, though its version is."""
    other, codes = Counter[Spec](), {spec: spec.code_hash for spec in {cell.strategy for cell in cells}}
    for cell in cells:
        if code := codes[cell.strategy]:
            other[cell.strategy] += bool(store.codes(cell.path) - {code})
    for spec, number in (+other).items():
        told = f"{spec.label}, or what it imports, was edited since {number} of its cells were recorded"
        kept = "their rounds stay; to run it anew, raise its version and add rerun_changed=true"
        yield f"{told}, but is still version {spec.plugin.version}: {kept}"


def check_encoders(cells: Iterable[Cell], machine: Machine) -> None:
    """Raises ValueError where an encoder's file of weights is not there or does not fit, before images are read."""
    for label in {
        label for cell in cells for plugin, label in cell.strategy.nested_plugins() if plugin.kind == "encoder"
    }:
        check_encoder_weights(label, machine)


class TaskLoader:
    """The tasks on a machine, built when they are asked for, one in memory at a time."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.by_label: dict[str, Task | Exception] = {}

    def __call__(self, spec: Spec) -> Task | Exception:
        """The task, or why there is none; see `build`."""
        if spec.label not in self.by_label:
            self.by_label.clear()
            self.by_label[spec.label] = build_task(spec, self.machine)
        return self.by_label[spec.label]


def run_locally(cells: Sequence[Cell], store: Store, fits: FitCache, tasks: TaskLoader) -> Generator[Event]:
    """Runs the cells, records their rounds and yields what happened."""
    for cell in cells:
        yield CellStarted(cell)
        rounds = run_cell(cell, store, fits, tasks)
        while (event := next_event(cell, rounds, store, tasks)) is not None:
            yield event


def next_event(cell: Cell, rounds: Iterator[Round], store: Store, tasks: TaskLoader) -> Round | Failure | None:
    """The next round of a cell, or why it failed; None once it is through. Raises Unwritable and KeyboardInterrupt.

    A plug-in may raise anything: `sys.exit(0)` in a strategy is a failure of its cell and must not end the run.
    """
    try:
        with isolate_plugin(cell.task.label, seed("global", cell.path)):
            return next(rounds, None)
    except (StoreWriteError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the one place where a cell's failure is caught
        whole_task = isinstance(error, IncompatibleScheduleError | MixedRecordsError) or error is tasks.by_label.get(
            cell.task.label
        )
        failure = Failure(cell, error, whole_task)
        store.save_failure(cell.path, failure.trace)
        release_frames(error)
        return failure


def release_frames(error: BaseException | None) -> None:
    """Lets go of what a failed cell's frames hold: failures are kept until the run ends."""
    seen = set[int]()  # causes may go in a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def build_task(spec: Spec, machine: Machine) -> Task | Exception:
    """The task, or why there is none: then all of its cells fail for that reason, and it is tried once."""
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
    """The rounds that the cell's records lack."""
    task, machine = tasks(cell.task), tasks.machine
    if isinstance(task, Exception):
        raise task
    past = store.start_cell(cell.path, checked_header(cell, task, store, machine))
    save_sources(cell.task, task, store)
    for record, measured in loop.run(cell, task, fits, machine, past):
        store.append(cell.path, record, measured)
        yield Round(cell, record, measured)


def checked_header(cell: Cell, task: Task, store: Store, machine: Machine) -> Header:
    """The header of a cell's records. Mixture, telling which files changed, where those that are there are of other
    data."""
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
    """Which files a task's images are from, and what is odd about them."""
    return Sources(task.fingerprint, task.source_files(), task.data_remarks())


def save_sources(spec: Spec, task: Task, store: Store) -> None:
    """Writes down which files a task's images are from, beside its records, where that is not there yet."""
    known = (spec.label, task.fingerprint)
    if known in store.saved_sources or not isinstance(task, FromFiles):
        return
    store.saved_sources.add(known)
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
    """Passes events on while the rounds in work are likely to end in time: each within the longest so far of its task.

    A cell in work spends the share of a device that it has. Rounds that are in work at the end are given up.
    """
    if gpu_hours is None:
        yield from events
        return
    budget, spent, now = 3600 * gpu_hours, 0.0, clock()
    since, longest = dict[Cell, float](), defaultdict[str, float](float)  # when the round in work of each cell began
    for event in events:
        spent, now = spent + gpu_share * len(since) * (clock() - now), clock()
        cell, task = event.cell, event.cell.task.label
        if isinstance(event, Round):
            longest[task] = max(longest[task], now - since[cell])
        since[cell] = now
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            del since[cell]
        ahead = sum(max(0.0, longest[one.task.label] - (now - begun)) for one, begun in since.items())
        if since and spent + gpu_share * ahead > budget:
            if not isinstance(event, CellStarted):
                yield event
            events.close()
            say(f"gpu_hours={gpu_hours:g}: {spent / 3600:.3g} are spent; the same command goes on from here")
            return
        yield event
