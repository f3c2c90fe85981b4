"""The settings of a run; configs/config.yaml holds their defaults and meanings. Imports no Hydra."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.plugins.key_value import Setting
from benchmark.plugins.paths import CONFIGS
from benchmark.system.cores import num_cores


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run; configs/config.yaml says what each means, also where it is None (null)."""

    grid: str
    experiments: dict[str, Any]
    tasks: list[Any] | None
    strategies: list[Any] | None
    seeds: int | list[Any] | str | None
    level: float
    max_seeds: int
    reference: str | None
    sets: int | None
    initial: int | None
    budget: int | None
    rounds: int | None
    validation: int | None
    budget_in: str | None
    until: str | None
    one_pass: bool | None
    first_budget: int | None
    initial_by: str | None
    device: str
    threads: int | None
    workers: int | None
    data: str | None
    out: str
    plugins: str | None
    cache_gb: float
    jobs: int | Literal["auto"]
    launcher: Literal["local", "ray"]
    ray_address: str | None
    gpus_per_cell: float | None
    cpus_per_cell: int | None
    select_timeout: float | None
    deterministic: bool
    rerun_changed: bool
    anonymous: bool
    mix_versions: bool
    dry_run: bool
    gpu_hours: float | None
    embed_round: int | None
    check_on: str
    tracking: Literal["none", "wandb"]
    format: Literal["text", "json"]

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads}: must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers={self.workers}: must be at least 0")
        if self.cache_gb < 0:
            raise ValueError(f"cache_gb={self.cache_gb}: must be at least 0")
        if self.rerun_changed and self.dry_run:
            raise ValueError("rerun_changed=true moves records, dry_run=true changes nothing: give one of them")
        if self.anonymous and self.tracking != "none":
            raise ValueError(
                f"tracking={self.tracking} uploads the names of user and host: it cannot be used with anonymous=true"
            )
        if self.embed_round is not None and self.embed_round < 0:
            raise ValueError(f"embed_round={self.embed_round}: must be at least 0")
        for name in ("select_timeout", "gpu_hours"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be greater than 0")
        if self.sets is not None and self.sets < 2:
            raise ValueError(
                f"sets={self.sets}: must be at least 2, to see how initial sets differ; 30 are recommended"
            )
        if self.sets is not None and self.seeds is not None:
            raise ValueError(f"seeds={self.seeds}: has no effect with sets={self.sets}, whose seeds count from 0")
        self.check_launcher()

    def check_launcher(self) -> None:
        """ValueError for settings of parallel cells that do not fit, or have no effect with the launcher or device."""
        if self.jobs != "auto" and self.jobs < 1:
            raise ValueError(f"jobs={self.jobs}: must be at least 1, or auto")
        if self.jobs != 1 and self.launcher == "ray":
            raise ValueError(f"jobs={self.jobs}: has no effect with launcher=ray: set cpus_per_cell or gpus_per_cell")
        if self.jobs not in (1, "auto") and self.device.startswith("cuda:"):
            raise ValueError(f"jobs={self.jobs}: device={self.device} is a single GPU: set device=cuda")
        if self.jobs != 1 and self.num_gpus_per_cell > 1:
            gpus = f"gpus_per_cell={self.gpus_per_cell:g}"
            raise ValueError(f"jobs={self.jobs}: has no effect with {gpus}: set launcher=ray")
        for name in ("ray_address", "gpus_per_cell", "cpus_per_cell"):
            shares_gpus = name != "gpus_per_cell" or self.num_gpus_per_cell == 1
            if self.launcher == "local" and (value := getattr(self, name)) is not None and shares_gpus:
                raise ValueError(f"{name}={value}: has no effect with launcher=local: set launcher=ray")
        if self.cpus_per_cell is not None and self.cpus_per_cell < 1:
            raise ValueError(f"cpus_per_cell={self.cpus_per_cell}: must be at least 1")
        if self.gpus_per_cell is not None and not (0 < self.gpus_per_cell <= 1 or self.num_gpus_per_cell > 1):
            raise ValueError(
                f"gpus_per_cell={self.gpus_per_cell}: must be greater than 0 and at most 1, or a whole number"
            )
        if self.num_gpus_per_cell > 1 and self.device.startswith("cuda:"):
            raise ValueError(f"gpus_per_cell={self.gpus_per_cell:g}: {self.device} is one GPU: set device=cuda")
        if self.gpus_per_cell is not None and self.device == "cpu":
            raise ValueError(f"gpus_per_cell={self.gpus_per_cell}: has no effect with device=cpu")
        if self.launcher == "ray" and self.device.startswith("cuda:"):
            raise ValueError(f"device={self.device}: Ray chooses the GPU: set device=cuda")

    @property
    def num_gpus_per_cell(self) -> int:
        """The GPUs that train one model together; 1 also where cells share a GPU."""
        gpus = self.gpus_per_cell or 1.0
        return int(gpus) if gpus > 1 and gpus.is_integer() else 1

    @property
    def num_threads(self) -> int | None:
        """CPU threads of a training process; None: PyTorch's choice.

        On Ray, and with deterministic=true, it is cpus_per_cell (or 1) where `threads` is not set.
        """
        is_fixed = self.launcher == "ray" or self.deterministic
        return (self.cpus_per_cell or 1) if self.threads is None and is_fixed else self.threads

    @property
    def num_jobs_on_cpu(self) -> int:
        """Cells that run side by side on a CPU: auto fills the cores where the number of threads is known."""
        if self.jobs != "auto":
            return self.jobs
        return max(1, num_cores() // self.num_threads) if self.num_threads is not None else 1


SETTING_LINE = re.compile(r"(?P<name>\w+): +(?P<default>\S.*?) +# (?P<meaning>.*)")  # a line of configs/config.yaml
COMMAND_SETTINGS = {  # of commands that run no grid; the others take all but check_on
    "list": ("plugins", "format"),
    "new": ("plugins", "check_on"),
    "check": (
        "plugins", "check_on", "data", "device", "threads", "workers", "select_timeout", "deterministic", "format"
    ),
    "pick": (
        "device", "threads", "workers", "data", "plugins", "cache_gb", "select_timeout", "deterministic", "jobs",
        "launcher", "ray_address", "cpus_per_cell", "gpus_per_cell",
    ),
}  # fmt: skip


def setting_types(verb: str = "") -> Mapping[str, Any]:
    """The types of a command's settings, by name; of all settings where `verb` is ""."""
    kinds = typing.get_type_hints(Settings) | {"out": str | None}
    del kinds["experiments"]
    names = COMMAND_SETTINGS.get(verb) or [name for name in kinds if not verb or name != "check_on"]
    return {name: kinds[name] for name in names}


def known_settings(verb: str = "") -> list[Setting]:
    """The settings of a command, or all, in the order and with the texts of configs/config.yaml."""
    text = (CONFIGS / "config.yaml").read_text(encoding="utf-8")
    lines = [match.groups() for match in map(SETTING_LINE.fullmatch, text.splitlines()) if match]
    kinds = setting_types(verb)
    rows = [("grid", "quick", "the grid of tasks, strategies and seeds: one of `list grids`"), *lines]
    return [
        Setting(name, kinds[name], "null" if default.startswith("$") else default, meaning)
        for name, default, meaning in rows
        if name in kinds and (name, verb) != ("sets", "run")
    ]
