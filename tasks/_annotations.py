"""Images with boxes: what a detection task is given, and what every reader of a format does to it.

Shapes: N images, B boxes of a split, M boxes of one image, H x W pixels.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from benchmark.api import Boxes, Indices
from tasks._classifier import digest


class Images(Protocol):
    """Images as they are stored."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W) uint8, RGB. ValueError names an image that cannot be had."""

    @property
    def fingerprint(self) -> str:
        """A hash of the images."""


@dataclass(frozen=True)
class Truth:
    """The boxes of N images, image by image. Ignored boxes (difficult, crowd) are not trained on, and a
    prediction on them is neither right nor wrong; somebody drew them, so they are paid for."""

    corners_B4: npt.NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the stored image; a pixel is 1 wide
    labels_B: Indices  # classes 0..C-1
    ignored_B: npt.NDArray[np.bool_]
    first_N1: Indices  # boxes of image i: first_N1[i]:first_N1[i + 1]

    @classmethod
    def grouped(
        cls,
        image_B: Indices,
        corners_B4: npt.NDArray[np.float32],
        labels_B: Indices,
        ignored_B: npt.NDArray[np.bool_],
        num_images: int,
    ) -> Truth:
        """Boxes in any order, `image_B` the image (0..N-1) of each; those of one image keep their order."""
        order_B = np.argsort(image_B, kind="stable")
        first_N1 = offsets(np.bincount(image_B, minlength=num_images))
        return cls(corners_B4[order_B], labels_B[order_B], ignored_B[order_B], first_N1)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.first_N1) - 1

    def of(self, number: int) -> Boxes:
        """The boxes of one image that are not ignored."""
        which = slice(self.first_N1[number], self.first_N1[number + 1])
        seen_M = ~self.ignored_B[which]
        return Boxes(*(torch.from_numpy(rows_B[which][seen_M]) for rows_B in (self.corners_B4, self.labels_B)))

    @cached_property
    def num_boxes_N(self) -> Indices:
        """(N,): boxes that are not ignored, by image."""
        return np.diff(offsets(~self.ignored_B)[self.first_N1])

    def num_drawn(self, indices: Indices) -> int:
        """Boxes of these images that somebody drew, ignored ones too."""
        return int(np.diff(self.first_N1)[indices].sum())

    def kept(self, indices: Indices) -> Truth:
        """The boxes of these images, in this order."""
        num_N = np.diff(self.first_N1)[indices]
        first_N1 = offsets(num_N)
        which_B = np.repeat(self.first_N1[indices] - first_N1[:-1], num_N) + np.arange(first_N1[-1])
        return Truth(self.corners_B4[which_B], self.labels_B[which_B], self.ignored_B[which_B], first_N1)


@dataclass(frozen=True)
class Files:
    """Images in files, decoded when asked for. They are not turned as their EXIF tags say: boxes are of stored pixels.

    Raises ValueError for a file that cannot be read, and for one that is not of the size that its annotation states:
    then the boxes are another image's.
    """

    folder: Path
    names: Sequence[str]
    sizes_N2: Indices  # width and height in pixels, as the annotations state them; 0: not stated

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W) uint8, RGB."""
        path, stated = self.folder / self.names[number], tuple(self.sizes_N2[number].tolist())
        with opened(path) as image:
            size, pixels_HW3 = image.size, np.array(eight_bits(image).convert("RGB"))
        if 0 not in stated and size != stated:
            wrong, right = (f"{width} x {height}" for width, height in (size, stated))
            raise ValueError(f"{path} has {wrong} pixels, but its annotation is of an image of {right}")
        return torch.from_numpy(pixels_HW3).permute(2, 0, 1).contiguous()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, and of the sizes in pixels and in bytes: to read all files would take too long."""
        return digest("/".join(self.names), self.sizes_N2, np.array([path.stat().st_size for path in self.paths]))

    @property
    def paths(self) -> list[Path]:
        """The file of every image."""
        return [self.folder / name for name in self.names]

    def kept(self, indices: Indices) -> Files:
        """These images, in this order."""
        return Files(self.folder, [self.names[i] for i in indices.tolist()], self.sizes_N2[indices])

    def checked(self) -> Files:
        """The same, with every size known: those that are not stated are read from the files' heads.

        Raises ValueError where files are missing, which takes one look into each folder, not one a file.
        """
        there = {
            os.path.join(inside, name)
            for inside in {os.path.dirname(name) for name in self.names}
            for name in listed(self.folder / inside)
        }
        if missing := [name for name in self.names if name not in there]:
            raise ValueError(f"{self.folder / missing[0]} is missing ({len(missing)} of {len(self)} images are)")
        sizes_N2 = self.sizes_N2.copy()
        for number in np.flatnonzero((sizes_N2 == 0).any(1)).tolist():
            with opened(self.folder / self.names[number]) as image:
                sizes_N2[number] = image.size
        return replace(self, sizes_N2=sizes_N2)


