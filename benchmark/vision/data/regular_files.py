"""Files that somebody else made: read without waiting for a fifo, without end from a device, or into no memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 2**28  # bytes of a list or of an annotation of one image
MAX_SHOWN_LENGTH = 600  # characters of a name in a message


def check_regular_file(path: Path, max_bytes: int | None = None) -> None:
    """Checks that a path leads to a file that can be read to its end.

    Args:
        path: of the file; links are followed.
        most: bytes that it may have; None: any number.

    Raises:
        OSError: it leads to none, or to a folder, a fifo, a device or a file that is larger.
    """
    try:
        found = os.stat(path)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise FileNotFoundError(errno.ENOENT, "no file can have that name") from error
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file (a fifo, a socket or a device)")
    if max_bytes is not None and found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than {max_bytes:,}")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file. Raises OSError as `check_regular` does, and where they do not fit in memory."""
    check_regular_file(path, max_bytes)
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "it does not fit in memory") from error


def printable(name: object) -> str:
    """A name or path as a message has it: in quotes, with escapes, where it holds what cannot be printed in one line;
    without its middle where it is very long."""
    text = str(name)
    text = (
        text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH // 2]}...{text[-MAX_SHOWN_LENGTH // 2 :]}"
    )
    return text if text.isprintable() else repr(text)
