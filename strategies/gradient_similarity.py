"""Gradient similarity: ISAL without the inverse Hessian, the paper's ablation (Liu et al., 2021)."""

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
    """Selects the images whose expected gradient has the largest dot product with the reference gradient.

    The score is `v . G`: G is the expected gradient of the image's loss under pseudo labels, v the gradient of the loss
    on the reference set. It is a dot product and not a cosine, so large gradients win. Both gradients are taken over
    the weights that `isal` takes: kernels and matrices of a classifier, the last layers of a detector or a segmenter.
    The selection is deterministic, unless too few of a detector's images have pseudo boxes (`without_boxes=last`).
    With FCOS it depends on rounding and so on the device, as that of `isal` does.

    Args:
        k: the number of most likely classes over which G is the expectation, with probabilities that are not
            renormalised. 1, the ISAL paper's, takes the most likely class as the label.
        reference: the set whose gradient is v. `held_out`, as in the method section of the ISAL paper: labelled images
            that are set aside, paid for and not trained on. `test`, as in its tables for classifiers: the test set,
            whose labels are evaluation labels. `initial` and `labelled`: the initial or the whole labelled set, on
            which the model is trained.
        allow_degenerate: `true` lets k be the number of classes, where G is zero and the ranking is rounding noise;
            refused by default (this project's choice).
        min_score: the smallest confidence (0 to 1) of a detector's boxes that become pseudo labels (0.1 in the authors'
            code for ISAL).
        without_boxes: how a detector's images without pseudo boxes are treated. `last` selects them at random where too
            few others are left, as in the authors' code. `score` gives them the gradient of an image of background
            alone (this project's alternative).

    Logs:
        share_negative: the share of unlabelled images whose influence is negative, which would lower the reference
            loss.
        share_without_boxes: on detectors, the share of unlabelled images without pseudo boxes.

    References:
        Liu et al., Influence Selection for Active Learning, ICCV 2021, section 4.4.2.

    Deviations:
        The default reference is a held-out set, whereas the paper's tables take the test set. One directional
        derivative per image replaces the backward pass in the authors' code; the numbers are the same.

    Cost:
        One gradient pass over the reference set. Per unlabelled image one prediction and one directional derivative,
        together about four forward passes. A few times the weights in memory.
    """
    targets = expected_targets(view, k, allow_degenerate, min_score)
    return select_most_helpful(view, budget, targets, reference_gradient(view, reference), without_boxes, rng)
