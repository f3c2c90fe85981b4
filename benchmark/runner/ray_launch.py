"""Runs cells on Ray, on this machine or a cluster: whole cells in workers; the driver, this process, records them.

A worker is an actor (`ray_worker`) that runs one cell after the other and streams its rounds. It gets plain data and
finds the plug-ins itself, so that workers need no folder in common with the driver; a lost one costs the round in
flight. Ray's own retries are off. They repeat a call with its first arguments, from its beginning: rounds that are
recorded would be trained again, on a GPU perhaps with other picks, and those that follow would be of another history. A
worker that was killed for memory would start again beside the others.
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
from benchmark.experiment.settings import Settings
from benchmark.plugins.home import INSTALL_ROOT
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.launch import CellStarted, Event, Failure, Round
from benchmark.runner.ray_worker import Answer, SerializedCell, Worker, WorkerFailure
from benchmark.system import remarks
from benchmark.system.files import StoreWriteError

MAX_RETRIES = 3  # of a cell whose worker is lost, and of starting a worker at all


@dataclass(frozen=True)
class WorkerResources:
    """What a worker gets of a node."""

    cpus: int
    gpus: float

    def num_on_node(self, resources: dict[str, float]) -> int:
        """How many of it a node has room for; a fraction of a GPU lies on one GPU."""
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        by_gpu = int(resources.get("GPU", 0)) * int(1 / self.gpus + 1e-9) if self.gpus else by_cpu
        return min(by_cpu, by_gpu)


@dataclass
class WorkerHandle:
    """A worker as the driver knows it."""

    actor: Any
    pending: Any  # what it is to answer next: a reference, or a generator of them
    cell: Cell | None = None
    task: str = ""  # the label of the task that it has in memory


@dataclass
class WorkerPool:
    """The workers, and the cells that they have to run."""

    waiting_cells: list[Cell]
    store: Store
    resources: WorkerResources
    start_actor: Callable[[WorkerResources], Any]  # a new actor
    seeds_in_order: bool = False  # a seed of every task before the next seed
    workers: list[WorkerHandle] = field(default_factory=list)
    num_losses: Counter[Cell] = field(default_factory=Counter)
    num_failed_starts: int = 0  # workers, one after the other, that did not start
    out_of_memory_cells: list[Cell] = field(default_factory=list)  # cells that ran out of it beside others
    runs_alone: bool = False

    def events(self) -> Iterator[Event]:
        """Runs all cells; those that ran out of memory last, a whole GPU each, or a whole node without one."""
        try:
            yield from self.run_cells()
            if self.out_of_memory_cells:
                self.stop_workers(*self.workers)
                self.waiting_cells, self.resources, self.runs_alone = (
                    self.out_of_memory_cells,
                    whole_device(self.resources),
                    True,
                )
                yield from self.run_cells()
        finally:
            self.stop_workers(*self.workers)

    def run_cells(self) -> Iterator[Event]:
        """Runs the cells that are left."""
        while self.waiting_cells or any(worker.cell for worker in self.workers):
            self.start_workers()
            [ready], _ = ray.wait([worker.pending for worker in self.workers], num_returns=1)
            yield from self.handle_result(next(worker for worker in self.workers if worker.pending == ready))

    def start_workers(self) -> None:
        """Starts workers while there are more cells than workers, and room; one is always waited for."""
        num_cells = len(self.waiting_cells) + sum(worker.cell is not None for worker in self.workers)
        for _ in range(len(self.workers), min(num_cells, max(1, worker_capacity(self.resources)))):
            actor = self.start_actor(self.resources)
            self.workers.append(WorkerHandle(actor, actor.ready.remote()))

    def stop_workers(self, *workers: WorkerHandle) -> None:
        """Ends workers."""
        for worker in workers:
            self.workers.remove(worker)
            ray.kill(worker.actor)

    def handle_result(self, worker: WorkerHandle) -> Iterator[Event]:
        """Takes the next answer of a worker."""
        try:
            result = fetch_answer(worker.pending)
        except RayError as error:
            yield from self.handle_loss(worker, error)
            return
        if result is None:
            self.num_failed_starts = 0
            yield from self.assign_cell(worker)
        elif isinstance(result, str):
            remarks.remark_once(result)  # each worker makes some of them
        elif isinstance(result, WorkerFailure):
            yield from self.handle_fault(worker, result)
        else:
            yield from self.record_result(worker, result)

    def assign_cell(self, worker: WorkerHandle) -> Iterator[Event]:
        """Gives a free worker its next cell, or its leave."""
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
        """Writes down a round of a cell, or starts its file."""
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

    def handle_fault(self, worker: WorkerHandle, fault: WorkerFailure) -> Iterator[Event]:
        """A cell failed in its worker, which goes on unless its memory is in doubt."""
        cell, worker.cell = worker.cell, None
        assert cell is not None
        if fault.is_out_of_memory:
            self.stop_workers(worker)
            yield from self.retry_alone(cell, fault.error)
        else:
            yield self.fail(cell, fault.error, fault.whole_task)

    def first_fits_in_progress(self) -> set[FirstFitKey]:
        """Those of the cells in work that have no record yet: other strategies of a seed wait for the same."""
        cells = [worker.cell for worker in self.workers if worker.cell is not None]
        return {first_fit_key(cell) for cell in cells if not self.store.records(cell.path)[1]}

    def handle_loss(self, worker: WorkerHandle, error: RayError) -> Iterator[Event]:
        """A worker is gone: its cell goes on elsewhere, from the rounds that came back.

        ValueError where one worker after the other does not even start.
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
        """A cell ran out of memory: it is run again alone, once."""
        if self.runs_alone:
            yield self.fail(cell, error)
        else:
            self.out_of_memory_cells.append(cell)

    def fail(self, cell: Cell, error: Exception, whole_task: bool = False) -> Failure:
        """Keeps and tells a failure."""
        failure = Failure(cell, error, whole_task)
        self.store.save_failure(cell.path, failure.trace)
        return failure


