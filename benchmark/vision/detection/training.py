"""The training loop of a detector. A fit that is killed and resumed from its checkpoint ends with the same weights.

Shapes: N images, K channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from benchmark.api import Boxes, Companion, seeded
from benchmark.vision.data_parallel import average_gradients, process_number, share_of_batch
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.learning_rate import LearningRateSchedule
from benchmark.vision.training import add_companion_loss, is_attached, parameter_groups, train_sgd


@dataclass(frozen=True)
class Step:
    """One training step.

    Args:
        number: counted from 0 over all epochs.
        positions: its images, as positions in the labelled set.
        flips: whether each image is mirrored.
    """

    number: int
    positions: list[int]
    flips: list[bool]


PrepareBatches: TypeAlias = Callable[[Sequence[Step]], Iterator[tuple[Batch, list[Boxes]]]]


def train_detector(
    detector: Detector, num_images: int, prepare: PrepareBatches, recipe: DetectorRecipe, companion: Companion | None,
    seed: int, checkpoint: Path | None,
) -> None:  # fmt: skip
    """Trains a detector in place, together with its companion.

    Every random draw is seeded by the epoch or the step that it belongs to; see `train_sgd`.

    Args:
        detector: an untrained detector on its device.
        num_images: size of the labelled set.
        prepare: yields the batch and the targets of each step.
        recipe: the parameters of training.
        companion: what the strategy trains beside the model; None without one.
        seed: seed of the fit.
        checkpoint: file that holds work in progress; None without checkpoints.

    Raises:
        ValueError: the loss is infinite or not a number.
    """
    steps = plan_steps(num_images, recipe, seed)
    step_loss = average_gradients(
        StepLoss(detector, companion, len(steps), seed), uses_all_parameters=recipe.is_from_torchvision
    )
    lr_schedule = learning_rate_schedule(recipe, len(steps))
    train_sgd(
        detector, build_optimiser(detector, recipe), steps, prepare,
        learning_rate=lambda number: lr_schedule.rate_at(number, len(steps)),
        objective=lambda pair, number: step_loss(*pair, number),
        num_images=num_images, advice=f"lower lr={recipe.lr}, or raise warmup={recipe.warmup:g}",
        epochs=recipe.epochs, seed=seed, checkpoint=checkpoint, clip=recipe.clip,
    )  # fmt: skip


class StepLoss(nn.Module):
    """The loss of a step on the images of this process, as a module, which is what `average_gradients` takes.

    Args:
        detector: the detector.
        companion: what the strategy trains beside the model; None without one.
        num_steps: number of steps of the fit.
        seed: seed of the fit; the process draws its own samples with it.
    """

    def __init__(self, detector: Detector, companion: Companion | None, num_steps: int, seed: int) -> None:
        super().__init__()
        self.detector, self.companion, self.num_steps, self.seed = detector, companion, num_steps, seed

    def forward(self, batch: Batch, targets: list[Boxes], number: int) -> Tensor:
        """The objective of step `number`."""
        process = process_number()
        draws = seeded(derive_seed(self.seed, f"step {number} process {process}")) if process else nullcontext()
        with draws:
            return objective(self.detector, batch, targets, self.companion, number / self.num_steps)


def objective(
    detector: Detector, batch: Batch, targets: list[Boxes], companion: Companion | None, progress: float
) -> Tensor:
    """The library's loss of the batch, or this process's share of it, plus the companion's.

    A companion ranks losses of single images. These are computed separately and carry no gradient.
    """
    maps = detector.feature_maps(batch.images_N3HW)
    loss = share_of_batch(detector.loss(maps, batch, targets), lambda: detector.loss_divisor(targets))
    return add_companion_loss(
        loss, detector.companion, companion, maps, lambda: detector.image_losses(maps, batch, targets),
        is_attached(companion, progress),
    )  # fmt: skip


def plan_steps(num_images: int, recipe: DetectorRecipe, seed: int) -> list[Step]:
    """Lists every step of a fit. Each epoch has a new order, in batches whose sizes differ by at most one image."""
    steps: list[Step] = []
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, f"epoch {epoch}"))
        order = torch.randperm(num_images, generator=generator)
        flips = torch.rand(num_images, generator=generator) < (0.5 if recipe.flip else 0.0)
        for places in torch.arange(num_images).tensor_split(-(-num_images // recipe.batch_size)):
            steps.append(Step(len(steps), order[places].tolist(), flips[places].tolist()))
    return steps


def build_optimiser(detector: nn.Module, recipe: DetectorRecipe) -> torch.optim.SGD:
    """SGD. Biases of convolutions and linear layers have their own learning rate, and decay only if the recipe says
    so."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    special = {"factor": recipe.bias_lr} | ({} if recipe.bias_decay else {"weight_decay": 0.0})
    groups = parameter_groups(
        detector, lambda layer, name, parameter: name == "bias" and not isinstance(layer, norms), **special
    )
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def learning_rate_schedule(recipe: DetectorRecipe, num_steps: int) -> LearningRateSchedule:
    """The learning rate by step. It decays from the first step on, per epoch (`step`) or per step (`cosine`)."""
    first_steps = [-(-epoch * num_steps // recipe.epochs) for epoch in recipe.milestone_epochs]
    return LearningRateSchedule(
        lr=recipe.lr, shape=recipe.schedule, milestones=first_steps, warmup=recipe.num_warmup_steps(num_steps),
        warmup_start=recipe.warmup_ratio, linear_warmup=recipe.warmup_kind == "linear",
    )  # fmt: skip
