"""Normalisation and augmentation of images, in batches on the device.

Shapes: N images, K channels (1 or 3), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.pixels import CHANNEL_STATISTICS, channel_moments


@dataclass(frozen=True)
class Normaliser:
    """Converts uint8 images to floats: (x - mean) / deviation by channel, with grey images repeated to three
    channels."""

    mean_K11: Tensor
    deviation_K11: Tensor

    @classmethod
    def from_name(cls, name: str, images_NKHW: Tensor) -> Normaliser:
        """Returns a normaliser with known statistics.

        Args:
            name: name of a data set in `pixels`, or `pool` for the statistics of the given images.
            images_NKHW: the images of the pool. Their labels are not needed.
        """
        if name == "pool":
            mean_K, deviation_K = (values_K.float() for values_K in channel_moments(images_NKHW))
        else:
            mean_K, deviation_K = torch.tensor(CHANNEL_STATISTICS[name])
        device = images_NKHW.device
        return cls(mean_K.view(-1, 1, 1).to(device), deviation_K.view(-1, 1, 1).to(device))

    def __call__(self, images_NKHW: Tensor) -> Tensor:
        """(N, 3, H, W) float32."""
        values_NKHW = (images_NKHW.float() - self.mean_K11) / self.deviation_K11
        return values_NKHW.expand(-1, 3, -1, -1) if values_NKHW.shape[1] == 1 else values_NKHW


class Batch(NamedTuple):
    """The images of one training step, with the random draws of their augmentation.

    Args:
        positions_N: positions in the labelled set.
        offset_N2: y, x of the crop in the padded image.
        flip_N: whether each image is mirrored.
    """

    positions_N: Tensor
    offset_N2: Tensor
    flip_N: Tensor

    def augment(self, images_NKHW: Tensor, normaliser: Normaliser, recipe: Recipe) -> Tensor:
        """(N, 3, H, W) float32: the batch's images, normalised, padded, mirrored and cropped."""
        padding = (recipe.pad,) * 4
        batch_NKHW = images_NKHW[self.positions_N]
        if recipe.pad_colour == "black":
            return crop_and_flip(normaliser(F.pad(batch_NKHW, padding)), self.offset_N2, self.flip_N, recipe.pad)
        return crop_and_flip(F.pad(normaliser(batch_NKHW), padding), self.offset_N2, self.flip_N, recipe.pad)


def crop_and_flip(padded_NKHW: Tensor, offset_N2: Tensor, flip_N: Tensor, pad: int) -> Tensor:
    """Mirrors the padded images of `flip_N`, then crops each image at its offset to the size without padding."""
    num_images, _, height, width = padded_NKHW.shape
    device = padded_NKHW.device
    rows_NH = offset_N2[:, :1] + torch.arange(height - 2 * pad, device=device)
    columns_NW = offset_N2[:, 1:] + torch.arange(width - 2 * pad, device=device)
    columns_NW = torch.where(flip_N[:, None], width - 1 - columns_NW, columns_NW)
    image_N11 = torch.arange(num_images, device=device)[:, None, None]
    return padded_NKHW[image_N11, :, rows_NH[:, :, None], columns_NW[:, None, :]].permute(0, 3, 1, 2)


def draw_epoch(num_images: int, recipe: Recipe, generator: torch.Generator, device: torch.device) -> Iterator[Batch]:
    """Returns the batches of one epoch.

    All random numbers are drawn at once on the CPU, so they are the same on every device.
    """
    order_N = torch.randperm(num_images, generator=generator)
    num_offsets = max(1, 2 * recipe.pad + recipe.full_crop)
    offset_N2 = torch.randint(num_offsets, (num_images, 2), generator=generator)
    flip_N = torch.rand(num_images, generator=generator) < (0.5 if recipe.flip else 0.0)
    parts = (split_batches(values.to(device), recipe) for values in (order_N, offset_N2, flip_N))
    return map(Batch, *parts)


def split_batches(values_N: Tensor, recipe: Recipe) -> list[Tensor]:
    """Splits an epoch into batches of at most `batch_size`: the incomplete last batch is dropped, or all have nearly
    equal size."""
    num_images, size = len(values_N), recipe.batch_size
    if recipe.drop_last:
        return list(values_N[: num_images - num_images % size].split(size))
    return list(values_N.tensor_split(-(-num_images // size)))
