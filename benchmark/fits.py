"""Fitted models by content: equal task, recipe, companion, labelled set and seed are trained once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from benchmark.api import Companion, Indices, Task
from benchmark.grid import Spec


@dataclass(frozen=True)
class Fit:
    """A fitted model, in eval mode, and the seconds its training took whenever that was."""

    model: nn.Module
    seconds: float
    shared: bool


class Fits:
    """A folder of weights (safetensors: nothing is ever unpickled), at most `cache_gb` large, oldest go first."""

    def __init__(self, folder: Path, cache_gb: float, device: str) -> None:
        self.folder, self.cache_bytes, self.device = folder, int(cache_gb * 1e9), device
        for draft in folder.glob("*.draft"):  # of a killed run
            draft.unlink(missing_ok=True)

    def fit(self, task: Task, spec: Spec, labelled: Indices, seed: int, companion: Companion | None, owner: str) -> Fit:
        """The model of this labelled set, from the cache or trained now. `owner`: whose companion it is.

        A model is always read back from its bytes, so that a shared one cannot differ from a fresh one.
        """
        known = self.known(task, spec, labelled, seed, companion, owner)
        if known is not None:
            return known
        path = self.path(task, spec, labelled, seed, owner)
        began = time.perf_counter()
        model = task.fit(np.sort(labelled), seed, companion)
        seconds = time.perf_counter() - began
        if self.cache_bytes:
            save(path, model, seconds)
            self.trim(keep=path)
        twin = task.model(companion)
        twin.load_state_dict(model.state_dict())
        return Fit(twin.eval(), seconds, shared=False)

    def known(
        self, task: Task, spec: Spec, labelled: Indices, seed: int, companion: Companion | None, owner: str
    ) -> Fit | None:
        """The model of this labelled set from the cache; None where it is not there."""
        path = self.path(task, spec, labelled, seed, owner)
        stored = load(path, task, companion)
        if stored is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used last
        return Fit(stored[0], stored[1], shared=True)

    def path(self, task: Task, spec: Spec, labelled: Indices, seed: int, owner: str) -> Path:
        """The file of a fit."""
        return self.folder / f"{self.key(task, spec, labelled, seed, owner)}.safetensors"

    def key(self, task: Task, spec: Spec, labelled: Indices, seed: int, owner: str) -> str:
        """A hash of everything that decides the weights, the labelled images as a set."""
        images = np.sort(labelled).tolist()
        names = [spec.identity(), task.fingerprint, owner, images, seed, torch.__version__, self.device]
        return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:32]

    def trim(self, keep: Path) -> None:
        """Removes the fits that were used longest ago while the folder is over its size."""
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in files)
        for path in files:
            if size <= self.cache_bytes:
                return
            if path != keep:
                size -= path.stat().st_size
                path.unlink()


def load(path: Path, task: Task, companion: Companion | None) -> tuple[nn.Module, float] | None:
    """A stored model and its seconds; None where there is none or the file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as handle:
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            seconds = float(handle.metadata()["seconds"])
        model = task.model(companion)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, KeyError, OSError):
        path.unlink(missing_ok=True)
        return None
    return model.eval(), seconds


def save(path: Path, model: nn.Module, seconds: float) -> None:
    """Stores a model under `path`, whole or not at all; a full disk loses the cache, not the run."""
    draft = path.with_suffix(".draft")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with contextlib.suppress(OSError, SafetensorError, RuntimeError):  # the last: tensors that share memory
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, draft, metadata={"seconds": str(seconds)})
        draft.replace(path)
    draft.unlink(missing_ok=True)
