"""Cells whose task needs a package that is not installed: they fail at once, with one line for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Grid
from benchmark.records.store import Store
from benchmark.runner.events import CellStarted, Event, Failure, MissingPackageError
from benchmark.runner.task_loading import TaskLoader


def find_missing_packages(grid: Grid, tasks: TaskLoader) -> dict[str, MissingPackageError]:
    """Returns, by the label of a task, the error with which its cells fail; they need a package that is missing."""
    experiments_by_message, message_by_task = dict[str, list[str]](), dict[str, str]()
    for experiment in grid.experiments:
        packages = [part for part in tasks.find_missing(experiment.task) if part.is_package]
        if packages:
            message = f"{packages[0].name} is not installed: {packages[0].source}"
            message_by_task[experiment.task.label] = message
            experiments_by_message.setdefault(message, []).append(experiment.name)
    errors = {
        message: MissingPackageError(f"{', '.join(names)}: {message}")
        for message, names in experiments_by_message.items()
    }
    return {label: errors[message] for label, message in message_by_task.items()}


def run_with_packages(
    cells: Sequence[Cell],
    error_by_task: dict[str, MissingPackageError],
    store: Store,
    run: Callable[[Sequence[Cell]], Generator[Event]],
    say: Callable[[str], None],
) -> Generator[Event]:
    """Runs the cells whose packages are installed, after the others have failed.

    Args:
        cells: what is to be run.
        error_by_task: see `find_missing_packages`.
        store: the results folder.
        run: the launcher.
        say: shows a line to the user.
    """
    without = [cell for cell in cells if cell.task.label in error_by_task]
    rest = [cell for cell in cells if cell.task.label not in error_by_task]
    if rest:
        for line in dict.fromkeys(str(error_by_task[cell.task.label]) for cell in without):
            say(f"{line}; the rest runs without it")
    for cell in without:
        yield CellStarted(cell)
        failure = Failure(cell, error_by_task[cell.task.label], whole_task=True)
        store.save_failure(cell.path, failure.trace)
        yield failure
    yield from run(rest)
