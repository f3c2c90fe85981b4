"""Copies tensors from the CPU to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def move(values: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor to a device; a copy from the CPU to a GPU does not wait for the work that the GPU has to do.

    Args:
        values: the tensor.
        device: the device.
    """
    is_copied = device.type == "cuda" and values.device.type == "cpu"
    return (values.pin_memory() if is_copied else values).to(device, non_blocking=is_copied)
