"""What a strategy sees of a pool of millions: its predictions and features as rows on disk.

Shapes: N images, R rows, D numbers in a row. `Indices` are positions in the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.contract.data import Indices


class Rows(Protocol):
    """Rows of one width and type on disk, which are read in parts."""

    def __len__(self) -> int:
        """Number of rows."""

    def take(self, indices: Tensor) -> Tensor:
        """Returns some rows, as they are stored.

        Args:
            indices: (R,) numbers of rows, in any order.
        """

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields all rows in order: the number of the first row of a block, and its rows.

        Args:
            size: the largest number of rows of a block.
        """


@dataclass
class ShardedPool:
    """A pool whose images are described by tables on disk. The true labels are in none of them.

    Args:
        num_images: N.
        labelled: positions of the labelled images.
        excluded: positions of unlabelled images that must not be selected, such as those that wait for their labels.
        tables: the rows by the name of their table; see `FromShards`.
        tie_seed: seed of the order in which ties are broken.
        device: where distances are computed.
        diagnostics: what `log` was given.
        scores: the values of the selected images, where the strategy ranks images by values; greater is more wanted.
    """

    num_images: int
    labelled: Indices
    excluded: Indices
    tables: Mapping[str, Rows]
    tie_seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    diagnostics: dict[str, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    @cached_property
    def is_candidate_N(self) -> Tensor:
        """Which images may be selected, (N,)."""
        is_candidate_N = torch.ones(self.num_images, dtype=torch.bool)
        is_candidate_N[torch.from_numpy(self.labelled)] = False
        is_candidate_N[torch.from_numpy(self.excluded)] = False
        return is_candidate_N

    @cached_property
    def unlabelled(self) -> Indices:
        """The positions that may be selected, ascending."""
        unlabelled: Indices = self.is_candidate_N.numpy().nonzero()[0]
        return unlabelled

    @cached_property
    def tie_rank_N(self) -> Tensor:
        """The rank of each image, (N,); of images that are equal, that of the lowest is selected, as in a `View`."""
        return torch.from_numpy(np.random.default_rng(self.tie_seed).permutation(self.num_images))

    def log(self, **values: float) -> None:
        """Keeps numbers that explain the selection.

        Args:
            values: finite numbers by name.
        """
        self.diagnostics |= values


@dataclass(frozen=True)
class FromShards:
    """How a strategy selects from a pool that does not fit into memory: it describes each image once, by rows.

    Args:
        tables: `tables(**parameters)` returns the names of the tables that `describe` fills. Equal names must mean
            equal rows of a model, whichever strategy asks for them.
        describe: `describe(view, indices, **parameters)` returns what is stored of these images of a `View`: rows on
            the CPU, by the name of their table. It is called for a part of the pool at a time, in any order and in
            several processes, and an image's rows must not depend on the other images. A table has one row per image,
            or else another one says how many rows each image has.
        select: `select(pool, budget, rng, **parameters)` returns `budget` distinct positions of a `ShardedPool`, the
            most wanted first.
    """

    tables: Callable[..., Collection[str]]
    describe: Callable[..., Mapping[str, Tensor]]
    select: Callable[..., Indices]
