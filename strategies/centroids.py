"""Centroids: the images nearest to the centres of k-means, a way to begin (Gupte et al., 2024)."""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register

from .shared.features import SIMCLR, needs, select_centroids, unit_features


@register(needs=needs, version=1)
def centroids(view: View, budget: int, rng: np.random.Generator, *, encoder: EncoderName | None = SIMCLR) -> Indices:
    """Selects the unlabelled image nearest to each centre of k-means with as many clusters as the budget.

    Features have unit length. Labelled images play no part. Clusters that stay empty, for want of distinct features,
    are replaced by random images.

    Args:
        encoder: the frozen encoder whose features are used; the paper's are foundation models. `null` takes the model's
            own features.

    References:
        Gupte, Aklilu, Nirschl and Yeung-Levy, Revisiting Active Learning in the Era of Vision Foundation Models, TMLR
            2024, where it draws the initial set.

    Deviations:
        k-means has one start.

    Cost:
        One pass of the encoder per image, once. k-means of N images with E features into `budget` clusters,
        O(N budget E) per step.
    """
    images = view.unlabelled
    points_NE = unit_features(view, encoder, images)
    selection: Indices = images[select_centroids(points_NE, budget, rng, view.tie_ranks(images))]
    return selection
