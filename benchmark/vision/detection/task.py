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
from benchmark.vision.data.annotations import Split, Truth, check_boxes, scans_of
from benchmark.vision.data.reading import Noise, stream
from benchmark.vision.data.sources import reported
from benchmark.vision.detection.average_precision import Found, coco_scores, voc_map
from benchmark.vision.detection.detector import Batch, Detections, Detector, Seen
from benchmark.vision.detection.detectors import builder
from benchmark.vision.detection.inputs import Placed, Placing
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.training import Step, train
from benchmark.vision.detection.views import Back, Changed, restored
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derived, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.task import VisionTask, own, thumbnails, views_of
from benchmark.vision.training import normalises_by_batch
from benchmark.vision.weights import weights_file

PIXELS_A_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 canvases of 64x64; on a GPU seven images of 800x1333
SCORES = {"50": "ap50", "50:95": "ap"}


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
        check_boxes(pool, test)
        self.num_pool, self.num_classes, self._map = len(pool.truth), num_classes, SCORES[map_at]
        self.classes = classes or [str(number) for number in range(num_classes)]
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights)
        self._pool, self._test = pool, test
        self._memo: tuple[Callable[[], nn.Module | None], Indices, Everything] | None = None
        detector = self.model()  # whatever is wrong with the recipe is said now
        self._by_batch = normalises_by_batch(detector)
        if not suits_channels_last(detector, self._device):
            self._recipe = replace(recipe, channels_last=False)
        self._placing = Placing(self._recipe, detector.pixels, machine.device)
        self._num_pixels = PIXELS_A_BATCH[machine.device.type]
        self.batch_size = max(1, self._num_pixels // math.prod(self._placing.padded_size(pool.images[0])))
        self._views = views_of(pool.images, machine)
        self._encodings = Encodings(self._views, self._views, pool.images.fingerprint, machine)
        parts = [arrays(split.truth) for split in (pool, test)]
        self.fingerprint = digest(*parts[0], *parts[1], pool.images.fingerprint, test.images.fingerprint, self._weights)
        self._sources = reported(scans_of(pool.images), scans_of(test.images), root)

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> Detector:
        """A detector trained on the set `labelled`. Raises ValueError where training diverges."""
        which, self._memo = np.sort(labelled), None
        detector = self._network(seed, companion)
        checkpoint = self._checkpoint(which, seed, companion)

        def prepare(steps: Sequence[Step]) -> Iterator[tuple[Batch, list[Boxes]]]:
            groups = [which[step.which].tolist() for step in steps]
            for step, group, images in zip(steps, groups, self._read(self._pool, groups), strict=True):
                boxes = [self._pool.truth.of(one) for one in group]
                seeds = [derived(seed, f"varied {step.number} {index}") for index in group]
                varied, left = self._placing.varied(images, boxes, seeds)
                placed = self._placing(varied, self._seeds(self._pool, group), step.flips)
                yield placed.batch, placed.targets(left)

        train(detector, len(which), prepare, self._recipe, companion, derived(seed, "training"), checkpoint)
        return detector

    def score(self, model: nn.Module) -> Scores:
        """Shares of one: map, COCO's ap (IoU 0.50:0.95), ap50 and ap75, and PASCAL VOC's voc_map (IoU 0.50); how many
        classes the boxes found are of (0: none is found), and those that are there. ap and ap50 of each class."""
        self._memo = None
        truth, found = self._test.truth, self._everything(model, self._test, np.arange(self.num_test())).found()
        scores = coco_scores(truth, found, self.classes)
        scores |= {"map": scores[self._map], "voc_map": voc_map(truth, found, self.num_classes)}
        counted = {"predicted": found.label_P, "test": truth.labels_B[~truth.ignored_B]}
        scores |= {f"num_{which}_classes": float(len(np.unique(labels))) for which, labels in counted.items()}
        return scores

    def cost(self, indices: Indices) -> dict[str, float]:
        """Images, and the boxes drawn on them, ignored ones too (as the published counts have them)."""
        return {"images": float(len(indices)), "boxes": float(self._pool.truth.num_drawn(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test.truth)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Detection:
        """The same images; those of the pool but for `paid`, and with `test` the test set's, exchange their boxes,
        whose classes are drawn at random."""
        other, rng = copy.copy(self), np.random.default_rng(seed)
        other._pool = Split(self._pool.images, exchanged(self._pool.truth, paid, self.num_classes, rng))
        if test:
            truth = exchanged(self._test.truth, np.empty(0, np.int64), self.num_classes, rng)
            other._test = Split(self._test.images, truth)
        other.fingerprint, other._memo = digest(self.fingerprint, np.sort(paid), seed, test), None
        return other

    # --- for pictures of a run that is through ---------------------------------------------------
    def annotations(self) -> Annotations:
        """Class and size of each box of the pool that somebody drew."""
        truth = self._pool.truth
        sides_B2 = truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]
        image_B = np.repeat(np.arange(self.num_pool), np.diff(truth.first_N1))
        return Annotations(self.classes, image_B, truth.labels_B, np.sqrt(sides_B2.prod(1)))

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """(N, side, side, 3) pool images, shrunk to fit and padded with white, and (K, 4) boxes in their pixels."""
        pictures_NHW3, scales = thumbnails(self._pool.images, indices, side)
        pairs = zip(indices.tolist(), scales, strict=True)
        return pictures_NHW3, [(self._pool.truth.of(index).corners_M4 * scale).numpy() for index, scale in pairs]

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """The boxes found, at most a hundred an image, class by class after suppression."""
        return self._known(model, indices).predictions()

    def perturbed(self, model: nn.Module, indices: Indices, sigma: float, seed: int) -> Predictions:
        """`predict` on noisy images."""
        noise = Noise(sigma, {index: derived(seed, f"noise {index}") for index in np.asarray(indices).tolist()})
        return self._everything(model, self._pool, indices, noise).predictions()

    def proposals(self, model: nn.Module, indices: Indices) -> Predictions:
        """`predict`, with proposals. ValueError on a one-stage detector."""
        if not own(model, Detector).two_stage:
            raise ValueError(f"model={self._recipe.model}: a one-stage detector has no proposals")
        return self._known(model, indices).predictions(proposals=True)

    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels (FCOS) or proposals (Faster R-CNN)."""
        detector = own(model, Detector)
        return torch.cat([detector.pooled(maps, batch).float() for maps, batch in self._mapped(detector, indices)])

    def labels(self, model: nn.Module, indices: Indices) -> list[Boxes]:
        """The boxes of each image that are not ignored."""
        return [self._pool.truth.of(index) for index in np.asarray(indices).tolist()]

    @torch.no_grad()
    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """(P, D): of FCOS the class tower's output at each box's place, of Faster R-CNN the box head's output of its
        proposal. As dear as `predict`. ValueError on detectors where it is not known."""
        return torch.cat([one.features_MD for one in self._watched(model, indices)])

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Monte Carlo dropout (Gal & Ghahramani, 2016) on the class layer's input: the boxes of `predict`, row by row,
        each with the scores under masks of its own; boxes, proposals and centerness stay. The inputs are kept from the
        first sample to the last: on FCOS nine times the features of each box."""
        share, images = self._recipe.dropout, np.asarray(indices).tolist()
        watched = list(self._watched(model, indices))
        clean = Everything.of([one.found for one in watched], self.num_classes, self._device).predictions()
        for number in range(num_samples):
            rows = [
                one.rows(dropped(one.inputs_MDSS, share, derived(seed, f"sample {number} of {image}")))
                for image, one in zip(images, watched, strict=True)
            ]
            yield replace(clean, scores_PC=torch.cat([clean.scores_PC[:0], *rows]))

    def augmented(self, model: nn.Module, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """`predict` on changed images: see `views`."""
        changed = Split(Changed(self._pool.images, how, seed), self._pool.truth)
        return self._everything(model, changed, indices, back=partial(restored, how)).predictions()

    @torch.no_grad()
    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output on the feature maps."""
        detector = own(model, Detector)
        assert detector.companion is not None, "the model was fitted without a companion"
        return torch.cat([detector.companion(maps) for maps, _ in self._mapped(detector, indices)])

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The last layers' weights, as ISAL takes them: FCOS classes, boxes, centerness; Faster R-CNN RPN classes, RPN
        boxes, classes, boxes. No biases."""
        return own(model, Detector).last_weights()

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        """The boxes found with a score of at least `min_score`, as hard labels. ValueError unless k = 1."""
        if k != 1:
            raise ValueError(f"k={k}: a detector's pseudo labels have one class per box: set k=1")
        return self._known(model, indices).boxes(min_score)

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) losses, all parts of an image's summed, normalised by its own positives; differentiable in `weights`."""
        split = self._test if test else self._pool
        detector = own(model, Detector)
        boxes = [split.truth.of(index) for index in indices] if targets is None else targets
        assert isinstance(boxes, list), "a detector's targets are boxes"
        return torch.cat([detector(*pair) for pair in self._aimed(split, [np.asarray(indices).tolist()], boxes)])

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,) derivatives of the losses along `direction`, exact and without a gradient of the backbone: see
        `Detector.slopes`. Costs about as much as the losses."""
        assert isinstance(targets, list), "a detector's targets are boxes"
        detector = own(model, Detector)
        along = [direction[name] for name in detector.last_weights()]
        pairs = self._aimed(self._pool, self._groups(indices), targets)
        return torch.cat([detector.slopes(batch, goals, along) for batch, goals in pairs])

    # --- inside ----------------------------------------------------------------------------------
    def _network(self, seed: int, companion: Companion | None) -> Detector:
        """A fresh detector; a companion does not change what it starts from."""
        recipe = self._recipe
        with seeded(derived(seed, "network")):
            detector = builder(recipe.model)(recipe, self.num_classes, self._weights)
        detector.precision = recipe.precision
        if companion is not None:
            with seeded(derived(seed, "companion")):
                detector.companion = companion.module(detector.channels)
        if recipe.channels_last:
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return detector.to(self._device).eval()

    def _groups(self, indices: Indices) -> list[list[int]]:
        """Indices in batches."""
        rows = np.asarray(indices).tolist()
        return [rows[begin : begin + self.batch_size] for begin in range(0, len(rows), self.batch_size)]

    def _seeds(self, split: Split, group: list[int]) -> list[int]:
        return [derived(index, "test" if split is self._test else "pool") for index in group]

    def _read(self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None) -> Iterator[list[Tensor]]:
        """Each group of images, read by the machine's workers."""
        return stream(split.images, groups, self._machine.workers, noise, self._device.type == "cuda")

    def _placed(self, split: Split, groups: Sequence[list[int]], noise: Noise | None = None) -> Iterator[Placed]:
        """The images of the groups, in order and each padded as if it were alone."""
        reading = zip(groups, self._read(split, groups, noise), strict=True)
        for group, images in activity.tracked(reading, "going through images", "batches", len(groups)):
            seeds = self._seeds(split, group)
            for part in self._placing.runs(images, self._num_pixels):
                yield self._placing(images[part], seeds[part])

    def _aimed(
        self, split: Split, groups: Sequence[list[int]], boxes: Sequence[Boxes]
    ) -> Iterator[tuple[Batch, list[Boxes]]]:
        """The batches of `_placed`, with the boxes of their images."""
        begin = 0
        for placed in self._placed(split, groups):
            goals = placed.targets(boxes[begin : begin + len(placed.batch.sizes)])
            begin += len(goals)
            yield placed.batch, goals

    def _mapped(self, detector: Detector, indices: Indices) -> Iterator[tuple[list[Tensor], Batch]]:
        """The feature maps of pool images, batch by batch."""
        for placed in self._placed(self._pool, self._groups(indices)):
            yield detector.trunk(placed.batch.images_N3HW), placed.batch

    def _known(self, model: nn.Module, indices: Indices) -> Everything:
        """What is found on pool images; that of the last call is kept."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            self._memo = (weakref.ref(model), np.array(indices), self._everything(model, self._pool, indices))
        return self._memo[2]

    def _watched(self, model: nn.Module, indices: Indices) -> Iterator[Seen]:
        """What is found on each of these pool images, and what the class layer saw of it."""
        detector = own(model, Detector)
        for placed in self._placed(self._pool, self._groups(indices)):
            seen = detector.watch(detector.trunk(placed.batch.images_N3HW), placed.batch)
            yield from (replace(one, found=placed.stored(number, one.found)) for number, one in enumerate(seen))

    @torch.no_grad()
    def _everything(
        self, model: nn.Module, split: Split, indices: Indices, noise: Noise | None = None, back: Back | None = None
    ) -> Everything:
        """What is found on these images, and where it lies according to `back`."""
        detector, found = own(model, Detector), list[Detections]()
        for placed in self._placed(split, self._groups(indices), noise):
            for number, one in enumerate(detector.detect(detector.trunk(placed.batch.images_N3HW), placed.batch)):
                stored = placed.stored(number, one)
                found.append(stored if back is None else back(stored, placed.stored_size(number)))
        return Everything.of(found, self.num_classes, self._device)


@dataclass(frozen=True)
class Everything:
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
    def of(cls, found: Sequence[Detections], num_classes: int, device: torch.device) -> Everything:
        """From the detections of each image."""
        counts = torch.tensor([len(one.labels_M) for one in found], device=device)
        image_P = torch.arange(len(found), device=device).repeat_interleave(counts)
        proposals = [one.proposals_M4 for one in found if one.proposals_M4 is not None]
        scores = [one.paper_scores_M for one in found if one.paper_scores_M is not None]
        return cls(
            image_P,
            torch.cat([image_P.new_empty(0), *(one.labels_M for one in found)]),
            torch.cat([torch.empty(0, device=device), *(one.confidence_M for one in found)]),
            torch.cat([torch.empty(0, num_classes + 1, device=device), *(one.scores_MK for one in found)]),
            torch.cat([torch.empty(0, 4, device=device), *(one.corners_M4 for one in found)]),
            torch.cat(proposals) if proposals else None,
            torch.cat(scores) if scores else None,
            len(found),
        )

    def predictions(self, proposals: bool = False) -> Predictions:
        """As strategies see them."""
        behind = self.proposals_P4 if proposals else None
        return Predictions(self.scores_PK, self.image_P, self.num_images, self.corners_P4, behind, self.paper_score_P)

    def found(self) -> Found:
        """As the metrics see them."""
        parts = (self.image_P, self.label_P, self.confidence_P.double(), self.corners_P4.double())
        return Found(*(part.cpu().numpy() for part in parts))

    def boxes(self, min_score: float) -> list[Boxes]:
        """Those of each image with a score of at least `min_score`."""
        sure_P = self.confidence_P >= min_score
        counts = self.image_P[sure_P].bincount(minlength=self.num_images).tolist()
        parts = zip(self.corners_P4[sure_P].split(counts), self.label_P[sure_P].split(counts), strict=True)
        return [Boxes(corners_M4, labels_M) for corners_M4, labels_M in parts]


def dropped(values: Tensor, share: float, seed: int) -> Tensor:
    """The values after dropout, whose mask is drawn on the CPU: the same on every device."""
    kept = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) >= share
    return values * kept.to(values.device) / (1 - share)


def exchanged(truth: Truth, paid: Indices, num_classes: int, rng: np.random.Generator) -> Truth:
    """Images that are not paid for exchange all their boxes, and the classes of those are drawn anew."""
    source = np.arange(len(truth))
    open_ = np.setdiff1d(source, paid)
    source[open_] = rng.permutation(open_)
    mixed = truth.kept(source)
    image_B = np.repeat(np.arange(len(mixed)), np.diff(mixed.first_N1))
    drawn_B = rng.integers(0, num_classes, len(mixed.labels_B))
    labels_B = np.where(np.isin(image_B, open_), drawn_B, mixed.labels_B)
    return Truth(mixed.corners_B4, labels_B, mixed.ignored_B, mixed.first_N1)


def arrays(truth: Truth) -> list[object]:
    """The arrays of the annotations."""
    return [truth.corners_B4, truth.labels_B, truth.ignored_B, truth.first_N1]
