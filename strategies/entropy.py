"""Entropy sampling (Settles, Active Learning Literature Survey, 2009, 3.1). Shapes: P predictions, C classes."""

from __future__ import annotations

import numpy as np
import torch

from benchmark.api import How, Indices, View, register


@register(needs={"predict"}, version=1)
def entropy(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Largest entropy -sum_c p_c log p_c, in nats: 0 for a certain prediction, log C for a uniform one.

    how: from the predictions of a detector or a segmenter to one number an image. `mean` is ours: published detection
        code takes the `max` over boxes (ISAL's) or the `sum` (PPAL's). An image without predictions counts as certain.
    Deviations: 0 log 0 is 0, where published code returns NaN or adds 1e-10 to every p; on detectors background is one
    more class, where published code often takes a binary entropy of the score.
    Cost: a forward pass an unlabelled image.
    """
    predictions = view.predict(view.unlabelled)
    entropy_P = torch.special.entr(predictions.scores_PC).sum(1)
    return view.highest(predictions.per_image(entropy_P, how), budget)
