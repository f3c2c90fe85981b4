"""Runs the workers of a `WorkerPool` as processes of this machine: `jobs=N`."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import torch

from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.plugins.discovery import is_discoverable
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.runner.events import Event
from benchmark.runner.launchers.child_process import WorkerProcess, start_process
from benchmark.runner.launchers.worker import Answer, SerializedCell, worker_settings
from benchmark.runner.launchers.worker_pool import WorkerLoss, WorkerPool


@dataclass
class ProcessBackend:
    """Processes of this machine, see `worker_pool.Backend`; on GPUs each has one to itself."""

    settings: Settings  # of the workers
    scratch: Path
    num_processes: int
    free_gpus: list[str] = field(default_factory=list)
    early_workers: list[WorkerProcess] = field(default_factory=list)  # processes that are started already

    @property
    def setting(self) -> str:
        """The setting that chose processes."""
        return f"jobs={self.settings.jobs}"

    def capacity(self) -> int:
        """Returns the number of processes that may run side by side."""
        return self.num_processes

    def start(self) -> WorkerProcess:
        """Starts a process. ValueError where the system allows no more."""
        try:
            worker = self.early_workers.pop(0) if self.early_workers else start_process()
        except OSError as error:
            raise ValueError(f"{self.setting}: no worker starts: {error.strerror}") from error
        worker.gpu = self.free_gpus.pop(0) if self.free_gpus else ""
        worker.send((asdict(self.settings), str(self.scratch), worker.gpu))
        return worker

    def send(self, worker: WorkerProcess, cell: SerializedCell, past: Sequence[Record]) -> None:
        """Gives a free worker a cell."""
        worker.send((cell, past))

    def wait(self, workers: Sequence[WorkerProcess]) -> tuple[WorkerProcess, Answer | WorkerLoss | None]:
        """Waits for the next answer of any of these workers."""
        ready = wait([worker.connection for worker in workers])[0]
        worker = next(worker for worker in workers if worker.connection is ready)
        try:
            answer: Answer | None = worker.connection.recv()
        except (EOFError, OSError):
            return worker, WorkerLoss(*worker.find_loss())
        return worker, answer

    def stop(self, worker: WorkerProcess) -> None:
        """Kills a process and those that it has started."""
        worker.stop()
        self.free_gpus += [worker.gpu] * bool(worker.gpu)

    def reserve_whole_devices(self) -> None:
        """Lets one process at a time have the machine."""
        self.num_processes = 1


def visible_gpus() -> list[str]:
    """Returns the GPUs that PyTorch sees, each as a value of CUDA_VISIBLE_DEVICES."""
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    return [name.strip() for name in names[: len(numbers)]]


def run_in_processes(
    cells: Sequence[Cell],
    store: Store,
    settings: Settings,
    device: torch.device,
    num_processes: int,
    early_workers: list[WorkerProcess],
) -> Generator[Event]:
    """Runs the cells in worker processes, records their rounds and yields what happens, as `run_locally` does here.

    Args:
        cells: what is to be run.
        store: the results folder; the workers share the fits in it.
        settings: the settings of the run.
        device: the device of the run.
        num_processes: how many cells run side by side.
        early_workers: processes that are started already; those that are used are removed.

    Raises:
        ValueError: no process can be started, or a plug-in cannot be found in another process.
    """
    check_discoverable(cells, settings)
    gpus = visible_gpus() if device.type == "cuda" else []
    scratch = (store.folder / ".fits").absolute()
    backend = ProcessBackend(worker_settings(settings, str(device)), scratch, num_processes, gpus, early_workers)
    yield from WorkerPool(list(cells), store, backend, settings.gpu_hours is not None).events()


def check_discoverable(cells: Sequence[Cell], settings: Settings) -> None:
    """Raises ValueError where a plug-in was registered in this process only, as in a notebook."""
    plugins = {spec.plugin: None for cell in cells for spec in (cell.task, cell.strategy)}
    plugins |= {plugin: None for cell in cells for plugin, _ in cell.strategy.nested_plugins()}
    for plugin in plugins:
        if not is_discoverable(plugin, settings.plugins):
            remedy = "put it into a file of a folder, and set plugins= to that folder"
            raise ValueError(
                f"jobs={settings.jobs}: {plugin.kind} {plugin.name} is known to this process only: {remedy}"
            )
