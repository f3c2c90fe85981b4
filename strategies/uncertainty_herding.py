"""Uncertainty Herding: maximal coverage of uncertain images by a Gaussian kernel (Bae, Oliveira and Sutherland, 2025).

Shapes: N images, the labelled ones first; M labelled ones; C classes; E features.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, Need, View, register

from .shared import features
from .shared.coverage import maximise_coverage
from .shared.features import SIMCLR, squared_distances, unit_features
from .shared.ties import ranks_as_tensor
from .shared.uncertainty import one_minus_gap

Uncertainty: TypeAlias = Literal["margin", "entropy", "confidence"]
MIN_SQUARED = 1e-6  # smaller squared distances between labelled images are rounding, or duplicates


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """Returns what the features need, and `predict` for the uncertainty."""
    return features.needs(encoder=encoder) | {"predict"}


@register(needs=needs, needs_without_labels=features.needs, version=1)
def uncertainty_herding(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    radius: float | None = None,
    uncertainty: Uncertainty = "margin",
    temperature: float = 1.0,
) -> Indices:
    """Selects images greedily so that the labelled set covers the uncertain images of the pool best.

    An image is covered to the degree `max_i exp(-|x - x_i|^2 / radius^2)` over the labelled and selected images i. Each
    step selects the image that raises the sum of uncertainty times coverage most. With few labels the radius is wide
    and coverage decides, as in MaxHerding; with many it is narrow and uncertainty decides. The selection is
    deterministic.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are self-supervised (SimCLR's on CIFAR). `null`
            takes the model's own features.
        radius: the radius of the kernel, above 0. `null` takes the paper's adaptive radius: the smallest distance
            between two labelled images that are not duplicates, or 1 while there are fewer than two.
        uncertainty: `margin` is 1 minus the gap between the two largest class probabilities, the paper's choice in its
            main experiments; `entropy`; or `confidence`, 1 minus the largest probability.
        temperature: divides the logits before the uncertainty is computed, above 0 (see Deviations).

    Logs:
        radius: the radius.
        was_covered: the coverage before the selection, a mean weighted by uncertainty.
        coverage: the coverage after the selection.

    References:
        Bae, Oliveira and Sutherland, Uncertainty Herding: One Active Learning Method for All Label Budgets, ICLR 2025.

    Deviations:
        The paper fits the temperature of each round: it trains a second model on a part of the labelled images and
        takes the temperature of least calibration error on the others. A strategy cannot train models here, so the
        temperature is a parameter, and 1 leaves the model's probabilities as they are. The whole pool is covered and
        may be selected, whereas the authors' code draws at most 35,000 images of it. Without labelled images all images
        are equally uncertain, as in that code.

    Cost:
        One forward pass per image and one pass of the encoder per image, once. Then as `max_herding`.
    """
    if (radius is not None and radius <= 0) or temperature <= 0:
        settings = f"radius={radius},temperature={temperature}"
        raise ValueError(f"uncertainty_herding[{settings}]: both must be above 0")
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    points_NE = unit_features(view, encoder, images)
    if radius is None:
        radius = smallest_distance(points_NE[:num_labelled])
    weight_N = torch.ones_like(points_NE[:, 0])
    if num_labelled:
        weight_N[:num_labelled] = 0
        weight_N[num_labelled:] = uncertainties(view, uncertainty, temperature).to(weight_N)
    rank_N = ranks_as_tensor(view.tie_ranks(images), points_NE)
    result = maximise_coverage(points_NE, weight_N, num_labelled, radius, budget, rank_N)
    view.log(radius=radius, was_covered=result.was_covered, coverage=result.coverage)
    selection: Indices = view.unlabelled[np.array(result.picks, np.int64) - num_labelled]
    return selection


def smallest_distance(points_ME: Tensor) -> float:
    """Returns the smallest distance between two points that are not duplicates; 1 where there are no two."""
    smallest = torch.inf
    for part in points_ME.split(max(1, features.CHUNK // max(1, len(points_ME)))) if len(points_ME) else ():
        squared = squared_distances(part, points_ME)
        squared = squared[squared > MIN_SQUARED]  # the distance of a point to itself is left out too
        if len(squared):
            smallest = min(smallest, squared.min().item())
    return math.sqrt(smallest) if smallest < torch.inf else 1.0


def uncertainties(view: View, uncertainty: Uncertainty, temperature: float) -> Tensor:
    """Returns the uncertainty of each unlabelled image, (N,): a mean over boxes or locations where it has several."""
    predictions = view.predict(view.unlabelled)
    if not predictions.scores_PC.isfinite().all():
        raise ValueError("uncertainty_herding: the predictions of the model hold NaN or infinity")
    p_PC = (predictions.scores_PC.double().log() / temperature).softmax(1)
    if uncertainty == "entropy":
        return predictions.per_image(torch.special.entr(p_PC).sum(1))
    return predictions.per_image(1 - p_PC.amax(1) if uncertainty == "confidence" else one_minus_gap(p_PC))
