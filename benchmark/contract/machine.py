"""The machine that tasks and encoders run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.plugins.paths import resolve_data_path


@dataclass(frozen=True)
class Machine:
    """Where a task runs; no field except `device` and `processes_per_fit` may change a number.

    Args:
        device: the device of models and tensors.
        data: the folder of data sets, for tasks that read files; None without one.
        scratch: the folder for checkpoints of unfinished fits; None to keep none.
        workers: number of processes that read images, for tasks whose images do not fit in memory.
        select_timeout: seconds that a strategy may take for one selection; None without a limit.
        processes_per_fit: number of processes that train one model together, each on a GPU of its own. Only tasks whose
            class says `trains_in_processes` take more than one. Numbers then change by rounding, and more where layers
            use batch statistics or training draws samples.
    """

    device: torch.device
    data: Path | None = None
    scratch: Path | None = None
    workers: int = 0
    select_timeout: float | None = None
    processes_per_fit: int = 1

    def resolve_path(self, path: str) -> Path:
        """Returns a path that the user gave, absolute or inside the data folder.

        Args:
            path: the path as the user typed it.

        Raises:
            ValueError: the path is relative and there is no data folder.
        """
        return resolve_data_path(path, self.data)
