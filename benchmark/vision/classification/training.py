"""The training loop of a classifier.

Shapes: N images, K channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Companion, activity
from benchmark.vision.classification.augment import Batch, Normaliser, epoch
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.networks import Network

PRECISE_BATCHES = 64  # batches that precise batch normalisation averages, at most


@dataclass(frozen=True)
class Labelled:
    """A labelled set on the device."""

    images_NKHW: Tensor  # uint8
    labels_N: Tensor
    normaliser: Normaliser
    channels_first: bool = False  # what cropping gives has channels last: whether that is changed

    def batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """The augmented images and the labels of one step."""
        images_N3HW = batch.augmented(self.images_NKHW, self.normaliser, recipe)
        return images_N3HW.contiguous() if self.channels_first else images_N3HW, self.labels_N[batch.which_N]


def train(network: Network, labelled: Labelled, recipe: Recipe, companion: Companion | None, seed: int) -> None:
    """Trains `network` in place, its companion with it. Nothing waits for the device within an epoch.

    Raises ValueError where the recipe drops the only batch and where the loss ends up infinite or not a number.
    """
    num_images, device = len(labelled.labels_N), labelled.labels_N.device
    if num_images < (recipe.batch_size if recipe.drop_last else 1):
        raise ValueError(f"{num_images} labelled images make no batch of {recipe.batch_size}: drop_last drops them all")
    generator = torch.Generator().manual_seed(derived(seed, "batches"))
    features = compiled(network, device) if recipe.compile else network.features
    sgd = optimiser(network, recipe)
    network.train()
    loss = torch.zeros(())
    with activity.stage("fitting", recipe.epochs * num_images, "images", epochs=recipe.epochs) as fitting:
        for number in range(recipe.epochs):
            attached = companion is not None and number < companion.detach_after * recipe.epochs
            batches = list(epoch(num_images, recipe, generator, device))
            for step, batch in enumerate(batches):
                set_rate(sgd, rate(recipe, (number + (step + 0.5) / len(batches)) / recipe.epochs))
                images_N3HW, labels_N = labelled.batch(batch, recipe)
                with precision(recipe, device):
                    features_ND, maps = features(images_N3HW)
                losses_N = F.cross_entropy(
                    network.logits(features_ND), labels_N, reduction="none", label_smoothing=recipe.label_smoothing
                )
                loss = losses_N.mean() + companion_loss(network, companion, maps, losses_N, attached)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                fitting.advance(len(labels_N))
    if not math.isfinite(loss.item()):
        raise ValueError(f"the fit on {num_images} images diverged (loss {loss.item()}): lower lr={recipe.lr}")
    if recipe.precise_bn:
        last = epoch(num_images, recipe, generator, device)
        refresh_statistics(network, (labelled.batch(batch, recipe)[0] for batch in last), recipe)
    network.eval()


def compiled(network: Network, device: torch.device) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
    """`network.features` through torch.compile, on a GPU as CUDA graphs: one launch a pass, not one an operation.

    One program for all batch sizes, so that what was compiled earlier in this process decides nothing.
    """
    fast = torch.compile(network.features, mode="reduce-overhead" if device.type == "cuda" else "default")

    def features(images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        torch._dynamo.maybe_mark_dynamic(images_N3HW, 0)
        told: tuple[Tensor, list[Tensor]] = fast(images_N3HW)
        return told

    return features


def companion_loss(
    network: Network, companion: Companion | None, maps: list[Tensor], losses_N: Tensor, attached: bool
) -> Tensor | float:
    """What the companion adds to the loss; its gradient reaches the backbone only where it is attached."""
    if companion is None or network.companion is None:
        return 0.0
    output_N = network.companion(maps if attached else [stage.detach() for stage in maps])
    return companion.loss(output_N, losses_N.detach())


@torch.no_grad()
def refresh_statistics(network: Network, batches: Iterator[Tensor], recipe: Recipe) -> None:
    """Precise batch normalisation: running statistics become the mean of those of (at most 64) training batches."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over batches
    for images_N3HW in islice(batches, PRECISE_BATCHES):
        with precision(recipe, images_N3HW.device):
            network.features(images_N3HW)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def normalises_by_batch(network: nn.Module) -> bool:
    """Whether a layer of the network, which is a fresh one, takes its statistics from the batch in training."""
    network.train()
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in network.modules())


def smallest_part(num_images: int, batch_size: int) -> int:
    """Images in the smallest of the fewest equal batches, give or take one image, of at most `batch_size`."""
    return num_images // -(-num_images // batch_size)


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters, the companion's too; matrices and kernels decay, the rest only with `decay_all`."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in network.parameters():
        groups[parameter.ndim <= 1 and not recipe.decay_all]["params"].append(parameter)
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def rate(recipe: Recipe, progress: float) -> float:
    """The learning rate after the share `progress` of training."""
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    if recipe.schedule == "step":
        return recipe.lr * (recipe.decay if progress >= recipe.milestone else 1.0)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def set_rate(sgd: torch.optim.SGD, lr: float) -> None:
    """Sets the learning rate of every parameter, times its group's `factor` where it has one."""
    for group in sgd.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


@contextmanager
def precision(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Runs a block in the recipe's precision."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        yield


def derived(seed: int, name: str) -> int:
    """A seed for each use of a fit's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()[:8], "big") >> 1
