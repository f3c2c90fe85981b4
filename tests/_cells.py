"""Small cells on digits for the tests of the harness: two epochs, tens of images."""

from pathlib import Path
from typing import Any

import torch

from benchmark.api import Machine
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.records.store import Store
from benchmark.runner import task_loading
from benchmark.runner.events import CellStarted, Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch

FAULTY = Path(__file__).parent / "plugins"
TINY = "digits[epochs=2]"


def cell(strategy: str, rounds: int = 3, seed: int = 0, task: str = TINY, **schedule: Any) -> Cell:
    """Returns a cell of 20 + 5 labels per round, 10 held out."""
    discovery.discover(FAULTY)
    sizes = {"initial": 20, "budget": 5, "validation": 10} | schedule
    return Cell(Spec.read("task", task), Spec.read("strategy", strategy), Schedule(rounds=rounds, **sizes), seed)


def run(cells: list[Cell], folder: Path, cache_gb: float = 1.0) -> list[Round | Failure]:
    """Runs cells into `folder`/run and returns what happened."""
    machine = Machine(torch.device("cpu"))
    fits = FitCache(folder / "fits", cache_gb, "cpu")
    events = local_launch.run_locally(cells, Store(folder / "run"), fits, task_loading.TaskLoader(machine))
    return [event for event in events if not isinstance(event, CellStarted)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of the record files below a results folder."""
    home = folder / "cells"
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*.jsonl"))}
