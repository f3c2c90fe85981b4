"""All that the project writes to disk goes through here, and all that it reads from a results folder.

A results folder may come from anybody. So nothing is written through a symbolic link below it: the folder that a user
named (`root`) may be reached by links, what is in it may not. Links are followed for reading, where they lead to a
regular file: people do link results together. A pipe, a device or a socket in the place of a file is named, not opened.
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
MAX_FILE_BYTES = 2**30  # bytes of a file that is read
MAX_RECORDS_BYTES = 2**28  # of a file of records or measurements: a hundred times those of a million images
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
SAFE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


class StoreWriteError(Exception):
    """The results folder takes no more records: the run ends, since no other cell could be recorded either."""


# --- reading ----------------------------------------------------------------------------------
@contextlib.contextmanager
def open_file(path: str | Path, limit: int = MAX_FILE_BYTES) -> Iterator[BinaryIO]:
    """A regular file, opened for reading.

    Args:
        path: the file; links are followed.
        limit: bytes that it may have.

    Raises:
        ValueError: it is no regular file, or a larger one.
        OSError: as `open` raises it, FileNotFoundError among them.
    """
    check_regular(os.stat(path), path)  # before it is opened, which may start something on a device
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
        told = os.fstat(handle.fileno())
        check_regular(told, path)
        if told.st_size > limit:
            raise ValueError(f"{path} has {told.st_size / 2**20:,.0f} MB: such a file has {limit / 2**20:,.0f} at most")
        yield handle


def read_file(path: str | Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file. Raises as `opened`."""
    with open_file(path, limit) as handle:
        return handle.read()


def check_regular(status: os.stat_result, path: str | Path) -> None:
    """ValueError where what the system tells is not of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {FILE_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")


# --- writing ----------------------------------------------------------------------------------
@contextlib.contextmanager
def open_parent(path: Path, root: Path | None, *, make: bool = False) -> Iterator[int]:
    """The folder of a file, opened without following a link below `root`.

    Args:
        path: the file, below `root`.
        root: the folder that a user named; None: the folder of the file is.
        make: make the folders that are missing, below `root` alone unless that is None.

    Raises:
        OSError: a folder is missing, or a link or a file is in its place, which `filename` names.
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
    """Makes the folder of a file that is only kept to save time: below a results folder where it lies in its `.fits`,
    which is not made anew where somebody moved it away. OSError as `folder_of`."""
    scratch = next((one for one in path.parents if one.name == SCRATCH_FOLDER), None)
    with open_parent(path, None if scratch is None else scratch.parent, make=True):
        pass


def open_lock_file(path: Path) -> BinaryIO:
    """A file to be locked, opened without changing it, in a folder as of `make_folder`. OSError where it cannot be."""
    make_parent(path)
    with open_parent(path, None) as folder:
        return open(open_to_write(path, folder, os.O_RDWR | os.O_CREAT), "r+b")


def open_inner_folder(outer: int, place: Path, make: bool) -> int:
    """Opens a folder, `place`, in an open one. OSError where it is missing, a link or a file."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(place.name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place.name, dir_fd=outer)
        return os.open(place.name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        told = "it is a symbolic link, through which nothing is written" if place.is_symlink() else error.strerror
        raise OSError(error.errno, told, str(place)) from error


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
    """OSError where what the system tells is not of a regular file."""
    try:
        check_regular(status, "it")
    except ValueError as error:
        raise OSError(errno.ELOOP, str(error), str(path)) from error


def append(path: Path, line: bytes, root: Path, *, create: bool = False, first_digest: bytes = b"") -> None:
    """Appends one line whole and syncs it; takes a part that did not fit on the disk back.

    Args:
        path: the file, below `root`.
        line: with its end.
        root: the folder that a user named.
        create: make the file where there is none.
        first: digest of the line that the file must begin with; b"": any.

    Raises:
        Unwritable: that cannot be, or the file is gone or another one.
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
    """A file opened to be read and appended to, in an open folder; it becomes a file of its own where it has another
    name: what is appended is not for a backup made of hard links."""
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
    """A digest of the first line of an open file."""
    handle.seek(0)
    return hashlib.sha256(handle.readline()).digest()


def write_whole(handle: int, line: bytes) -> None:
    """Writes a line at the end of an open file and syncs it; nothing of it stays where it does not fit (OSError)."""
    before = os.lseek(handle, 0, os.SEEK_END)
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def write_atomically(path: Path, content: str | bytes, root: Path | None = None) -> None:
    """Writes a file so that readers see the old or the new one, never half of it. A link of its name is replaced, and
    what it leads to stays.

    Args:
        path: the file.
        content: text is written as UTF-8, names that are no text with backslashes.
        root: the folder that a user named; None: the folder of the file is, and it is made.

    Raises:
        Unwritable: that cannot be.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open_parent(path, root, make=True) as folder:
            write_draft(path.name, data, folder)
    except OSError as error:
        raise write_error(path, error) from error


def write_draft(name: str, content: bytes, folder: int) -> None:
    """Writes a file in an open folder, under another name first."""
    draft = f".{name}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)  # of a process that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_FLAGS
        with open(os.open(draft, flags, 0o666, dir_fd=folder), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:  # an interruption, too
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def truncate(path: Path, size: int, root: Path) -> None:
    """Cuts a file below `root` to its first `size` bytes. Raises Unwritable."""
    try:
        with open_parent(path, root) as folder, open_unshared(path, folder) as handle:
            os.ftruncate(handle, size)
    except OSError as error:
        raise write_error(path, error) from error


def move(old: Path, new: Path, root: Path) -> None:
    """Moves a file below `root`, if it is there, to another place below it. Raises Unwritable."""
    try:
        with contextlib.suppress(FileNotFoundError), open_parent(old, root) as source:
            os.stat(old.name, dir_fd=source, follow_symlinks=False)
            with open_parent(new, root, make=True) as target:
                os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        raise StoreWriteError(f"{old} cannot be moved to {new}: {error.strerror}") from error


def remove(path: Path, root: Path) -> None:
    """Removes a file below `root`, if it is there. Raises Unwritable."""
    try:
        with contextlib.suppress(FileNotFoundError), open_parent(path, root) as folder:
            os.unlink(path.name, dir_fd=folder)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError, more: str = "") -> StoreWriteError:
    """What is said of a file that cannot be written: a folder above it is named where that is the reason."""
    place = error.filename if isinstance(error.filename, str) and os.sep in error.filename else path
    return StoreWriteError(f"{place} cannot be written: {error.strerror}{more}")
