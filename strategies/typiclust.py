"""TypiClust: the most typical image of each cluster (Hacohen, Dekel and Weinshall, 2022).

Shapes: N images, M members of a cluster, E features, K clusters.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register

from .shared.features import SIMCLR, needs
from .shared.typicality import select_typical


@register(needs=needs, version=2)
def typiclust(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    max_clusters: int = 500,
    num_neighbours: int = 20,
) -> Indices:
    """Selects the most typical image of each cluster, starting with clusters that have no labels.

    k-means divides all images, on features of unit length, into min(labelled + budget, max_clusters) clusters. Clusters
    take turns, those with the fewest labels first and of those the largest first. In its turn a cluster gives its most
    typical unlabelled image: the one with the smallest mean squared distance to its min(num_neighbours, M // 2) nearest
    neighbours among the M members that are unlabelled and not selected yet.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are SimCLR's, trained on the pool. `null` takes
            the model's own features, which the paper does not study.
        max_clusters: the largest number of clusters (500: the paper's).
        num_neighbours: the largest number of neighbours that decide how typical an image is (20: the paper's).

    Logs:
        clusters: the number of clusters.
        without_labels: the number of clusters without a labelled image before the selection.

    References:
        Hacohen, Dekel and Weinshall, Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets, ICML
            2022.

    Deviations:
        k-means has one start and sees labelled and unlabelled images alone; the authors' code takes held-out images
        too. An empty cluster is skipped, whereas that code fails. Clusters of at most 5 images, which that code drops,
        have their turn when no other cluster has images left.

    Cost:
        One pass of the encoder per image, once. k-means of N images into K clusters, O(N K E) per step, by mini-batches
        of 5,000 above 50 clusters. O(M^2 E) per selected image.
    """
    if min(max_clusters, num_neighbours) < 1:
        settings = f"max_clusters={max_clusters},num_neighbours={num_neighbours}"
        raise ValueError(f"typiclust[{settings}]: both must be 1 or more")
    return select_typical(view, budget, rng, encoder=encoder, max_clusters=max_clusters, num_neighbours=num_neighbours)
