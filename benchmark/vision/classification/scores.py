"""Accuracy, over all images and by class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmark.api import (
    Scores,
    scores_by_class,
)


def accuracy_scores(predicted_N: Tensor, true_N: Tensor, classes: Sequence[str]) -> Scores:
    """Computes accuracy and balanced accuracy in per cent, and counts the classes that are predicted and those that
    occur."""
    is_correct_N = predicted_N == true_N
    num_C = true_N.bincount(minlength=len(classes))
    num_correct_C, occurs_C = true_N[is_correct_N].bincount(minlength=len(classes)), num_C > 0
    pairs = zip(num_correct_C.tolist(), num_C.tolist(), strict=True)
    values = {
        "accuracy": 100.0 * (is_correct_N.sum().item() / len(true_N)),
        "balanced_accuracy": 100.0 * (num_correct_C[occurs_C].double() / num_C[occurs_C]).mean().item(),
        "num_predicted_classes": float(len(predicted_N.unique())),
        "num_test_classes": float(occurs_C.sum().item()),
    }
    of_class = scores_by_class(classes, (100.0 * num_correct / num if num else None for num_correct, num in pairs))
    return Scores(values, {"accuracy": of_class})
