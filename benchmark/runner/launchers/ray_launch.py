"""Runs the workers of a `WorkerPool` on Ray, on this machine or a cluster.

Workers are actors. They receive plain data and discover the plug-ins themselves, so that they need no folder in common
with the driver. Ray's own retries are off, because they repeat a call from its beginning with its first arguments:
recorded rounds would be trained again, on a GPU perhaps with other selections, and the following rounds would belong to
another history. A worker that was killed for memory would start again beside the others.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.plugins.code_folders import INSTALL_ROOT
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.runner.events import Event
from benchmark.runner.large_pools.shard_writer import ShardJob, ShardWorker
from benchmark.runner.launchers.worker import Answer, SerializedCell, Worker, worker_settings
from benchmark.runner.launchers.worker_pool import WorkerLoss, WorkerPool


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


@dataclass(eq=False)
class RayWorker:
    """A worker as Ray knows it."""

    actor: Any
    pending: Any  # its next answer: a reference, or a generator of references


@dataclass
class RayBackend:
    """The nodes of Ray, on which workers run; see `worker_pool.Backend`."""

    resources: WorkerResources
    start_actor: Callable[[WorkerResources], Any]
    setting: str = "launcher=ray"

    def capacity(self) -> int:
        """Returns the number of workers that fit on all nodes."""
        return worker_capacity(self.resources)

    def start(self) -> RayWorker:
        """Starts an actor."""
        actor = self.start_actor(self.resources)
        return RayWorker(actor, actor.ready.remote())

    def send(self, worker: RayWorker, cell: SerializedCell, past: Sequence[Record]) -> None:
        """Gives a free worker a cell."""
        worker.pending = worker.actor.run.remote(cell, past)

    def wait(self, workers: Sequence[RayWorker]) -> tuple[RayWorker, Answer | WorkerLoss | None]:
        """Waits for the next answer of any of these workers."""
        [ready], _ = ray.wait([worker.pending for worker in workers], num_returns=1)
        worker = next(worker for worker in workers if worker.pending == ready)
        try:
            return worker, fetch_answer(worker.pending)
        except RayError as error:
            return worker, WorkerLoss(error, is_out_of_memory=isinstance(error, OutOfMemoryError))

    def stop(self, worker: RayWorker) -> None:
        """Ends an actor."""
        ray.kill(worker.actor)

    def reserve_whole_devices(self) -> None:
        """Gives workers that are started from now on a whole GPU, or, without a GPU, as many CPUs as any node has."""
        self.resources = whole_device(self.resources)


def fetch_answer(pending: Any) -> Answer | None:
    """Returns what a worker answered; None where it is free. RayError where it is lost."""
    reference = pending if isinstance(pending, ray.ObjectRef) else next(pending, None)
    result: Answer | None = reference and ray.get(reference)
    return result


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


class RayShardWriter:
    """Writes shards in an actor of Ray Data, which keeps the model from one shard to the next."""

    def __init__(self, job: ShardJob) -> None:
        self.worker = ShardWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Writes a shard; returns its number, and what is wrong with its images or settings."""
        [number] = batch["id"].tolist()
        try:
            self.worker.write(number)
        except ValueError as error:  # one that is raised here would lose its message
            return {"id": [number], "problem": [" ".join(str(error).split())]}
        return {"id": [number], "problem": [""]}


def write_shards_on_ray(job: ShardJob, resources: WorkerResources, address: str | None) -> Iterator[int]:
    """Writes the shards of a job with Ray Data, on every node of Ray; yields their numbers as they are written.

    Args:
        job: what to write. Its folder, and the images, must lie under the same path on every node.
        resources: what each actor gets.
        address: as the setting `ray_address`; None starts Ray here.

    Raises:
        ValueError: no cluster answers, Ray Data is not installed, or a shard cannot be written.
    """
    job.write_manifests()
    with ray_connection(address):
        data, num_actors = import_ray_data(), min(job.num_shards, worker_capacity(resources))
        if not num_actors:
            raise ValueError(f"cpus_per_cell={resources.cpus}: no node of Ray has as many, and a GPU where needed")
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = [{"id": number} for number in range(job.num_shards)]  # `range` would need CPUs, which the actors have
        written = data.from_items(items, override_num_blocks=job.num_shards).map_batches(
            RayShardWriter,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )
        try:
            for row in written.iter_rows():
                if row["problem"]:
                    raise ValueError(row["problem"])
                yield int(row["id"])
        except RayError as error:
            raise ValueError(f"a shard could not be written: {' '.join(str(error).split())}") from error


def import_ray_data() -> Any:
    """Returns the module of Ray Data. ValueError where its dependencies are missing."""
    try:
        return importlib.import_module("ray.data")
    except ImportError as error:
        raise ValueError(f"launcher=ray: Ray Data cannot be imported ({error}): install al-benchmark[ray]") from error


def run_on_ray(cells: Sequence[Cell], store: Store, settings: Settings) -> Generator[Event]:
    """Runs the cells on Ray in parallel, records their rounds and yields what happens, as `run_locally` does here.

    Paths in the settings must be valid on every node; workers that have a folder in common share fits.
    """
    with ray_connection(settings.ray_address):
        device = worker_device(settings)
        sent_settings = asdict(worker_settings(settings, device))
        scratch = str((store.folder / ".fits").absolute())

        def start_actor(resources: WorkerResources) -> Any:
            options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": 0, "max_task_retries": 0}
            return ray.remote(Worker).options(**options).remote(sent_settings, scratch)

        backend = RayBackend(worker_resources(settings, device), start_actor)
        yield from WorkerPool(list(cells), store, backend, settings.gpu_hours is not None).events()
