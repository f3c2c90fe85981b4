"""MaxHerding: maximal coverage of the pool by a Gaussian kernel (Bae, Noh and Sutherland, 2024).

Shapes: N images, the labelled ones first; E features.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmark.api import EncoderName, Indices, View, register

from .shared.coverage import maximise_coverage
from .shared.features import SIMCLR, needs, unit_features
from .shared.ties import ranks_as_tensor


@register(needs=needs, version=1)
def max_herding(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    radius: float = 1.0,
) -> Indices:
    """Selects images greedily so that the labelled set covers the pool best, by a Gaussian kernel on unit features.

    An image is covered to the degree `max_i exp(-|x - x_i|^2 / radius^2)` over the labelled and selected images i. Each
    step selects the image that raises the mean coverage most. ProbCover is the case of a kernel that is 1 inside a ball
    and 0 outside. The selection is deterministic.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are self-supervised (SimCLR's on CIFAR,
            DINO's). `null` takes the model's own features.
        radius: the radius of the kernel, above 0 (1: the paper's, on features of unit length).

    Logs:
        was_covered: the mean coverage before the selection.
        coverage: the mean coverage after the selection.

    References:
        Bae, Noh and Sutherland, Generalized Coverage for More Robust Low-Budget Active Learning, ECCV 2024.

    Deviations:
        The whole pool is covered and may be selected, whereas the authors' code draws at most 35,000 images of it,
        since it holds the matrix of all pairs. Squared distances below 1e-6 count as 0, and gains that differ by less
        than a millionth are ties.

    Cost:
        One pass of the encoder per image, once. The kernel of N images with each other once, O(N^2 E / 2); then a pick
        costs O(N E) per image whose coverage it raises, at most, and these become fewer with each pick. O(N E) memory.
    """
    if radius <= 0:
        raise ValueError(f"max_herding[radius={radius}]: must be above 0")
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    weight_N = torch.ones_like(points_NE[:, 0])
    result = maximise_coverage(points_NE, weight_N, num_labelled, radius, budget, rank_N)
    view.log(was_covered=result.was_covered, coverage=result.coverage)
    selection: Indices = view.unlabelled[np.array(result.picks, np.int64) - num_labelled]
    return selection
