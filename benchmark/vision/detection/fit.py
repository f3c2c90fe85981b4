"""One fit of a detector: building the network, preparing its batches, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmark.api import Boxes, Companion, Indices, Machine, seeded
from benchmark.vision.data.annotations import Split
from benchmark.vision.data_parallel import part_of_batch
from benchmark.vision.detection.batches import BatchReader
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.training import Step, train_detector
from benchmark.vision.fingerprints import derive_seed


@dataclass(frozen=True)
class DetectorFit:
    """A fit as plain data, which other processes can run too.

    Args:
        build: builds the detector from the recipe, the number of classes and the file of weights.
        recipe: how the detector is built and trained.
        num_classes: C.
        weights: file of the backbone's weights; None without one.
        machine: the number of processes that read images.
        pool: the images and their boxes.
        labelled: positions of the images to train on, ascending.
        seed: seed of the fit.
        companion: what the strategy trains beside the model; None without one.
        checkpoint: file that holds work in progress; None without checkpoints.
    """

    build: Callable[..., Detector]
    recipe: DetectorRecipe
    num_classes: int
    weights: Path | None
    machine: Machine
    pool: Split
    labelled: Indices
    seed: int
    companion: Companion | None
    checkpoint: Path | None

    def __call__(self, device: torch.device) -> Detector:
        """Trains a detector on this device.

        Raises:
            ValueError: training diverges.
        """
        network = build_network(self.build, self.recipe, self.num_classes, self.weights, self.seed, self.companion)
        detector = network.to(device)
        builder = BatchBuilder(self.recipe, detector.pixel_format, device)
        reader = BatchReader(self.pool.images, "pool", builder, replace(self.machine, device=device))

        def prepare(steps: Sequence[Step]) -> Iterator[tuple[Batch, list[Boxes]]]:
            groups = [self.labelled[part_of_batch(step.positions)].tolist() for step in steps]
            for step, group, images in zip(steps, groups, reader.read_images(groups), strict=True):
                boxes = [self.pool.truth.boxes_of(index) for index in group]
                seeds = [derive_seed(self.seed, f"varied {step.number} {index}") for index in group]
                augmented_images, augmented_boxes = builder.augment(images, boxes, seeds)
                resized = builder(augmented_images, reader.image_seeds(group), part_of_batch(step.flips))
                yield resized.batch, resized.to_batch_pixels(augmented_boxes)

        seed = derive_seed(self.seed, "training")
        train_detector(detector, len(self.labelled), prepare, self.recipe, self.companion, seed, self.checkpoint)
        return detector


def build_network(
    build: Callable[..., Detector], recipe: DetectorRecipe, num_classes: int, weights: Path | None, seed: int,
    companion: Companion | None,
) -> Detector:  # fmt: skip
    """Builds a fresh detector on the CPU, in eval mode. A companion does not change its initial weights.

    Args:
        build: builds the detector from the recipe, the number of classes and the file of weights.
        recipe: how it is built.
        num_classes: C.
        weights: file of the backbone's weights; None without one.
        seed: seed of the initial weights.
        companion: what the strategy trains beside the model; None without one.
    """
    with seeded(derive_seed(seed, "network")):
        detector = build(recipe, num_classes, weights)
    detector.precision = recipe.precision
    if companion is not None:
        with seeded(derive_seed(seed, "companion")):
            detector.companion = companion.module(detector.channels)
    if recipe.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return detector.eval()
