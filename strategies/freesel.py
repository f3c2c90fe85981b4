"""FreeSel (Xie et al., Towards Free Data Selection with General-Purpose Models, NeurIPS 2023): GEAL's successor.

Shapes: P patterns.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register

from .shared.kcenter import draw_by_distance
from .shared.patterns import PatternCandidates, PatternMetric


@register(needs={"encode"}, version=1)
def freesel(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName = "dino",
    tau: float = 0.5,
    k: int = 5,
    metric: PatternMetric = "cosine",
) -> Indices:
    """As `geal`, but the next pattern is drawn, with probability proportional to d^2, where that takes the farthest.

    Patterns of an image: the centres of k-means on the patches that hold most of its attention; d: the distance of a
    pattern to the nearest one of the images chosen so far. The image of the pattern drawn is chosen, and all its
    patterns count as such from then on. No label and no task model plays a part. The labelled images are where it goes
    on from; without any, it starts from a random one, as published.
    encoder: whose patches and attention; DINO's ViT-S/16 is the paper's.
    tau: share of the attention that the patches hold, 0.5 as in the authors' code.
    k: patterns an image at most, 5 in the authors' code for VOC; theirs for CIFAR-10 takes one, the mean of the
        patches.
    metric: of patterns, d: 1 - cos, as published, or Euclidean.
    Logs `patterns`, their mean number an image.
    Deviations: k-means starts from spread patches, where published code draws them at random, so an image has one set
    of patterns. Draws are exact, though few distances are computed: see `Lazy.draw`.
    Cost: the encoder once an image, then a draw by the last known distances of all P patterns and at most one product
    of them with k new ones a pick; O(P D) in memory.
    """
    own = PatternCandidates.from_view(view, rng, "freesel", encoder, tau, k, metric)
    power = 2.0 if metric == "cosine" else 1.0  # of |a - b|^2, which is 2 (1 - cos) on unit vectors
    picks = draw_by_distance(
        own.features_PD, own.centres_PD, budget, rng, power=power, groups=own.groups, first=own.first_pick
    )
    return own.images(picks)
