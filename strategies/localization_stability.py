"""Localization stability: images whose predicted boxes move most under noise (Kao et al., 2018).

Shapes: N images, P predictions, A boxes of one image without noise, padded with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Indices, Predictions, View, register

from .shared.boxes import WithoutBoxes, best_iou, box_corners, boxes_by_image, lowest_then_random, pad_by_image

NOISE_SIGMAS = (8.0, 16.0, 24.0, 32.0, 40.0, 48.0)  # standard deviations of the noise, on pixel values of 0 to 255


@register(needs={"perturbed"}, version=2)
def localization_stability(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    certainty: bool = False,
    max_boxes: int | None = None,
    without_boxes: WithoutBoxes = "last",
) -> Indices:
    """Selects the images whose predicted boxes move most when Gaussian noise is added to the image.

    The stability S_B of a box is its largest IoU with any box predicted under noise, whatever the class, averaged over
    six levels of noise (standard deviation 8, 16, ..., 48 on pixel values of 0 to 255); a level with no boxes counts as
    0. The stability of an image is `S_I = sum_j P_j S_B(j) / sum_j P_j`, in 0..1, and the smallest are selected. P is
    the confidence of a box; for FCOS it is class probability times centerness, and not torchvision's square root of it.

    Args:
        certainty: `false` ranks by S_I alone, which the paper calls LS. `true` ranks by LS+C, `S_I - max_j (1 - P_j)`,
            in -1..1; the weight between both terms is 1. The paper has both, CALD's code only LS+C; `false` is this
            project's choice.
        max_boxes: how many boxes of the image without noise count, the most confident first; `null` counts all, as in
            ISAL's code (30 in CALD's code).
        without_boxes: how images without predicted boxes are treated. `last` selects them at random where too few
            others are left, as in ISAL's code. `score` gives them S_I = 0, as in CALD's code, so that LS selects them
            first.

    Logs:
        stability: the mean S_I of images with boxes.
        share_without_boxes: the share of unlabelled images without predicted boxes.

    References:
        Kao et al., Localization-Aware Active Learning for Object Detection, ACCV 2018.

    Deviations:
        The IoU is correct, whereas ISAL's code computes it as if y grew upwards.

    Cost:
        Seven forward passes per unlabelled image, which is read once, and the IoU of its boxes with all boxes predicted
        under each level of noise.
    """
    if max_boxes is not None and max_boxes < 1:
        raise ValueError(f"localization_stability[max_boxes={max_boxes}]: must be 1 or more, or null for all")
    seeds = [int(rng.integers(2**63)) for _ in NOISE_SIGMAS]
    parts = [
        box_stability(clean, noisy, max_boxes) for clean, *noisy in view.perturbed(view.unlabelled, NOISE_SIGMAS, seeds)
    ]
    confidence_NA = concatenate_padded([part.confidence_NA for part in parts])
    weighted_N = (confidence_NA * concatenate_padded([part.stability_NA for part in parts])).sum(1)
    stability_N = weighted_N / confidence_NA.sum(1).clamp(min=torch.finfo().tiny)
    has_boxes_N = torch.cat([part.num_boxes_N for part in parts]).bool().cpu().numpy()
    value_N = stability_N - torch.cat([part.uncertainty_N for part in parts]) if certainty else stability_N
    picks = lowest_then_random(view, value_N, has_boxes_N | (without_boxes == "score"), budget, rng)
    view.log(stability=stability_N.sum().item() / max(1, has_boxes_N.sum()), share_without_boxes=(~has_boxes_N).mean())
    return picks


class BoxStability(NamedTuple):
    """The boxes of some images, the most confident first."""

    confidence_NA: Tensor
    stability_NA: Tensor  # S_B: the largest IoU with a box predicted under noise, averaged over the levels of noise
    uncertainty_N: Tensor  # max_j (1 - P_j)
    num_boxes_N: Tensor  # before `max_boxes`


def box_stability(clean: Predictions, noisy: Sequence[Predictions], max_boxes: int | None) -> BoxStability:
    """Compares the boxes that are predicted without noise with those under each level of noise."""
    sorted_score_P, order_P = clean.score_P.sort(descending=True, stable=True)
    image_P, num = clean.image_P[order_P], clean.num_images
    boxes_NA4 = pad_by_image(box_corners(clean)[order_P], image_P, num)[:, :max_boxes]
    total_NA = torch.zeros_like(boxes_NA4[..., 0])
    for predictions in noisy:
        total_NA += best_iou(boxes_NA4, boxes_by_image(predictions))
    return BoxStability(
        pad_by_image(sorted_score_P, image_P, num)[:, :max_boxes],
        total_NA / len(noisy),
        pad_by_image(1 - sorted_score_P, image_P, num)[:, :max_boxes].amax(1),
        image_P.bincount(minlength=num),
    )


def concatenate_padded(rows: Sequence[Tensor]) -> Tensor:
    """Concatenates (N, A) tensors, padded with zeros to the largest A."""
    width = max(part_NA.shape[1] for part_NA in rows)
    return torch.cat([F.pad(part_NA, (0, width - part_NA.shape[1])) for part_NA in rows])
