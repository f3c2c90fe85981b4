"""GEAL (Xie et al., Towards General and Efficient Active Learning, 2021): patterns of a frozen encoder, in one pass.

Shapes: P patterns, D features.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register

from .shared.kcenter import k_center_greedy
from .shared.patterns import PatternCandidates, PatternMetric
from .shared.ties import ranks_as_tensor


@register(needs={"encode"}, version=2)
def geal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName = "dino",
    tau: float = 0.5,
    k: int = 25,
    metric: PatternMetric = "cosine",
) -> Indices:
    """Again and again the image with the pattern that is farthest from all patterns of the images chosen so far.

    Patterns ("knowledge clusters") of an image: the centres of k-means on the patches that hold most of its attention;
    all of a chosen image's become centres. No label and no task model plays a part, so that one pass may choose for all
    rounds (one_pass=true), as published. The labelled images are where it goes on from; without any, it starts from a
    random one, as published.
    encoder: whose patches and attention; DINO's ViT-S/16 is the paper's.
    tau: share of the attention that the patches hold (0.5: the paper's; it ablates 0.4 and 0.6).
    k: patterns an image at most (25: the paper's; it ablates 5 and 15).
    metric: of patterns, 1 - cos (the paper's) or Euclidean, which it ablates.
    Logs `patterns`, their mean number an image.
    Deviations: k-means starts from spread patches, where published code draws them at random, so an image has one set
    of patterns; `dino` squashes images bilinearly, where that code does so bicubically.
    Cost: the encoder once an image, then one product of all P patterns with k new ones a pick at most; O(P D) in
    memory.
    """
    own = PatternCandidates.from_view(view, rng, "geal", encoder, tau, k, metric)
    rank_P = ranks_as_tensor(view.tie_ranks(view.unlabelled), own.image_P)[own.image_P]
    picks = k_center_greedy(own.features_PD, own.centres_PD, budget, rank_P, groups=own.groups, first=own.first_pick)
    return own.images(picks)
