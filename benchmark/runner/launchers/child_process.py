"""Worker processes as their driver sees them: how they are started, and how they end. Imports no torch.

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
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark.experiment.run_settings import Settings

# The module path is that of the driver, so that a worker imports the same files, wherever it is started.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from benchmark.runner.launchers.worker_process import main; main(int(sys.argv[2]))"
)
EXIT_SECONDS = 1.0  # how long a process that has closed its connection may take to end
MAX_EARLY = 4  # processes that are started before it is known how many are needed
VMSTAT = Path("/proc/vmstat")  # where Linux counts the processes that it killed for memory


class WorkerLostError(Exception):
    """A worker process was killed, or ended."""


@dataclass(eq=False)
class WorkerProcess:
    """A worker process."""

    process: subprocess.Popen[bytes]
    connection: Connection
    num_memory_kills: int  # of the whole machine, when it was started
    gpu: str = ""  # the GPU that it has, as in CUDA_VISIBLE_DEVICES; "" on a CPU

    def send(self, message: object) -> None:
        """Sends a message. A process that has ended is noticed when its answer is read."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def stop(self) -> int:
        """Kills the process and those that it has started, as readers of images; returns its exit code."""
        if not self.connection.closed:
            self.connection.close()
            with contextlib.suppress(OSError):  # all have ended
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        return self.process.wait()

    def find_loss(self) -> tuple[WorkerLostError, bool]:
        """Returns why the process has closed its connection, and whether the system killed it for memory."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)
        code = self.stop()
        is_out_of_memory = code == -signal.SIGKILL and count_memory_kills() > self.num_memory_kills
        end = (
            f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
        )
        reason = ": the system had no memory left" if is_out_of_memory else ""
        return WorkerLostError(f"the worker process {end}{reason}"), is_out_of_memory


def start_process() -> WorkerProcess:
    """Starts a worker process. OSError where the system allows no more."""
    driver_end, worker_end = socket.socketpair()
    connection = Connection(driver_end.detach())
    with worker_end:
        module_path = [entry for entry in sys.path if isinstance(entry, str)]
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, json.dumps(module_path), str(worker_end.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[worker_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches the driver alone
        )
    return WorkerProcess(process, connection, count_memory_kills())


@contextlib.contextmanager
def start_early(settings: Settings) -> Iterator[list[WorkerProcess]]:
    """Starts the worker processes of a new run, which load PyTorch while this process does the same.

    Yields:
        The processes that nobody has taken yet; those that are left at the end are killed.
    """
    is_new = not settings.dry_run and not (Path(settings.out) / "grid.json").exists()
    num_processes = settings.num_jobs_on_cpu if is_new else 1  # without PyTorch, nobody knows of GPUs
    early_workers = list[WorkerProcess]()
    try:
        with contextlib.suppress(OSError):
            for _ in range(min(num_processes, MAX_EARLY) if num_processes > 1 else 0):
                early_workers.append(start_process())
        yield early_workers
    finally:
        for worker in early_workers:
            worker.stop()


def count_memory_kills() -> int:
    """Returns how many processes Linux has killed for memory since its start; 0 where that is unknown."""
    with contextlib.suppress(OSError):
        if match := re.search(rb"^oom_kill (\d+)$", VMSTAT.read_bytes(), re.MULTILINE):
            return int(match[1])
    return 0
