"""BALD by Monte Carlo dropout (Houlsby et al., 2011; Gal, Islam and Ghahramani, 2017)."""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register

from .shared.disagreement import check_num_samples, information


@register(needs={"sample"}, version=1, selects_high="disagreement")
def bald(view: View, budget: int, rng: np.random.Generator, *, num_samples: int = 25, how: How = "max") -> Indices:
    """Selects the images with the largest mutual information between the label and the model's weights.

    The mutual information `H[mean_t p_t] - mean_t H[p_t]` is in nats and estimated from predictions under random
    dropout masks. It is 0 where the samples agree, however uncertain they are. A batch is the top of the ranking, as in
    the 2017 paper; there is no joint term as in BatchBALD.

    Args:
        num_samples: number of dropout masks, 2 or more (25 in deep-al's code; 10 in BADGE's, 20 or 100 in DAL's).
        how: how the values of a detector's boxes, of a segmenter's sampled pixels, or of the heatmaps of a pose
            estimator's keypoints become one value per image: `sum`, `mean` or `max`. `max` is this project's choice. A
            detector's boxes are predicted once without
            dropout, and the samples are class probabilities of those boxes (background is one more class). An image
            without boxes has the value 0.

    References:
        Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011.
        Gal, Islam and Ghahramani, Deep Bayesian Active Learning with Image Data, ICML 2017.

    Deviations:
        Batch normalisation stays in eval mode, whereas BADGE's code puts it into train mode. Probabilities are
        averaged, whereas that code averages logits. Dropout acts on the input of the last layer alone, as in deep-al's
        ResNets.

    Cost:
        One forward pass per unlabelled image, then `num_samples` passes of the last layer alone. Memory holds sums over
        samples, (P, C); where an image has many predictions, those of 500 images at a time.
    """
    check_num_samples("bald", num_samples)
    return view.highest(information(view, num_samples, int(rng.integers(2**63)), how), budget)
