"""Makes encodings on disk for benchmarks of large pools, by code: `python tests/benchmarks/_encodings.py FOLDER NUM`.

They look like those of a vision transformer: 2,000 clusters of unequal size in a subspace of 48 dimensions, each with
24 directions of its own kind and some noise, all of one length. `KIND=gaussian` gives Gaussian noise instead.
"""

from __future__ import annotations

import functools
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.system.row_shards import RowShards, ShardFolder

SHARD, WIDTH = 100_000, 384
NUM_CLUSTERS, NUM_KINDS, RANK = 2_000, 40, 24


def clustered(num: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Rows of length 20 in clusters, (num, WIDTH)."""
    common = np.random.default_rng(5)
    plane = common.standard_normal((48, WIDTH), dtype=np.float32) / 7
    means = common.standard_normal((NUM_CLUSTERS, 48), dtype=np.float32) @ plane
    directions = common.standard_normal((NUM_KINDS, RANK, WIDTH), dtype=np.float32) / 10
    share = np.arange(1, NUM_CLUSTERS + 1) ** -0.7
    cluster_N = rng.choice(NUM_CLUSTERS, num, p=share / share.sum())
    rows = means[cluster_N] + 0.15 * rng.standard_normal((num, WIDTH), dtype=np.float32)
    for kind in range(NUM_KINDS):
        members = np.flatnonzero(cluster_N % NUM_KINDS == kind)
        rows[members] += rng.standard_normal((len(members), RANK), dtype=np.float32) @ directions[kind]
    return rows * (20 / np.linalg.norm(rows, axis=1, keepdims=True))


def make_shard(folder: Path, num: int, kind: str, shard: int) -> None:
    """Writes a shard of half-precision rows, unless it is there."""
    size, rng = min(SHARD, num - shard * SHARD), np.random.default_rng([7, shard])
    table, is_gaussian = ShardFolder(folder, "features", {"kind": kind}), kind == "gaussian"
    if not table.is_complete(shard, str(size)):
        rows = rng.standard_normal((size, WIDTH), dtype=np.float32) if is_gaussian else clustered(size, rng)
        table.write(shard, rows.astype(np.float16), str(size))


def make_encodings(folder: Path, num: int, kind: str = "clusters") -> RowShards:
    """Writes encodings of `num` images, and opens them."""
    num_shards = -(-num // SHARD)
    with ProcessPoolExecutor(2) as workers:
        list(workers.map(functools.partial(make_shard, folder, num, kind), range(num_shards)))
    return ShardFolder(folder, "features", {"kind": kind}).open(num_shards)


if __name__ == "__main__":
    make_encodings(Path(sys.argv[1]), int(sys.argv[2]), os.environ.get("KIND", "clusters"))
