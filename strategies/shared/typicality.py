"""The most typical images of clusters: TypiClust's selection (Hacohen, Dekel and Weinshall, 2022).

Shapes: N images, the labelled ones first; M members of a cluster; E features; K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, Indices, Rows, ShardedPool, View

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
    images = np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    num = min(len(view.labelled) + budget, max_clusters, len(points_NE))
    cluster_N, _ = kmeans(points_NE, num, rng, minibatch=num > MAX_EXACT_CLUSTERS)
    log_clusters(view, cluster_N, num)
    large, small = members_by_turn(cluster_N, len(view.labelled))
    turns = chain(*(pick_in_turns(points_NE, lists, num_neighbours, rank_N) for lists in (large, small)))
    picks: Indices = images[np.fromiter(islice(turns, budget), np.int64)]
    return picks


@dataclass(frozen=True)
class UnitRows:
    """Stored features, scaled to unit length when they are read.

    Args:
        rows: the features of the pool.
        images: (N,) positions in the pool.
    """

    rows: Rows
    images: Indices

    def __len__(self) -> int:
        """Returns N."""
        return len(self.images)

    def __getitem__(self, positions: Sequence[int] | Indices) -> Tensor:
        """Returns some features in single precision, as `unit_features` does."""
        features_ME = self.rows.take(torch.from_numpy(self.images[positions])).float()
        if not features_ME.isfinite().all():
            raise ValueError("the stored features hold NaN or infinity")
        return F.normalize(features_ME)


def log_clusters(pool: View | ShardedPool, cluster_N: Indices, num: int) -> None:
    """Logs the number of clusters, and of those without a labelled image."""
    with_labels = len(np.unique(cluster_N[: len(pool.labelled)]))
    pool.log(clusters=num, without_labels=len(np.unique(cluster_N)) - with_labels)


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


def pick_in_turns(
    points_NE: Tensor | UnitRows, lists: Sequence[list[int]], num_neighbours: int, rank_N: Tensor
) -> Iterator[int]:
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
