"""What strategies for detectors share.

Shapes: N images, P predictions, A or B boxes per image, padded with zeros.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Indices, Predictions, View

WithoutBoxes: TypeAlias = Literal["last", "score"]  # selected only where others are too few, or by a value of their own

CHUNK = 2**20  # pairs of boxes in memory at once
MIN_UNION = 1e-30  # square pixels; the smallest union, so that boxes without area overlap with nothing


def pad_by_image(values_P: Tensor, image_P: Tensor, num_images: int) -> Tensor:
    """Returns the values of each image in a row of its own, (N, A, ...), in order, padded with zeros; A >= 1."""
    num_columns = max(1, int(image_P.bincount(minlength=num_images).max()))
    out_NA = values_P.new_zeros(num_images, num_columns, *values_P.shape[1:])
    out_NA[image_P, rank_in_image(image_P, num_images)] = values_P
    return out_NA


def rank_in_image(image_P: Tensor, num_images: int) -> Tensor:
    """Returns how many predictions of the same image precede each prediction, (P,)."""
    counts_N = image_P.bincount(minlength=num_images)
    order_P = image_P.argsort(stable=True)
    rank_P = torch.arange(len(image_P), device=image_P.device)
    column_P = torch.empty_like(rank_P)
    column_P[order_P] = rank_P - (counts_N.cumsum(0) - counts_N)[image_P[order_P]]
    return column_P


def iou(a_4: Tensor, b_4: Tensor) -> Tensor:
    """Returns the intersection over union of boxes x1, y1, x2, y2, broadcast; 0 where neither box has an area."""
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = a_4.unbind(-1), b_4.unbind(-1)
    width = (torch.minimum(right, right_b) - torch.maximum(left, left_b)).clamp_(min=0)
    height = (torch.minimum(bottom, bottom_b) - torch.maximum(top, top_b)).clamp_(min=0)
    overlap = width * height
    areas = (right - left) * (bottom - top) + (right_b - left_b) * (bottom_b - top_b)
    return overlap / (areas - overlap).clamp_(min=MIN_UNION)


def best_iou(boxes_NA4: Tensor, others_NB4: Tensor) -> Tensor:
    """Returns the largest IoU of each box with any other box of its image, (N, A); 0 where there is none."""
    return best_match(boxes_NA4, others_NB4)[0]


def best_match(boxes_NA4: Tensor, others_NB4: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest IoU of each box with any other box of its image, and the position of that box, (N, A) each.

    Of equally good boxes the first is taken. A few images are treated at a time: time grows with N A B, memory with N
    (A + B).
    """
    step = max(1, CHUNK // (boxes_NA4.shape[1] * others_NB4.shape[1]))
    parts = zip(boxes_NA4.split(step), others_NB4.split(step), strict=True)
    matches = [iou(boxes[:, :, None], others[:, None]).max(2) for boxes, others in parts]
    return torch.cat([match.values for match in matches]), torch.cat([match.indices for match in matches])


def box_corners(predictions: Predictions) -> Tensor:
    """Returns the boxes of a detector's predictions, (P, 4); raises ValueError for predictions without boxes."""
    if predictions.boxes_P4 is None:
        raise ValueError("predictions without boxes: this strategy needs a detector, not a classifier or a segmenter")
    return predictions.boxes_P4


def box_classes(predictions: Predictions) -> Tensor:
    """Returns the most likely class of each box, (P,), background excluded."""
    return predictions.scores_PC[:, :-1].argmax(1)


def boxes_by_image(predictions: Predictions) -> Tensor:
    """Returns the boxes of each image, (N, A, 4), in their order."""
    return pad_by_image(box_corners(predictions), predictions.image_P, predictions.num_images)


def count_boxes(predictions: Predictions, min_score: float) -> Indices:
    """Returns the number of boxes of each image with at least this confidence, (N,); 1 for a classifier."""
    if num_nan := int(predictions.confidence_P.isnan().sum()):
        raise ValueError(f"{num_nan} of {len(predictions.confidence_P)} confidences are NaN")
    if predictions.boxes_P4 is None:
        return np.ones(predictions.num_images, dtype=np.int64)
    image_P = predictions.image_P[predictions.confidence_P >= min_score]
    counts: Indices = image_P.bincount(minlength=predictions.num_images).cpu().numpy()
    return counts


def lowest_then_random(
    view: View, values_N: Tensor, has_value_N: npt.NDArray[np.bool_], budget: int, rng: np.random.Generator
) -> Indices:
    """Selects the images with the smallest values; where too few have a value, random others follow."""
    values_N = values_N.where(torch.from_numpy(has_value_N).to(values_N.device), torch.inf)
    lowest = view.lowest(values_N, min(budget, int(has_value_N.sum())))
    random_picks = rng.choice(view.unlabelled[~has_value_N], budget - len(lowest), replace=False)
    return np.concatenate([lowest, random_picks])
