"""Uniform sampling: the baseline that every saving is counted against."""

from __future__ import annotations

import numpy as np

from benchmark.api import Indices, View, register


@register(version=1)
def random(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """`budget` unlabelled images drawn without replacement, each as likely as any other.

    Deviation: published code often seeds the draw alike in every round; here each round has a seed of its own.
    Cost: no forward pass; one shuffle of N positions.
    """
    drawn: Indices = rng.choice(view.unlabelled, budget, replace=False)
    return drawn
