"""Hooks that change what mmdet's focal loss is computed from.

Shapes: A places of all images, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def one_hot_targets(loss: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turns class targets into columns, so that mmdet uses its PyTorch formula and not its compiled operator."""
    scores_AC, target, *rest = inputs
    if scores_AC.dim() != target.dim():
        target = F.one_hot(target, scores_AC.shape[1] + 1)[:, : scores_AC.shape[1]]
    return scores_AC, target, *rest


@contextmanager
def add_images_to_divisor(loss: nn.Module, num_images: int) -> Iterator[None]:
    """Divides a focal loss by the number of positives plus the number of images inside the block, as mmdet 2.4 did.

    The installed mmdet gives the number of positives, or 1 if there are none; in several processes it is their mean.

    Args:
        loss: the module of the loss, whose targets are columns already.
        num_images: the number of images of the batch.
    """

    def change_divisor(
        loss: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        num_positives = torch.where(inputs[1].any(), options["avg_factor"], 0)
        return inputs, options | {"avg_factor": num_positives + num_images}

    handle = loss.register_forward_pre_hook(change_divisor, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
