"""Keypoint detection (pose estimation) as an active-learning task. Images are read from disk when they are needed.

Shapes: N images, P keypoints of detected persons, M persons of one image, J keypoints of a person, Q cells of a
heatmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import OKS_AP, Boxes, ImageLabel, Indices, Machine, Predictions
from benchmark.vision.data.added_files import add_files_without_labels
from benchmark.vision.data.annotations import Split
from benchmark.vision.data.poses import Poses, PoseTruth
from benchmark.vision.detection.batches import BatchReader, ReadBatch
from benchmark.vision.detection.detector import Detector, apply_dropout
from benchmark.vision.detection.detector_task import DetectorTask
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.keypoints.builder import pose_builder
from benchmark.vision.keypoints.pose_detector import CELLS, Persons, PoseDetector
from benchmark.vision.keypoints.recipe import PoseRecipe
from benchmark.vision.keypoints.scores import PersonArrays, oks_scores
from benchmark.vision.task import cast_model

MIN_PERSON_SCORE = 0.1  # smallest confidence of the persons whose heatmaps strategies get
Result = TypeVar("Result")


class PoseEstimation(DetectorTask):
    """A keypoint task: a pool of images with persons, a test set, and a recipe for the network.

    Its metric `oks_ap` is COCO's average precision of keypoints in 0..1, the mean over OKS thresholds of 0.50 to 0.95.
    Ignored persons (crowds) are not trained on, but annotators drew them, so they count in the cost. A person without a
    labelled keypoint is trained on as a box, and is ignored in the score.

    Strategies see a detected person's heatmaps: for each keypoint one prediction, the probabilities of 14 x 14 cells of
    the person's box. So entropy and the like need no class. Images without a detected person have no predictions.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. Models passed to them must be in eval mode and are not changed.

    Args:
        machine: the device, the folders and the number of worker processes.
        recipe: how networks are built and trained.
        pool: the images that strategies choose from, with their persons.
        test: the images that models are scored on, with their persons.
        classes: what the keypoints belong to.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.

    Raises:
        ValueError: the recipe cannot be carried out, or the pool or the test set has no usable person.
    """

    metric = OKS_AP

    def __init__(
        self, machine: Machine, recipe: PoseRecipe, pool: Split, test: Split, classes: Sequence[str] = ("person",),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        check_has_keypoints(pool, test)
        self._skeleton = pose_truth(pool).skeleton
        if recipe.flip and (names := self._skeleton.without_counterpart):
            raise ValueError(
                f"flip=true: keypoint {names[0]} has no counterpart on the other side, so mirrored images cannot be "
                "labelled: set flip=false"
            )
        super().__init__(machine, recipe, pool, test, len(classes), classes, root)

    def with_images(self, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> PoseEstimation:
        """Returns a copy of the task with more images at the end of its pool; see `ExtendsPool`.

        Raises:
            ValueError: there are labels: neither classes nor boxes are keypoints.
        """
        if labels:
            raise ValueError("neither classes nor boxes are keypoints: add images and keypoints to the task's own file")
        return self._with_added_files(add_files_without_labels(self._pool, paths))

    # --- scoring ---------------------------------------------------------------------------------
    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, float]:
        """Scores a model on the test set.

        Returns:
            `oks_ap` (OKS 0.50:0.95), `oks_ap50` and `oks_ap75`, all in 0..1; the number of classes among the detections
            (0 without any person) and in the test set.
        """
        every = np.arange(self.num_test())
        pairs = self._map_persons(model, self.test_reader, every, lambda _, p: (p.keypoints_MJ2, p.boxes.confidence_M))
        image_P = np.repeat(every, [len(confidence_M) for _, confidence_M in pairs])
        keypoints_PJ2, confidence_P = (torch.cat(parts).double().cpu().numpy() for parts in zip(*pairs, strict=True))
        scores = oks_scores(pose_truth(self._test), PersonArrays(image_P, confidence_P, keypoints_PJ2))
        return scores | {"num_predicted_classes": float(len(image_P) > 0), "num_test_classes": 1.0}

    def cost(self, indices: Indices) -> dict[str, float]:
        """Counts images, persons (as boxes) and labelled keypoints. Ignored persons count too."""
        self._require_labels(indices)
        return super().cost(indices) | {"keypoints": float(pose_truth(self._pool).num_labelled_keypoints(indices))}

    # --- capabilities ----------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """(P, Q): the heatmap of each keypoint of each person that is detected with a confidence of at least 0.1, at
        most 20 persons per image."""
        return self._to_predictions(self._map_persons(model, self.pool_reader, indices, confident_heatmaps))

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Returns predictions with Monte Carlo dropout on the keypoint layer's input; the rest of the network runs
        once.

        The persons and the places of their keypoints are those of `predict`. An image's dropout masks do not depend on
        the other images.

        References:
            Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016.

        Cost:
            all samples are in memory at once.
        """
        rate, positions = self._recipe.dropout, np.asarray(indices).tolist()

        def draw_samples(place: int, persons: Persons) -> list[tuple[Tensor, Tensor]]:
            heatmaps_MJQ, points_MJ2 = confident_heatmaps(place, persons)
            samples = []
            for number in range(num_samples):
                own_seed = derive_seed(seed, f"sample {number} of {positions[place]}")
                generator = torch.Generator().manual_seed(own_seed)
                sampled_MJQ = persons.resample(partial(apply_dropout, rate=rate, generator=generator))
                samples.append((sampled_MJQ[: len(heatmaps_MJQ)], points_MJ2))
            return samples

        by_image = self._map_persons(model, self.pool_reader, indices, draw_samples)
        return (self._to_predictions([samples[number] for samples in by_image]) for number in range(num_samples))

    @torch.no_grad()
    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        """Returns the persons that are detected with a confidence of at least `min_score`, with all keypoints at their
        most likely places.

        Raises:
            ValueError: k is not 1.
        """
        if k != 1:
            raise ValueError(f"k={k}: the pseudo-labels of a keypoint detector have one place per keypoint: set k=1")

        def label(_: int, persons: Persons) -> Boxes:
            num = int((persons.boxes.confidence_M >= min_score).sum())  # sorted by confidence
            places_MJ2 = persons.keypoints_MJ2[:num]
            keypoints_MJ3 = torch.cat([places_MJ2, torch.full_like(places_MJ2[..., :1], 2.0)], 2)
            boxes = persons.boxes
            return Poses(boxes.corners_M4[:num], boxes.labels_M[:num], keypoints_MJ3, self._skeleton.mirror)

        return self._map_persons(model, self.pool_reader, indices, label)

    # --- internal --------------------------------------------------------------------------------
    def _builder(self) -> Callable[..., Detector]:
        """The function that builds the network from the recipe, the number of classes and the file of weights."""
        return pose_builder(len(self._skeleton))

    def _map_persons(
        self, model: nn.Module, reader: BatchReader, indices: Indices, function: Callable[[int, Persons], Result]
    ) -> list[Result]:
        """A function of the place in `indices` and of the persons detected there, in pixels of the stored image."""
        network = cast_model(model, PoseDetector)

        def work(batch: ReadBatch) -> Iterator[Result]:
            resized = batch.resized
            maps = network.feature_maps(resized.batch.images_N3HW)
            for number, persons in enumerate(network.detect_persons(maps, resized.batch)):
                boxes = resized.to_image_pixels(number, persons.boxes)
                factor_2 = 1 / resized.scales_N4[number, :2]
                yield function(batch.places[number], persons.rescale(boxes, factor_2))

        return reader.map_images(indices, work)

    def _to_predictions(self, heatmaps: Sequence[tuple[Tensor, Tensor]]) -> Predictions:
        """Predictions from the heatmaps, (M, J, Q), and the places of the keypoints, (M, J, 2), of each image."""
        counts = torch.tensor([maps_MJQ.shape[0] * maps_MJQ.shape[1] for maps_MJQ, _ in heatmaps], device=self._device)
        image_P = torch.arange(len(heatmaps), device=self._device).repeat_interleave(counts)
        empty_0Q = torch.empty(0, CELLS**2, device=self._device)
        scores_PQ = torch.cat([empty_0Q, *(maps_MJQ.flatten(0, 1) for maps_MJQ, _ in heatmaps)])
        points_P2 = torch.cat([empty_0Q[:, :2], *(points_MJ2.flatten(0, 1) for _, points_MJ2 in heatmaps)])
        return Predictions(scores_PQ, image_P, len(heatmaps), points_P2=points_P2)


def confident_heatmaps(_: int, persons: Persons) -> tuple[Tensor, Tensor]:
    """The heatmaps and the places of the keypoints of the persons with a confidence of at least MIN_PERSON_SCORE."""
    num = int((persons.boxes.confidence_M >= MIN_PERSON_SCORE).sum())  # sorted by confidence
    return persons.heatmaps_MJQ[:num].clone(), persons.keypoints_MJ2[:num]  # a slice would hold on to all persons


def pose_truth(split: Split) -> PoseTruth:
    """The persons of a split."""
    assert isinstance(split.truth, PoseTruth), "boxes without keypoints"
    return split.truth


def check_has_keypoints(pool: Split, test: Split) -> None:
    """Checks that the pool and the test set each have a person with a labelled keypoint that is not ignored.

    Raises:
        ValueError: One of them has none.
    """
    for name, split, purpose in (("pool", pool, "learn from"), ("test set", test, "score")):
        truth = pose_truth(split)
        if not (truth.num_keypoints_B[~truth.ignored_B] > 0).any():
            raise ValueError(
                f"none of the {len(truth.labels_B)} persons of the {name} has a labelled keypoint: there is nothing to "
                f"{purpose}"
            )
