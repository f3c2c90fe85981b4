"""Object detection as an active-learning task. Images are read from disk when they are needed.

Shapes: N images, H x W pixels, P predictions, M boxes of one image, C classes, K = C + 1 with background, D features.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import (
    MEAN_AP,
    MEAN_AP_VOC07,
    Augmentation,
    Boxes,
    ImageLabel,
    Indices,
    Machine,
    Metric,
    Predictions,
    Scores,
    scores_by_class,
)
from benchmark.vision.data.added_files import add_files
from benchmark.vision.data.annotations import Split
from benchmark.vision.data.reading import Noise, Views
from benchmark.vision.detection.augmented_views import AugmentedView, MapBack, map_back
from benchmark.vision.detection.batches import BatchReader, ReadBatch, detect_in_images
from benchmark.vision.detection.detection_set import DetectionSet
from benchmark.vision.detection.detector import Detector
from benchmark.vision.detection.detector_task import DetectorTask
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.scores import (
    DetectionArrays,
    area_ap,
    coco_scores,
    eleven_point_ap,
    mean_of_classes,
    rank_classes,
)
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.task import cast_model

MAP_SCORES = {"50": "ap50", "50:95": "ap"}


class Detection(DetectorTask):
    """An object-detection task: a pool of images with boxes, a test set, and a recipe for the detector.

    Its metric `map` is the mean average precision in 0..1, at the IoU given by `map_at`, or it is PASCAL's of 2007,
    `voc07_map`. Ignored boxes (crowds, and difficult boxes if the task says so) are not trained on, but annotators drew
    them, so they count in the cost.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. Models passed to them must be in eval mode and are not changed.

    Args:
        machine: the device, the folders and the number of worker processes.
        recipe: how detectors are built and trained.
        pool: the images that strategies choose from, with their boxes.
        test: the images that models are scored on, with their boxes.
        num_classes: C.
        map_at: IoU thresholds of `map`: `50`, or `50:95` for COCO's mean.
        classes: C names; empty: the numbers 0..C-1.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.
        metric: MEAN_AP, or MEAN_AP_VOC07, whose value in per cent is then among the scores.

    Raises:
        ValueError: the recipe cannot be carried out, or the pool or the test set has no usable box.
    """

    metric = MEAN_AP

    def __init__(
        self, machine: Machine, recipe: DetectorRecipe, pool: Split, test: Split, num_classes: int,
        map_at: Literal["50", "50:95"], classes: Sequence[str] = (), root: Path | None = None,
        metric: Metric = MEAN_AP,
    ) -> None:  # fmt: skip
        self.metric, self._map = metric, MAP_SCORES[map_at]
        super().__init__(machine, recipe, pool, test, num_classes, classes, root)

    def with_images(self, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> Detection:
        """Returns a copy of the task with more images at the end of its pool; see `ExtendsPool`."""
        return self._with_added_files(add_files(self._pool, paths, labels), list(labels))

    # --- scoring --------------------------------------------------------------------
    def score(self, model: nn.Module) -> Scores:
        """Scores a model on the test set.

        Returns:
            `map`, COCO's `ap` (IoU 0.50:0.95), `ap50` and `ap75`, and PASCAL VOC's `voc_map` (IoU 0.50), all in 0..1;
            the number of classes among the detections (0 without any) and in the test set; `ap` and `ap50` of each
            class. Where it is the metric, `voc07_map` in per cent, with `voc07_ap` of each class.
        """
        self._memo = None
        truth = self._test.truth
        detections = self._detect(model, self.test_reader, np.arange(self.num_test())).to_arrays()
        scores = coco_scores(truth, detections, self.classes)
        scores["map"] = scores[self._map]
        self._add_voc_scores(scores, detections)
        labels_by_source = {"predicted": detections.label_P, "test": truth.labels_B[~truth.ignored_B]}
        for source, labels in labels_by_source.items():
            scores[f"num_{source}_classes"] = float(len(np.unique(labels)))
        return scores

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
    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """(P, D): for FCOS the class tower's output at the place of each box, for Faster R-CNN the box head's output
        for its proposal.

        Raises:
            ValueError: this kind of detector does not provide them.

        Cost:
            about the same as `predict`.
        """
        detector = cast_model(model, Detector)

        def work(batch: ReadBatch) -> Iterator[Tensor]:
            maps = detector.feature_maps(batch.resized.batch.images_N3HW)
            return (part.features_MD for part in detector.detect_with_features(maps, batch.resized.batch))

        return torch.cat(self.pool_reader.map_images(indices, work))

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Yields predictions with Monte Carlo dropout on the classification layer's input.

        The boxes, proposals and centerness are those of `predict`. Each box gets new class scores in each sample, under
        masks of its own; with ssd300, the boxes of an image share their masks.

        References:
            Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016.

        Cost:
            the class scores of all samples are in memory from the first sample on.
        """
        detector, images = cast_model(model, Detector), np.asarray(indices).tolist()

        def work(batch: ReadBatch) -> Iterator[tuple[Detections, list[Tensor]]]:
            resized = batch.resized
            names = [[f"sample {number} of {images[place]}" for number in range(num_samples)] for place in batch.places]
            seeds = [[derive_seed(seed, name) for name in of_image] for of_image in names]
            maps = detector.feature_maps(resized.batch.images_N3HW)
            sampled = detector.detect_with_samples(maps, resized.batch, self._recipe.dropout, seeds)
            for number, (in_batch, scores) in enumerate(sampled):
                yield resized.to_image_pixels(number, in_batch), scores

        pairs = self.pool_reader.map_images(indices, work)
        detections = [in_image for in_image, _ in pairs]
        predictions = DetectionSet.from_images(detections, self.num_classes, self._device).to_predictions()
        for number in range(num_samples):
            samples = [scores[number] for _, scores in pairs]
            yield replace(predictions, scores_PC=torch.cat([predictions.scores_PC[:0], *samples]))

    def augmented(
        self, model: nn.Module, indices: Indices, hows: Sequence[Augmentation], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Yields what `predict` returns, on stored images and on images that are augmented in each way."""
        views = [AugmentedView(how, seed) for how, seed in zip(hows, seeds, strict=True)]
        return self._predict_views(model, indices, views, [partial(map_back, how) for how in hows])

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        """Returns the detections with a score of at least `min_score`, as hard labels.

        Raises:
            ValueError: k is not 1.
        """
        if k != 1:
            raise ValueError(f"k={k}: a detector's pseudo-labels have one class per box: set k=1")
        return self._cached_detections(model, indices).boxes_above(min_score)

    # --- internal --------------------------------------------------------------------------------
    def _add_voc_scores(self, scores: Scores, detections: DetectionArrays) -> None:
        """Adds `voc_map`, and where it is the metric `voc07_map`, to the scores."""
        rankings = rank_classes(self._test.truth, detections, self.num_classes)
        scores["voc_map"] = mean_of_classes(None if ranking is None else area_ap(ranking) for ranking in rankings)
        if self.metric == MEAN_AP_VOC07:
            aps = [None if ranking is None else 100 * eleven_point_ap(ranking) for ranking in rankings]
            scores[MEAN_AP_VOC07.name] = mean_of_classes(aps)
            scores.by_class["voc07_ap"] = scores_by_class(self.classes, aps)

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
