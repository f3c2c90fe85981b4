"""Folders of tensor files that processes share: one process computes a file while the others wait for it.

The least recently used files are removed when a folder exceeds its size. A folder that cannot be written, or is no
folder, costs time only: what it would keep is computed whenever it is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from benchmark.system import activity, files, tensor_files
from benchmark.system.remarks import remark_once

KEY_LENGTH = 32  # hexadecimal digits of a key
MIN_SECONDS = 0.5  # what takes less time to compute is not stored by `read_or_compute`


def read_or_compute(
    folder: Path, key: str, compute: Callable[[], Mapping[str, Tensor]], max_bytes: int
) -> Mapping[str, Tensor]:
    """Returns tensors from their file, or computes and stores them.

    Tensors from a file are mapped: processes share their memory, and changes of them reach neither another process nor
    the file.

    Args:
        folder: the folder of the files, which is made if it is missing.
        key: KEY_LENGTH hexadecimal digits: a hash of everything that decides the tensors.
        compute: returns the tensors, on the CPU; called if no file holds them.
        max_bytes: the size of the folder, in bytes; larger tensors are not stored.
    """
    path = folder / f"{key}.safetensors"
    stored = read_used(path)
    if stored is not None or is_link(folder):
        return compute() if stored is None else stored
    remove_leftovers(folder)
    with hold_lock(path, "waiting for another process that computes the same"):
        stored = read_used(path)
        if stored is not None:
            return stored
        start = time.monotonic()
        tensors = compute()
        seconds = time.monotonic() - start
        if seconds >= MIN_SECONDS and sum(value.nbytes for value in tensors.values()) <= max_bytes:
            tensor_files.write(path, key, tensors, seconds)
            trim(folder, max_bytes, keep=path)
    return tensors


def read_used(path: Path) -> Mapping[str, Tensor] | None:
    """Returns the tensors of a file, which becomes the most recently used; None where none can be used."""
    tensors_and_seconds = tensor_files.read(path, path.stem)
    if tensors_and_seconds is None:
        return None
    touch(path)
    return tensors_and_seconds[0]


def touch(path: Path) -> None:
    """Makes a file the most recently used."""
    with contextlib.suppress(OSError):
        os.utime(path, follow_symlinks=False)


def is_link(folder: Path) -> bool:
    """Whether a folder is a symbolic link, which is reported once: no file may be removed in someone else's folder."""
    if folder.is_symlink():
        remark_once(f"{folder} is a symbolic link: what it would keep is computed whenever it is needed")
        return True
    return False


def trim(folder: Path, max_bytes: int, keep: Path) -> None:
    """Removes the least recently used files, except `keep`, until the folder is within its size."""
    entries = []
    for path in folder.glob(f"{'[0-9a-f]' * KEY_LENGTH}.safetensors"):  # nobody else's files
        with contextlib.suppress(OSError):  # another process trims too
            stat = path.stat()
            entries.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= max_bytes:
            return
        if path != keep:
            total -= size
            tensor_files.remove_file(path)


def remove_leftovers(folder: Path) -> None:
    """Removes drafts and locks of killed processes, but nothing of a file that is being computed."""
    leftovers = [*folder.glob("*.draft"), *folder.glob("*.lock")]
    for key in {path.name.partition(".")[0] for path in leftovers}:
        lock = folder / f"{key}.lock"
        handle = acquire_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if handle is not None:
            for draft in folder.glob(f"{key}.*draft"):
                tensor_files.remove_file(draft)
            release_lock(lock, handle)


@contextlib.contextmanager
def hold_lock(path: Path, waiting: str) -> Iterator[None]:
    """Lets one process or thread at a time work on `path`; the system frees the lock of a process that dies.

    On a disk that supports no locks nobody waits, so a file may be computed twice there.

    Args:
        path: the file; its lock lies beside it.
        waiting: the stage that is shown meanwhile, see `activity.stage`.
    """
    lock = path.with_suffix(".lock")
    with activity.stage(waiting):
        handle = acquire_lock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            release_lock(lock, handle)


def acquire_lock(lock: Path, flags: int) -> BinaryIO | None:
    """Returns the locked file; None where it cannot be locked, or another holds it and `flags` say not to wait."""
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
    """Removes a lock file while it is held, then frees it."""
    with contextlib.suppress(OSError):
        lock.unlink(missing_ok=True)
    fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough where a reader of images was forked meanwhile
    handle.close()
