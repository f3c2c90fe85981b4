"""Semantic segmentation as an active-learning task. Images and their label maps are read when they are needed.

Shapes: N images, H x W pixels, h x w places of the lattice (or, of features, of the last layer), P predictions, C
classes, D features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import (
    MEAN_IOU,
    Annotations,
    Companion,
    Direction,
    ImageLabel,
    Indices,
    Machine,
    Predictions,
    Scores,
    Targets,
    activity,
    seeded,
)
from benchmark.vision.data.added_files import add_files_without_maps
from benchmark.vision.data.annotations import Images, image_scans, stored_sizes
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.label_maps import IGNORE_INDEX, ScrambledMaps, Split, check_has_labels
from benchmark.vision.data.reading import read_groups
from benchmark.vision.directional import DirectionLayers
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.segmentation.networks import Segmenter, build_segmenter
from benchmark.vision.segmentation.recipe import SegmenterRecipe
from benchmark.vision.segmentation.scores import confusion_matrix, segmentation_scores
from benchmark.vision.segmentation.training import (
    Batch,
    Step,
    augment_batch,
    cross_entropy,
    normalise,
    to_memory_format,
    train_segmenter,
)
from benchmark.vision.task import VisionTask, cast_model, encoder_pool, thumbnails
from benchmark.vision.training import uses_batch_statistics
from benchmark.vision.transfer import move
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 images of 64x64; on a GPU four of 1024x2048
MAX_PLACES = 1024  # largest number of predictions per image


class Segmentation(VisionTask[Segmenter]):
    """A semantic-segmentation task: a pool of images with one label map each, a test set, and a recipe for the network.

    Its metric `miou` is the mean intersection over union, in per cent, over the classes that occur in the test set. It
    is computed from one confusion matrix of all labelled test pixels. Pixels of label 255 are neither trained on nor
    scored. A background class counts like any other class.

    Strategies see an image's pixels on a lattice: every s-th pixel of every s-th row, starting at s // 2, with the
    smallest s that gives at most MAX_PLACES places. Predictions, pseudo-labels and labels are given at these places,
    row by row, so that memory grows with the number of images and not of pixels. Images may differ in size.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. Models passed to them must be in eval mode and are not changed.

    Args:
        machine: the device, the folders and the number of worker processes.
        recipe: how networks are built and trained.
        pool: the images that strategies choose from, with their label maps.
        test: the images that models are scored on, with their label maps.
        classes: C names.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.

    Raises:
        ValueError: the recipe cannot be carried out, or the pool or the test set has no labelled pixel.
    """

    metric = MEAN_IOU

    def __init__(
        self, machine: Machine, recipe: SegmenterRecipe, pool: Split, test: Split, classes: Sequence[str],
        root: Path | None = None,
    ) -> None:  # fmt: skip
        assert len(classes) <= IGNORE_INDEX
        check_has_labels(pool, test)
        self.classes = classes
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights)
        self._test = test
        network = self.model()  # reports a faulty recipe early
        self._uses_batch_statistics = uses_batch_statistics(network)
        if not suits_channels_last(network, self._device):
            self._recipe = replace(recipe, channels_last=False)
        self._size = (pool.images[0].shape[1], pool.images[0].shape[2])
        self._num_pixels = PIXELS_PER_BATCH[machine.device.type]
        self.batch_size = max(1, self._num_pixels // math.prod(self._size))
        self._use_pool(pool)
        self._sources = report_sources(image_scans(pool.images), image_scans(test.images), root)

    def _use_pool(self, pool: Split) -> None:
        """Makes these images the pool."""
        self.num_pool, self._pool = len(pool), pool
        self._encoder_pool = encoder_pool(pool.images, self._machine)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, pool.images.fingerprint, self._machine)
        self.fingerprint = digest(pool.fingerprint, self._test.fingerprint, *self.classes, self._weights)

    def with_images(self, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> Segmentation:
        """Returns a copy of the task with more images at the end of its pool, without label maps; see `ExtendsPool`."""
        extended, num_old = copy.copy(self), self.num_pool
        extended._use_pool(add_files_without_maps(self._pool, paths, labels))
        extended._unlabelled = num_old + np.arange(len(paths))
        extended._sources = replace(self._sources, pool=image_scans(extended._pool.images))
        return extended

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> Segmenter:
        """Trains a network on labelled images.

        Raises:
            ValueError: training diverges, or a DeepLabV3 is trained on one image.
        """
        self._require_labels(labelled)
        labelled_images, recipe = np.sort(labelled), self._recipe
        if len(labelled_images) < 2 and recipe.model.startswith("deeplabv3"):
            raise ValueError(f"model={recipe.model}: cannot learn from one image: set initial=2 or more")
        network = self._build_network(seed, companion)
        checkpoint = self._checkpoint_path(labelled_images, seed, companion)

        def prepare(steps: Sequence[Step]) -> Iterator[Batch]:
            groups = [labelled_images[step.positions].tolist() for step in steps]
            for step, pairs in zip(steps, self._read_groups(self._pool, groups), strict=True):
                yield augment_batch(pairs, step.draws_N4, recipe, self._device)

        train_segmenter(
            network, len(labelled_images), prepare, recipe, companion, derive_seed(seed, "training"), checkpoint
        )
        return network

    @torch.no_grad()
    def score(self, model: nn.Module) -> Scores:
        """Scores a model on the test set.

        Returns:
            `miou` and `pixel_accuracy` (the share of labelled pixels with the right class) in per cent; the number of
            classes that are predicted and that occur in the test set; `iou` of each class.
        """
        num_classes, network = len(self.classes), cast_model(model, Segmenter)
        total_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self._device)
        for pairs_N4HW in self._read_pairs(self._test, by_size(self._test.images, self._device)):
            predicted_NHW = network(self._normalise_images(pairs_N4HW)).argmax(1)
            total_CC += confusion_matrix(predicted_NHW, pairs_N4HW[:, 3], num_classes)
        return segmentation_scores(total_CC, self.classes)

    def cost(self, indices: Indices) -> dict[str, float]:
        """Counts one label map per image."""
        return {"images": float(len(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Segmentation:
        """Returns a copy of the task in which pixels of images outside `paid` have uniformly random labels.

        The test set is scrambled too, unless `test` is False.
        """
        scrambled_task, num_classes = copy.copy(self), len(self.classes)
        pool_seed, test_seed = (derive_seed(seed, name) for name in ("pool", "test"))
        paid_images, no_images = frozenset(np.asarray(paid).tolist()), frozenset[int]()
        maps = ScrambledMaps(self._pool.maps, paid_images, num_classes, pool_seed)
        scrambled_task._pool = Split(self._pool.images, maps)
        if test:
            maps = ScrambledMaps(self._test.maps, no_images, num_classes, test_seed)
            scrambled_task._test = Split(self._test.images, maps)
        scrambled_task.fingerprint = digest(self.fingerprint, np.sort(paid), seed, test)
        return scrambled_task

    # --- for figures of a finished run -----------------------------------------------------------
    def annotations(self) -> Annotations:
        """Returns the classes of each pool image, with the square root of the area of each."""
        self._require_labels(np.arange(self.num_pool))
        groups = [[number] for number in range(self.num_pool)]
        maps = read_groups(self._pool.maps, groups, self._machine.workers)
        counts_NC = np.stack(
            [np.bincount(label_map.numpy().ravel(), minlength=IGNORE_INDEX + 1) for [label_map] in maps]
        )
        image_L, class_L = counts_NC[:, : len(self.classes)].nonzero()
        return Annotations(self.classes, image_L, class_L, np.sqrt(counts_NC[image_L, class_L]).astype(np.float32))

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """Returns pool images for figures: (N, side, side, 3) thumbnails padded with white, and no boxes."""
        return thumbnails(self._pool.images, indices, side)[0], []

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """(P, C): probabilities, one prediction for each lattice place, image by image."""
        return to_predictions([logits_NChw.softmax(1) for logits_NChw in self._lattice_logits(model, indices)])

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Returns predictions with Monte Carlo dropout on the last layer's input; the rest of the network runs once.

        An image's dropout masks do not depend on the other images.

        References:
            Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016.

        Cost:
            all samples are in memory at once.
        """
        network, positions, start = cast_model(model, Segmenter), np.asarray(indices).tolist(), 0
        scores_by_sample: list[list[Tensor]] = [[] for _ in range(num_samples)]
        for features_NDhw, size in self._features(network, self._pool, indices):
            seeds = [derive_seed(seed, f"dropout {index}") for index in positions[start : start + len(features_NDhw)]]
            generators = [torch.Generator().manual_seed(image_seed) for image_seed in seeds]
            start += len(features_NDhw)
            for sample_scores in scores_by_sample:
                shape = features_NDhw.shape[1:]
                draws_NDhw = torch.stack([torch.rand(shape, generator=generator) for generator in generators])
                mask_NDhw = (draws_NDhw >= network.dropout.p).to(self._device)
                dropped_NDhw = features_NDhw * mask_NDhw / (1 - network.dropout.p)
                sample_scores.append(take_lattice(network.logits(dropped_NDhw, size)).softmax(1))
        return map(to_predictions, scores_by_sample)

    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the input of the last layer, averaged over places."""
        batches = self._features(cast_model(model, Segmenter), self._pool, indices)
        return torch.cat([features_NDhw.mean((2, 3)) for features_NDhw, _ in batches])

    def labels(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, h, w) uint8: the classes at the lattice places; 255 for ignored pixels and outside a smaller image."""
        self._require_labels(indices)
        return pad_maps([take_lattice(pairs_N4HW[:, 3]) for pairs_N4HW in self._read_pairs(self._pool, indices)])

    @torch.no_grad()
    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output on the stage maps."""
        network = cast_model(model, Segmenter)
        assert network.companion is not None, "the model was fitted without a companion"
        outputs = [
            network.companion(network.features(self._normalise_images(pairs_N4HW))[1])
            for pairs_N4HW in self._read_pairs(self._pool, indices)
        ]
        return torch.cat(outputs)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Returns the last layer's kernel without its bias, as ISAL uses the last layers of detectors."""
        return {name: weight for name, weight in model.named_parameters() if name == "head.weight"}

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float = 0.0) -> Tensor:
        """(N, h, w) uint8: the most likely class at each lattice place; 255 outside a smaller image.

        Every place has a pseudo-label: `min_score` applies to boxes only.

        Raises:
            ValueError: k is not 1.
        """
        if k != 1:
            raise ValueError(f"k={k}: a segmenter's pseudo-labels have one class per pixel: set k=1")
        return pad_maps([logits_NChw.argmax(1).byte() for logits_NChw in self._lattice_logits(model, indices)])

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,): mean cross-entropies over the labelled pixels of each image (0 without any), differentiable in
        `weights`.

        With `targets`, (N, h, w) classes of the lattice places, the mean is over these places.
        """
        if targets is None and not test:
            self._require_labels(indices)
        network, split, parts = cast_model(model, Segmenter), self._test if test else self._pool, list[Tensor]()
        assert targets is None or isinstance(targets, Tensor), "a segmenter's targets are a tensor"
        for part, pairs_N4HW in self._read_numbered_pairs(split, indices):
            batch_targets = None if targets is None else targets[part]
            parts.append(self._losses(network, pairs_N4HW, batch_targets))
        return torch.cat(parts)

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): exact derivatives of the losses along `direction`.

        The logits are linear in the last layer's weights, so backpropagation stops at the last layer.
        """
        assert isinstance(targets, Tensor), "a segmenter's targets are a tensor"
        network, parts = cast_model(model, Segmenter), list[Tensor]()
        layers = DirectionLayers(network, direction)
        for part, pairs_N4HW in self._read_numbered_pairs(self._pool, indices):
            strength_N = network.head.weight.new_zeros(len(pairs_N4HW), requires_grad=True)
            with layers.inject_tangents(strength_N):
                total = self._losses(network, pairs_N4HW, targets[part]).sum()
            parts.append(torch.autograd.grad(total, strength_N)[0])
        return torch.cat(parts)

    # --- internal --------------------------------------------------------------------------------
    def _build_network(self, seed: int, companion: Companion | None) -> Segmenter:
        """Builds a fresh network. A companion does not change its initial weights."""
        with seeded(derive_seed(seed, "network")):
            network = build_segmenter(self._recipe, len(self.classes), self._weights)
        if companion is not None:
            with seeded(derive_seed(seed, "companion")):
                network.attach_companion(companion)
        if self._recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self._device).eval()

    def _read_groups(self, split: Split, groups: Sequence[list[int]]) -> Iterator[list[Tensor]]:
        """Yields each group of images with their label maps, read by the machine's worker processes."""
        return read_groups(split, groups, self._machine.workers, pin_memory=self._device.type == "cuda")

    def _read_pairs(self, split: Split, indices: Indices) -> Iterator[Tensor]:
        """Yields images with their label maps, (N, 4, H, W) uint8, in order, in batches of equal image size."""
        positions = np.asarray(indices).tolist()
        groups = [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]
        for group in activity.track(self._read_groups(split, groups), "going through images", "batches", len(groups)):
            for shape, pairs in groupby(group, key=lambda pair_4HW: pair_4HW.shape):
                on_device = torch.stack([move(pair, self._device) for pair in pairs])
                yield from on_device.split(max(1, self._num_pixels // math.prod(shape[1:])))

    def _read_numbered_pairs(self, split: Split, indices: Indices) -> Iterator[tuple[slice, Tensor]]:
        """Yields the batches of `_read_pairs`, each with the slice of `indices` that it holds."""
        start = 0
        for pairs_N4HW in self._read_pairs(split, indices):
            yield slice(start, start + len(pairs_N4HW)), pairs_N4HW
            start += len(pairs_N4HW)

    def _normalise_images(self, pairs_N4HW: Tensor) -> Tensor:
        """(N, 3, H, W): the images of a batch, normalised."""
        return to_memory_format(normalise(pairs_N4HW[:, :3].float()), self._recipe)

    def _features(self, network: Segmenter, split: Split, indices: Indices) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yields the input of the last layer and the size of the images, batch by batch."""
        for pairs_N4HW in self._read_pairs(split, indices):
            yield network.features(self._normalise_images(pairs_N4HW))[0], (pairs_N4HW.shape[2], pairs_N4HW.shape[3])

    @torch.no_grad()
    def _lattice_logits(self, model: nn.Module, indices: Indices) -> Iterator[Tensor]:
        """Yields the logits of pool images at the lattice places, (N, C, h, w), batch by batch."""
        network = cast_model(model, Segmenter)
        for features_NDhw, size in self._features(network, self._pool, indices):
            yield take_lattice(network.logits(features_NDhw, size))

    def _losses(self, network: Segmenter, pairs_N4HW: Tensor, targets_Nhw: Tensor | None) -> Tensor:
        """(N,): the losses of one batch."""
        with torch.no_grad():
            features_NDhw, _ = network.features(self._normalise_images(pairs_N4HW))
        logits_NCHW = network.logits(features_NDhw, (pairs_N4HW.shape[2], pairs_N4HW.shape[3]))
        maps_NHW = pairs_N4HW[:, 3]
        if targets_Nhw is not None:
            logits_NCHW = take_lattice(logits_NCHW)
            maps_NHW = targets_Nhw[:, : logits_NCHW.shape[2], : logits_NCHW.shape[3]]
        sum_N, num_N = cross_entropy(logits_NCHW, maps_NHW)
        return sum_N / num_N.clamp(min=1)


def by_size(images: Images, device: torch.device) -> Indices:
    """The positions of all images; on a GPU, where small batches waste most of the time, those of one size together."""
    sizes_N2 = stored_sizes(images) if device.type == "cuda" else None
    order_N: Indices = np.arange(len(images)) if sizes_N2 is None else np.lexsort(sizes_N2.T)
    return order_N


def lattice_stride(height: int, width: int) -> int:
    """The number of pixels between neighbouring lattice places of an image of this size."""
    return next(s for s in count(1) if len(lattice_places(height, s)) * len(lattice_places(width, s)) <= MAX_PLACES)


def lattice_places(length: int, step: int) -> range:
    """The lattice coordinates along one side."""
    return range(min(step, length) // 2, length, step)


def take_lattice(values: Tensor) -> Tensor:
    """(..., h, w): the values at the lattice places, from (..., H, W)."""
    height, width = values.shape[-2:]
    step = lattice_stride(height, width)
    return values[..., lattice_places(height, step).start :: step, lattice_places(width, step).start :: step]


def pad_maps(maps: Sequence[Tensor]) -> Tensor:
    """(N, h, w): concatenates batches of maps; smaller maps are padded with 255 on the right and below."""
    height, width = (max(batch.shape[axis] for batch in maps) for axis in (1, 2))
    sides = [(0, width - batch.shape[2], 0, height - batch.shape[1]) for batch in maps]
    return torch.cat([F.pad(batch, pad, value=IGNORE_INDEX) for batch, pad in zip(maps, sides, strict=True)])


def to_predictions(scores: Sequence[Tensor]) -> Predictions:
    """Predictions from the probabilities of each batch, (N, C, h, w)."""
    scores_PC = torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in scores])
    places = torch.tensor([part.shape[2] * part.shape[3] for part in scores for _ in part], device=scores_PC.device)
    image_P = torch.arange(len(places), device=scores_PC.device).repeat_interleave(places)
    return Predictions(scores_PC, image_P, len(places))
