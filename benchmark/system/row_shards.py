"""Tables on disk in shards: rows of one width and type, in files that are read block by block or row by row.

A table is a folder. Its manifest says what the rows are; each shard is a NumPy file of rows and a JSON file that is
written last, with checksums of the rows and of the list of items (images) that they describe. A shard without its JSON
file does not exist, so a writer that was killed goes on with those that are missing.

Shapes: R rows of a shard, N rows in all, D numbers in a row, B rows of a block.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.system.digests import digest
from benchmark.system.files import read_file, write_atomically

Array = npt.NDArray[Any]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """What the JSON file of a shard says.

    Args:
        items: a checksum of the list of what the rows describe. A row may describe a part of an item.
        rows: R.
        sha256: of the NumPy file.
    """

    items: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class ShardFolder:
    """A table that is being written or read; its name in `root` names the facts too.

    Args:
        root: the folder of all tables.
        name: what the table holds.
        facts: everything else that decides the rows, as JSON: the model, the encoder.
    """

    root: Path
    name: str
    facts: Mapping[str, Any]

    @cached_property
    def path(self) -> Path:
        """The folder of the table."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", self.name).strip("_")[:40]
        return self.root / f"{words}-{digest({'table': self.name, **self.facts}, {})[:12]}"

    def write_manifest(self) -> None:
        """Writes what the table holds, for people; programs read it from the name of the folder."""
        write_atomically(self.path / MANIFEST, json.dumps({"table": self.name, **self.facts}, indent=1) + "\n")

    def rows_path(self, number: int) -> Path:
        """Returns the NumPy file of a shard."""
        return self.path / f"{number:08d}.npy"

    def write(self, number: int, rows_RD: Array, items: str) -> None:
        """Writes a shard, its JSON file last; another shard of that number is replaced."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows_RD), allow_pickle=False)
        content = buffer.getbuffer()
        write_atomically(self.rows_path(number), content)
        shard = Shard(items, len(rows_RD), hashlib.sha256(content).hexdigest())
        write_atomically(self.rows_path(number).with_suffix(".json"), json.dumps(asdict(shard)) + "\n")

    def read(self, number: int) -> Shard | None:
        """Returns what is known of a shard; None where it does not exist, or not whole."""
        path = self.rows_path(number)
        try:
            shard = Shard(**json.loads(read_file(path.with_suffix(".json"))))
            return shard if len(open_rows(path)) == shard.rows else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_complete(self, number: int, items: str) -> bool:
        """Whether a shard of exactly these items is there, with the rows that were written."""
        shard = self.read(number)
        return shard is not None and shard.items == items and shard.sha256 == sha256_of(self.rows_path(number))

    def open(self, num_shards: int) -> RowShards:
        """Opens the rows of the first shards. ValueError where one is missing or damaged."""
        lengths = []
        for number in range(num_shards):
            if (shard := self.read(number)) is None:
                raise ValueError(f"{self.rows_path(number)} is missing or damaged: repeat the command that wrote it")
            lengths.append(shard.rows)
        return RowShards([self.rows_path(number) for number in range(num_shards)], lengths)


def open_rows(path: Path) -> Array:
    """Maps a NumPy file. ValueError where it is damaged, FileNotFoundError where it is missing."""
    try:
        rows: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return rows
    except (EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read: {error}") from error


def sha256_of(path: Path) -> str:
    """Returns the checksum of a file, which is read in parts."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class RowShards:
    """The rows of a table, numbered across its shards.

    One shard is mapped at a time, so what is held in memory is a shard at most, besides what a method returns.

    Args:
        parts: the NumPy files, or arrays in memory, in order.
        lengths: their numbers of rows.
    """

    parts: Sequence[Path | Array]
    lengths: Sequence[int]

    def __len__(self) -> int:
        """N."""
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The number of the first row of each shard, and N."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    def open_part(self, number: int) -> Array:
        """Returns the rows of a shard, mapped where they are on disk."""
        part = self.parts[number]
        return open_rows(part) if isinstance(part, Path) else part

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields all rows in order: the number of the first row of a block, and at most `size` rows, (B, D)."""
        for number, start in enumerate(self.starts[:-1].tolist()):
            rows_RD = self.open_part(number)
            for offset in range(0, len(rows_RD), size):
                yield start + offset, torch.from_numpy(np.array(rows_RD[offset : offset + size]))

    def take(self, indices: Tensor) -> Tensor:
        """Returns the rows of these numbers, in their order; several rows of a shard cost little more than one."""
        order = np.argsort(indices.numpy(), kind="stable")
        ascending = indices.numpy()[order]
        cuts = np.searchsorted(ascending, self.starts)
        parts = [
            self.open_part(number)[ascending[first:last] - self.starts[number]]
            for number, (first, last) in enumerate(pairwise(cuts))
            if first < last
        ]
        rows = np.concatenate(parts) if parts else self.open_part(0)[:0]
        result = np.empty_like(rows)
        result[order] = rows
        return torch.from_numpy(result)
