"""Image classification as an active-learning task. The pool and the test images are kept on the device.

Shapes: N images, K channels (1 or 3), H x W pixels, C classes, D features.
"""

from __future__ import annotations

import copy
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from benchmark.api import (
    ACCURACY,
    Annotations,
    BatchSizes,
    Companion,
    Direction,
    ImageLabel,
    Indices,
    Machine,
    Predictions,
    Scores,
    Targets,
    activity,
    encoder_identity,
    seeded,
)
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.scores import accuracy_scores
from benchmark.vision.classification.training import LabelledSet, train_classifier
from benchmark.vision.data.decoded_images import load_images
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.image_checks import ImageScan
from benchmark.vision.data.image_files import Exif
from benchmark.vision.directional import DirectionLayers
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import ClassificationNetwork
from benchmark.vision.task import VisionTask, cast_model
from benchmark.vision.training import in_precision
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = 2**18  # 256 images of 32x32
NO_LABEL = -1  # stands for the class of an image that came without a label


@dataclass(frozen=True)
class Split:
    """Labelled images in memory.

    Args:
        images_NKHW: uint8, with one or three channels.
        labels_N: classes 0..C-1.
        scans: (N,) the results of reading the images' files; empty for images without files.
        exif: how photographs among the files were turned.
    """

    images_NKHW: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]
    scans: Sequence[ImageScan] = ()
    exif: Exif = "turn"

    @classmethod
    def from_files(cls, paths: Sequence[Path], labels: Sequence[int], size: int, exif: Exif) -> Split:
        """Reads images from files.

        Args:
            paths: files of the images.
            labels: class of each image.
            size: images are resized to `size` x `size` pixels in RGB, whatever their aspect ratio.
            exif: whether photographs are turned as their EXIF tags say; see `decoded_images.load_images`.
        """
        images_N3HW, scans = load_images(paths, size, exif)
        return cls(images_N3HW, np.array(labels, np.int64), scans, exif)

    def select(self, indices: Indices) -> Split:
        """The images at these positions."""
        scans = [self.scans[i] for i in indices.tolist()]
        return replace(self, images_NKHW=self.images_NKHW[indices], labels_N=self.labels_N[indices], scans=scans)

    def to_device(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The images and the labels as tensors on a device."""
        images_NKHW = torch.from_numpy(np.ascontiguousarray(self.images_NKHW))
        return images_NKHW.to(device), torch.from_numpy(self.labels_N).to(device)


class Classification(VisionTask[ClassificationNetwork]):
    """A classification task: a pool of images, a test set, and a recipe for the network. Its arguments are those of
    `build_task`.

    The public methods implement `Task` and the capabilities of `benchmark.contract.capabilities`, which describes their
    arguments. A subclass defines the network and its inputs; `build.build_task` chooses the subclass.

    `predict`, `embed`, `score` and `directional` run in the recipe's precision, but the last layer, the softmax and the
    losses always run in float32. Models passed to the methods must be in eval mode and are not changed.
    """

    metric = ACCURACY

    def __init__(
        self, machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        for name, split, purpose in (("pool", pool, "learn from"), ("test set", test, "score")):
            if not len(split.labels_N):
                raise ValueError(f"the {name} has no image: there is nothing to {purpose}")
        self.num_pool, self.num_classes = len(pool.labels_N), num_classes
        self.classes = classes or [str(number) for number in range(num_classes)]
        self.batch_size = max(16, PIXELS_PER_BATCH // (pool.images_NKHW.shape[2] * pool.images_NKHW.shape[3]))
        self._machine, self._recipe, self._device = machine, recipe, machine.device
        self._weights = weights_file(machine, recipe.weights) or recipe.weights
        self._images, self._labels = pool.to_device(machine.device)
        self._test_images, self._test_labels = test.to_device(machine.device)
        self._inputs, self._test_inputs = (
            self._images,
            self._test_images,
        )  # what the network takes, before `_prepare_inputs`
        self._memo: tuple[Callable[[], nn.Module | None], Indices, tuple[Tensor, Tensor]] | None = None
        self._encoder_pool = InMemoryPool(self._images)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, digest(pool.images_NKHW), machine)
        parts = [pool.images_NKHW, pool.labels_N, test.images_NKHW, test.labels_N, self._weights]
        encoders = [] if recipe.encoder is None else [encoder_identity(recipe.encoder, machine)]
        self.fingerprint = digest(*parts, *encoders)
        self._sources, self._exif = report_sources(pool.scans, test.scans, root), pool.exif

    @abstractmethod
    def _prepare_inputs(self, inputs: Tensor) -> Tensor:
        """Converts a batch of `_inputs` or `_test_inputs` to what the network takes."""

    @abstractmethod
    def _labelled_set(self, positions_N: Tensor) -> LabelledSet:
        """The images at these positions in the pool, as training takes them."""

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> ClassificationNetwork:
        """Trains a network on labelled images.

        Raises:
            ValueError: training diverges.
        """
        self._require_labels(labelled)
        network = self._build_network(seed, companion)
        positions_N = torch.from_numpy(np.sort(labelled)).to(self._device)
        checkpoint = self._checkpoint_path(np.sort(labelled), seed, companion)
        with seeded(derive_seed(seed, "dropout")):
            train_classifier(network, self._labelled_set(positions_N), self._recipe, companion, seed, checkpoint)
        return network

    def score(self, model: nn.Module) -> Scores:
        """Scores a model on the test set.

        Returns:
            `accuracy` in per cent, also of each class; `balanced_accuracy`, its mean over the classes; `nll`, the mean
            negative log-likelihood in nats; the number of classes that the model predicts, and of those in the test
            set.
        """
        logits_NC, _ = self._forward(model, self._test_inputs, self._split_indices(np.arange(self.num_test())))
        nll = F.cross_entropy(logits_NC, self._test_labels)
        accuracies = accuracy_scores(logits_NC.argmax(1), self._test_labels, self.classes)
        return Scores({**accuracies, "nll": nll.item()}, accuracies.by_class)

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """Returns the batch sizes of a fit on so many images; None without batch normalisation."""
        sizes = super().batch_sizes(num_images)
        return replace(sizes, smallest=sizes.intended) if sizes and self._recipe.drop_last else sizes

    def cost(self, indices: Indices) -> dict[str, float]:
        """Counts one label per image."""
        return {"images": float(len(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test_labels)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Self:
        """Returns a copy of the task in which images outside `paid` have uniformly random labels.

        The test set is scrambled too, unless `test` is False.
        """
        scrambled_task, rng = copy.copy(self), np.random.default_rng(seed)
        pool, tests = (rng.integers(0, self.num_classes, n) for n in (self.num_pool, self.num_test()))
        pool[paid] = self._labels.cpu().numpy()[paid]
        scrambled_task._labels = torch.from_numpy(pool).to(self._device)
        if test:
            scrambled_task._test_labels = torch.from_numpy(tests).to(self._device)
        scrambled_task.fingerprint, scrambled_task._memo = digest(self.fingerprint, pool, tests if test else ""), None
        return scrambled_task

    def with_images(self, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> Classification:
        """Returns a copy of the task with more images at the end of its pool; see `ExtendsPool`."""
        _, num_channels, height, width = self._images.shape
        if num_channels != 3 or height != width:
            raise ValueError(
                f"files are read as square images in RGB, but this task's are {height} x {width} with {num_channels} "
                "channel(s): take a task that reads files, such as image_folder"
            )
        if not all(isinstance(label, int) for label in labels.values()):
            raise ValueError("boxes cannot be labels of a classifier, whose images have one class each")
        values = [label if isinstance(label := labels.get(i), int) else NO_LABEL for i in range(len(paths))]
        added = Split.from_files(paths, values, height, self._exif)
        pool = Split(
            np.concatenate([self._images.cpu().numpy(), added.images_NKHW]),
            np.concatenate([self._labels.cpu().numpy(), added.labels_N]),
            exif=self._exif,
        )
        test = Split(self._test_images.cpu().numpy(), self._test_labels.cpu().numpy())
        extended = type(self)(self._machine, self._recipe, pool, test, self.num_classes, self.classes)
        extended._unlabelled = np.flatnonzero(pool.labels_N == NO_LABEL)
        extended._sources = replace(self._sources, pool=[*self._sources.pool, *added.scans])
        return extended

    # --- for figures of a finished run -----------------------------------------------------------
    def annotations(self) -> Annotations:
        """Returns the class of each pool image."""
        self._require_labels(np.arange(self.num_pool))
        return Annotations(self.classes, np.arange(self.num_pool), self._labels.cpu().numpy())

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """Returns pool images for figures: (N, H, W, 3), at most `side` pixels high and wide, and no boxes."""
        images_NKHW = self._images[torch.from_numpy(indices).to(self._device)].float()
        scale = min(1.0, side / max(images_NKHW.shape[2:]))
        if scale < 1:
            images_NKHW = F.interpolate(images_NKHW, scale_factor=scale, mode="area")
        images_N3HW = images_NKHW.round().to(torch.uint8).expand(-1, 3, -1, -1)
        return images_N3HW.permute(0, 2, 3, 1).cpu().numpy(), []

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """(N, C): probabilities, one prediction per image."""
        return to_predictions(self._pool_outputs(model, indices)[0])

    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the input of the last layer."""
        return self._pool_outputs(model, indices)[1]

    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Yields predictions with Monte Carlo dropout on the last layer's input; the rest of the network runs once.

        References:
            Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016.
        """
        _, features_ND = self._pool_outputs(model, indices)
        generator, network = torch.Generator().manual_seed(seed), cast_model(model, ClassificationNetwork)
        for _ in range(num_samples):
            kept_mask_ND = torch.rand(features_ND.shape, generator=generator) >= network.dropout.p
            with torch.no_grad():
                dropped_ND = features_ND * kept_mask_ND.to(self._device) / (1 - network.dropout.p)
                yield to_predictions(network.head(dropped_ND))

    def classify(self, model: nn.Module, features_ND: Tensor) -> Tensor:
        """(N, C): the last layer's outputs, in float32."""
        return cast_model(model, ClassificationNetwork).logits(features_ND)

    def labels(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the classes of images."""
        self._require_labels(indices)
        return self._labels[torch.from_numpy(np.array(indices)).to(self._device)]

    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output."""
        network = cast_model(model, ClassificationNetwork)
        assert network.companion is not None, "the model was fitted without a companion"
        outputs = []
        for positions_N in activity.track(self._split_indices(indices), "going through images", "batches"):
            with torch.no_grad():
                with in_precision(self._recipe.precision, self._device):
                    _, maps = network.features(self._prepare_inputs(self._inputs[positions_N]))
                outputs.append(network.companion(maps))
        return torch.cat(outputs)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Returns the weights that ISAL uses: kernels and matrices, without biases, normalisation parameters and the
        companion."""
        return {n: p for n, p in model.named_parameters() if p.ndim != 1 and not n.startswith("companion.")}

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float = 0.0) -> Tensor:
        """(N, C): soft targets from the model's predictions.

        For k = 1 the target is one at the most likely class; otherwise it holds the k largest probabilities, not
        renormalised. Every image has a pseudo-label: `min_score` applies to boxes only.

        Raises:
            ValueError: k is not between 1 and the number of classes.
        """
        if not 1 <= k <= self.num_classes:
            raise ValueError(f"k={k}: must be in 1..{self.num_classes}, the number of classes")
        top_Nk = self.predict(model, indices).scores_PC.topk(k)
        values_Nk = torch.ones_like(top_Nk.values) if k == 1 else top_Nk.values
        return torch.zeros(len(indices), self.num_classes, device=self._device).scatter(1, top_Nk.indices, values_Nk)

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,): cross-entropies in float32, differentiable in the weights.

        `targets` are (N,) classes or (N, C) weights of the classes.
        """
        if targets is None and not test:
            self._require_labels(indices)
        inputs, labels = (self._test_inputs, self._test_labels) if test else (self._inputs, self._labels)
        positions_N = torch.from_numpy(np.array(indices)).to(self._device)
        batch_targets = labels[positions_N] if targets is None else targets
        assert isinstance(batch_targets, Tensor), "a classifier's targets are a tensor"
        return cross_entropy(model(self._prepare_inputs(inputs[positions_N])), batch_targets)

    def row_losses(self, model: nn.Module, indices: Indices) -> Callable[[Tensor], Tensor]:
        """Returns a function of rows of `indices` like `losses`; see `KeepsImagesOnDevice`."""
        self._require_labels(indices)
        positions_N = torch.from_numpy(np.array(indices)).to(self._device)
        inputs, labels_N = self._inputs[positions_N], self._labels[positions_N]
        return lambda rows_N: cross_entropy(model(self._prepare_inputs(inputs[rows_N])), labels_N[rows_N])

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): derivatives of the losses along `direction`, with the backbone in the recipe's precision; see
        `directional`.

        A network with weights outside plain convolutions and linear layers uses Jacobian-vector products in float32.
        """
        assert isinstance(targets, Tensor), "a classifier's targets are a tensor"
        network, parts = cast_model(model, ClassificationNetwork), []
        layers = DirectionLayers(network, direction)
        batches = activity.track(self._split_indices(indices), "going through images", "batches")
        for positions_N, batch_targets in zip(batches, targets.split(self.batch_size), strict=True):
            inputs = self._prepare_inputs(self._inputs[positions_N])
            part_N = self._batch_derivatives(network, layers, inputs, batch_targets) if layers.are_supported else None
            parts.append(jvp_derivatives(model, inputs, batch_targets, direction) if part_N is None else part_N)
        return torch.cat(parts)

    def _batch_derivatives(
        self, network: ClassificationNetwork, layers: DirectionLayers, inputs: Tensor, targets: Tensor
    ) -> Tensor | None:
        """The derivatives of one batch; None if the pass did not call every layer."""
        strength_N = network.head.weight.new_zeros(len(targets), requires_grad=True)
        with layers.inject_tangents(strength_N):
            with in_precision(self._recipe.precision, self._device):
                features_ND, _ = network.features(inputs)
            total = cross_entropy(network.logits(features_ND), targets).sum()
        return torch.autograd.grad(total, strength_N)[0] if layers.were_all_called else None

    # --- internal --------------------------------------------------------------------------------
    def _split_indices(self, indices: Indices) -> list[Tensor]:
        """The indices in batches of `batch_size`, on the device."""
        return list(torch.from_numpy(np.array(indices)).to(self._device).split(self.batch_size))

    def _pool_outputs(self, model: nn.Module, indices: Indices) -> tuple[Tensor, Tensor]:
        """The (N, C) logits and (N, D) features of pool images. Those of the last call are cached."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            outputs = self._forward(model, self._inputs, self._split_indices(indices))
            self._memo = (weakref.ref(model), indices.copy(), outputs)
        return self._memo[2]

    @torch.no_grad()
    def _forward(self, model: nn.Module, inputs: Tensor, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """The (N, C) logits and (N, D) features; all but the last layer runs in the recipe's precision."""
        network, parts = cast_model(model, ClassificationNetwork), []
        for positions_N in activity.track(batches, "going through images", "batches"):
            with in_precision(self._recipe.precision, self._device):
                parts.append(network.features(self._prepare_inputs(inputs[positions_N]))[0])
        features_ND = torch.cat(parts)
        return network.logits(features_ND), features_ND


def to_predictions(logits_NC: Tensor) -> Predictions:
    """Predictions from logits, one per image."""
    image_N = torch.arange(len(logits_NC), device=logits_NC.device)
    return Predictions(logits_NC.softmax(1), image_N, len(logits_NC))


def cross_entropy(logits_NC: Tensor, targets: Tensor) -> Tensor:
    """(N,): -sum_c q_c log p_c. Targets are (N,) classes, or (N, C) weights q, which need not sum to one."""
    return F.cross_entropy(logits_NC, targets, reduction="none")


def jvp_derivatives(model: nn.Module, inputs: Tensor, targets: Tensor, direction: Direction) -> Tensor:
    """(N,): the derivatives of the losses along `direction`, from one Jacobian-vector product in float32."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters() if name in direction}
    tangents = {name: direction[name] for name in parameters}

    def losses(weights: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, weights, (inputs,)), targets)

    with torch.no_grad():
        derivatives_N: Tensor = jvp(losses, (parameters,), (tangents,))[1]
    return derivatives_N
