"""Images with boxes: what a detection task is given, and what every reader of a format does to it.

Shapes: N images, B boxes of a split, M boxes of one image, H x W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Boxes, Indices
from benchmark.vision.data.image_checks import ImageScan, scan_images
from benchmark.vision.data.image_files import Exif, decode_image, is_hidden_name
from benchmark.vision.data.regular_files import printable
from benchmark.vision.fingerprints import derive_seed, digest

SPLIT_PLACEHOLDER = "SPLIT"  # in a path: the name of a split
LOG = logging.getLogger("al_benchmark")


class LayoutError(ValueError):
    """Parts of a data set are not where they were looked for."""


class Images(Protocol):
    """Images as they are stored."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8, RGB. ValueError names an image that cannot be had."""

    @property
    def fingerprint(self) -> str:
        """A hash of the images."""


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of N images, image by image. Ignored boxes (difficult, crowd) are not trained on, and a
    prediction on them is neither right nor wrong; somebody drew them, so they are paid for."""

    corners_B4: npt.NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the stored image; a pixel is 1 wide
    labels_B: Indices  # classes 0..C-1
    ignored_B: npt.NDArray[np.bool_]
    offsets_N1: Indices  # boxes of image i: first_N1[i]:first_N1[i + 1]

    @classmethod
    def from_boxes(
        cls,
        image_B: Indices,
        corners_B4: npt.NDArray[np.float32],
        labels_B: Indices,
        ignored_B: npt.NDArray[np.bool_],
        num_images: int,
    ) -> GroundTruth:
        """Boxes in any order, `image_B` the image (0..N-1) of each; those of one image keep their order."""
        order_B = np.argsort(image_B, kind="stable")
        first_N1 = offsets(np.bincount(image_B, minlength=num_images))
        return cls(corners_B4[order_B], labels_B[order_B], ignored_B[order_B], first_N1)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.offsets_N1) - 1

    def boxes_of(self, index: int) -> Boxes:
        """The boxes of one image that are not ignored."""
        which = slice(self.offsets_N1[index], self.offsets_N1[index + 1])
        seen_M = ~self.ignored_B[which]
        return Boxes(*(torch.from_numpy(rows_B[which][seen_M]) for rows_B in (self.corners_B4, self.labels_B)))

    @cached_property
    def num_boxes_N(self) -> Indices:
        """(N,): boxes that are not ignored, by image."""
        return np.diff(offsets(~self.ignored_B)[self.offsets_N1])

    def num_annotated_boxes(self, indices: Indices) -> int:
        """Boxes of these images that somebody drew, ignored ones too."""
        return int(np.diff(self.offsets_N1)[indices].sum())

    def select(self, indices: Indices) -> GroundTruth:
        """The boxes of these images, in this order."""
        num_N = np.diff(self.offsets_N1)[indices]
        first_N1 = offsets(num_N)
        which_B = np.repeat(self.offsets_N1[indices] - first_N1[:-1], num_N) + np.arange(first_N1[-1])
        return GroundTruth(self.corners_B4[which_B], self.labels_B[which_B], self.ignored_B[which_B], first_N1)


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, decoded when asked for, and turned as their EXIF tags say: see `image_files.upright`.

    Raises ValueError for a file that cannot be read, and for one that is not of the size that its annotation states:
    then the boxes are another image's.
    """

    folder: Path
    names: Sequence[str]
    sizes_N2: Indices  # width and height in pixels, as the annotations state them; 0: not stated
    exif: Exif = "turn"
    is_mask: bool = False  # whether the files are label maps
    cached_scans: Sequence[ImageScan] = ()  # what `checked` has found

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8, RGB; (H, W) of a mask."""
        width, height = self.sizes_N2[index].tolist()
        image, _ = decode_image(self.folder / self.names[index], (width, height), self.exif, self.is_mask)
        pixels = torch.from_numpy(np.array(image))
        return pixels if self.is_mask else pixels.permute(2, 0, 1).contiguous()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images' pixels, whatever their files are called."""
        return digest(*(scan.pixel_hash for scan in self.scans()))

    def scans(self) -> Sequence[ImageScan]:
        """What is known of each image. Raises BadImages as `checked` does."""
        return self.cached_scans if len(self.cached_scans) == len(self) else self.with_scans().cached_scans

    @property
    def paths(self) -> list[Path]:
        """The file of every image."""
        return [self.folder / name for name in self.names]

    def select(self, indices: Indices) -> ImageFiles:
        """These images, in this order."""
        which = indices.tolist()
        known = [self.cached_scans[i] for i in which] if self.cached_scans else ()
        return replace(self, names=[self.names[i] for i in which], sizes_N2=self.sizes_N2[indices], cached_scans=known)

    def with_scans(self) -> ImageFiles:
        """The same, once every file was read whole: with the size of every image, as it is read.

        Raises BadImages for all files that are missing or cannot be read, and for all that are not of the size stated.
        """
        sizes = [(width, height) for width, height in self.sizes_N2.tolist()]
        known = scan_images(self.paths, sizes, self.exif, self.is_mask)
        sizes_N2 = np.array([(scan.width, scan.height) for scan in known], np.int64).reshape(-1, 2)
        return replace(self, sizes_N2=sizes_N2, cached_scans=known)


