"""The images of a large pool: lists on disk, each of the images of one shard. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmark.system.files import read_file, write_atomically


@dataclass(frozen=True)
class ImageLists:
    """The files of a pool in their order, in lists of equal length.

    A list names each file with its size in bytes and the time of its last change of any kind, which no program can
    set. The rows of a shard belong to a list with this checksum: a file that was changed, added or removed makes its
    list another one, and only the shards of such lists are written again.

    Args:
        folder: the folder of the lists.
        size: images of a list; of the last one, at most so many.
    """

    folder: Path
    size: int

    def path(self, number: int) -> Path:
        """Returns the file of a list."""
        return self.folder / f"{number:08d}.json"

    def write(self, paths: Iterable[Path]) -> int:
        """Writes the lists of some files; returns the number of files. ValueError where one is missing."""
        remaining, total = iter(paths), 0
        for number, part in enumerate(iter(lambda: list(islice(remaining, self.size)), [])):
            content = "".join(f"{json.dumps(describe_file(path))}\n" for path in part).encode()
            if not self.path(number).is_file() or read_file(self.path(number)) != content:
                write_atomically(self.path(number), content)
            total += len(part)
        return total

    def read(self, number: int) -> list[Path]:
        """Returns the files of a list."""
        return [Path(json.loads(line)[0]) for line in read_file(self.path(number)).splitlines()]

    def checksum(self, number: int) -> str:
        """Returns the checksum of a list."""
        return hashlib.sha256(read_file(self.path(number))).hexdigest()

    def find(self, positions: Iterable[int]) -> Iterator[Path]:
        """Yields the files at some positions of the pool; few lists are read where many positions lie in one."""
        number, files = -1, list[Path]()
        for position in positions:
            if position // self.size != number:
                number = position // self.size
                files = self.read(number)
            yield files[position % self.size]


def describe_file(path: Path) -> tuple[str, int, int]:
    """Returns path, size and time of the last change of a file. ValueError where it is missing."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}: restore it, or list the images again") from error
    return str(path), status.st_size, status.st_ctime_ns
