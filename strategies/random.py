"""Uniform random sampling: the baseline that every saving is measured against."""

from __future__ import annotations

import numpy as np

from benchmark.api import FromShards, Indices, ShardedPool, View, register


def select_from_shards(pool: ShardedPool, budget: int, rng: np.random.Generator) -> Indices:
    """Selects as `random` does; nothing of the images is stored."""
    picks: Indices = rng.choice(pool.unlabelled, budget, replace=False)
    return picks


@register(version=1, from_shards=FromShards(lambda: (), lambda view, indices: {}, select_from_shards))
def random(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """Selects unlabelled images uniformly at random, without replacement.

    Deviations:
        Published code often reuses one seed for the draw of every round. Here each round has a seed of its own.

    Cost:
        No forward pass; one shuffle of the unlabelled positions.
    """
    picks: Indices = rng.choice(view.unlabelled, budget, replace=False)
    return picks
