"""ActiveFT: images that are spread like the pool and apart from each other, chosen at once (Xie et al., 2023)."""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register

from .shared.active_ft import CentreOptimiser
from .shared.features import SIMCLR, needs, unit_features
from .shared.ties import ranks_as_tensor


@register(needs=needs, version=1)
def active_ft(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    temperature: float = 0.07,
    lr: float = 0.001,
    num_steps: int = 300,
) -> Indices:
    """Selects the images nearest to centres that are optimised to lie like the pool and apart from each other.

    There are as many centres as images in the budget; they start at random images. The loss of an image is
    `-log(a / (a + b))`: a is `exp(x . c / T)` with its nearest centre c, and b the sum of `exp(c' . c / T)` over all
    centres c'. Adam lowers the mean loss. Features and centres have unit length.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are those of the pretrained model that is
            finetuned (DINO's). `null` takes the model's own features.
        temperature: T, above 0 (0.07: the paper's).
        lr: the learning rate of Adam, above 0 (0.001: the paper's).
        num_steps: the number of steps (300: the paper's). 0 gives random images.

    References:
        Xie et al., Active Finetuning: Exploiting Annotation Budget in the Pretraining-Finetuning Paradigm, CVPR 2023.

    Deviations:
        The paper selects once and from nothing. Labelled images, where there are any, are centres that stay where they
        are. b includes c itself, as in the authors' code.

    Cost:
        One pass of the encoder per image, once. A step takes the products of N images with K centres, O(N K E) for E
        features; gradients cost O((N + K^2) E) more.
    """
    optimiser = CentreOptimiser(temperature, lr, num_steps)
    optimiser.check("active_ft")
    points_NE = unit_features(view, encoder, np.concatenate([view.labelled, view.unlabelled]))
    labelled_ME, points_NE = points_NE.tensor_split([len(view.labelled)])
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), points_NE)
    selection: Indices = view.unlabelled[optimiser.select(points_NE, labelled_ME, budget, rng, rank_N)]
    return selection
