"""One writer at a time: the lock of a results folder, also on disks that do not support locks."""

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
}  # of a disk without flock
MARK_TIMEOUT = 3.0  # seconds after which an empty mark is taken for that of a killed process


class FolderLock:
    """The exclusive right of one process to write into a results folder.

    Two locks are taken: on the folder itself, which cannot be deleted, and on a file in it, since network file systems
    lock files only. Where the disk supports no locks, a mark file with host and process replaces them.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None]) -> None:
        """Takes the lock.

        Raises:
            BlockingIOError: another process of this machine holds it.
            ValueError: the mark of another process is there.
            OSError: it cannot be taken.
        """
        self.folder, self.path = folder, folder / ".lock"
        self.root, self.file = os.open(folder, FOLDER_FLAGS), -1
        self.mark: SoftFileLock | None = None
        try:
            flock_folder(self.root)
            self.file, is_locked = open_locked_file(self.path, self.root)
            if not is_locked:
                self.mark = acquire_mark(folder, self.file, notify)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises StoreWriteError where this process lost the lock: the folder or the lock was moved or replaced."""
        if not is_same_file(self.root, self.folder):
            raise StoreWriteError(
                f"{self.folder} was moved, deleted or replaced while this run wrote to it: the run ends"
            )
        if not is_same_file(self.file, self.path) or (self.mark is not None and not self.mark.is_lock_held_by_us):
            names = str(self.path) if self.mark is None else f"{self.path} or {self.mark.lock_file}"
            raise StoreWriteError(f"{names} was deleted or replaced: another run may write there now, so this one ends")

    def close(self) -> None:
        """Closes the open files; forked processes do so too, since a reader of images may outlive its parent."""
        for handle in (self.file, self.root):
            with contextlib.suppress(OSError):
                os.close(handle)
        self.file = self.root = -1


@contextlib.contextmanager
def lock(folder: Path, notify: Callable[[str], None] = lambda words: None) -> Iterator[FolderLock]:
    """Locks a results folder for a block.

    Args:
        folder: the results folder, which is made if it is missing.
        notify: shows a line to the user, when the mark of a killed run is taken over.

    Raises:
        ValueError: another run holds the folder, or it cannot be written or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder_lock = FolderLock(folder, notify)
    except BlockingIOError as error:
        raise ValueError(f"out={folder}: another run is writing there") from error
    except OSError as error:
        place = f"{error.filename}: " if str(error.filename).startswith(f"{folder}{os.sep}") else ""
        raise ValueError(f"out={folder}: {place}{error.strerror}") from error
    os.register_at_fork(after_in_child=folder_lock.close)
    try:
        yield folder_lock
    finally:
        if folder_lock.mark is not None:
            folder_lock.mark.release()
        folder_lock.close()


def flock_folder(root: int) -> None:
    """Locks an open folder if the disk can do that. BlockingIOError where another process holds the lock."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # network file systems lock files only
        pass


def open_locked_file(path: Path, root: int) -> tuple[int, bool]:
    """Returns a lock file, open and locked, and whether the disk supports locks.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be opened or locked.
    """
    while True:
        handle, is_locked = open_to_write(path, root, os.O_RDWR | os.O_CREAT), True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCK_ERRORS:
                os.close(handle)
                raise
            is_locked = False
        if is_same_file(handle, path):
            return handle, is_locked
        os.close(handle)  # it was deleted meanwhile, so others lock a new file


def is_same_file(handle: int, path: Path) -> bool:
    """Whether a path leads to the file that is open under this descriptor."""
    try:
        path_status, open_status = os.stat(path), os.fstat(handle)
    except OSError:
        return False
    return (path_status.st_dev, path_status.st_ino) == (open_status.st_dev, open_status.st_ino)


def acquire_mark(folder: Path, file: int, notify: Callable[[str], None]) -> SoftFileLock:
    """Takes the mark of this process in a folder whose disk supports no locks.

    Args:
        folder: the results folder.
        file: a file in it, open for writing, which gives the time of the disk.
        notify: shows a line to the user, when the mark of a killed run is taken over.

    Raises:
        ValueError: the mark of another run is there.
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
        notify(f"{folder}: the run of {describe_process(before)} has ended, and its lock is taken over")
    return mark


def read_mark(path: Path) -> list[str] | None:
    """Returns the lines of a mark, process and host; None where there is none."""
    try:
        return read_file(path, 2**12).decode(errors="replace").splitlines()
    except OSError:
        return None


def is_empty_mark(path: Path, before: list[str] | None) -> bool:
    """Whether a mark is empty and was so some seconds ago: its process was killed before it wrote it."""
    return before == [] and read_mark(path) == []


def describe_process(lines: list[str]) -> str:
    """Returns the process and the host that a mark names."""
    number, host = [*lines, "", ""][:2]
    return f"process {number or '?'} on {host or '?'}"


def describe_writer(path: Path, file: int) -> str:
    """Describes whose mark it is, for how long, and what to do if that run has ended."""
    with contextlib.suppress(OSError):
        os.utime(file)  # sets the disk's time, which may be that of another machine
        minutes = (os.fstat(file).st_mtime - os.stat(path).st_mtime) / 60
        owner = f"{describe_process(read_mark(path) or [])}, for {minutes:,.0f} min"
        return f"{owner}; this disk supports no locks, so remove {path} if that run has ended"
    return "it ended just now: try again"
