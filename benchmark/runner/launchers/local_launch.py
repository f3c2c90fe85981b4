"""Runs cells on this machine, one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator, Sequence

from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.store import Store
from benchmark.runner import loop
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.record_checks import checked_header, save_task_sources
from benchmark.runner.task_loading import TaskLoader
from benchmark.seeds import seed
from benchmark.system.files import StoreWriteError
from benchmark.system.process_state import isolate_plugin


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
        is_task_error = error is tasks.by_label.get(cell.task.label)
        failure = Failure(
            cell, error, is_task_error or isinstance(error, IncompatibleScheduleError | MixedRecordsError)
        )
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


def run_cell(cell: Cell, store: Store, fits: FitCache, tasks: TaskLoader) -> Iterator[Round]:
    """Runs the rounds that a cell's records lack, and records them."""
    task, machine = tasks(cell.task), tasks.machine
    if isinstance(task, Exception):
        raise task
    past = store.start_cell(cell.path, checked_header(cell, task, store, machine))
    save_task_sources(cell.task, task, store)
    for record, measured in loop.run(cell, task, fits, machine, past):
        store.append(cell.path, record, measured)
        yield Round(cell, record, measured)
