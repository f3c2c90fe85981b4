"""Safe reading and writing of files: the project writes only through this module, and reads results folders through it.

A results folder may come from anyone. Nothing is therefore written through a symbolic link below it: the folder that
the user named (`root`) may be reached by links, what is in it may not. Links are followed for reading if they lead to a
regular file, since people do link results together. A pipe, a device or a socket in the place of a file is reported,
not opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SCRATCH_FOLDER = ".fits"  # in a results folder: fits, encodings and checkpoints
MAX_FILE_BYTES = 2**30  # larger files are not read
MAX_RECORDS_BYTES = 2**28  # a hundred times the records of a million images
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
SAFE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


class StoreWriteError(Exception):
    """The results folder cannot be written: the run ends, since no other cell could be recorded either."""


# --- reading ----------------------------------------------------------------------------------
@contextlib.contextmanager
def open_file(path: str | Path, limit: int = MAX_FILE_BYTES) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Args:
        path: the file; links are followed.
        limit: the size in bytes that it may have.

    Raises:
        ValueError: it is not a regular file, or is too large.
        OSError: as `open` raises it, FileNotFoundError among them.
    """
    check_regular(os.stat(path), path)  # first: opening a device may start something
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
        status = os.fstat(handle.fileno())
        check_regular(status, path)
        if status.st_size > limit:
            raise ValueError(
                f"{path} has {status.st_size / 2**20:,.0f} MB: such a file has {limit / 2**20:,.0f} at most"
            )
        yield handle


def read_file(path: str | Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Returns the content of a regular file. Raises as `open_file`."""
    with open_file(path, limit) as handle:
        return handle.read()


def check_regular(status: os.stat_result, path: str | Path) -> None:
    """Raises ValueError where a file's status is not that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {FILE_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")


# --- writing ----------------------------------------------------------------------------------
@contextlib.contextmanager
def open_parent(path: Path, root: Path | None, *, make: bool = False) -> Iterator[int]:
    """Opens the folder of a file without following a link below `root`.

    Args:
        path: the file, below `root`.
        root: the folder that the user named; None for the folder of the file.
        make: whether missing folders are made: below `root` only, unless that is None.

    Raises:
        OSError: a folder is missing, or a link or a file is in its place; `filename` names it.
    """
    if root is None and make:
        path.parent.mkdir(parents=True, exist_ok=True)
    place = root or path.parent
    handle = os.open(place, FOLDER_FLAGS)
    try:
        for part in path.relative_to(place).parts[:-1]:
            place, outer = place / part, handle
            handle = open_inner_folder(outer, place, make)
            os.close(outer)
        yield handle
    finally:
        os.close(handle)


def make_parent(path: Path) -> None:
    """Makes the folder of a file that only saves time. Raises OSError as `open_parent`.

    Where the file lies in the `.fits` of a results folder, a results folder that was moved away is not made again.
    """
    scratch = next((parent for parent in path.parents if parent.name == SCRATCH_FOLDER), None)
    with open_parent(path, None if scratch is None else scratch.parent, make=True):
        pass


def open_lock_file(path: Path) -> BinaryIO:
    """Opens a file to be locked, without changing it, in a folder as `make_parent` makes it. Raises OSError."""
    make_parent(path)
    with open_parent(path, None) as folder:
        return open(open_to_write(path, folder, os.O_RDWR | os.O_CREAT), "r+b")


def open_inner_folder(outer: int, place: Path, make: bool) -> int:
    """Opens a folder, `place`, in an open folder. OSError where it is missing, a link or a file."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(place.name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place.name, dir_fd=outer)
        return os.open(place.name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        problem = "it is a symbolic link, through which nothing is written" if place.is_symlink() else error.strerror
        raise OSError(error.errno, problem, str(place)) from error


def open_to_write(path: Path, folder: int, flags: int) -> int:
    """Opens a regular file in an open folder for writing. OSError where a link or anything else is in its place."""
    with contextlib.suppress(FileNotFoundError):
        check_writable(os.stat(path.name, dir_fd=folder, follow_symlinks=False), path)
    handle = os.open(path.name, flags | SAFE_FLAGS, 0o666, dir_fd=folder)
    try:
        check_writable(os.fstat(handle), path)
    except OSError:
        os.close(handle)
        raise
    return handle


def check_writable(status: os.stat_result, path: Path) -> None:
    """Raises OSError where a file's status is not that of a regular file."""
    try:
        check_regular(status, "it")
    except ValueError as error:
        raise OSError(errno.ELOOP, str(error), str(path)) from error


def append(path: Path, line: bytes, root: Path, *, create: bool = False, first_digest: bytes = b"") -> None:
    """Appends one whole line and syncs it; a part of it that was written before the disk was full is removed again.

    Args:
        path: the file, below `root`.
        line: the line with its end.
        root: the folder that the user named.
        create: whether the file is made if it is missing.
        first_digest: the digest of the line that the file must begin with; b"" for any.

    Raises:
        StoreWriteError: the line cannot be written, or the file is missing or another one.
    """
    try:
        with open_parent(path, root, make=create) as folder, open_unshared(path, folder, create=create) as handle:
            with open(handle, "rb", closefd=False) as text:
                is_other = first_digest and first_line_digest(text) != first_digest
            if is_other:
                raise OSError(errno.ESTALE, "it no longer begins with the line that this run found or wrote there")
            write_whole(handle, line)
    except FileNotFoundError as error:
        raise StoreWriteError(f"{path} is gone: it was moved or deleted while the run wrote to it") from error
    except OSError as error:
        raise write_error(path, error, "; nothing recorded before is lost") from error


@contextlib.contextmanager
def open_unshared(path: Path, folder: int, *, create: bool = False) -> Iterator[int]:
    """Opens a file in an open folder for reading and appending.

    If the file has another name too (a hard link, as backups use them), it is replaced by a copy first, so that the
    other name keeps the old content.
    """
    flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0)
    handle = open_to_write(path, folder, flags)
    try:
        if os.fstat(handle).st_nlink > 1:
            with open(handle, "rb", closefd=False) as shared:
                write_draft(path.name, shared.read(), folder)
            os.close(handle)
            handle = open_to_write(path, folder, flags)
        yield handle
    finally:
        os.close(handle)


