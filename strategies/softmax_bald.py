"""SoftmaxBALD: BALD with batches drawn at random by a softmax of the score (Kirsch et al., 2023).

Shapes: N images.
"""

from __future__ import annotations

import numpy as np

from benchmark.api import How, Indices, View, register

from .shared.disagreement import check_num_samples, draw_by_gumbel, information


@register(needs={"sample"}, version=1)
def softmax_bald(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    coldness: float = 1.0,
    num_samples: int = 25,
    how: How = "max",
) -> Indices:
    """Draws images without replacement, with probability proportional to exp(beta * score).

    The score is BALD's: the mutual information between the label and the model's weights, in nats. It changes as labels
    of a batch come in, so the top of today's ranking holds images that tell the same; a random batch by score does not.
    The draw adds Gumbel noise to the logarithm of the probability and takes the largest sums.

    Args:
        coldness: the factor beta of the score, 0 or more (1: the paper's). 0 draws uniformly; a large one ranks as
            `bald`. The score is at most the logarithm of the number of classes, so beta=1 is close to uniform.
        num_samples: number of dropout masks, 2 or more (25: as `bald` here; the paper takes 20 to 100).
        how: how the values of a detector's boxes, or of a segmenter's sampled pixels, become one value per image:
            `sum`, `mean` or `max`, as in `bald`.

    References:
        Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron and Gal, Stochastic Batch Acquisition: A Simple
            Baseline for Deep Active Learning, TMLR 2023.

    Deviations:
        None of note.

    Cost:
        As `bald`: one forward pass per unlabelled image, then `num_samples` passes of the last layer alone.
    """
    check_num_samples("softmax_bald", num_samples)
    if coldness < 0:
        raise ValueError(f"softmax_bald[coldness={coldness}]: must be 0 or more")
    information_N = information(view, num_samples, int(rng.integers(2**63)), how).double().cpu()
    return draw_by_gumbel(view, coldness * information_N, budget, rng)