@dataclass(frozen=True)
class Split:
    """Labelled images: a pool or a test set."""

    images: Images
    truth: Truth

    @classmethod
    def of_files(cls, files: Files, truth: Truth, source: Path) -> Split:
        """What a reader has read, once the files are found to be there and the boxes are clipped to their images.

        source: the file or folder that the boxes are from, to be named in messages.
        """
        files = files.checked()
        return cls(files, clipped(truth, files.sizes_N2, source))


@dataclass(frozen=True)
class Joined:
    """The images of several folders, one after the other; a name may be in each of them."""

    parts: Sequence[Images]

    @cached_property
    def first_P1(self) -> Indices:
        """Where each part begins, and the end of the last one."""
        return offsets(np.array([len(part) for part in self.parts], np.int64))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.first_P1[-1])

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W) uint8, RGB."""
        part = int(np.searchsorted(self.first_P1, number, side="right")) - 1
        return self.parts[part][number - int(self.first_P1[part])]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints."""
        return digest(*(part.fingerprint for part in self.parts))


def joined(splits: Sequence[Split]) -> Split:
    """The images of these splits with their boxes, one split after the other."""
    truths = [split.truth for split in splits]
    return Split(
        Joined([split.images for split in splits]),
        Truth(
            np.concatenate([truth.corners_B4 for truth in truths]),
            np.concatenate([truth.labels_B for truth in truths]),
            np.concatenate([truth.ignored_B for truth in truths]),
            offsets(np.concatenate([np.diff(truth.first_N1) for truth in truths])),
        ),
    )


def clipped(truth: Truth, sizes_N2: Indices, source: Path) -> Truth:
    """Boxes clipped to their image; those without area are dropped then, and those that are not finite.

    sizes_N2: width and height in pixels. Says in one line of the log how many boxes it changed, if any.
    """
    num_N = np.diff(truth.first_N1)
    limits_B4 = np.repeat(np.tile(sizes_N2, 2), num_N, axis=0).astype(np.float32)
    corners_B4 = truth.corners_B4.clip(0, limits_B4)
    has_area_B = np.all(corners_B4[:, :2] < corners_B4[:, 2:], axis=1)
    good_B = np.all(np.isfinite(truth.corners_B4), axis=1) & has_area_B
    num_clipped = int((good_B & (corners_B4 != truth.corners_B4).any(1)).sum())
    num_dropped = int((~good_B).sum())
    if num_clipped or num_dropped:
        logging.getLogger("al_benchmark").warning(
            "%s: %d boxes clipped to their image, %d without area dropped", source, num_clipped, num_dropped
        )
    first_N1 = offsets(good_B)[truth.first_N1]
    return Truth(corners_B4[good_B], truth.labels_B[good_B], truth.ignored_B[good_B], first_N1)


def offsets(nums: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Indices:
    """Where each run begins, from the lengths of the runs; one more for the end."""
    return np.concatenate([[0], np.cumsum(nums)], dtype=np.int64)


def once(values: Sequence[Hashable], what: str) -> None:
    """ValueError where a value is there twice; `what` says what they are, and the file that they are from."""
    if len(set(values)) < len(values):
        twice = next(value for value, num in Counter(values).items() if num > 1)
        raise ValueError(f"{what} {twice} is there twice")


def listed(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no such folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def eight_bits(image: Image.Image) -> Image.Image:
    """The image, unless more than 8 bits a channel would be lost, all but the darkest of them in white."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it is of mode {image.mode}, more than 8 bits a channel: convert it to 8 bits")
    return image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are read when used, in the block. ValueError names a file that is no image."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise what they like on broken files
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def with_boxes(split: Split) -> Split:
    """The images that have boxes which are not ignored: only one who knows the labels can tell."""
    assert isinstance(split.images, Files), "not from a reader"
    which = np.flatnonzero(split.truth.num_boxes_N)
    if not len(which):
        raise ValueError(f"{split.images.folder}: filter_empty=oracle leaves no image, for none has boxes")
    return Split(split.images.kept(which), split.truth.kept(which))


def reveals(*, filter_empty: str, **_: object) -> str:
    """What labels shaped the pool before they were paid for; "" for none."""
    oracle = "images without boxes were taken out of the pool by looking at their labels"
    return oracle if filter_empty == "oracle" else ""
