"""Least confidence sampling (Lewis and Gale, 1994).

Shapes: P predictions, C classes.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register


@register(needs={"predict"}, version=1, selects_high="class_entropy")
def least_confidence(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Selects the images whose most likely class has the smallest probability.

    Images are ranked by `1 - p_1`, the model's own probability that its most likely class is wrong. An image without
    predictions counts as certain.

    Args:
        how: how the values of a detector's boxes, of a segmenter's sampled pixels, or of the heatmaps of a pose
            estimator's keypoints become one value per image: `sum`, `mean` or `max`. `mean` is this project's choice;
            ISAL's code takes the `max` over boxes.

    References:
        Lewis and Gale, A Sequential Algorithm for Training Text Classifiers, SIGIR 1994.
        Culotta and McCallum, Reducing Labeling Effort for Structured Prediction Tasks, AAAI 2005.

    Deviations:
        On detectors the background is one more class, so a box that is almost surely background counts as certain.
        Published code ranks by the score of the box alone.

    Cost:
        One forward pass per unlabelled image.
    """
    predictions = view.predict(view.unlabelled)
    uncertainty_P = 1 - predictions.scores_PC.amax(1)
    return view.highest(predictions.per_image(uncertainty_P, how), budget)
