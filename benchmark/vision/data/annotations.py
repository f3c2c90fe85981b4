"""Images with boxes, the data of a detection or keypoint task, and the checks that every reader of a format shares.

Shapes: N images, B boxes of a split, M boxes of one image, H x W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Boxes, Indices
from benchmark.vision.data.image_checks import ImageScan, scan_images
from benchmark.vision.data.image_files import Exif, decode_image, is_hidden_name
from benchmark.vision.data.regular_files import printable
from benchmark.vision.fingerprints import digest

SPLIT_PLACEHOLDER = "SPLIT"  # stands in a path for the name of a split
LOG = logging.getLogger("al_benchmark")


class LayoutError(ValueError):
    """Files or folders of a data set are missing at the expected paths."""


class Images(Protocol):
    """A sequence of images at their stored sizes."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Tensor:
        """Reads one image.

        Returns:
            (3, H, W) uint8, RGB.

        Raises:
            ValueError: The image cannot be read; the message names it.
        """

    @property
    def fingerprint(self) -> str:
        """A hash of the pixels of all images."""


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of N images, image by image.

    Ignored boxes (difficult, crowd) are not trained on, and a prediction on them counts as neither right nor wrong.
    They cost annotation like all others.
    """

    corners_B4: npt.NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the stored image; a pixel is 1 wide
    labels_B: Indices  # classes 0..C-1
    ignored_B: npt.NDArray[np.bool_]
    offsets_N1: Indices  # the boxes of image i are rows offsets_N1[i]:offsets_N1[i + 1]

    @classmethod
    def from_boxes(
        cls,
        image_B: Indices,
        corners_B4: npt.NDArray[np.float32],
        labels_B: Indices,
        ignored_B: npt.NDArray[np.bool_],
        num_images: int,
    ) -> GroundTruth:
        """Groups boxes in any order by their images; boxes of one image keep their order.

        Args:
            image_B: The image of each box, 0..N-1.
            corners_B4: x1, y1, x2, y2 of each box in pixels.
            labels_B: The class of each box, 0..C-1.
            ignored_B: Whether each box is ignored.
            num_images: N, images without boxes included.
        """
        order_B = np.argsort(image_B, kind="stable")
        offsets_N1 = offsets(np.bincount(image_B, minlength=num_images))
        return cls(corners_B4[order_B], labels_B[order_B], ignored_B[order_B], offsets_N1)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.offsets_N1) - 1

    def boxes_of(self, index: int) -> Boxes:
        """The boxes of one image that are not ignored.

        Args:
            index: The position of the image.
        """
        rows = slice(self.offsets_N1[index], self.offsets_N1[index + 1])
        counts_M = ~self.ignored_B[rows]
        return Boxes(*(torch.from_numpy(values_B[rows][counts_M]) for values_B in (self.corners_B4, self.labels_B)))

    @cached_property
    def num_boxes_N(self) -> Indices:
        """(N,): the number of boxes of each image that are not ignored."""
        return np.diff(offsets(~self.ignored_B)[self.offsets_N1])

    def num_annotated_boxes(self, indices: Indices) -> int:
        """The number of annotated boxes of some images, ignored ones included.

        Args:
            indices: The positions of the images.
        """
        return int(np.diff(self.offsets_N1)[indices].sum())

    def select(self, indices: Indices) -> Self:
        """The boxes of some images.

        Args:
            indices: The positions of the images, in the order of the result.
        """
        num_N = np.diff(self.offsets_N1)[indices]
        offsets_N1 = offsets(num_N)
        rows_B = np.repeat(self.offsets_N1[indices] - offsets_N1[:-1], num_N) + np.arange(offsets_N1[-1])
        return self.select_boxes(rows_B, offsets_N1)

    def select_boxes(self, rows_B: Indices | npt.NDArray[np.bool_], offsets_N1: Indices) -> Self:
        """Some of the boxes.

        Args:
            rows_B: The rows of the boxes, in the order of the result, or a mask of all boxes.
            offsets_N1: The first row of each image's boxes in the result, and the number of boxes.
        """
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "offsets_N1"}
        by_box = {name: array_B[rows_B] for name, array_B in values.items() if isinstance(array_B, np.ndarray)}
        return replace(self, **by_box, offsets_N1=offsets_N1)


Truth = TypeVar("Truth", bound=GroundTruth)


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, decoded on access and turned as their EXIF tags say (see `image_files.turn_upright`).

    Access raises ValueError for a file that cannot be read, and for an image whose size is not the one that its
    annotation states, since its boxes then belong to another image.
    """

    folder: Path
    names: Sequence[str]  # paths of the files inside `folder`
    sizes_N2: Indices  # width and height in pixels, as the annotations state them; 0 where they state none
    exif: Exif = "turn"
    is_mask: bool = False  # whether the files are label maps
    cached_scans: Sequence[ImageScan] = ()  # the results of `with_scans`

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Reads one image: (3, H, W) uint8, RGB; (H, W) of a label map."""
        width, height = self.sizes_N2[index].tolist()
        image, _ = decode_image(self.folder / self.names[index], (width, height), self.exif, self.is_mask)
        pixels = torch.from_numpy(np.array(image))
        return pixels if self.is_mask else pixels.permute(2, 0, 1).contiguous()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images' pixels, independent of the files' names."""
        return digest(*(scan.pixel_hash for scan in self.scans()))

    def scans(self) -> Sequence[ImageScan]:
        """The scan of each image; files are read where that was not done before. Raises as `with_scans` does."""
        return self.cached_scans if len(self.cached_scans) == len(self) else self.with_scans().cached_scans

    @property
    def paths(self) -> list[Path]:
        """The path of every image."""
        return [self.folder / name for name in self.names]

    def select(self, indices: Indices) -> ImageFiles:
        """Some of the images.

        Args:
            indices: The positions of the images, in the order of the result.
        """
        positions = indices.tolist()
        scans = [self.cached_scans[i] for i in positions] if self.cached_scans else ()
        return replace(
            self, names=[self.names[i] for i in positions], sizes_N2=self.sizes_N2[indices], cached_scans=scans
        )

    def with_scans(self) -> ImageFiles:
        """Reads every file completely and returns a copy with the scans and the true sizes of all images.

        Raises:
            BadImagesError: Names all files that are missing, cannot be read or do not have the stated size.
        """
        sizes = [(width, height) for width, height in self.sizes_N2.tolist()]
        scans = scan_images(self.paths, sizes, self.exif, self.is_mask)
        sizes_N2 = np.array([(scan.width, scan.height) for scan in scans], np.int64).reshape(-1, 2)
        return replace(self, sizes_N2=sizes_N2, cached_scans=scans)


