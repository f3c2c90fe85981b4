"""Centres that are spread like the pool and apart from each other: ActiveFT's optimisation (Xie et al., 2023).

Shapes: N images, K centres, M labelled images, E features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import features


@dataclass(frozen=True)
class CentreOptimiser:
    """The hyperparameters of the optimisation."""

    temperature: float
    lr: float
    num_steps: int

    def check(self, name: str) -> None:
        """ValueError where a value makes no sense; `name` is the strategy's."""
        if min(self.temperature, self.lr) <= 0 or self.num_steps < 0:
            settings = f"lr={self.lr},num_steps={self.num_steps},temperature={self.temperature}"
            raise ValueError(f"{name}[{settings}]: lr and temperature must be above 0, num_steps 0 or more")

    def select(
        self, points_NE: Tensor, labelled_ME: Tensor, budget: int, rng: np.random.Generator, rank_N: Tensor
    ) -> list[int]:
        """Returns the positions of `budget` points: the nearest to each optimised centre that is not taken yet."""
        start = torch.from_numpy(rng.choice(len(points_NE), budget, replace=False)).to(points_NE.device)
        centres_KE = self.optimise(points_NE, labelled_ME, points_NE[start])
        picks: list[int] = []
        is_open_N = torch.ones(len(points_NE), dtype=torch.bool, device=points_NE.device)
        for part in centres_KE.split(max(1, features.CHUNK // len(points_NE))):
            for similarity_N in part @ points_NE.T:
                nearest_N = similarity_N.where(is_open_N, -torch.inf)
                is_nearest_N = (nearest_N >= nearest_N.max() - 1e-6) & is_open_N
                pick = int(rank_N.where(is_nearest_N, torch.iinfo(rank_N.dtype).max).argmin())
                is_open_N[pick] = False
                picks.append(pick)
        return picks

    def optimise(self, points_NE: Tensor, labelled_ME: Tensor, start_KE: Tensor) -> Tensor:
        """Returns the centres, (K, E) of unit length, after `num_steps` steps of Adam."""
        centres_KE = start_KE.clone().requires_grad_()
        optimiser = torch.optim.Adam([centres_KE], lr=self.lr)
        for _ in range(self.num_steps):
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = self.loss(points_NE, torch.cat([F.normalize(centres_KE), labelled_ME]))
                loss.backward()
            optimiser.step()
        return F.normalize(centres_KE.detach())

    def loss(self, points_NE: Tensor, centres_KE: Tensor) -> Tensor:
        """Returns the mean over points of -log(a / (a + b)), a scalar, differentiable in the centres.

        For a point, `a = exp(x . c / T)` with its nearest centre c, and `b` is the sum over all centres c', c among
        them, of `exp(c' . c / T)`, in which c alone has a gradient. Only the nearest centre matters to a point, so the
        products of all points with all centres need no gradient.
        """
        nearest_N = nearest_centre(points_NE, centres_KE.detach())
        attraction_N = (points_NE * centres_KE[nearest_N]).sum(1) / self.temperature
        repulsion_K = (centres_KE.detach() @ centres_KE.T / self.temperature).logsumexp(0)
        return F.softplus(repulsion_K[nearest_N] - attraction_N).mean()


def nearest_centre(points_NE: Tensor, centres_KE: Tensor) -> Tensor:
    """Returns the centre with the largest inner product for each point, (N,)."""
    parts = points_NE.split(max(1, features.CHUNK // len(centres_KE)))
    return torch.cat([(part @ centres_KE.T).argmax(1) for part in parts])
