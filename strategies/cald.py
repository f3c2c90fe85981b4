"""CALD: consistency-based active learning for object detection (Yu et al., 2022).

Shapes: N images, P predictions, S of them image by image, A or B boxes of one image, C classes.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Augmentation, Indices, Predictions, View, register

from .shared.boxes import (
    CHUNK,
    WithoutBoxes,
    best_match,
    box_classes,
    boxes_by_image,
    lowest_then_random,
    rank_in_image,
)

BASE_POINT = 1.3  # of IoU + (1 - JS) (P + P') / 2, which is 2 where an augmentation changes nothing


@register(needs={"augmented", "labels"}, version=2)
def cald(
    view: View, budget: int, rng: np.random.Generator, *, candidates: float = 1.2, without_boxes: WithoutBoxes = "score"
) -> Indices:
    """Selects the images whose predicted boxes change most under augmentation, and of those the ones with rare classes.

    A box and its best match by IoU in the augmented image have the consistency `m = |IoU + (1 - JS) (P + P') / 2 -
    1.3|`. JS is the Jensen-Shannon divergence of their class probabilities (in nats; background is one more class), and
    P and P' are their confidences. The score of an image is the smallest m of its boxes, averaged over four
    augmentations: flipped, two patches cut out, shrunk, rotated. An augmentation under which no box is left counts as
    0. From the images with the lowest scores, those are selected whose classes diverge most from the labelled set. That
    is the Jensen-Shannon divergence between two softmaxes: of the labelled boxes per image of each class, and of the
    largest confidence of a box of each class, averaged over the image and its augmentations.

    Args:
        candidates: how many images with the lowest scores are compared by their classes, as a multiple of the budget
            (1.2 in the published code).
        without_boxes: how images without predicted boxes are treated. `score` gives them m = 0 and the largest
            divergence, so they are selected first, as in the published code. `last` selects them at random where too
            few others are left (this project's alternative).

    Logs:
        consistency: the mean score of images with boxes.
        share_without_boxes: the share of unlabelled images without predicted boxes.

    References:
        Yu et al., Consistency-based Active Learning for Object Detection, CVPR Workshops 2022.

    Deviations:
        Compared with the published code: boxes are compared in pixels of the original image, whereas that code
        transforms the boxes of the clean image (rotation enlarges a box). Patches are cut out at random places and have
        the mean colour, whereas that code looks for places that cover a tenth of a box and fills them with black. The
        shrunk image lies on a canvas of the original size, whereas that code's detector enlarges it again. All boxes
        count, whereas that code takes 50 of an image that has more than 40. The class of a box is its most likely one.
        All of COCO's images are candidates, whereas that code draws 10,000.

    Cost:
        Five predictions per unlabelled image, which is read once, and the IoU of all boxes of an image with all boxes
        of each augmented image.
    """
    if candidates < 1:
        raise ValueError(f"cald[candidates={candidates:g}]: must be at least 1, as a multiple of the budget")
    value_N, classes_NC, has_boxes_N = consistency(view, rng)
    num = min(int(candidates * budget), len(value_N))
    has_value_N = has_boxes_N | (without_boxes == "score")
    shortlist = lowest_then_random(view, value_N, has_value_N, num, rng)
    rows = np.searchsorted(view.unlabelled, shortlist)
    rarity = (
        js_divergence(labelled_class_frequency(view, classes_NC).softmax(0), classes_NC[rows].softmax(1)).cpu().numpy()
    )
    rarity[~has_boxes_N[rows]] = np.inf if without_boxes == "score" else -np.inf
    view.log(consistency=value_N.sum().item() / max(1, has_boxes_N.sum()), share_without_boxes=(~has_boxes_N).mean())
    picks: Indices = shortlist[np.argsort(-rarity, kind="stable")[:budget]]
    return picks


def consistency(view: View, rng: np.random.Generator) -> tuple[Tensor, Tensor, npt.NDArray[np.bool_]]:
    """Returns the score of each image, (N,), its class confidences, (N, C), and whether it has boxes, (N,).

    The score is the smallest m of the image, averaged over the augmentations. The confidence of a class is the largest
    confidence of a box of that class, averaged over the image and its augmentations. The predictions of some images are
    held at a time.
    """
    hows = get_args(Augmentation)
    seeds = [int(rng.integers(2**63)) for _ in hows]
    totals, class_totals, has_boxes = list[Tensor](), list[Tensor](), list[Tensor]()
    for clean, *views in view.augmented(view.unlabelled, hows, seeds):
        has_boxes.append(clean.image_P.bincount(minlength=clean.num_images).bool())
        total_N, total_NC = torch.zeros_like(has_boxes[-1], dtype=torch.float32), class_confidence(clean)
        for augmented in views:
            total_N = total_N + least_consistency(clean, augmented)
            total_NC = total_NC + class_confidence(augmented)
        totals.append(total_N / len(hows))
        class_totals.append(total_NC / (1 + len(hows)))
    return torch.cat(totals), torch.cat(class_totals), torch.cat(has_boxes).cpu().numpy()


def least_consistency(clean: Predictions, augmented: Predictions) -> Tensor:
    """Returns the smallest m of each image's boxes, (N,); 0 where either prediction has no boxes."""
    iou_NA, match_NA = best_match(boxes_by_image(clean), boxes_by_image(augmented))
    counts_N = augmented.image_P.bincount(minlength=augmented.num_images)
    matched_P = (counts_N > 0)[clean.image_P]
    image_S, column_S = clean.image_P[matched_P], rank_in_image(clean.image_P, clean.num_images)[matched_P]
    first_S = (counts_N.cumsum(0) - counts_N)[image_S]
    row_S = augmented.image_P.argsort(stable=True)[first_S + match_NA[image_S, column_S]]
    pairs = zip(matched_P.nonzero()[:, 0].split(CHUNK), row_S.split(CHUNK), strict=True)
    scores_S = torch.cat([score_consistency(clean, rows, augmented, matches) for rows, matches in pairs])
    m_P = torch.zeros_like(clean.confidence_P)
    m_P[matched_P] = (iou_NA[image_S, column_S] + scores_S - BASE_POINT).abs()
    return -clean.per_image(-m_P, "max")


def score_consistency(clean: Predictions, row_S: Tensor, augmented: Predictions, match_S: Tensor) -> Tensor:
    """Returns (1 - JS) (P + P') / 2 for pairs of rows, (S,)."""
    similarity_S = 1 - js_divergence(clean.scores_PC[row_S], augmented.scores_PC[match_S])
    return similarity_S * (clean.confidence_P[row_S] + augmented.confidence_P[match_S]) / 2


def js_divergence(p_C: Tensor, q_C: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence along the last axis, broadcast: from 0 (equal) to log 2."""
    mean_C = (p_C + q_C) / 2
    entropy_of_mean, entropy_of_p = torch.special.entr(mean_C).sum(-1), torch.special.entr(p_C).sum(-1)
    divergence: Tensor = entropy_of_mean - (entropy_of_p + torch.special.entr(q_C).sum(-1)) / 2
    return divergence.clamp(min=0)


def class_confidence(predictions: Predictions) -> Tensor:
    """Returns the largest confidence of an image's boxes of each class, (N, C); 0 for a class without boxes."""
    num_classes = predictions.scores_PC.shape[1] - 1
    image_class_P = predictions.image_P * num_classes + box_classes(predictions)
    out = predictions.scores_PC.new_zeros(predictions.num_images * num_classes)
    return out.scatter_reduce(0, image_class_P, predictions.confidence_P, "amax").view(-1, num_classes)


def labelled_class_frequency(view: View, like_NC: Tensor) -> Tensor:
    """Returns the labelled boxes of each class per labelled image, (C,)."""
    labels = view.labels(view.labelled)
    assert isinstance(labels, list), "a detector's labels are boxes"
    label_B = torch.cat([torch.empty(0, dtype=torch.int64), *(boxes.labels_M.cpu() for boxes in labels)])
    counts_C = label_B.bincount(minlength=like_NC.shape[1])
    return counts_C.to(like_NC) / max(1, len(labels))
