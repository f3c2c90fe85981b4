"""A cache of fitted models: equal task, recipe, companion, labelled set and seed are trained once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Companion, Indices, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.spec import Spec
from benchmark.runner.measuring import wait_for_gpu
from benchmark.seeds import seed
from benchmark.system import tensor_cache, tensor_files
from benchmark.system.process_state import isolate_plugin
from benchmark.system.working_time import working_seconds


@dataclass(frozen=True)
class Fit:
    """A fitted model in eval mode, and the seconds that its training took, now or when it was stored."""

    model: nn.Module
    seconds: float
    from_cache: bool


RECHECK_SHARE = 0.02  # share of the cache's size that a process may add before it checks the folder's size again


class FitCache:
    """A folder of model weights of at most `cache_gb` gigabytes; the least recently used are removed first.

    Weights are stored as safetensors, so nothing is ever unpickled. Processes may share the folder: one trains a fit
    while the others wait for it. Each process may exceed the limit by RECHECK_SHARE. If the folder cannot be
    written, or is no folder, nothing is cached, and fits are trained whenever they are needed.
    """

    def __init__(self, folder: Path, cache_gb: float, device: str) -> None:
        self.folder, self.cache_bytes, self.device = folder, int(cache_gb * 1e9), device
        self.bytes_since_check = math.inf  # bytes stored since the folder's size was checked
        if tensor_cache.is_link(folder):
            self.cache_bytes = 0
        if self.cache_bytes:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            tensor_cache.remove_leftovers(folder)

    def fit(
        self, task: Task, spec: Spec, labelled: Indices, seed: int, companion: Companion | None, companion_owner: str
    ) -> Fit:
        """Returns the model of a labelled set, from the cache or trained now.

        A model is always read back from its bytes, so that a shared model cannot differ from a fresh one.

        Args:
            task: the task that trains.
            spec: the task with its parameters, for the key.
            labelled: the labelled set; its order does not matter.
            seed: the seed of the training.
            companion: what is trained beside the model; None for nothing.
            companion_owner: text that names the companion and its strategy in the key.
        """
        path = self.path(task, spec, labelled, seed, companion_owner)
        fit = self.lookup(path, task, companion)
        if fit is not None or not self.cache_bytes:
            return fit or self.train(path, task, labelled, seed, companion)
        with fit_lock(path):
            return self.lookup(path, task, companion) or self.train(path, task, labelled, seed, companion)

    def train(self, path: Path, task: Task, labelled: Indices, seed: int, companion: Companion | None) -> Fit:
        """Trains the model of a labelled set, and stores it under `path`."""
        wait_for_gpu()
        start_time = working_seconds()
        model = task.fit(np.sort(labelled), seed, companion)
        wait_for_gpu()
        seconds = working_seconds() - start_time
        if self.cache_bytes:
            self.bytes_since_check += save_model(path, model, seconds)
            if self.bytes_since_check > RECHECK_SHARE * self.cache_bytes:
                self.bytes_since_check = 0.0
                tensor_cache.trim(self.folder, self.cache_bytes, keep=path)
        twin = task.model(companion)
        twin.load_state_dict(model.state_dict())
        return Fit(twin.eval(), seconds, from_cache=False)

    def lookup(self, path: Path, task: Task, companion: Companion | None) -> Fit | None:
        """Returns the model stored under `path`; None where there is none."""
        model_and_seconds = load_model(path, task, companion)
        if model_and_seconds is None:
            return None
        tensor_cache.touch(path)
        return Fit(model_and_seconds[0], model_and_seconds[1], from_cache=True)

    def path(self, task: Task, spec: Spec, labelled: Indices, seed: int, companion_owner: str) -> Path:
        """Returns the file of a fit."""
        return self.folder / f"{self.key(task, spec, labelled, seed, companion_owner)}.safetensors"

    def key(self, task: Task, spec: Spec, labelled: Indices, seed: int, companion_owner: str) -> str:
        """Returns a hash of everything that decides the weights; the labelled images count as a set."""
        images = np.sort(labelled).tolist()
        facts = [
            spec.identity(), spec.code_hash, task.fingerprint, companion_owner, images, seed, torch.__version__,
            self.device,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[: tensor_cache.KEY_LENGTH]


def fit_round(cell: Cell, task: Task, fits: FitCache, labelled: Indices, round_number: int) -> Fit:
    """Returns the model of a round; its seed does not depend on the strategy, so equal labelled sets share a fit."""
    fit_seed, companion, owner = fit_inputs(cell, round_number)
    trainer = f"{cell.task.label} trained for {cell.strategy.label}" if companion else cell.task.label
    with isolate_plugin(trainer, fit_seed):
        return fits.fit(task, cell.task, labelled, fit_seed, companion, owner)


def fit_inputs(cell: Cell, round_number: int) -> tuple[int, Companion | None, str]:
    """Returns what decides the fit of a round beside the labelled set: seed, companion and the companion's owner."""
    fit_seed = seed("fit", cell.task.name, cell.seed, round_number, *cell.variant.training_seed_names)
    return (fit_seed, *companion_and_owner(cell))


def companion_and_owner(cell: Cell) -> tuple[Companion | None, str]:
    """Returns the strategy's companion and a text for the fit's key that names the strategy; (None, "") without one."""
    plugin = cell.strategy.plugin
    companion = plugin.resolve_declaration("companion", cell.strategy.values)
    others = [(label, other.version) for other, label in cell.strategy.nested_plugins()]
    owner = f"{plugin.name} {plugin.version} {companion!r}{others or ''} {cell.strategy.code_hash}"
    return (None, "") if companion is None else (companion, owner)


def fit_lock(path: Path) -> AbstractContextManager[None]:
    """Lets one process or thread at a time work on the fit `path`, see `tensor_cache.hold_lock`."""
    return tensor_cache.hold_lock(path, "waiting for another process that trains the same fit")


def load_model(path: Path, task: Task, companion: Companion | None) -> tuple[nn.Module, float] | None:
    """Returns a stored model and its training seconds; None where none can be used, see `tensor_files.read`."""
    weights_and_seconds = tensor_files.read(path, path.stem)
    if weights_and_seconds is None:
        return None
    weights, seconds = weights_and_seconds
    model = task.model(companion)
    if not same_shapes(weights, model.state_dict()):
        tensor_files.discard(path, "it is of another network")
        return None
    model.load_state_dict(weights)
    return model.eval(), seconds


def same_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights have the same names, types and shapes."""
    first, second = (
        {name: (value.dtype, value.shape) for name, value in tensors.items()} for tensors in (weights, expected)
    )
    return first == second


def save_model(path: Path, model: nn.Module, seconds: float) -> int:
    """Stores a model under `path`, see `tensor_files.write`, and returns its approximate size in bytes."""
    weights = model.state_dict()
    tensor_files.write(path, path.stem, weights, seconds)
    return sum(value.nbytes for value in weights.values())
