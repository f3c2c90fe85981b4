"""The classification task for networks on images.

Shapes: N images, K channels (1 or 3), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.api import Companion, Machine, seeded
from benchmark.vision.classification.augment import Normaliser
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.classification.training import LabelledImages
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.networks import PROBES, Network, build_network, suits_channels_last
from benchmark.vision.task import VisionTask
from benchmark.vision.training import uses_batch_statistics


class Classifier(Classification):
    """The task of a network on images, which are normalised, and augmented in training; see `Classification`."""

    def __init__(
        self, machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        if recipe.model in PROBES:
            raise ValueError(f"model={recipe.model}: is not a network on images: call build_task instead of Classifier")
        super().__init__(machine, recipe, pool, test, num_classes, classes, root)
        self._normaliser = Normaliser.from_name(recipe.normalise, self._images)
        network = self.model()  # reports a faulty recipe early
        self._uses_batch_statistics = uses_batch_statistics(network)
        self._channels_first = not suits_channels_last(network, self._device)
        if self._channels_first:
            self._recipe = replace(recipe, channels_last=False)

    def take_statistics(self, other: VisionTask[Any]) -> None:
        """Normalises images as another task does; see `VisionTask`."""
        assert isinstance(other, Classifier)
        self._normaliser = other._normaliser

    def _build_network(self, seed: int, companion: Companion | None) -> Network:
        """Builds a fresh network. A companion does not change its initial weights."""
        image_size = (self._images.shape[2], self._images.shape[3])
        recipe = self._recipe
        with seeded(derive_seed(seed, "network")):
            options = (recipe.width, self._weights, recipe.dropout)
            network = build_network(recipe.model, self.num_classes, image_size, *options)
        if companion is not None and recipe.compile:
            raise ValueError("compile=true cannot train a companion (learning_loss): set compile=false")
        if companion is not None:
            with seeded(derive_seed(seed, "companion")):
                network.attach_companion(companion, image_size)
        network.to(memory_format=self._memory_format())  # type: ignore[call-overload]
        return network.to(self._device)

    def _memory_format(self) -> torch.memory_format:
        """The recipe's memory format."""
        return torch.channels_last if self._recipe.channels_last else torch.contiguous_format

    def _prepare_inputs(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W): normalised, in the recipe's memory format."""
        return self._normaliser(inputs).contiguous(memory_format=self._memory_format())

    def _labelled_set(self, positions_N: Tensor) -> LabelledImages:
        """The images at these positions, with the normaliser that augmentation needs."""
        images_NKHW, labels_N = self._inputs[positions_N], self._labels[positions_N]
        return LabelledImages(images_NKHW, labels_N, self._normaliser, self._channels_first)
