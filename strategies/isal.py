"""ISAL: influence selection for active learning (Liu et al., 2021)."""

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
    """Selects the images on which training should lower the loss of a reference set most, by influence functions.

    The influence of an image is `I = -s_test . G`, and the smallest are selected. G is the expected gradient of the
    image's loss under pseudo labels (Eq. 3). s_test is the inverse Hessian of the training loss applied to the
    reference gradient v, approximated by the mean of several LiSSA chains: `h <- v + (1 - damping) h - H_j h / scale`,
    where H_j is the Hessian of the loss of one labelled image.

    With FCOS, whose boxes have an IoU loss, rankings depend on rounding and so on the device: a pseudo label is the
    very box that the detector predicts, and there the loss has a kink.

    Args:
        k: the number of most likely classes over which G is the expectation, with probabilities that are not
            renormalised. 1, the paper's, takes the most likely class as the label.
        reference: the set whose loss is to fall. `held_out`, as in the paper's method section: labelled images that are
            set aside, paid for and not trained on. `test`, as in its tables for classifiers: the test set, whose labels
            are evaluation labels. `initial` and `labelled`, the paper's variants ISAL_v2 and ISAL_v3: the initial or
            the whole labelled set, on which the model is trained.
        damping: the damping of the recursion, at least 0 (0.01 in the authors' code). Damping times scale acts as a
            ridge on the Hessian.
        scale: the number that divides each Hessian product (1e4 in the authors' code for classifiers). Too small a
            scale lets the recursion diverge.
        block_scales: for detectors, one scale for each last layer in place of `scale`, with / between them. The authors
            take 100/8000/5000 for FCOS (classes, boxes, centerness) and 1000/1000/5000/1000 for Faster R-CNN (classes
            and boxes of the RPN, classes and boxes of the head).
        depth: the number of steps of a chain (250 in the authors' code for classifiers; at most 1,000 per process in
            theirs for detectors).
        repeats: the number of chains that are averaged (4 in the authors' code for classifiers; 4 processes in theirs
            for detectors). The paper's text has at most 5,000 images in all chains for FCOS, 500 for Faster R-CNN.
        order: the order in which chains read labelled images. `random` is the paper's text. `file` starts with the
            images bought first, as the authors' code for classifiers does; `newest` with those bought last. `published`
            is their code for detectors: the labelled images, the latest purchase first, are dealt out to the chains in
            turn, and each chain reads its images once.
        allow_degenerate: `true` lets k be the number of classes, where G is zero and the ranking is rounding noise;
            refused by default (this project's choice).
        min_score: the smallest confidence (0 to 1) of a detector's boxes that become pseudo labels (0.1 in the authors'
            code).
        without_boxes: how a detector's images without pseudo boxes are treated. `last` selects them at random where too
            few others are left, as in the authors' code. `score` gives them the influence of an image of background
            alone (this project's alternative).

    Logs:
        ridge: damping times scale (the smallest scale).
        gain: |s_test| / |v|.
        cosine: the cosine of s_test and v; at 1 the Hessian changes nothing, and the selection is that of
            `gradient_similarity`.
        share_negative: the share of unlabelled images whose influence is negative, which would lower the reference
            loss.
        share_without_boxes: on detectors, the share of unlabelled images without pseudo boxes.

    References:
        Liu et al., Influence Selection for Active Learning, ICCV 2021.
        Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017.
        Agarwal, Bullins and Hazan, Second-Order Stochastic Optimization for Machine Learning in Linear Time, JMLR 2017
            (LiSSA).

    Deviations:
        The authors' code takes `reference=test` for classifiers, `order=file` for classifiers and `order=published` for
        detectors; its loop for detectors ends two steps late. One directional derivative along s_test per image
        replaces that code's backward pass; the numbers are the same.

    Cost:
        One gradient pass over the reference set, depth * repeats Hessian products of one image each, and about four
        forward passes per unlabelled image.
    """
    if damping < 0:
        raise ValueError(f"isal[damping={damping}]: must be at least 0")
    scales = scales_by_name(view, scale, block_scales)
    chains = draw_chains(view.purchases, depth, repeats, order, rng)
    targets = expected_targets(view, k, allow_degenerate, min_score)
    v = reference_gradient(view, reference)
    s = inverse_hessian_product(view, v, chains, damping=damping, scale=scales)
    norm_s, norm_v = math.sqrt(dot(s, s)), math.sqrt(dot(v, v))
    view.log(cosine=dot(s, v) / norm_s / norm_v, ridge=damping * min(scales.values()), gain=norm_s / norm_v)
    return select_most_helpful(view, budget, targets, s, without_boxes, rng)
