"""ProbCover: maximal coverage of the pool by balls of one radius (Yehuda et al., 2022).

Shapes: N images, the labelled ones first; M of them; E features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, Need, View, register

from .shared import features
from .shared.features import (
    MAX_EXACT_CLUSTERS,
    SIMCLR,
    count_classes,
    count_within,
    kmeans,
    squared_distances,
    unit_features,
)
from .shared.ties import argmax_by_rank, ranks_as_tensor


def needs(*, encoder: EncoderName | None, delta: float | None, **_: object) -> frozenset[Need]:
    """Returns what the features need, and `predict` to count classes where the radius is derived from clusters."""
    return features.needs(encoder=encoder) | ({"predict"} if delta is None else set())


@register(needs=needs, version=2)
def probcover(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    delta: float | None = None,
    purity: float = 0.95,
) -> Indices:
    """Selects images greedily so that balls of radius delta around labelled images cover most of the pool.

    Features have unit length. An image is covered when a labelled or selected image is nearer than delta. Each step
    selects the image whose ball covers most images that are not covered yet. When all are covered, the rest is drawn at
    random.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are SimCLR's, trained on the pool. `null` takes
            the model's own features, which the paper does not study.
        delta: the radius. On SimCLR's features the authors take 0.75 for CIFAR-10. `null` derives it as the paper does:
            the largest radius at which the share `purity` of the balls around images hold a single pseudo label, by
            k-means with as many clusters as the model has classes. The radius is exact, whereas the paper searches a
            grid.
        purity: the share of balls that must hold a single pseudo label where delta is `null`, above 0 and at most 1
            (0.95: the paper's).

    Logs:
        delta: the radius.
        was_covered: the share of images covered before the selection.
        coverage: the share of images covered after the selection.

    References:
        Yehuda, Dekel, Hacohen and Weinshall, Active Learning Through a Covering Lens, NeurIPS 2022.

    Deviations:
        The authors' code drops the images of the last, partial block of its graph, and selects image 0 again and again
        after full coverage. Here no graph is kept (see `cover`).

    Cost:
        One pass of the encoder per image, once. The distances of N images at most twice, O(N^2 E); with delta=null once
        more, and k-means. 2^24 distances in memory.
    """
    if (delta is not None and delta <= 0) or not 0 < purity <= 1:
        raise ValueError(
            f"probcover[delta={delta},purity={purity}]: delta must be above 0, purity above 0 and at most 1"
        )
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    squared = squared_radius(points_NE, count_classes(view), purity, rng) if delta is None else delta**2
    covered_N = count_within(points_NE, points_NE[:num_labelled], squared) > 0
    covered_N[:num_labelled] = True
    was_covered = covered_N.double().mean().item()
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    picks = cover(points_NE, covered_N, num_labelled, squared, budget, rank_N)
    view.log(delta=math.sqrt(squared), was_covered=was_covered, coverage=covered_N.double().mean().item())
    others = np.setdiff1d(np.arange(num_labelled, len(points_NE)), picks)
    random_picks = rng.choice(others, budget - len(picks), replace=False)
    selection: Indices = view.unlabelled[np.concatenate([np.array(picks, np.int64), random_picks]) - num_labelled]
    return selection


def cover(
    points_NE: Tensor, covered_N: Tensor, num_labelled: int, squared: float, budget: int, rank_N: Tensor
) -> list[int]:
    """Returns the selected positions, until all images are covered or the budget is spent; updates `covered_N`.

    The degree of an image is the number of images it would newly cover; of equal degrees the lowest rank is taken. A
    selected image lowers the degrees of the neighbours of what it covers, whose distances are computed again at that
    time. Every image is covered once, so all steps together compute at most as many distances as the first degrees did,
    N^2, and memory stays at CHUNK.
    """
    degree_N = count_within(points_NE, points_NE[~covered_N], squared)
    degree_N[:num_labelled] = -len(points_NE)
    picks: list[int] = []
    while len(picks) < budget and not covered_N.all():
        pick = int(argmax_by_rank(degree_N, rank_N))
        new_N = (count_within(points_NE, points_NE[pick : pick + 1], squared) > 0) & ~covered_N
        new_N[pick] = ~covered_N[pick]
        covered_N |= new_N
        degree_N -= count_within(points_NE, points_NE[new_N], squared)
        degree_N[pick] = -len(points_NE)
        picks.append(pick)
    return picks


def squared_radius(points_NE: Tensor, num: int, purity: float, rng: np.random.Generator) -> float:
    """Returns the largest squared radius at which the share `purity` of the balls around points hold one cluster alone.

    A ball is pure up to the distance to the nearest point of another cluster, so the radius is a quantile of those
    distances.
    """
    cluster, _ = kmeans(points_NE, min(num, len(points_NE)), rng, minibatch=num > MAX_EXACT_CLUSTERS)
    cluster_N = torch.from_numpy(cluster).to(points_NE.device)
    nearest_N = torch.full((len(points_NE),), torch.inf, dtype=points_NE.dtype, device=points_NE.device)
    step = max(1, features.CHUNK // len(points_NE))
    for part_ME, cluster_M in zip(points_NE.split(step), cluster_N.split(step), strict=True):
        distance_NM = squared_distances(points_NE, part_ME)
        distance_NM[cluster_N[:, None] == cluster_M] = torch.inf
        nearest_N = torch.minimum(nearest_N, distance_NM.amin(1))
    num_impure = len(nearest_N) - math.ceil(round(purity * len(nearest_N), 6))  # balls that may hold several clusters
    squared = nearest_N.sort().values[num_impure].item()
    if not 0 < squared < math.inf:
        raise ValueError(
            f"probcover[delta=null]: {num} clusters of these features give no radius: set delta to a number"
        )
    return squared
