"""Times selection from shards on disk against selection in memory, in one run. Compare the rows of a group."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.strategies.shared.kcenter import k_center_greedy
from benchmark.strategies.shared.lazy_rows import Centres, LazyRows
from benchmark.system.row_shards import RowShards
from tests.benchmarks._encodings import make_encodings

NUM_ROWS, NUM_PICKS = 100_000, 200


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> RowShards:
    """Encodings on disk."""
    return make_encodings(tmp_path_factory.mktemp("encodings"), NUM_ROWS)


def pick_in_memory(points_ND: torch.Tensor) -> list[int]:
    """Picks from rows in double precision, which are in memory already."""
    picks: list[int] = k_center_greedy(points_ND, points_ND[:0], NUM_PICKS, torch.arange(NUM_ROWS)).tolist()
    return picks


def pick_from_disk(rows: RowShards) -> list[int]:
    """Picks from rows in half precision on disk, mostly in the page cache."""
    bounds = torch.full((NUM_ROWS,), torch.inf, dtype=torch.float64)
    no_centres = Centres(rows.take(torch.arange(0)).double())
    lazy = LazyRows(rows, bounds, no_centres, torch.arange(NUM_ROWS))
    lazy.take(0)
    picks: list[int] = lazy.pick_farthest(NUM_PICKS).tolist()
    return picks


@pytest.mark.benchmark(group=f"k-center, {NUM_ROWS:,} x 384, {NUM_PICKS} picks, double precision")
@pytest.mark.parametrize("where", ["in memory", "on disk"])
def test_k_center(benchmark: BenchmarkFixture, rows: RowShards, where: str) -> None:
    points_ND = torch.cat([block for _, block in rows.blocks(NUM_ROWS)]).double()
    expected = pick_in_memory(points_ND)
    function, argument = (pick_in_memory, points_ND) if where == "in memory" else (pick_from_disk, rows)
    assert benchmark.pedantic(function, (argument,), rounds=2, warmup_rounds=1) == expected  # type: ignore[arg-type]
