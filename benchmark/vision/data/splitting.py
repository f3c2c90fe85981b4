"""A pool and a test set with boxes: how one data set is divided, and what both must have.

Shapes: N images, B boxes of a split.
"""

from __future__ import annotations

import os

import numpy as np

from benchmark.vision.data.annotations import LOG, ImageFiles, Split
from benchmark.vision.fingerprints import derive_seed


def check_has_boxes(pool: Split, test: Split) -> None:
    """Checks that the pool and the test set each have at least one box that is not ignored.

    Args:
        pool: The pool.
        test: The test set.

    Raises:
        ValueError: One of them has none.
    """
    for name, split, purpose in (("pool", pool, "learn from"), ("test set", test, "score")):
        truth, prefix = split.truth, f"{split.images.folder}: " if isinstance(split.images, ImageFiles) else ""
        if not truth.num_boxes_N.any():
            ignored = f" that counts ({len(truth.labels_B)} are ignored)" if len(truth.labels_B) else ""
            problem = f"none of the {len(truth)} images of the {name} has a box{ignored}"
            raise ValueError(f"{prefix}{problem}: there is nothing to {purpose}")


def check_disjoint(pool: Split, test: Split) -> None:
    """Checks that the pool and the test set are different images.

    Args:
        pool: The pool, with images in files (`ImageFiles`).
        test: The test set, likewise.

    Raises:
        ValueError: A file is in both, or both have the same names, sizes and boxes.
    """
    pool_files, test_files = pool.images, test.images
    assert isinstance(pool_files, ImageFiles) and isinstance(test_files, ImageFiles), "not from a reader"
    pool_paths, test_paths = (
        {files.folder.resolve() / name for name in files.names} for files in (pool_files, test_files)
    )
    if both := sorted(pool_paths & test_paths):
        count = f"{len(both)} of {len(test_paths)} test images are"
        raise ValueError(f"{both[0]} is in the pool and in the test set ({count})")
    same = [
        np.array_equal(first, second)
        for first, second in (
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
    """Splits images into a pool and a test set.

    Whether an image is a test image depends on its file name alone, so images that are added later do not move the
    others. Images of a class that would be missing from the pool stay in the pool.

    Args:
        whole: All images, in files (`ImageFiles`).
        share: The share of test images, between 0 and 1; it is met approximately.

    Returns:
        The pool and the test set.

    Raises:
        ValueError: `share` is out of range, or there are too few images for two parts.
    """
    files, truth = whole.images, whole.truth
    assert isinstance(files, ImageFiles), "not from a reader"
    if not 0 < share < 1:
        raise ValueError(f"split={share}: must be the share of test images, between 0 and 1")
    draws_N = np.array([derive_seed(0, f"split {os.path.splitext(name)[0]}") / 2**63 for name in files.names])
    is_test_N = draws_N <= max(share, draws_N.min())  # at least one
    image_B = np.repeat(np.arange(len(files)), np.diff(truth.offsets_N1))
    in_pool_B = np.isin(truth.labels_B, truth.labels_B[~is_test_N[image_B]])
    if len(rare := np.unique(image_B[~in_pool_B])):
        LOG.warning("split=%g: %d images stay in the pool: without them it would lack a class", share, len(rare))
        is_test_N[rare] = False
    if is_test_N.all() or not is_test_N.any():
        raise ValueError(f"{files.folder}: split={share}: {len(files)} images are too few for a pool and a test set")
    pool, test = (
        Split(files.select(indices), truth.select(indices)) for indices in map(np.flatnonzero, (~is_test_N, is_test_N))
    )
    return pool, test


def drop_empty_images(split: Split) -> Split:
    """Removes the images without a box that counts; this looks at the labels of all images.

    Args:
        split: Images in files (`ImageFiles`).

    Returns:
        The images that have a box that is not ignored.

    Raises:
        ValueError: No image has such a box.
    """
    assert isinstance(split.images, ImageFiles), "not from a reader"
    indices = np.flatnonzero(split.truth.num_boxes_N)
    if not len(indices):
        raise ValueError(f"{split.images.folder}: filter_empty=oracle leaves no image, because none has a box")
    return Split(split.images.select(indices), split.truth.select(indices))


def label_leakage(*, filter_empty: str, **_: object) -> str:
    """Says how labels shaped the pool before they were paid for; to be passed to `register_task`.

    Args:
        filter_empty: The task's parameter of that name.

    Returns:
        A sentence; "" if labels did not shape the pool.
    """
    leakage = "images without boxes were taken out of the pool by looking at their labels"
    return leakage if filter_empty == "oracle" else ""