@dataclass(frozen=True)
class Split:
    """Labelled images: a pool or a test set."""

    images: Images
    truth: GroundTruth

    @classmethod
    def from_files(cls, files: ImageFiles, truth: GroundTruth, source: Path, first_pixel: int = 0) -> Split:
        """What a reader has read, once the files are found to be there and the boxes went through `usable`.

        source: the file or folder that the boxes are from, to be named in messages.
        first_pixel: the number of the first pixel of a row, 0 or 1, in the corners of `truth`.
        """
        files = files.with_scans()
        return cls(files, clean_boxes(truth, files, source, first_pixel))


@dataclass(frozen=True)
class ConcatenatedImages:
    """The images of several folders, one after the other; a name may be in each of them."""

    parts: Sequence[Images]

    @cached_property
    def offsets_P1(self) -> Indices:
        """Where each part begins, and the end of the last one."""
        return offsets(np.array([len(part) for part in self.parts], np.int64))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.offsets_P1[-1])

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8, RGB."""
        part = int(np.searchsorted(self.offsets_P1, index, side="right")) - 1
        return self.parts[part][index - int(self.offsets_P1[part])]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints."""
        return digest(*(part.fingerprint for part in self.parts))

    def scans(self) -> Sequence[ImageScan]:
        """What is known of each image that is in a file."""
        return [scan for part in self.parts for scan in image_scans(part)]


def image_scans(images: Images) -> Sequence[ImageScan]:
    """What is known of the images' files; nothing where they are in none."""
    scans: Callable[[], Sequence[ImageScan]] = getattr(images, "scans", tuple)
    return scans()


def concatenate_splits(splits: Sequence[Split]) -> Split:
    """The images of these splits with their boxes, one split after the other."""
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


def clean_boxes(truth: GroundTruth, files: ImageFiles, source: Path, first_pixel: int = 0) -> GroundTruth:
    """The boxes of files in any format, clipped to their images; those without area are dropped, none is widened.

    A box has an area where its right side lies beyond its left one and its lower side beyond its upper one, as its
    file states them and once it is clipped: points, lines, exchanged sides and sides that are not finite are no boxes.
    Says in one line of the log how many boxes it changed, if any.

    Args:
        truth: corners as the files state them.
        files: the images, of sizes that are known.
        source: the file or folder that the boxes are from.
        first_pixel: 0 where corners are lengths from the image's edge; 1 where they are numbers of pixels from 1 on,
            the last one inside the box: it reaches from (x1 - 1, y1 - 1) to (x2, y2) then.

    Raises:
        ValueError: for boxes that all lie between 0 and 1, which are shares of an image and no pixels.
    """
    if len(truth.labels_B) and files.sizes_N2.min() > 1 and (np.abs(truth.corners_B4) <= 1).all():
        raise ValueError(f"{source}: all boxes lie between 0 and 1: they must be in pixels, not in shares of the image")
    image_B = np.repeat(np.arange(len(files)), np.diff(truth.offsets_N1))
    whole_B4 = truth.corners_B4 - np.array([first_pixel, first_pixel, 0, 0], np.float32)
    corners_B4 = whole_B4.clip(0, np.tile(files.sizes_N2, 2)[image_B].astype(np.float32))
    finite_B = np.isfinite(truth.corners_B4).all(1)
    good_B = finite_B & has_area(truth.corners_B4) & has_area(corners_B4)
    exchanged_B = finite_B & (truth.corners_B4[:, :2] > truth.corners_B4[:, 2:]).any(1)
    changes = {
        "clipped to their image": good_B & (corners_B4 != whole_B4).any(1),
        "without area dropped": ~good_B & ~exchanged_B,
        "with exchanged sides dropped": exchanged_B,
        "thinner than a pixel kept": good_B & (corners_B4[:, 2:] - corners_B4[:, :2] < 1).any(1),
    }
    if counts := [
        f"{which_B.sum()} {what} (the first in {printable(files.names[image_B[which_B][0]])})"
        for what, which_B in changes.items()
        if which_B.any()
    ]:
        LOG.warning("%s: of %d boxes %s", source, len(good_B), ", ".join(counts))
    first_N1 = offsets(good_B)[truth.offsets_N1]
    return GroundTruth(corners_B4[good_B], truth.labels_B[good_B], truth.ignored_B[good_B], first_N1)


