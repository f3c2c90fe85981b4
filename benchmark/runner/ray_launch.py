"""Runs cells on Ray, on this machine or a cluster: workers run whole cells; this process, the driver, records them.

A worker is an actor (`ray_worker`) that runs one cell after the other and streams its rounds. It receives plain data
and discovers the plug-ins itself, so that workers need no folder in common with the driver. A lost worker costs the
round that it was running. Ray's own retries are off, because they repeat a call from its beginning with its first
arguments: recorded rounds would be trained again, on a GPU perhaps with other selections, and the following rounds
would belong to another history. A worker that was killed for memory would start again beside the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import OutOfMemoryError, RayError

from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.plugins.code_folders import INSTALL_ROOT
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.ray_worker import Answer, SerializedCell, Worker, WorkerFailure
from benchmark.system import remarks
from benchmark.system.files import StoreWriteError

MAX_RETRIES = 3  # of a cell whose worker is lost, and of starting a worker


@dataclass(frozen=True)
class WorkerResources:
    """The share of a node's resources that a worker gets."""

    cpus: int
    gpus: float

    def num_on_node(self, resources: dict[str, float]) -> int:
        """Returns how many workers fit on a node; a fraction of a GPU must lie on one GPU."""
        by_cpu, num_gpus = int(resources.get("CPU", 0) // self.cpus), int(resources.get("GPU", 0))
        if not self.gpus:
            return by_cpu
        by_gpu = num_gpus // int(self.gpus) if self.gpus > 1 else num_gpus * int(1 / self.gpus + 1e-9)
        return min(by_cpu, by_gpu)


@dataclass
class WorkerHandle:
    """A worker as the driver sees it."""

    actor: Any
    pending: Any  # its next answer: a reference, or a generator of references
    cell: Cell | None = None
    task: str = ""  # label of the task that it has in memory


@dataclass
class WorkerPool:
    """The workers, and the cells that wait for one."""

    waiting_cells: list[Cell]
    store: Store
    resources: WorkerResources
    start_actor: Callable[[WorkerResources], Any]
    seeds_in_order: bool = False  # whether a seed is run on every task before the next seed
    workers: list[WorkerHandle] = field(default_factory=list)
    num_losses: Counter[Cell] = field(default_factory=Counter)
    num_failed_starts: int = 0  # workers in a row that did not start
    out_of_memory_cells: list[Cell] = field(default_factory=list)  # they failed while other cells were running
    runs_alone: bool = False  # whether these cells are now run again

    def events(self) -> Iterator[Event]:
        """Runs all cells and yields what happens.

        Cells that ran out of memory are run last, each with a whole GPU, or with a whole node where there is no GPU.
        """
        try:
            yield from self.run_cells()
            if self.out_of_memory_cells:
                self.stop_workers(*self.workers)
                self.waiting_cells, self.runs_alone = self.out_of_memory_cells, True
                self.resources = whole_device(self.resources)
                yield from self.run_cells()
        finally:
            self.stop_workers(*self.workers)

    def run_cells(self) -> Iterator[Event]:
        """Runs the waiting cells."""
        while self.waiting_cells or any(worker.cell for worker in self.workers):
            self.start_workers()
            [ready], _ = ray.wait([worker.pending for worker in self.workers], num_returns=1)
            yield from self.handle_result(next(worker for worker in self.workers if worker.pending == ready))

    def start_workers(self) -> None:
        """Starts workers while cells and resources allow; one is started even if it must wait for resources."""
        num_cells = len(self.waiting_cells) + sum(worker.cell is not None for worker in self.workers)
        for _ in range(len(self.workers), min(num_cells, max(1, worker_capacity(self.resources)))):
            actor = self.start_actor(self.resources)
            self.workers.append(WorkerHandle(actor, actor.ready.remote()))

    def stop_workers(self, *workers: WorkerHandle) -> None:
        """Stops workers."""
        for worker in workers:
            self.workers.remove(worker)
            ray.kill(worker.actor)

    def handle_result(self, worker: WorkerHandle) -> Iterator[Event]:
        """Handles the next answer of a worker."""
        try:
            result = fetch_answer(worker.pending)
        except RayError as error:
            yield from self.handle_loss(worker, error)
            return
        if result is None:
            self.num_failed_starts = 0
            yield from self.assign_cell(worker)
        elif isinstance(result, str):
            remarks.remark_once(result)  # several workers may send the same
        elif isinstance(result, WorkerFailure):
            yield from self.handle_failure(worker, result)
        else:
            yield from self.record_result(worker, result)

    def assign_cell(self, worker: WorkerHandle) -> Iterator[Event]:
        """Gives a free worker its next cell, or stops it."""
        worker.cell = None
        if not self.waiting_cells:
            self.stop_workers(worker)
            return
        worker.cell = cell = self.waiting_cells.pop(
            choose_cell(self.waiting_cells, worker.task, self.first_fits_in_progress(), self.seeds_in_order)
        )
        worker.task = cell.task.label
        worker.pending = worker.actor.run.remote(SerializedCell.from_cell(cell), self.store.records(cell.path)[1])
        yield CellStarted(cell)

    def record_result(self, worker: WorkerHandle, result: Header | tuple[Record, Measured]) -> Iterator[Event]:
        """Records a round of a cell, or starts its file."""
        cell = worker.cell
        assert cell is not None
        try:
            if isinstance(result, Header):
                self.store.start_cell(cell.path, result)
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

    def handle_failure(self, worker: WorkerHandle, failure: WorkerFailure) -> Iterator[Event]:
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

    def handle_loss(self, worker: WorkerHandle, error: RayError) -> Iterator[Event]:
        """Handles a lost worker: its cell is run elsewhere, from the rounds that were received.

        Raises:
            ValueError: several workers in a row failed to start.
        """
        self.stop_workers(worker)
        if (cell := worker.cell) is None:
            self.num_failed_starts += 1
            if self.num_failed_starts > MAX_RETRIES:
                raise ValueError(f"launcher=ray: no worker starts: {str(error).strip()}") from error
        elif isinstance(error, OutOfMemoryError):
            yield from self.retry_alone(cell, error)
        elif self.num_losses[cell] == MAX_RETRIES:
            yield self.fail(cell, error)
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


def fetch_answer(pending: Any) -> Answer | None:
    """Returns what a worker answered; None where it is free. RayError where it is lost."""
    reference = pending if isinstance(pending, ray.ObjectRef) else next(pending, None)
    result: Answer | None = reference and ray.get(reference)
    return result


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


def node_resources() -> list[dict[str, float]]:
    """Returns the resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_capacity(resources: WorkerResources) -> int:
    """Returns the number of workers that fit on all nodes."""
    return sum(map(resources.num_on_node, node_resources()))


def whole_device(resources: WorkerResources) -> WorkerResources:
    """Returns the resources of a whole GPU, or, without a GPU, of the largest node."""
    if resources.gpus:
        return replace(resources, gpus=max(1, resources.gpus))
    return WorkerResources(int(max(node.get("CPU", 1) for node in node_resources())), 0)


@contextlib.contextmanager
def ray_connection(address: str | None) -> Iterator[None]:
    """Starts Ray here, or joins a cluster, for a block. ValueError where no cluster answers."""
    if address is not None and address.startswith("ray://"):
        raise ValueError(f"ray_address={address}: run on a node of the cluster, with ray_address=auto or HOST:PORT")
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": 10**8}  # rounds are small
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics
    try:
        with contextlib.chdir(INSTALL_ROOT):  # Ray puts the driver's working folder first on its workers' module path
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray_address={address or 'null'}: {str(error).strip()}") from error
    try:
        yield
    finally:
        ray.shutdown()


def worker_device(settings: Settings) -> str:
    """Returns the workers' device; `auto` is a GPU if Ray has one. ValueError if Ray lacks the requested device."""
    has_gpu = any(node.get("GPU", 0) >= 1 for node in node_resources())
    if settings.device == "auto":
        return "cuda" if has_gpu else "cpu"
    if settings.device == "cuda" and not has_gpu:
        raise ValueError("device=cuda: Ray has no GPU")
    return settings.device


def worker_resources(settings: Settings, device: str) -> WorkerResources:
    """Returns the resources that the settings give to a cell. ValueError where no node has them."""
    if device == "cpu" and settings.gpus_per_cell is not None:
        raise ValueError(f"gpus_per_cell={settings.gpus_per_cell}: has no effect: Ray has no GPU")
    gpus = (settings.gpus_per_cell or 1) if device == "cuda" else 0
    resources = WorkerResources(settings.cpus_per_cell or 1, gpus)
    if not worker_capacity(resources):
        raise ValueError(f"cpus_per_cell={resources.cpus}: no node of Ray has as many, and a GPU where one is needed")
    return resources


def run_on_ray(cells: Sequence[Cell], store: Store, settings: Settings) -> Generator[Event]:
    """Runs the cells on Ray in parallel, records their rounds and yields what happens, as `run_locally` does here.

    Paths in the settings must be valid on every node; workers that have a folder in common share fits.
    """
    with ray_connection(settings.ray_address):
        device = worker_device(settings)
        resources = worker_resources(settings, device)
        data, plugins = absolute_path(settings.data), absolute_path(settings.plugins)
        worker_settings = asdict(replace(settings, device=device, data=data, plugins=plugins))
        scratch = str((store.folder / ".fits").absolute())

        def start_actor(resources: WorkerResources) -> Any:
            options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": 0, "max_task_retries": 0}
            return ray.remote(Worker).options(**options).remote(worker_settings, scratch)

        in_order = settings.gpu_hours is not None
        yield from WorkerPool(list(cells), store, resources, start_actor, seeds_in_order=in_order).events()


def absolute_path(folder: str | None) -> str | None:
    """Returns the absolute path of a folder, which is valid wherever the worker was started."""
    return folder and str(Path(folder).absolute())
