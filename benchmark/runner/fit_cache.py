"""Fitted models by content: equal task, recipe, companion, labelled set and seed are trained once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Companion, Indices, Task
from benchmark.experiment.spec import Spec
from benchmark.system import activity, files, tensor_files
from benchmark.system.remarks import remark_once
from benchmark.system.working_time import working_seconds


@dataclass(frozen=True)
class Fit:
    """A fitted model, in eval mode, and the seconds its training took whenever that was."""

    model: nn.Module
    seconds: float
    from_cache: bool


KEY_LENGTH = 32  # of a fit's key
RECHECK_SHARE = 0.02  # share of the cache that a process may fill before it looks again how full it is


class FitCache:
    """A folder of weights (safetensors: nothing is ever unpickled), at most `cache_gb` large, oldest go first.

    Processes may share it: one trains a fit, the others wait for it. Each may go over its size by UNSEEN. A folder that
    cannot be written, or is none, costs the cache and nothing else.
    """

    def __init__(self, folder: Path, cache_gb: float, device: str) -> None:
        self.folder, self.cache_bytes, self.device = folder, int(cache_gb * 1e9), device
        self.bytes_since_check = math.inf  # bytes stored since the folder was read
        if folder.is_symlink():  # what is old in a cache is removed: not in the folder of somebody else
            remark_once(f"{folder} is a symbolic link: what it would keep is computed whenever it is needed")
            self.cache_bytes = 0
        if self.cache_bytes:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            self.remove_leftovers()

    def fit(
        self, task: Task, spec: Spec, labelled: Indices, seed: int, companion: Companion | None, companion_owner: str
    ) -> Fit:
        """The model of this labelled set, from the cache or trained now. `owner`: whose companion it is.

        A model is always read back from its bytes, so that a shared one cannot differ from a fresh one.
        """
        path = self.path(task, spec, labelled, seed, companion_owner)
        known = self.lookup(path, task, companion)
        if known is not None or not self.cache_bytes:
            return known or self.train(path, task, labelled, seed, companion)
        with fit_lock(path):
            return self.lookup(path, task, companion) or self.train(path, task, labelled, seed, companion)

    def train(self, path: Path, task: Task, labelled: Indices, seed: int, companion: Companion | None) -> Fit:
        """The model of this labelled set, trained now and stored under `path`."""
        wait_for_gpu()
        began = working_seconds()
        model = task.fit(np.sort(labelled), seed, companion)
        wait_for_gpu()
        seconds = working_seconds() - began
        if self.cache_bytes:
            self.bytes_since_check += save_model(path, model, seconds)
            if self.bytes_since_check > RECHECK_SHARE * self.cache_bytes:
                self.trim(keep=path)
        twin = task.model(companion)
        twin.load_state_dict(model.state_dict())
        return Fit(twin.eval(), seconds, from_cache=False)

    def lookup(self, path: Path, task: Task, companion: Companion | None) -> Fit | None:
        """The model under `path` from the cache; None where it is not there."""
        stored = load_model(path, task, companion)
        if stored is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)  # used last
        return Fit(stored[0], stored[1], from_cache=True)

    def path(self, task: Task, spec: Spec, labelled: Indices, seed: int, companion_owner: str) -> Path:
        """The file of a fit."""
        return self.folder / f"{self.key(task, spec, labelled, seed, companion_owner)}.safetensors"

    def key(self, task: Task, spec: Spec, labelled: Indices, seed: int, companion_owner: str) -> str:
        """A hash of everything that decides the weights, the labelled images as a set."""
        images = np.sort(labelled).tolist()
        names = [
            spec.identity(),
            spec.code_hash,
            task.fingerprint,
            companion_owner,
            images,
            seed,
            torch.__version__,
            self.device,
        ]
        return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]

    def trim(self, keep: Path) -> None:
        """Removes the fits that were used longest ago while the folder is over its size."""
        self.bytes_since_check, found = 0.0, []
        for path in self.folder.glob(f"{'[0-9a-f]' * KEY_LENGTH}.safetensors"):  # nobody else's files
            with contextlib.suppress(OSError):  # another process trims too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.cache_bytes:
                return
            if path != keep:
                total -= size
                tensor_files.remove_file(path)

    def remove_leftovers(self) -> None:
        """Removes what killed processes left behind, but nothing of a fit that is in work."""
        left = [*self.folder.glob("*.draft"), *self.folder.glob("*.lock")]
        for key in {path.name.partition(".")[0] for path in left}:
            lock = self.folder / f"{key}.lock"
            handle = acquire_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if handle is not None:
                for draft in self.folder.glob(f"{key}.*draft"):
                    tensor_files.remove_file(draft)
                release_lock(lock, handle)


def wait_for_gpu() -> None:
    """Waits for what the GPU still has queued, so that a clock counts it where it belongs."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def fit_lock(path: Path) -> Iterator[None]:
    """Only one process at a time, or thread, is in here with the fit `path`; the system frees it where that one dies.

    On a disk that takes no lock nobody waits: then a fit may be trained twice.
    """
    lock = path.with_suffix(".lock")
    with activity.stage("waiting for another process that trains the same fit"):
        handle = acquire_lock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            release_lock(lock, handle)


def acquire_lock(lock: Path, flags: int) -> BinaryIO | None:
    """The locked file; None where there can be none, or where `how` does not wait and another holds it."""
    while True:
        try:
            handle = files.open_lock_file(lock)
        except OSError:
            return None
        try:
            fcntl.flock(handle, flags)
        except OSError:
            handle.close()
            return None
        if os.fstat(handle.fileno()).st_nlink:
            return handle
        handle.close()  # its holder removed it when done: others lock a new one


def release_lock(lock: Path, handle: BinaryIO) -> None:
    """Removes a lock while it is held, then frees it."""
    with contextlib.suppress(OSError):
        lock.unlink(missing_ok=True)
    fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough where a reader of images was forked meanwhile
    handle.close()


def load_model(path: Path, task: Task, companion: Companion | None) -> tuple[nn.Module, float] | None:
    """A stored model and its seconds; None where there is none that can be used, see `tensor_files.read`."""
    stored = tensor_files.read(path, path.stem)
    if stored is None:
        return None
    weights, seconds = stored
    model = task.model(companion)
    if not same_shapes(weights, model.state_dict()):
        tensor_files.discard(path, "it is of another network")
        return None
    model.load_state_dict(weights)
    return model.eval(), seconds


def same_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights have the same names, types and shapes."""
    first, second = ({name: (value.dtype, value.shape) for name, value in some.items()} for some in (weights, expected))
    return first == second


def save_model(path: Path, model: nn.Module, seconds: float) -> int:
    """Stores a model under `path`, see `tensor_files.write`. Its bytes, about."""
    weights = model.state_dict()
    tensor_files.write(path, path.stem, weights, seconds)
    return sum(value.nbytes for value in weights.values())
