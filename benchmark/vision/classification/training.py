"""The training loop of a classifier.

Shapes: N images, K channels, H x W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Companion
from benchmark.vision.classification.augment import Batch, Normaliser, draw_epoch, split_batches
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.learning_rate import LearningRateSchedule
from benchmark.vision.networks import SVM_PROBE, ClassificationNetwork
from benchmark.vision.training import add_companion_loss, in_precision, is_attached, parameter_groups, train_sgd

ComputeFeatures: TypeAlias = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
MAX_PROGRAMS = 256  # compiled for a network; beyond this torch.compile would run it uncompiled, with other rounding
PRECISE_BATCHES = 64  # most batches that precise batch normalisation averages


class LabelledSet(Protocol):
    """A labelled set on the device."""

    @property
    def labels_N(self) -> Tensor:
        """(N,) classes."""

    def prepare_batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Returns the inputs and the labels of one step.

        Args:
            batch: the images of the step and the random draws of their augmentation.
            recipe: settings of the augmentation.

        Returns:
            (N, ...) inputs of the network, and (N,) classes.
        """


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, which are augmented in training.

    Args:
        images_NKHW: uint8.
        labels_N: their classes.
        normaliser: converts them to floats.
        channels_first: whether batches get PyTorch's default memory format; cropping leaves channels last.
    """

    images_NKHW: Tensor
    labels_N: Tensor
    normaliser: Normaliser
    channels_first: bool = False

    def prepare_batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """The augmented images and the labels of one step."""
        images_N3HW = batch.augment(self.images_NKHW, self.normaliser, recipe)
        return images_N3HW.contiguous() if self.channels_first else images_N3HW, self.labels_N[batch.positions_N]


@dataclass(frozen=True)
class Step:
    """One training step. Its images are drawn when its epoch begins.

    Args:
        number: counted from 0 over all epochs.
        positions: positions in the random order of the epoch.
    """

    number: int
    positions: range


def train_classifier(
    network: ClassificationNetwork, labelled: LabelledSet, recipe: Recipe, companion: Companion | None, seed: int,
    checkpoint: Path | None = None,
) -> None:  # fmt: skip
    """Trains a network in place, together with its companion; see `train_sgd`.

    Args:
        network: an untrained network on its device.
        labelled: the labelled set.
        recipe: the parameters of training.
        companion: what the strategy trains beside the model; None without one.
        seed: seed of the batches. Dropout draws from torch's generator.
        checkpoint: file that holds work in progress; None without checkpoints.

    Raises:
        ValueError: the recipe drops the only batch, or the loss becomes infinite or not a number.
    """
    num_images, device = len(labelled.labels_N), labelled.labels_N.device
    if num_images < (recipe.batch_size if recipe.drop_last else 1):
        raise ValueError(
            f"{num_images} labelled images do not fill a batch of {recipe.batch_size}, and drop_last drops it"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    features = compile_features(network, device) if recipe.compile else network.features
    per_epoch = [range(int(part[0]), int(part[-1]) + 1) for part in split_batches(torch.arange(num_images), recipe)]
    steps = [Step(number, positions) for number, positions in enumerate(per_epoch * recipe.epochs)]

    def prepare(remaining: Sequence[Step]) -> Iterator[Batch]:
        epochs = (draw_epoch(num_images, recipe, generator, device) for _ in range(recipe.epochs))
        return islice(chain.from_iterable(epochs), len(steps) - len(remaining), None)

    lr_schedule = learning_rate_schedule(recipe)
    train_sgd(
        network, build_optimiser(network, recipe), steps, prepare,
        learning_rate=lambda number: lr_schedule.rate_at(training_progress(number, len(per_epoch), recipe.epochs)),
        objective=lambda batch, attached: objective(
            network, features, labelled.prepare_batch(Batch(*batch), recipe), recipe, companion, attached
        ),
        phase=lambda number: is_attached(companion, number // len(per_epoch), recipe.epochs),
        num_images=num_images, advice=f"lower lr={recipe.lr}",
        epochs=recipe.epochs, seed=None, checkpoint=checkpoint,
    )  # fmt: skip
    if recipe.precise_bn:
        last = draw_epoch(num_images, recipe, generator, device)
        refresh_statistics(network, (labelled.prepare_batch(batch, recipe)[0] for batch in last), recipe)


def objective(
    network: ClassificationNetwork, features: ComputeFeatures, batch: tuple[Tensor, Tensor], recipe: Recipe,
    companion: Companion | None, attached: bool,
) -> Tensor:  # fmt: skip
    """The mean loss of a batch of inputs and labels, plus the companion's loss."""
    inputs, labels_N = batch
    with in_precision(recipe.precision, labels_N.device):
        features_ND, maps = features(inputs)
    losses_N = training_losses(network.logits(features_ND), labels_N, recipe)
    return add_companion_loss(losses_N.mean(), network.companion, companion, maps, lambda: losses_N, attached)


def training_losses(logits_NC: Tensor, labels_N: Tensor, recipe: Recipe) -> Tensor:
    """(N,): cross-entropies; for a support vector machine the hinge losses of Crammer and Singer (JMLR 2001)."""
    if recipe.model != SVM_PROBE:
        return F.cross_entropy(logits_NC, labels_N, reduction="none", label_smoothing=recipe.label_smoothing)
    is_right_NC = F.one_hot(labels_N, logits_NC.shape[1])  # no gather, whose gradient depends on the order of threads
    return (logits_NC + (1.0 - is_right_NC)).amax(1) - (logits_NC * is_right_NC).sum(1)


def compile_features(network: ClassificationNetwork, device: torch.device) -> ComputeFeatures:
    """Returns `network.features` compiled by torch.compile.

    Results do not depend on what was compiled earlier in the process: on a CPU one program serves all sizes of batch;
    a GPU, whose steps are CUDA graphs of one size each, has a program for each size, however many there are.
    """
    is_static = device.type == "cuda"
    compiled_features = torch.compile(network.features, dynamic=False if is_static else None)

    def features(images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not is_static:
            torch._dynamo.maybe_mark_dynamic(images_N3HW, 0)
        with torch._dynamo.config.patch(recompile_limit=MAX_PROGRAMS):
            outputs: tuple[Tensor, list[Tensor]] = compiled_features(images_N3HW)
        return outputs

    return features


@torch.no_grad()
def refresh_statistics(network: ClassificationNetwork, batches: Iterator[Tensor], recipe: Recipe) -> None:
    """Precise batch normalisation: sets the running statistics to their mean over (at most 64) training batches."""
    network.train()
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over batches
    for inputs in islice(batches, PRECISE_BATCHES):
        with in_precision(recipe.precision, inputs.device):
            network.features(inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def build_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters, the companion's included. One-dimensional parameters decay only with `decay_all`."""
    groups = parameter_groups(
        network, lambda layer, name, parameter: parameter.ndim <= 1 and not recipe.decay_all, weight_decay=0.0
    )
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def learning_rate_schedule(recipe: Recipe) -> LearningRateSchedule:
    """The learning rate as a function of the completed share of training."""
    milestones, decay = [recipe.milestone], recipe.decay
    return LearningRateSchedule(
        lr=recipe.lr,
        shape=recipe.schedule,
        milestones=milestones,
        decay=decay,
        warmup=recipe.warmup,
        decay_after_warmup=True,
    )


def training_progress(number: int, num_batches: int, epochs: int) -> float:
    """The share of training that is completed in the middle of a step."""
    return (number // num_batches + (number % num_batches + 0.5) / num_batches) / epochs
