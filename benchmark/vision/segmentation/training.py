"""The training loop of a segmentation network. A fit that is killed and resumed from its checkpoint ends with the same
weights.

Shapes: N images, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Companion
from benchmark.vision.data.label_maps import IGNORE_INDEX
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.learning_rate import LearningRateSchedule
from benchmark.vision.pixels import CHANNEL_STATISTICS
from benchmark.vision.segmentation.networks import Segmenter
from benchmark.vision.segmentation.recipe import SegmenterRecipe
from benchmark.vision.training import add_companion_loss, is_attached, train_sgd
from benchmark.vision.transfer import move


@dataclass(frozen=True)
class Step:
    """One training step.

    Args:
        number: counted from 0 over all epochs.
        positions: its images, as positions in the labelled set.
        draws_N4: uniform random numbers in 0..1: whether to mirror, scale, top and left of the crop.
    """

    number: int
    positions: list[int]
    draws_N4: Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of normalised images and their uint8 label maps."""

    images_N3HW: Tensor  # normalised
    maps_NHW: Tensor  # uint8


PrepareBatches: TypeAlias = Callable[[Sequence[Step]], Iterator[Batch]]


def train_segmenter(
    network: Segmenter, num_images: int, prepare: PrepareBatches, recipe: SegmenterRecipe, companion: Companion | None,
    seed: int, checkpoint: Path | None,
) -> None:  # fmt: skip
    """Trains a network in place, together with its companion.

    Every random draw is seeded by the epoch or the step that it belongs to; see `train_sgd`.

    Args:
        network: an untrained network on its device.
        num_images: size of the labelled set.
        prepare: yields the batch of each step.
        recipe: the parameters of training.
        companion: what the strategy trains beside the model; None without one.
        seed: seed of the fit.
        checkpoint: file that holds work in progress; None without checkpoints.

    Raises:
        ValueError: the loss is infinite or not a number.
    """
    steps = plan_steps(num_images, recipe, seed)
    sgd = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    lr_schedule = learning_rate_schedule(recipe)
    train_sgd(
        network, sgd, steps, prepare,
        learning_rate=lambda number: lr_schedule.rate_at(number / len(steps)),
        objective=lambda batch, number: objective(network, batch, companion, number / len(steps)),
        num_images=num_images, advice=f"lower lr={recipe.lr}",
        epochs=recipe.epochs, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip


def objective(network: Segmenter, batch: Batch, companion: Companion | None, progress: float) -> Tensor:
    """The mean cross-entropy over the batch's labelled pixels, plus the companion's loss."""
    height, width = batch.maps_NHW.shape[1:]
    features_NDhw, maps = network.features(batch.images_N3HW)
    sum_N, num_N = cross_entropy(network.logits(features_NDhw, (height, width)), batch.maps_NHW)
    loss = sum_N.sum() / num_N.sum().clamp(min=1)
    attached = is_attached(companion, progress)
    return add_companion_loss(loss, network.companion, companion, maps, lambda: sum_N / num_N.clamp(min=1), attached)


def cross_entropy(logits_NCHW: Tensor, maps_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """(N,): the sum of -log p over the labelled pixels of each image, and (N,) their number."""
    is_labelled_NHW = maps_NHW != IGNORE_INDEX
    label_N1HW = torch.where(is_labelled_NHW, maps_NHW, 0).long()[:, None]
    log_NHW = logits_NCHW.log_softmax(1).gather(1, label_N1HW)[:, 0]
    return -torch.where(is_labelled_NHW, log_NHW, 0.0).sum((1, 2)), is_labelled_NHW.sum((1, 2))


def plan_steps(num_images: int, recipe: SegmenterRecipe, seed: int) -> list[Step]:
    """Lists every step of a fit. Each epoch has a new order, in batches whose sizes differ by at most one image."""
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, f"epoch {epoch}"))
        order = torch.randperm(num_images, generator=generator)
        draws_N4 = torch.rand(num_images, 4, generator=generator)
        for places in torch.arange(num_images).tensor_split(-(-num_images // recipe.batch_size)):
            steps.append(Step(len(steps), order[places].tolist(), draws_N4[places]))
    return steps


def learning_rate_schedule(recipe: SegmenterRecipe) -> LearningRateSchedule:
    """The learning rate as a function of the completed share of training."""
    return LearningRateSchedule(lr=recipe.lr, shape=recipe.schedule, power=recipe.power)


# --- from stored images to batches ----------------------------------------------------------------
def augment_batch(pairs: Sequence[Tensor], draws_N4: Tensor, recipe: SegmenterRecipe, device: torch.device) -> Batch:
    """Builds a batch from images with their label maps, (4, H, W) uint8 each: resized, cropped and mirrored as drawn.

    Images of different sizes are padded on the right and below.
    """
    parts = [
        augment_pair(move(pair, device), draws, recipe) for pair, draws in zip(pairs, draws_N4.tolist(), strict=True)
    ]
    height, width = (recipe.crop or max(label_map.shape[axis] for _, label_map in parts) for axis in (0, 1))
    images, maps = [], []
    for image_3HW, map_HW in parts:
        padding = (0, width - map_HW.shape[1], 0, height - map_HW.shape[0])
        images.append(F.pad(image_3HW, padding))
        maps.append(F.pad(map_HW, padding, value=IGNORE_INDEX))
    return Batch(to_memory_format(torch.stack(images), recipe), torch.stack(maps))


def augment_pair(pair_4HW: Tensor, draws: Sequence[float], recipe: SegmenterRecipe) -> tuple[Tensor, Tensor]:
    """Resizes, crops and mirrors one image, (3, H, W) normalised, and its label map, (H, W) uint8."""
    flip_draw, scale_draw, y_draw, x_draw = draws
    pixels_13HW, map_11HW = pair_4HW[None, :3].float(), pair_4HW[None, 3:]
    factor = recipe.scale_min + scale_draw * (recipe.scale_max - recipe.scale_min)
    if factor != 1:
        size = [max(1, round(length * factor)) for length in pair_4HW.shape[1:]]
        pixels_13HW = F.interpolate(pixels_13HW, size, mode="bilinear", antialias=True, align_corners=False)
        map_11HW = F.interpolate(map_11HW, size, mode="nearest-exact")
    image_3HW, map_HW = pixels_13HW[0], map_11HW[0, 0]
    if recipe.crop:
        offsets = [int(o * (max(n - recipe.crop, 0) + 1)) for o, n in zip((y_draw, x_draw), map_HW.shape, strict=True)]
        rows, columns = (slice(offset, offset + recipe.crop) for offset in offsets)
        image_3HW, map_HW = image_3HW[:, rows, columns], map_HW[rows, columns]
    if recipe.flip and flip_draw < 0.5:
        image_3HW, map_HW = image_3HW.flip(2), map_HW.flip(1)
    return normalise(image_3HW), map_HW


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W): minus ImageNet's mean, divided by its deviation, by channel."""
    mean_311, deviation_311 = imagenet_statistics(images.device)
    return (images - mean_311) / deviation_311


@cache
def imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1): ImageNet's mean and deviation by channel, copied to a device once."""
    mean_311, deviation_311 = (torch.tensor(v, device=device).view(3, 1, 1) for v in CHANNEL_STATISTICS["imagenet"])
    return mean_311, deviation_311


def to_memory_format(images_N3HW: Tensor, recipe: SegmenterRecipe) -> Tensor:
    """The images in the recipe's memory format."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return images_N3HW.contiguous(memory_format=layout)
