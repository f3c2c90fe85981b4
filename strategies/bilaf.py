"""BiLAF: core images by ActiveFT, then images at the boundaries of their clusters, chosen at once (Lu et al., 2024).

Shapes: N images, K cores and as many clusters, M members of a cluster, E features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, View, register

from .shared.active_ft import CentreOptimiser
from .shared.features import SIMCLR, needs, squared_distances, unit_features
from .shared.ties import argmax_by_rank, ranks_as_tensor

SMALL_CLUSTER = 10  # members; smaller clusters are not rid of outliers


@register(needs=needs, version=1)
def bilaf(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    num_cores: int | None = None,
    num_neighbours: int = 10,
    outliers: float = 0.1,
    step: float = 0.1,
    penalty: float = 1.1,
    temperature: float = 0.07,
    lr: float = 0.001,
    num_steps: int = 300,
) -> Indices:
    """Selects core images by ActiveFT, and then images at the boundaries of the clusters around them.

    An image belongs to the cluster of its nearest core. A cluster is built from its core outwards, `step` of its images
    at a time, always those with the smallest mean distance to their `num_neighbours` nearest neighbours inside; the
    last ones, the share `outliers`, are left out. An image's boundary score is `(d_out - d_in) / max(d_out, d_in)`:
    d_out is the distance to the nearest other core, d_in the mean distance to the cluster's images. Each cluster
    selects its lowest scores, one at a time; the nearest images of a selected one are passed over. Each time that an
    image is selected next to another core, d_out of the images next to that core is multiplied by `penalty`.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are DINO's. `null` takes the model's own
            features.
        num_cores: the number of core images, from 1 to the budget. `null` takes a quarter of the budget, the paper's
            share for 1,000 images of CIFAR-100 (250).
        num_neighbours: the number of neighbours inside the cluster (10: the authors' code).
        outliers: the share of a cluster that is left out, from 0 to below 1 (0.1: the authors' code).
        step: the share of a cluster that joins at a time, above 0 and at most 1 (0.1: the authors' code).
        penalty: the factor, 1 or more (1.1: the authors' code).
        temperature: as in `active_ft`.
        lr: as in `active_ft`.
        num_steps: as in `active_ft`.

    References:
        Lu, Xie, Yang and Yan, Boundary Matters: A Bi-Level Active Finetuning Method, NeurIPS 2024.

    Deviations:
        The paper selects once and from nothing. Labelled images, where there are any, are fixed centres of ActiveFT and
        belong to no cluster. The mean distance is to the nearest neighbours inside the cluster; the authors' code mixes
        two numberings there and takes other images. Each cluster selects its core and a part of the rest of the budget
        in proportion to its size, and no more than it has; the code may give a cluster nothing, and fails then. What
        clusters cannot give is drawn at random.

    Cost:
        As `active_ft` with `num_cores` centres; then O(M^2 E) time and O(M^2) memory for a cluster of M images.
    """
    cores = max(1, budget // 4) if num_cores is None else num_cores
    if not (1 <= cores <= budget and num_neighbours >= 1 and 0 <= outliers < 1 and 0 < step <= 1 and penalty >= 1):
        settings = f"num_cores={num_cores},num_neighbours={num_neighbours},outliers={outliers},penalty={penalty}"
        raise ValueError(
            f"bilaf[{settings},step={step}]: num_cores must be 1 to the budget, num_neighbours and penalty 1 or more, "
            "outliers 0 to below 1, step above 0 and at most 1"
        )
    optimiser = CentreOptimiser(temperature, lr, num_steps)
    optimiser.check("bilaf")
    points_NE = unit_features(view, encoder, np.concatenate([view.labelled, view.unlabelled]))
    labelled_ME, points_NE = points_NE.tensor_split([len(view.labelled)])
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), points_NE)
    core_K = optimiser.select(points_NE, labelled_ME, cores, rng, rank_N)
    boundary = Boundary(points_NE, torch.tensor(core_K, device=points_NE.device), rank_N)
    members = boundary.clusters(num_neighbours, outliers, step)
    shares = share_budget(budget, np.array([len(cluster) for cluster in members]))
    later = [boundary.select(k, members[k], share, penalty) for k, share in enumerate(shares)]
    picks = core_K + [pick for cluster in later for pick in cluster]
    others = np.setdiff1d(np.arange(len(points_NE)), picks)
    selection: Indices = view.unlabelled[
        np.concatenate([np.array(picks, np.int64), rng.choice(others, budget - len(picks), replace=False)])
    ]
    return selection


def share_budget(budget: int, size_K: Indices) -> Indices:
    """Returns how many images each cluster selects, its core among them: one, and a share of the rest by its size.

    What rounding leaves goes to the clusters with the smallest shares that have images left, of equal ones the largest.
    """
    share_K = np.minimum(1 + (budget - len(size_K)) * size_K // size_K.sum(), size_K)
    while share_K.sum() < budget and (share_K < size_K).any():
        open_K = np.flatnonzero(share_K < size_K)
        share_K[open_K[np.lexsort((-size_K[open_K], share_K[open_K]))[0]]] += 1
    shares: Indices = share_K
    return shares


@dataclass(frozen=True)
class Boundary:
    """The clusters around the cores, and the images at their boundaries."""

    points_NE: Tensor
    core_K: Tensor  # positions of the cores
    rank_N: Tensor

    def clusters(self, num_neighbours: int, outliers: float, step: float) -> list[Tensor]:
        """Returns the members of each cluster, the core first, without outliers."""
        nearest_N = squared_distances(self.points_NE, self.points_NE[self.core_K]).argmin(1)
        nearest_N[self.core_K] = torch.arange(len(self.core_K), device=nearest_N.device)
        clusters = []
        for number, core in enumerate(self.core_K):
            members = (nearest_N == number).nonzero()[:, 0]
            members = torch.cat([core[None], members[members != core]])
            if len(members) >= SMALL_CLUSTER:
                order_M = self.density_order(members, num_neighbours, max(1, int(step * len(members))))
                members = members[order_M[: int(len(members) * (1 - outliers))]]
            clusters.append(members)
        return clusters

    def density_order(self, members: Tensor, num_neighbours: int, num_at_once: int) -> Tensor:
        """Returns the order in which members join the cluster, the core (position 0) first."""
        distance_MM = squared_distances(self.points_NE[members], self.points_NE[members]).sqrt()
        rank_M = self.rank_N[members]
        key_M = distance_MM[0].clone()
        key_M[0] = -1
        order = sort_by(key_M, rank_M)[:num_at_once]
        while len(order) < len(members):
            inside_MB = distance_MM[:, order]
            key_M = inside_MB.topk(min(num_neighbours, len(order)), largest=False).values.mean(1)
            key_M[order] = torch.inf
            num_more = min(num_at_once, len(members) - len(order))
            order = torch.cat([order, sort_by(key_M, rank_M)[:num_more]])
        return order

    def select(self, cluster: int, members: Tensor, share: int, penalty: float) -> list[int]:
        """Returns the positions of the images at a cluster's boundary: `share` less the core."""
        points_ME, rank_M = self.points_NE[members], self.rank_N[members]
        inner_MM = squared_distances(points_ME, points_ME).sqrt()
        inner_M = inner_MM.mean(1)
        outer_MK = squared_distances(points_ME, self.points_NE[self.core_K]).sqrt()
        outer_MK[:, cluster] = torch.inf
        outer_M, opponent_M = outer_MK.min(1)
        outer_M = outer_M.nan_to_num(posinf=2.0)  # a single cluster has no opponent
        factor_K = torch.ones_like(outer_MK[0])
        is_open_M = torch.ones_like(rank_M, dtype=torch.bool)
        last, picks = 0, list[int]()
        while len(picks) < share - 1:
            distance_M = inner_MM[last].where(is_open_M, torch.inf)
            distance_M[last] = -1
            is_open_M[sort_by(distance_M, rank_M)[: max(1, len(members) // share)]] = False
            score_M = (outer_M * factor_K[opponent_M] - inner_M) / torch.maximum(outer_M, inner_M).clamp(min=1e-12)
            candidates = is_open_M.nonzero()[:, 0]
            last = int(candidates[argmax_by_rank(-score_M[candidates], rank_M[candidates])])
            factor_K[opponent_M[last]] *= penalty
            picks.append(int(members[last]))
        return picks


def sort_by(key_M: Tensor, rank_M: Tensor) -> Tensor:
    """Returns the positions in the order of their keys, of equal keys by rank."""
    by_rank = rank_M.argsort()
    return by_rank[key_M[by_rank].argsort(stable=True)]
