"""Contextual diversity (Agarwal, Arora, Anand and Arora, Contextual Diversity for Active Learning, ECCV 2020).

Shapes: N images, M of them, P predictions, R mixtures of predictions, C columns of their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, Predictions, View, register

CHUNK = 2**24  # distances held at once
LEAST = 1e-12  # weight of a prediction, in nats, so that certain ones count where there are no others


@register(needs={"predict"}, version=1)
def cdal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    by_class: bool = True,
    how: Literal["mean", "sum"] = "mean",
) -> Indices:
    """Greedy k-center under contextual diversity, the labelled images as first centres (CDAL-CS).

    An image is told by one mixture for each class predicted in it: the mean of the probability vectors of those
    predictions, weighted by their entropies. The distance of two images is the symmetric divergence
    (KL(p|q) + KL(q|p)) / 2, in nats, of their mixtures for a class, over the classes that both have. One prediction
    an image, a classifier's, is one mixture, whatever its class.
    by_class: false mixes all predictions of an image, as the authors' code does for detectors.
    how: from classes to one number: `mean` as their code, `sum` as the paper.
    Deviations: images that share no class are not compared, and one that shares none with any centre comes first
    (published code takes 0, which puts it last); those without predictions come last, at random; the first pick is
    the farthest, where that code draws it although it knows the distances; a probability of 0 counts as the least
    above, where that code leaves the class out; background is one more column, but no class.
    """
    num_labelled = len(view.labelled)
    predictions = view.predict(np.concatenate([view.labelled, view.unlabelled]))
    picks = farthest(mixtures(predictions, by_class), num_labelled, budget, how)
    others = np.setdiff1d(np.arange(num_labelled, predictions.num_images), picks)
    drawn = rng.choice(others, budget - len(picks), replace=False)
    chosen: Indices = view.unlabelled[np.concatenate([np.array(picks, np.int64), drawn]) - num_labelled]
    return chosen


@dataclass(frozen=True)
class Mixtures:
    """Mixtures of predictions, by class and then by image; at most one of each."""

    p_RC: Tensor
    class_R: Tensor
    image_R: Tensor
    num_images: int

    def __post_init__(self) -> None:
        log_RC = self.p_RC.clamp(min=torch.finfo(self.p_RC.dtype).tiny).log()
        object.__setattr__(self, "log_RC", log_RC)
        object.__setattr__(self, "self_R", (self.p_RC * log_RC).sum(1))
