"""Reads files of unknown origin safely: never waits for a fifo, reads an endless device or runs out of memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 2**28  # default limit: enough for a list or the annotation of one image
MAX_SHOWN_LENGTH = 600  # characters of a name in a message


def check_regular_file(path: Path, max_bytes: int | None = None) -> None:
    """Checks that a path leads to a regular file that is not too large.

    Args:
        path: The file; links are followed.
        max_bytes: The largest size allowed; None for no limit.

    Raises:
        OSError: There is no such file, it is a folder, a fifo or a device, or it is larger.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise FileNotFoundError(errno.ENOENT, "no file can have that name") from error
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file but a fifo, a socket or a device")
    if max_bytes is not None and status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {max_bytes:,}")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads the bytes of a file.

    Args:
        path: The file; links are followed.
        max_bytes: The largest size allowed.

    Raises:
        OSError: As `check_regular_file`, or the bytes do not fit in memory.
    """
    check_regular_file(path, max_bytes)
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "it does not fit in memory") from error


def printable(name: object) -> str:
    """Formats a name or path for a message of one line.

    Args:
        name: A name, a path or another value with a `str`.

    Returns:
        The name. It is quoted and escaped if it has unprintable characters, and its middle is left out if it is longer
        than MAX_SHOWN_LENGTH.
    """
    text, half = str(name), MAX_SHOWN_LENGTH // 2
    if len(text) > MAX_SHOWN_LENGTH:
        text = f"{text[:half]}...{text[-half:]}"
    return text if text.isprintable() else repr(text)
