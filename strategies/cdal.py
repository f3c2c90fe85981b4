"""Contextual diversity, CDAL-CS (Agarwal et al., 2020).

Shapes: N images, the labelled ones first; M centres; P predictions; R mixtures; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, Predictions, View, register

from .shared.kcenter import farthest_first
from .shared.ties import ranks_as_tensor

CHUNK = 2**24  # distances in memory at once
MIN_WEIGHT = 1e-12  # in nats; the smallest weight, so that an image with only certain predictions has a mixture


@register(needs={"predict"}, version=2)
def cdal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    by_class: bool = True,
    how: Literal["mean", "sum"] = "mean",
) -> Indices:
    """Selects images by greedy k-center under contextual diversity, with the labelled images as first centres.

    An image is described by one mixture for each class predicted in it: the mean of the probability vectors of the
    predictions of that class, weighted by their entropies. The distance of two images is the symmetric divergence
    `(KL(p|q) + KL(q|p)) / 2`, in nats, between their mixtures for a class, over the classes that both have. A
    classifier makes one prediction per image: that is one mixture, whatever the class.

    Args:
        by_class: `true`, the paper's, builds one mixture for each predicted class; `false` mixes all predictions of an
            image, as the authors' code does for detectors.
        how: how the divergences of the shared classes become one distance: `mean` as in the authors' code, `sum` as in
            the paper.

    References:
        Agarwal, Arora, Anand and Arora, Contextual Diversity for Active Learning, ECCV 2020.

    Deviations:
        Images that share no class are not compared, and an image that shares no class with any centre comes first;
        published code gives it distance 0, which puts it last. Images without predictions come last, in random order.
        The first image is the farthest, whereas published code draws it at random although the distances are known. A
        probability of 0 counts as the smallest positive number, whereas that code leaves the class out. Background is
        one more column of the probabilities, but no class.

    Cost:
        One forward pass per image, labelled images included. With R mixtures (one per image on a classifier), at most
        O(R C) time per labelled image and per selected image, and O(R C) memory.
    """
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    predictions = view.predict(images)
    rank_N = ranks_as_tensor(view.tie_ranks(images), predictions.scores_PC)
    picks = pick_farthest(build_mixtures(predictions, by_class), num_labelled, budget, how, rank_N)
    others = np.setdiff1d(np.arange(num_labelled, predictions.num_images), picks)
    random_picks = rng.choice(others, budget - len(picks), replace=False)
    selection: Indices = view.unlabelled[np.concatenate([np.array(picks, np.int64), random_picks]) - num_labelled]
    return selection


@dataclass
class Mixtures:
    """The mixtures of all images, sorted by class and then by image; an image has at most one for each class."""

    p_RC: Tensor
    class_R: Tensor
    image_R: Tensor
    num_images: int
    log_RC: Tensor = field(init=False)
    negentropy_R: Tensor = field(init=False)
    rows: dict[int, slice] = field(init=False)  # the rows of each class

    def __post_init__(self) -> None:
        self.log_RC = self.p_RC.clamp(min=torch.finfo(self.p_RC.dtype).tiny).log()
        self.negentropy_R = (self.p_RC * self.log_RC).sum(1)
        labels, counts = self.class_R.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        bounds = zip(labels.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        self.rows = {label: slice(start, end) for label, start, end in bounds}

    def divergence(self, rows: slice, others: Tensor) -> Tensor:
        """Returns the symmetric divergence between mixtures, (rows, others): sum_c (p - q) (log p - log q) / 2.

        The product is multiplied out into two matrix products.
        """
        own = self.negentropy_R[rows][:, None] + self.negentropy_R[others]
        cross = self.p_RC[rows] @ self.log_RC[others].T + self.log_RC[rows] @ self.p_RC[others].T
        return (own - cross).clamp_(min=0) / 2

    def distance_to_nearest(self, centres_M: Tensor, how: Literal["mean", "sum"]) -> Tensor:
        """Returns the distance of each image to the nearest of these centres, (N,); infinite without a shared class."""
        column_N = torch.full((self.num_images,), -1, device=self.p_RC.device)
        column_N[centres_M] = torch.arange(len(centres_M), device=self.p_RC.device)
        column_R = column_N[self.image_R]
        total_NM = self.p_RC.new_zeros(self.num_images, len(centres_M))
        shared_NM = torch.zeros_like(total_NM)
        is_centre = (column_R >= 0).nonzero().squeeze(1)
        for label in self.class_R[is_centre].unique().tolist():
            others = is_centre[self.class_R[is_centre] == label]
            cells = (self.image_R[self.rows[label]][:, None], column_R[others])
            total_NM[cells] += self.divergence(self.rows[label], others)
            shared_NM[cells] += 1
        distance_NM = total_NM / shared_NM if how == "mean" else total_NM
        return distance_NM.where(shared_NM > 0, torch.inf).amin(1)


def build_mixtures(predictions: Predictions, by_class: bool) -> Mixtures:
    """Returns the mixtures of each image; an image without predictions has none."""
    p_PC, num_images = predictions.scores_PC, predictions.num_images
    if not p_PC.isfinite().all():
        raise ValueError("cdal: the predictions hold NaN or infinity")
    label_P = (p_PC if predictions.boxes_P4 is None else p_PC[:, :-1]).argmax(1)
    if predictions.one_each or not by_class:
        label_P = torch.zeros_like(label_P)
    key_R, row_P = (label_P * num_images + predictions.image_P).unique(return_inverse=True)
    weight_P = torch.special.entr(p_PC).sum(1).clamp(min=MIN_WEIGHT)
    total_RC = p_PC.new_zeros(len(key_R), p_PC.shape[1]).index_add_(0, row_P, weight_P[:, None] * p_PC)
    return Mixtures(total_RC / total_RC.sum(1, keepdim=True), key_R // num_images, key_R % num_images, num_images)


def pick_farthest(
    mixtures: Mixtures, num_labelled: int, budget: int, how: Literal["mean", "sum"], rank_N: Tensor
) -> list[int]:
    """Returns the positions of the selected images, each the farthest from all centres so far.

    Of equally far images the one with the lowest rank is taken. There are fewer than `budget` if fewer unlabelled
    images have predictions. Each selected image costs at most O(R C) time.
    """
    device = mixtures.p_RC.device
    distance_N = torch.full((mixtures.num_images,), -torch.inf, dtype=mixtures.p_RC.dtype, device=device)
    distance_N[mixtures.image_R] = torch.inf
    for part in torch.arange(num_labelled, device=device).split(max(1, CHUNK // mixtures.num_images)):
        distance_N = torch.minimum(distance_N, mixtures.distance_to_nearest(part, how))
    distance_N[:num_labelled] = -torch.inf
    num_picks = min(budget, int((distance_N > -torch.inf).sum()))
    picks = farthest_first(distance_N, num_picks, rank_N, lambda pick_1: mixtures.distance_to_nearest(pick_1, how))
    return list(picks.tolist())
