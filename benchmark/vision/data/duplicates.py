"""The files of a task's images: their names, and duplicates among them.

Shapes: N images, D grey values of a thumbnail, U distinct thumbnails.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from benchmark.vision.data.image_checks import THUMBNAIL_SIDE, ImageScan, warn_once
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.user_cache import read_or_compute

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

TEST_NEAR_POOL = "test images that nearly equal one of the pool"
POOL_NEAR_POOL = "images of the pool that nearly equal another"
FAULT_PREFIX = "FAULT: "  # begins a remark on a problem that makes results wrong
MAX_NEAR_DISTANCE = 2.0  # of 255: the root mean square difference of the thumbnails of nearly equal images
FORMAT = 1  # of stored near duplicates; raised when the search or its results change
MIN_CONTRAST = 16.0  # of 255: thumbnails with a smaller standard deviation look alike for different images


@dataclass(frozen=True)
class Sources:
    """The scanned files of a pool and a test set.

    Args:
        pool: The scans of the pool, empty if its images are in no files.
        test: The scans of the test set, likewise.
        root: The data set's folder; None for the deepest folder that holds all files.
    """

    pool: Sequence[ImageScan] = ()
    test: Sequence[ImageScan] = ()
    root: Path | None = None

    def file_hashes(self) -> dict[str, list[tuple[str, str]]]:
        """The path and the pixel hash of each image, for "pool" and "test"; see `FromFiles.source_files`."""
        if not self.pool:
            return {}
        parts = {"pool": self.pool, "test": self.test}
        return {part: [(self.relative_path(scan), scan.pixel_hash) for scan in scans] for part, scans in parts.items()}

    def relative_path(self, scan: ImageScan) -> str:
        """A file's path inside the data set's folder, with `/`; the absolute path of a file that lies elsewhere."""
        path = os.path.abspath(scan.path)
        inside = os.path.relpath(path, self.folder)
        return Path(path if inside.startswith(os.pardir) else inside).as_posix()

    def printable_path(self, scan: ImageScan) -> str:
        """The relative path, made safe for a line of the log."""
        return printable(self.relative_path(scan))

    @cached_property
    def folder(self) -> str:
        """The data set's folder."""
        if self.root is not None:
            return os.path.abspath(self.root)
        return os.path.commonpath({os.path.abspath(scan.path.parent) for scan in (*self.pool, *self.test)})

    @cached_property
    def remarks(self) -> list[str]:
        """Sentences on duplicate images: exact ones and near ones."""
        if not self.pool:
            return []
        pool, test = (np.array([scan.pixel_hash for scan in scans]) for scans in (self.pool, self.test))
        is_leaked_N = np.isin(test, pool)
        lines = [
            self.leak_remark(is_leaked_N),
            self.duplicate_remark("pool", self.pool),
            self.duplicate_remark("test set", self.test),
        ]
        tests = [scan for scan, is_leaked in zip(self.test, is_leaked_N, strict=True) if not is_leaked]
        return [
            line
            for line in [*lines, *self.near_duplicate_remarks(with_contrast(self.pool), with_contrast(tests))]
            if line
        ]

    def leak_remark(self, is_leaked_N: npt.NDArray[np.bool_]) -> str:
        """The remark on test images that are also in the pool; "" if there are none."""
        if not is_leaked_N.any():
            return ""
        first = self.test[int(np.flatnonzero(is_leaked_N)[0])]
        same = next(scan for scan in self.pool if scan.pixel_hash == first.pixel_hash)
        example = f"{self.printable_path(first)} is {self.printable_path(same)}"
        return (
            f"{FAULT_PREFIX}test images that are in the pool too, equal to the pixel: {is_leaked_N.sum():,} of "
            f"{len(is_leaked_N):,} ({example}); scores are not of new images"
        )

    def duplicate_remark(self, part: str, scans: Sequence[ImageScan]) -> str:
        """The remark on images that occur more than once in one part; "" if there are none."""
        groups = defaultdict[str, list[ImageScan]](list)
        for scan in scans:
            groups[scan.pixel_hash].append(scan)
        duplicates = [group for group in groups.values() if len(group) > 1]
        if not duplicates:
            return ""
        num_repeated, (first, second, *_) = len(scans) - len(groups), duplicates[0]
        count = f"{num_repeated:,} of {len(scans):,} ({self.printable_path(second)} is {self.printable_path(first)})"
        return f"images of the {part} that equal an earlier one of it to the pixel: {count}"

    def near_duplicate_remarks(self, pool: Sequence[ImageScan], test: Sequence[ImageScan]) -> list[str]:
        """Remarks on near duplicates: test images of pool images, and pool images of each other."""
        if not pool:
            return []
        other_N, other_test_N = near_duplicates(thumbnail_array(pool), thumbnail_array(test))
        return [
            self.near_duplicate_remark(test, pool, other_test_N, TEST_NEAR_POOL),
            self.near_duplicate_remark(pool, pool, other_N, POOL_NEAR_POOL),
        ]

    def near_duplicate_remark(
        self, scans: Sequence[ImageScan], pool: Sequence[ImageScan], other_N: npt.NDArray[np.int64], description: str
    ) -> str:
        """The remark on images that have a near duplicate in the pool; "" if there are none.

        `other_N` is the position of each image's duplicate in the pool, len(pool) for images without one.
        """
        positions = np.flatnonzero(other_N < len(pool))
        if not len(positions):
            return ""
        last = int(positions[-1])  # not the first: of equal thumbnails the first one is its own duplicate
        pair = f"{self.printable_path(scans[last])} and {self.printable_path(pool[int(other_N[last])])}"
        return f"{description}: {len(positions):,} ({pair})"


