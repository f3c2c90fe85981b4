"""The most typical images of clusters: TypiClust's selection (Hacohen, Dekel and Weinshall, 2022).

Shapes: N images, the labelled ones first; M members of a cluster; E features; K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, View

from . import features
from .features import MAX_EXACT_CLUSTERS, kmeans, squared_distances, unit_features
from .ties import argmax_by_rank, ranks_as_tensor

SMALL_CLUSTER = 5  # images; smaller clusters wait until the others are empty


def select_typical(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None,
    max_clusters: int,
    num_neighbours: int,
) -> Indices:
    """Selects the most typical image of each cluster, starting with clusters that have no labels; see `typiclust`.

    Logs the number of clusters, and of those without labels.
    """
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
    """Returns the unlabelled members of each large cluster, in the order of their turns, and of each small one."""
    size_K, num_labelled_K = (
        np.bincount(cluster_N),
        np.bincount(cluster_N[:num_labelled], minlength=cluster_N.max() + 1),
    )
    order_K = np.lexsort((-size_K, num_labelled_K))
    unlabelled_cluster_N = cluster_N.copy()
    unlabelled_cluster_N[:num_labelled] = -1
    members = {cluster: np.flatnonzero(unlabelled_cluster_N == cluster).tolist() for cluster in order_K}
    large = [members[cluster] for cluster in order_K if size_K[cluster] > SMALL_CLUSTER]
    return large, [members[cluster] for cluster in order_K if size_K[cluster] <= SMALL_CLUSTER]


def pick_in_turns(points_NE: Tensor, lists: Sequence[list[int]], num_neighbours: int, rank_N: Tensor) -> Iterator[int]:
    """Yields the most typical member of each list in turn, until all lists are empty; empties them."""
    while any(lists):
        for members in filter(None, lists):
            yield members.pop(most_typical(points_NE[members], num_neighbours, rank_N[members]))


def most_typical(points_ME: Tensor, num_neighbours: int, rank_M: Tensor) -> int:
    """Returns the position with the smallest mean squared distance to its nearest neighbours.

    Of equal positions the one with the lowest rank is taken.
    """
    num = len(points_ME)
    if num == 1:
        return 0
    means = []
    for rows in torch.arange(num, device=points_ME.device).split(max(1, features.CHUNK // num)):
        squared = squared_distances(points_ME[rows], points_ME)
        squared[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        means.append(squared.topk(min(num_neighbours, num // 2), largest=False).values.mean(1))
    return int(argmax_by_rank(-torch.cat(means), rank_M))
