"""Runs the workers of a `WorkerPool` as processes of this machine: `jobs=N`.

A worker process is a fresh interpreter that runs `worker_process.main`. It shares one socket with the driver, and each
notices the end of the other by the end of that connection. It is neither forked, since neither torch's threads nor a
GPU survive a fork, nor started by `multiprocessing`, which would run the driver's main program again in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.plugins.discovery import is_discoverable
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.runner.events import Event
from benchmark.runner.launchers.worker import Answer, SerializedCell, worker_settings
from benchmark.runner.launchers.worker_pool import WorkerLoss, WorkerPool

# The module path is that of the driver, so that a worker imports the same files, wherever it is started.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from benchmark.runner.launchers.worker_process import main; main(int(sys.argv[2]))"
)
EXIT_SECONDS = 1.0  # how long a process that has closed its connection may take to end
VMSTAT = Path("/proc/vmstat")  # where Linux counts the processes that it killed for memory


class WorkerLostError(Exception):
    """A worker process was killed, or ended."""


@dataclass(eq=False)
class WorkerProcess:
    """A worker process as the driver sees it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    gpu: str  # as in CUDA_VISIBLE_DEVICES; "" on a CPU
    num_memory_kills: int  # of the whole machine, when it was started


@dataclass
class ProcessBackend:
    """Processes of this machine, see `worker_pool.Backend`; on GPUs each has one to itself."""

    settings: Settings  # of the workers
    scratch: Path
    num_processes: int
    free_gpus: list[str] = field(default_factory=list)

    @property
    def setting(self) -> str:
        """The setting that chose processes."""
        return f"jobs={self.settings.jobs}"

    def capacity(self) -> int:
        """Returns the number of processes that may run side by side."""
        return self.num_processes

    def start(self) -> WorkerProcess:
        """Starts a process. ValueError where the system allows no more."""
        gpu = self.free_gpus.pop(0) if self.free_gpus else ""
        driver_end, worker_end = socket.socketpair()
        connection = Connection(driver_end.detach())
        with worker_end:
            module_path = [entry for entry in sys.path if isinstance(entry, str)]
            arguments = [json.dumps(module_path), str(worker_end.fileno())]
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", PROGRAM, *arguments],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
                    pass_fds=[worker_end.fileno()],
                    start_new_session=True,  # Ctrl-C reaches the driver alone
                )
            except OSError as error:
                raise ValueError(f"{self.setting}: no worker starts: {error.strerror}") from error
        worker = WorkerProcess(process, connection, gpu, count_memory_kills())
        send(worker, (asdict(self.settings), str(self.scratch)))
        return worker

    def send(self, worker: WorkerProcess, cell: SerializedCell, past: Sequence[Record]) -> None:
        """Gives a free worker a cell."""
        send(worker, (cell, past))

    def wait(self, workers: Sequence[WorkerProcess]) -> tuple[WorkerProcess, Answer | WorkerLoss | None]:
        """Waits for the next answer of any of these workers."""
        ready = wait([worker.connection for worker in workers])[0]
        worker = next(worker for worker in workers if worker.connection is ready)
        try:
            answer: Answer | None = worker.connection.recv()
        except (EOFError, OSError):
            return worker, describe_loss(worker)
        return worker, answer

    def stop(self, worker: WorkerProcess) -> None:
        """Kills a process and those that it has started, as readers of images."""
        kill_group(worker.process)
        worker.connection.close()
        self.free_gpus += [worker.gpu] * bool(worker.gpu)

    def reserve_whole_devices(self) -> None:
        """Lets one process at a time have the machine."""
        self.num_processes = 1


def send(worker: WorkerProcess, message: object) -> None:
    """Sends a message to a worker; one that has ended is noticed by `ProcessBackend.wait`."""
    with contextlib.suppress(OSError):
        worker.connection.send(message)


def kill_group(process: subprocess.Popen[bytes]) -> int:
    """Kills a process that leads a session, and all of its group; returns the exit code."""
    with contextlib.suppress(OSError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def describe_loss(worker: WorkerProcess) -> WorkerLoss:
    """Returns why a worker has closed its connection: its process was killed, or ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(EXIT_SECONDS)
    code = kill_group(worker.process)
    is_out_of_memory = code == -signal.SIGKILL and count_memory_kills() > worker.num_memory_kills
    reason = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    more = ": the system had no memory left" if is_out_of_memory else ""
    return WorkerLoss(WorkerLostError(f"the worker process {reason}{more}"), is_out_of_memory)


def count_memory_kills() -> int:
    """Returns how many processes Linux has killed for memory since its start; 0 where that is unknown."""
    with contextlib.suppress(OSError):
        if match := re.search(rb"^oom_kill (\d+)$", VMSTAT.read_bytes(), re.MULTILINE):
            return int(match[1])
    return 0


def visible_gpus() -> list[str]:
    """Returns the GPUs that PyTorch sees, each as a value of CUDA_VISIBLE_DEVICES."""
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    return [name.strip() for name in names[: len(numbers)]]


def run_in_processes(
    cells: Sequence[Cell], store: Store, settings: Settings, device: torch.device, num_processes: int
) -> Generator[Event]:
    """Runs the cells in worker processes, records their rounds and yields what happens, as `run_locally` does here.

    Args:
        cells: what is to be run.
        store: the results folder; the workers share the fits in it.
        settings: the settings of the run.
        device: the device of the run.
        num_processes: how many cells run side by side.

    Raises:
        ValueError: no process can be started, or a plug-in cannot be found in another process.
    """
    check_discoverable(cells, settings)
    gpus = visible_gpus() if device.type == "cuda" else []
    scratch = (store.folder / ".fits").absolute()
    backend = ProcessBackend(worker_settings(settings, str(device)), scratch, num_processes, gpus)
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
