"""Image classification as an active-learning task: the pool and test images live on the device.

Shapes: N images, K channels (1 or 3), H x W pixels, C classes, D features.
"""

from __future__ import annotations

import copy
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Indices,
    Machine,
    Predictions,
    Scores,
    Targets,
    activity,
    encoder_identity,
    scores_by_class,
    seeded,
)
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.training import LabelledSet, train_classifier
from benchmark.vision.data.image_checks import ImageScan, load_images
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.sources import report_sources
from benchmark.vision.directional import DirectionLayers
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import ClassificationNetwork
from benchmark.vision.task import VisionTask, cast_model
from benchmark.vision.training import in_precision
from benchmark.vision.weights import weights_file

PIXELS_PER_BATCH = 2**18  # 256 images of 32x32


@dataclass(frozen=True)
class Split:
    """Labelled images in memory."""

    images_NKHW: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]
    scans: Sequence[ImageScan] = ()  # (N,) what is known of their files, where they are from some

    @classmethod
    def from_files(cls, paths: Sequence[Path], labels: Sequence[int], size: int, exif: Exif) -> Split:
        """Images in files, squashed to `size` x `size` pixels in RGB; see `image_checks.load_images`."""
        images_N3HW, scans = load_images(paths, size, exif)
        return cls(images_N3HW, np.array(labels, np.int64), scans)

    def select(self, indices: Indices) -> Split:
        """These images."""
        return Split(self.images_NKHW[indices], self.labels_N[indices], [self.scans[i] for i in indices.tolist()])

    def to_device(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels on a device."""
        images_NKHW = torch.from_numpy(np.ascontiguousarray(self.images_NKHW))
        return images_NKHW.to(device), torch.from_numpy(self.labels_N).to(device)


class Classification(VisionTask[ClassificationNetwork]):
    """A pool of images, a test set and a recipe. Its public methods are the task's capabilities.

    A subclass says what its network is, and what that takes of each image. `kinds.build_task` chooses the subclass, and
    says what both are built from. `predict`, `embed`, `score` and `directional` run in the recipe's precision; the last
    layer, the softmax and the losses always in float32. A model given to it is one of its own, in eval mode, and does
    not change.
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
        test_images, self._test_labels = test.to_device(machine.device)
        self._inputs, self._test_inputs = self._images, test_images  # what the network takes, before `_prepare_inputs`
        self._memo: tuple[Callable[[], nn.Module | None], Indices, tuple[Tensor, Tensor]] | None = None
        self._encoder_pool = InMemoryPool(self._images)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, digest(pool.images_NKHW), machine)
        parts = [pool.images_NKHW, pool.labels_N, test.images_NKHW, test.labels_N, self._weights]
        encoders = [] if recipe.encoder is None else [encoder_identity(recipe.encoder, machine)]
        self.fingerprint = digest(*parts, *encoders)
        self._sources = report_sources(pool.scans, test.scans, root)

    @abstractmethod
    def _prepare_inputs(self, inputs: Tensor) -> Tensor:
        """A batch of `_inputs` or `_test_inputs`, as the network takes it."""

    @abstractmethod
    def _labelled_set(self, which_N: Tensor) -> LabelledSet:
        """The images of these positions in the pool, as training takes them."""

    # --- training and scoring --------------------------------------------------------------------
    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> ClassificationNetwork:
        """A network trained on the set `labelled`. Raises ValueError where training diverges."""
        network = self._build_network(seed, companion)
        which_N = torch.from_numpy(np.sort(labelled)).to(self._device)
        checkpoint = self._checkpoint_path(np.sort(labelled), seed, companion)
        with seeded(derive_seed(seed, "dropout")):
            train_classifier(network, self._labelled_set(which_N), self._recipe, companion, seed, checkpoint)
        return network

    def score(self, model: nn.Module) -> Scores:
        """accuracy: per cent of the test set, and of the images of each class; balanced_accuracy: the mean over the
        classes; nll: the mean negative log likelihood, in nats; how many classes are predicted, and how many there
        are."""
        logits_NC, _ = self._forward(model, self._test_inputs, self._split_indices(np.arange(self.num_test())))
        nll = F.cross_entropy(logits_NC, self._test_labels)
        found = accuracy_scores(logits_NC.argmax(1), self._test_labels, self.classes)
        return Scores({**found, "nll": nll.item()}, found.by_class)

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """The sizes of the batches of a fit on so many images; None without batch normalisation."""
        sizes = super().batch_sizes(num_images)
        return replace(sizes, smallest=sizes.intended) if sizes and self._recipe.drop_last else sizes

    def cost(self, indices: Indices) -> dict[str, float]:
        """One label an image."""
        return {"images": float(len(indices))}

    def num_test(self) -> int:
        """Number of test images."""
        return len(self._test_labels)

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Self:
        """The same images, the labels of the pool but for `paid`, and with `test` the test set's, uniformly random."""
        other, rng = copy.copy(self), np.random.default_rng(seed)
        pool, tests = (rng.integers(0, self.num_classes, n) for n in (self.num_pool, self.num_test()))
        pool[paid] = self._labels.cpu().numpy()[paid]
        other._labels = torch.from_numpy(pool).to(self._device)
        if test:
            other._test_labels = torch.from_numpy(tests).to(self._device)
        other.fingerprint, other._memo = digest(self.fingerprint, pool, tests if test else ""), None
        return other

    # --- for pictures of a run that is through ---------------------------------------------------
    def annotations(self) -> Annotations:
        """The class of each image of the pool."""
        return Annotations(self.classes, np.arange(self.num_pool), self._labels.cpu().numpy())

    def pictures(self, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]:
        """(N, H, W, 3) pool images of `side` pixels at most, and no boxes."""
        images_NKHW = self._images[torch.from_numpy(indices).to(self._device)].float()
        scale = min(1.0, side / max(images_NKHW.shape[2:]))
        if scale < 1:
            images_NKHW = F.interpolate(images_NKHW, scale_factor=scale, mode="area")
        images_N3HW = images_NKHW.round().to(torch.uint8).expand(-1, 3, -1, -1)
        return images_N3HW.permute(0, 2, 3, 1).cpu().numpy(), []

    # --- capabilities ----------------------------------------------------------------------------
    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """(N, C) probabilities, one prediction an image."""
        return to_predictions(self._pool_outputs(model, indices)[0])

    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N, D): the input of the last layer."""
        return self._pool_outputs(model, indices)[1]

    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Monte Carlo dropout (Gal & Ghahramani, 2016) on the last layer's input; the rest of the network runs once."""
        _, features_ND = self._pool_outputs(model, indices)
        generator, network = torch.Generator().manual_seed(seed), cast_model(model, ClassificationNetwork)
        for _ in range(num_samples):
            kept_ND = torch.rand(features_ND.shape, generator=generator) >= network.dropout.p
            with torch.no_grad():
                dropped_ND = features_ND * kept_ND.to(self._device) / (1 - network.dropout.p)
                yield to_predictions(network.head(dropped_ND))

    def classify(self, model: nn.Module, features_ND: Tensor) -> Tensor:
        """(N, C): the last layer's outputs, in float32."""
        return cast_model(model, ClassificationNetwork).logits(features_ND)

    def labels(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,) classes."""
        return self._labels[torch.from_numpy(np.array(indices)).to(self._device)]

    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """(N,): the companion's output."""
        network = cast_model(model, ClassificationNetwork)
        assert network.companion is not None, "the model was fitted without a companion"
        outputs = []
        for which in activity.track(self._split_indices(indices), "going through images", "batches"):
            with torch.no_grad():
                with in_precision(self._recipe.precision, self._device):
                    _, maps = network.features(self._prepare_inputs(self._inputs[which]))
                outputs.append(network.companion(maps))
        return torch.cat(outputs)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Kernels and matrices, as ISAL takes them: no bias, no normalisation parameter, not the companion's."""
        return {n: p for n, p in model.named_parameters() if p.ndim != 1 and not n.startswith("companion.")}

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float = 0.0) -> Tensor:
        """(N, C) soft targets: one at the likeliest class for k = 1, else the k largest probabilities, as they are.

        Every image has its guess: `min_score` is for boxes.
        """
        if not 1 <= k <= self.num_classes:
            raise ValueError(f"k={k}: must be in 1..{self.num_classes}, the number of classes")
        top_Nk = self.predict(model, indices).scores_PC.topk(k)
        values_Nk = torch.ones_like(top_Nk.values) if k == 1 else top_Nk.values
        return torch.zeros(len(indices), self.num_classes, device=self._device).scatter(1, top_Nk.indices, values_Nk)

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) cross-entropies in float32, differentiable; `targets`: (N,) classes or (N, C) weights of classes."""
        inputs, labels = (self._test_inputs, self._test_labels) if test else (self._inputs, self._labels)
        which = torch.from_numpy(np.array(indices)).to(self._device)
        goals = labels[which] if targets is None else targets
        assert isinstance(goals, Tensor), "a classifier's targets are a tensor"
        return cross_entropy(model(self._prepare_inputs(inputs[which])), goals)

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,) derivatives of the losses along `direction`, the backbone in the recipe's precision: see `directional`.

        A network with weights outside plain convolutions and linear layers takes Jacobian-vector products, in float32.
        """
        assert isinstance(targets, Tensor), "a classifier's targets are a tensor"
        network, parts = cast_model(model, ClassificationNetwork), []
        layers = DirectionLayers(network, direction)
        batches = activity.track(self._split_indices(indices), "going through images", "batches")
        for which, goals in zip(batches, targets.split(self.batch_size), strict=True):
            inputs = self._prepare_inputs(self._inputs[which])
            slopes_N = self._batch_derivatives(network, layers, inputs, goals) if layers.are_supported else None
            parts.append(jvp_derivatives(model, inputs, goals, direction) if slopes_N is None else slopes_N)
        return torch.cat(parts)

    def _batch_derivatives(
        self, network: ClassificationNetwork, layers: DirectionLayers, inputs: Tensor, goals: Tensor
    ) -> Tensor | None:
        """The derivatives of one batch; None where a layer was not called."""
        strength_N = network.head.weight.new_zeros(len(goals), requires_grad=True)
        with layers.inject_tangents(strength_N):
            with in_precision(self._recipe.precision, self._device):
                features_ND, _ = network.features(inputs)
            total = cross_entropy(network.logits(features_ND), goals).sum()
        return torch.autograd.grad(total, strength_N)[0] if layers.were_all_called else None

    # --- inside ----------------------------------------------------------------------------------
    def _split_indices(self, indices: Indices) -> list[Tensor]:
        return list(torch.from_numpy(np.array(indices)).to(self._device).split(self.batch_size))

    def _pool_outputs(self, model: nn.Module, indices: Indices) -> tuple[Tensor, Tensor]:
        """(N, C) logits and (N, D) features of pool images; those of the last call are kept."""
        if self._memo is None or self._memo[0]() is not model or not np.array_equal(self._memo[1], indices):
            outputs = self._forward(model, self._inputs, self._split_indices(indices))
            self._memo = (weakref.ref(model), indices.copy(), outputs)
        return self._memo[2]

    @torch.no_grad()
    def _forward(self, model: nn.Module, inputs: Tensor, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, C) logits and (N, D) features, in the recipe's precision but for the last layer."""
        network, parts = cast_model(model, ClassificationNetwork), []
        for which in activity.track(batches, "going through images", "batches"):
            with in_precision(self._recipe.precision, self._device):
                parts.append(network.features(self._prepare_inputs(inputs[which]))[0])
        features_ND = torch.cat(parts)
        return network.logits(features_ND), features_ND


