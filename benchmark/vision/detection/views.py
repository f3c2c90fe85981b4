"""Images seen otherwise, and the way back of what is found in them: mirrored, cut out, shrunk, turned.

Every change keeps the size of its image and fills what it leaves empty with the image's mean colour.
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
from benchmark.vision.data.annotations import Images
from benchmark.vision.detection.detector import Detections
from benchmark.vision.fingerprints import derive_seed

MapBack: TypeAlias = Callable[[Detections, tuple[int, int]], Detections]  # of what is found, given height and width

NUM_CUTOUTS, CUTOUT_SHARES = (
    2,
    (0.05, 0.2),
)  # rectangles that are cut out, and their least and largest share of each side
SHRINK_FACTOR = 0.8  # of each side
ROTATION = math.radians(5)  # clockwise
MIN_BOX_SIDE = 1e-2  # pixels a side below which a box is dropped


@dataclass(frozen=True)
class AugmentedImages:
    """Images, each changed in the same way; ValueError for an unknown one."""

    images: Images
    how: Augmentation
    seed: int  # cut-outs are drawn from it and from the image's position

    def __post_init__(self) -> None:
        if self.how not in get_args(Augmentation):
            raise ValueError(f"augmentation {self.how!r}: use {', '.join(get_args(Augmentation))}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W): uint8, or float32 where pixels are interpolated."""
        image_3HW = self.images[number]
        if self.how == "cutout":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, f"cutout {number}"))
            return cut_out(image_3HW, torch.rand(NUM_CUTOUTS, 4, generator=generator))
        return {"flip": mirror, "shrink": shrink, "rotate": rotate}[self.how](image_3HW)

    @property
    def fingerprint(self) -> str:
        """That of the images, and what is done to them."""
        return f"{self.images.fingerprint} {self.how} {self.seed}"


def mirror(image_3HW: Tensor) -> Tensor:
    """Left to right."""
    return image_3HW.flip(2)


def cut_out(image_3HW: Tensor, draws_24: Tensor) -> Tensor:
    """Rectangles filled, one a row of draws in 0..1: height and width between the shares of CUT, then top and left
    between the edges. In whole pixels, at least one a side."""
    out_3HW, colour_311 = image_3HW.clone(), mean_colour(image_3HW).round().to(image_3HW.dtype)
    size_2 = torch.tensor(image_3HW.shape[1:])
    for draws_4 in draws_24:
        sides_2 = (
            (size_2 * (CUTOUT_SHARES[0] + (CUTOUT_SHARES[1] - CUTOUT_SHARES[0]) * draws_4[:2])).round().clamp(min=1)
        )
        top, left = ((size_2 - sides_2) * draws_4[2:]).round().int().tolist()
        height, width = sides_2.int().tolist()
        out_3HW[:, top : top + height, left : left + width] = colour_311
    return out_3HW


def shrink(image_3HW: Tensor) -> Tensor:
    """At SHRUNK of its size (bilinear, antialiased) in the upper left corner of a canvas of the old size."""
    height, width = shrunk_size((image_3HW.shape[1], image_3HW.shape[2]))
    small = F.interpolate(image_3HW[None].float(), (height, width), mode="bilinear", antialias=True)[0]
    canvas_3HW = mean_colour(image_3HW).repeat(1, *image_3HW.shape[1:])
    canvas_3HW[:, :height, :width] = small
    return canvas_3HW


def rotate(image_3HW: Tensor) -> Tensor:
    """By TURN about its centre (bilinear)."""
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
    """Height and width of a shrunk image within its canvas."""
    return max(1, round(size[0] * SHRINK_FACTOR)), max(1, round(size[1] * SHRINK_FACTOR))


def map_back(how: Augmentation, detections: Detections, size: tuple[int, int]) -> Detections:
    """What was found in a changed image, in pixels of the image before; its height and width are `size`.

    A turned box becomes the smallest upright one around its corners. Boxes are clipped to the image and dropped where
    nothing is left; proposals are dropped.
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
    left_M = (xs_M2.diff() >= MIN_BOX_SIDE).all(1) & (ys_M2.diff() >= MIN_BOX_SIDE).all(1)
    corners_M4 = torch.cat([xs_M2, ys_M2], 1)[:, [0, 2, 1, 3]]
    return replace(detections, corners_M4=corners_M4, proposals_M4=None).select(left_M)


def rotate_boxes_back(corners_M4: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, 4): the smallest upright boxes around boxes that are turned by -TURN about the centre of the image."""
    xs_M4, ys_M4 = corners_M4[:, [0, 2, 0, 2]] - size[1] / 2, corners_M4[:, [1, 1, 3, 3]] - size[0] / 2
    cos, sin = math.cos(ROTATION), math.sin(ROTATION)
    x_M4, y_M4 = cos * xs_M4 + sin * ys_M4 + size[1] / 2, cos * ys_M4 - sin * xs_M4 + size[0] / 2
    return torch.stack([x_M4.amin(1), y_M4.amin(1), x_M4.amax(1), y_M4.amax(1)], 1)
