"""Chooses where cells are trained: in this process, in several processes of this machine, or on Ray.

A new launcher takes a `Backend` of its own (`worker_pool`), a branch in `Launcher.run`, and its name among the values
of `launcher` in `experiment/run_settings.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.records.store import Store
from benchmark.runner.events import Event
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers.child_process import WorkerProcess
from benchmark.runner.launchers.local_launch import run_locally
from benchmark.runner.launchers.process_launch import run_in_processes
from benchmark.runner.measuring import device_name
from benchmark.runner.task_loading import TaskLoader
from benchmark.system.cores import num_cores
from benchmark.text.words import plural


@dataclass(frozen=True)
class Launcher:
    """Runs cells where the settings say."""

    settings: Settings
    store: Store
    fits: FitCache
    tasks: TaskLoader
    num_jobs: int  # cells that may run side by side on this machine
    early_workers: list[WorkerProcess]  # processes that are started already

    @classmethod
    def from_settings(
        cls, settings: Settings, store: Store, fits: FitCache, tasks: TaskLoader, early_workers: list[WorkerProcess]
    ) -> Launcher:
        """Returns the launcher of a run. ValueError where `jobs` does not fit the machine."""
        jobs = resolve_jobs(settings, tasks.machine.device) if settings.launcher == "local" else 1
        return cls(settings, store, fits, tasks, jobs, early_workers)

    def num_processes(self, num_cells: int) -> int:
        """Returns how many processes of this machine run so many cells; 1: this process runs them."""
        return max(1, min(self.num_jobs, num_cells))

    def trains_here(self, num_cells: int) -> bool:
        """Whether this process trains so many cells itself, and has their tasks in memory."""
        return self.settings.launcher == "local" and self.num_processes(num_cells) == 1

    def describe_place(self, num_cells: int) -> str:
        """Returns where so many cells are trained, for the first line of a run."""
        if self.settings.launcher == "ray":
            return "Ray"
        device, number = device_name(self.tasks.machine), self.num_processes(num_cells)
        return device if number == 1 else f"{number} processes, each on {device}"

    def hint(self, num_cells: int) -> str:
        """Returns a line on a setting that would use the machine better; "" where there is none."""
        device, number = self.tasks.machine.device, self.num_processes(num_cells)
        if self.settings.launcher == "ray":
            return ""
        if device.type == "cuda":
            num_gpus, per_cell = torch.cuda.device_count(), self.settings.num_gpus_per_cell
            idle = f"{number * per_cell} of {plural(num_gpus, 'GPU')} used"
            remedy = "launcher=ray runs as many cells as fit" if per_cell > 1 else "jobs=auto runs a cell on each"
            is_room = number < min(num_gpus // per_cell, num_cells)
            return f"{idle}: {remedy}" if is_room and device.index is None else ""
        num_threads = torch.get_num_threads()
        slow = f"{number} processes of {plural(num_threads, 'thread')} each share {plural(num_cores(), 'core')}"
        too_many = self.settings.num_threads is None and number > 1 and number * num_threads > num_cores()
        return f"{slow}: threads=1 is faster" if too_many else ""

    def run(self, cells: Sequence[Cell]) -> Generator[Event]:
        """Runs cells, records their rounds and yields what happens."""
        number = self.num_processes(len(cells))
        if self.settings.launcher == "ray":
            return launch_on_ray(cells, self.store, self.settings)
        if number > 1:
            device = self.tasks.machine.device
            return run_in_processes(cells, self.store, self.settings, device, number, self.early_workers)
        return run_locally(cells, self.store, self.fits, self.tasks)


def resolve_jobs(settings: Settings, device: torch.device) -> int:
    """Returns the number of cells that `jobs` lets run side by side.

    `auto` is one process per visible GPU. On a CPU, it is as many processes as the cores have room for where the number
    of threads is set, and otherwise 1, since PyTorch then uses all cores.

    Raises:
        ValueError: there are fewer GPUs.
    """
    if device.type != "cuda":
        return settings.num_jobs_on_cpu
    num_gpus = 1 if device.index is not None else torch.cuda.device_count()
    if settings.jobs == "auto":
        return num_gpus
    if settings.jobs > num_gpus:
        reason = f"each process needs a GPU, and PyTorch sees {plural(num_gpus, 'GPU')}"
        remedy = f"lower jobs, or set launcher=ray gpus_per_cell={num_gpus / settings.jobs:.2g}"
        raise ValueError(f"jobs={settings.jobs}: {reason}: {remedy}")
    return settings.jobs


def launch_on_ray(cells: Sequence[Cell], store: Store, settings: Settings) -> Generator[Event]:
    """Runs cells on Ray, see `ray_launch.run_on_ray`. ValueError where Ray is not installed."""
    try:
        from benchmark.runner.launchers import ray_launch
    except ImportError as error:
        raise ValueError("launcher=ray: not installed: pip install -e '.[ray]'") from error
    return ray_launch.run_on_ray(cells, store, settings)
