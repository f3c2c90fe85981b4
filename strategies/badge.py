"""BADGE: diverse images with large gradients (Ash et al., 2020).

Shapes: N images, C classes, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Indices, View, register

from .shared.ties import argmax_by_rank, ranks_as_tensor


@register(needs={"predict", "embed"}, version=1)
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


def draw_by_weight(weights_N: Tensor, picks: list[int], rng: np.random.Generator) -> int:
    """Draws a position with probability proportional to its weight; if all are 0, any position outside `picks`."""
    weights = weights_N.double().cpu().numpy()
    if not weights.any():
        weights = np.ones(len(weights))
        weights[picks] = 0
    return int(rng.choice(len(weights), p=weights / weights.sum()))
