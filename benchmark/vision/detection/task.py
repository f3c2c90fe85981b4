"""Object detection as an active-learning task. Images are read from disk when they are needed.

Shapes: N images, H x W pixels, P predictions, M boxes of one image, C classes, K = C + 1 with background, D features.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmark.api import (
    MEAN_AP,
    Annotations,
    Augmentation,
    Boxes,
    Companion,
    Direction,
    Indices,
    Machine,
    Predictions,
    Scores,
    Targets,
    activity,
    seeded,
)
from benchmark.vision.data.annotations import GroundTruth, Split, image_scans
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.reading import Noise, read_groups
from benchmark.vision.data.splitting import check_has_boxes
from benchmark.vision.detection.augmented_views import AugmentedImages, MapBack, map_back
from benchmark.vision.detection.detection_set import DetectionSet, apply_dropout
from benchmark.vision.detection.detector import Batch, Detections, DetectionsWithFeatures, Detector
from benchmark.vision.detection.detectors import detector_builder
from benchmark.vision.detection.inputs import BatchBuilder, ResizedBatch
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.scores import coco_scores, voc_map
from benchmark.vision.detection.training import Step, train_detector
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.task import VisionTask, cast_model, encoder_pool, thumbnails
from benchmark.vision.training import uses_batch_statistics
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 images of 64x64; on a GPU seven of 800x1333
MAP_SCORES = {"50": "ap50", "50:95": "ap"}


class Detection(VisionTask[Detector]):
    """An object-detection task: a pool of images with boxes, a test set, and a recipe for the detector.

    Its metric `map` is the mean average precision in 0..1, at the IoU given by `map_at`. Ignored boxes (crowds, and
    difficult boxes if the task says so) are not trained on, but annotators drew them, so they count in the cost.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. Models passed to them must be in eval mode and are not changed.

    Args:
        machine: the device, the folders and the number of worker processes.
        recipe: how detectors are built and trained.
        pool: the images that strategies choose from, with their boxes.
        test: the images that models are scored on, with their boxes.
        num_classes: C.
        map_at: IoU thresholds of the metric: `50`, or `50:95` for COCO's mean.
        classes: C names; empty: the numbers 0..C-1.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.

    Raises:
        ValueError: the recipe cannot be carried out, or the pool or the test set has no usable box.
    """

    metric = MEAN_AP

    def __init__(
        self, machine: Machine, recipe: DetectorRecipe, pool: Split, test: Split, num_classes: int,
        map_at: Literal["50", "50:95"], classes: Sequence[str] = (), root: Path | None = None,
    ) -> None:  # fmt: skip
        check_has_boxes(pool, test)
        self.num_pool, self.num_classes, self._map = len(pool.truth), num_classes, MAP_SCORES[map_at]
        self.classes = classes or [str(number) for number in range(num_classes)]
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights)
        self._pool, self._test = pool, test
        self._memo: tuple[Callable[[], nn.Module | None], Indices, DetectionSet] | None = None
        detector = self.model()  # reports a faulty recipe early
        self._uses_batch_statistics = uses_batch_statistics(detector)
        if not suits_channels_last(detector, self._device):
            self._recipe = replace(recipe, channels_last=False)
        self._batch_builder = BatchBuilder(self._recipe, detector.pixel_format, machine.device)
        self._num_pixels = PIXELS_PER_BATCH[machine.device.type]
        self.batch_size = max(1, self._num_pixels // math.prod(self._batch_builder.padded_size(pool.images[0])))
        self._encoder_pool = encoder_pool(pool.images, machine)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, pool.images.fingerprint, machine)
        parts = [truth_arrays(split.truth) for split in (pool, test)]
        self.fingerprint = digest(*parts[0], *parts[1], pool.images.fingerprint, test.images.fingerprint, self._weights)
        self._sources = report_sources(image_scans(pool.images), image_scans(test.images), root)

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> Detector:
        """Trains a detector on labelled images.

        Raises:
            ValueError: training diverges.
        """
        labelled_images, self._memo = np.sort(labelled), None
        detector = self._build_network(seed, companion)
        checkpoint = self._checkpoint_path(labelled_images, seed, companion)

        def prepare(steps: Sequence[Step]) -> Iterator[tuple[Batch, list[Boxes]]]:
            groups = [labelled_images[step.positions].tolist() for step in steps]
            for step, group, images in zip(steps, groups, self._read_images(self._pool, groups), strict=True):
                boxes = [self._pool.truth.boxes_of(index) for index in group]
                seeds = [derive_seed(seed, f"varied {step.number} {index}") for index in group]
                augmented_images, augmented_boxes = self._batch_builder.augment(images, boxes, seeds)
                resized = self._batch_builder(augmented_images, self._image_seeds(self._pool, group), step.flips)
                yield resized.batch, resized.to_batch_pixels(augmented_boxes)

        train_detector(
            detector, len(labelled_images), prepare, self._recipe, companion, derive_seed(seed, "training"), checkpoint
        )
        return detector

    def score(self, model: nn.Module) -> Scores:
        """Scores a model on the test set.

        Returns:
            `map`, COCO's `ap` (IoU 0.50:0.95), `ap50` and `ap75`, and PASCAL VOC's `voc_map` (IoU 0.50), all in 0..1;
            the number of classes among the detections (0 without any) and in the test set; `ap` and `ap50` of each
            class.
        """
        self._memo = None
        truth = self._test.truth
        detections = self._detect_all(model, self._test, np.arange(self.num_test())).to_arrays()
        scores = coco_scores(truth, detections, self.classes)
        scores |= {"map": scores[self._map], "voc_map": voc_map(truth, detections, self.num_classes)}
        labels_by_source = {"predicted": detections.label_P, "test": truth.labels_B[~truth.ignored_B]}
        for source, labels in labels_by_source.items():
            scores[f"num_{source}_classes"] = float(len(np.unique(labels)))
        return scores

    def cost(self, indices: Indices) -> dict[str, float]:
        """Counts images and the boxes drawn on them. Ignored boxes count too, as in published numbers."""
        return {"images": float(len(indices)), "boxes": float(self._pool.truth.num_annotated_boxes(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test.truth)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Detection:
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
        """Returns the class and the size of each box of the pool, ignored ones included."""
        truth = self._pool.truth
        sides_B2 = truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]
        image_B = np.repeat(np.arange(self.num_pool), np.diff(truth.offsets_N1))
        return Annotations(self.classes, image_B, truth.labels_B, np.sqrt(sides_B2.prod(1)))

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """Returns pool images for figures: (N, side, side, 3) thumbnails padded with white, and each image's (M, 4)
        boxes in their pixels."""
        pictures_NHW3, scales = thumbnails(self._pool.images, indices, side)
        pairs = zip(indices.tolist(), scales, strict=True)
        return pictures_NHW3, [(self._pool.truth.boxes_of(index).corners_M4 * scale).numpy() for index, scale in pairs]

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """Returns the detections after non-maximum suppression, at most a hundred per image by default."""
        return self._cached_detections(model, indices).to_predictions()

    def perturbed(self, model: nn.Module, indices: Indices, sigma: float, seed: int) -> Predictions:
        """Returns what `predict` returns, on images with Gaussian noise."""
        noise = Noise(sigma, {index: derive_seed(seed, f"noise {index}") for index in np.asarray(indices).tolist()})
        return self._detect_all(model, self._pool, indices, noise).to_predictions()

    def proposals(self, model: nn.Module, indices: Indices) -> Predictions:
        """Returns what `predict` returns, with the proposal of each box.

        Raises:
            ValueError: the detector has one stage.
        """
        if not cast_model(model, Detector).is_two_stage:
            raise ValueError(f"model={self._recipe.model}: a one-stage detector has no proposals")
        return self._cached_detections(model, indices).to_predictions(proposals=True)

    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels (FCOS) or proposals (Faster R-CNN)."""
        detector = cast_model(model, Detector)
        batches = self._feature_maps(detector, indices)
        return torch.cat([detector.pooled_features(maps, batch).float() for maps, batch in batches])

    def labels(self, model: nn.Module, indices: Indices) -> list[Boxes]:
        """Returns the boxes of each image, without ignored ones."""
        return [self._pool.truth.boxes_of(index) for index in np.asarray(indices).tolist()]

    @torch.no_grad()
    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """(P, D): for FCOS the class tower's output at the place of each box, for Faster R-CNN the box head's output
        for its proposal.

        Raises:
            ValueError: this kind of detector does not provide them.

        Cost:
            about the same as `predict`.
        """
        return torch.cat([detections.features_MD for detections in self._detect_with_features(model, indices)])

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Yields predictions with Monte Carlo dropout on the classification layer's input.

        The boxes, proposals and centerness are those of `predict`. Each box gets new class scores in each sample, under
        dropout masks of its own.

        References:
            Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016.

        Cost:
            the layer's inputs stay in memory from the first sample to the last: for FCOS, nine times the features of
            each box.
        """
        rate, images = self._recipe.dropout, np.asarray(indices).tolist()
        with_features = list(self._detect_with_features(model, indices))
        detections = [part.detections for part in with_features]
        predictions = DetectionSet.from_images(detections, self.num_classes, self._device).to_predictions()
        for number in range(num_samples):
            scores = [
                part.classify(apply_dropout(part.inputs_MDSS, rate, derive_seed(seed, f"sample {number} of {image}")))
                for image, part in zip(images, with_features, strict=True)
            ]
            yield replace(predictions, scores_PC=torch.cat([predictions.scores_PC[:0], *scores]))

    def augmented(self, model: nn.Module, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """Returns what `predict` returns, on augmented images; see `views`."""
        views = Split(AugmentedImages(self._pool.images, how, seed), self._pool.truth)
        return self._detect_all(model, views, indices, undo=partial(map_back, how)).to_predictions()

    @torch.no_grad()
    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output on the feature maps."""
        detector = cast_model(model, Detector)
        assert detector.companion is not None, "the model was fitted without a companion"
        return torch.cat([detector.companion(maps) for maps, _ in self._feature_maps(detector, indices)])

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Returns the weights of the last layers, without biases, as ISAL uses them.

        FCOS: classes, boxes, centerness. Faster R-CNN: RPN classes, RPN boxes, classes, boxes.
        """
        return cast_model(model, Detector).last_weights()

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        """Returns the detections with a score of at least `min_score`, as hard labels.

        Raises:
            ValueError: k is not 1.
        """
        if k != 1:
            raise ValueError(f"k={k}: a detector's pseudo-labels have one class per box: set k=1")
        return self._cached_detections(model, indices).boxes_above(min_score)

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,): the sum of all loss terms of each image, normalised by its own positives; differentiable in
        `weights`."""
        split = self._test if test else self._pool
        detector = cast_model(model, Detector)
        boxes = [split.truth.boxes_of(index) for index in indices] if targets is None else targets
        assert isinstance(boxes, list), "a detector's targets are boxes"
        return torch.cat([detector(*pair) for pair in self._read_targets(split, [np.asarray(indices).tolist()], boxes)])

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): exact derivatives of the losses along `direction`; see `Detector.directional_derivatives`.

        Cost:
            about the same as the losses. No gradient of the backbone is computed.
        """
        assert isinstance(targets, list), "a detector's targets are boxes"
        detector = cast_model(model, Detector)
        directions = [direction[name] for name in detector.last_weights()]
        pairs = self._read_targets(self._pool, self._group_indices(indices), targets)
        return torch.cat([detector.directional_derivatives(*pair, directions) for pair in pairs])

    # --- internal --------------------------------------------------------------------------------
    def _build_network(self, seed: int, companion: Companion | None) -> Detector:
        """Builds a fresh detector. A companion does not change its initial weights."""
        recipe = self._recipe
        with seeded(derive_seed(seed, "network")):
            detector = detector_builder(recipe.model)(recipe, self.num_classes, self._weights)
        detector.precision = recipe.precision
        if companion is not None:
            with seeded(derive_seed(seed, "companion")):
                detector.companion = companion.module(detector.channels)
        if recipe.channels_last:
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return detector.to(self._device).eval()

    def _group_indices(self, indices: Indices) -> list[list[int]]:
        """The indices in batches of `batch_size`."""
        positions = np.asarray(indices).tolist()
        return [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]

    def _image_seeds(self, split: Split, group: list[int]) -> list[int]:
        """A seed for each image, which depends on its position and on its split."""
        return [derive_seed(index, "test" if split is self._test else "pool") for index in group]

    def _read_images(
        self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None
    ) -> Iterator[list[Tensor]]:
        """Yields each group of images, read by the machine's worker processes."""
        return read_groups(split.images, groups, self._machine.workers, noise, self._device.type == "cuda")

    def _read_batches(
        self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None
    ) -> Iterator[ResizedBatch]:
        """Yields the images of the groups in order. Each image is padded as if it were alone."""
        reading = zip(groups, self._read_images(split, groups, noise), strict=True)
        for group, images in activity.track(reading, "going through images", "batches", len(groups)):
            seeds = self._image_seeds(split, group)
            for part in self._batch_builder.split_by_size(images, self._num_pixels):
                yield self._batch_builder(images[part], seeds[part])

    def _read_targets(
        self, split: Split, groups: Sequence[list[int]], boxes: Sequence[Boxes]
    ) -> Iterator[tuple[Batch, list[Boxes]]]:
        """Yields the batches of `_read_batches` with the boxes of their images."""
        start = 0
        for resized in self._read_batches(split, groups):
            targets = resized.to_batch_pixels(boxes[start : start + len(resized.batch.sizes)])
            start += len(targets)
            yield resized.batch, targets

    def _feature_maps(self, detector: Detector, indices: Indices) -> Iterator[tuple[list[Tensor], Batch]]:
        """Yields the feature maps of pool images, batch by batch."""
        for resized in self._read_batches(self._pool, self._group_indices(indices)):
            yield detector.feature_maps(resized.batch.images_N3HW), resized.batch

    def _cached_detections(self, model: nn.Module, indices: Indices) -> DetectionSet:
        """The detections on pool images. Those of the last call are cached."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            self._memo = (weakref.ref(model), np.array(indices), self._detect_all(model, self._pool, indices))
        return self._memo[2]

    def _detect_with_features(self, model: nn.Module, indices: Indices) -> Iterator[DetectionsWithFeatures]:
        """Yields the detections on each pool image with the inputs of the classification layer."""
        detector = cast_model(model, Detector)
        for resized in self._read_batches(self._pool, self._group_indices(indices)):
            maps = detector.feature_maps(resized.batch.images_N3HW)
            for number, part in enumerate(detector.detect_with_features(maps, resized.batch)):
                yield replace(part, detections=resized.to_image_pixels(number, part.detections))

    @torch.no_grad()
    def _detect_all(
        self, model: nn.Module, split: Split, indices: Indices, noise: Noise | None = None, undo: MapBack | None = None
    ) -> DetectionSet:
        """The detections on images of a split, in pixels of the stored images; `undo` maps them from augmented ones."""
        detector, detections = cast_model(model, Detector), list[Detections]()
        for resized in self._read_batches(split, self._group_indices(indices), noise):
            maps = detector.feature_maps(resized.batch.images_N3HW)
            for number, in_batch in enumerate(detector.detect(maps, resized.batch)):
                in_image = resized.to_image_pixels(number, in_batch)
                detections.append(in_image if undo is None else undo(in_image, resized.image_size(number)))
        return DetectionSet.from_images(detections, self.num_classes, self._device)


def exchange_boxes(truth: GroundTruth, paid: Indices, num_classes: int, rng: np.random.Generator) -> GroundTruth:
    """Permutes the boxes of all images outside `paid` and draws new classes for these boxes."""
    source = np.arange(len(truth))
    unpaid = np.setdiff1d(source, paid)
    source[unpaid] = rng.permutation(unpaid)
    permuted = truth.select(source)
    image_B = np.repeat(np.arange(len(permuted)), np.diff(permuted.offsets_N1))
    random_B = rng.integers(0, num_classes, len(permuted.labels_B))
    labels_B = np.where(np.isin(image_B, unpaid), random_B, permuted.labels_B)
    return GroundTruth(permuted.corners_B4, labels_B, permuted.ignored_B, permuted.offsets_N1)


def truth_arrays(truth: GroundTruth) -> list[object]:
    """The arrays of the annotations, for fingerprints."""
    return [truth.corners_B4, truth.labels_B, truth.ignored_B, truth.offsets_N1]
