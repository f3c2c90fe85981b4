"""What a task can do for strategies: a protocol for each capability.

A task states a capability by having its method, and a strategy asks for it by the method's name: `needs={"predict"}`.
The task's method takes the model first, one of the task's own, in eval mode; the strategy's, of a `View`, has it bound.
A method that cannot serve the model or a parameter raises ValueError and says which would do.

Shapes: N images, P predictions, C classes, D features. `indices` are positions in the pool; rows are in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from benchmark.contract.data import Augmentation, Boxes, Direction, Encoding, Indices, Predictions, Targets
from benchmark.plugins.registry import EncoderName


@runtime_checkable
class Predicts(Protocol):
    """Need `predict`: what the model predicts."""

    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        """Class probabilities (and boxes) of the model in eval mode, without augmentation.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            P predictions: one an image of a classifier, in the order of `indices`; any number of a detector; one a
            place of a segmenter. Rows of probabilities sum to one.
        """


@runtime_checkable
class Samples(Protocol):
    """Need `sample`: predictions of a stochastic model (Monte Carlo dropout)."""

    def sample(self, model: nn.Module, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Predictions with dropout left on and batch normalisation in eval mode.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            num_samples: how many predictions of each image.
            seed: of the masks. Those of an image do not depend on the other images.

        Returns:
            `num_samples` times what `predict` returns, with equal rows.
        """


@runtime_checkable
class PredictsPerturbed(Protocol):
    """Need `perturbed`: predictions on noisy images."""

    def perturbed(self, model: nn.Module, indices: Indices, sigma: float, seed: int) -> Predictions:
        """`predict` on images with Gaussian noise.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            sigma: standard deviation of the noise on every pixel value (0 to 255, not clipped).
            seed: of the noise.

        Returns:
            P predictions, as `predict` returns them.
        """


@runtime_checkable
class PredictsAugmented(Protocol):
    """Need `augmented`: predictions of a detector on changed images."""

    def augmented(self, model: nn.Module, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """`predict` on changed images, the boxes put back to where they are on the image as it was.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            how: `flip` mirrors, `cutout` cuts two patches out, `shrink` takes 0.8 of the size, `rotate` turns by five
                degrees.
            seed: of what is random in it.

        Returns:
            P predictions; boxes in pixels of the stored image.
        """


@runtime_checkable
class Proposes(Protocol):
    """Need `proposals`: the proposals of a two-stage detector."""

    def proposals(self, model: nn.Module, indices: Indices) -> Predictions:
        """`predict` of a two-stage detector, with the proposal that each box was refined from.

        Args:
            model: the model of the round.
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
        """The input of the last layer, averaged over places where there are several.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            (N, D) float32. The caller does not change it in place.
        """


@runtime_checkable
class ClassifiesFeatures(Protocol):
    """Need `classify`: the last layer of a classifier."""

    def classify(self, model: nn.Module, features_ND: Tensor) -> Tensor:
        """The logits that the last layer gives for inputs of it.

        Args:
            model: the model of the round.
            features_ND: (N, D), as `embed` returns them.

        Returns:
            (N, C) logits, differentiable in `features_ND`.
        """


@runtime_checkable
class DescribesBoxes(Protocol):
    """Need `box_features`: a detector's features of its boxes."""

    def box_features(self, model: nn.Module, indices: Indices) -> Tensor:
        """What the classification layer saw where it found each box.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            (P, D), a row for each box of `predict`.

        Raises:
            ValueError: the detector does not tell.
        """


@runtime_checkable
class ShowsImages(Protocol):
    """Need `images`: the images themselves. The model plays no part."""

    def images(self, model: nn.Module, indices: Indices, size: tuple[int, int]) -> Tensor:
        """The images, squashed to one size.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            size: height and width in pixels.

        Returns:
            (N, 3, *size) uint8.
        """


@runtime_checkable
class Encodes(Protocol):
    """Need `encode`: what a frozen encoder makes of images. The model plays no part."""

    def encode(self, model: nn.Module, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """The encodings of images by a frozen encoder.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            encoder: its label, `dino` or `patch_pca[patch=4]`.

        Returns:
            The encodings in order, some images at a time.

        Raises:
            ValueError: there is no such encoder, or none of its files of weights.
        """


@runtime_checkable
class ShowsLabels(Protocol):
    """Need `labels`: the true labels of labelled images. A View hands out no others."""

    def labels(self, model: nn.Module, indices: Indices) -> Tensor | list[Boxes]:
        """True labels.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.

        Returns:
            (N,) classes of a classifier, (N, h, w) classes of a segmenter's places (255: ignored), or the boxes of each
            image of a detector.
        """


@runtime_checkable
class RunsCompanion(Protocol):
    """Need `companion`: the output of what a strategy trains beside the model."""

    def companion(self, model: nn.Module, indices: Indices) -> Tensor:
        """The companion's output on the model's feature maps.

        Args:
            model: the model of the round, which was fitted with the companion.
            indices: (N,) positions in the pool.

        Returns:
            (N,) outputs.
        """


@runtime_checkable
class ShowsWeights(Protocol):
    """Need `weights`: the weights that influence is computed over."""

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters of the model.

        Args:
            model: the model of the round.

        Returns:
            The parameters by name; most tasks give their last layers'.
        """


@runtime_checkable
class GivesPseudoLabels(Protocol):
    """Need `pseudo_labels`: labels from the model's own predictions."""

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> Targets:
        """Labels as the model would give them.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            k: how many classes a label has. 1: the likeliest; more: the k likeliest, weighted by their probability and
                not renormalised, of classifiers only.
            min_score: a detector's boxes of less confidence (0 to 1) are left out.

        Returns:
            Targets that `losses` and `directional` take.

        Raises:
            ValueError: the task has no such labels of several classes.
        """


@runtime_checkable
class ComputesLosses(Protocol):
    """Need `losses`: the losses of images. Every task has it."""

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """The loss of each image.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool, or in the test set.
            targets: what the losses are computed against; None: the true labels, which a View gives of labelled images
                only.
            test: the images are of the test set. No View passes it on.

        Returns:
            (N,) losses, differentiable in `weights`.
        """


@runtime_checkable
class Differentiates(Protocol):
    """Need `directional`: derivatives of losses along a direction in weight space, without a gradient an image."""

    def directional(self, model: nn.Module, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """The derivative of each image's loss along a direction.

        Args:
            model: the model of the round.
            indices: (N,) positions in the pool.
            targets: what the losses are computed against.
            direction: a tensor for each parameter of `weights`, by its name.

        Returns:
            (N,) derivatives, as backpropagation gives them: d loss / d weights, times the direction.
        """
