"""A library's own preprocessing of images: its transform up to uint8 pixels, then its normalisation.

Pillow resizes, as in the library itself, so that results are equal to the bit on all devices.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmark.vision.data.forked_processes import num_cores

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How a library prepares images for one of its networks.

    Args:
        size: Height and width that the network takes.
        transform: The library's transform without normalisation: from a PIL image to a (3, *size) uint8 tensor.
        mean: Of red, green and blue, on the scale 0..1.
        deviation: Standard deviations on that scale.
    """

    size: tuple[int, int]
    transform: Callable[[Image.Image], Tensor]
    mean: Channels
    deviation: Channels

    def prepare(self, images: Iterable[Tensor]) -> Tensor:
        """Resizes and crops images on all cores.

        Args:
            images: (3, H, W) uint8 each, of any sizes.

        Returns:
            (N, 3, *size) uint8 on the CPU.
        """
        pictures = (Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images)
        with ThreadPoolExecutor(num_cores()) as threads:
            return torch.stack(list(threads.map(self.transform, pictures)))

    def normalise(self, images_N3HW: Tensor) -> Tensor:
        """(N, 3, H, W): float32 pixels in 0..1, less the mean, divided by the deviation."""
        mean_311, deviation_311 = (
            torch.tensor(values, device=images_N3HW.device).view(3, 1, 1) for values in (self.mean, self.deviation)
        )
        return (images_N3HW.float() / 255 - mean_311) / deviation_311


def timm_preprocessing(network: Any, size: int | None) -> Preprocessing:
    """The preprocessing that timm's configuration of a network names.

    Args:
        network: A network of timm.
        size: Height and width in pixels; None for the configuration's.
    """
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    config = resolve_data_config({} if size is None else {"input_size": (3, size, size)}, model=network)
    transform = create_transform(**config, is_training=False, normalize=False)
    _, height, width = config["input_size"]
    return Preprocessing((height, width), transform, tuple(config["mean"]), tuple(config["std"]))


def torchvision_preprocessing(name: str, size: int | None) -> Preprocessing:
    """The preprocessing that belongs to torchvision's weights of a network.

    Args:
        name: The network, such as `resnet50`.
        size: Height and width in pixels; None for the weights' own.
    """
    from torchvision import models, transforms

    own = models.get_model_weights(name).DEFAULT.transforms()
    side = size or own.crop_size[0]
    resize = transforms.Resize(round(own.resize_size[0] * side / own.crop_size[0]), own.interpolation, antialias=True)
    transform = transforms.Compose([resize, transforms.CenterCrop(side), transforms.PILToTensor()])
    return Preprocessing((side, side), transform, tuple(own.mean), tuple(own.std))
