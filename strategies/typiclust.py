"""TypiClust: the most typical image of each cluster (Hacohen, Dekel and Weinshall, 2022).

Shapes: N images, the labelled ones first; M members of a cluster; E features; K clusters.
"""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
from torch import Tensor

from benchmark.api import EncoderName, FromShards, Indices, ShardedPool, View, register

from .shared.features import MAX_EXACT_CLUSTERS, SIMCLR, kmeans, needs, squared_distances
from .shared.stored import MAX_IN_MEMORY, describe_features, feature_table
from .shared.typicality import UnitRows, log_clusters, members_by_turn, pick_in_turns, select_typical

MAX_MEMBERS = 4096  # of a cluster on disk that are compared with each other
PART = 16384  # rows on disk that are compared with all centres at once


def tables(*, encoder: EncoderName | None, **_: object) -> tuple[str, ...]:
    """Returns the name of the table of vectors."""
    return (feature_table(encoder),)


def describe(view: View, indices: Indices, *, encoder: EncoderName | None, **_: object) -> dict[str, Tensor]:
    """Returns what is stored of images: one vector each."""
    return describe_features(view, indices, encoder)


def select_from_shards(
    pool: ShardedPool,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None,
    max_clusters: int,
    num_neighbours: int,
) -> Indices:
    """Selects as `typiclust` does, from stored features.

    Of more than MAX_IN_MEMORY images, the clusters are those of so many random ones, to which the others are added; and
    where a cluster has more than MAX_MEMBERS unlabelled members, so many random ones stand for all of them.
    """
    check_settings(max_clusters, num_neighbours)
    images = np.concatenate([pool.labelled, pool.unlabelled])
    points = UnitRows(pool.tables[feature_table(encoder)], images)
    num = min(len(pool.labelled) + budget, max_clusters, len(points))
    cluster_N = cluster_rows(points, num, rng)
    log_clusters(pool, cluster_N, num)
    lists = list(members_by_turn(cluster_N, len(pool.labelled)))
    if len(points) > MAX_IN_MEMORY:
        lists = [[draw_members(members, max(MAX_MEMBERS, budget), rng) for members in part] for part in lists]
    rank_N = pool.tie_rank_N[images]
    turns = chain(*(pick_in_turns(points, part, num_neighbours, rank_N) for part in lists))
    picks: Indices = images[np.fromiter(islice(turns, budget), np.int64)]
    return picks


def cluster_rows(points: UnitRows, num: int, rng: np.random.Generator) -> Indices:
    """Returns the cluster of each row, (N,), by k-means on all rows or on MAX_IN_MEMORY random ones."""
    is_large = len(points) > MAX_IN_MEMORY
    sample = np.sort(rng.choice(len(points), MAX_IN_MEMORY, replace=False)) if is_large else np.arange(len(points))
    cluster_N, centres_KE = kmeans(points[sample], num, rng, minibatch=num > MAX_EXACT_CLUSTERS)
    if not is_large:
        return cluster_N
    starts = range(0, len(points), PART)
    parts = (points[np.arange(start, min(start + PART, len(points)))] for start in starts)
    return np.concatenate([squared_distances(part, centres_KE).argmin(1).numpy() for part in parts])


def draw_members(members: list[int], num: int, rng: np.random.Generator) -> list[int]:
    """Returns at most `num` members of a cluster, in order."""
    return members if len(members) <= num else np.sort(rng.choice(members, num, replace=False)).tolist()


@register(needs=needs, version=2, from_shards=FromShards(tables, describe, select_from_shards))
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
    check_settings(max_clusters, num_neighbours)
    return select_typical(view, budget, rng, encoder=encoder, max_clusters=max_clusters, num_neighbours=num_neighbours)


def check_settings(max_clusters: int, num_neighbours: int) -> None:
    """ValueError where a parameter is out of range."""
    if min(max_clusters, num_neighbours) < 1:
        settings = f"max_clusters={max_clusters},num_neighbours={num_neighbours}"
        raise ValueError(f"typiclust[{settings}]: both must be 1 or more")
