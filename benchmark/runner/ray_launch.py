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
from benchmark.plugins.home import HOME
from benchmark.records.agreement import Mixture
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.launch import Event, Failure, Round, Started
from benchmark.runner.ray_worker import Answer, Fault, Order, Worker
from benchmark.system import remarks
from benchmark.system.files import Unwritable

RETRIES = 3  # of a cell whose worker is lost, and of starting a worker at all


@dataclass(frozen=True)
class Share:
    """What a worker gets of a node."""

    cpus: int
    gpus: float

    def fits_into(self, resources: dict[str, float]) -> int:
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

    left: list[Cell]
    store: Store
    share: Share
    start: Callable[[Share], Any]  # a new actor
    in_order: bool = False  # a seed of every task before the next seed
    workers: list[WorkerHandle] = field(default_factory=list)
    num_lost: Counter[Cell] = field(default_factory=Counter)
    num_not_started: int = 0  # workers, one after the other, that did not start
    out_of_memory: list[Cell] = field(default_factory=list)  # cells that ran out of it beside others
    alone: bool = False

    def events(self) -> Iterator[Event]:
        """Runs all cells; those that ran out of memory last, a whole GPU each, or a whole node without one."""
        try:
            yield from self.run_cells()
            if self.out_of_memory:
                self.dismiss(*self.workers)
                self.left, self.share, self.alone = self.out_of_memory, whole(self.share), True
                yield from self.run_cells()
        finally:
            self.dismiss(*self.workers)

    def run_cells(self) -> Iterator[Event]:
        """Runs the cells that are left."""
        while self.left or any(worker.cell for worker in self.workers):
            self.hire()
            [ready], _ = ray.wait([worker.pending for worker in self.workers], num_returns=1)
            yield from self.handle_result(next(worker for worker in self.workers if worker.pending == ready))

    def hire(self) -> None:
        """Starts workers while there are more cells than workers, and room; one is always waited for."""
        num_cells = len(self.left) + sum(worker.cell is not None for worker in self.workers)
        for _ in range(len(self.workers), min(num_cells, max(1, room(self.share)))):
            actor = self.start(self.share)
            self.workers.append(WorkerHandle(actor, actor.ready.remote()))

    def dismiss(self, *workers: WorkerHandle) -> None:
        """Ends workers."""
        for worker in workers:
            self.workers.remove(worker)
            ray.kill(worker.actor)

    def handle_result(self, worker: WorkerHandle) -> Iterator[Event]:
        """Takes the next answer of a worker."""
        try:
            result = answer(worker.pending)
        except RayError as error:
            yield from self.handle_loss(worker, error)
            return
        if result is None:
            self.num_not_started = 0
            yield from self.employ(worker)
        elif isinstance(result, str):
            remarks.remark_once(result)  # each worker makes some of them
        elif isinstance(result, Fault):
            yield from self.handle_fault(worker, result)
        else:
            yield from self.record(worker, result)

    def employ(self, worker: WorkerHandle) -> Iterator[Event]:
        """Gives a free worker its next cell, or its leave."""
        worker.cell = None
        if not self.left:
            self.dismiss(worker)
            return
        worker.cell = cell = self.left.pop(best(self.left, worker.task, self.first_fits(), self.in_order))
        worker.task = cell.task.label
        worker.pending = worker.actor.run.remote(Order.of(cell), self.store.records(cell.path)[1])
        yield Started(cell)

    def record(self, worker: WorkerHandle, result: Header | tuple[Record, Measured]) -> Iterator[Event]:
        """Writes down a round of a cell, or starts its file."""
        cell = worker.cell
        assert cell is not None
        try:
            if isinstance(result, Header):
                self.store.start(cell.path, result)
            else:
                self.store.append(cell.path, *result)
        except Unwritable:
            raise
        except Exception as error:
            self.dismiss(worker)  # it is at the next round already
            yield self.fail(cell, error, whole_task=isinstance(error, Mixture))
        else:
            if not isinstance(result, Header):
                yield Round(cell, *result)

    def handle_fault(self, worker: WorkerHandle, fault: Fault) -> Iterator[Event]:
        """A cell failed in its worker, which goes on unless its memory is in doubt."""
        cell, worker.cell = worker.cell, None
        assert cell is not None
        if fault.of_memory:
            self.dismiss(worker)
            yield from self.retry_alone(cell, fault.error)
        else:
            yield self.fail(cell, fault.error, fault.whole_task)

    def first_fits(self) -> set[FirstFit]:
        """Those of the cells in work that have no record yet: other strategies of a seed wait for the same."""
        cells = [worker.cell for worker in self.workers if worker.cell is not None]
        return {first_fit(cell) for cell in cells if not self.store.records(cell.path)[1]}

    def handle_loss(self, worker: WorkerHandle, error: RayError) -> Iterator[Event]:
        """A worker is gone: its cell goes on elsewhere, from the rounds that came back.

        ValueError where one worker after the other does not even start.
        """
        self.dismiss(worker)
        if (cell := worker.cell) is None:
            self.num_not_started += 1
            if self.num_not_started > RETRIES:
                raise ValueError(f"launcher=ray: no worker starts: {str(error).strip()}") from error
        elif isinstance(error, OutOfMemoryError):
            yield from self.retry_alone(cell, error)
        elif self.num_lost[cell] == RETRIES:
            yield self.fail(cell, error)
        else:
            self.num_lost[cell] += 1
            self.left.insert(0, cell)

    def retry_alone(self, cell: Cell, error: Exception) -> Iterator[Event]:
        """A cell ran out of memory: it is run again alone, once."""
        if self.alone:
            yield self.fail(cell, error)
        else:
            self.out_of_memory.append(cell)

    def fail(self, cell: Cell, error: Exception, whole_task: bool = False) -> Failure:
        """Keeps and tells a failure."""
        failure = Failure(cell, error, whole_task)
        self.store.fail(cell.path, failure.trace)
        return failure


