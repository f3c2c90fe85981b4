"""ISAL, influence selection (Liu et al., Influence Selection for Active Learning, ICCV 2021)."""

from __future__ import annotations

import math

import numpy as np

from benchmark.api import Indices, View, register
from strategies._boxes import WithoutBoxes
from strategies._influence import (
    Order,
    ReferenceSet,
    dot,
    draw_chains,
    expected_targets,
    inverse_hessian_product,
    most_helpful,
    needs,
    reference_gradient,
    scale_by_name,
)

MOST_TOGETHER = 16  # chains on a GPU: each of them passes the images of all


@register(needs=needs, version=2)
def isal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    k: int = 1,
    reference: ReferenceSet = "held_out",
    damping: float = 0.01,
    scale: float = 1e4,
    block_scales: str = "",
    depth: int = 250,
    repeats: int = 4,
    order: Order = "random",
    allow_degenerate: bool = False,
    min_score: float = 0.1,
    without_boxes: WithoutBoxes = "last",
) -> Indices:
    """The candidates whose expected gradient G most lowers the reference loss: smallest I = -s_test . G.

    k: G is the expectation over the k likeliest classes, probabilities not renormalised (Eq. 3; the paper: 1).
    reference: whose loss. The paper's classification tables take `test`, which sees evaluation labels; `initial` and
        `labelled` are its ISAL_v2 and v3. damping, scale, depth, repeats, order, without_boxes: see `_influence`.
    block_scales: one scale for each of the detector's last layers instead, in their order. The authors': 100/8000/5000
        (FCOS: classes, boxes, centerness), 1000/1000/5000/1000 (Faster R-CNN: RPN classes, boxes; classes, boxes).
    min_score: least confidence of a detector's boxes that become pseudo labels (the authors': 0.1).
    Logs: `ridge` = damping scale (the smallest), what LiSSA adds to the Hessian; `gain` = |s| / |v|; `cosine` of s and
    v: at 1 the Hessian changed nothing and this is gradient_similarity; `share_negative` = candidates that would help.
    Deviations: a held-out reference instead of the test set, random chains where the authors' code takes the first
    depth * repeats labelled images in every round (`reference=test,order=file`; on detectors the newest), and one
    directional derivative where it runs a backward pass an image: the same numbers, sooner.
    """
    if damping < 0:
        raise ValueError(f"isal[damping={damping}]: must be at least 0")
    scales = scale_by_name(view, scale, block_scales)
    chains = draw_chains(view.labelled, depth, repeats, order, rng)
    targets = expected_targets(view, k, allow_degenerate, min_score)
    v = reference_gradient(view, reference)
    together = not isinstance(targets, list) and next(iter(v.values())).is_cuda and len(chains) <= MOST_TOGETHER
    s = inverse_hessian_product(view, v, chains, damping=damping, scale=scales, together=together)
    norm_s, norm_v = math.sqrt(dot(s, s)), math.sqrt(dot(v, v))
    view.log(cosine=dot(s, v) / norm_s / norm_v, ridge=damping * min(scales.values()), gain=norm_s / norm_v)
    return most_helpful(view, budget, targets, s, without_boxes, rng)
