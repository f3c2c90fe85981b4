"""Selects from a large pool whose shards have been written.

Shapes: N images of the pool, L labelled ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.api import FromShards, Indices, ShardedPool
from benchmark.experiment.spec import Spec
from benchmark.runner.acquisition import check_selection
from benchmark.system.row_shards import RowShards
from benchmark.text.words import plural


def find_way(strategy: Spec) -> FromShards:
    """Returns how a strategy selects from shards. ValueError where it cannot."""
    way: Any = strategy.plugin.from_shards
    if not isinstance(way, FromShards):
        raise ValueError(
            f"strategy={strategy.label} cannot select from shards: it would have to hold the whole pool in memory; "
            "take one that can, or a smaller pool without shards="
        )
    return way


def prepend(labelled: Mapping[str, Tensor], shards: Mapping[str, RowShards]) -> dict[str, RowShards]:
    """Returns tables that hold the rows of the labelled images, which are in memory, before those on disk."""
    return {
        name: RowShards([labelled[name].numpy(), *table.parts], [len(labelled[name]), *table.lengths])
        for name, table in shards.items()
    }


def select_from_shards(strategy: Spec, pool: ShardedPool, budget: int, rng: np.random.Generator) -> Indices:
    """Returns what a strategy selects from a large pool, in its order.

    Args:
        strategy: the strategy.
        pool: the pool.
        budget: number of images.
        rng: all that is random.

    Raises:
        ValueError: the strategy cannot select from shards, or fewer images than the budget are left.
    """
    way, num_left = find_way(strategy), len(pool.unlabelled)
    if budget > num_left:
        raise ValueError(f"budget={budget}: only {plural(num_left, 'image')} can be picked: lower the budget")
    return check_selection(strategy.label, way.select(pool, budget, rng, **strategy.values), pool, budget)
