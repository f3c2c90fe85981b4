"""Learning loss (Yoo and Kweon, Learning Loss for Active Learning, CVPR 2019). Shapes: N images of a batch or pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Indices, Need, View, register


class LossModule(nn.Module):
    """Predicts an image's loss from the model's stage maps (the paper's Figure 2)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(nn.Linear(number, width) for number in channels)
        self.last = nn.Linear(width * len(channels), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N,): from maps of (N, channels[i], H_i, W_i)."""
        features = [tap(one.mean((2, 3))).relu() for tap, one in zip(self.taps, maps, strict=True)]
        output_N: Tensor = self.last(torch.cat(features, 1)).squeeze(1)
        return output_N


@dataclass(frozen=True)
class LossPrediction:
    """The companion: what `fit` trains beside the model."""

    detach_after: float
    weight: float
    margin: float
    width: int

    def module(self, channels: Sequence[int]) -> nn.Module:
        """A fresh loss module for stage maps of these channels."""
        return LossModule(channels, self.width)

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        """The ranking loss (Eq. 2): image i is paired with N-1-i, the middle one of an odd batch left out.

        Mean over pairs of max(0, margin - sign (output_i - output_j)), times weight; sign is 1 where
        losses_i > losses_j, else -1: a tie counts as -1, as in published code.
        """
        pairs = len(output_N) // 2
        gap, true_gap = (values[:pairs] - values.flip(0)[:pairs] for values in (output_N, losses_N))
        sign = torch.where(true_gap > 0, 1.0, -1.0)
        return self.weight * (self.margin - sign * gap).relu().sum() / max(pairs, 1)


CLASSIFIER_SUBSET = 10_000  # the paper's


def needs(*, subset: int | None, **_: object) -> frozenset[Need]:
    """The companion, and predictions to tell a classifier by where the subset follows from that."""
    return frozenset({"companion", "predict"} if subset is None else {"companion"})


def companion(*, detach_after: float, weight: float, margin: float, width: int, **_: object) -> LossPrediction:
    """The companion under the strategy's parameters; those of the query alone do not touch training."""
    return LossPrediction(detach_after, weight, margin, width)


@register(needs=needs, version=1, companion=companion)
def learning_loss(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    subset: int | None = None,
    detach_after: float = 0.6,
    weight: float = 1.0,
    margin: float = 1.0,
    width: int = 128,
) -> Indices:
    """Largest predicted loss within a random subset of the unlabelled images, drawn anew each round.

    Outputs rank; they are no losses. Changes training, so its round 0 differs from other strategies'.
    subset: images that the loss is predicted of; null: 10,000 of a classifier's (the paper's), all of a detector's or
        a segmenter's, for which ISAL's paper names no subset.
    detach_after: share of training after which the companion's gradient stops reaching the model; 0.6 is epoch 120 of
        200 as published, 0 keeps the model free of it (usual for detectors).
    weight, margin: lambda and xi of the paper, 1 and 1: the weight of the ranking loss, and the gap that it asks of the
        outputs of two images.
    width: features that each stage map is turned into (128 as published).
    Deviation: model and module start afresh every round, where a widely used reproduction goes on from the last one;
    the middle image of an odd batch has no pair.
    Cost: a forward pass for each image of the subset; in training, a few small linear layers beside the model.
    """
    num = len(view.unlabelled)
    if subset is None:
        subset = CLASSIFIER_SUBSET if view.predict(view.unlabelled[:1]).one_each else num
    if budget > subset:
        raise ValueError(f"learning_loss[subset={subset}]: smaller than the budget, {budget}: take that or more")
    drawn = np.sort(rng.choice(num, min(subset, num), replace=False))
    values = view.companion(view.unlabelled[drawn])
    scores_N = values.new_full((num,), -torch.inf)
    scores_N[torch.from_numpy(drawn).to(scores_N.device)] = values
    return view.highest(scores_N, budget)
