"""Learning loss: images with the largest predicted loss (Yoo and Kweon, 2019).

Shapes: N images of a batch or of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Indices, Need, View, register


class LossModule(nn.Module):
    """Predicts the loss of an image from the model's stage maps (Figure 2 of the paper)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(nn.Linear(number, width) for number in channels)
        self.last = nn.Linear(width * len(channels), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the predicted losses, (N,), from maps of (N, channels[i], H_i, W_i)."""
        features = [tap(stage.mean((2, 3))).relu() for tap, stage in zip(self.taps, maps, strict=True)]
        output_N: Tensor = self.last(torch.cat(features, 1)).squeeze(1)
        return output_N


@dataclass(frozen=True)
class LossPrediction:
    """The companion: trains a loss module beside the model."""

    detach_after: float
    weight: float
    margin: float
    width: int

    def module(self, channels: Sequence[int]) -> nn.Module:
        """Builds a new loss module for stage maps with these numbers of channels."""
        return LossModule(channels, self.width)

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        """Returns the ranking loss (Eq. 2) of a batch, times `weight`.

        Image i is paired with image N-1-i; the middle image of an odd batch is left out. The loss is the mean over
        pairs of max(0, margin - sign (output_i - output_j)). The sign is 1 where losses_i > losses_j and -1 otherwise,
        so a tie counts as -1, as in published code.
        """
        pairs = len(output_N) // 2
        gap, true_gap = (values[:pairs] - values.flip(0)[:pairs] for values in (output_N, losses_N))
        sign = torch.where(true_gap > 0, 1.0, -1.0)
        return self.weight * (self.margin - sign * gap).relu().sum() / max(pairs, 1)


CLASSIFIER_SUBSET = 10_000  # the default of the paper


def needs(*, subset: int | None, **_: object) -> frozenset[Need]:
    """Returns the need `companion`, and `predict` where the default subset depends on whether the model is a
    classifier."""
    return frozenset({"companion", "predict"} if subset is None else {"companion"})


def companion(*, detach_after: float, weight: float, margin: float, width: int, **_: object) -> LossPrediction:
    """Builds the companion; parameters that concern the selection alone do not change training."""
    return LossPrediction(detach_after, weight, margin, width)


@register(needs=needs, version=1, selects_high="predicted_loss", companion=companion)
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
    """Selects the images with the largest predicted loss from a random subset of the unlabelled images.

    A small module is trained beside the model to rank images by their loss; its outputs are not on the scale of the
    loss. The module changes the training of the model, so scores in round 0 differ from those of other strategies. The
    subset is drawn anew in each round.

    Args:
        subset: the number of random unlabelled images whose loss is predicted. `null` takes 10,000 for a classifier, as
            in the paper, and all images for a detector or a segmenter, because ISAL's paper names no subset for them.
        detach_after: the share of training (0 to 1) after which the gradient of the module no longer reaches the model.
            0.6 is epoch 120 of 200, as published. At 0 it never does, as is usual for detectors.
        weight: the weight of the ranking loss in the training loss, lambda in the paper (1: the paper's).
        margin: the gap that the ranking loss asks for between the outputs of two images, xi in the paper (1: the
            paper's).
        width: the number of features that the module computes from each stage map (128: as published).

    References:
        Yoo and Kweon, Learning Loss for Active Learning, CVPR 2019.

    Deviations:
        Model and module are trained from scratch in every round, whereas a widely used reproduction continues from
        those of the last round. The middle image of an odd batch has no pair.

    Cost:
        One forward pass per image of the subset. In training, a few small linear layers beside the model.
    """
    num = len(view.unlabelled)
    if subset is None:
        subset = CLASSIFIER_SUBSET if view.predict(view.unlabelled[:1]).one_each else num
    if budget > subset:
        raise ValueError(f"learning_loss[subset={subset}]: must be at least the budget, {budget}")
    subset_rows = np.sort(rng.choice(num, min(subset, num), replace=False))
    values = view.companion(view.unlabelled[subset_rows])
    scores_N = values.new_full((num,), -torch.inf)
    scores_N[torch.from_numpy(subset_rows).to(scores_N.device)] = values
    return view.highest(scores_N, budget)
