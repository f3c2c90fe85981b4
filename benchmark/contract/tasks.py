"""What a task and an encoder must have, and what they may have.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from benchmark.contract.companion import Companion
from benchmark.contract.data import Encoding, ImageLabel, Indices, Targets
from benchmark.contract.metrics import Metric


class Pool(Protocol):
    """The images of a pool without their labels: what an encoder may be trained on."""

    @property
    def num_images(self) -> int:
        """Number of images."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image, and of all images where they have one size."""

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Returns images as (N, 3, *size) uint8 on the machine's device.

        Args:
            indices: (N,) positions in the pool.
            size: height and width in pixels; images of another size are resized bilinearly, without keeping their
                aspect ratio.
        """

    def originals(self, indices: Indices) -> Iterator[Tensor]:
        """Yields images of their own sizes, (3, H, W) uint8 each.

        Args:
            indices: (N,) positions in the pool.
        """


class Encoder(Protocol):
    """A frozen network, or anything else that maps images to features; equal images give equal features.

    An encoder that is trained and stores its weights may have an attribute `seconds`: the seconds of that training. One
    with a preprocessing of its own has a method `prepare`: from images of their own sizes, (3, H, W) uint8 each, to the
    (N, 3, *size) uint8 that it takes; without one, images are squashed to its size.
    """

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that it takes."""

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Returns the encoding of images.

        Args:
            images_N3HW: (N, 3, H, W) uint8 images of its size.
        """


class Task(Protocol):
    """A pool, a training recipe, a metric and a cost; equal arguments give equal results.

    The other methods of a task are capabilities, all optional: a task has one if it has the method.
    `benchmark.contract.capabilities` says what each takes and returns. A task that reads files may be a `FromFiles`
    too.

    Args:
        num_pool: number of images in the pool.
        batch_size: number of images that one call of `losses` can take.
        fingerprint: a hash of the data; equal fingerprints mean equal images and labels.
    """

    num_pool: int
    batch_size: int
    fingerprint: str

    @property
    def metric(self) -> Metric | str:
        """The score of tables: a Metric, or the name of a known one: "accuracy", "map", "ap", "miou", "oks_ap"."""

    def model(self, companion: Companion | None = None) -> nn.Module:
        """Builds an untrained model, ready to load the weights of a fit.

        Args:
            companion: what is trained beside the model and attached to it; None for nothing.
        """

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> nn.Module:
        """Trains a model from scratch and returns it in eval mode.

        Args:
            labelled: (N,) positions of the labelled set; their order must not matter.
            seed: seed of everything that is random in training.
            companion: what is trained beside the model; None for nothing.
        """

    def score(self, model: nn.Module) -> dict[str, float]:
        """Returns scores on the test set, the metric among them; `Scores` where the task has scores of single classes
        too.

        Only the harness calls it. A task with classes adds `num_predicted_classes` and `num_test_classes`: the number
        of classes that the model predicts on the test set, and the number that occurs there. From these the audit finds
        a model that predicts one class only, or no box.

        Args:
            model: a model of the task, in eval mode.
        """

    def cost(self, indices: Indices) -> dict[str, float]:
        """Returns the cost of labels: "images", "boxes" for a detector, and others to be recorded. Only the harness
        calls it.

        Args:
            indices: (N,) positions of the images whose labels are paid for.
        """

    def num_test(self) -> int:
        """Number of test images."""

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """Returns (N,) losses, differentiable in the task's `weights`.

        Args:
            model: a model of the task, in eval mode.
            indices: (N,) positions in the pool, or in the test set.
            targets: the labels that losses are computed against; None for the true labels.
            test: whether the images are of the test set.
        """

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Task:
        """Returns the same task with random labels in place of those that are not paid for.

        With such tasks `check` tests that a strategy reads no label that it has not paid for.

        Args:
            paid: positions of the images whose labels stay.
            seed: seed of the random labels.
            test: whether the labels of the test set are drawn at random too.
        """


@dataclass(frozen=True)
class BatchSizes:
    """The batches that a fit divides its images into, for models with layers that take statistics of a batch.

    Args:
        smallest: number of images in the smallest batch of this fit.
        intended: number of images in a batch of the recipe.
    """

    smallest: int
    intended: int


@runtime_checkable
class ReportsBatchSizes(Protocol):
    """A task that reports its batch sizes, so that an audit of its records need not know recipes."""

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """Returns the batch sizes of a fit; None where no layer takes statistics of its batch.

        Args:
            num_images: number of images that the fit trains on.
        """


@runtime_checkable
class KeepsImagesOnDevice(Protocol):
    """A task that computes losses from images on its device alone, so that a CUDA graph can; see `View.row_losses`."""

    def row_losses(self, model: nn.Module, indices: Indices) -> Callable[[Tensor], Tensor]:
        """Returns a function like `losses` that never waits for the device.

        Args:
            model: a model of the task, in eval mode.
            indices: positions in the pool.

        Returns:
            A function that takes (N,) rows of `indices`, int64 on the device, and returns (N,) losses on true labels,
            differentiable in the task's `weights`.
        """


@runtime_checkable
class FromFiles(Protocol):
    """What a task may have beside its capabilities if its images come from files; strategies do not see it."""

    def source_files(self) -> dict[str, list[tuple[str, str]]]:
        """Returns the files that the images come from, for messages and reports.

        Returns:
            For "pool" and "test", in the order of positions: each image's file, and a hash of its pixels as they are
            read. A file is named by its path inside the data set's folder, with `/`. Empty where images are in no
            files.
        """

    def data_remarks(self) -> list[str]:
        """Returns sentences on unusual data, such as images that occur twice.

        A sentence begins with "FAULT: " if results would be wrong: test images that are in the pool.
        """


@runtime_checkable
class ExtendsPool(Protocol):
    """A task to whose pool files can be added, most of them without a label, so that `pick` can choose among them.

    Args:
        classes: the names of the classes.
    """

    classes: Sequence[str]

    def with_images(self, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> Task:
        """Returns a copy of the task with more images at the end of its pool.

        What would read the label of an image that has none raises PermissionError.

        Args:
            paths: files of the images.
            labels: the labels of some of them, by position in `paths`.

        Raises:
            ValueError: files cannot be read as images (`BadImagesError`, which names them all), or the labels are of
                another kind than the task's.
        """
