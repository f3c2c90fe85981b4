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
    """Largest mutual information between label and weights, H[mean_t p_t] - mean_t H[p_t], in nats.

    0 where the samples agree, however uncertain they are. Batches are the top of the ranking, as in the 2017 paper (no
    joint term as in BatchBALD).
    num_samples: dropout masks, 25 as in deep-al; BADGE's code takes 10, DAL's 20 or 100.
    how: from the predictions of a detector or a segmenter to one number an image; `max` is ours. A detector's boxes are
        found once without dropout, and the samples are of their classes (background is one more), box by box; an image
        without boxes has 0.
    Deviations: batch normalisation stays in eval mode, where the BADGE code puts it in train mode; probabilities are
    averaged, where that code averages logits; dropout acts on the last layer's input alone, as in deep-al's ResNets.
    Cost: a forward pass an unlabelled image, then num_samples passes of the last layer alone. Sums over samples are
    kept, (P, C); where an image has many predictions, those of 500 images at a time.
    """
    if num_samples < 2:
        raise ValueError(f"bald[num_samples={num_samples}]: one sample always agrees with itself, take 2 or more")
    seed, images = int(rng.integers(2**63)), view.unlabelled
    if next(view.sample(images[:1], 1, seed)).one_each:
        return view.highest(disagreement(view, images, num_samples, seed, how), budget)
    parts = np.array_split(images, -(-len(images) // IMAGES_AT_ONCE))
    return view.highest(torch.cat([disagreement(view, part, num_samples, seed, how) for part in parts]), budget)


def disagreement(view: View, images: Indices, num_samples: int, seed: int, how: How) -> Tensor:
    """(N,): the mutual information of each image."""
    samples = view.sample(images, num_samples, seed)
    first = next(samples)
    return first.per_image(mutual_information(one.scores_PC for one in chain([first], samples)), how)


def mutual_information(samples: Iterable[Tensor]) -> Tensor:
    """(P,): from (P, C) probabilities, one sample at a time, so that memory does not grow with their number."""
    total_PC, entropy_P, count = torch.zeros(()), torch.zeros(()), 0
    for p_PC in samples:
        total_PC = total_PC + p_PC
        entropy_P = entropy_P + torch.special.entr(p_PC).sum(1)
        count += 1
    information_P: Tensor = torch.special.entr(total_PC / count).sum(1) - entropy_P / count
    return information_P
