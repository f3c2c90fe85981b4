"""GEAL: data selection by patterns of a frozen encoder, the farthest first (Xie et al., 2021).

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
    """Selects, one by one, the images with the pattern farthest from all patterns of the images selected so far.

    The patterns ("knowledge clusters") of an image are the centres of k-means on the patches that hold most of its
    attention. All patterns of a selected image become centres. No label and no task model plays a part, so one
    selection may serve all rounds (`one_pass=true`), as published. The labelled images are the first selected ones;
    without any, the first image is random, as published.

    Args:
        encoder: the frozen encoder that gives patches and attention; DINO's ViT-S/16 is the paper's.
        tau: the share of an image's attention that the kept patches hold, above 0 and at most 1 (0.5: the paper's,
            which also tries 0.4 and 0.6).
        k: the largest number of patterns per image (25: the paper's, which also tries 5 and 15).
        metric: the distance of patterns: `cosine`, 1 - cos, as in the paper, or `euclidean`, which it tries too.

    Logs:
        patterns: the mean number of patterns per unlabelled image.

    References:
        Xie et al., Towards General and Efficient Active Learning, 2021.

    Deviations:
        k-means starts from patches that are spread out, whereas published code draws them at random, so an image always
        has the same patterns. The encoder `dino` resizes images bilinearly, whereas that code does so bicubically.

    Cost:
        One pass of the encoder per image, once. Per selected image, at most one product of all P patterns with k new
        ones. O(P D) memory.
    """
    candidates = PatternCandidates.from_view(view, rng, "geal", encoder, tau, k, metric)
    rank_P = ranks_as_tensor(view.tie_ranks(view.unlabelled), candidates.image_P)[candidates.image_P]
    picks = k_center_greedy(
        candidates.features_PD,
        candidates.centres_PD,
        budget,
        rank_P,
        groups=candidates.groups,
        first=candidates.first_pick,
    )
    return candidates.images(picks)
