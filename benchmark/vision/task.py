"""What the three kinds of task share. Shapes: N images, H x W pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import BatchSizes, Companion, EncoderName, Encoding, Indices, Machine, Pool
from benchmark.vision.data.annotations import Images
from benchmark.vision.data.reading import read_groups
from benchmark.vision.data.sources import Sources
from benchmark.vision.encoding.encodings import Encodings, StreamedPool
from benchmark.vision.fingerprints import digest
from benchmark.vision.training import smallest_batch

Net = TypeVar("Net", bound=nn.Module)


class VisionTask(ABC, Generic[Net]):
    """A pool of images and a recipe: what needs neither the labels nor the network. A kind of task sets the fields."""

    fingerprint: str
    _machine: Machine
    _device: torch.device
    _recipe: Any
    _encoder_pool: Pool  # the images of the pool, as encoders see them
    _encodings: Encodings
    _sources: Sources
    _uses_batch_statistics: bool  # whether the network takes statistics of its batch

    @abstractmethod
    def _build_network(self, seed: int, companion: Companion | None) -> Net:
        """A fresh network; a companion does not change what it starts from."""

    def model(self, companion: Companion | None = None) -> Net:
        """An untrained network, its companion attached, in eval mode."""
        return self._build_network(0, companion)

    def batch_sizes(self, num_images: int) -> BatchSizes | None:
        """The sizes of the batches of a fit on so many images; None where no layer is normalised by batch."""
        intended = self._recipe.batch_size
        return BatchSizes(smallest_batch(num_images, intended), intended) if self._uses_batch_statistics else None

    def source_files(self) -> dict[str, list[tuple[str, str]]]:
        """Name and hash of pixels of each image of the pool and the test set; {} where they are in no files."""
        return self._sources.file_hashes()

    def data_remarks(self) -> list[str]:
        """What is odd about the images: those that are there twice."""
        return list(self._sources.remarks)

    def images(self, model: nn.Module, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8."""
        return self._encoder_pool.images(indices, size)

    def encode(self, model: nn.Module, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """What a frozen encoder makes of them; the model plays no part."""
        return self._encodings.encode(indices, encoder)

    def _checkpoint_path(self, labelled: Indices, seed: int, companion: Companion | None) -> Path | None:
        """Where a fit on these (ascending) images keeps its work in progress; None: nowhere."""
        parts = (self.fingerprint, repr(self._recipe), labelled, seed, repr(companion), self._device.type)
        scratch = self._machine.scratch
        return None if scratch is None else scratch / f"{digest(*parts, torch.__version__)[:32]}.checkpoint"


def cast_model(model: nn.Module, network_class: Callable[..., Net]) -> Net:
    """A model that was handed out, as the network that it is, of this class."""
    assert isinstance(network_class, type) and isinstance(model, network_class), "not a model of this kind of task"
    assert not model.training, "the model must be in eval mode"
    return cast(Net, model)


def encoder_pool(images: Images, machine: Machine) -> StreamedPool:
    """A pool that is read when it is needed, as encoders see it."""

    def read(indices: list[int]) -> Iterator[Tensor]:
        groups = [[index] for index in indices]
        return (group[0] for group in read_groups(images, groups, machine.workers))

    height, width = images[0].shape[1:]
    return StreamedPool(len(images), (height, width), read, machine.device)


def thumbnails(images: Images, indices: Indices, side: int) -> tuple[npt.NDArray[np.uint8], list[float]]:
    """(N, side, side, 3) images, shrunk to fit and padded with white, and by what each is shrunk."""
    pictures_NHW3, scales = np.full((len(indices), side, side, 3), 255, np.uint8), []
    for row_HW3, index in zip(pictures_NHW3, indices.tolist(), strict=True):
        image_3HW = images[index]
        scale = min(1.0, side / max(image_3HW.shape[1:]))
        size = [max(1, round(scale * length)) for length in image_3HW.shape[1:]]
        small_3HW = F.interpolate(image_3HW[None].float(), size, mode="bilinear", antialias=True)[0]
        row_HW3[: size[0], : size[1]] = small_3HW.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        scales.append(scale)
    return pictures_NHW3, scales
