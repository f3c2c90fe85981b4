"""What tasks on boxes share, whether a detector predicts boxes alone or more about each of them. Images are read from
disk when they are needed.

Shapes: N images, H x W pixels, C classes, B boxes of a split, M boxes of one image, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmark.api import Annotations, Boxes, Companion, Direction, Indices, Machine, Targets
from benchmark.vision.data.annotations import GroundTruth, Split, image_scans
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.splitting import check_has_boxes
from benchmark.vision.data_parallel import fit_in_processes
from benchmark.vision.detection.batches import BatchReader, ReadBatch, with_targets
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.detectors import detector_builder
from benchmark.vision.detection.fit import DetectorFit, build_network
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.overlaps import largest_overlaps
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.task import VisionTask, cast_model, encoder_pool, thumbnails
from benchmark.vision.training import uses_batch_statistics
from benchmark.vision.weights import weights_file


class DetectorTask(VisionTask[Detector]):
    """Base class of tasks on images with boxes: training, cost, and the capabilities that need no predictions.

    A subclass adds the metric, `score`, `predict` and what else its predictions allow.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. Models passed to them must be in eval mode and are not changed.

    Args:
        machine: the device, the folders and the number of worker processes.
        recipe: how detectors are built and trained.
        pool: the images that strategies choose from, with their boxes.
        test: the images that models are scored on, with their boxes.
        num_classes: C.
        classes: C names; empty: the numbers 0..C-1.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.

    Raises:
        ValueError: the recipe cannot be carried out, or the pool or the test set has no usable box.
    """

    trains_in_processes = True

    def __init__(
        self, machine: Machine, recipe: DetectorRecipe, pool: Split, test: Split, num_classes: int,
        classes: Sequence[str] = (), root: Path | None = None,
    ) -> None:  # fmt: skip
        check_has_boxes(pool, test)
        self.num_classes = num_classes
        self.classes = classes or [str(number) for number in range(num_classes)]
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights)
        self._test = test
        detector = self.model()  # reports a faulty recipe early
        self._uses_batch_statistics = uses_batch_statistics(detector)
        if not suits_channels_last(detector, self._device):
            self._recipe = replace(recipe, channels_last=False)
        self._batch_builder = BatchBuilder(self._recipe, detector.pixel_format, machine.device)
        self.test_reader = BatchReader(test.images, "test", self._batch_builder, machine)
        self._use_pool(pool)
        self._sources = report_sources(image_scans(pool.images), image_scans(test.images), root)

    def _use_pool(self, pool: Split) -> None:
        """Makes these images the pool."""
        self.num_pool, self._pool, machine = len(pool.truth), pool, self._machine
        self._memo: tuple[Callable[[], nn.Module | None], Indices, Any] | None = None  # last predictions
        self.pool_reader = BatchReader(pool.images, "pool", self._batch_builder, machine)
        self.batch_size = self.pool_reader.batch_size
        self._encoder_pool = encoder_pool(pool.images, machine)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, pool.images.fingerprint, machine)
        images, truths = ([getattr(split, name) for split in (pool, self._test)] for name in ("images", "truth"))
        arrays = [array for truth in truths for array in truth_arrays(truth)]
        self.fingerprint = digest(*arrays, *(part.fingerprint for part in images), self._weights)

    def _with_added_files(self, pool: Split, labelled: Sequence[int] = ()) -> Self:
        """Returns a copy of the task with a larger pool, in which of the added images only some have labels.

        Args:
            pool: the images of the pool, and those that are added.
            labelled: the added images that have labels, by their position among the added ones.
        """
        extended, num_old = copy.copy(self), self.num_pool
        extended._use_pool(pool)
        extended._unlabelled = num_old + np.setdiff1d(np.arange(extended.num_pool - num_old), labelled)
        extended._sources = replace(self._sources, pool=image_scans(pool.images))
        return extended

    # --- training -------------------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> Detector:
        """Trains a detector on labelled images.

        Raises:
            ValueError: training diverges.
        """
        self._require_labels(labelled)
        labelled_images, self._memo, num = np.sort(labelled), None, self._machine.processes_per_fit
        checkpoint = self._checkpoint_path(labelled_images, seed, companion)
        fit = DetectorFit(
            self._builder(), self._recipe, self.num_classes, self._weights,
            replace(self._machine, workers=self._machine.workers // num), self._pool, labelled_images, seed, companion,
            checkpoint,
        )  # fmt: skip
        if num == 1:
            return fit(self._device)
        detector = self._build_network(seed, companion)
        detector.load_state_dict(fit_in_processes(fit, num, self._device))
        return detector

    def cost(self, indices: Indices) -> dict[str, float]:
        """Counts images and the boxes drawn on them. Ignored boxes count too, as in published numbers."""
        self._require_labels(indices)
        return {"images": float(len(indices)), "boxes": float(self._pool.truth.num_annotated_boxes(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test.truth)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Self:
        """Returns a copy of the task in which images outside `paid` exchange their boxes and each of these gets a
        random class.

        The test set is scrambled too, unless `test` is False.
        """
        scrambled_task, rng = copy.copy(self), np.random.default_rng(seed)
        scrambled_task._pool = Split(self._pool.images, exchange_boxes(self._pool.truth, paid, self.num_classes, rng))
        if test:
            truth = exchange_boxes(self._test.truth, np.empty(0, np.int64), self.num_classes, rng)
            scrambled_task._test = Split(self._test.images, truth)
        scrambled_task.fingerprint, scrambled_task._memo = digest(self.fingerprint, np.sort(paid), seed, test), None
        return scrambled_task

    # --- for figures of a finished run -----------------------------------------------------------
    def annotations(self) -> Annotations:
        """Returns the class, size and overlap of each box of the pool, ignored ones included."""
        self._require_labels(np.arange(self.num_pool))
        truth = self._pool.truth
        sides_B2 = truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]
        image_B = np.repeat(np.arange(self.num_pool), np.diff(truth.offsets_N1))
        overlap_B = largest_overlaps(truth.corners_B4, truth.offsets_N1)
        return Annotations(self.classes, image_B, truth.labels_B, np.sqrt(sides_B2.prod(1)), overlap_B)

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """Returns pool images for figures: (N, side, side, 3) thumbnails padded with white, and each image's (M, 4)
        boxes in their pixels."""
        pictures_NHW3, scales = thumbnails(self._pool.images, indices, side)
        pairs = zip(indices.tolist(), scales, strict=True)
        return pictures_NHW3, [(self._pool.truth.boxes_of(index).corners_M4 * scale).numpy() for index, scale in pairs]

    # --- capabilities ----------------------------------------------------------------------------
    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels (FCOS) or proposals (Faster R-CNN)."""
        detector = cast_model(model, Detector)
        return self._map_features(detector, indices, lambda maps, batch: detector.pooled_features(maps, batch).float())

    def labels(self, model: nn.Module, indices: Indices) -> list[Boxes]:
        """Returns the boxes of each image, without ignored ones."""
        self._require_labels(indices)
        return [self._pool.truth.boxes_of(index) for index in np.asarray(indices).tolist()]

    @torch.no_grad()
    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output on the feature maps."""
        detector = cast_model(model, Detector)
        companion = detector.companion
        assert companion is not None, "the model was fitted without a companion"
        return self._map_features(detector, indices, lambda maps, batch: companion(maps))

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Returns the weights of the last layers, without biases, as ISAL uses them.

        FCOS: classes, boxes, centerness. Faster R-CNN: RPN classes, RPN boxes, classes, boxes.
        """
        return cast_model(model, Detector).last_weights()

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,): the sum of all loss terms of each image, normalised by its own positives; differentiable in
        `weights`."""
        if targets is None and not test:
            self._require_labels(indices)
        split, reader = (self._test, self.test_reader) if test else (self._pool, self.pool_reader)
        boxes = [split.truth.boxes_of(index) for index in indices] if targets is None else targets
        assert isinstance(boxes, list), "a detector's targets are boxes"
        work = with_targets(cast_model(model, Detector), boxes)
        return torch.stack(reader.map_images(indices, work, in_one_group=True))

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): exact derivatives of the losses along `direction`; see `Detector.directional_derivatives`.

        Where a target is the detector's own box, an IoU loss (FCOS) has a kink at the place that predicts it: rounding
        decides the sign of that place's slopes, so they differ between devices; `tools/device_parity.py` shows it.

        Cost:
            about the same as the losses. No gradient of the backbone is computed.
        """
        assert isinstance(targets, list), "a detector's targets are boxes"
        detector = cast_model(model, Detector)
        directions = [direction[name] for name in detector.last_weights()]
        work = with_targets(partial(detector.directional_derivatives, direction=directions), targets)
        return torch.stack(self.pool_reader.map_images(indices, work))

    # --- internal --------------------------------------------------------------------------------
    def _build_network(self, seed: int, companion: Companion | None) -> Detector:
        """Builds a fresh detector. A companion does not change its initial weights."""
        options = (self._recipe, self.num_classes, self._weights, seed, companion)
        return build_network(self._builder(), *options).to(self._device)

    def _builder(self) -> Callable[..., Detector]:
        """The function that builds the detector from the recipe, the number of classes and the file of weights."""
        return detector_builder(self._recipe.model)

    def _map_features(
        self, detector: Detector, indices: Indices, function: Callable[[list[Tensor], Batch], Tensor]
    ) -> Tensor:
        """(N, ...): a function of the feature maps of pool images, which are computed batch by batch."""

        def work(batch: ReadBatch) -> Tensor:
            inputs = batch.resized.batch
            return function(detector.feature_maps(inputs.images_N3HW), inputs)

        return torch.stack(self.pool_reader.map_images(indices, work))


def exchange_boxes(truth: GroundTruth, paid: Indices, num_classes: int, rng: np.random.Generator) -> GroundTruth:
    """Permutes the boxes of all images outside `paid` and draws new classes for these boxes."""
    source = np.arange(len(truth))
    unpaid = np.setdiff1d(source, paid)
    source[unpaid] = rng.permutation(unpaid)
    permuted = truth.select(source)
    image_B = np.repeat(np.arange(len(permuted)), np.diff(permuted.offsets_N1))
    random_B = rng.integers(0, num_classes, len(permuted.labels_B))
    labels_B = np.where(np.isin(image_B, unpaid), random_B, permuted.labels_B)
    return replace(permuted, labels_B=labels_B)


def truth_arrays(truth: GroundTruth) -> list[object]:
    """The arrays of the annotations, for fingerprints."""
    return [getattr(truth, part.name) for part in fields(truth)]
