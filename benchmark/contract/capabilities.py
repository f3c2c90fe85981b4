"""What a task can do for strategies: one protocol for each capability.

A task has a capability if it has the protocol's method. A strategy declares it by the name of the method:
`needs={"predict"}`. The method of a task takes the model first: one of the task's own, in eval mode. The method of a
`View` has the model bound. A method that cannot serve a model or a parameter raises ValueError and says which one it
can serve.

Shapes: N images, P predictions, C classes, D features. `indices` are positions in the pool; results
are in the order of `indices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from benchmark.contract.data import Augmentation, Boxes, Direction, Encoding, Indices, Predictions, Targets
from benchmark.plugins.registry import EncoderName


@runtime_checkable
class Predicts(Protocol):
    """Need `predict`: the model's predictions."""

    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """Predicts class probabilities (and boxes) in eval mode, without augmentation.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            P predictions: a classifier gives one per image, in the order of `indices`, a detector any number, a
            segmenter one per location, a pose estimator one per keypoint of each person that it detects. Rows of
            probabilities sum to one.
        """


@runtime_checkable
class Samples(Protocol):
    """Need `sample`: predictions of a stochastic model (Monte Carlo dropout)."""

    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Predicts several times with dropout left on and batch normalisation in eval mode.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            num_samples: number of predictions for each image.
            seed: seed of the dropout masks. The masks of an image do not depend on the other images.

        Returns:
            `num_samples` results like those of `predict`, with equal rows.
        """


@runtime_checkable
class PredictsPerturbed(Protocol):
    """Need `perturbed`: predictions on noisy images."""

    def perturbed(
        self, model: nn.Module, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Predicts on images with Gaussian noise, and reads each image once for all levels of noise.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            sigmas: standard deviations of the noise on every pixel value (0 to 255, not clipped).
            seeds: seed of the noise of each level.

        Returns:
            For consecutive parts of `indices`: the predictions on the images without noise, like those of `predict`,
            and then those under each level of noise.
        """


@runtime_checkable
class PredictsAugmented(Protocol):
    """Need `augmented`: a detector's predictions on augmented images."""

    def augmented(
        self, model: nn.Module, indices: Indices, hows: Sequence[Augmentation], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Predicts on augmented images and maps the boxes back to the original images; reads each image once.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            hows: the augmentations. `flip` mirrors the image, `cutout` cuts out two patches, `shrink` reduces it to 0.8
                of its size, `rotate` turns it by five degrees.
            seeds: seed of what is random in each augmentation.

        Returns:
            For consecutive parts of `indices`: the predictions on the original images, like those of `predict`, and
            then those on each augmentation. Boxes in pixels of the stored image.
        """


@runtime_checkable
class Proposes(Protocol):
    """Need `proposals`: the proposals of a two-stage detector."""

    def proposals(self, model: nn.Module, indices: Indices) -> Predictions:
        """Predicts boxes together with the proposal that each box was refined from.

        Args:
            model: the model of the round, a two-stage detector.
            indices: (N,) positions in the pool.

        Returns:
            P predictions with `proposals_P4`, in pixels of the stored image.

        Raises:
            ValueError: the detector has one stage.
        """


@runtime_checkable
class Embeds(Protocol):
    """Need `embed`: the model's features of images."""

    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        """Returns the input of the last layer, averaged over locations where there are several.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            (N, D) float32. The caller must not change it in place.
        """


@runtime_checkable
class ClassifiesFeatures(Protocol):
    """Need `classify`: the last layer of a classifier."""

    def classify(self, model: nn.Module, features_ND: Tensor) -> Tensor:
        """Applies the last layer to features.

        Args:
            model: the model of the round.
            features_ND: (N, D) features, like those that `embed` returns.

        Returns:
            (N, C) logits, differentiable in `features_ND`.
        """


@runtime_checkable
class DescribesBoxes(Protocol):
    """Need `box_features`: a detector's features of its boxes."""

    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """Returns the input of the classification layer at the location where each box was predicted.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            (P, D) features, one row for each box of `predict`.

        Raises:
            ValueError: the detector gives no such features.
        """


@runtime_checkable
class ShowsImages(Protocol):
    """Need `images`: the images themselves; the model plays no part."""

    def images(self, model: nn.Module, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Returns the images, resized to one size without keeping their aspect ratio.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            size: height and width in pixels.

        Returns:
            (N, 3, *size) uint8.
        """


@runtime_checkable
class Encodes(Protocol):
    """Need `encode`: features of images from a frozen encoder; the model plays no part."""

    def encode(self, model: nn.Module, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """Encodes images by a frozen encoder.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            encoder: the encoder with its parameters: `dino`, `patch_pca[patch=4]`.

        Returns:
            The encodings in order, several images at a time.

        Raises:
            ValueError: there is no such encoder, or its file of weights is missing.
        """


@runtime_checkable
class ShowsLabels(Protocol):
    """Need `labels`: the true labels of labelled images. A View gives no others."""

    def labels(self, model: nn.Module, indices: Indices) -> Tensor | list[Boxes]:
        """Returns true labels.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            Of a classifier (N,) classes; of a segmenter (N, h, w) classes of its locations (255: ignored); of a
            detector the boxes of each image; of a pose estimator boxes with keypoints.
        """


@runtime_checkable
class RunsCompanion(Protocol):
    """Need `companion`: the output of the module that a strategy trains beside the model."""

    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """Returns the companion's output on the model's feature maps.

        Args:
            model: the model of the round, which was trained with the companion.
            indices: (N,) positions in the pool.

        Returns:
            (N,) outputs.
        """


@runtime_checkable
class ShowsWeights(Protocol):
    """Need `weights`: the weights that influence is computed over."""

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Returns parameters of the model.

        Args:
            model: the model of the round.

        Returns:
            The parameters by name; most tasks give those of the last layers.
        """


@runtime_checkable
class GivesPseudoLabels(Protocol):
    """Need `pseudo_labels`: labels from the model's own predictions."""

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> Targets:
        """Returns labels as the model predicts them.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            k: the number of classes in a label. 1 gives the most likely class; more, for classifiers only, the k most
                likely ones, weighted by their probabilities, which are not renormalised.
            min_score: the smallest confidence (0 to 1) of a detector's boxes that become labels.

        Returns:
            Targets for `losses` and `directional`.

        Raises:
            ValueError: the task has no labels of several classes.
        """


@runtime_checkable
class ComputesLosses(Protocol):
    """Need `losses`: the losses of images. Every task has it."""

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """Returns the loss of each image.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool, or in the test set.
            targets: the labels that losses are computed against; None for the true labels, which a View gives for
                labelled images only.
            test: whether the images are of the test set. A View never passes it.

        Returns:
            (N,) losses, differentiable in `weights`.
        """


@runtime_checkable
class Differentiates(Protocol):
    """Need `directional`: derivatives of losses along a direction in weight space, without one gradient per image."""

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """Returns the derivative of each image's loss along a direction.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            targets: the labels that losses are computed against.
            direction: one tensor for each parameter of `weights`, by its name.

        Returns:
            (N,) derivatives: the inner product of the direction with d loss / d weights, as backpropagation gives it.
        """
