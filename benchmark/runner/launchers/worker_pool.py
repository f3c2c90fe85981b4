"""Runs cells in workers, several at a time; this process, the driver, records the rounds that they answer with.

A worker (`worker`) runs one cell after the other and streams its rounds. Where workers run is up to a `Backend`:
processes of this machine, or actors of Ray. A lost worker costs the round that it was running: its cell goes on in
another worker, from the rounds that were received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from benchmark.experiment.cell import Cell
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.launchers.worker import Answer, SerializedCell, WorkerFailure
from benchmark.runner.record_checks import check_header, save_sources
from benchmark.system import activity, remarks
from benchmark.system.files import StoreWriteError

MAX_RETRIES = 3  # of a cell whose worker is lost, and of starting a worker

Remote = TypeVar("Remote")  # a worker as its backend knows it


@dataclass(frozen=True)
class WorkerLoss:
    """A worker ended without an answer."""

    error: Exception  # why, as far as that is known
    is_out_of_memory: bool = False


class Backend(Protocol[Remote]):
    """Where workers run."""

    @property
    def setting(self) -> str:
        """The setting that chose it, for messages: "launcher=ray"."""

    def capacity(self) -> int:
        """Returns the number of workers that can run side by side."""

    def start(self) -> Remote:
        """Starts a worker; its first answer is None, once it is ready."""

    def send(self, worker: Remote, cell: SerializedCell, past: Sequence[Record]) -> None:
        """Gives a free worker a cell, and the rounds of it that are recorded. See `Worker.run` for the answers."""

    def wait(self, workers: Sequence[Remote]) -> tuple[Remote, Answer | WorkerLoss | None]:
        """Waits for the next answer of any of these workers; None: it is free."""

    def stop(self, worker: Remote) -> None:
        """Ends a worker at once."""

    def reserve_whole_devices(self) -> None:
        """Gives workers that are started from now on a whole GPU, or the whole machine where there is no GPU."""


@dataclass(eq=False)
class WorkerHandle(Generic[Remote]):
    """A worker as the driver sees it."""

    remote: Remote
    number: int  # from 1; a lost worker's successor may have the same
    cell: Cell | None = None
    task: str = ""  # label of the task that it has in memory


@dataclass
class WorkerPool(Generic[Remote]):
    """The workers, and the cells that wait for one."""

    waiting_cells: list[Cell]
    store: Store
    backend: Backend[Remote]
    seeds_in_order: bool = False  # whether a seed is run on every task before the next seed
    workers: list[WorkerHandle[Remote]] = field(default_factory=list)
    sources: dict[str, Sources] = field(default_factory=dict)  # files of images, by the label of the task
    num_losses: Counter[Cell] = field(default_factory=Counter)
    num_failed_starts: int = 0  # workers in a row that did not start
    out_of_memory_cells: list[Cell] = field(default_factory=list)  # they failed while other cells were running
    runs_alone: bool = False  # whether these cells are now run again

    def events(self) -> Iterator[Event]:
        """Runs all cells and yields what happens.

        Cells that ran out of memory are run last, each with a whole GPU, or with a whole machine where there is no GPU.
        """
        try:
            yield from self.run_cells()
            if self.out_of_memory_cells:
                self.stop_workers(*self.workers)
                self.waiting_cells, self.runs_alone = self.out_of_memory_cells, True
                self.backend.reserve_whole_devices()
                yield from self.run_cells()
        finally:
            self.stop_workers(*self.workers)

    def run_cells(self) -> Iterator[Event]:
        """Runs the waiting cells."""
        while self.waiting_cells or any(worker.cell for worker in self.workers):
            self.start_workers()
            remote, answer = self.backend.wait([worker.remote for worker in self.workers])
            yield from self.handle_answer(next(worker for worker in self.workers if worker.remote is remote), answer)

    def start_workers(self) -> None:
        """Starts workers while cells and the backend allow; one is started even if it must wait for resources."""
        num_cells = len(self.waiting_cells) + sum(worker.cell is not None for worker in self.workers)
        for _ in range(len(self.workers), min(num_cells, max(1, self.backend.capacity()))):
            used_numbers = {worker.number for worker in self.workers}
            number = next(number for number in range(1, len(used_numbers) + 2) if number not in used_numbers)
            self.workers.append(WorkerHandle(self.backend.start(), number))

    def stop_workers(self, *workers: WorkerHandle[Remote]) -> None:
        """Stops workers."""
        for worker in workers:
            self.workers.remove(worker)
            self.backend.stop(worker.remote)
            activity.forward(activity.Stage(activity.ignore_stage, "", worker=worker.number))

    def handle_answer(self, worker: WorkerHandle[Remote], answer: Answer | WorkerLoss | None) -> Iterator[Event]:
        """Handles the next answer of a worker."""
        if answer is None:
            self.num_failed_starts = 0
            yield from self.assign_cell(worker)
        elif isinstance(answer, WorkerLoss):
            yield from self.handle_loss(worker, answer)
        elif isinstance(answer, str):
            remarks.remark_once(answer)  # several workers may send the same
        elif isinstance(answer, activity.Stage):
            answer.worker, answer.task = worker.number, worker.task
            activity.forward(answer)
        elif isinstance(answer, Sources):
            self.sources[worker.task] = answer
        elif isinstance(answer, WorkerFailure):
            yield from self.handle_failure(worker, answer)
        else:
            yield from self.record_result(worker, answer)

    def assign_cell(self, worker: WorkerHandle[Remote]) -> Iterator[Event]:
        """Gives a free worker its next cell, or stops it."""
        worker.cell = None
        if not self.waiting_cells:
            self.stop_workers(worker)
            return
        worker.cell = cell = self.waiting_cells.pop(
            choose_cell(self.waiting_cells, worker.task, self.first_fits_in_progress(), self.seeds_in_order)
        )
        worker.task = cell.task.label
        self.backend.send(worker.remote, SerializedCell.from_cell(cell), self.store.records(cell.path)[1])
        yield CellStarted(cell)

    def record_result(self, worker: WorkerHandle[Remote], result: Header | tuple[Record, Measured]) -> Iterator[Event]:
        """Records a round of a cell, or starts its file."""
        cell = worker.cell
        assert cell is not None
        try:
            if isinstance(result, Header):
                self.start_cell(cell, result)
            else:
                self.store.append(cell.path, *result)
        except StoreWriteError:
            raise
        except Exception as error:
            self.stop_workers(worker)  # it is at the next round already
            yield self.fail(cell, error, whole_task=isinstance(error, MixedRecordsError))
        else:
            if not isinstance(result, Header):
                yield Round(cell, *result)

    def start_cell(self, cell: Cell, header: Header) -> None:
        """Starts the file of a cell as `local_launch.run_cell` does. MixedRecordsError as `check_header`."""
        sources = self.sources.get(cell.task.label)
        check_header(cell, header, self.store, lambda: sources)
        self.store.start_cell(cell.path, header)
        if sources is not None and (cell.task.label, sources.data) not in self.store.saved_sources:
            save_sources(cell.task, sources, self.store)

    def handle_failure(self, worker: WorkerHandle[Remote], failure: WorkerFailure) -> Iterator[Event]:
        """Handles a cell that failed in its worker; the worker goes on unless it ran out of memory."""
        cell, worker.cell = worker.cell, None
        assert cell is not None
        if failure.is_out_of_memory:
            self.stop_workers(worker)
            yield from self.retry_alone(cell, failure.error)
        else:
            yield self.fail(cell, failure.error, failure.whole_task)

    def first_fits_in_progress(self) -> set[FirstFitKey]:
        """Returns the first fits that running cells have not recorded yet; other strategies of a seed need the same
        fit."""
        cells = [worker.cell for worker in self.workers if worker.cell is not None]
        return {first_fit_key(cell) for cell in cells if not self.store.records(cell.path)[1]}

    def handle_loss(self, worker: WorkerHandle[Remote], loss: WorkerLoss) -> Iterator[Event]:
        """Handles a lost worker: its cell is run elsewhere, from the rounds that were received.

        Raises:
            ValueError: several workers in a row failed to start.
        """
        self.stop_workers(worker)
        if (cell := worker.cell) is None:
            self.num_failed_starts += 1
            if self.num_failed_starts > MAX_RETRIES:
                reason = str(loss.error).strip()
                raise ValueError(f"{self.backend.setting}: no worker starts: {reason}") from loss.error
        elif loss.is_out_of_memory:
            yield from self.retry_alone(cell, loss.error)
        elif self.num_losses[cell] == MAX_RETRIES:
            yield self.fail(cell, loss.error)
        else:
            self.num_losses[cell] += 1
            self.waiting_cells.insert(0, cell)

    def retry_alone(self, cell: Cell, error: Exception) -> Iterator[Event]:
        """Schedules a cell that ran out of memory to be run once more, alone."""
        if self.runs_alone:
            yield self.fail(cell, error)
        else:
            self.out_of_memory_cells.append(cell)

    def fail(self, cell: Cell, error: Exception, whole_task: bool = False) -> Failure:
        """Stores the traceback of a failed cell, and returns the event."""
        failure = Failure(cell, error, whole_task)
        self.store.save_failure(cell.path, failure.trace)
        return failure


FirstFitKey: TypeAlias = tuple[str, int, int]


def first_fit_key(cell: Cell) -> FirstFitKey:
    """Returns what decides the first fit of a cell, apart from companions: task, seed and training."""
    return cell.task.label, cell.seed, cell.variant.training


def choose_cell(
    waiting_cells: Sequence[Cell],
    loaded_task: str,
    first_fits_in_progress: set[FirstFitKey],
    seeds_in_order: bool = False,
) -> int:
    """Returns the position of the cell that a worker takes next.

    It prefers cells of the task that the worker has in memory, then cells whose first fit no other worker is training,
    then the first of the list. With `seeds_in_order` it takes cells of the first cell's seed only.
    """

    def cost(position: int) -> tuple[bool, bool, bool]:
        cell = waiting_cells[position]
        return (
            seeds_in_order and cell.seed != waiting_cells[0].seed,
            loaded_task not in ("", cell.task.label),
            first_fit_key(cell) in first_fits_in_progress,
        )

    return min(range(len(waiting_cells)), key=cost)
