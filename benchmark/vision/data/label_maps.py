"""Images with a label map each: what a segmentation task is given.

A label map is as large as its image: a class 0..C-1 a pixel, IGNORED where nobody labelled it.
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
    """A pool or a test set. As `Images`, each image with its label map for a fourth channel."""

    images: Images
    maps: Images  # (H, W) uint8 each

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """(4, H, W) uint8."""
        return torch.cat([self.images[index], self.maps[index][None]])

    @property
    def fingerprint(self) -> str:
        """A hash of images and label maps."""
        return digest(self.images.fingerprint, self.maps.fingerprint)


@dataclass(frozen=True)
class InMemoryMaps:
    """Label maps in memory."""

    maps_NHW: Tensor  # uint8

    def __len__(self) -> int:
        return len(self.maps_NHW)

    def __getitem__(self, index: int) -> Tensor:
        """(H, W) uint8."""
        return self.maps_NHW[index]

    @property
    def fingerprint(self) -> str:
        """A hash of the maps."""
        return digest(self.maps_NHW.numpy())


@dataclass(frozen=True)
class MaskFiles:
    """Label maps in files of one byte a pixel, decoded when asked for."""

    files: ImageFiles  # of masks
    class_256: Tensor  # (256,) uint8: the class of each byte

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """(H, W) uint8. ValueError names a file that is no mask."""
        return self.class_256[self.files[index].long()]

    @property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, and of what these mean."""
        return digest(self.files.fingerprint, self.class_256.numpy())


@dataclass(frozen=True)
class DownscaledImages:
    """Images, or label maps, at a lower height; those that are not higher stay as they are."""

    images: Images
    height: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8, bilinear and antialiased; or (H, W), by nearest neighbour."""
        one = self.images[index]
        height, width = one.shape[-2:]
        if height <= self.height:
            return one
        size = (self.height, max(1, round(width * self.height / height)))
        if one.ndim == 3:
            return resize_images(one[None], size)[0]
        return F.interpolate(one[None, None], size, mode="nearest-exact")[0, 0]

    @property
    def fingerprint(self) -> str:
        """A hash of the images and the height."""
        return digest(self.images.fingerprint, self.height)

    def scans(self) -> Sequence[ImageScan]:
        """What is known of the files of the whole images."""
        return image_scans(self.images)


@dataclass(frozen=True)
class ScrambledMaps:
    """Label maps, but for those that are `paid` every pixel's label drawn at random."""

    maps: Images
    labelled: frozenset[int]
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Tensor:
        """(H, W) uint8."""
        true_HW = self.maps[index]
        if index in self.labelled:
            return true_HW
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"labels {index}"))
        return torch.randint(self.num_classes, true_HW.shape, generator=generator, dtype=torch.uint8)

    @property
    def fingerprint(self) -> str:
        """A hash of the maps and of what is drawn."""
        return digest(self.maps.fingerprint, sorted(self.labelled), self.num_classes, self.seed)


def check_has_labels(pool: Split, test: Split) -> None:
    """ValueError where no pixel of the pool, or none of the test set, has a label that counts."""
    for name, maps, purpose in (("pool", pool.maps, "learn from"), ("test set", test.maps, "score")):
        if not any(bool((maps[number] != IGNORE_INDEX).any()) for number in range(len(maps))):
            raise ValueError(f"no pixel of the {name} is labelled: there is nothing to {purpose}")
