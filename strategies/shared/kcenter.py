"""Greedy k-center (Sener and Savarese, 2018, Algorithm 1), and farthest-first selection by any distance.

Shapes: N candidates, M centres, A active candidates, D features, G groups of at most K candidates.
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

CHUNK = 2**24  # distances in memory at once
NUM_ACTIVE = 1024  # candidates whose distances `LazyDistances` keeps exact
MAX_REJECTIONS = 16  # draws by bounds that may fail before all distances are made exact


def k_center_greedy(
    candidates_ND: Tensor, centres_MD: Tensor, budget: int, rank_N: Tensor, *,
    groups: Groups | None = None, first: int = 0,
) -> Tensor:  # fmt: skip
    """Returns positions of `budget` candidates in order, each the farthest from all centres so far.

    The result is exact and takes O(N D) memory. On a GPU each selected candidate costs one product, and the CPU waits
    for the GPU only at the end. On a CPU, which would spend its time on reading N D numbers per selected candidate,
    `LazyDistances` computes fewer distances. Squared distances come from norms and one product. The features are
    centred at the mean of the candidates, which changes no distance and makes rounding errors smaller. An error of
    about eps |x|^2 remains, so near duplicates of a centre may not be at distance 0; a selected candidate is set to
    -inf and never selected again.

    Args:
        candidates_ND: features of the candidates.
        centres_MD: features of the first centres; M may be 0.
        budget: number of candidates to select, at most N.
        rank_N: of equally far candidates the one with the lowest rank is selected.
        groups: the candidates of a group are selected together and all become centres.
        first: the first selected candidate where there are no centres.
    """
    assert budget <= len(candidates_ND)
    initial = InitialDistances.measure(candidates_ND, centres_MD, first)
    select = pick_exactly if candidates_ND.is_cuda else pick_lazily
    return select(initial.points_ND, initial.norms_N, initial.distance_N, rank_N, budget, groups)


@dataclass(frozen=True)
class InitialDistances:
    """The candidates, centred at their mean, and their squared distances from the first centres."""

    points_ND: Tensor
    norms_N: Tensor
    distance_N: Tensor  # squared, to the nearest centre; without centres: infinity for the first pick, else huge

    @classmethod
    def measure(cls, candidates_ND: Tensor, centres_MD: Tensor, first: int) -> InitialDistances:
        """Measures the distances; raises ValueError for NaN or infinity in the features."""
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
            raise ValueError("k-center: the features hold NaN or infinity")
        if not parts:
            distance_N = torch.full_like(norms_N, torch.finfo(norms_N.dtype).max)
            distance_N[first] = torch.inf
        return cls(points_ND, norms_N, distance_N)


@dataclass(frozen=True)
class Groups:
    """Candidates that are selected together, such as those of one image."""

    group_N: Tensor  # the group of each candidate
    members_GK: Tensor  # the candidates of each group; a group of fewer than K repeats its first

    @classmethod
    def from_labels(cls, group_N: Tensor) -> Groups:
        """Builds the groups from the group of each candidate: ascending, 0..G-1, each with at least one candidate."""
        counts_G = group_N.bincount()
        column_K = torch.arange(int(counts_G.max()), device=group_N.device)
        first_G1 = (counts_G.cumsum(0) - counts_G)[:, None]
        return cls(group_N, torch.where(column_K < counts_G[:, None], first_G1 + column_K, first_G1))

    def members_of(self, pick_1: Tensor) -> Tensor:
        """Returns the candidates in the group of a selected one, (K,)."""
        return self.members_GK[self.group_N[pick_1]].flatten()


def pick_exactly(
    points_ND: Tensor, norms_N: Tensor, distance_N: Tensor, rank_N: Tensor, budget: int, groups: Groups | None = None
) -> Tensor:
    """Returns `budget` positions; every distance is computed again after each of them."""

    def distance_to(centres_K: Tensor) -> Tensor:
        return squared_distance_to_nearest(points_ND, norms_N, points_ND.index_select(0, centres_K))

    return farthest_first(distance_N, budget, rank_N, distance_to, groups)


def farthest_first(
    distance_N: Tensor,
    budget: int,
    rank_N: Tensor,
    distance_to: Callable[[Tensor], Tensor],
    groups: Groups | None = None,
) -> Tensor:
    """Selects the candidate that is farthest from all centres, makes it a centre, and so on; never waits for the GPU.

    Args:
        distance_N: distance of each candidate to the nearest centre; -inf for one that must not be selected.
        budget: number of candidates to select.
        rank_N: of equally far candidates the one with the lowest rank is selected.
        distance_to: maps the positions of the new centres, (K,), to the distance of each candidate to the nearest of
            them.
        groups: the candidates of a group are selected together; K is 1 without groups.

    Returns:
        (budget,) positions, in order.
    """
    picks = torch.empty(budget, dtype=torch.int64, device=distance_N.device)
    for number in range(budget):
        picks[number : number + 1] = pick_1 = argmax_by_rank(distance_N, rank_N)
        centres_K = groups.members_of(pick_1) if groups else pick_1
        distance_N = torch.minimum(distance_N, distance_to(centres_K))
        distance_N.index_fill_(0, centres_K, -torch.inf)
    return picks


def pick_lazily(
    points_ND: Tensor, norms_N: Tensor, distance_N: Tensor, rank_N: Tensor, budget: int, groups: Groups | None = None
) -> Tensor:
    """Returns the positions that `pick_exactly` returns, by `LazyDistances`."""
    return LazyDistances(points_ND, norms_N, distance_N, budget, groups).pick(rank_N)


def draw_by_distance(
    candidates_ND: Tensor, centres_MD: Tensor, budget: int, rng: np.random.Generator, *,
    power: float, groups: Groups, first: int,
) -> Tensor:  # fmt: skip
    """Returns positions of `budget` candidates, each drawn with probability proportional to squared distance ** power.

    Centres and groups are those of `k_center_greedy`. Where all remaining candidates are at distance 0, any of them is
    drawn.
    """
    initial = InitialDistances.measure(candidates_ND, centres_MD, first)
    state = LazyDistances(initial.points_ND, initial.norms_N, initial.distance_N, budget, groups)
    if not len(centres_MD):
        state.take(first)
        state.refresh(torch.arange(len(state.bound_N)))
    while len(state.picks) < budget:
        state.take(state.draw(rng, power))
    return torch.tensor(state.picks)


def squared_distance_to_nearest(points_ND: Tensor, norms_N: Tensor, centres_MD: Tensor) -> Tensor:
    """Returns the squared distance from each point to the nearest centre, (N,)."""
    relative_NM = torch.addmm(centres_MD.square().sum(1), points_ND, centres_MD.T, alpha=-2)
    return (relative_NM.amin(1) + norms_N).clamp_(min=0)


@dataclass
class LazyDistances:
    """Selects candidates by their distances, which are made exact only where the selection depends on it.

    Distances to the nearest centre only shrink, so an outdated distance is an upper bound. The NUM_ACTIVE candidates
    with the largest bounds are made exact in one product. As long as the best of them is above all other bounds, it is
    the farthest of all, and a step costs A D instead of N D. Otherwise all distances are made exact at once.
    """

    points_ND: Tensor
    norms_N: Tensor
    bound_N: Tensor  # squared distance to the nearest centre taken into account so far; -inf for taken candidates
    budget: int
    groups: Groups | None = None
    num_taken: int = 0  # candidates that are centres so far
    picks: list[int] = field(default_factory=list)
    taken_indices: Tensor = field(init=False)  # these candidates, in order; with groups they are more than the picks
    num_counted_N: Tensor = field(init=False)  # how many of `taken_indices` each bound takes into account

    def __post_init__(self) -> None:
        group_size = self.groups.members_GK.shape[1] if self.groups else 1
        self.taken_indices = torch.empty(self.budget * group_size, dtype=torch.int64)
        self.num_counted_N = torch.zeros(len(self.points_ND), dtype=torch.int64)

    def pick(self, rank_N: Tensor) -> Tensor:
        """Returns `budget` positions; of equally far candidates the one with the lowest rank is selected."""
        while len(self.picks) < self.budget:
            active_A, other_bound = self.split_by_bound()
            self.refresh(active_A)
            if self.bound_N[active_A].max().item() <= other_bound:
                self.refresh(torch.arange(len(self.bound_N)))
                active_A, other_bound = self.split_by_bound()
            if self.bound_N[active_A].max().item() > other_bound:
                self.pick_from(active_A, other_bound, rank_N)
            else:  # more ties than active candidates
                self.take(int(argmax_by_rank(self.bound_N, rank_N)))
        return torch.tensor(self.picks)

    def draw(self, rng: np.random.Generator, power: float) -> int:
        """Draws a candidate with probability proportional to its distance ** power, exactly, by rejection.

        A candidate is drawn by its bound, its distance is made exact, and it is accepted with probability (distance /
        bound) ** power. Otherwise another one is drawn by the bounds as they are now. After MAX_REJECTIONS rejections
        all distances are made exact.
        """
        for attempt in count(1):
            weight_N = self.bound_N.cpu().clamp(min=0).double() ** power  # sums in one order on every device
            if not weight_N.any():
                weight_N = (self.bound_N > -torch.inf).cpu().double()
            total_N = weight_N.cumsum(0)
            position = torch.tensor(rng.random(), dtype=torch.float64) * total_N[-1]
            candidate = int(torch.searchsorted(total_N, position, right=True).clamp(max=len(total_N) - 1))
            bound = self.bound_N[candidate].item()
            if not weight_N[candidate]:  # drawn by a rounding error of the sums
                continue
            self.refresh(torch.tensor([candidate]) if attempt % MAX_REJECTIONS else torch.arange(len(self.bound_N)))
            distance = self.bound_N[candidate].item()
            if bound == distance or rng.random() < (distance / bound) ** power:
                return candidate
        raise AssertionError

    def split_by_bound(self) -> tuple[Tensor, float]:
        """Returns the candidates with the largest bounds, ascending, and an upper bound of the other distances."""
        if len(self.bound_N) <= NUM_ACTIVE:
            return torch.arange(len(self.bound_N)), -math.inf
        values_A, active_A = self.bound_N.topk(NUM_ACTIVE)
        return active_A.sort().values, values_A[-1].item()

    def refresh(self, which: Tensor) -> None:
        """Makes the bounds of these candidates exact: takes all further centres into account."""
        first = int(self.num_counted_N[which].min())
        new_centres = self.taken_indices[first : self.num_taken]
        for part in which.split(max(1, CHUNK // max(1, len(new_centres)))) if len(new_centres) else ():
            exact = squared_distance_to_nearest(self.points_ND[part], self.norms_N[part], self.points_ND[new_centres])
            self.bound_N[part] = torch.minimum(self.bound_N[part], exact)
        self.num_counted_N[which] = self.num_taken

    def pick_from(self, active_A: Tensor, other_bound: float, rank_N: Tensor) -> None:
        """Selects from the active candidates, whose distances are exact, while the best is above `other_bound`."""
        points_AD, norms_A, bound_A = self.points_ND[active_A], self.norms_N[active_A], self.bound_N[active_A]
        rank_A = rank_N[active_A]
        while len(self.picks) < self.budget:
            best = int(argmax_by_rank(bound_A, rank_A))
            if bound_A[best].item() <= other_bound:
                break
            taken_K = self.take(int(active_A[best]))
            bound_A = torch.minimum(bound_A, squared_distance_to_nearest(points_AD, norms_A, self.points_ND[taken_K]))
            bound_A[best if self.groups is None else self.bound_N[active_A] == -torch.inf] = -torch.inf
        self.bound_N[active_A] = bound_A
        self.num_counted_N[active_A] = self.num_taken

    def take(self, pick: int) -> Tensor:
        """Records a selected candidate; returns the candidates of its group, (K,)."""
        pick_1 = torch.tensor([pick])
        taken_K = self.groups.members_of(pick_1) if self.groups else pick_1
        self.taken_indices[self.num_taken : self.num_taken + len(taken_K)] = taken_K
        self.num_taken += len(taken_K)
        self.picks.append(pick)
        self.bound_N[taken_K] = -torch.inf
        return taken_K
