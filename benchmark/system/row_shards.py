"""Tables on disk in shards: rows of one width and type, in files that are read block by block or row by row.

A table is a folder. Its manifest says what the rows are; each shard is a NumPy file of rows and a JSON file that is
written last, with a checksum of the rows and the names of the items (images) that they describe. A shard without its
JSON file does not exist, so a writer that was killed goes on with the first one that is missing.

Shapes: R rows of a shard, N rows in all, D numbers in a row, B rows of a block.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.system.files import read_file, write_atomically

Array = npt.NDArray[Any]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """What the JSON file of a shard says.

    Args:
        items: what the rows describe, as JSON values: of an image its path, its size in bytes and the time of its last
            change. A row may describe a part of an item, so their number need not be R.
        rows: R.
        sha256: of the NumPy file.
    """

    items: Sequence[Any]
    rows: int
    sha256: str


@dataclass(frozen=True)
class ShardFolder:
    """A table that is being written or read.

    Args:
        path: the folder.
        facts: everything that decides the rows, as JSON: model, encoder, images. Rows of other facts are not used.
    """

    path: Path
    facts: Mapping[str, Any]

    def prepare(self) -> None:
        """Writes the manifest, or checks the one that is there. ValueError where it is of other rows."""
        content = json.dumps(dict(self.facts), sort_keys=True, indent=1)
        try:
            present = json.loads(read_file(self.path / MANIFEST))
        except FileNotFoundError:
            write_atomically(self.path / MANIFEST, content)
            return
        except ValueError as error:
            raise ValueError(f"{self.path / MANIFEST} cannot be read ({error}): remove the folder") from error
        if present != json.loads(content):
            names = sorted(name for name in {*present, *self.facts} if present.get(name) != self.facts.get(name))
            raise ValueError(f"{self.path} holds shards of another {', '.join(names)}: name another folder")

    def rows_path(self, number: int) -> Path:
        """Returns the NumPy file of a shard."""
        return self.path / f"{number:08d}.npy"

    def write(self, number: int, rows_RD: Array, items: Sequence[Any]) -> None:
        """Writes a shard, its JSON file last; another shard of that number is replaced."""
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(rows_RD), allow_pickle=False)
        content = buffer.getvalue()
        write_atomically(self.rows_path(number), content)
        shard = {"items": list(items), "rows": len(rows_RD), "sha256": hashlib.sha256(content).hexdigest()}
        write_atomically(self.rows_path(number).with_suffix(".json"), json.dumps(shard))

    def read(self, number: int) -> Shard | None:
        """Returns what is known of a shard; None where it does not exist, or not whole."""
        path = self.rows_path(number)
        try:
            shard = Shard(**json.loads(read_file(path.with_suffix(".json"))))
            return shard if len(open_rows(path)) == shard.rows else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_complete(self, number: int, items: Sequence[Any]) -> bool:
        """Whether a shard of exactly these items is there with the rows that were written."""
        shard = self.read(number)
        return (
            shard is not None and list(shard.items) == list(items) and shard.sha256 == sha256_of(self.rows_path(number))
        )


def open_rows(path: Path) -> Array:
    """Maps a NumPy file. ValueError where it is damaged, FileNotFoundError where it is missing."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
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
        paths: the NumPy files, in order.
        lengths: their numbers of rows.
    """

    paths: Sequence[Path]
    lengths: Sequence[int]

    @classmethod
    def open(cls, folder: Path, num_shards: int) -> RowShards:
        """Opens a table. ValueError where a shard is missing or damaged."""
        table = ShardFolder(folder, {})
        shards = [table.read(number) for number in range(num_shards)]
        for number, shard in enumerate(shards):
            if shard is None:
                raise ValueError(f"{table.rows_path(number)} is missing or damaged: run the same command again")
        return cls([table.rows_path(i) for i in range(num_shards)], [shard.rows for shard in shards if shard])

    def __len__(self) -> int:
        """N."""
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The number of the first row of each shard, and N."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields all rows in order: the number of the first row of a block, and at most `size` rows, (B, D)."""
        for start, path in zip(self.starts.tolist(), self.paths, strict=False):
            rows_RD = open_rows(path)
            for offset in range(0, len(rows_RD), size):
                yield start + offset, torch.from_numpy(np.array(rows_RD[offset : offset + size]))

    def take(self, indices: Tensor) -> Tensor:
        """Returns the rows of these numbers, in their order; several rows of a shard cost little more than one."""
        order = np.argsort(indices.numpy(), kind="stable")
        ascending = indices.numpy()[order]
        cuts = np.searchsorted(ascending, self.starts)
        parts = [
            open_rows(self.paths[number])[ascending[first:last] - self.starts[number]]
            for number, (first, last) in enumerate(pairwise(cuts))
            if first < last
        ]
        rows = np.concatenate(parts) if parts else open_rows(self.paths[0])[:0]
        result = np.empty_like(rows)
        result[order] = rows
        return torch.from_numpy(result)
