"""The training loop of a detector. A killed fit goes on from its checkpoint and ends in the same bytes.

Shapes: N images, K channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmark.api import Boxes, Companion
from benchmark.vision.classification.training import derived
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.training import descend


@dataclass(frozen=True)
class Step:
    """The images of one training step."""

    number: int  # from 0, over all epochs
    which: list[int]  # positions in the labelled set
    flips: list[bool]


Prepare: TypeAlias = Callable[[list[Step]], Iterator[tuple[Batch, list[Boxes]]]]


def train(
    detector: Detector, num_images: int, prepare: Prepare, recipe: DetectorRecipe, companion: Companion | None,
    seed: int, checkpoint: Path | None,
) -> None:  # fmt: skip
    """Trains `detector` in place, its companion with it. ValueError where the loss is infinite or not a number.

    Everything that is drawn is seeded by the epoch or the step it is drawn for: see `descend`.
    """
    steps = plan(num_images, recipe, seed)
    sgd, parts = optimiser(detector, recipe), apart(detector)
    descend(
        detector, sgd, steps, prepare,
        rate=lambda number: rate(recipe, number, len(steps)),
        objective=lambda pair, progress: objective(detector, *pair, companion, progress),
        diverged=lambda total: (
            f"the fit on {num_images} images diverged (loss {total}): lower lr={recipe.lr}, "
            f"or raise warmup={recipe.warmup:g}"
        ),
        epochs=recipe.epochs, seed=seed, checkpoint=checkpoint, clip=recipe.clip, parts=parts,
    )  # fmt: skip


def objective(
    detector: Detector, batch: Batch, targets: list[Boxes], companion: Companion | None, progress: float
) -> Tensor:
    """The library's loss of the batch and what the companion adds to it.

    A companion ranks the losses of single images, which are computed besides and carry no gradient.
    """
    maps = detector.trunk(batch.images_N3HW)
    loss = detector.loss(maps, batch, targets)
    if companion is None or detector.companion is None:
        return loss
    with torch.no_grad():
        losses_N = detector.image_losses(maps, batch, targets)
    attached = progress < companion.detach_after
    output_N = detector.companion(maps if attached else [level.detach() for level in maps])
    return loss + companion.loss(output_N, losses_N)


def plan(num_images: int, recipe: DetectorRecipe, seed: int) -> list[Step]:
    """Every step of a fit: each epoch a new order, in batches of equal size, give or take one image."""
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(derived(seed, f"epoch {epoch}"))
        order = torch.randperm(num_images, generator=generator)
        flips = torch.rand(num_images, generator=generator) < (0.5 if recipe.flip else 0.0)
        for which in torch.arange(num_images).tensor_split(-(-num_images // recipe.batch_size)):
            steps.append(Step(len(steps), order[which].tolist(), flips[which].tolist()))
    return steps


def optimiser(detector: nn.Module, recipe: DetectorRecipe) -> torch.optim.SGD:
    """SGD; biases of convolutions and matrices have a learning rate of their own, and decay where the recipe says."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    rest, biases = list[nn.Parameter](), list[nn.Parameter]()
    for module in detector.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (biases if name == "bias" and not isinstance(module, norms) else rest).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": rest, "factor": 1.0},
        {"params": biases, "factor": recipe.bias_lr} | ({} if recipe.bias_decay else {"weight_decay": 0.0}),
    ]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def rate(recipe: DetectorRecipe, step: int, num_steps: int) -> float:
    """The learning rate of a step: warm-up first, then by epoch (step) or by step (cosine)."""
    warm, length = 1.0, recipe.warm(num_steps)
    if step < length:
        rise = step / length if recipe.warmup_kind == "linear" else 0.0
        warm = recipe.warmup_ratio + (1 - recipe.warmup_ratio) * rise
    if recipe.schedule == "cosine":
        return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * step / num_steps))
    epoch = step * recipe.epochs // num_steps
    return recipe.lr * warm * 0.1 ** sum(epoch >= one for one in recipe.drops)


def apart(detector: Detector) -> list[list[nn.Parameter]]:
    """The detector's parameters and the companion's: clipped together, the companion's would shrink the model's."""
    own = [parameter for name, parameter in detector.named_parameters() if not name.startswith("companion.")]
    return [own, [] if detector.companion is None else list(detector.companion.parameters())]
