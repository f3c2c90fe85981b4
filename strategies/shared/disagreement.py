"""Mutual information between label and weights, by Monte Carlo dropout: what BALD and its batch variants rank by.

Shapes: N images, P predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from benchmark.api import How, Indices, View

IMAGES_AT_ONCE = 500  # images sampled at once where an image has many predictions


def information(view: View, num_samples: int, seed: int, how: How) -> Tensor:
    """Returns the mutual information of each unlabelled image, in nats, (N,)."""
    images = view.unlabelled
    if next(view.sample(images[:1], 1, seed)).one_each:
        return disagreement(view, images, num_samples, seed, how)
    parts = np.array_split(images, -(-len(images) // IMAGES_AT_ONCE))
    return torch.cat([disagreement(view, part, num_samples, seed, how) for part in parts])


def check_num_samples(name: str, num_samples: int) -> None:
    """ValueError where a strategy takes fewer than two samples."""
    if num_samples < 2:
        raise ValueError(
            f"{name}[num_samples={num_samples}]: must be 2 or more, as one sample always agrees with itself"
        )


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


def draw_by_gumbel(view: View, log_weight_N: Tensor, budget: int, rng: np.random.Generator) -> Indices:
    """Draws unlabelled images without replacement, with probability proportional to exp(log_weight_N), the first first.

    Kool et al. (2019): the largest sums of log weight and Gumbel noise are such a draw.
    """
    noise_N = torch.from_numpy(rng.gumbel(size=len(log_weight_N)))
    return view.highest(log_weight_N + noise_N, budget)
