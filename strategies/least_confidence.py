"""Least confidence (Lewis and Gale, 1994; Culotta and McCallum, 2005). Shapes: P predictions, C classes."""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register


@register(needs={"predict"}, version=1)
def least_confidence(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Largest 1 - p_1, the model's own probability that its likeliest class is wrong.

    how: from the predictions of a detector to one number an image; an image without predictions counts as certain,
        and so does a box that is surely background: background is one more class here, where published detection code
        ranks by the score of the box alone.
    """
    predictions = view.predict(view.unlabelled)
    doubt_P = 1 - predictions.scores_PC.amax(1)
    return view.highest(predictions.per_image(doubt_P, how), budget)
