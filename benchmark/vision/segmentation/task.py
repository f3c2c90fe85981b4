"""Semantic segmentation as an active-learning task: images and their label maps are read when they are needed.

Shapes: N images, H x W pixels, h x w places of the lattice (or, of features, of the last layer), P predictions,
C classes, D features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
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
    Indices,
    Machine,
    Predictions,
    Scores,
    Targets,
    activity,
    scores_by_class,
    seeded,
)
from benchmark.vision.data.annotations import image_scans
from benchmark.vision.data.label_maps import IGNORE_INDEX, ScrambledMaps, Split, check_has_labels
from benchmark.vision.data.reading import read_groups
from benchmark.vision.data.sources import report_sources
from benchmark.vision.directional import DirectionLayers
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import suits_channels_last
from benchmark.vision.segmentation.networks import Segmenter, build_segmenter
from benchmark.vision.segmentation.recipe import SegmenterRecipe
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
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 canvases of 64x64; on a GPU four images of 1024x2048
MAX_PLACES = 1024  # predictions an image, at most


class Segmentation(VisionTask[Segmenter]):
    """A pool of images with a label map each, a test set and a recipe. Its public methods are the task's capabilities.

    `miou`, its metric, is the mean over the classes that occur in the test set of their intersection over union, in per
    cent, from one confusion matrix of all its labelled pixels. Pixels of label 255 are neither trained on nor scored. A
    background class, where there is one, is a class as any other.

    What strategies see of an image's pixels is a lattice of places: every s-th pixel of every s-th row from s // 2 on,
    with the smallest s that leaves at most PLACES of them. Predictions, pseudo labels and labels are of these places,
    by rows of the image, so memory grows with the pool and not with its pixels. Images may differ in size.
    """

    metric = MEAN_IOU

    def __init__(
        self, machine: Machine, recipe: SegmenterRecipe, pool: Split, test: Split, classes: Sequence[str],
        root: Path | None = None,
    ) -> None:  # fmt: skip
        assert len(classes) <= IGNORE_INDEX
        check_has_labels(pool, test)
        self.num_pool, self.classes = len(pool), classes
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights)
        self._pool, self._test = pool, test
        network = self.model()  # whatever is wrong with the recipe is said now
        self._uses_batch_statistics = uses_batch_statistics(network)
        if not suits_channels_last(network, self._device):
            self._recipe = replace(recipe, channels_last=False)
        self._size = (pool.images[0].shape[1], pool.images[0].shape[2])
        self._num_pixels = PIXELS_PER_BATCH[machine.device.type]
        self.batch_size = max(1, self._num_pixels // math.prod(self._size))
        self._encoder_pool = encoder_pool(pool.images, machine)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, pool.images.fingerprint, machine)
        self.fingerprint = digest(pool.fingerprint, test.fingerprint, *classes, self._weights)
        self._sources = report_sources(image_scans(pool.images), image_scans(test.images), root)

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> Segmenter:
        """A network trained on the set `labelled`. Raises ValueError where training diverges."""
        which, recipe = np.sort(labelled), self._recipe
        if len(which) < 2 and recipe.model.startswith("deeplabv3"):
            raise ValueError(f"model={recipe.model}: cannot learn from one image: set initial=2 or more")
        network = self._build_network(seed, companion)
        checkpoint = self._checkpoint_path(which, seed, companion)

        def prepare(steps: Sequence[Step]) -> Iterator[Batch]:
            groups = [which[step.positions].tolist() for step in steps]
            for step, pairs in zip(steps, self._read_groups(self._pool, groups), strict=True):
                yield augment_batch(pairs, step.draws_N4, recipe, self._device)

        train_segmenter(network, len(which), prepare, recipe, companion, derive_seed(seed, "training"), checkpoint)
        return network

    @torch.no_grad()
    def score(self, model: nn.Module) -> Scores:
        """miou, and pixel_accuracy, the share of labelled pixels that are right, both in per cent of the test set; how
        many classes are predicted there, and how many there are. `iou` of each class."""
        num_classes, network = len(self.classes), cast_model(model, Segmenter)
        total_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self._device)
        for pairs_N4HW in self._read_pairs(self._test, np.arange(self.num_test())):
            found_NHW = network(self._normalise_images(pairs_N4HW)).argmax(1)
            total_CC += confusion_matrix(found_NHW, pairs_N4HW[:, 3], num_classes)
        return segmentation_scores(total_CC, self.classes)

    def cost(self, indices: Indices) -> dict[str, float]:
        """One label map an image."""
        return {"images": float(len(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Segmentation:
        """The same images, the labels of the pool's pixels but for those of `paid`, and with `test` the test set's,
        uniformly random."""
        other, none, num_classes = copy.copy(self), frozenset[int](), len(self.classes)
        seeds, kept = [derive_seed(seed, name) for name in ("pool", "test")], frozenset(np.asarray(paid).tolist())
        other._pool = Split(self._pool.images, ScrambledMaps(self._pool.maps, kept, num_classes, seeds[0]))
        if test:
            other._test = Split(self._test.images, ScrambledMaps(self._test.maps, none, num_classes, seeds[1]))
        other.fingerprint = digest(self.fingerprint, np.sort(paid), seed, test)
        return other

    # --- for pictures of a run that is through ---------------------------------------------------
    def annotations(self) -> Annotations:
        """The classes of each image of the pool, and the root of the area of each."""
        rows = [[number] for number in range(self.num_pool)]
        maps = read_groups(self._pool.maps, rows, self._machine.workers)
        counts_NC = np.stack([np.bincount(one.numpy().ravel(), minlength=IGNORE_INDEX + 1) for [one] in maps])
        image_L, class_L = counts_NC[:, : len(self.classes)].nonzero()
        return Annotations(self.classes, image_L, class_L, np.sqrt(counts_NC[image_L, class_L]).astype(np.float32))

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """(N, side, side, 3) pool images, shrunk to fit and padded with white, and no boxes."""
        return thumbnails(self._pool.images, indices, side)[0], []

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """(P, C) probabilities, one prediction a place of the lattice, image by image."""
        return to_predictions([logits_NChw.softmax(1) for logits_NChw in self._lattice_logits(model, indices)])

    @torch.no_grad()
    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Monte Carlo dropout (Gal & Ghahramani, 2016) on the last layer's input; the rest of the network runs once,
        and all samples are held at once. The masks of an image are its own, whatever it is asked with."""
        network, rows, begin = cast_model(model, Segmenter), np.asarray(indices).tolist(), 0
        drawn: list[list[Tensor]] = [[] for _ in range(num_samples)]
        for features_NDhw, size in self._features(network, self._pool, indices):
            seeds = [derive_seed(seed, f"dropout {index}") for index in rows[begin : begin + len(features_NDhw)]]
            masks, begin = [torch.Generator().manual_seed(one) for one in seeds], begin + len(features_NDhw)
            for sample in drawn:
                shape = features_NDhw.shape[1:]
                kept_NDhw = torch.stack([torch.rand(shape, generator=mask) for mask in masks]) >= network.dropout.p
                dropped_NDhw = features_NDhw * kept_NDhw.to(self._device) / (1 - network.dropout.p)
                sample.append(take_lattice(network.logits(dropped_NDhw, size)).softmax(1))
        return map(to_predictions, drawn)

    @torch.no_grad()
    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the input of the last layer, averaged over places."""
        return torch.cat(
            [features.mean((2, 3)) for features, _ in self._features(cast_model(model, Segmenter), self._pool, indices)]
        )

    def labels(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, h, w) uint8: the classes of the places of the lattice, 255 where ignored or outside a smaller image."""
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
        """The last layer's kernel, as ISAL takes the last layers of detectors. No bias."""
        return {name: weight for name, weight in model.named_parameters() if name == "head.weight"}

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float = 0.0) -> Tensor:
        """(N, h, w) uint8: the likeliest class of each place of the lattice, 255 outside a smaller image. ValueError
        unless k = 1.

        Every place has its guess: `min_score` is for boxes.
        """
        if k != 1:
            raise ValueError(f"k={k}: a segmenter's pseudo labels are one class a place, k=1")
        return pad_maps([logits_NChw.argmax(1).byte() for logits_NChw in self._lattice_logits(model, indices)])

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) mean cross-entropies over the labelled pixels of an image, 0 where it has none; differentiable in
        `weights`. `targets`: (N, h, w) classes of the places of the lattice, over which the mean is then."""
        network, split, parts = cast_model(model, Segmenter), self._test if test else self._pool, list[Tensor]()
        assert targets is None or isinstance(targets, Tensor), "a segmenter's targets are a tensor"
        for part, pairs_N4HW in self._read_numbered_pairs(split, indices):
            goals = None if targets is None else targets[part]
            parts.append(self._losses(network, pairs_N4HW, goals))
        return torch.cat(parts)

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,) derivatives of the losses along `direction`, exact: the logits are linear in the last layer's weights,
        so their tangent is that of the layer with the direction for its weights; no gradient passes further back."""
        assert isinstance(targets, Tensor), "a segmenter's targets are a tensor"
        network, parts = cast_model(model, Segmenter), list[Tensor]()
        layers = DirectionLayers(network, direction)
        for part, pairs_N4HW in self._read_numbered_pairs(self._pool, indices):
            strength_N = network.head.weight.new_zeros(len(pairs_N4HW), requires_grad=True)
            with layers.inject_tangents(strength_N):
                total = self._losses(network, pairs_N4HW, targets[part]).sum()
            parts.append(torch.autograd.grad(total, strength_N)[0])
        return torch.cat(parts)

    # --- inside ----------------------------------------------------------------------------------
    def _build_network(self, seed: int, companion: Companion | None) -> Segmenter:
        """A fresh network; a companion does not change what it starts from."""
        with seeded(derive_seed(seed, "network")):
            network = build_segmenter(self._recipe, len(self.classes), self._weights)
        if companion is not None:
            with seeded(derive_seed(seed, "companion")):
                network.attach_companion(companion)
        if self._recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self._device).eval()

    def _read_groups(self, split: Split, groups: Sequence[list[int]]) -> Iterator[list[Tensor]]:
        """Each group of images with their label maps, read by the machine's workers."""
        return read_groups(split, groups, self._machine.workers, pin_memory=self._device.type == "cuda")

    def _read_pairs(self, split: Split, indices: Indices) -> Iterator[Tensor]:
        """(N, 4, H, W) uint8 each: images with their label maps, in order, a batch of one size at a time."""
        rows = np.asarray(indices).tolist()
        groups = [rows[begin : begin + self.batch_size] for begin in range(0, len(rows), self.batch_size)]
        for group in activity.track(self._read_groups(split, groups), "going through images", "batches", len(groups)):
            for shape, same in groupby(group, key=lambda pair_4HW: pair_4HW.shape):
                for part in torch.stack(list(same)).split(max(1, self._num_pixels // math.prod(shape[1:]))):
                    yield part.to(self._device, non_blocking=True)

    def _read_numbered_pairs(self, split: Split, indices: Indices) -> Iterator[tuple[slice, Tensor]]:
        """The batches of `_pairs`, and which of the images each holds."""
        begin = 0
        for pairs_N4HW in self._read_pairs(split, indices):
            yield slice(begin, begin + len(pairs_N4HW)), pairs_N4HW
            begin += len(pairs_N4HW)

    def _normalise_images(self, pairs_N4HW: Tensor) -> Tensor:
        """(N, 3, H, W): normalised."""
        return to_memory_format(normalise(pairs_N4HW[:, :3].float()), self._recipe)

    def _features(self, network: Segmenter, split: Split, indices: Indices) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """The inputs of the last layer, batch by batch, and the size of the images."""
        for pairs_N4HW in self._read_pairs(split, indices):
            yield network.features(self._normalise_images(pairs_N4HW))[0], (pairs_N4HW.shape[2], pairs_N4HW.shape[3])

    @torch.no_grad()
    def _lattice_logits(self, model: nn.Module, indices: Indices) -> Iterator[Tensor]:
        """(N, C, h, w) logits of the lattice of pool images, batch by batch."""
        network = cast_model(model, Segmenter)
        for features_NDhw, size in self._features(network, self._pool, indices):
            yield take_lattice(network.logits(features_NDhw, size))

    def _losses(self, network: Segmenter, pairs_N4HW: Tensor, targets_Nhw: Tensor | None) -> Tensor:
        """(N,) losses of one batch."""
        with torch.no_grad():
            features_NDhw, _ = network.features(self._normalise_images(pairs_N4HW))
        logits_NCHW = network.logits(features_NDhw, (pairs_N4HW.shape[2], pairs_N4HW.shape[3]))
        maps_NHW = pairs_N4HW[:, 3]
        if targets_Nhw is not None:
            logits_NCHW = take_lattice(logits_NCHW)
            maps_NHW = targets_Nhw[:, : logits_NCHW.shape[2], : logits_NCHW.shape[3]]
        sum_N, num_N = cross_entropy(logits_NCHW, maps_NHW)
        return sum_N / num_N.clamp(min=1)


def lattice_stride(height: int, width: int) -> int:
    """Pixels between the places of the lattice of such an image."""
    return next(s for s in count(1) if len(lattice_places(height, s)) * len(lattice_places(width, s)) <= MAX_PLACES)


def lattice_places(length: int, step: int) -> range:
    """Those of the lattice along one side."""
    return range(min(step, length) // 2, length, step)


def take_lattice(values: Tensor) -> Tensor:
    """(..., h, w): those of the places, from (..., H, W)."""
    height, width = values.shape[-2:]
    step = lattice_stride(height, width)
    return values[..., lattice_places(height, step).start :: step, lattice_places(width, step).start :: step]


def pad_maps(maps: Sequence[Tensor]) -> Tensor:
    """(N, h, w): batches of maps, (N, h, w) each, one after the other, with 255 on the right and below smaller ones."""
    height, width = (max(one.shape[axis] for one in maps) for axis in (1, 2))
    return torch.cat(
        [F.pad(one, (0, width - one.shape[2], 0, height - one.shape[1]), value=IGNORE_INDEX) for one in maps]
    )


def to_predictions(scores: Sequence[Tensor]) -> Predictions:
    """From the probabilities of each batch, (N, C, h, w)."""
    rows_PC = torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in scores])
    places = torch.tensor([part.shape[2] * part.shape[3] for part in scores for _ in part], device=rows_PC.device)
    image_P = torch.arange(len(places), device=rows_PC.device).repeat_interleave(places)
    return Predictions(rows_PC, image_P, len(places))


def confusion_matrix(predicted_NHW: Tensor, maps_NHW: Tensor, num_classes: int) -> Tensor:
    """(C, C): how many labelled pixels of each class (rows) were found to be of each class (columns)."""
    known_NHW = maps_NHW != IGNORE_INDEX
    pair_P = maps_NHW[known_NHW].long() * num_classes + predicted_NHW[known_NHW]
    return pair_P.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_scores(confusion_CC: Tensor, classes: Sequence[str]) -> Scores:
    """miou and pixel_accuracy in per cent, and how many classes are predicted and there; iou of each class. ValueError
    where no pixel is labelled."""
    counts_CC = confusion_CC.double()
    right_C, true_C, found_C = counts_CC.diagonal(), counts_CC.sum(1), counts_CC.sum(0)
    there_C = true_C > 0
    if not there_C.any():
        raise ValueError("no pixel of the test set is labelled: there is nothing to score")
    iou_C = right_C[there_C] / (true_C + found_C - right_C)[there_C]
    named = [name for name, there in zip(classes, there_C.tolist(), strict=True) if there]
    values = {
        "miou": 100.0 * iou_C.mean().item(),
        "pixel_accuracy": 100.0 * (right_C.sum() / true_C.sum()).item(),
        "num_predicted_classes": float((found_C > 0).sum().item()),
        "num_test_classes": float(there_C.sum().item()),
    }
    return Scores(values, {"iou": scores_by_class(named, (100.0 * iou_C).tolist())})
