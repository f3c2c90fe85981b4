"""DCoM: dynamic coverage and margin, mixed by the competence of the model (Mishal and Weinshall, 2024).

Shapes: N images, the labelled ones first; M labelled ones; E features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, Need, View, register

from .shared import features
from .shared.features import SIMCLR, count_within, squared_distances, unit_features
from .shared.ties import argmax_by_rank, ranks_as_tensor
from .shared.uncertainty import one_minus_gap

PURITY = (0.4, 0.2)  # the purity that a ball must have: PURITY[0] + PURITY[1] * coverage, as in the authors' code


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """Returns what the features need, and `predict` and `labels` for margins and pseudo labels."""
    return features.needs(encoder=encoder) | {"predict", "labels"}


@register(needs=needs, needs_without_labels=features.needs, version=1)
def dcom(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    delta: float = 0.6,
    max_delta: float = 1.1,
    centre: float = 0.8,
    steepness: float = 50.0,
) -> Indices:
    """Selects images that cover many others while coverage is low, and images of small margin once it is high.

    Each labelled image covers a ball: the largest one, up to `max_delta`, of whose images the model predicts the share
    `0.4 + 0.2 coverage` to be of the labelled image's class. The competence of the model is a logistic function of the
    share of images covered. Each step selects the image with the largest `competence * margin score + (1 - competence)
    * density`. The margin score is 1 minus the gap between the two largest class probabilities; the density is the
    number of images not covered yet in a ball of the mean radius. Both are scaled to 0..1, the density at each step.

    Args:
        encoder: the frozen encoder whose features are used, at unit length. The paper's are SimCLR's, trained on the
            pool. `null` takes the model's own features.
        delta: the radius of the balls while nothing is labelled, and from which the coverage that sets the purity is
            computed (0.6: the default of the authors' code; 0.75 for CIFAR-10 in ProbCover).
        max_delta: the largest radius (1.1: the authors' code).
        centre: the coverage at which the competence is half its largest value (0.8: the authors' code).
        steepness: how fast the competence rises there, above 0 (50: the authors' code).

    Logs:
        competence: the competence.
        delta: the mean radius of the labelled images' balls.
        was_covered: the share of images covered before the selection.

    References:
        Mishal and Weinshall, DCoM: Active Learning for All Learners (later: Competence-Driven Adaptive Active
            Learning), 2024.

    Deviations:
        All radii are computed anew with the model of the round, since a strategy keeps nothing between rounds; the
        authors' code fixes the radius of an image in the round after its purchase. A radius is exact, whereas that code
        searches it by bisection. That code leaves out the images of the last, partial block of its graph.

    Cost:
        One forward pass per image and one pass of the encoder per image, once. Distances of N images with each other,
        O(N^2 E), at most twice; 2^24 of them in memory.
    """
    if min(delta, max_delta, steepness) <= 0:
        settings = f"delta={delta},max_delta={max_delta},steepness={steepness}"
        raise ValueError(f"dcom[{settings}]: all must be above 0")
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    margin_N, squared_M = torch.zeros_like(points_NE[:, 0]), points_NE.new_zeros(0)
    if num_labelled:
        predictions = view.predict(images)
        if not predictions.one_each:
            raise ValueError("dcom needs one prediction per image: take a classifier, not a detector or a segmenter")
        if not predictions.scores_PC.isfinite().all():
            raise ValueError("dcom: the predictions of the model hold NaN or infinity")
        squared_M = pure_squared_radii(view, points_NE, predictions.scores_PC.argmax(1), delta, max_delta)
        margin_N = to_unit_range(one_minus_gap(predictions.scores_PC).to(points_NE))
    covered_N = covered_by(points_NE, num_labelled, squared_M)
    competence = logistic_competence(covered_N.double().mean().item(), centre, steepness) if num_labelled else 0.0
    radius = squared_M.sqrt().mean().item() if num_labelled else delta
    view.log(competence=competence, delta=radius, was_covered=covered_N.double().mean().item())
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    mix = Mix(points_NE, margin_N, covered_N, competence, radius**2, num_labelled)
    selection: Indices = view.unlabelled[np.array(mix.select(budget, rank_N), np.int64) - num_labelled]
    return selection


def logistic_competence(coverage: float, centre: float, steepness: float) -> float:
    """Returns the competence at this coverage: a logistic function, scaled to 1 at full coverage."""
    return (1 + math.exp(-steepness * (1 - centre))) / (1 + math.exp(-steepness * (coverage - centre)))


def to_unit_range(values_N: Tensor) -> Tensor:
    """Returns the values scaled to 0..1; zeros where they are all equal."""
    low, high = values_N.aminmax()
    return (values_N - low) / (high - low) if high > low else torch.zeros_like(values_N)


def covered_by(points_NE: Tensor, num_labelled: int, squared_M: Tensor) -> Tensor:
    """Returns which images lie in the ball of a labelled image; its squared radius is given for each."""
    covered_N = torch.zeros(len(points_NE), dtype=torch.bool, device=points_NE.device)
    covered_N[:num_labelled] = True
    step = max(1, features.CHUNK // len(points_NE))
    parts = zip(points_NE[:num_labelled].split(step), squared_M.split(step), strict=True) if num_labelled else ()
    for part_BE, squared_B in parts:
        covered_N |= (squared_distances(points_NE, part_BE) < squared_B).any(1)
    return covered_N


def pure_squared_radii(view: View, points_NE: Tensor, predicted_N: Tensor, delta: float, max_delta: float) -> Tensor:
    """Returns the squared radius of the ball of each labelled image, (M,).

    It is the distance of the first image beyond the largest ball that is pure enough, or `max_delta`.
    """
    labels_M = view.labels(view.labelled)
    assert isinstance(labels_M, Tensor)
    num_labelled = len(labels_M)
    coverage = covered_by(points_NE, num_labelled, points_NE.new_full((num_labelled,), delta**2)).double().mean()
    purity = PURITY[0] + PURITY[1] * coverage
    size_N = torch.arange(1, len(points_NE) + 1, device=points_NE.device)
    radii = []
    for point_1E, label in zip(points_NE[:num_labelled].split(1), labels_M, strict=True):
        distance_N, order_N = squared_distances(points_NE, point_1E)[:, 0].sort(stable=True)
        is_pure_N = (predicted_N[order_N] == label).cumsum(0) >= purity * size_N
        beyond_N = torch.cat([distance_N[1:], distance_N.new_full((1,), torch.inf)])
        is_ball_N = is_pure_N & (distance_N < beyond_N)  # images at one distance are in a ball together
        radii.append(beyond_N.where(is_ball_N, 0).amax().clamp(max=max_delta**2))
    return torch.stack(radii)


@dataclass
class Mix:
    """The greedy selection by density and margin."""

    points_NE: Tensor
    margin_N: Tensor  # 0..1
    covered_N: Tensor
    competence: float
    squared: float  # the squared radius of a ball
    num_labelled: int

    def select(self, budget: int, rank_N: Tensor) -> list[int]:
        """Returns the positions of the selected images in order; of equal images the one of the lowest rank."""
        degree_N = count_within(self.points_NE, self.points_NE[~self.covered_N], self.squared)
        is_open_N = torch.ones_like(self.covered_N)
        is_open_N[: self.num_labelled] = False
        picks: list[int] = []
        while len(picks) < budget:
            density_N = to_unit_range(degree_N.where(is_open_N, 0).to(self.margin_N))
            margin_N = self.margin_N.where(is_open_N, 0)
            score_N = self.competence * margin_N + (1 - self.competence) * density_N
            pick = int(argmax_by_rank(score_N.where(is_open_N, -torch.inf), rank_N))
            new_N = squared_distances(self.points_NE, self.points_NE[pick : pick + 1])[:, 0] < self.squared
            new_N &= ~self.covered_N
            self.covered_N |= new_N
            if new_N.any():
                degree_N -= count_within(self.points_NE, self.points_NE[new_N], self.squared)
            is_open_N[pick] = False
            picks.append(pick)
        return picks
