"""DropQuery: diverse images whose predicted class changes under dropout (Gupte et al., 2024).

Shapes: N images, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, Indices, View, register

from .shared.features import SIMCLR, select_centroids, unit_features


@register(needs={"predict", "sample", "embed"}, needs_without_labels={"encode"}, version=1)
def dropquery(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName = SIMCLR,
    num_samples: int = 3,
    surplus: int = 25,
) -> Indices:
    """Selects from the images whose predicted class changes under dropout, one from each of `budget` clusters.

    An image is a candidate if more than half of the dropout masks give another class than the model without dropout.
    Where these are fewer than `surplus` times the budget, fewer masks suffice, down to one. k-means then divides the
    candidates, by the model's features at unit length, into `budget` clusters, and the image nearest to each centre is
    selected. Without labels it selects as `centroids`, on the features of the encoder.

    Args:
        encoder: the frozen encoder of the selection without labels; not used otherwise.
        num_samples: number of dropout masks (3: the paper's). The paper's masks drop 0.75 of the features: set
            `dropout=0.75` of the task.
        surplus: the number of candidates per image of the budget that is sought (25: the authors' code).

    Logs:
        candidates: the number of candidates.
        mismatches: the number of masks that must give another class.

    References:
        Gupte, Aklilu, Nirschl and Yeung-Levy, Revisiting Active Learning in the Era of Vision Foundation Models, TMLR
            2024.

    Deviations:
        Dropout acts on the input of the last layer, which for a linear probe is the encoder's features, as in the
        paper. k-means has one start. Where there are fewer candidates than the budget, the rest is drawn at random, as
        in the authors' code.

    Cost:
        One forward pass per unlabelled image and `num_samples` passes of the last layer. k-means of the candidates into
        `budget` clusters.
    """
    if min(num_samples, surplus) < 1:
        raise ValueError(f"dropquery[num_samples={num_samples},surplus={surplus}]: both must be 1 or more")
    images = view.unlabelled
    if not len(view.labelled):
        points_NE = unit_features(view, encoder, images)
        start: Indices = images[select_centroids(points_NE, budget, rng, view.tie_ranks(images))]
        return start
    mismatch_N = count_mismatches(view, images, num_samples, int(rng.integers(2**63)))
    needed = num_samples // 2 + 1
    while needed > 1 and int((mismatch_N >= needed).sum()) < surplus * budget:
        needed -= 1
    candidates = (mismatch_N >= needed).nonzero()[:, 0].cpu().numpy()
    view.log(candidates=len(candidates), mismatches=needed)
    if len(candidates) <= budget:
        others = np.setdiff1d(np.arange(len(images)), candidates)
        picks = np.concatenate([candidates, rng.choice(others, budget - len(candidates), replace=False)])
    else:
        points_MD = F.normalize(view.embed(images[candidates]))
        picks = candidates[select_centroids(points_MD, budget, rng, view.tie_ranks(images[candidates]))]
    selection: Indices = images[picks]
    return selection


def count_mismatches(view: View, images: Indices, num_samples: int, seed: int) -> Tensor:
    """Returns under how many dropout masks the predicted class of each image is another one, (N,)."""
    predictions = view.predict(images)
    if not predictions.one_each:
        raise ValueError("dropquery needs one prediction per image: take a classifier, not a detector or a segmenter")
    if not predictions.scores_PC.isfinite().all():
        raise ValueError("dropquery: the predictions of the model hold NaN or infinity")
    label_N = predictions.scores_PC.argmax(1)
    mismatch_N = torch.zeros_like(label_N)
    for sample in view.sample(images, num_samples, seed):
        mismatch_N += sample.scores_PC.argmax(1) != label_N
    return mismatch_N
