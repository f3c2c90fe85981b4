"""FreeSel: data selection by patterns of a frozen encoder, drawn at random by distance (Xie et al., 2023).

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
    """Selects images by drawing patterns of a frozen encoder with probability proportional to their squared distance.

    FreeSel is the successor of GEAL, which takes the farthest pattern instead. The patterns of an image are the centres
    of k-means on the patches that hold most of its attention. The distance of a pattern is that to the nearest pattern
    of the images selected so far. The image of the drawn pattern is selected, and all its patterns count as selected.
    No label and no task model plays a part. The labelled images are the first selected ones; without any, the first
    image is random, as published.

    Args:
        encoder: the frozen encoder that gives patches and attention; DINO's ViT-S/16 is the paper's.
        tau: the share of an image's attention that the kept patches hold, above 0 and at most 1 (0.5 in the authors'
            code).
        k: the largest number of patterns per image (5 in the authors' code for VOC; 1, the mean of the patches, in
            theirs for CIFAR-10).
        metric: the distance of patterns: `cosine`, 1 - cos, as published, or `euclidean`.

    Logs:
        patterns: the mean number of patterns per unlabelled image.

    References:
        Xie et al., Towards Free Data Selection with General-Purpose Models, NeurIPS 2023.

    Deviations:
        k-means starts from patches that are spread out, whereas published code draws them at random, so an image always
        has the same patterns. Draws are exact although few distances are computed (see `LazyDistances.draw`).

    Cost:
        One pass of the encoder per image, once. Per selected image, a draw by the last known distances of all P
        patterns and at most one product of them with k new ones. O(P D) memory.
    """
    candidates = PatternCandidates.from_view(view, rng, "freesel", encoder, tau, k, metric)
    power = 2.0 if metric == "cosine" else 1.0  # of |a - b|^2, which is 2 (1 - cos) on unit vectors
    picks = draw_by_distance(
        candidates.features_PD,
        candidates.centres_PD,
        budget,
        rng,
        power=power,
        groups=candidates.groups,
        first=candidates.first_pick,
    )
    return candidates.images(picks)
