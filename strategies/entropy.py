"""Entropy sampling (Settles, 2009).

Shapes: P predictions, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.api import FromShards, How, Indices, Predictions, ShardedPool, View, register

from .shared.stored import describe_predictions, highest, prediction_tables


def select_from_shards(pool: ShardedPool, budget: int, rng: np.random.Generator, *, how: How) -> Indices:
    """Selects as `entropy` does, from stored predictions."""
    return highest(pool, budget, lambda predictions: entropies(predictions, how))


@register(
    needs={"predict"},
    version=1,
    selects_high="class_entropy",
    from_shards=FromShards(prediction_tables, describe_predictions, select_from_shards),
)
def entropy(view: View, budget: int, rng: np.random.Generator, *, how: How = "mean") -> Indices:
    """Selects the images whose predicted class probabilities have the largest entropy.

    The entropy `-sum_c p_c log p_c` is in nats: 0 for a certain prediction, log C for a uniform one. An image without
    predictions counts as certain.

    Args:
        how: how the entropies of a detector's boxes, of a segmenter's sampled pixels, or of the heatmaps of a pose
            estimator's keypoints become one value per image: `sum`, `mean` or `max`. `mean` is this project's choice;
            published detection code takes the `max` over boxes (ISAL) or the `sum` (PPAL).

    References:
        Settles, Active Learning Literature Survey, 2009, section 3.1.

    Deviations:
        0 log 0 is 0, whereas published code returns NaN or adds 1e-10 to every probability. On detectors the background
        is one more class, whereas published code often takes the binary entropy of the score.

    Cost:
        One forward pass per unlabelled image.
    """
    return view.highest(entropies(view.predict(view.unlabelled), how), budget)


def entropies(predictions: Predictions, how: How) -> Tensor:
    """Returns the entropy of each image's predictions, (N,)."""
    return predictions.per_image(torch.special.entr(predictions.scores_PC).sum(1), how)