def fetch_answer(pending: Any) -> Answer | None:
    """What a worker answered; None where it is free. RayError where it is lost."""
    reference = pending if isinstance(pending, ray.ObjectRef) else next(pending, None)
    result: Answer | None = reference and ray.get(reference)
    return result


FirstFitKey: TypeAlias = tuple[str, int, int]


def first_fit_key(cell: Cell) -> FirstFitKey:
    """What decides the first fit of a cell, companions aside: task, seed and training."""
    return cell.task.label, cell.seed, cell.variant.training


def choose_cell(
    waiting_cells: Sequence[Cell],
    loaded_task: str,
    first_fits_in_progress: set[FirstFitKey],
    seeds_in_order: bool = False,
) -> int:
    """Which cell a worker takes next: the first, but rather one of the task that it has in memory, and rather one
    whose first fit nobody is at, which would only be waited for. in_order: none of another seed than the first."""

    def cost(number: int) -> tuple[bool, bool, bool]:
        cell = waiting_cells[number]
        return (
            seeds_in_order and cell.seed != waiting_cells[0].seed,
            loaded_task not in ("", cell.task.label),
            first_fit_key(cell) in first_fits_in_progress,
        )

    return min(range(len(waiting_cells)), key=cost)


def node_resources() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_capacity(resources: WorkerResources) -> int:
    """How many workers there is room for."""
    return sum(map(resources.num_on_node, node_resources()))


def whole_device(resources: WorkerResources) -> WorkerResources:
    """All of a GPU, or without one of the largest node."""
    return (
        replace(resources, gpus=1)
        if resources.gpus
        else WorkerResources(int(max(node.get("CPU", 1) for node in node_resources())), 0)
    )


@contextlib.contextmanager
def ray_connection(address: str | None) -> Iterator[None]:
    """Ray, started here or joined. ValueError where none answers."""
    if address is not None and address.startswith("ray://"):
        raise ValueError(f"ray_address={address}: run on a node of the cluster, with ray_address=auto or HOST:PORT")
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": 10**8}  # rounds are small
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    try:
        with contextlib.chdir(
            INSTALL_ROOT
        ):  # Ray puts the driver's working folder first on the module path of its workers
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray_address={address or 'null'}: {str(error).strip()}") from error
    try:
        yield
    finally:
        ray.shutdown()


def worker_device(settings: Settings) -> str:
    """The workers' device: with `auto` a GPU where Ray has one. ValueError where it lacks what is asked for."""
    has_gpu = any(node.get("GPU", 0) >= 1 for node in node_resources())
    if settings.device == "auto":
        return "cuda" if has_gpu else "cpu"
    if settings.device == "cuda" and not has_gpu:
        raise ValueError("device=cuda: Ray has no GPU")
    return settings.device


def worker_resources(settings: Settings, device: str) -> WorkerResources:
    """What these settings give a cell. ValueError where no node has it."""
    if device == "cpu" and settings.gpus_per_cell is not None:
        raise ValueError(f"gpus_per_cell={settings.gpus_per_cell}: has no effect: Ray has no GPU")
    gpus = (settings.gpus_per_cell or 1) if device == "cuda" else 0
    share = WorkerResources(settings.cpus_per_cell or 1, gpus)
    if not worker_capacity(share):
        raise ValueError(f"cpus_per_cell={share.cpus}: no node of Ray has as many, and a GPU where one is needed")
    return share


def run_on_ray(cells: Sequence[Cell], store: Store, chosen: Settings) -> Generator[Event]:
    """Runs the cells on Ray, records their rounds and yields what happened, as `launch.local` does; cells side by side.

    Paths of these settings hold on every node; fits are shared by the workers that have a folder in common.
    """
    with ray_connection(chosen.ray_address):
        where = worker_device(chosen)
        share = worker_resources(chosen, where)
        settings = replace(chosen, device=where, data=absolute_path(chosen.data), plugins=absolute_path(chosen.plugins))
        given = asdict(settings), str((store.folder / ".fits").absolute())

        def start(share: WorkerResources) -> Any:
            options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
            return ray.remote(Worker).options(**options).remote(*given)

        yield from WorkerPool(list(cells), store, share, start, seeds_in_order=chosen.gpu_hours is not None).events()


def absolute_path(folder: str | None) -> str | None:
    """A folder whose name holds wherever the worker was started."""
    return folder and str(Path(folder).absolute())
