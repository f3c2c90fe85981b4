"""Gradient similarity, the ablation of ISAL without the Hessian (Liu et al., ICCV 2021, section 4.4.2)."""

from __future__ import annotations

import numpy as np

from benchmark.api import Indices, View, register

from .shared.boxes import WithoutBoxes
from .shared.influence import ReferenceSet, expected_targets, needs, reference_gradient, select_most_helpful


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

    A dot product, not a cosine, in spite of its name: large gradients win. Both are taken over the weights that `isal`
    takes: a classifier's kernels and matrices, the last layers of a detector or a segmenter. Deterministic, but where
    too few of a detector's images have pseudo boxes (without_boxes=last).
    k: G is the expectation over the k likeliest classes, probabilities not renormalised (1: the paper's, for ISAL).
    reference: whose gradient v is. `held_out` as in the method section of ISAL's paper: labelled images that are set
        aside, and paid for; its tables for classifiers take `test`, which sees evaluation labels; `initial` and
        `labelled` are sets that are trained on.
    allow_degenerate: let k be the number of classes, where G vanishes and the ranking is rounding noise (ours:
        refused).
    min_score: least confidence of a detector's boxes that become pseudo labels (0.1: the authors', for ISAL).
    without_boxes: images without such boxes come `last`, at random (the authors' code), or have the gradient of an
        image of background alone (`score`, ours).
    Logs `share_negative` = candidates that would help, and on detectors `share_without_boxes`.
    Deviations: a held-out reference, where the tables take the test set, and one directional derivative where the
    authors' code runs a backward pass an image: the same numbers, sooner.
    Cost: a gradient pass over the reference, then a prediction and a directional derivative an unlabelled image, about
    four forward passes; a few times the weights in memory.
    """
    targets = expected_targets(view, k, allow_degenerate, min_score)
    return select_most_helpful(view, budget, targets, reference_gradient(view, reference), without_boxes, rng)
