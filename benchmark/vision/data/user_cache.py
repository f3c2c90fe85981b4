"""The user's cache folder: what was computed from image files, for every later run that reads the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor

from benchmark.api import tensor_cache
from benchmark.vision.fingerprints import digest

MAX_BYTES = 10 * 10**9  # of all tensors; the least recently used files are removed first


def cache_folder() -> Path:
    """The user's cache folder for this package. Raises OSError if the home folder is unknown."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not os.path.isabs(folder):  # never create a folder called `~`
        raise OSError(f"{folder} is no absolute path")
    return Path(folder) / "al-benchmark"


is_in_use = ContextVar("is_in_use", default=True)


@contextmanager
def store_nothing() -> Iterator[None]:
    """Leaves the folder alone for a block, which reads more images than fit there, and each of them once."""
    token = is_in_use.set(False)
    try:
        yield
    finally:
        is_in_use.reset(token)


def read_or_compute(parts: list[object], compute: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Reads tensors from the user's cache folder, or computes and stores them; see `tensor_cache.read_or_compute`.

    Args:
        parts: Everything that decides the tensors, as `fingerprints.digest` takes it.
        compute: Returns the tensors.
    """
    if not is_in_use.get():
        return compute()
    try:
        folder = cache_folder() / "tensors"
    except OSError:
        return compute()
    return tensor_cache.read_or_compute(folder, digest(*parts)[: tensor_cache.KEY_LENGTH], compute, MAX_BYTES)
