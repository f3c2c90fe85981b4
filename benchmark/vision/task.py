"""What the tasks of all kinds share.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import BatchSizes, Companion, EncoderName, Encoding, Indices, Machine, Pool
from benchmark.vision.data.annotations import Images
from benchmark.vision.data.duplicates import Sources
from benchmark.vision.data.reading import read_groups
from benchmark.vision.encoding.encodings import Encodings, StreamedPool
from benchmark.vision.fingerprints import digest
from benchmark.vision.training import smallest_batch

Net = TypeVar("Net", bound=nn.Module)


class VisionTask(ABC, Generic[Net]):
    """Base class of tasks on a pool of images: everything that depends neither on the labels nor on the network.

    A subclass sets the fields below in its constructor and adds training, scoring and the capabilities that need
    labels.
    """

    fingerprint: str
    _machine: Machine
    _device: torch.device
    _recipe: Any
    _encoder_pool: Pool  # the pool as encoders read it
    _encodings: Encodings
    _sources: Sources
    _uses_batch_statistics: bool  # whether the network normalises with batch statistics
    _unlabelled: Indices = np.empty(0, np.int64)  # positions of images that came without a label

    @abstractmethod
    def _build_network(self, seed: int, companion: Companion | None) -> Net:
        """Builds a fresh network. A companion does not change the network's initial weights."""

    def model(self, companion: Companion | None = None) -> Net:
        """Returns an untrained network in eval mode, with the companion attached if there is one."""
        return self._build_network(0, companion)

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """Returns the batch sizes of a fit; None when no layer uses batch statistics.

        Args:
            num_images: size of the labelled set.
        """
        intended = self._recipe.batch_size
        return BatchSizes(smallest_batch(num_images, intended), intended) if self._uses_batch_statistics else None

    def source_files(self) -> dict[str, list[tuple[str, str]]]:
        """Returns the file and the pixel hash of each image of the pool and of the test set; see `FromFiles`."""
        return self._sources.file_hashes()

    def data_remarks(self) -> list[str]:
        """Returns sentences about duplicate images in the data."""
        return list(self._sources.remarks)

    def _require_labels(self, indices: Indices) -> None:
        """Raises PermissionError where one of these images came without a label."""
        if len(missing := np.intersect1d(np.asarray(indices, np.int64), self._unlabelled)):
            raise PermissionError(f"image {missing[0]} of the pool has no label, and something tried to read it")

    def images(self, model: nn.Module, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Returns images resized to `size`; see `ShowsImages`."""
        return self._encoder_pool.images(indices, size)

    def encode(self, model: nn.Module, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """Yields the encodings of images by a frozen encoder; see `Encodes`."""
        return self._encodings.encode(indices, encoder)

    def take_statistics(self, other: VisionTask[Any]) -> None:
        """Normalises images as another task does, not by statistics of this pool, which may be a part of a larger one.

        Args:
            other: the same task with another pool.

        Raises:
            ValueError: the task cannot.
        """

    def share_encoders(self, other: VisionTask[Any]) -> None:
        """Takes the encoders of another task, which are built on its pool, instead of encoders on its own pool.

        Args:
            other: the task. Neither may have a scratch folder, where encodings are named by one's own pool.
        """
        assert self._machine.scratch is None and other._machine.scratch is None
        shared = other._encodings
        self._encodings = replace(self._encodings, pool=shared.pool, encoders=shared.encoders)

    def _checkpoint_path(self, labelled: Indices, seed: int, companion: Companion | None) -> Path | None:
        """The checkpoint file of a fit on these images (in ascending order); None without a scratch folder."""
        parts = (self.fingerprint, repr(self._recipe), labelled, seed, repr(companion), self._device.type)
        scratch = self._machine.scratch
        return None if scratch is None else scratch / f"{digest(*parts, torch.__version__)[:32]}.checkpoint"


def cast_model(model: nn.Module, network_class: Callable[..., Net]) -> Net:
    """Checks that a model is of the given class and in eval mode, and returns it with that type."""
    assert isinstance(network_class, type) and isinstance(model, network_class), "the model is not of this kind of task"
    assert not model.training, "the model must be in eval mode"
    return cast(Net, model)


def encoder_pool(images: Images, machine: Machine) -> StreamedPool:
    """Returns the pool as encoders read it: images are loaded only when they are needed."""

    def read(indices: list[int]) -> Iterator[Tensor]:
        groups = [[index] for index in indices]
        return (group[0] for group in read_groups(images, groups, machine.workers))

    height, width = images[0].shape[1:]
    return StreamedPool(len(images), (height, width), read, machine.device)


def thumbnails(images: Images, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[float]]:
    """Returns small copies of images for figures.

    Args:
        images: the images of a pool.
        indices: (N,) positions in it.
        side: side in pixels of the square thumbnails.

    Returns:
        (N, side, side, 3) images, shrunk to fit and padded with white, and the scale of each.
    """
    pictures_NHW3, scales = np.full((len(indices), side, side, 3), 255, np.uint8), []
    for row_HW3, index in zip(pictures_NHW3, indices.tolist(), strict=True):
        image_3HW = images[index]
        scale = min(1.0, side / max(image_3HW.shape[1:]))
        size = [max(1, round(scale * length)) for length in image_3HW.shape[1:]]
        small_3HW = F.interpolate(image_3HW[None].float(), size, mode="bilinear", antialias=True)[0]
        row_HW3[: size[0], : size[1]] = small_3HW.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        scales.append(scale)
    return pictures_NHW3, scales
