"""The scores of a segmentation model: mean intersection over union and pixel accuracy.

Shapes: N images, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmark.api import Scores, scores_by_class
from benchmark.vision.data.label_maps import IGNORE_INDEX


def confusion_matrix(predicted_NHW: Tensor, maps_NHW: Tensor, num_classes: int) -> Tensor:
    """(C, C): the number of labelled pixels of each true class (rows) and predicted class (columns)."""
    is_labelled_NHW = maps_NHW != IGNORE_INDEX
    pair_P = maps_NHW[is_labelled_NHW].long() * num_classes + predicted_NHW[is_labelled_NHW]
    return pair_P.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_scores(confusion_CC: Tensor, classes: Sequence[str]) -> Scores:
    """Computes the scores of `Segmentation.score` from a confusion matrix.

    Raises:
        ValueError: no pixel is labelled.
    """
    counts_CC = confusion_CC.double()
    correct_C, true_C, predicted_C = counts_CC.diagonal(), counts_CC.sum(1), counts_CC.sum(0)
    occurs_C = true_C > 0
    if not occurs_C.any():
        raise ValueError("no pixel of the test set is labelled: there is nothing to score")
    iou_C = correct_C[occurs_C] / (true_C + predicted_C - correct_C)[occurs_C]
    named = [name for name, occurs in zip(classes, occurs_C.tolist(), strict=True) if occurs]
    values = {
        "miou": 100.0 * iou_C.mean().item(),
        "pixel_accuracy": 100.0 * (correct_C.sum() / true_C.sum()).item(),
        "num_predicted_classes": float((predicted_C > 0).sum().item()),
        "num_test_classes": float(occurs_C.sum().item()),
    }
    return Scores(values, {"iou": scores_by_class(named, (100.0 * iou_C).tolist())})
