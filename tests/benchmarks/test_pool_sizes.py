"""Times selections from pools of growing size: the page fits the power of the size that their time grows with.

Times are CPU seconds on one thread. Features are given, so that no network runs: its passes over the pool would add a
time in proportion to the pool. As with larger and larger data sets, labels, held-out images and the budget are each a
fiftieth of the pool.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from benchmark.api import Companion, View, find_strategy
from benchmark.plugins import discovery
from tests._stand_in import C, Layers, StandIn

GROUP = "selection by size of the pool: a fiftieth labelled and as many bought, 512 features given"
SIZES, SHARE, WIDTH = (2_000, 4_000, 8_000, 16_000, 32_000), 50, 512
STRATEGIES = ("random", "entropy", "isal[depth=10,repeats=1]", "coreset", "badge")
# chains of 10 steps instead of 4 x 250: their time does not depend on the pool, and would hide what does


class Pool(StandIn):
    """The stand-in of a classifier with 512 features."""

    def __init__(self, num_pool: int) -> None:
        super().__init__("classifier", num_pool)
        self.features = torch.randn(num_pool, WIDTH, generator=torch.Generator().manual_seed(0))

    def model(self, companion: Companion | None = None) -> Layers:
        layers = Layers(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers.blocks.append(nn.Linear(WIDTH, C + 1, bias=False))
        return layers.eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """CPU seconds of several threads would contain their waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group=GROUP, timer=time.process_time)
@pytest.mark.parametrize("num_pool", SIZES)
@pytest.mark.parametrize("label", STRATEGIES)
def test_selection(benchmark: BenchmarkFixture, label: str, num_pool: int) -> None:
    discovery.discover()
    plugin, values = find_strategy(label)
    task, part = Pool(num_pool), num_pool // SHARE
    labelled, held_out, unlabelled = np.split(np.arange(num_pool), [part, 2 * part])
    model, needs = task.model(), plugin.resolve_needs(values)

    def select() -> int:
        view = View(task, model, labelled, unlabelled, num_initial=part, held_out=held_out, needs=needs)  # type: ignore[arg-type]
        return len(set(plugin.function(view, part, np.random.default_rng(0), **values).tolist()))

    assert benchmark.pedantic(select, rounds=3, warmup_rounds=1) == part
    benchmark.extra_info |= {"series": label, "images": num_pool}
