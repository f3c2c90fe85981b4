"""Margin sampling (Scheffer, Decomain and Wrobel, 2001). Shapes: P predictions, C classes."""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register


@register(needs={"predict"}, version=1)
def margin(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Smallest gap p_1 - p_2 between the two likeliest classes, ranked as 1 - gap: 1 for a draw, 0 for certainty.

    how: from the predictions of a detector or a segmenter to one number an image; `mean` is ours.
    Deviations: ranking 1 - gap rather than the gap makes `max` the least certain box, and an image without predictions
    certain; it changes nothing for a classifier. In double precision, because 1 - gap would round small gaps away. On
    detectors background is one more class.
    Cost: a forward pass an unlabelled image.
    """
    predictions = view.predict(view.unlabelled)
    first_P, second_P = predictions.scores_PC.double().topk(2).values.T
    return view.highest(predictions.per_image(1 - (first_P - second_P), how), budget)