def with_contrast(scans: Sequence[ImageScan]) -> list[ImageScan]:
    """The first of each group of exact duplicates, without images of low contrast."""
    firsts = list({scan.pixel_hash: scan for scan in reversed(scans)}.values())[::-1]
    is_flat_N = thumbnail_array(firsts).astype(np.float32).std(1) < MIN_CONTRAST
    return [scan for scan, is_flat in zip(firsts, is_flat_N, strict=True) if not is_flat]


def thumbnail_array(scans: Sequence[ImageScan]) -> npt.NDArray[np.uint8]:
    """(N, D): the thumbnails."""
    return np.frombuffer(b"".join(scan.thumbnail for scan in scans), np.uint8).reshape(-1, THUMBNAIL_SIDE**2)


def near_duplicates(
    pool_ND: npt.NDArray[np.uint8], test_MD: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Finds for each image another image of the pool whose thumbnail nearly equals its own.

    Args:
        pool_ND: The thumbnails of the pool.
        test_MD: The thumbnails of the test set.

    Returns:
        (N,) and (M,): the positions of the other images in the pool, N for images without one.
    """

    def search() -> dict[str, torch.Tensor]:
        from scipy.spatial import cKDTree  # not above: it takes 0.4 s to import, and results are mostly read

        values_UD, first_U, which_N, num_U = np.unique(
            pool_ND.astype(np.float32), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        tree, first_or_none_U1 = cKDTree(values_UD), np.append(first_U, len(pool_ND))
        other_U = first_or_none_U1[nth_nearest(tree, values_UD, 2)]
        other_U[num_U > 1] = first_U[num_U > 1]
        other_test_M = first_or_none_U1[nth_nearest(tree, test_MD.astype(np.float32), 1)]
        return {"pool": torch.from_numpy(other_U[which_N.ravel()]), "test": torch.from_numpy(other_test_M)}

    others = read_or_compute(["near duplicates", FORMAT, MAX_NEAR_DISTANCE, pool_ND, test_MD], search)
    return others["pool"].numpy(), others["test"].numpy()


def nth_nearest(tree: cKDTree, values_ND: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.int64]:
    """(N,): the position in the tree of the n-th nearest thumbnail within MAX_NEAR_DISTANCE, else the tree's size."""
    _, position_N1 = tree.query(values_ND, [n], distance_upper_bound=MAX_NEAR_DISTANCE * THUMBNAIL_SIDE, workers=-1)
    position_N: npt.NDArray[np.int64] = position_N1[:, 0]
    return position_N


def report_sources(pool: Sequence[ImageScan], test: Sequence[ImageScan], root: Path | None) -> Sources:
    """Builds the `Sources` of a task and logs their remarks.

    Args:
        pool: The scans of the pool, empty if its images are in no files.
        test: The scans of the test set, likewise.
        root: The data set's folder; None for the deepest folder that holds all files.
    """
    sources = Sources(pool, test, root)
    for line in sources.remarks:
        warn_once(line)
    return sources
