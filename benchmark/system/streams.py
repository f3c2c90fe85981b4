"""Standard streams that cannot end a run: output that nobody can read any more is dropped, and the work goes on."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class DroppingWriter(io.BufferedIOBase):
    """Writes bytes to a file that may disappear: a pipe without a reader, a full disk, a closed terminal.

    What cannot be written is dropped, and nothing is raised. Nothing is buffered, so nothing can fail when the
    interpreter ends.
    """

    def __init__(self, file: io.FileIO) -> None:
        self.file = file

    def write(self, data: ReadableBuffer) -> int:
        """Writes all bytes, or drops the rest."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest):
                written = self.file.write(rest)
                if written is None:  # another program has set the terminal not to block
                    select.select([], [self.file], [])
                rest = rest[written or 0 :]
        except (OSError, ValueError):  # ValueError: the file is closed
            pass
        return size

    def writable(self) -> bool:
        """Always true."""
        return True

    def fileno(self) -> int:
        """Returns the file's descriptor."""
        return self.file.fileno()

    def isatty(self) -> bool:
        """Whether the file is a terminal."""
        return self.file.isatty()


def tolerant_stream(stream: TextIO | None) -> TextIO:
    """Returns a standard stream that drops what cannot be written; a stream without a file (notebooks) as it is."""
    if stream is None:  # it was closed before this process started
        return open(os.devnull, "w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    file = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer
    if not isinstance(file, io.FileIO) or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    writer = cast(BinaryIO, DroppingWriter(file))
    return io.TextIOWrapper(
        writer, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through
    )


def tolerate_closed_streams() -> None:
    """Makes standard output and error drop what cannot be written, and opens the null device for closed streams.

    If a descriptor from 0 to 2 stayed free, the next opened file would get it, and with it what C libraries write to
    "standard error": into a file of records.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout, sys.stderr = tolerant_stream(sys.stdout), tolerant_stream(sys.stderr)


@contextmanager
def ignore_hangup() -> Iterator[None]:
    """Lets a block go on when its terminal is closed or its connection is lost, as under nohup."""
    try:
        is_default = signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        if is_default:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except ValueError:  # outside the main thread signals are the caller's business
        is_default = False
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
