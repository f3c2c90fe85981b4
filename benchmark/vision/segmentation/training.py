"""The training loop of a segmenter. A killed fit goes on from its checkpoint and ends in the same bytes.

Shapes: N images, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Companion
from benchmark.vision.data.label_maps import IGNORE_INDEX
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.pixels import CHANNEL_STATISTICS
from benchmark.vision.segmentation.networks import Segmenter
from benchmark.vision.segmentation.recipe import SegmenterRecipe
from benchmark.vision.training import LearningRateSchedule, add_companion_loss, train_sgd


@dataclass(frozen=True)
class Step:
    """The images of one training step and what is drawn for them."""

    number: int  # from 0, over all epochs
    positions: list[int]  # positions in the labelled set
    draws_N4: Tensor  # 0..1 each: mirrored or not, scale, top and left of the crop


@dataclass(frozen=True)
class Batch:
    """Images on their way into a network, with their label maps."""

    images_N3HW: Tensor  # normalised
    maps_NHW: Tensor  # uint8


PrepareBatches: TypeAlias = Callable[[Sequence[Step]], Iterator[Batch]]


def train_segmenter(
    network: Segmenter, num_images: int, prepare: PrepareBatches, recipe: SegmenterRecipe, companion: Companion | None,
    seed: int, checkpoint: Path | None,
) -> None:  # fmt: skip
    """Trains `network` in place, its companion with it. ValueError where the loss is infinite or not a number.

    Everything that is drawn is seeded by the epoch or the step it is drawn for: see `train_sgd`.
    """
    steps = plan_steps(num_images, recipe, seed)
    sgd = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    falling = learning_rate_schedule(recipe)
    train_sgd(
        network, sgd, steps, prepare,
        learning_rate=lambda number: falling.rate_at(number / len(steps)),
        objective=lambda batch, number: objective(network, batch, companion, number / len(steps)),
        num_images=num_images, advice=f"lower lr={recipe.lr}",
        epochs=recipe.epochs, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip


def objective(network: Segmenter, batch: Batch, companion: Companion | None, progress: float) -> Tensor:
    """The mean over the batch's labelled pixels, and what the companion adds to it."""
    height, width = batch.maps_NHW.shape[1:]
    features_NDhw, maps = network.features(batch.images_N3HW)
    sum_N, num_N = cross_entropy(network.logits(features_NDhw, (height, width)), batch.maps_NHW)
    loss = sum_N.sum() / num_N.sum().clamp(min=1)
    return add_companion_loss(loss, network.companion, companion, maps, lambda: sum_N / num_N.clamp(min=1), progress)


def cross_entropy(logits_NCHW: Tensor, maps_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) sums of -log p over the labelled pixels of an image, and (N,) how many these are."""
    known_NHW = maps_NHW != IGNORE_INDEX
    label_N1HW = torch.where(known_NHW, maps_NHW, 0).long()[:, None]
    log_NHW = logits_NCHW.log_softmax(1).gather(1, label_N1HW)[:, 0]
    return -torch.where(known_NHW, log_NHW, 0.0).sum((1, 2)), known_NHW.sum((1, 2))


def plan_steps(num_images: int, recipe: SegmenterRecipe, seed: int) -> list[Step]:
    """Every step of a fit: each epoch a new order, in batches of equal size, give or take one image."""
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, f"epoch {epoch}"))
        order = torch.randperm(num_images, generator=generator)
        draws_N4 = torch.rand(num_images, 4, generator=generator)
        for which in torch.arange(num_images).tensor_split(-(-num_images // recipe.batch_size)):
            steps.append(Step(len(steps), order[which].tolist(), draws_N4[which]))
    return steps


def learning_rate_schedule(recipe: SegmenterRecipe) -> LearningRateSchedule:
    """The learning rate after a share of training."""
    return LearningRateSchedule(lr=recipe.lr, shape=recipe.schedule, power=recipe.power)


# --- from stored images to batches ----------------------------------------------------------------
def augment_batch(pairs: Sequence[Tensor], draws_N4: Tensor, recipe: SegmenterRecipe, device: torch.device) -> Batch:
    """Images with their label maps, (4, H, W) uint8 each, resized, cropped and mirrored as drawn; those that differ in
    size padded on the right and below."""
    parts = [
        augment_pair(pair.to(device, non_blocking=True), draws, recipe)
        for pair, draws in zip(pairs, draws_N4.tolist(), strict=True)
    ]
    height, width = (recipe.crop or max(one.shape[axis] for _, one in parts) for axis in (0, 1))
    images, maps = [], []
    for image_3HW, map_HW in parts:
        around = (0, width - map_HW.shape[1], 0, height - map_HW.shape[0])
        images.append(F.pad(image_3HW, around))
        maps.append(F.pad(map_HW, around, value=IGNORE_INDEX))
    return Batch(to_memory_format(torch.stack(images), recipe), torch.stack(maps))


def augment_pair(pair_4HW: Tensor, draws: Sequence[float], recipe: SegmenterRecipe) -> tuple[Tensor, Tensor]:
    """(3, H, W) normalised and (H, W) uint8: one image and its label map, resized, cropped, mirrored."""
    mirrored, scale, top, left = draws
    pixels_13HW, map_11HW = pair_4HW[None, :3].float(), pair_4HW[None, 3:]
    factor = recipe.scale_min + scale * (recipe.scale_max - recipe.scale_min)
    if factor != 1:
        size = [max(1, round(length * factor)) for length in pair_4HW.shape[1:]]
        pixels_13HW = F.interpolate(pixels_13HW, size, mode="bilinear", antialias=True, align_corners=False)
        map_11HW = F.interpolate(map_11HW, size, mode="nearest-exact")
    image_3HW, map_HW = pixels_13HW[0], map_11HW[0, 0]
    if recipe.crop:
        offsets = [int(o * (max(n - recipe.crop, 0) + 1)) for o, n in zip((top, left), map_HW.shape, strict=True)]
        rows, columns = (slice(offset, offset + recipe.crop) for offset in offsets)
        image_3HW, map_HW = image_3HW[:, rows, columns], map_HW[rows, columns]
    if recipe.flip and mirrored < 0.5:
        image_3HW, map_HW = image_3HW.flip(2), map_HW.flip(1)
    return normalise(image_3HW), map_HW


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W): less ImageNet's mean, over its deviation, by channel."""
    mean_311, deviation_311 = (
        torch.tensor(values, device=images.device).view(3, 1, 1) for values in CHANNEL_STATISTICS["imagenet"]
    )
    return (images - mean_311) / deviation_311


def to_memory_format(images_N3HW: Tensor, recipe: SegmenterRecipe) -> Tensor:
    """In the recipe's memory layout."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return images_N3HW.contiguous(memory_format=layout)
