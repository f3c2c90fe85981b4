"""The files that a task's images are from: their names, and what is odd about them.

Shapes: N images, D greys of a thumbnail, U different thumbnails.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from benchmark.vision.data.image_checks import THUMBNAIL_SIDE, ImageScan, warn_once
from benchmark.vision.data.regular_files import printable

TEST_NEAR_POOL, POOL_NEAR_POOL = (
    "test images that nearly equal one of the pool",
    "images of the pool that nearly equal another",
)
FAULT_PREFIX = "FAULT: "  # begins a remark on what makes results wrong
MAX_NEAR_DISTANCE = 2.0  # greys of 255, root mean square over a thumbnail, by which nearly equal images differ at most
MIN_CONTRAST = 16.0  # greys, the standard deviation of a thumbnail, below which images look alike without being so


@dataclass(frozen=True)
class Sources:
    """What is known of the files of a pool and a test set; empty where images are in none."""

    pool: Sequence[ImageScan] = ()
    test: Sequence[ImageScan] = ()
    root: Path | None = None  # the data set's folder; None: the deepest that holds all files

    def file_hashes(self) -> dict[str, list[tuple[str, str]]]:
        """Name and hash of pixels of each image; see `Task.source_files`."""
        if not self.pool:
            return {}
        parts = {"pool": self.pool, "test": self.test}
        return {part: [(self.relative_path(scan), scan.pixel_hash) for scan in scans] for part, scans in parts.items()}

    def relative_path(self, scan: ImageScan) -> str:
        """A file's path inside the data set's folder, with `/`; the whole path of one that is elsewhere."""
        path = os.path.abspath(scan.path)
        inside = os.path.relpath(path, self.folder)
        return Path(path if inside.startswith(os.pardir) else inside).as_posix()

    def printable_path(self, scan: ImageScan) -> str:
        """The same for a line of the log."""
        return printable(self.relative_path(scan))

    @cached_property
    def folder(self) -> str:
        """The data set's folder."""
        folders = {os.path.abspath(scan.path.parent) for scan in (*self.pool, *self.test)}
        return os.path.commonpath(folders) if self.root is None else os.path.abspath(self.root)

    @cached_property
    def remarks(self) -> list[str]:
        """What is odd: images that are there twice, equal to the pixel or nearly."""
        if not self.pool:
            return []
        pool, test = (np.array([scan.pixel_hash for scan in scans]) for scans in (self.pool, self.test))
        both = np.isin(test, pool)
        lines = [
            self.leak_remark(both),
            self.duplicate_remark("pool", self.pool),
            self.duplicate_remark("test set", self.test),
        ]
        tests = [scan for scan, same in zip(self.test, both, strict=True) if not same]  # those are said
        return [
            line
            for line in [*lines, *self.near_duplicate_remarks(with_contrast(self.pool), with_contrast(tests))]
            if line
        ]

    def leak_remark(self, both_N: npt.NDArray[np.bool_]) -> str:
        """That test images are in the pool."""
        if not both_N.any():
            return ""
        first = self.test[int(np.flatnonzero(both_N)[0])]
        same = next(scan for scan in self.pool if scan.pixel_hash == first.pixel_hash)
        count = f"{both_N.sum():,} of {len(both_N):,} ({self.printable_path(first)} is {self.printable_path(same)})"
        return f"{FAULT_PREFIX}test images that are in the pool too, equal to the pixel: {count}; scores are not of new images"

    def duplicate_remark(self, part: str, scans: Sequence[ImageScan]) -> str:
        """That images of one part are there more than once."""
        groups = defaultdict[str, list[ImageScan]](list)
        for scan in scans:
            groups[scan.pixel_hash].append(scan)
        groups_of_many = [group for group in groups.values() if len(group) > 1]
        if not groups_of_many:
            return ""
        more, (first, second, *_) = len(scans) - len(groups), groups_of_many[0]
        count = f"{more:,} of {len(scans):,} ({self.printable_path(second)} is {self.printable_path(first)})"
        return f"images of the {part} that equal an earlier one of it to the pixel: {count}"

    def near_duplicate_remarks(self, pool: Sequence[ImageScan], test: Sequence[ImageScan]) -> list[str]:
        """That images nearly equal others: tests those of the pool, and images of the pool each other."""
        if not pool:
            return []
        values_UD, first_U, which_N, num_U = np.unique(
            thumbnail_array(pool), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        tree = cKDTree(values_UD)
        other_U = np.append(first_U, len(pool))[nth_nearest(tree, values_UD, 2)]
        other_U[num_U > 1] = first_U[num_U > 1]
        return [
            self.near_duplicate_remark(
                test, pool, np.append(first_U, len(pool))[nth_nearest(tree, thumbnail_array(test), 1)], TEST_NEAR_POOL
            ),
            self.near_duplicate_remark(pool, pool, other_U[which_N.ravel()], POOL_NEAR_POOL),
        ]

    def near_duplicate_remark(
        self, scans: Sequence[ImageScan], pool: Sequence[ImageScan], other_N: npt.NDArray[np.int64], what: str
    ) -> str:
        """That some of these images nearly equal one of the pool, `other_N`; its length where there is none."""
        which = np.flatnonzero(other_N < len(pool))
        if not len(which):
            return ""
        last = int(which[-1])  # the first of equal thumbnails has itself for the other
        pair = f"{self.printable_path(scans[last])} and {self.printable_path(pool[int(other_N[last])])}"
        return f"{what}: {len(which):,} ({pair})"


def with_contrast(scans: Sequence[ImageScan]) -> list[ImageScan]:
    """The first image of each kind of pixels, but for those without contrast."""
    firsts = list({scan.pixel_hash: scan for scan in reversed(scans)}.values())[::-1]
    flat_N = thumbnail_array(firsts).std(1) < MIN_CONTRAST
    return [scan for scan, flat in zip(firsts, flat_N, strict=True) if not flat]


def thumbnail_array(scans: Sequence[ImageScan]) -> npt.NDArray[np.float32]:
    """(N, D): the thumbnails."""
    return (
        np.frombuffer(b"".join(scan.thumbnail for scan in scans), np.uint8)
        .reshape(-1, THUMBNAIL_SIDE**2)
        .astype(np.float32)
    )


def nth_nearest(tree: cKDTree, values_ND: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.int64]:
    """(N,): for each thumbnail the `number`-th nearest of the tree's if it is near, else how many the tree has."""
    _, place_N1 = tree.query(values_ND, [n], distance_upper_bound=MAX_NEAR_DISTANCE * THUMBNAIL_SIDE, workers=-1)
    place_N: npt.NDArray[np.int64] = place_N1[:, 0]
    return place_N


def report_sources(pool: Sequence[ImageScan], test: Sequence[ImageScan], root: Path | None) -> Sources:
    """The files of a task, whose remarks are said in the log."""
    sources = Sources(pool, test, root)
    for line in sources.remarks:
        warn_once(line)
    return sources
