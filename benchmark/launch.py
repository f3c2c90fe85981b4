"""Runs the cells of a grid on this machine, one after the other."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmark import loop
from benchmark.api import Machine, Task
from benchmark.fits import Fits
from benchmark.grid import Cell, Spec
from benchmark.store import Measured, Record, Store, Unwritable


@dataclass(frozen=True)
class Started:
    """A cell is in work."""

    cell: Cell


@dataclass(frozen=True)
class Round:
    """A round was recorded."""

    cell: Cell
    record: Record
    measured: Measured

    @property
    def spared(self) -> int:
        """Number of rounds that the schedule allows and that an ending by score has just made needless."""
        schedule = self.cell.schedule
        return schedule.rounds - 1 - self.record.round if schedule.reached(self.record.scores) else 0


@dataclass(frozen=True)
class Failure:
    """A cell failed; the others go on."""

    cell: Cell
    error: Exception
    whole_task: bool  # the task itself cannot be had, so none of its cells can run

    @property
    def line(self) -> str:
        """The failure in one line."""
        text = str(self.error).strip().splitlines() or [""]
        kind = "" if isinstance(self.error, ValueError) else f"{type(self.error).__name__}: "
        return f"{self.cell.task.label if self.whole_task else self.cell.label}: {kind}{text[0]}"

    @property
    def trace(self) -> str:
        """The traceback."""
        return "".join(traceback.format_exception(self.error))


Event: TypeAlias = Started | Round | Failure


def rounds_left(cells: Sequence[Cell], store: Store) -> dict[Cell, int]:
    """Rounds that each unfinished cell lacks, at most. ValueError where a file holds the records of other settings."""
    left = {}
    for cell in cells:
        header, records = store.records(cell.path)
        if header is not None and header.key != cell.key:
            raise ValueError(
                f"{store.path(cell.path)} was written with other settings or plug-in versions: "
                "choose another folder with out=DIR, or remove it"
            )
        if not cell.schedule.finished(records):
            left[cell] = cell.schedule.rounds - len(records)
    return left


def local(cells: Sequence[Cell], store: Store, fits: Fits, machine: Machine) -> Generator[Event]:
    """Runs the cells, records their rounds and yields what happened."""
    built: dict[str, Task | Exception] = {}
    for cell in cells:
        yield Started(cell)
        try:
            if cell.task.label not in built:
                built.clear()  # one task in memory at a time
                built[cell.task.label] = build(cell.task, machine)
            yield from run_cell(cell, built[cell.task.label], store, fits, machine)
        except Unwritable:
            raise
        except Exception as error:  # the one place where a cell's failure is caught
            failure = Failure(cell, error, whole_task=error is built.get(cell.task.label))
            store.fail(cell.path, failure.trace)
            free(error)
            yield failure


def free(error: BaseException | None) -> None:
    """Lets go of what a failed cell's frames hold: failures are kept until the run ends."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def build(spec: Spec, machine: Machine) -> Task | Exception:
    """The task, or why there is none: then all of its cells fail for that reason, and it is tried once."""
    try:
        task: Task = spec.plugin.build(machine, spec.values)
        return task
    except Exception as error:
        return error


def run_cell(cell: Cell, task: Task | Exception, store: Store, fits: Fits, machine: Machine) -> Iterator[Round]:
    """The rounds that the cell's records lack."""
    if isinstance(task, Exception):
        raise task
    past = store.start(cell.path, loop.header(cell, task))
    for record, measured in loop.run(cell, task, fits, machine, past):
        store.append(cell.path, record, measured)
        yield Round(cell, record, measured)


def within(
    events: Generator[Event], gpu_hours: float | None, share: float, say: Callable[[str], None]
) -> Iterator[Event]:
    """Passes events on until the next round might not end in time: as long as the longest so far of its task.

    A round counts with the time it took, a shared fit with none, all times the share of a device that a cell has.
    Rounds in work elsewhere are given up.
    """
    if gpu_hours is None:
        yield from events
        return
    spent, longest = 0.0, defaultdict[str, float](float)
    for event in events:
        yield event
        if not isinstance(event, Round):
            continue
        took, task = share * duration(event.measured) / 3600, event.cell.task.label
        spent, longest[task] = spent + took, max(longest[task], took)
        if spent + longest[task] > gpu_hours:
            events.close()
            say(f"gpu_hours={gpu_hours:g}: {spent:.3g} are spent; the same command goes on from here")
            return


def duration(measured: Measured) -> float:
    """Seconds that a round took; a fit that was shared took none."""
    return sum(seconds for what, seconds in measured.seconds.items() if what != "fit" or not measured.shared_fit)
