"""Farthest-first selection, and drawing by distance, over rows that lie on disk and do not fit into memory.

Distances to the nearest centre only shrink, so an outdated distance is an upper bound, and only rows whose bounds are
among the largest are read again. Distances are computed in double precision: products of numbers in half precision are
exact there, and so are their sums unless the numbers differ by many orders of magnitude, so rounding decides nothing.

Shapes: N rows, A rows of a part, D features, K centres, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Indices, Rows

from .kcenter import squared_distance_to_nearest
from .ties import argmax_by_rank

BLOCK = 4096  # rows that are compared with centres at once
PART_SIZES = (2**18, 2**11)  # rows held in memory as stored, and rows held in double precision with exact distances
MAX_CENTRES = 1024  # centres that rows are compared with at once
SAME_AGE = 256  # rows that are compared with the same centres, although some of them have met the first few before
CPU = torch.device("cpu")
NUM_DRAWS = 64  # drawn at once by bounds
MIN_ACCEPTED = 0.05  # share of draws that are accepted; below, all distances are made exact

Pair: TypeAlias = tuple[float, int]  # a bound and a rank: of two rows the one with the larger bound, then lower rank
NOTHING: Pair = (-math.inf, -1)


Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # from (A, D) rows and (K, D) centres to (A,)


def euclidean(points_AD: Tensor, centres_KD: Tensor) -> Tensor:
    """Returns the squared distance from each point to the nearest centre, (A,)."""
    return squared_distance_to_nearest(points_AD, points_AD.square().sum(1), centres_KD)


def cosine(points_AD: Tensor, centres_KD: Tensor) -> Tensor:
    """Returns the same on vectors scaled to unit length, where |a - b|^2 is 2 (1 - cos)."""
    return euclidean(F.normalize(points_AD), F.normalize(centres_KD))


def widen(rows_AD: Tensor) -> Tensor:
    """Returns rows in double precision; by way of single precision, as torch is slow at it otherwise."""
    return rows_AD.float().double()


@dataclass
class Centres:
    """The rows that distances are measured to, in order; they fit into memory.

    Args:
        rows_KD: in double precision; more than `num` where room is kept.
        num: how many there are.
    """

    rows_KD: Tensor
    num: int = field(init=False)

    def __post_init__(self) -> None:
        self.num = len(self.rows_KD)

    def append(self, rows_KD: Tensor) -> Tensor:
        """Adds centres; returns them."""
        end = self.num + len(rows_KD)
        if end > len(self.rows_KD):
            self.rows_KD = torch.cat([self.rows_KD, self.rows_KD.new_empty(max(end, 1024), self.rows_KD.shape[1])])
        self.rows_KD[self.num : end] = rows_KD
        self.num = end
        return rows_KD

    def since(self, first: int) -> tuple[Tensor, ...]:
        """Returns the centres after the first ones, in parts of at most MAX_CENTRES."""
        new_KD = self.rows_KD[first : self.num]
        return new_KD.split(MAX_CENTRES) if len(new_KD) else ()


@dataclass
class Part:
    """Some rows, with what is known of their distances.

    Args:
        indices_A: their numbers, ascending.
        bound_A: squared distance to the nearest of the centres that it takes into account; -inf for no candidate.
        num_counted_A: how many centres that are: the first so many.
    """

    indices_A: Tensor
    bound_A: Tensor
    num_counted_A: Tensor

    def select(self, positions: Tensor, device: torch.device) -> Part:
        """Returns a copy of some rows, on a device."""
        values = (self.indices_A, self.bound_A, self.num_counted_A)
        return Part(*(value[positions].to(device) for value in values))

    def update(self, positions: Tensor, part: Part) -> None:
        """Takes over what has become known of some rows."""
        self.bound_A[positions] = part.bound_A.to(self.bound_A.device)
        self.num_counted_A[positions] = part.num_counted_A.to(self.bound_A.device)


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory, as a `Rows`."""

    rows_AD: Tensor

    def __len__(self) -> int:
        """Returns their number."""
        return len(self.rows_AD)

    def take(self, indices_A: Tensor) -> Tensor:
        """Returns the rows of these numbers."""
        return self.rows_AD[indices_A]

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the number of the first row, and at most `size` rows, in order."""
        yield from ((start, self.rows_AD[start : start + size]) for start in range(0, len(self), size))


@dataclass
class LazyRows:
    """Selects rows by their squared distance to the nearest centre; each selected row becomes a centre.

    Args:
        rows: all rows.
        bound_N: infinity for candidates, -inf for rows that must not be selected; changed in place.
        centres: the first centres, which may be none.
        rank_G: the rank of each group; of groups that are equally far the one with the lowest is selected.
        starts_G: the first row of each group; None where each row is a group. A group is selected by its farthest row,
            and all its rows become centres.
        distance: how rows and centres are compared.
        device: where distances are computed.
    """

    rows: Rows
    bound_N: Tensor
    centres: Centres
    rank_G: Tensor
    starts_G: Tensor | None = None
    distance: Distance = euclidean
    device: torch.device = CPU
    picks: list[int] = field(default_factory=list)  # groups, in order
    all_rows: Part = field(init=False)
    is_taken_G: Tensor = field(init=False)

    def __post_init__(self) -> None:
        num_counted_N = torch.zeros(len(self.bound_N), dtype=torch.int32)
        self.all_rows = Part(torch.arange(len(self.bound_N)), self.bound_N, num_counted_N)
        self.is_taken_G = torch.zeros(len(self.rank_G), dtype=torch.bool)

    # --- the farthest first -------------------------------------------------------------------
    def pick_farthest(self, budget: int) -> Indices:
        """Returns `budget` groups in order, each that of the row that is farthest from all centres so far.

        There must be a centre, or a group that is taken already.
        """
        self.refresh_all()
        self.pick_from(self.all_rows, self.rows, PART_SIZES, NOTHING, budget)
        assert len(self.picks) == budget
        return np.array(self.picks)

    def pick_from(self, part: Part, rows: Rows, sizes: Sequence[int], others: Pair, budget: int) -> None:
        """Selects from a part while its best row is better than `others`, the best that rows outside it may be.

        The rows of the part that come first by bound and rank become a part of their own, from which rows are selected
        while they are better than all others; and so on, down to a part whose distances are all made exact.
        """
        while len(self.picks) < budget and self.is_better(part, others):
            first, rest = self.first_by_bound(part, sizes[0])
            inner = part.select(first, self.device)
            inner_rows = rows.take(first).to(self.device)
            limit = max(others, rest, key=lambda pair: (pair[0], -pair[1]))
            if len(sizes) > 1:
                self.pick_from(inner, HeldRows(inner_rows), sizes[1:], limit, budget)
            else:
                self.pick_exactly(inner, widen(inner_rows), limit, budget)
            part.update(first, inner)

    def first_by_bound(self, part: Part, size: int) -> tuple[Tensor, Pair]:
        """Returns the positions of the first `size` rows by bound and rank, ascending, and the best of the others."""
        if len(part.bound_A) <= size:
            return torch.arange(len(part.bound_A), device=part.bound_A.device), NOTHING
        last = part.bound_A.topk(size + 1, sorted=False).values.min()
        above, ties = (part.bound_A > last).nonzero()[:, 0], (part.bound_A == last).nonzero()[:, 0]
        rank_A = self.ranks_of(part.indices_A[ties])
        order = rank_A.argsort(stable=True)
        num_ties = size - len(above)
        first = torch.cat([above, ties[order[:num_ties]]]).sort().values
        return first, (last.item(), int(rank_A[order[num_ties]]))

    def is_better(self, part: Part, others: Pair) -> bool:
        """Whether the best row of a part, by bound and rank, is a candidate and no worse than `others`."""
        best = part.bound_A.max()
        if best == -torch.inf or best != others[0]:
            return best.item() > others[0]
        return int(self.ranks_of(part.indices_A[part.bound_A == best]).min()) <= others[1]

    def pick_exactly(self, part: Part, points_AD: Tensor, others: Pair, budget: int) -> None:
        """Selects from a part whose rows are all at hand; see `pick_from`."""
        self.refresh(part, points_AD)
        group_A, rank_A = self.groups_of(part.indices_A), self.ranks_of(part.indices_A)
        while len(self.picks) < budget and self.is_better(part, others):
            group = int(group_A[argmax_by_rank(part.bound_A, rank_A)])
            new_KD = self.take(group)
            part.bound_A = torch.minimum(part.bound_A, self.distance(points_AD, new_KD))
            part.bound_A[group_A == group] = -torch.inf
        part.num_counted_A[:] = self.centres.num

    def groups_of(self, indices_A: Tensor) -> Tensor:
        """Returns the groups of rows, (A,)."""
        if self.starts_G is None:
            return indices_A
        return torch.searchsorted(self.starts_G.to(indices_A.device), indices_A, right=True) - 1

    def ranks_of(self, indices_A: Tensor) -> Tensor:
        """Returns the ranks of the groups of rows, (A,)."""
        return self.rank_G[self.groups_of(indices_A).cpu()].to(indices_A.device)

    def take(self, group: int) -> Tensor:
        """Records a selected group; returns its rows, which are centres now, (K, D)."""
        members_K = torch.tensor([group])
        if self.starts_G is not None:
            end = self.starts_G[group + 1] if group + 1 < len(self.starts_G) else len(self.bound_N)
            members_K = torch.arange(int(self.starts_G[group]), int(end))
        self.picks.append(group)
        self.is_taken_G[group] = True
        self.bound_N[members_K] = -torch.inf
        return self.centres.append(widen(self.rows.take(members_K).to(self.device)))

    # --- exact distances ----------------------------------------------------------------------
    def refresh_all(self) -> None:
        """Makes all distances exact, in one pass over the rows."""
        for start, block in self.rows.blocks(BLOCK):
            positions = torch.arange(start, start + len(block))
            points_AD = widen(block.to(self.device))
            if not points_AD.isfinite().all():
                raise ValueError("the stored features or predictions hold NaN or infinity")
            part = self.all_rows.select(positions, self.device)
            self.refresh(part, points_AD)
            self.all_rows.update(positions, part)

    def refresh(self, part: Part, points_AD: Tensor) -> None:
        """Makes the distances of a part exact: takes all further centres into account."""
        part.bound_A[self.is_taken_G[self.groups_of(part.indices_A).cpu()].to(part.bound_A.device)] = -torch.inf
        oldest, newest = part.num_counted_A.aminmax()
        if oldest == newest:
            for centres_KD in self.centres.since(int(oldest)):
                part.bound_A = torch.minimum(part.bound_A, self.distance(points_AD, centres_KD))
        else:
            for positions in part.num_counted_A.argsort(stable=True).split(SAME_AGE):
                for centres_KD in self.centres.since(int(part.num_counted_A[positions[0]])):
                    exact = self.distance(points_AD[positions], centres_KD)
                    part.bound_A[positions] = torch.minimum(part.bound_A[positions], exact)
        part.num_counted_A[:] = self.centres.num

    # --- drawing ------------------------------------------------------------------------------
    def draw(self, budget: int, rng: np.random.Generator) -> Indices:
        """Returns `budget` rows, each drawn with probability proportional to its squared distance, exactly.

        Rows are drawn by their bounds, their distances are made exact, and the first is taken that is accepted, with
        probability distance / bound. Where all candidates are at distance 0, any of them is drawn. There must be a
        centre, or a row that is taken already; rows are no groups.
        """
        self.refresh_all()
        while len(self.picks) < budget:
            drawn_A, is_accepted_A = self.draw_by_bounds(rng)
            if is_accepted_A.any():
                self.take(int(drawn_A[is_accepted_A][0]))
            if is_accepted_A.double().mean() < MIN_ACCEPTED:
                self.refresh_all()
        return np.array(self.picks)

    def draw_by_bounds(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Returns rows that are drawn by their bounds, and which of them are accepted."""
        weight_N = self.bound_N.clamp(min=0)
        total_N = weight_N.cumsum(0)
        if total_N[-1] == 0:
            weight_N = (self.bound_N > -torch.inf).double()
            total_N = weight_N.cumsum(0)
        where_A = torch.from_numpy(rng.random(NUM_DRAWS)) * total_N[-1]
        drawn_A = torch.searchsorted(total_N, where_A, right=True).clamp(max=len(total_N) - 1)
        before_A, part = self.bound_N[drawn_A], self.all_rows.select(drawn_A, self.device)
        self.refresh(part, widen(self.rows.take(drawn_A).to(self.device)))
        self.all_rows.update(drawn_A, part)
        share_A = torch.where(before_A > 0, self.bound_N[drawn_A] / before_A, 1.0)
        is_accepted_A = torch.from_numpy(rng.random(NUM_DRAWS)) < share_A
        return drawn_A, is_accepted_A & (weight_N[drawn_A] > 0)