@dataclass(frozen=True)
class Split:
    """Images with their boxes: a pool or a test set."""

    images: Images
    truth: GroundTruth

    @classmethod
    def from_files(cls, files: ImageFiles, truth: GroundTruth, source: Path, first_pixel: int = 0) -> Split:
        """Checks that all files can be read, cleans the boxes with `clean_boxes` and returns both as a split.

        Args:
            files: The images.
            truth: Their boxes, with the corners as the annotation files state them.
            source: The file or folder of the boxes, for messages.
            first_pixel: The number of the first pixel of a row in the corners of `truth`, 0 or 1.

        Raises:
            BadImagesError: Names all files that are missing, cannot be read or do not have the stated size.
            ValueError: All boxes lie between 0 and 1.
        """
        files = files.with_scans()
        return cls(files, clean_boxes(truth, files, source, first_pixel))


@dataclass(frozen=True)
class ConcatenatedImages:
    """The images of several folders, one folder after the other; file names may repeat between folders."""

    parts: Sequence[Images]

    @cached_property
    def offsets_P1(self) -> Indices:
        """(P + 1,): the first position of each of P parts, and the number of images."""
        return offsets(np.array([len(part) for part in self.parts], np.int64))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.offsets_P1[-1])

    def __getitem__(self, index: int) -> Tensor:
        """Reads one image: (3, H, W) uint8, RGB."""
        part = int(np.searchsorted(self.offsets_P1, index, side="right")) - 1
        return self.parts[part][index - int(self.offsets_P1[part])]

    @cached_property
    def sizes_N2(self) -> Indices | None:
        """(N, 2): width and height of each image; None where a part does not know them."""
        sizes = [part_N2 for part in self.parts if (part_N2 := stored_sizes(part)) is not None]
        return np.concatenate(sizes) if len(sizes) == len(self.parts) else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints."""
        return digest(*(part.fingerprint for part in self.parts))

    def scans(self) -> Sequence[ImageScan]:
        """The scan of each image that lies in a file."""
        return [scan for part in self.parts for scan in image_scans(part)]


def image_scans(images: Images) -> Sequence[ImageScan]:
    """The scans of images that lie in files.

    Args:
        images: A sequence of images; one that lies in files has a method `scans`.

    Returns:
        The scans in order; an empty sequence for images in memory.
    """
    scans: Callable[[], Sequence[ImageScan]] = getattr(images, "scans", tuple)
    return scans()


def stored_sizes(images: Images) -> Indices | None:
    """The sizes of images as far as they are known without reading them.

    Args:
        images: A sequence of images; one that lies in files has `sizes_N2`.

    Returns:
        (N, 2) width and height in pixels; None where some are not known.
    """
    sizes_N2: Indices | None = getattr(images, "sizes_N2", None)
    return sizes_N2 if sizes_N2 is not None and sizes_N2.all() else None


def concatenate_splits(splits: Sequence[Split]) -> Split:
    """Concatenates the images and boxes of several splits.

    Args:
        splits: One split or more, with the same classes.

    Returns:
        One split, with the images in the order of `splits`.
    """
    truths = [split.truth for split in splits]
    return Split(
        ConcatenatedImages([split.images for split in splits]),
        GroundTruth(
            np.concatenate([truth.corners_B4 for truth in truths]),
            np.concatenate([truth.labels_B for truth in truths]),
            np.concatenate([truth.ignored_B for truth in truths]),
            offsets(np.concatenate([np.diff(truth.offsets_N1) for truth in truths])),
        ),
    )


def clean_boxes(truth: Truth, files: ImageFiles, source: Path, first_pixel: int = 0) -> Truth:
    """Clips boxes to their images and drops those without an area; no box is enlarged.

    A box has an area if x1 < x2 and y1 < y2, both as its file states them and after clipping. Points, lines, boxes
    with exchanged sides and sides that are not finite are therefore dropped. One line of the log counts the changes.

    Args:
        truth: Boxes with the corners as the annotation files state them.
        files: The images, with known sizes.
        source: The file or folder of the boxes, for messages.
        first_pixel: 0 if corners are distances from the image's edge. 1 if they are numbers of pixels that count from
            1, with the last pixel inside the box: the box then reaches from (x1 - 1, y1 - 1) to (x2, y2).

    Returns:
        The boxes that remain, in pixels from the image's edge.

    Raises:
        ValueError: All boxes lie between 0 and 1, so they are fractions of the image and not pixels.
    """
    if len(truth.labels_B) and files.sizes_N2.min() > 1 and (np.abs(truth.corners_B4) <= 1).all():
        raise ValueError(
            f"{source}: all boxes lie between 0 and 1: they must be in pixels, not in fractions of the image"
        )
    image_B = np.repeat(np.arange(len(files)), np.diff(truth.offsets_N1))
    unclipped_B4 = truth.corners_B4 - np.array([first_pixel, first_pixel, 0, 0], np.float32)
    corners_B4 = unclipped_B4.clip(0, np.tile(files.sizes_N2, 2)[image_B].astype(np.float32))
    finite_B = np.isfinite(truth.corners_B4).all(1)
    good_B = finite_B & has_area(truth.corners_B4) & has_area(corners_B4)
    exchanged_B = finite_B & (truth.corners_B4[:, :2] > truth.corners_B4[:, 2:]).any(1)
    changes = {
        "clipped to their image": good_B & (corners_B4 != unclipped_B4).any(1),
        "without area dropped": ~good_B & ~exchanged_B,
        "with exchanged sides dropped": exchanged_B,
        "thinner than a pixel kept": good_B & (corners_B4[:, 2:] - corners_B4[:, :2] < 1).any(1),
    }
    if counts := [
        f"{changed_B.sum()} {change} (the first in {printable(files.names[image_B[changed_B][0]])})"
        for change, changed_B in changes.items()
        if changed_B.any()
    ]:
        LOG.warning("%s: of %d boxes %s", source, len(good_B), ", ".join(counts))
    offsets_N1 = offsets(good_B)[truth.offsets_N1]
    return replace(truth, corners_B4=corners_B4).select_boxes(good_B, offsets_N1)


def has_area(corners_B4: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(B,): whether each box has x1 < x2 and y1 < y2."""
    has_area_B: npt.NDArray[np.bool_] = np.all(corners_B4[:, :2] < corners_B4[:, 2:], axis=1)
    return has_area_B


def offsets(lengths: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Indices:
    """(R + 1,): the first position of each of R consecutive runs, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths)], dtype=np.int64)


def list_names(folder: Path) -> list[str]:
    """Lists a folder.

    Args:
        folder: The folder, which need not exist.

    Returns:
        The sorted names in it, without hidden ones; an empty list if there is no such folder.
    """
    return sorted(name for name in os.listdir(folder) if not is_hidden_name(name)) if folder.is_dir() else []
