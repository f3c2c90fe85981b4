"""Greedy maximisation of coverage by a Gaussian kernel (Bae et al., 2024): exact, lazy, without a matrix of all pairs.

Shapes: N images, the labelled ones first; A active candidates; B rows and M columns of the kernel; E features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .ties import argmax_by_rank

BLOCK = 2048  # images on each side of a block of the kernel
NUM_ACTIVE = 4096  # candidates whose gains `GaussianCoverage` keeps exact
SMALL = 0.01  # gains below this share of the largest are computed anew: each difference adds a rounding error
ROUNDING = 1e-6  # squared distances below it count as 0; gains that differ by less, relative to the largest, are equal


def maximise_coverage(
    points_NE: Tensor, weight_N: Tensor, num_labelled: int, radius: float, budget: int, rank_N: Tensor
) -> CoverageResult:
    """Selects `budget` images that cover the pool, weighted, as well as possible.

    The coverage of image j by a set S is `max_{i in S} k(x_i, x_j)`, with `k(x, y) = exp(-|x - y|^2 / radius^2)`. S
    starts with the labelled images. Each step selects the image that raises `sum_j weight_j coverage_j` most; of equal
    images the one of the lowest rank.
    """
    state = GaussianCoverage(points_NE, weight_N, radius)
    state.cover(torch.arange(num_labelled, device=points_NE.device))
    state.bound_N[:num_labelled] = -torch.inf
    was_covered = state.mean_coverage()
    while len(state.picks) < budget:
        state.refresh()
        state.pick_from_active(budget, rank_N)
    return CoverageResult(state.picks, was_covered, state.mean_coverage())


@dataclass(frozen=True)
class CoverageResult:
    """The positions of the selected images in order, and the weighted mean coverage before and after."""

    picks: list[int]
    was_covered: float
    coverage: float


@dataclass
class GaussianCoverage:
    """The coverage of all images, and what each candidate would add to it, exactly or as an upper bound.

    Coverage only grows, so gains only shrink, and an outdated gain is an upper bound. A pick changes the coverage of
    those images alone that are nearer to it than to all earlier ones: few after the first picks. What a gain has lost
    since it was exact lies in their columns of the kernel.
    """

    points_NE: Tensor
    weight_N: Tensor
    radius: float
    picks: list[int] = field(default_factory=list)
    covered_N: Tensor = field(init=False)
    counted_N: Tensor = field(init=False)  # the coverage that the bounds take into account
    bound_N: Tensor = field(init=False)  # float64; -inf for labelled and selected images
    is_exact_N: Tensor = field(init=False)  # bounds that take the whole coverage into account
    largest: float = 0.0  # the largest gain when all gains were last computed anew

    def __post_init__(self) -> None:
        self.points_NE = self.points_NE * (2**0.5 / self.radius)  # the exponent is then x.y - |x|^2 / 2 - |y|^2 / 2
        self.offset_N = (self.points_NE.square().sum(1) - ROUNDING / self.radius**2) / 2
        self.covered_N = torch.zeros_like(self.offset_N)
        self.counted_N = torch.full_like(self.offset_N, -1)
        self.bound_N = torch.zeros_like(self.offset_N, dtype=torch.float64)
        self.is_exact_N = torch.zeros_like(self.offset_N, dtype=torch.bool)
        self.everything = torch.arange(len(self.offset_N), device=self.offset_N.device)

    def mean_coverage(self) -> float:
        """Returns the mean of the coverage, weighted."""
        total = self.weight_N.sum(dtype=torch.float64).clamp(min=torch.finfo(torch.float32).tiny)
        return ((self.weight_N * self.covered_N).sum(dtype=torch.float64) / total).item()

    def kernel(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns the kernel between these images, (B, M)."""
        exponent_BM = torch.addmm(self.offset_N[columns], self.points_NE[rows], self.points_NE[columns].T, beta=-1)
        return exponent_BM.sub_(self.offset_N[rows][:, None]).clamp_(max=0).exp_()

    def cover(self, images: Tensor) -> Tensor:
        """Raises the coverage to that by these images too; returns the coverage before, (N,)."""
        before_N = self.covered_N.clone()
        for rows in images.split(BLOCK) if len(images) else ():
            for columns in self.everything.split(BLOCK):
                nearest_M = self.kernel(rows, columns).amax(0)
                self.covered_N[columns] = torch.maximum(self.covered_N[columns], nearest_M)
        return before_N

    def refresh(self) -> None:
        """Makes all bounds exact."""
        columns = (self.covered_N > self.counted_N).nonzero()[:, 0]
        is_large = len(columns) > len(self.everything) / 2
        if not is_large:
            rows = (~self.is_exact_N).nonzero()[:, 0]
            self.bound_N[rows] -= self.lost_gains(rows, columns, self.counted_N)
        if is_large or self.bound_N.max().item() < SMALL * self.largest:
            self.bound_N = self.all_gains().where(self.bound_N > -torch.inf, -torch.inf)
            self.largest = self.bound_N.max().item()
        self.counted_N = self.covered_N.clone()
        self.is_exact_N[:] = False  # coverage grows with the next pick

    def all_gains(self) -> Tensor:
        """Returns the gains of all images, (N,); the kernel is symmetric, so each block of it is computed once."""
        gain_N = torch.zeros_like(self.bound_N)
        blocks = self.everything.split(BLOCK)
        for number, rows in enumerate(blocks):
            for columns in blocks[number:]:
                kernel_BM = self.kernel(rows, columns)
                if columns is not rows:
                    rise_BM = (kernel_BM - self.covered_N[rows][:, None]).clamp_(min=0)
                    gain_N[columns] += self.weight_N[rows] @ rise_BM
                gain_N[rows] += kernel_BM.sub_(self.covered_N[columns]).clamp_(min=0) @ self.weight_N[columns]
        return gain_N

    def lost_gains(self, rows: Tensor, columns: Tensor, before_N: Tensor) -> Tensor:
        """Returns what the rise of these columns from the coverage `before_N` takes from the gains of rows, (B,)."""
        lost_B = torch.zeros(len(rows), dtype=self.bound_N.dtype, device=rows.device)
        for columns_M in columns.split(BLOCK) if len(columns) else ():
            for part_B, part in zip(lost_B.split(BLOCK), rows.split(BLOCK), strict=True):
                kernel_BM = torch.minimum(self.kernel(part, columns_M), self.covered_N[columns_M])
                part_B += kernel_BM.sub_(before_N[columns_M]).clamp_(min=0) @ self.weight_N[columns_M]
        return lost_B

    def pick_from_active(self, budget: int, rank_N: Tensor) -> None:
        """Selects from the candidates with the largest bounds, while the best is above all others.

        The bounds must be exact at the start.
        """
        other_bound, active_A = -math.inf, self.everything
        if len(active_A) > NUM_ACTIVE:
            values_A, active_A = self.bound_N.topk(NUM_ACTIVE)
            other_bound = values_A[-1].item()
            if math.isclose(values_A[0].item(), other_bound, rel_tol=ROUNDING):  # more ties than active candidates
                active_A, other_bound = self.everything, -math.inf
        gain_A, rank_A = self.bound_N[active_A], rank_N[active_A]
        while len(self.picks) < budget:
            best = gain_A.max().item()
            threshold = best - ROUNDING * abs(best)
            if threshold <= other_bound or best < SMALL * self.largest:
                break
            position = argmax_by_rank((gain_A >= threshold).to(torch.int8), rank_A)
            pick = active_A[position]
            self.picks.append(int(pick))
            self.bound_N[pick] = -torch.inf
            before_N = self.cover(pick)
            gain_A -= self.lost_gains(active_A, (self.covered_N > before_N).nonzero()[:, 0], before_N)
            gain_A[position] = -torch.inf
        self.bound_N[active_A] = gain_A
        self.is_exact_N[active_A] = True
