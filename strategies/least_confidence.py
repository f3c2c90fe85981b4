"""Least confidence (Lewis and Gale, 1994; Culotta and McCallum, 2005). Shapes: P predictions, C classes."""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register


@register(needs={"predict"}, version=1)
def least_confidence(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Largest 1 - p_1, the model's own probability that its likeliest class is wrong.

    how: from the predictions of a detector or a segmenter to one number an image. `mean` is ours: ISAL's code takes the
        `max` over boxes. An image without predictions counts as certain.
    Deviation: on detectors background is one more class, so a box that is surely background is certain, where published
    code ranks by the score of the box alone.
    Cost: a forward pass an unlabelled image.
    """
    predictions = view.predict(view.unlabelled)
    doubt_P = 1 - predictions.scores_PC.amax(1)
    return view.highest(predictions.per_image(doubt_P, how), budget)