def first_line_digest(handle: BinaryIO) -> bytes:
    """Returns the digest of the first line of an open file."""
    handle.seek(0)
    return hashlib.sha256(handle.readline()).digest()


def write_whole(handle: int, line: bytes) -> None:
    """Appends a line to an open file and syncs it; if it does not fit, nothing of it stays. Raises OSError."""
    before = os.lseek(handle, 0, os.SEEK_END)
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def write_atomically(path: Path, content: str | bytes | memoryview, root: Path | None = None) -> None:
    """Writes a file so that readers see the old or the new content, never a part of it.

    A symbolic link of this name is replaced; the file that it leads to stays as it is.

    Args:
        path: the file.
        content: bytes or text; text is written as UTF-8, with backslashes for names that are not text.
        root: the folder that the user named; None for the folder of the file, which is made.

    Raises:
        StoreWriteError: the file cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open_parent(path, root, make=True) as folder:
            write_draft(path.name, data, folder)
    except OSError as error:
        raise write_error(path, error) from error


def write_draft(name: str, content: bytes | memoryview, folder: int) -> None:
    """Writes a file in an open folder, under a temporary name first."""
    draft = f".{name}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)  # left by a killed process
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_FLAGS
        with open(os.open(draft, flags, 0o666, dir_fd=folder), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:  # includes an interruption
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def truncate(path: Path, size: int, root: Path) -> None:
    """Cuts a file below `root` to its first `size` bytes. Raises StoreWriteError."""
    try:
        with open_parent(path, root) as folder, open_unshared(path, folder) as handle:
            os.ftruncate(handle, size)
    except OSError as error:
        raise write_error(path, error) from error


def move(old: Path, new: Path, root: Path) -> None:
    """Moves a file below `root`, if it exists, to another place below it. Raises StoreWriteError."""
    try:
        with contextlib.suppress(FileNotFoundError), open_parent(old, root) as source:
            os.stat(old.name, dir_fd=source, follow_symlinks=False)
            with open_parent(new, root, make=True) as target:
                os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        raise StoreWriteError(f"{old} cannot be moved to {new}: {error.strerror}") from error


def remove(path: Path, root: Path) -> None:
    """Removes a file below `root`, if it exists. Raises StoreWriteError."""
    try:
        with contextlib.suppress(FileNotFoundError), open_parent(path, root) as folder:
            os.unlink(path.name, dir_fd=folder)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError, more: str = "") -> StoreWriteError:
    """Returns the error for a file that cannot be written; it names the folder above if that is the reason."""
    place = error.filename if isinstance(error.filename, str) and os.sep in error.filename else path
    return StoreWriteError(f"{place} cannot be written: {error.strerror}{more}")
