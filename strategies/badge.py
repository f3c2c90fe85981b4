"""BADGE (Ash et al., 2020): diverse and large gradients. Shapes: N images, C classes, D features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Indices, View, register

from .shared.ties import argmax_by_rank, ranks_as_tensor


@register(needs={"predict", "embed"}, version=1)
def badge(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """k-means++ seeding on the last layer's gradient for the pseudo label, (e_yhat - p) outer h (Algorithm 1).

    The labelled images play no part.
    Deviation: the first pick is the largest gradient, as in the authors' code, where k-means++ draws it at random. The
    (N, C D) gradients are never built, with the same distances: see `seeding`.
    Cost: a forward pass an unlabelled image, then O(N (C + D)) in time a pick, and as much memory once.
    """
    predictions = view.predict(view.unlabelled)
    if not predictions.one_each:
        raise ValueError("badge needs one prediction an image: a classifier, not a detector or a segmenter")
    p_NC = predictions.scores_PC
    residual_NC = F.one_hot(p_NC.argmax(1), p_NC.shape[1]) - p_NC
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), p_NC)
    return view.unlabelled[kmeans_plus_plus(residual_NC, view.embed(view.unlabelled), budget, rng, rank_N)]


def kmeans_plus_plus(
    residual_NC: Tensor, embedding_ND: Tensor, budget: int, rng: np.random.Generator, rank_N: Tensor
) -> Indices:
    """Positions of `budget` rows of the outer products g = a (x) h: the largest (of equals that of the lowest
    rank), then each with probability proportional to its squared distance to the nearest one picked.

    |a (x) h - a' (x) h'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a.a') (h.h'), so a pick costs O(N (C + D)) in time
    and memory. The difference is exact to about eps |g|^2: duplicates of a pick are at nearly, not always at, 0.
    """
    norms_N = residual_NC.square().sum(1) * embedding_ND.square().sum(1)
    if not norms_N.isfinite().all():
        raise ValueError("badge: the predictions or embeddings hold NaN or infinity")
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
    """A position with probability proportional to its weight; any but `picks` where all weights are 0."""
    weights = weights_N.double().cpu().numpy()
    if not weights.any():
        weights = np.ones(len(weights))
        weights[picks] = 0
    return int(rng.choice(len(weights), p=weights / weights.sum()))
