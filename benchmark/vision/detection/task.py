"""Object detection as an active-learning task. Images are read from disk when they are needed.

Shapes: N images, H x W pixels, P predictions, M boxes of one image, C classes, K = C + 1 with background, D features.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

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
)
from benchmark.vision.data.annotations import GroundTruth, Split, image_scans
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.reading import Noise, Views
from benchmark.vision.data.splitting import check_has_boxes
from benchmark.vision.data_parallel import fit_in_processes
from benchmark.vision.detection.augmented_views import AugmentedView, MapBack, map_back
from benchmark.vision.detection.batches import BatchReader, ReadBatch, detect_in_images, with_targets
from benchmark.vision.detection.detection_set import DetectionSet, apply_dropout
from benchmark.vision.detection.detector import Batch, DetectionsWithFeatures, Detector
from benchmark.vision.detection.fit import DetectorFit, build_network
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.overlaps import largest_overlaps
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.scores import coco_scores, voc_map
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.task import VisionTask, cast_model, encoder_pool, thumbnails
from benchmark.vision.training import uses_batch_statistics
from benchmark.vision.weights import weights_file

MAP_SCORES = {"50": "ap50", "50:95": "ap"}
Result = TypeVar("Result")


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

    metric, trains_in_processes = MEAN_AP, True

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
        self.pool_reader = BatchReader(pool.images, "pool", self._batch_builder, machine)
        self.test_reader = BatchReader(test.images, "test", self._batch_builder, machine)
        self.batch_size = self.pool_reader.batch_size
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
        labelled_images, self._memo, num = np.sort(labelled), None, self._machine.processes_per_fit
        checkpoint = self._checkpoint_path(labelled_images, seed, companion)
        fit = DetectorFit(
            self._recipe, self.num_classes, self._weights, replace(self._machine, workers=self._machine.workers // num),
            self._pool, labelled_images, seed, companion, checkpoint,
        )  # fmt: skip
        if num == 1:
            return fit(self._device)
        detector = self._build_network(seed, companion)
        detector.load_state_dict(fit_in_processes(fit, num, self._device))
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
        detections = self._detect(model, self.test_reader, np.arange(self.num_test())).to_arrays()
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
        """Returns the class, size and overlap of each box of the pool, ignored ones included."""
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
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """Returns the detections after non-maximum suppression, at most a hundred per image by default."""
        return self._cached_detections(model, indices).to_predictions()

    def perturbed(
        self, model: nn.Module, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Yields what `predict` returns, on stored images and on images with each level of Gaussian noise."""
        views = [Noise(sigma, seed) for sigma, seed in zip(sigmas, seeds, strict=True)]
        return self._predict_views(model, indices, views, [None] * len(views))

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
        return self._map_features(detector, indices, lambda maps, batch: detector.pooled_features(maps, batch).float())

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
        return torch.cat(self._detect_with_features(model, indices, lambda detections: detections.features_MD))

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
        with_features = self._detect_with_features(model, indices, lambda detections: detections)
        detections = [part.detections for part in with_features]
        predictions = DetectionSet.from_images(detections, self.num_classes, self._device).to_predictions()
        for number in range(num_samples):
            scores = [
                part.classify(apply_dropout(part.inputs_MDSS, rate, derive_seed(seed, f"sample {number} of {image}")))
                for image, part in zip(images, with_features, strict=True)
            ]
            yield replace(predictions, scores_PC=torch.cat([predictions.scores_PC[:0], *scores]))

    def augmented(
        self, model: nn.Module, indices: Indices, hows: Sequence[Augmentation], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Yields what `predict` returns, on stored images and on images that are augmented in each way."""
        views = [AugmentedView(how, seed) for how, seed in zip(hows, seeds, strict=True)]
        return self._predict_views(model, indices, views, [partial(map_back, how) for how in hows])

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
        return build_network(self._recipe, self.num_classes, self._weights, seed, companion).to(self._device)

    def _map_features(
        self, detector: Detector, indices: Indices, function: Callable[[list[Tensor], Batch], Tensor]
    ) -> Tensor:
        """(N, ...): a function of the feature maps of pool images, which are computed batch by batch."""

        def work(batch: ReadBatch) -> Tensor:
            inputs = batch.resized.batch
            return function(detector.feature_maps(inputs.images_N3HW), inputs)

        return torch.stack(self.pool_reader.map_images(indices, work))

    def _detect_with_features(
        self, model: nn.Module, indices: Indices, function: Callable[[DetectionsWithFeatures], Result]
    ) -> list[Result]:
        """A function of the detections on each pool image with the inputs of the classification layer."""
        detector = cast_model(model, Detector)

        def work(batch: ReadBatch) -> Iterator[Result]:
            resized = batch.resized
            maps = detector.feature_maps(resized.batch.images_N3HW)
            for number, part in enumerate(detector.detect_with_features(maps, resized.batch)):
                yield function(replace(part, detections=resized.to_image_pixels(number, part.detections)))

        return self.pool_reader.map_images(indices, work)

    def _cached_detections(self, model: nn.Module, indices: Indices) -> DetectionSet:
        """The detections on pool images. Those of the last call are cached."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            self._memo = (weakref.ref(model), np.array(indices), self._detect(model, self.pool_reader, indices))
        return self._memo[2]

    @torch.no_grad()
    def _detect(self, model: nn.Module, reader: BatchReader, indices: Indices) -> DetectionSet:
        """The detections on images, in pixels of the stored images."""
        detections = reader.map_images(indices, detect_in_images(cast_model(model, Detector)))
        return DetectionSet.from_images(detections, self.num_classes, self._device)

    @torch.no_grad()
    def _predict_views(
        self, model: nn.Module, indices: Indices, views: Views, undo: Sequence[MapBack | None]
    ) -> Iterator[list[Predictions]]:
        """Yields the predictions on stored images and on each view, for consecutive parts of `indices`.

        `undo` maps the detections on each view to pixels of the stored images; None where they are already.
        """
        work = detect_in_images(cast_model(model, Detector), [None, *undo])
        for part in self.pool_reader.map_views(indices, views, work):
            sets = [DetectionSet.from_images(of_view, self.num_classes, self._device) for of_view in part]
            yield [detections.to_predictions() for detections in sets]


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
