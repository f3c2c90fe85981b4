"""Greedy k-center (Sener and Savarese, 2018, Algorithm 1). Shapes: N candidates, M centres, A active, D features."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

CHUNK = 2**24  # distances held at once
ACTIVE = 1024  # candidates that are kept exact while picks come from them


def greedy(candidates_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """(budget,): positions of the candidates picked, in order, each the farthest from all centres so far.

    Ties go to the first. Exact, in O(N D) memory: on a GPU by one product a pick, with no wait for the device until
    the end; on a CPU, where that is bound by reading N D numbers a pick, by `Lazy`.
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
    if points_ND.is_cuda:
        return eager(points_ND, norms_N, distance_N, budget)
    return Lazy(points_ND, norms_N, distance_N, budget).run()


def eager(points_ND: Tensor, norms_N: Tensor, distance_N: Tensor, budget: int) -> Tensor:
    """(budget,) picks, every distance made exact after each."""
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


@dataclass
class Lazy:
    """The same picks from distances that are made exact only where it matters.

    Distances to the centres only shrink, so one that is out of date is an upper bound. The ACTIVE candidates with the
    largest bounds are made exact, in one product; as long as the best of them is above all other bounds, it is the
    farthest of all, and each pick costs A D instead of N D. When none is, everything is made exact at once.
    """

    points_ND: Tensor
    norms_N: Tensor
    bound_N: Tensor  # squared distance to the nearest centre, not all picks counted; -inf for a pick
    budget: int
    num: int = 0  # picks so far
    picks: Tensor = field(init=False)
    counted_N: Tensor = field(init=False)  # picks that each bound counts

    def __post_init__(self) -> None:
        self.picks = torch.empty(self.budget, dtype=torch.int64)
        self.counted_N = torch.zeros(len(self.points_ND), dtype=torch.int64)

    def run(self) -> Tensor:
        """(budget,) picks."""
        while self.num < self.budget:
            active_A, others = self.largest()
            self.refresh(active_A)
            if self.bound_N[active_A].max().item() <= others:
                self.refresh(torch.arange(len(self.bound_N)))
                active_A, others = self.largest()
            if self.bound_N[active_A].max().item() > others:
                self.pick_from(active_A, others)
            else:  # more ties than active ones
                self.take(int(self.bound_N.argmax()))
        return self.picks

    def largest(self) -> tuple[Tensor, float]:
        """The candidates with the largest bounds, ascending, and a bound of all others."""
        if len(self.bound_N) <= ACTIVE:
            return torch.arange(len(self.bound_N)), -math.inf
        values_A, active_A = self.bound_N.topk(ACTIVE)
        return active_A.sort().values, values_A[-1].item()

    def refresh(self, which: Tensor) -> None:
        """Makes these bounds exact: counts the picks that they lack."""
        first = int(self.counted_N[which].min())
        lacking = self.picks[first : self.num]
        for part in which.split(max(1, CHUNK // max(1, len(lacking)))) if len(lacking) else ():
            exact = nearest(self.points_ND[part], self.norms_N[part], self.points_ND[lacking])
            self.bound_N[part] = torch.minimum(self.bound_N[part], exact)
        self.counted_N[which] = self.num

    def pick_from(self, active_A: Tensor, others: float) -> None:
        """Picks from these, which are exact, while the best is above all others."""
        points_AD, norms_A, bound_A = self.points_ND[active_A], self.norms_N[active_A], self.bound_N[active_A]
        while self.num < self.budget:
            best = int(bound_A.argmax())
            if bound_A[best].item() <= others:
                break
            self.take(int(active_A[best]))
            bound_A = torch.minimum(bound_A, nearest(points_AD, norms_A, points_AD[best : best + 1]))
            bound_A[best] = -torch.inf
        self.bound_N[active_A] = bound_A
        self.counted_N[active_A] = self.num

    def take(self, pick: int) -> None:
        """Notes a pick."""
        self.picks[self.num] = pick
        self.bound_N[pick] = -torch.inf
        self.num += 1