def has_area(corners_B4: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(B,): whether the second corner lies to the right of the first and below it."""
    has_area_B: npt.NDArray[np.bool_] = np.all(corners_B4[:, :2] < corners_B4[:, 2:], axis=1)
    return has_area_B


def check_has_boxes(pool: Split, test: Split) -> None:
    """ValueError where no image of the pool, or none of the test set, has a box that is not ignored."""
    for name, split, purpose in (("pool", pool, "learn from"), ("test set", test, "score")):
        truth, where = split.truth, f"{split.images.folder}: " if isinstance(split.images, ImageFiles) else ""
        if not truth.num_boxes_N.any():
            ignored = f" that counts ({len(truth.labels_B)} are ignored)" if len(truth.labels_B) else ""
            what = f"none of the {len(truth)} images of the {name} has a box{ignored}"
            raise ValueError(f"{where}{what}: there is nothing to {purpose}")


def check_disjoint(pool: Split, test: Split) -> None:
    """ValueError where a file is in the pool and in the test set, or where both are the same images by their names,
    sizes and boxes."""
    pool_files, test_files = pool.images, test.images
    assert isinstance(pool_files, ImageFiles) and isinstance(test_files, ImageFiles), "not from a reader"
    ours, others = ({files.folder.resolve() / name for name in files.names} for files in (pool_files, test_files))
    if both := sorted(ours & others):
        raise ValueError(f"{both[0]} is in the pool and in the test set ({len(both)} of {len(others)} test images are)")
    same = [
        np.array_equal(one, other)
        for one, other in (
            (pool_files.names, test_files.names),
            (pool_files.sizes_N2, test_files.sizes_N2),
            (pool.truth.corners_B4, test.truth.corners_B4),
            (pool.truth.offsets_N1, test.truth.offsets_N1),
        )
    ]
    if all(same):
        raise ValueError(
            f"{test_files.folder} holds the same images with the same boxes as {pool_files.folder}: a test set must be "
            "of images that are not in the pool"
        )


def pool_test_split(whole: Split, share: float) -> tuple[Split, Split]:
    """A pool and a test set of about this share of the images, each drawn by its own name: images that are added later
    change nothing for the others. Images of a class that the pool would be without stay in the pool."""
    files, truth = whole.images, whole.truth
    assert isinstance(files, ImageFiles), "not from a reader"
    if not 0 < share < 1:
        raise ValueError(f"split={share}: must be the share of the images to test on, between 0 and 1")
    draws_N = np.array([derive_seed(0, f"split {os.path.splitext(name)[0]}") / 2**63 for name in files.names])
    is_test_N = draws_N <= max(share, draws_N.min())  # at least one
    image_B = np.repeat(np.arange(len(files)), np.diff(truth.offsets_N1))
    known_B = np.isin(truth.labels_B, truth.labels_B[~is_test_N[image_B]])
    if len(stay := np.unique(image_B[~known_B])):
        LOG.warning("split=%g: %d images stay in the pool, as others of their classes are not in it", share, len(stay))
        is_test_N[stay] = False
    if is_test_N.all() or not is_test_N.any():
        raise ValueError(f"{files.folder}: split={share}: {len(files)} images are too few for a pool and a test set")
    pool, test = (
        Split(files.select(which), truth.select(which)) for which in map(np.flatnonzero, (~is_test_N, is_test_N))
    )
    return pool, test


def offsets(lengths: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Indices:
    """Where each run begins, from the lengths of the runs; one more for the end."""
    return np.concatenate([[0], np.cumsum(lengths)], dtype=np.int64)


def list_names(folder: Path) -> list[str]:
    """The names in a folder, sorted, but for hidden ones; none where there is no such folder."""
    return sorted(name for name in os.listdir(folder) if not is_hidden_name(name)) if folder.is_dir() else []


def drop_empty_images(split: Split) -> Split:
    """The images that have boxes which are not ignored: only one who knows the labels can tell."""
    assert isinstance(split.images, ImageFiles), "not from a reader"
    which = np.flatnonzero(split.truth.num_boxes_N)
    if not len(which):
        raise ValueError(f"{split.images.folder}: filter_empty=oracle leaves no image, for none has boxes")
    return Split(split.images.select(which), split.truth.select(which))


def label_leakage(*, filter_empty: str, **_: object) -> str:
    """What labels shaped the pool before they were paid for; "" for none."""
    oracle = "images without boxes were taken out of the pool by looking at their labels"
    return oracle if filter_empty == "oracle" else ""
