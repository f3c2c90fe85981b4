"""The machine of a run: device, number of threads, determinism."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.experiment.run_settings import Settings
from benchmark.system.cores import num_cores as count_cores
from benchmark.text.words import plural

if TYPE_CHECKING:
    import torch

    from benchmark.api import Machine

MAX_READING_PROCESSES = 8


def prepare_machine(settings: Settings, scratch: Path | None = None) -> Machine:
    """Returns the machine that the settings describe, with its number of threads set; `scratch` keeps checkpoints."""
    import torch

    from benchmark.api import Machine

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    if settings.deterministic:
        enable_determinism()
    data, device = Path(settings.data) if settings.data else None, find_device(settings.device)
    num_cores = (settings.cpus_per_cell or 1) if settings.launcher == "ray" else None
    workers = num_reading_processes(device, num_cores) if settings.workers is None else settings.workers
    num_gpus, num_visible = settings.num_gpus_per_cell, torch.cuda.device_count() if device.type == "cuda" else 0
    if 1 < num_gpus > num_visible:
        raise ValueError(f"gpus_per_cell={num_gpus}: PyTorch sees {plural(num_visible, 'GPU')}")
    return Machine(device, data, scratch, workers, settings.select_timeout, num_gpus)


def num_reading_processes(device: torch.device, num_cores: int | None = None) -> int:
    """Returns how many processes should read images: on a CPU none, since training takes every core.

    A GPU is fed by a few cores: decoding takes 5 ms of one for a photograph of 640 x 480.

    Args:
        device: the device of models.
        num_cores: the cores of the cell; None: those of this process.
    """
    if device.type == "cpu":
        return 0
    return min(MAX_READING_PROCESSES, num_cores or count_cores())


def enable_determinism() -> None:
    """Makes torch use algorithms that give equal bits for equal inputs; an operation that has none raises an error."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads any
    torch.backends.cudnn.benchmark = False


def find_device(name: str) -> torch.device:
    """Returns the torch device of a name; `auto` is the first GPU if there is one. ValueError if it does not exist."""
    import torch  # slow, and not needed for tables and status

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: PyTorch sees {plural(torch.cuda.device_count(), 'GPU')}")
    return device
