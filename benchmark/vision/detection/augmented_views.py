"""Augmented copies of images (mirrored, cut out, shrunk, rotated), and mapping detections on them back to the original.

Every change keeps the image's size and fills empty areas with the image's mean colour.

Shapes: H x W pixels of the stored image, M boxes of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Augmentation
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.fingerprints import derive_seed

# Takes detections on an augmented image, and height and width of the original.
MapBack: TypeAlias = Callable[[Detections, tuple[int, int]], Detections]

NUM_CUTOUTS, CUTOUT_SHARES = 2, (0.05, 0.2)  # number of rectangles, and their sides as shares of the image's
SHRINK_FACTOR = 0.8  # of each side's length
ROTATION = math.radians(5)  # clockwise
MIN_BOX_SIDE = 1e-2  # a box with a shorter side, in pixels, is dropped


@dataclass(frozen=True)
class AugmentedView:
    """Augments images, all in the same way.

    Args:
        how: the augmentation.
        seed: seeds the cut-outs, together with each image's position.

    Raises:
        ValueError: the augmentation is unknown.
    """

    how: Augmentation
    seed: int

    def __post_init__(self) -> None:
        if self.how not in get_args(Augmentation):
            raise ValueError(f"augmentation {self.how!r} is unknown: use {', '.join(get_args(Augmentation))}")

    def __call__(self, image_3HW: Tensor, index: int) -> Tensor:
        """(3, H, W): uint8, or float32 where pixels are interpolated."""
        if self.how == "cutout":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, f"cutout {index}"))
            return cut_out(image_3HW, torch.rand(NUM_CUTOUTS, 4, generator=generator))
        return {"flip": mirror, "shrink": shrink, "rotate": rotate}[self.how](image_3HW)


def mirror(image_3HW: Tensor) -> Tensor:
    """Mirrors an image left to right."""
    return image_3HW.flip(2)


def cut_out(image_3HW: Tensor, draws_24: Tensor) -> Tensor:
    """Fills rectangles of an image, one for each row of draws in 0..1.

    The first two draws set height and width between the shares in CUTOUT_SHARES, the last two top and left between the
    image's edges. Values are rounded to whole pixels, and sides are at least one pixel.
    """
    out_3HW, colour_311 = image_3HW.clone(), mean_colour(image_3HW).round().to(image_3HW.dtype)
    size_2, (low, high) = torch.tensor(image_3HW.shape[1:]), CUTOUT_SHARES
    for draws_4 in draws_24:
        sides_2 = (size_2 * (low + (high - low) * draws_4[:2])).round().clamp(min=1)
        y_start, x_start = ((size_2 - sides_2) * draws_4[2:]).round().int().tolist()
        height, width = sides_2.int().tolist()
        out_3HW[:, y_start : y_start + height, x_start : x_start + width] = colour_311
    return out_3HW


def shrink(image_3HW: Tensor) -> Tensor:
    """Shrinks an image by SHRINK_FACTOR (bilinear, antialiased) into the upper left corner of a canvas of the old
    size."""
    height, width = shrunk_size((image_3HW.shape[1], image_3HW.shape[2]))
    small = F.interpolate(image_3HW[None].float(), (height, width), mode="bilinear", antialias=True)[0]
    canvas_3HW = mean_colour(image_3HW).repeat(1, *image_3HW.shape[1:])
    canvas_3HW[:, :height, :width] = small
    return canvas_3HW


def rotate(image_3HW: Tensor) -> Tensor:
    """Rotates an image by ROTATION about its centre (bilinear)."""
    (_, height, width), colour_311 = image_3HW.shape, mean_colour(image_3HW)
    cos, sin = math.cos(ROTATION), math.sin(ROTATION)
    source_23 = torch.tensor([[cos, sin * height / width, 0], [-sin * width / height, cos, 0]])
    grid = F.affine_grid(source_23[None], [1, 3, height, width], align_corners=False)
    centred = (image_3HW.float() - colour_311)[None]
    return F.grid_sample(centred, grid, mode="bilinear", align_corners=False)[0] + colour_311


def mean_colour(image_3HW: Tensor) -> Tensor:
    """(3, 1, 1) float32."""
    return image_3HW.float().mean((1, 2), keepdim=True)


def shrunk_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a shrunk image inside its canvas."""
    return max(1, round(size[0] * SHRINK_FACTOR)), max(1, round(size[1] * SHRINK_FACTOR))


def map_back(how: Augmentation, detections: Detections, size: tuple[int, int]) -> Detections:
    """Maps detections on an augmented image to pixels of the original image.

    A rotated box becomes the smallest upright box around its corners. Boxes are clipped to the image; a box of which
    nothing remains is dropped. Proposals are dropped.

    Args:
        how: the augmentation.
        detections: detections on the augmented image.
        size: height and width of the original image.
    """
    (height, width), (x1, y1, x2, y2) = size, detections.corners_M4.unbind(1)
    if how == "flip":
        x1, x2 = width - x2, width - x1
    elif how == "shrink":
        across, down = width / shrunk_size(size)[1], height / shrunk_size(size)[0]
        x1, y1, x2, y2 = x1 * across, y1 * down, x2 * across, y2 * down
    elif how == "rotate":
        x1, y1, x2, y2 = rotate_boxes_back(detections.corners_M4, size).unbind(1)
    xs_M2, ys_M2 = torch.stack([x1, x2], 1).clamp(0, width), torch.stack([y1, y2], 1).clamp(0, height)
    remains_M = (xs_M2.diff() >= MIN_BOX_SIDE).all(1) & (ys_M2.diff() >= MIN_BOX_SIDE).all(1)
    corners_M4 = torch.cat([xs_M2, ys_M2], 1)[:, [0, 2, 1, 3]]
    return replace(detections, corners_M4=corners_M4, proposals_M4=None).select(remains_M)


def rotate_boxes_back(corners_M4: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, 4): the smallest upright boxes around boxes rotated by -ROTATION about the image centre."""
    xs_M4, ys_M4 = corners_M4[:, [0, 2, 0, 2]] - size[1] / 2, corners_M4[:, [1, 1, 3, 3]] - size[0] / 2
    cos, sin = math.cos(ROTATION), math.sin(ROTATION)
    x_M4, y_M4 = cos * xs_M4 + sin * ys_M4 + size[1] / 2, cos * ys_M4 - sin * xs_M4 + size[0] / 2
    return torch.stack([x_M4.amin(1), y_M4.amin(1), x_M4.amax(1), y_M4.amax(1)], 1)
