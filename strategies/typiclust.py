"""TypiClust (Hacohen, Dekel and Weinshall, Active Learning on a Budget, ICML 2022).

Shapes: N images, the labelled ones first; M members of a cluster; E features; K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, View, register

from .shared import features
from .shared.features import MAX_EXACT_CLUSTERS, SIMCLR, kmeans, needs, squared_distances, unit_features
from .shared.ties import argmax_by_rank, ranks_as_tensor

SMALL_CLUSTER = 5  # images; clusters of so few wait until the others are empty


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
    """The most typical image of each of as many clusters as there will be labels, those without labels first.

    All images, on features of unit length, in min(labelled + budget, max_clusters) clusters by k-means; in turn of
    (labels fewest, images most), each cluster gives its most typical unlabelled image: least mean squared distance to
    the min(num_neighbours, M // 2) nearest of its M unlabelled members not yet picked.
    encoder: whose features; the paper's are SimCLR's, trained on the pool; null: those of the model, which the paper is
        not about.
    max_clusters, num_neighbours: clusters, and neighbours that make an image typical, at most (the paper's: 500, 20).
    Logs `clusters`, and of them `without_labels`, before the choice.
    Deviations: k-means from one start, on labelled and unlabelled images alone (the authors' code takes held-out ones
    too); an empty cluster is passed over, where that code fails; clusters of at most 5 images, which it drops, give
    when no other has any left.
    Cost: the encoder once an image; k-means of N images into K clusters, O(N K E) a step, by mini-batches of 5000 above
    50 clusters; O(M^2 E) a pick.
    """
    if min(max_clusters, num_neighbours) < 1:
        told = f"max_clusters={max_clusters},num_neighbours={num_neighbours}"
        raise ValueError(f"typiclust[{told}]: both start at 1")
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    num = min(num_labelled + budget, max_clusters, len(points_NE))
    cluster_N, _ = kmeans(points_NE, num, rng, minibatch=num > MAX_EXACT_CLUSTERS)
    with_labels = len(np.unique(cluster_N[:num_labelled]))
    view.log(clusters=num, without_labels=len(np.unique(cluster_N)) - with_labels)
    large, small = members_by_turn(cluster_N, num_labelled)
    turns = chain(*(pick_in_turns(points_NE, lists, num_neighbours, rank_N) for lists in (large, small)))
    picks: Indices = view.unlabelled[np.fromiter(islice(turns, budget), np.int64) - num_labelled]
    return picks


def members_by_turn(cluster_N: Indices, num_labelled: int) -> tuple[list[list[int]], list[list[int]]]:
    """The unlabelled members of each large cluster, in the order of their turns, and those of each small one."""
    size_K, known_K = np.bincount(cluster_N), np.bincount(cluster_N[:num_labelled], minlength=cluster_N.max() + 1)
    order_K = np.lexsort((-size_K, known_K))
    rest_N = cluster_N.copy()
    rest_N[:num_labelled] = -1
    members = {cluster: np.flatnonzero(rest_N == cluster).tolist() for cluster in order_K}
    large = [members[cluster] for cluster in order_K if size_K[cluster] > SMALL_CLUSTER]
    return large, [members[cluster] for cluster in order_K if size_K[cluster] <= SMALL_CLUSTER]


def pick_in_turns(points_NE: Tensor, lists: Sequence[list[int]], num_neighbours: int, rank_N: Tensor) -> Iterator[int]:
    """The most typical of each list, list after list and again, until all are empty; empties them."""
    while any(lists):
        for members in filter(None, lists):
            yield members.pop(most_typical(points_NE[members], num_neighbours, rank_N[members]))


def most_typical(points_ME: Tensor, num_neighbours: int, rank_M: Tensor) -> int:
    """The position with the least mean squared distance to its nearest others, of equals that of the lowest rank."""
    num = len(points_ME)
    if num == 1:
        return 0
    means = []
    for rows in torch.arange(num, device=points_ME.device).split(max(1, features.CHUNK // num)):
        squared = squared_distances(points_ME[rows], points_ME)
        squared[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        means.append(squared.topk(min(num_neighbours, num // 2), largest=False).values.mean(1))
    return int(argmax_by_rank(-torch.cat(means), rank_M))
