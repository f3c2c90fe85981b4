"""Localization stability: images whose predicted boxes move most under noise (Kao et al., 2018).

Shapes: N images, P predictions, A boxes of one image without noise, padded with zeros.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, View, register

from .shared.boxes import WithoutBoxes, best_iou, box_corners, boxes_by_image, lowest_then_random, pad_by_image

NOISE_SIGMAS = (8.0, 16.0, 24.0, 32.0, 40.0, 48.0)  # standard deviations of the noise, on pixel values of 0 to 255


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
        Seven forward passes per unlabelled image, and the IoU of its boxes with all boxes predicted under each level of
        noise.
    """
    if max_boxes is not None and max_boxes < 1:
        raise ValueError(f"localization_stability[max_boxes={max_boxes}]: must be 1 or more, or null for all")
    clean = view.predict(view.unlabelled)
    sorted_score_P, order_P = clean.score_P.sort(descending=True, stable=True)
    image_P, num = clean.image_P[order_P], clean.num_images
    confidence_NA = pad_by_image(sorted_score_P, image_P, num)[:, :max_boxes]
    uncertainty_N = pad_by_image(1 - sorted_score_P, image_P, num)[:, :max_boxes].amax(1)
    boxes_NA4 = pad_by_image(box_corners(clean)[order_P], image_P, num)[:, :max_boxes]
    del clean  # frees the class scores, which take most memory
    weighted_N = (confidence_NA * stability(view, boxes_NA4, rng)).sum(1)
    stability_N = weighted_N / confidence_NA.sum(1).clamp(min=torch.finfo().tiny)
    has_boxes_N = image_P.bincount(minlength=num).bool().cpu().numpy()
    value_N = stability_N - uncertainty_N if certainty else stability_N
    picks = lowest_then_random(view, value_N, has_boxes_N | (without_boxes == "score"), budget, rng)
    view.log(stability=stability_N.sum().item() / max(1, has_boxes_N.sum()), share_without_boxes=(~has_boxes_N).mean())
    return picks


def stability(view: View, boxes_NA4: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns S_B, (N, A): each box's largest IoU with a box predicted under noise, averaged over the levels of noise.

    The predictions of one level are held at a time, and of those only the boxes.
    """
    total_NA = torch.zeros_like(boxes_NA4[..., 0])
    for sigma in NOISE_SIGMAS:
        noisy_NB4 = boxes_by_image(view.perturbed(view.unlabelled, sigma, int(rng.integers(2**63))))
        total_NA += best_iou(boxes_NA4, noisy_NB4)
    return total_NA / len(NOISE_SIGMAS)
