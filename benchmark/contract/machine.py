"""Where tasks and encoders run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.plugins.paths import resolve_data_path


@dataclass(frozen=True)
class Machine:
    """Where a task runs; nothing here may change a number on the same device."""

    device: torch.device
    data: Path | None = None  # folder of the data sets, for tasks that read files
    scratch: Path | None = None  # folder for checkpoints of fits in work; None: keep none
    workers: int = 0  # processes that read images, for tasks whose images do not fit in memory
    select_timeout: float | None = None  # seconds that a strategy may take for one choice

    def resolve_path(self, path: str) -> Path:
        """A path that the user gave: absolute, or inside the data folder. ValueError where there is none."""
        return resolve_data_path(path, self.data)
