"""ISAL, influence selection (Liu et al., Influence Selection for Active Learning, ICCV 2021)."""

from __future__ import annotations

import math

import numpy as np

from benchmark.api import Indices, View, register

from .shared.boxes import WithoutBoxes
from .shared.influence import (
    Order,
    ReferenceSet,
    dot,
    draw_chains,
    expected_targets,
    inverse_hessian_product,
    needs,
    reference_gradient,
    scales_by_name,
    select_most_helpful,
)

MAX_BATCHED_CHAINS = 16  # chains on a GPU: each of them passes the images of all


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

    s_test is the mean of chains of LiSSA, h <- v + (1 - damping) h - H_j h / scale, from the reference gradient v.
    k: G is the expectation over the k likeliest classes, not renormalised (Eq. 3; the paper: 1). allow_degenerate: let
        k be all classes, where G is 0 (ours: no). reference: whose loss; `held_out` as in the paper's method, whose
        tables for classifiers take `test` (evaluation labels), ISAL_v2 and v3 `initial` and `labelled`.
    damping, scale: of a chain (0.01, 1e4: the authors' for classifiers). block_scales: a scale for each last layer of a
        detector instead (theirs: 100/8000/5000, FCOS's classes, boxes, centerness; 1000/1000/5000/1000, Faster R-CNN's
        RPN classes, boxes; classes, boxes). depth, repeats: steps of a chain, and chains (theirs: 250, 4; of detectors
        1000 a process, 4 processes, where the paper's text has at most 5,000 in all for FCOS, 500 for Faster R-CNN).
        order: of labelled images: `random` (paper), first (`file`; theirs, classifiers) or last (`newest`) bought, or
        `published`, theirs of detectors: one pass, the latest purchase first, dealt to the chains, which end with it.
        min_score: least score of pseudo boxes (theirs: 0.1). without_boxes: images with none are `last` (theirs) or
        background (`score`, ours).
    Logs: `ridge` = damping scale; `gain` = |s| / |v|; `cosine` of s and v (1: the Hessian changed nothing, as in
    gradient_similarity); `share_negative`, of candidates that would help; `share_without_boxes`.
    Deviations from the authors' code: reference and order (there `test`, and `file` or `published`, whose loop ends two
    steps late); one slope along s an image, not a backward pass: the same numbers. Cost: a gradient pass over the
    reference, depth * repeats Hessian products of an image, about four forward passes a candidate.
    """
    if damping < 0:
        raise ValueError(f"isal[damping={damping}]: must be at least 0")
    scales = scales_by_name(view, scale, block_scales)
    chains = draw_chains(view.purchases, depth, repeats, order, rng)
    targets = expected_targets(view, k, allow_degenerate, min_score)
    v = reference_gradient(view, reference)
    together = not isinstance(targets, list) and next(iter(v.values())).is_cuda and len(chains) <= MAX_BATCHED_CHAINS
    s = inverse_hessian_product(view, v, chains, damping=damping, scale=scales, batched=together)
    norm_s, norm_v = math.sqrt(dot(s, s)), math.sqrt(dot(v, v))
    view.log(cosine=dot(s, v) / norm_s / norm_v, ridge=damping * min(scales.values()), gain=norm_s / norm_v)
    return select_most_helpful(view, budget, targets, s, without_boxes, rng)
