"""All that the project writes to disk goes through here: lines appended, files replaced whole, one writer a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Unwritable(Exception):
    """The results folder takes no more records: the run ends, since no other cell could be recorded either."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One writer at a time; ValueError where another run holds the folder or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"out={folder}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"out={folder}: another run is writing there") from error
        os.register_at_fork(after_in_child=handle.close)  # a reader of images may outlive this process
        yield


def append(path: Path, line: bytes) -> None:
    """Appends one line whole and syncs it; takes a part that did not fit on the disk back. Raises Unwritable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as handle:
            before = handle.seek(0, os.SEEK_END)
            try:
                if handle.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)
                raise
    except OSError as error:
        raise Unwritable(f"{path} cannot be written: {error.strerror}; nothing recorded before is lost") from error


def truncate(path: Path, size: int) -> None:
    """Cuts a file to its first `size` bytes. Raises Unwritable."""
    try:
        os.truncate(path, size)
    except OSError as error:
        raise Unwritable(f"{path} cannot be written: {error.strerror}") from error


def move(old: Path, new: Path) -> None:
    """Moves a file, if it is there, into a folder on the same disk. Raises Unwritable."""
    try:
        if old.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)
    except OSError as error:
        raise Unwritable(f"{old} cannot be moved to {new}: {error.strerror}") from error


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file so that readers see the old or the new one, never half of it. Raises Unwritable.

    Args:
        path: the file; folders above it that are not there are made.
        content: text is written as UTF-8, names that are no text with backslashes.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb", buffering=0) as handle:
            if handle.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise Unwritable(f"{path} cannot be written: {error.strerror}") from error