def answer(pending: Any) -> Answer | None:
    """What a worker answered; None where it is free. RayError where it is lost."""
    reference = pending if isinstance(pending, ray.ObjectRef) else next(pending, None)
    result: Answer | None = reference and ray.get(reference)
    return result


FirstFit: TypeAlias = tuple[str, int, int]


def first_fit(cell: Cell) -> FirstFit:
    """What decides the first fit of a cell, companions aside: task, seed and training."""
    return cell.task.label, cell.seed, cell.variant.training


def best(left: Sequence[Cell], task: str, opening: set[FirstFit], in_order: bool = False) -> int:
    """Which cell a worker takes next: the first, but rather one of the task that it has in memory, and rather one
    whose first fit nobody is at, which would only be waited for. in_order: none of another seed than the first."""

    def cost(number: int) -> tuple[bool, bool, bool]:
        cell = left[number]
        return (
            in_order and cell.seed != left[0].seed,
            task not in ("", cell.task.label),
            first_fit(cell) in opening,
        )

    return min(range(len(left)), key=cost)


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(share: Share) -> int:
    """How many workers there is room for."""
    return sum(map(share.fits_into, nodes()))


def whole(share: Share) -> Share:
    """All of a GPU, or without one of the largest node."""
    return replace(share, gpus=1) if share.gpus else Share(int(max(node.get("CPU", 1) for node in nodes())), 0)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, started here or joined. ValueError where none answers."""
    if address is not None and address.startswith("ray://"):
        raise ValueError(f"ray_address={address}: run on a node of the cluster, with ray_address=auto or HOST:PORT")
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": 10**8}  # rounds are small
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    try:
        with contextlib.chdir(HOME):  # Ray puts the driver's working folder first on the module path of its workers
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray_address={address or 'null'}: {str(error).strip()}") from error
    try:
        yield
    finally:
        ray.shutdown()


def device(chosen: Settings) -> str:
    """The workers' device: with `auto` a GPU where Ray has one. ValueError where it lacks what is asked for."""
    has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes())
    if chosen.device == "auto":
        return "cuda" if has_gpu else "cpu"
    if chosen.device == "cuda" and not has_gpu:
        raise ValueError("device=cuda: Ray has no GPU")
    return chosen.device


def share_of(chosen: Settings, device: str) -> Share:
    """What these settings give a cell. ValueError where no node has it."""
    if device == "cpu" and chosen.gpus_per_cell is not None:
        raise ValueError(f"gpus_per_cell={chosen.gpus_per_cell}: has no effect: Ray has no GPU")
    gpus = (chosen.gpus_per_cell or 1) if device == "cuda" else 0
    share = Share(chosen.cpus_per_cell or 1, gpus)
    if not room(share):
        raise ValueError(f"cpus_per_cell={share.cpus}: no node of Ray has as many, and a GPU where one is needed")
    return share


def remote(cells: Sequence[Cell], store: Store, chosen: Settings) -> Generator[Event]:
    """Runs the cells on Ray, records their rounds and yields what happened, as `launch.local` does; cells side by side.

    Paths of these settings hold on every node; fits are shared by the workers that have a folder in common.
    """
    with connected(chosen.ray_address):
        where = device(chosen)
        share = share_of(chosen, where)
        settings = replace(chosen, device=where, data=absolute(chosen.data), plugins=absolute(chosen.plugins))
        given = asdict(settings), str((store.folder / ".fits").absolute())

        def start(share: Share) -> Any:
            options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
            return ray.remote(Worker).options(**options).remote(*given)

        yield from WorkerPool(list(cells), store, share, start, in_order=chosen.gpu_hours is not None).events()


def absolute(folder: str | None) -> str | None:
    """A folder whose name holds wherever the worker was started."""
    return folder and str(Path(folder).absolute())
