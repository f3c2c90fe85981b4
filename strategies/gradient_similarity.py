"""Gradient similarity, the ablation of ISAL without the Hessian (Liu et al., ICCV 2021, section 4.4.2)."""

from __future__ import annotations

import numpy as np

from benchmark.api import Indices, View, register
from strategies._boxes import WithoutBoxes
from strategies._influence import ReferenceSet, expected_targets, most_helpful, needs, reference_gradient


@register(needs=needs, version=2)
def gradient_similarity(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    k: int = 1,
    reference: ReferenceSet = "held_out",
    allow_degenerate: bool = False,
    min_score: float = 0.1,
    without_boxes: WithoutBoxes = "last",
) -> Indices:
    """The candidates whose expected gradient G agrees most with the reference gradient v: largest v . G.

    A dot product, not a cosine, in spite of its name: large gradients win. Parameters as in isal.
    Deterministic, but where too few of a detector's images have pseudo boxes (without_boxes=last).
    """
    targets = expected_targets(view, k, allow_degenerate, min_score)
    return most_helpful(view, budget, targets, reference_gradient(view, reference), without_boxes, rng)
