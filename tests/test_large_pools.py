"""Selection from shards on disk selects what the strategies select in memory, and holds little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from benchmark.api import Encoding, Indices, ShardedPool, find_strategy
from benchmark.strategies.shared import kcenter, lazy_rows, stored
from benchmark.strategies.shared.kcenter import Groups, k_center_greedy
from benchmark.strategies.shared.lazy_rows import Centres, LazyRows
from benchmark.system.row_shards import RowShards, ShardFolder
from tests._toy import Toy, look


def store(folder: Path, rows: npt.NDArray[Any], shard_size: int = 13) -> RowShards:
    """Writes rows in small shards."""
    table = ShardFolder(folder, {})
    parts = np.split(rows, range(shard_size, len(rows), shard_size))
    for number, part in enumerate(parts):
        table.write(number, part, [number])
    return RowShards.open(folder, len(parts))


# --- rows on disk ---------------------------------------------------------------------------
def test_rows_are_read_in_any_order_and_in_blocks(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float16).reshape(30, 2)
    table = store(tmp_path, rows)
    order = torch.tensor([29, 0, 13, 12, 13])
    assert len(table) == 30
    assert torch.equal(table.take(order), torch.from_numpy(rows)[order])
    assert table.take(torch.arange(0)).shape == (0, 2)
    blocks = list(table.blocks(5))
    assert [start for start, _ in blocks] == [0, 5, 10, 13, 18, 23, 26]
    assert torch.equal(torch.cat([block for _, block in blocks]), torch.from_numpy(rows))


# --- the kernel -----------------------------------------------------------------------------
@pytest.fixture(params=[(4, 2), (64, 8), (7,)])
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which every branch of the kernel is taken."""
    monkeypatch.setattr(lazy_rows, "PART_SIZES", request.param)
    monkeypatch.setattr(lazy_rows, "SAME_AGE", 3)
    monkeypatch.setattr(lazy_rows, "BLOCK", 11)
    monkeypatch.setattr(lazy_rows, "MAX_CENTRES", 5)


def example_rows(kind: str) -> npt.NDArray[np.float16]:
    """120 rows: Gaussian noise, tight clusters, a grid full of ties, or three points forty times each."""
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        return rng.standard_normal((120, 8)).astype(np.float16)
    if kind == "clusters":
        centres = rng.standard_normal((10, 8))[rng.integers(10, size=120)]
        return (centres + rng.standard_normal((120, 8)) / 50).astype(np.float16)
    if kind == "grid":
        return rng.integers(0, 3, (120, 4)).astype(np.float16)
    return np.repeat(np.eye(3, 4, dtype=np.float16), 40, axis=0)


def twin_in_memory(
    rows: npt.NDArray[np.float16],
    first: int,
    budget: int,
    rank_N: Tensor,
    num_labelled: int,
    groups: Groups | None = None,
) -> Tensor:
    """What the kernel in memory selects; not centred at the mean, which would round away the ties of a grid."""
    points = torch.from_numpy(rows).double()
    candidates, labelled = points[num_labelled:], points[:num_labelled]
    norms, distance = candidates.square().sum(1), torch.full((len(candidates),), 1e9, dtype=torch.float64)
    distance[first] = torch.inf
    if num_labelled:
        distance = kcenter.squared_distance_to_nearest(candidates, norms, labelled)
    return num_labelled + kcenter.pick_exactly(candidates, norms, distance, rank_N[num_labelled:], budget, groups)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("num_labelled", [0, 9])
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "grid", "copies"])
def test_farthest_first_is_its_twin_in_memory(kind: str, num_labelled: int, tmp_path: Path) -> None:
    rows, rank = example_rows(kind), torch.from_numpy(np.random.default_rng(1).permutation(120))
    bounds = stored.initial_bounds(torch.arange(120) >= num_labelled)
    lazy = LazyRows(store(tmp_path, rows), bounds, Centres(torch.from_numpy(rows[:num_labelled]).double()), rank)
    if not num_labelled:
        lazy.take(5)
    assert lazy.pick_farthest(90).tolist() == twin_in_memory(rows, 5, 90, rank, num_labelled).tolist()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "grid"])
def test_farthest_first_by_groups_is_its_twin_in_memory(kind: str, tmp_path: Path) -> None:
    rows, rng = example_rows(kind), np.random.default_rng(2)
    group = torch.from_numpy(np.sort(np.concatenate([np.arange(40), rng.integers(40, size=80)])))
    rank_G = torch.from_numpy(rng.permutation(40))
    twin = twin_in_memory(rows, 7, 30, rank_G[group], 0, Groups.from_labels(group))
    bounds, no_centres = (
        stored.initial_bounds(torch.ones(120, dtype=torch.bool)),
        Centres(torch.empty(0, rows.shape[1]).double()),
    )
    starts_G = torch.searchsorted(group, torch.arange(40))
    lazy = LazyRows(store(tmp_path, rows), bounds, no_centres, rank_G, starts_G=starts_G)
    lazy.take(int(group[7]))
    assert lazy.pick_farthest(30).tolist() == group[twin].tolist()
