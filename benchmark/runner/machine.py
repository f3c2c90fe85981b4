"""The machine that a run is given: device, threads, determinism."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.experiment.settings import Settings
from benchmark.text.words import plural

if TYPE_CHECKING:
    import torch

    from benchmark.api import Machine


def prepare_machine(settings: Settings, scratch: Path | None = None) -> Machine:
    """The machine as these settings want it, its number of threads set; fits in work are kept in `scratch`."""
    import torch

    from benchmark.api import Machine

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    if settings.deterministic:
        enable_determinism()
    data = Path(settings.data) if settings.data else None
    return Machine(find_device(settings.device), data, scratch, settings.workers, settings.select_timeout)


def enable_determinism() -> None:
    """Has torch take the algorithms that give equal bits for equal inputs; one that has none raises where it is met."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads any
    torch.backends.cudnn.benchmark = False


def find_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the first GPU where there is one."""
    import torch  # only where something is trained: tables and status do without

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: PyTorch sees {plural(torch.cuda.device_count(), 'GPU')}")
    return found