def to_predictions(logits_NC: Tensor) -> Predictions:
    """One prediction an image."""
    image_N = torch.arange(len(logits_NC), device=logits_NC.device)
    return Predictions(logits_NC.softmax(1), image_N, len(logits_NC))


def accuracy_scores(predicted_N: Tensor, true_N: Tensor, classes: Sequence[str]) -> Scores:
    """What share of the images and, on average, of each class that is there is found to be what it is, in per cent; and
    how many classes are found, and how many are there."""
    right_N = predicted_N == true_N
    num_C = true_N.bincount(minlength=len(classes))
    right_C, there_C = true_N[right_N].bincount(minlength=len(classes)), num_C > 0
    pairs = zip(right_C.tolist(), num_C.tolist(), strict=True)
    values = {
        "accuracy": 100.0 * (right_N.sum().item() / len(true_N)),
        "balanced_accuracy": 100.0 * (right_C[there_C].double() / num_C[there_C]).mean().item(),
        "num_predicted_classes": float(len(predicted_N.unique())),
        "num_test_classes": float(there_C.sum().item()),
    }
    of_class = scores_by_class(classes, (100.0 * right / num if num else None for right, num in pairs))
    return Scores(values, {"accuracy": of_class})


def cross_entropy(logits_NC: Tensor, targets: Tensor) -> Tensor:
    """(N,): -sum_c q_c log p_c; targets are classes (N,), or weights q (N, C), which need not sum to one."""
    return F.cross_entropy(logits_NC, targets, reduction="none")


def jvp_derivatives(model: nn.Module, inputs: Tensor, targets: Tensor, direction: Direction) -> Tensor:
    """(N,): the derivatives of the losses along `direction`, one Jacobian-vector product in float32."""
    at = {name: parameter.detach() for name, parameter in model.named_parameters() if name in direction}
    along = {name: direction[name] for name in at}
    with torch.no_grad():
        slopes_N: Tensor = jvp(
            lambda weights: cross_entropy(functional_call(model, weights, (inputs,)), targets), (at,), (along,)
        )[1]
    return slopes_N
