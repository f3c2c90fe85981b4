"""One writer at a time: the lock of a results folder, also on disks that know no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.system.files import FOLDER_FLAGS, StoreWriteError, check_writable, open_to_write, read_file

if TYPE_CHECKING:
    from filelock import SoftFileLock

NO_LOCK_ERRORS = {
    errno.ENOLCK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
}  # what a disk without flock says
MARK_TIMEOUT = 3.0  # seconds until a mark that nobody wrote to its end is taken for one of a process that was killed


class FolderLock:
    """The right to write into a results folder, which one process has at a time.

    The folder itself is locked, which nobody can undo, and a file in it, since network folders lock files alone.
    Where the disk knows no locks, a mark with host and process stands for them.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None]) -> None:
        """Takes it. BlockingIOError where another process of this machine has it; ValueError where another's mark is
        there; OSError where it cannot be taken."""
        self.folder, self.path = folder, folder / ".lock"
        self.root, self.file = os.open(folder, FOLDER_FLAGS), -1
        self.mark: SoftFileLock | None = None
        try:
            flock_folder(self.root)
            self.file, locked = open_locked_file(self.path, self.root)
            if not locked:
                self.mark = acquire_mark(folder, self.file, notify)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Unwritable where this process has it no more: the folder was moved or replaced, or the lock was."""
        if not is_same_file(self.root, self.folder):
            raise StoreWriteError(
                f"{self.folder} was moved, deleted or replaced while this run wrote to it: the run ends"
            )
        if not is_same_file(self.file, self.path) or (self.mark is not None and not self.mark.is_lock_held_by_us):
            names = str(self.path) if self.mark is None else f"{self.path} or {self.mark.lock_file}"
            raise StoreWriteError(f"{names} was deleted or replaced: another run may write there now, so this one ends")

    def close(self) -> None:
        """Closes what is open; for a forked process, too, since a reader of images may outlive its parent."""
        for handle in (self.file, self.root):
            with contextlib.suppress(OSError):
                os.close(handle)
        self.file = self.root = -1


@contextlib.contextmanager
def lock(folder: Path, notify: Callable[[str], None] = lambda words: None) -> Iterator[FolderLock]:
    """One writer at a time.

    Args:
        folder: the results folder, which is made where there is none.
        notify: is told, in a line, of a mark that a killed run left and that is taken over.

    Raises:
        ValueError: another run holds the folder, or it cannot be written or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FolderLock(folder, notify)
    except BlockingIOError as error:
        raise ValueError(f"out={folder}: another run is writing there") from error
    except OSError as error:
        place = f"{error.filename}: " if str(error.filename).startswith(f"{folder}{os.sep}") else ""
        raise ValueError(f"out={folder}: {place}{error.strerror}") from error
    os.register_at_fork(after_in_child=held.close)
    try:
        yield held
    finally:
        if held.mark is not None:
            held.mark.release()
        held.close()


def flock_folder(root: int) -> None:
    """Locks an open folder where the disk can do that. BlockingIOError where another process has it locked."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # network folders lock files alone
        pass


def open_locked_file(path: Path, root: int) -> tuple[int, bool]:
    """A file that is locked, open, and whether the disk knows locks. BlockingIOError where another process has it
    locked, OSError where it cannot be opened or locked."""
    while True:
        handle, locked = open_to_write(path, root, os.O_RDWR | os.O_CREAT), True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCK_ERRORS:
                os.close(handle)
                raise
            locked = False
        if is_same_file(handle, path):
            return handle, locked
        os.close(handle)  # it was deleted meanwhile: others lock a new one


def is_same_file(handle: int, path: Path) -> bool:
    """Whether a path leads to what is open under this handle."""
    try:
        told, wanted = os.stat(path), os.fstat(handle)
    except OSError:
        return False
    return (told.st_dev, told.st_ino) == (wanted.st_dev, wanted.st_ino)


def acquire_mark(folder: Path, file: int, notify: Callable[[str], None]) -> SoftFileLock:
    """The mark of this process in a folder whose disk knows no locks. ValueError where another run's is there.

    Args:
        folder: the results folder.
        file: a file in it, open for writing, which tells the time of the disk.
        notify: is told whose mark was taken over.
    """
    from filelock import SoftFileLock, Timeout

    path = folder / ".writer"
    with contextlib.suppress(FileNotFoundError):
        check_writable(os.stat(path, follow_symlinks=False), path)
    before, mark = read_mark(path), SoftFileLock(path, timeout=MARK_TIMEOUT, poll_interval=0.1, thread_local=False)
    try:
        mark.acquire()
    except Timeout as error:
        if not is_empty_mark(path, before):
            raise ValueError(f"out={folder}: another run is writing there: {describe_writer(path, file)}") from error
        path.unlink(missing_ok=True)
        mark.acquire(timeout=0)
    if before:
        notify(
            f"{folder}: the run of {describe_process(before)} is gone, and what it had marked as its own is taken over"
        )
    return mark


def read_mark(path: Path) -> list[str] | None:
    """The lines of a mark: process and host; None where there is none."""
    try:
        return read_file(path, 2**12).decode(errors="replace").splitlines()
    except OSError:
        return None


def is_empty_mark(path: Path, before: list[str] | None) -> bool:
    """Whether a mark holds nothing, as it did some seconds ago: whoever made it was killed before he wrote it."""
    return before == [] and read_mark(path) == []


def describe_process(lines: list[str]) -> str:
    """The process and the host that a mark names."""
    number, host = [*lines, "", ""][:2]
    return f"process {number or '?'} on {host or '?'}"


def describe_writer(path: Path, file: int) -> str:
    """Whose mark it is, for how long, and what to do where that run is gone."""
    with contextlib.suppress(OSError):
        os.utime(file)  # the time of the disk, which may be another machine's
        minutes = (os.fstat(file).st_mtime - os.stat(path).st_mtime) / 60
        told = f"{describe_process(read_mark(path) or [])}, for {minutes:,.0f} min"
        return f"{told}; this disk knows no locks, so remove {path} if that run is gone"
    return "it ended just now: try again"
