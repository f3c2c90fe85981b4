"""Localization stability (Kao et al., Localization-Aware Active Learning for Object Detection, ACCV 2018).

Shapes: N images, P predictions, A boxes of one image without noise, padded with zeros.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, View, register

from .shared.boxes import WithoutBoxes, best_iou, box_corners, boxes_by_image, lowest_then_random, pad_by_image

NOISE_SIGMAS = (8.0, 16.0, 24.0, 32.0, 40.0, 48.0)  # deviations of the noise on pixels of 0..255


@register(needs={"predict", "perturbed"}, version=2)
def localization_stability(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    certainty: bool = False,
    max_boxes: int | None = None,
    without_boxes: WithoutBoxes = "last",
) -> Indices:
    """The images whose boxes move most under noise: smallest S_I = sum_j P_j S_B(j) / sum_j P_j, in 0..1.

    S_B of a box: the mean over six levels of Gaussian noise (of deviation 8, 16, .., 48 on pixels of 0..255) of its
    largest IoU with any box found under that noise, whatever the class; 0 where none is found. P: the box's
    confidence, FCOS's class probability times centerness, not torchvision's root of it.
    certainty: rank by LS+C, where this is LS: S_I - max_j (1 - P_j), in -1..1; the weight between the two is 1. The
        paper has both, CALD's code LS+C alone; false is ours.
    max_boxes: only so many surest boxes of the image without noise, null all (ISAL's code; CALD's takes 30).
    without_boxes: `last` = only where too few others are left, then at random (ISAL's code); `score` = S_I is 0
        (CALD's), which plain LS buys first.
    Logs `stability`, the mean S_I of images with boxes, and `share_without_boxes`.
    Deviation: the correct IoU, where ISAL's code takes y to grow upwards.
    Cost: seven forward passes an unlabelled image, and the IoU of its boxes with all those found under each noise.
    """
    if max_boxes is not None and max_boxes < 1:
        raise ValueError(f"localization_stability[max_boxes={max_boxes}]: must be 1 or more, or null for all")
    clean = view.predict(view.unlabelled)
    surest_P, order_P = clean.score_P.sort(descending=True, stable=True)
    image_P, num = clean.image_P[order_P], clean.num_images
    confidence_NA = pad_by_image(surest_P, image_P, num)[:, :max_boxes]
    doubt_N = pad_by_image(1 - surest_P, image_P, num)[:, :max_boxes].amax(1)
    boxes_NA4 = pad_by_image(box_corners(clean)[order_P], image_P, num)[:, :max_boxes]
    del clean  # class scores are the largest thing here
    weighted_N = (confidence_NA * stability(view, boxes_NA4, rng)).sum(1)
    stability_N = weighted_N / confidence_NA.sum(1).clamp(min=torch.finfo().tiny)
    has_N = image_P.bincount(minlength=num).bool().cpu().numpy()
    value_N = stability_N - doubt_N if certainty else stability_N
    picks = lowest_then_random(view, value_N, has_N | (without_boxes == "score"), budget, rng)
    view.log(stability=stability_N.sum().item() / max(1, has_N.sum()), share_without_boxes=(~has_N).mean())
    return picks


def stability(view: View, boxes_NA4: Tensor, rng: np.random.Generator) -> Tensor:
    """(N, A): S_B, the mean over the levels of each box's largest IoU with a box found under that noise.

    One level's predictions at a time, of which only the boxes are kept.
    """
    total_NA = torch.zeros_like(boxes_NA4[..., 0])
    for sigma in NOISE_SIGMAS:
        noisy_NB4 = boxes_by_image(view.perturbed(view.unlabelled, sigma, int(rng.integers(2**63))))
        total_NA += best_iou(boxes_NA4, noisy_NB4)
    return total_NA / len(NOISE_SIGMAS)
