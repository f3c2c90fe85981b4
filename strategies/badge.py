"""BADGE: diverse images with large gradients (Ash et al., 2020).

Shapes: N images, C classes, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import FromShards, Indices, ShardedPool, View, register

from .shared.lazy_rows import Centres, LazyRows
from .shared.stored import (
    BLOCK,
    MAX_IN_MEMORY,
    PROBABILITIES,
    GradientRows,
    describe_features,
    describe_predictions,
    feature_table,
    initial_bounds,
    prediction_tables,
)
from .shared.ties import argmax_by_rank, ranks_as_tensor


def describe(view: View, indices: Indices) -> dict[str, Tensor]:
    """Returns what is stored of images: class probabilities and features, never their outer product."""
    return describe_predictions(view, indices) | describe_features(view, indices, None)


def tables() -> tuple[str, ...]:
    """Returns the names of these tables."""
    return (*prediction_tables(), feature_table(None))


def select_from_shards(pool: ShardedPool, budget: int, rng: np.random.Generator) -> Indices:
    """Selects as `badge` does, from stored predictions and features.

    Of more than MAX_IN_MEMORY images the draws are other ones, of the same distribution: see `LazyRows.draw`.
    """
    rows = GradientRows(pool.tables[PROBABILITIES], pool.tables[feature_table(None)])
    if len(rows.probabilities) != len(rows.features):
        raise ValueError("badge needs one prediction per image: take a classifier, not a detector or a segmenter")
    num_classes = rows.probabilities.take(torch.zeros(1, dtype=torch.int64)).shape[1]
    if len(pool.unlabelled) <= MAX_IN_MEMORY:
        gradients = rows.take(torch.from_numpy(pool.unlabelled))
        rank_N = pool.tie_rank_N[pool.unlabelled]
        factors = gradients[:, :num_classes], gradients[:, num_classes:]
        picks: Indices = pool.unlabelled[kmeans_plus_plus(*factors, budget, rng, rank_N)]
        return picks

    def distance(points_AG: Tensor, centres_KG: Tensor) -> Tensor:
        return squared_gradient_distance(points_AG, centres_KG, num_classes)

    bound_N, no_centres = initial_bounds(pool.is_candidate_N), Centres(rows.take(torch.arange(0)).double())
    lazy = LazyRows(rows, bound_N, no_centres, pool.tie_rank_N, distance=distance, device=pool.device)
    lazy.take(longest_gradient(rows, pool, num_classes))
    return lazy.draw(budget, rng)


@register(needs={"predict", "embed"}, version=1, from_shards=FromShards(tables, describe, select_from_shards))
def badge(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """Selects images by k-means++ seeding on the gradients of the last layer for the predicted class.

    The gradient embedding of an image is `(e_yhat - p) outer h`: p are the class probabilities, e_yhat is the one-hot
    predicted class, and h are the features that enter the last layer (Algorithm 1). Labelled images play no part.

    References:
        Ash, Zhang, Krishnamurthy, Langford and Agarwal, Deep Batch Active Learning by Diverse, Uncertain Gradient Lower
            Bounds, ICLR 2020.

    Deviations:
        The first image is the one with the largest gradient, as in the authors' code; k-means++ draws it at random. The
        (N, C D) gradients are never built; the distances are the same (see `kmeans_plus_plus`).

    Cost:
        One forward pass per unlabelled image, then O(N (C + D)) time per selected image, and O(N (C + D)) memory in
        all.
    """
    predictions = view.predict(view.unlabelled)
    if not predictions.one_each:
        raise ValueError("badge needs one prediction per image: take a classifier, not a detector or a segmenter")
    p_NC = predictions.scores_PC
    residual_NC = F.one_hot(p_NC.argmax(1), p_NC.shape[1]) - p_NC
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), p_NC)
    return view.unlabelled[kmeans_plus_plus(residual_NC, view.embed(view.unlabelled), budget, rng, rank_N)]


def kmeans_plus_plus(
    residual_NC: Tensor, embedding_ND: Tensor, budget: int, rng: np.random.Generator, rank_N: Tensor
) -> Indices:
    """Returns positions of `budget` rows by k-means++ seeding on the outer products `g = a (x) h`.

    The first is the row with the largest `|g|`, of equal ones that of the lowest rank. Each further row is drawn with
    probability proportional to its squared distance to the nearest row selected so far.

    `|a (x) h - a' (x) h'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a.a') (h.h')`, so each selected row costs O(N (C + D))
    time and memory. The difference has a rounding error of about eps |g|^2, so duplicates of a selected row are near
    distance 0, not always at it.
    """
    norms_N = residual_NC.square().sum(1) * embedding_ND.square().sum(1)
    if not norms_N.isfinite().all():
        raise ValueError("badge: the predictions or features of the model hold NaN or infinity")
    picks = [int(argmax_by_rank(norms_N, rank_N))]
    nearest_N = torch.full_like(norms_N, torch.inf)
    while len(picks) < budget:
        last = picks[-1]
        overlap_N = (residual_NC @ residual_NC[last]) * (embedding_ND @ embedding_ND[last])
        nearest_N = torch.minimum(nearest_N, (norms_N + norms_N[last] - 2 * overlap_N).clamp_(min=0))
        nearest_N[last] = 0
        picks.append(draw_by_weight(nearest_N, picks, rng))
    return np.array(picks)


def squared_gradient_distance(points_AG: Tensor, centres_KG: Tensor, num_classes: int) -> Tensor:
    """Returns the squared distance from each gradient to the nearest centre, (A,); see `kmeans_plus_plus`.

    The first columns hold the residuals, the others the features.
    """
    parts = (points_AG[:, :num_classes], points_AG[:, num_classes:])
    centres = (centres_KG[:, :num_classes], centres_KG[:, num_classes:])
    norms_A, norms_K = (a.square().sum(1) * b.square().sum(1) for a, b in (parts, centres))
    overlap_AK = (parts[0] @ centres[0].T) * (parts[1] @ centres[1].T)
    return (norms_A + (norms_K - 2 * overlap_AK).amin(1)).clamp_(min=0)


def longest_gradient(rows: GradientRows, pool: ShardedPool, num_classes: int) -> int:
    """Returns the candidate with the largest gradient, in one pass; of equal ones that of the lowest rank."""
    norms_N = torch.cat(
        [
            block[:, :num_classes].double().square().sum(1) * block[:, num_classes:].double().square().sum(1)
            for _, block in rows.blocks(BLOCK)
        ]
    )
    return int(argmax_by_rank(norms_N.where(pool.is_candidate_N, -torch.inf), pool.tie_rank_N))


def draw_by_weight(weights_N: Tensor, picks: list[int], rng: np.random.Generator) -> int:
    """Draws a position with probability proportional to its weight; if all are 0, any position outside `picks`."""
    weights = weights_N.double().cpu().numpy()
    if not weights.any():
        weights = np.ones(len(weights))
        weights[picks] = 0
    return int(rng.choice(len(weights), p=weights / weights.sum()))
