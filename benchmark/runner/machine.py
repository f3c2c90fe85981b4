"""The machine of a run: device, number of threads, determinism."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.experiment.run_settings import Settings
from benchmark.text.words import plural

if TYPE_CHECKING:
    import torch

    from benchmark.api import Machine


def prepare_machine(settings: Settings, scratch: Path | None = None) -> Machine:
    """Returns the machine that the settings describe, with its number of threads set; `scratch` keeps checkpoints."""
    import torch

    from benchmark.api import Machine

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    if settings.deterministic:
        enable_determinism()
    data = Path(settings.data) if settings.data else None
    return Machine(find_device(settings.device), data, scratch, settings.workers, settings.select_timeout)


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
