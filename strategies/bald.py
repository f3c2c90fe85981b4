"""BALD by Monte Carlo dropout (Houlsby et al., 2011; Gal, Islam and Ghahramani, 2017).

Shapes: N images, P predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from benchmark.api import How, Indices, View, register

IMAGES_AT_ONCE = 500  # images sampled at once where an image has many predictions


@register(needs={"sample"}, version=1)
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
    if num_samples < 2:
        raise ValueError(f"bald[num_samples={num_samples}]: must be 2 or more, as one sample always agrees with itself")
    seed, images = int(rng.integers(2**63)), view.unlabelled
    if next(view.sample(images[:1], 1, seed)).one_each:
        return view.highest(disagreement(view, images, num_samples, seed, how), budget)
    parts = np.array_split(images, -(-len(images) // IMAGES_AT_ONCE))
    return view.highest(torch.cat([disagreement(view, part, num_samples, seed, how) for part in parts]), budget)


def disagreement(view: View, images: Indices, num_samples: int, seed: int, how: How) -> Tensor:
    """Returns the mutual information of each image, (N,)."""
    samples = view.sample(images, num_samples, seed)
    first = next(samples)
    return first.per_image(mutual_information(sample.scores_PC for sample in chain([first], samples)), how)


def mutual_information(samples: Iterable[Tensor]) -> Tensor:
    """Returns the mutual information of each prediction, (P,), from samples of (P, C) probabilities.

    The samples are read one at a time, so that memory does not grow with their number.
    """
    total_PC, entropy_P, count = torch.zeros(()), torch.zeros(()), 0
    for p_PC in samples:
        total_PC = total_PC + p_PC
        entropy_P = entropy_P + torch.special.entr(p_PC).sum(1)
        count += 1
    information_P: Tensor = torch.special.entr(total_PC / count).sum(1) - entropy_P / count
    return information_P
