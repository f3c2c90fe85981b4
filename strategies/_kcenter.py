"""Greedy k-center (Sener and Savarese, 2018, Algorithm 1). Shapes: N candidates, M centres, D features."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

CHUNK = 2**24  # distances held at once


def greedy(candidates_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """(budget,): positions of the candidates picked, in order, each the farthest from all centres so far.

    Ties go to the first. O((M + budget) N D) time, O(N D) memory, and no wait for the device until the end.
    Squared distances come from norms and one product; they are taken around the mean, which moves none of them
    and shrinks their rounding. That leaves an error of about eps |x|^2, so near duplicates of a centre may not be
    at exactly 0; a pick is put at -inf, and so is never picked again.
    """
    assert budget <= len(candidates_ND)
    origin_D = candidates_ND.mean(0)
    points_ND = candidates_ND - origin_D
    norms_N = points_ND.square().sum(1)
    parts = torch.split(centres_MD - origin_D, max(1, CHUNK // len(points_ND)))
    distance_N = reduce(torch.minimum, (nearest(points_ND, norms_N, part) for part in parts))
    if not distance_N.isfinite().all():
        raise ValueError("k-center: the embeddings hold NaN or infinity")
    picks = []
    for _ in range(budget):
        pick_1 = distance_N.argmax(0, keepdim=True)
        picks.append(pick_1)
        distance_N = torch.minimum(distance_N, nearest(points_ND, norms_N, points_ND.index_select(0, pick_1)))
        distance_N.index_fill_(0, pick_1, -torch.inf)
    return torch.cat(picks)


def nearest(points_ND: Tensor, norms_N: Tensor, centres_MD: Tensor) -> Tensor:
    """(N,): squared distance from each point to the nearest of the centres."""
    relative_NM = torch.addmm(centres_MD.square().sum(1), points_ND, centres_MD.T, alpha=-2)
    return (relative_NM.amin(1) + norms_N).clamp_(min=0)
