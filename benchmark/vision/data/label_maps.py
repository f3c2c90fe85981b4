"""Images with a label map each, the data of a segmentation task.

A label map has the size of its image. It holds a class 0..C-1 per pixel, or IGNORE_INDEX where a pixel has no label.
Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.vision.data.annotations import ImageFiles, Images, image_scans
from benchmark.vision.data.image_checks import ImageScan
from benchmark.vision.encoding.encodings import resize_images
from benchmark.vision.fingerprints import derive_seed, digest

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Split:
    """A pool or a test set. As a sequence, each image has its label map as a fourth channel."""

    images: Images
    maps: Images  # (H, W) uint8 each

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Reads one image and its label map: (4, H, W) uint8."""
        return torch.cat([self.images[index], self.maps[index][None]])

    @property
    def fingerprint(self) -> str:
        """A hash of the images and the label maps."""
        return digest(self.images.fingerprint, self.maps.fingerprint)


@dataclass(frozen=True)
class InMemoryMaps:
    """Label maps in memory, all of one size."""

    maps_NHW: Tensor  # uint8

    def __len__(self) -> int:
        return len(self.maps_NHW)

    def __getitem__(self, index: int) -> Tensor:
        """One label map: (H, W) uint8."""
        return self.maps_NHW[index]

    @property
    def fingerprint(self) -> str:
        """A hash of the maps."""
        return digest(self.maps_NHW.numpy())


@dataclass(frozen=True)
class MaskFiles:
    """Label maps in files of one byte per pixel, decoded on access."""

    files: ImageFiles  # with `is_mask=True`
    class_256: Tensor  # (256,) uint8: the class of each byte value

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Reads one label map: (H, W) uint8. Raises ValueError that names a file that is no label map."""
        return self.class_256[self.files[index].long()]

    @property
    def fingerprint(self) -> str:
        """A hash of the files' bytes and of the classes that they stand for."""
        return digest(self.files.fingerprint, self.class_256.numpy())


@dataclass(frozen=True)
class DownscaledImages:
    """Images or label maps, reduced to a height; smaller ones stay as they are."""

    images: Images
    height: int  # pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """One image, (3, H, W) uint8, resized bilinearly with antialiasing; or a map, (H, W), by nearest neighbour."""
        original = self.images[index]
        height, width = original.shape[-2:]
        if height <= self.height:
            return original
        size = (self.height, max(1, round(width * self.height / height)))
        if original.ndim == 3:
            return resize_images(original[None], size)[0]
        return F.interpolate(original[None, None], size, mode="nearest-exact")[0, 0]

    @property
    def fingerprint(self) -> str:
        """A hash of the images and the height."""
        return digest(self.images.fingerprint, self.height)

    def scans(self) -> Sequence[ImageScan]:
        """The scans of the files of the original images."""
        return image_scans(self.images)


@dataclass(frozen=True)
class ScrambledMaps:
    """Label maps in which every pixel's label is drawn at random, apart from the maps of the labelled set."""

    maps: Images
    labelled: frozenset[int]
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Tensor:
        """One label map: (H, W) uint8."""
        true_HW = self.maps[index]
        if index in self.labelled:
            return true_HW
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"labels {index}"))
        return torch.randint(self.num_classes, true_HW.shape, generator=generator, dtype=torch.uint8)

    @property
    def fingerprint(self) -> str:
        """A hash of the maps, the labelled set and the seed."""
        return digest(self.maps.fingerprint, sorted(self.labelled), self.num_classes, self.seed)


def check_has_labels(pool: Split, test: Split) -> None:
    """Checks that the pool and the test set each have at least one labelled pixel.

    Args:
        pool: The pool.
        test: The test set.

    Raises:
        ValueError: One of them has none.
    """
    for name, maps, purpose in (("pool", pool.maps, "learn from"), ("test set", test.maps, "score")):
        if not any(bool((maps[number] != IGNORE_INDEX).any()) for number in range(len(maps))):
            raise ValueError(f"no pixel of the {name} is labelled: there is nothing to {purpose}")
