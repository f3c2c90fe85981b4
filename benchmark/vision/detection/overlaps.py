"""How far the boxes of an image overlap each other. Shapes: N images, B boxes of all images, M of one image."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from benchmark.api import Indices


def largest_overlaps(corners_B4: npt.NDArray[np.float32], offsets_N1: Indices) -> npt.NDArray[np.float32]:
    """(B,): the largest IoU of each box with another box of its image, of any class; 0 for a box that overlaps none.

    Args:
        corners_B4: x1, y1, x2, y2 of each box, image by image.
        offsets_N1: where the boxes of each image begin, and their number at the end.
    """
    overlap_B = np.zeros(len(corners_B4), np.float32)
    for start, end in itertools.pairwise(offsets_N1.tolist()):
        corners_M4 = corners_B4[start:end].astype(np.float64)
        low_MM2 = np.maximum(corners_M4[:, None, :2], corners_M4[None, :, :2])
        high_MM2 = np.minimum(corners_M4[:, None, 2:], corners_M4[None, :, 2:])
        shared_MM = (high_MM2 - low_MM2).clip(min=0).prod(2)
        area_M = (corners_M4[:, 2:] - corners_M4[:, :2]).prod(1)
        iou_MM = shared_MM / np.maximum(area_M[:, None] + area_M - shared_MM, 1e-12)
        np.fill_diagonal(iou_MM, 0.0)
        overlap_B[start:end] = iou_MM.max(1, initial=0.0)
    return overlap_B
