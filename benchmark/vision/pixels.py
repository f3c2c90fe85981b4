"""Channel means and standard deviations on the scale 0..255: published ones, and those of given images.

Shapes: N images, K channels (1 or 3), H x W pixels.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Channels: TypeAlias = tuple[float, float, float]

PIXELS_PER_PART = 2**17  # that are summed at once: a CPU is four times slower with parts that leave its caches

# Means and standard deviations of red, green and blue: CIFAR from pycls, ImageNet from torchvision. cifar10_per_image,
# which much code for CIFAR-10 uses, has the mean of the images' own deviations, a fifth less than that of all pixels.
CHANNEL_STATISTICS: dict[str, tuple[Channels, Channels]] = {
    "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "cifar10_per_image": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
    "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def channel_moments(images_NKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean and the standard deviation of each channel from exact integer sums.

    Args:
        images_NKHW: (N, K, H, W) uint8 on any device.

    Returns:
        (K,) means and (K,) standard deviations of at least 1, float64 on the CPU.
    """
    sum_K = square_K = torch.zeros(images_NKHW.shape[1], dtype=torch.int64, device=images_NKHW.device)
    num_pixels = images_NKHW.shape[2] * images_NKHW.shape[3]
    for part_NKHW in images_NKHW.split(max(1, PIXELS_PER_PART // max(1, num_pixels))):
        values_NKHW = part_NKHW.to(torch.int32)
        sum_K = sum_K + values_NKHW.sum((0, 2, 3))
        square_K = square_K + (values_NKHW * values_NKHW).sum((0, 2, 3))
    count = images_NKHW.numel() // images_NKHW.shape[1]
    mean_K = sum_K.cpu().double() / count
    variance_K = square_K.cpu().double() / count - mean_K**2
    return mean_K, variance_K.clamp(min=1.0).sqrt()
