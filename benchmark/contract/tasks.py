"""What a task, an encoder and a companion must have, and what they may have.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from benchmark.contract.data import Encoding, Indices, Targets
from benchmark.contract.scores import Metric


class Pool(Protocol):
    """The images of a pool, without their labels: what an encoder may be trained on."""

    @property
    def num_images(self) -> int:
        """Number of images."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image: of all of them, where they are of one size."""

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8 on the machine's device, squashed to `size` where they are of another (bilinear)."""


class Encoder(Protocol):
    """A frozen network, or anything else that maps images to features. Equal images give equal features.

    One that keeps its weights may have `seconds`: what their training took.
    """

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that it wants its images in."""

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """The encoding of uint8 images of its size."""


class Companion(Protocol):
    """What a strategy trains beside the model. A frozen dataclass: its repr is part of the fit's identity."""

    @property
    def detach_after(self) -> float:
        """Share of training after which the companion's gradient stops reaching the model (0 = never does)."""

    def module(self, channels: Sequence[int]) -> nn.Module:
        """A fresh module that maps the model's stage maps, (N, channels[i], H_i, W_i) each, to (N,)."""

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        """The scalar added to the training loss; `losses_N`, the model's losses, carry no gradient."""


class Task(Protocol):
    """A pool, a training recipe, a metric and a cost. Equal arguments give equal results.

    Its other methods are capabilities, each optional: a task states one by having the method.
    `benchmark.contract.capabilities` says what each takes and gives. A task that reads files may be `FromFiles` too.
    """

    num_pool: int
    batch_size: int  # images a call of `losses` takes comfortably
    fingerprint: str  # a hash of the data: equal fingerprints, equal images and labels

    @property
    def metric(self) -> Metric | str:
        """The score that tables read: a Metric, or the name of one that is known: "accuracy", "map", "ap", "miou"."""

    def model(self, companion: Companion | None = None) -> nn.Module:
        """An untrained model with the companion attached, ready to load a fit's weights."""

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> nn.Module:
        """A model trained from scratch on the set `labelled` (its order must not matter), in eval mode."""

    def score(self, model: nn.Module) -> dict[str, float]:
        """Scores on the test set, `metric` among them; `Scores` where it knows those of single classes too. Loop only.

        A task that has classes tells `num_predicted_classes` and `num_test_classes` too: how many the model predicts on
        the test set, and how many there are. By these the audit names a model that predicts one class, or no box.
        """

    def cost(self, indices: Indices) -> dict[str, float]:
        """What the labels of these images cost: "images", and "boxes" for a detector. Loop only."""

    def num_test(self) -> int:
        """Number of test images."""

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) losses, differentiable in the task's `weights`; true labels where `targets` is None."""

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Task:
        """The same task with every label but those of `paid` drawn at random, the test set's too with `test`.

        For the leak test.
        """


@dataclass(frozen=True)
class BatchSizes:
    """In what batches a fit goes through its images, where layers take statistics of a batch."""

    smallest: int  # images in the smallest batch of this fit
    intended: int  # images in a batch, as the recipe has them


@runtime_checkable
class ReportsBatchSizes(Protocol):
    """A task that tells in what batches it trains, so that an audit of its records need not know recipes."""

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """The sizes of the batches of a fit.

        Args:
            num_images: the fit is on so many.

        Returns:
            The sizes; None where no layer takes statistics of its batch.
        """


@runtime_checkable
class FromFiles(Protocol):
    """What a task may have beside its capabilities, where its images are from files. No View hands it out."""

    def source_files(self) -> dict[str, list[tuple[str, str]]]:
        """What the images are, for messages and reports.

        Returns:
            For "pool" and "test", in the order of positions, each image's file and a hash of its pixels as they are
            read; the file is named by its path inside the data set's folder, with `/`. Empty where the images are in
            no files.
        """

    def data_remarks(self) -> list[str]:
        """What is odd about the images, in sentences: those that are there twice. "FAULT: " begins what makes results
        wrong: test images that are in the pool."""
