"""Margin sampling (Scheffer, Decomain and Wrobel, 2001)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from benchmark.api import FromShards, How, Indices, Predictions, ShardedPool, View, register

from .shared.stored import describe_predictions, highest, prediction_tables
from .shared.uncertainty import one_minus_gap


def select_from_shards(pool: ShardedPool, budget: int, rng: np.random.Generator, *, how: How) -> Indices:
    """Selects as `margin` does, from stored predictions."""
    return highest(pool, budget, lambda predictions: closeness(predictions, how))


@register(
    needs={"predict"},
    version=1,
    selects_high="ambiguity",
    from_shards=FromShards(prediction_tables, describe_predictions, select_from_shards),
)
def margin(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Selects the images with the smallest gap between the two largest class probabilities.

    Images are ranked by `1 - (p_1 - p_2)`: 1 for a tie of two classes, 0 for a certain prediction. An image without
    predictions counts as certain.

    Args:
        how: how the values of a detector's boxes, of a segmenter's sampled pixels, or of the heatmaps of a pose
            estimator's keypoints become one value per image: `sum`, `mean` or `max`. `mean` is this project's choice.

    References:
        Scheffer, Decomain and Wrobel, Active Hidden Markov Models for Information Extraction, IDA 2001.

    Deviations:
        Images are ranked by 1 - gap instead of the gap, so that `max` takes the least certain box; on a classifier the
        order is the same. The gap is computed in double precision, because 1 - gap would round small gaps away. On
        detectors the background is one more class.

    Cost:
        One forward pass per unlabelled image.
    """
    return view.highest(closeness(view.predict(view.unlabelled), how), budget)


def closeness(predictions: Predictions, how: How) -> Tensor:
    """Returns 1 - (p_1 - p_2) of each image, (N,)."""
    return predictions.per_image(one_minus_gap(predictions.scores_PC), how)
