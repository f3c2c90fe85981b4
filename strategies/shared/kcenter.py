"""Greedy k-center (Sener and Savarese, 2018, Algorithm 1), and farthest-first picks by any distance.

Shapes: N candidates, M centres, A active, D features, G groups of at most K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from itertools import count

import numpy as np
import torch
from torch import Tensor

from .ties import argmax_by_rank

CHUNK = 2**24  # distances held at once
NUM_ACTIVE = 1024  # candidates that are kept exact while picks come from them
MAX_REJECTIONS = 16  # draws from bounds in vain, after which they are made exact


def k_center_greedy(
    candidates_ND: Tensor, centres_MD: Tensor, budget: int, rank_N: Tensor, *,
    groups: Groups | None = None, first: int = 0,
) -> Tensor:  # fmt: skip
    """(budget,): positions of the candidates picked, in order, each the farthest from all centres so far.

    groups: a pick takes all candidates of its group with it, which become centres too. first: the first pick where
        there are no centres.
    Of equals, the one with the lowest rank. Exact, in O(N D) memory: on a GPU by one product a pick, with no wait for
    the device until the end; on a CPU, where that is bound by reading N D numbers a pick, by `Lazy`.
    Squared distances come from norms and one product; they are taken around the mean, which moves none of them
    and shrinks their rounding. That leaves an error of about eps |x|^2, so near duplicates of a centre may not be
    at exactly 0; a pick is put at -inf, and so is never picked again.
    """
    assert budget <= len(candidates_ND)
    begin = InitialDistances.measure(candidates_ND, centres_MD, first)
    run = pick_exactly if candidates_ND.is_cuda else pick_lazily
    return run(begin.points_ND, begin.norms_N, begin.distance_N, rank_N, budget, groups)


@dataclass(frozen=True)
class InitialDistances:
    """Candidates around their mean, and how far they are from the centres."""

    points_ND: Tensor
    norms_N: Tensor
    distance_N: Tensor  # squared, to the nearest centre; without centres the largest number, infinite for the first

    @classmethod
    def measure(cls, candidates_ND: Tensor, centres_MD: Tensor, first: int) -> InitialDistances:
        """ValueError where they hold NaN or infinity."""
        origin_D = candidates_ND.mean(0)
        points_ND = candidates_ND - origin_D
        norms_N = points_ND.square().sum(1)
        parts = torch.split(centres_MD - origin_D, max(1, CHUNK // len(points_ND))) if len(centres_MD) else ()
        distance_N = (
            reduce(torch.minimum, (squared_distance_to_nearest(points_ND, norms_N, part) for part in parts))
            if parts
            else norms_N
        )
        if not distance_N.isfinite().all():
            raise ValueError("k-center: the embeddings hold NaN or infinity")
        if not parts:
            distance_N = torch.full_like(norms_N, torch.finfo(norms_N.dtype).max)
            distance_N[first] = torch.inf
        return cls(points_ND, norms_N, distance_N)


@dataclass(frozen=True)
class Groups:
    """Candidates that are picked together, as those of one image are."""

    group_N: Tensor  # of each candidate
    members_GK: Tensor  # the candidates of each group; where it has fewer than K, its first again

    @classmethod
    def from_labels(cls, group_N: Tensor) -> Groups:
        """From the group of each candidate, 0..G-1, ascending; each group has one at least."""
        counts_G = group_N.bincount()
        place_K = torch.arange(int(counts_G.max()), device=group_N.device)
        first_G1 = (counts_G.cumsum(0) - counts_G)[:, None]
        return cls(group_N, torch.where(place_K < counts_G[:, None], first_G1 + place_K, first_G1))

    def members_of(self, pick_1: Tensor) -> Tensor:
        """(K,): the candidates that one pick takes."""
        return self.members_GK[self.group_N[pick_1]].flatten()


def pick_exactly(
    points_ND: Tensor, norms_N: Tensor, distance_N: Tensor, rank_N: Tensor, budget: int, groups: Groups | None = None
) -> Tensor:
    """(budget,) picks, every distance made exact after each."""

    def distance_to(taken_K: Tensor) -> Tensor:
        return squared_distance_to_nearest(points_ND, norms_N, points_ND.index_select(0, taken_K))

    return farthest_first(distance_N, budget, rank_N, distance_to, groups)


def farthest_first(
    distance_N: Tensor,
    budget: int,
    rank_N: Tensor,
    distance_to: Callable[[Tensor], Tensor],
    groups: Groups | None = None,
) -> Tensor:
    """Picks the candidate that is farthest from all centres, makes it a centre, and so on; waits for no device.

    Args:
        distance_N: to the nearest centre; -inf for what cannot be picked.
        budget: number of picks.
        rank_N: of equals, the lowest rank is picked.
        distance_to: from the positions of what was picked, (K,), the distance of each candidate to the nearest of them.
        groups: a pick takes all candidates of its group with it; without, K is 1.

    Returns:
        (budget,): positions, in order.
    """
    picks = torch.empty(budget, dtype=torch.int64, device=distance_N.device)
    for number in range(budget):
        picks[number : number + 1] = pick_1 = argmax_by_rank(distance_N, rank_N)
        taken_K = groups.members_of(pick_1) if groups else pick_1
        distance_N = torch.minimum(distance_N, distance_to(taken_K))
        distance_N.index_fill_(0, taken_K, -torch.inf)
    return picks


def pick_lazily(
    points_ND: Tensor, norms_N: Tensor, distance_N: Tensor, rank_N: Tensor, budget: int, groups: Groups | None = None
) -> Tensor:
    """The same picks by `Lazy`."""
    return LazyDistances(points_ND, norms_N, distance_N, budget, groups).pick(rank_N)


def draw_by_distance(
    candidates_ND: Tensor, centres_MD: Tensor, budget: int, rng: np.random.Generator, *,
    power: float, groups: Groups, first: int,
) -> Tensor:  # fmt: skip
    """(budget,): picks as of `greedy`, but each drawn with probability proportional to squared distance ** power.

    Where all that are left are at distance 0, any of them.
    """
    begin = InitialDistances.measure(candidates_ND, centres_MD, first)
    state = LazyDistances(begin.points_ND, begin.norms_N, begin.distance_N, budget, groups)
    if not len(centres_MD):
        state.take(first)
        state.refresh(torch.arange(len(state.bound_N)))
    while len(state.picks) < budget:
        state.take(state.draw(rng, power))
    return torch.tensor(state.picks)


def squared_distance_to_nearest(points_ND: Tensor, norms_N: Tensor, centres_MD: Tensor) -> Tensor:
    """(N,): squared distance from each point to the nearest of the centres."""
    relative_NM = torch.addmm(centres_MD.square().sum(1), points_ND, centres_MD.T, alpha=-2)
    return (relative_NM.amin(1) + norms_N).clamp_(min=0)


@dataclass
class LazyDistances:
    """The same picks from distances that are made exact only where it matters.

    Distances to the centres only shrink, so one that is out of date is an upper bound. The ACTIVE candidates with the
    largest bounds are made exact, in one product; as long as the best of them is above all other bounds, it is the
    farthest of all, and each pick costs A D instead of N D. When none is, everything is made exact at once.
    """

    points_ND: Tensor
    norms_N: Tensor
    bound_N: Tensor  # squared distance to the nearest centre, not all that were taken counted; -inf for those
    budget: int
    groups: Groups | None = None
    num_taken: int = 0  # candidates taken so far
    picks: list[int] = field(default_factory=list)
    taken_indices: Tensor = field(init=False)  # they are centres now, in order; with groups more than picks
    num_counted_N: Tensor = field(init=False)  # of these, how many each bound counts

    def __post_init__(self) -> None:
        a_pick = self.groups.members_GK.shape[1] if self.groups else 1
        self.taken_indices = torch.empty(self.budget * a_pick, dtype=torch.int64)
        self.num_counted_N = torch.zeros(len(self.points_ND), dtype=torch.int64)

    def pick(self, rank_N: Tensor) -> Tensor:
        """(budget,) picks; equals by rank."""
        while len(self.picks) < self.budget:
            active_A, others = self.split_by_bound()
            self.refresh(active_A)
            if self.bound_N[active_A].max().item() <= others:
                self.refresh(torch.arange(len(self.bound_N)))
                active_A, others = self.split_by_bound()
            if self.bound_N[active_A].max().item() > others:
                self.pick_from(active_A, others, rank_N)
            else:  # more ties than active ones
                self.take(int(argmax_by_rank(self.bound_N, rank_N)))
        return torch.tensor(self.picks)

    def draw(self, rng: np.random.Generator, power: float) -> int:
        """A candidate with probability proportional to its distance ** power, exact by rejection.

        One is drawn by the bounds, its distance made exact and taken with probability (distance / bound) ** power; else
        one is drawn by the bounds as they are now. After PATIENCE of those in vain all are made exact.
        """
        for trial in count(1):
            weight_N = self.bound_N.cpu().clamp(min=0).double() ** power  # sums in one order on every device
            if not weight_N.any():
                weight_N = (self.bound_N > -torch.inf).cpu().double()
            total_N = weight_N.cumsum(0)
            place = torch.tensor(rng.random(), dtype=torch.float64) * total_N[-1]
            one = int(torch.searchsorted(total_N, place, right=True).clamp(max=len(total_N) - 1))
            bound = self.bound_N[one].item()
            if not weight_N[one]:  # a sum that rounds
                continue
            self.refresh(torch.tensor([one]) if trial % MAX_REJECTIONS else torch.arange(len(self.bound_N)))
            distance = self.bound_N[one].item()
            if bound == distance or rng.random() < (distance / bound) ** power:
                return one
        raise AssertionError

    def split_by_bound(self) -> tuple[Tensor, float]:
        """The candidates with the largest bounds, ascending, and a bound of all others."""
        if len(self.bound_N) <= NUM_ACTIVE:
            return torch.arange(len(self.bound_N)), -math.inf
        values_A, active_A = self.bound_N.topk(NUM_ACTIVE)
        return active_A.sort().values, values_A[-1].item()

    def refresh(self, which: Tensor) -> None:
        """Makes these bounds exact: counts what they lack."""
        first = int(self.num_counted_N[which].min())
        lacking = self.taken_indices[first : self.num_taken]
        for part in which.split(max(1, CHUNK // max(1, len(lacking)))) if len(lacking) else ():
            exact = squared_distance_to_nearest(self.points_ND[part], self.norms_N[part], self.points_ND[lacking])
            self.bound_N[part] = torch.minimum(self.bound_N[part], exact)
        self.num_counted_N[which] = self.num_taken

    def pick_from(self, active_A: Tensor, others: float, rank_N: Tensor) -> None:
        """Picks from these, which are exact, while the best is above all others."""
        points_AD, norms_A, bound_A = self.points_ND[active_A], self.norms_N[active_A], self.bound_N[active_A]
        rank_A = rank_N[active_A]
        while len(self.picks) < self.budget:
            best = int(argmax_by_rank(bound_A, rank_A))
            if bound_A[best].item() <= others:
                break
            taken_K = self.take(int(active_A[best]))
            bound_A = torch.minimum(bound_A, squared_distance_to_nearest(points_AD, norms_A, self.points_ND[taken_K]))
            bound_A[best if self.groups is None else self.bound_N[active_A] == -torch.inf] = -torch.inf
        self.bound_N[active_A] = bound_A
        self.num_counted_N[active_A] = self.num_taken

    def take(self, pick: int) -> Tensor:
        """Notes a pick; the (K,) candidates that it takes."""
        pick_1 = torch.tensor([pick])
        taken_K = self.groups.members_of(pick_1) if self.groups else pick_1
        self.taken_indices[self.num_taken : self.num_taken + len(taken_K)] = taken_K
        self.num_taken += len(taken_K)
        self.picks.append(pick)
        self.bound_N[taken_K] = -torch.inf
        return taken_K
