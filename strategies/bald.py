"""BALD by Monte Carlo dropout (Houlsby et al., 2011; Gal, Islam and Ghahramani, 2017). Shapes: N images, C classes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, View, register


@register(needs={"sample"}, version=1)
def bald(view: View, budget: int, rng: np.random.Generator, *, num_samples: int = 25) -> Indices:
    """Largest mutual information between label and weights, H[mean_t p_t] - mean_t H[p_t], in nats.

    0 where the samples agree, however uncertain they are. Batches are the top of the ranking, as in the 2017 paper
    (no joint term as in BatchBALD). Deviation: batch normalisation stays in eval mode, where the BADGE code puts
    it in train mode, and probabilities are averaged, where that code averages logits.
    """
    if num_samples < 2:
        raise ValueError(f"bald[num_samples={num_samples}]: one sample always agrees with itself, take 2 or more")
    samples = view.sample(view.unlabelled, num_samples, int(rng.integers(2**63)))
    return view.highest(mutual_information(sample.scores_PC for sample in samples), budget)


def mutual_information(samples: Iterable[Tensor]) -> Tensor:
    """(N,): from (N, C) probabilities, one sample at a time, so that memory does not grow with their number."""
    total_NC, entropy_N, count = torch.zeros(()), torch.zeros(()), 0
    for p_NC in samples:
        total_NC = total_NC + p_NC
        entropy_N = entropy_N + torch.special.entr(p_NC).sum(1)
        count += 1
    information_N: Tensor = torch.special.entr(total_NC / count).sum(1) - entropy_N / count
    return information_N
