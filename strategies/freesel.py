"""FreeSel (Xie et al., Towards Free Data Selection with General-Purpose Models, NeurIPS 2023): GEAL's successor.

Shapes: P patterns.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, Indices, View, register
from strategies._kcenter import Groups, drawn
from strategies._patterns import Metric, both, checked


@register(needs={"encode"}, version=1)
def freesel(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName = "dino",
    tau: float = 0.5,
    k: int = 5,
    metric: Metric = "cosine",
) -> Indices:
    """As `geal`, but the next pattern is drawn, with probability proportional to d^2, where that takes the farthest.

    d: the distance of a pattern to the nearest one of the images chosen so far, 1 - cos or Euclidean.
    k: 5 patterns an image in the authors' code for VOC; theirs for CIFAR-10 takes one, the mean of the patches.
    Draws are exact, though few distances are computed (`Lazy.draw`). Deviations: those of `geal`.
    """
    checked("freesel", tau, k)
    candidates, centres_PD = both(view, encoder, tau, k, metric)
    first = int(rng.integers(len(candidates.image_P)))
    power = 2.0 if metric == "cosine" else 1.0  # of |a - b|^2, which is 2 (1 - cos) on unit vectors
    groups = Groups.of(candidates.image_P)
    picks = drawn(candidates.features_PD, centres_PD, budget, rng, power=power, groups=groups, first=first)
    chosen: Indices = view.unlabelled[candidates.image_P[picks.to(candidates.image_P.device)].cpu().numpy()]
    return chosen
