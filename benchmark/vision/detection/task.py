"""Object detection as an active-learning task: images are read when they are needed.

Shapes: N images, H x W pixels, P predictions, M boxes of one image, C classes, K = C + 1 with background, D features.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from benchmark.vision.data.annotations import GroundTruth, Split, check_has_boxes, image_scans
from benchmark.vision.data.reading import Noise, read_groups
from benchmark.vision.data.sources import report_sources
from benchmark.vision.detection.average_precision import DetectionArrays, coco_scores, voc_map
from benchmark.vision.detection.detector import Batch, Detections, DetectionsWithFeatures, Detector
from benchmark.vision.detection.detectors import detector_builder
from benchmark.vision.detection.inputs import BatchBuilder, ResizedBatch
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.training import Step, train_detector
from benchmark.vision.detection.views import AugmentedImages, MapBack, map_back
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.task import VisionTask, cast_model, encoder_pool, thumbnails
from benchmark.vision.training import uses_batch_statistics
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 canvases of 64x64; on a GPU seven images of 800x1333
MAP_SCORES = {"50": "ap50", "50:95": "ap"}


class Detection(VisionTask[Detector]):
    """A pool of images with boxes, a test set and a recipe. Its public methods are the task's capabilities.

    `map`, its metric, is the mean average precision at the IoU that the task counts at, in 0..1. Boxes that are
    ignored (crowds, and difficult ones where the task says so) are not trained on, but drawn and so paid for.
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
        detector = self.model()  # whatever is wrong with the recipe is said now
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
        """A detector trained on the set `labelled`. Raises ValueError where training diverges."""
        which, self._memo = np.sort(labelled), None
        detector = self._build_network(seed, companion)
        checkpoint = self._checkpoint_path(which, seed, companion)

        def prepare(steps: Sequence[Step]) -> Iterator[tuple[Batch, list[Boxes]]]:
            groups = [which[step.positions].tolist() for step in steps]
            for step, group, images in zip(steps, groups, self._read_images(self._pool, groups), strict=True):
                boxes = [self._pool.truth.boxes_of(one) for one in group]
                seeds = [derive_seed(seed, f"varied {step.number} {index}") for index in group]
                varied, left = self._batch_builder.augment(images, boxes, seeds)
                placed = self._batch_builder(varied, self._image_seeds(self._pool, group), step.flips)
                yield placed.batch, placed.to_batch_pixels(left)

        train_detector(
            detector, len(which), prepare, self._recipe, companion, derive_seed(seed, "training"), checkpoint
        )
        return detector

    def score(self, model: nn.Module) -> Scores:
        """Shares of one: map, COCO's ap (IoU 0.50:0.95), ap50 and ap75, and PASCAL VOC's voc_map (IoU 0.50); how many
        classes the boxes found are of (0: none is found), and those that are there. ap and ap50 of each class."""
        self._memo = None
        truth, found = self._test.truth, self._detect_all(model, self._test, np.arange(self.num_test())).to_arrays()
        scores = coco_scores(truth, found, self.classes)
        scores |= {"map": scores[self._map], "voc_map": voc_map(truth, found, self.num_classes)}
        counted = {"predicted": found.label_P, "test": truth.labels_B[~truth.ignored_B]}
        scores |= {f"num_{which}_classes": float(len(np.unique(labels))) for which, labels in counted.items()}
        return scores

    def cost(self, indices: Indices) -> dict[str, float]:
        """Images, and the boxes drawn on them, ignored ones too (as the published counts have them)."""
        return {"images": float(len(indices)), "boxes": float(self._pool.truth.num_annotated_boxes(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test.truth)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Detection:
        """The same images; those of the pool but for `paid`, and with `test` the test set's, exchange their boxes,
        whose classes are drawn at random."""
        other, rng = copy.copy(self), np.random.default_rng(seed)
        other._pool = Split(self._pool.images, exchange_boxes(self._pool.truth, paid, self.num_classes, rng))
        if test:
            truth = exchange_boxes(self._test.truth, np.empty(0, np.int64), self.num_classes, rng)
            other._test = Split(self._test.images, truth)
        other.fingerprint, other._memo = digest(self.fingerprint, np.sort(paid), seed, test), None
        return other

    # --- for pictures of a run that is through ---------------------------------------------------
    def annotations(self) -> Annotations:
        """Class and size of each box of the pool that somebody drew."""
        truth = self._pool.truth
        sides_B2 = truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]
        image_B = np.repeat(np.arange(self.num_pool), np.diff(truth.offsets_N1))
        return Annotations(self.classes, image_B, truth.labels_B, np.sqrt(sides_B2.prod(1)))

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """(N, side, side, 3) pool images, shrunk to fit and padded with white, and (K, 4) boxes in their pixels."""
        pictures_NHW3, scales = thumbnails(self._pool.images, indices, side)
        pairs = zip(indices.tolist(), scales, strict=True)
        return pictures_NHW3, [(self._pool.truth.boxes_of(index).corners_M4 * scale).numpy() for index, scale in pairs]

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """The boxes found, at most a hundred an image, class by class after suppression."""
        return self._cached_detections(model, indices).to_predictions()

    def perturbed(self, model: nn.Module, indices: Indices, sigma: float, seed: int) -> Predictions:
        """`predict` on noisy images."""
        noise = Noise(sigma, {index: derive_seed(seed, f"noise {index}") for index in np.asarray(indices).tolist()})
        return self._detect_all(model, self._pool, indices, noise).to_predictions()

    def proposals(self, model: nn.Module, indices: Indices) -> Predictions:
        """`predict`, with proposals. ValueError on a one-stage detector."""
        if not cast_model(model, Detector).is_two_stage:
            raise ValueError(f"model={self._recipe.model}: a one-stage detector has no proposals")
        return self._cached_detections(model, indices).to_predictions(proposals=True)

    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels (FCOS) or proposals (Faster R-CNN)."""
        detector = cast_model(model, Detector)
        return torch.cat(
            [detector.pooled_features(maps, batch).float() for maps, batch in self._feature_maps(detector, indices)]
        )

    def labels(self, model: nn.Module, indices: Indices) -> list[Boxes]:
        """The boxes of each image that are not ignored."""
        return [self._pool.truth.boxes_of(index) for index in np.asarray(indices).tolist()]

    @torch.no_grad()
    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """(P, D): of FCOS the class tower's output at each box's place, of Faster R-CNN the box head's output of its
        proposal. As dear as `predict`. ValueError on detectors where it is not known."""
        return torch.cat([one.features_MD for one in self._detect_with_features(model, indices)])

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Monte Carlo dropout (Gal & Ghahramani, 2016) on the class layer's input: the boxes of `predict`, row by row,
        each with the scores under masks of its own; boxes, proposals and centerness stay. The inputs are kept from the
        first sample to the last: on FCOS nine times the features of each box."""
        share, images = self._recipe.dropout, np.asarray(indices).tolist()
        watched = list(self._detect_with_features(model, indices))
        clean = DetectionSet.from_images(
            [one.detections for one in watched], self.num_classes, self._device
        ).to_predictions()
        for number in range(num_samples):
            rows = [
                one.classify(apply_dropout(one.inputs_MDSS, share, derive_seed(seed, f"sample {number} of {image}")))
                for image, one in zip(images, watched, strict=True)
            ]
            yield replace(clean, scores_PC=torch.cat([clean.scores_PC[:0], *rows]))

    def augmented(self, model: nn.Module, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """`predict` on changed images: see `views`."""
        changed = Split(AugmentedImages(self._pool.images, how, seed), self._pool.truth)
        return self._detect_all(model, changed, indices, back=partial(map_back, how)).to_predictions()

    @torch.no_grad()
    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output on the feature maps."""
        detector = cast_model(model, Detector)
        assert detector.companion is not None, "the model was fitted without a companion"
        return torch.cat([detector.companion(maps) for maps, _ in self._feature_maps(detector, indices)])

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The last layers' weights, as ISAL takes them: FCOS classes, boxes, centerness; Faster R-CNN RPN classes, RPN
        boxes, classes, boxes. No biases."""
        return cast_model(model, Detector).last_weights()

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        """The boxes found with a score of at least `min_score`, as hard labels. ValueError unless k = 1."""
        if k != 1:
            raise ValueError(f"k={k}: a detector's pseudo labels have one class per box: set k=1")
        return self._cached_detections(model, indices).boxes_above(min_score)

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) losses, all parts of an image's summed, normalised by its own positives; differentiable in `weights`."""
        split = self._test if test else self._pool
        detector = cast_model(model, Detector)
        boxes = [split.truth.boxes_of(index) for index in indices] if targets is None else targets
        assert isinstance(boxes, list), "a detector's targets are boxes"
        return torch.cat([detector(*pair) for pair in self._read_targets(split, [np.asarray(indices).tolist()], boxes)])

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,) derivatives of the losses along `direction`, exact and without a gradient of the backbone: see
        `Detector.slopes`. Costs about as much as the losses."""
        assert isinstance(targets, list), "a detector's targets are boxes"
        detector = cast_model(model, Detector)
        along = [direction[name] for name in detector.last_weights()]
        pairs = self._read_targets(self._pool, self._group_indices(indices), targets)
        return torch.cat([detector.directional_derivatives(batch, goals, along) for batch, goals in pairs])

    # --- inside ----------------------------------------------------------------------------------
    def _build_network(self, seed: int, companion: Companion | None) -> Detector:
        """A fresh detector; a companion does not change what it starts from."""
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
        """Indices in batches."""
        rows = np.asarray(indices).tolist()
        return [rows[begin : begin + self.batch_size] for begin in range(0, len(rows), self.batch_size)]

    def _image_seeds(self, split: Split, group: list[int]) -> list[int]:
        return [derive_seed(index, "test" if split is self._test else "pool") for index in group]

    def _read_images(
        self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None
    ) -> Iterator[list[Tensor]]:
        """Each group of images, read by the machine's workers."""
        return read_groups(split.images, groups, self._machine.workers, noise, self._device.type == "cuda")

    def _read_batches(
        self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None
    ) -> Iterator[ResizedBatch]:
        """The images of the groups, in order and each padded as if it were alone."""
        reading = zip(groups, self._read_images(split, groups, noise), strict=True)
        for group, images in activity.track(reading, "going through images", "batches", len(groups)):
            seeds = self._image_seeds(split, group)
            for part in self._batch_builder.split_by_size(images, self._num_pixels):
                yield self._batch_builder(images[part], seeds[part])

    def _read_targets(
        self, split: Split, groups: Sequence[list[int]], boxes: Sequence[Boxes]
    ) -> Iterator[tuple[Batch, list[Boxes]]]:
        """The batches of `_placed`, with the boxes of their images."""
        begin = 0
        for placed in self._read_batches(split, groups):
            goals = placed.to_batch_pixels(boxes[begin : begin + len(placed.batch.sizes)])
            begin += len(goals)
            yield placed.batch, goals

    def _feature_maps(self, detector: Detector, indices: Indices) -> Iterator[tuple[list[Tensor], Batch]]:
        """The feature maps of pool images, batch by batch."""
        for placed in self._read_batches(self._pool, self._group_indices(indices)):
            yield detector.feature_maps(placed.batch.images_N3HW), placed.batch

    def _cached_detections(self, model: nn.Module, indices: Indices) -> DetectionSet:
        """What is found on pool images; that of the last call is kept."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            self._memo = (weakref.ref(model), np.array(indices), self._detect_all(model, self._pool, indices))
        return self._memo[2]

    def _detect_with_features(self, model: nn.Module, indices: Indices) -> Iterator[DetectionsWithFeatures]:
        """What is found on each of these pool images, and what the class layer saw of it."""
        detector = cast_model(model, Detector)
        for placed in self._read_batches(self._pool, self._group_indices(indices)):
            seen = detector.detect_with_features(detector.feature_maps(placed.batch.images_N3HW), placed.batch)
            yield from (
                replace(one, detections=placed.to_image_pixels(number, one.detections))
                for number, one in enumerate(seen)
            )

    @torch.no_grad()
    def _detect_all(
        self, model: nn.Module, split: Split, indices: Indices, noise: Noise | None = None, back: MapBack | None = None
    ) -> DetectionSet:
        """What is found on these images, and where it lies according to `back`."""
        detector, found = cast_model(model, Detector), list[Detections]()
        for placed in self._read_batches(split, self._group_indices(indices), noise):
            for number, one in enumerate(
                detector.detect(detector.feature_maps(placed.batch.images_N3HW), placed.batch)
            ):
                stored = placed.to_image_pixels(number, one)
                found.append(stored if back is None else back(stored, placed.image_size(number)))
        return DetectionSet.from_images(found, self.num_classes, self._device)


@dataclass(frozen=True)
class DetectionSet:
    """All detections on N images, image by image."""

    image_P: Tensor
    label_P: Tensor
    confidence_P: Tensor
    scores_PK: Tensor
    corners_P4: Tensor  # in pixels of the stored images
    proposals_P4: Tensor | None
    paper_score_P: Tensor | None
    num_images: int

    @classmethod
    def from_images(cls, detections: Sequence[Detections], num_classes: int, device: torch.device) -> DetectionSet:
        """From the detections of each image."""
        counts = torch.tensor([len(one.labels_M) for one in detections], device=device)
        image_P = torch.arange(len(detections), device=device).repeat_interleave(counts)
        proposals = [one.proposals_M4 for one in detections if one.proposals_M4 is not None]
        scores = [one.paper_scores_M for one in detections if one.paper_scores_M is not None]
        return cls(
            image_P,
            torch.cat([image_P.new_empty(0), *(one.labels_M for one in detections)]),
            torch.cat([torch.empty(0, device=device), *(one.confidence_M for one in detections)]),
            torch.cat([torch.empty(0, num_classes + 1, device=device), *(one.scores_MK for one in detections)]),
            torch.cat([torch.empty(0, 4, device=device), *(one.corners_M4 for one in detections)]),
            torch.cat(proposals) if proposals else None,
            torch.cat(scores) if scores else None,
            len(detections),
        )

    def to_predictions(self, proposals: bool = False) -> Predictions:
        """As strategies see them."""
        behind = self.proposals_P4 if proposals else None
        return Predictions(self.scores_PK, self.image_P, self.num_images, self.corners_P4, behind, self.paper_score_P)

    def to_arrays(self) -> DetectionArrays:
        """As the metrics see them."""
        parts = (self.image_P, self.label_P, self.confidence_P.double(), self.corners_P4.double())
        return DetectionArrays(*(part.cpu().numpy() for part in parts))

    def boxes_above(self, min_score: float) -> list[Boxes]:
        """Those of each image with a score of at least `min_score`."""
        sure_P = self.confidence_P >= min_score
        counts = self.image_P[sure_P].bincount(minlength=self.num_images).tolist()
        parts = zip(self.corners_P4[sure_P].split(counts), self.label_P[sure_P].split(counts), strict=True)
        return [Boxes(corners_M4, labels_M) for corners_M4, labels_M in parts]


def apply_dropout(values: Tensor, share: float, seed: int) -> Tensor:
    """The values after dropout, whose mask is drawn on the CPU: the same on every device."""
    kept = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) >= share
    return values * kept.to(values.device) / (1 - share)


def exchange_boxes(truth: GroundTruth, paid: Indices, num_classes: int, rng: np.random.Generator) -> GroundTruth:
    """Images that are not paid for exchange all their boxes, and the classes of those are drawn anew."""
    source = np.arange(len(truth))
    open_ = np.setdiff1d(source, paid)
    source[open_] = rng.permutation(open_)
    mixed = truth.select(source)
    image_B = np.repeat(np.arange(len(mixed)), np.diff(mixed.offsets_N1))
    drawn_B = rng.integers(0, num_classes, len(mixed.labels_B))
    labels_B = np.where(np.isin(image_B, open_), drawn_B, mixed.labels_B)
    return GroundTruth(mixed.corners_B4, labels_B, mixed.ignored_B, mixed.offsets_N1)


def truth_arrays(truth: GroundTruth) -> list[object]:
    """The arrays of the annotations."""
    return [truth.corners_B4, truth.labels_B, truth.ignored_B, truth.offsets_N1]
