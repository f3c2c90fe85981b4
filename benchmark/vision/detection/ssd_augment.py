"""The augmentations of SSD (Liu et al., 2016, sections 2.2 and 3.6): colours, zooming out and crops, by torchvision.

Shapes: H x W pixels, M boxes of one image.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmark.api import Boxes, seeded

Colour = tuple[float, float, float]


def augment_ssd(image_3HW: Tensor, boxes: Boxes, seed: int, fill: Colour) -> tuple[Tensor, Boxes]:
    """A distorted, zoomed-out and cropped copy of an image and the boxes that are left, in pixels of that copy.

    Half of the images lie somewhere on a canvas of `fill`, up to four times as large a side; a crop keeps boxes whose
    centre is in it, clipped. (For the drawn overlap mmdet, with which GEAL trains, asks every box of the image,
    torchvision one in the crop, as the authors of SSD.) Everything is drawn from `seed`. Colours are computed where the
    image is, boxes on the CPU.
    """
    size = (image_3HW.shape[1], image_3HW.shape[2])
    corners_M4 = tv_tensors.BoundingBoxes(boxes.corners_M4.cpu(), format="XYXY", canvas_size=size)
    with seeded(seed):
        image, corners_M4 = ssd_transforms(fill)(tv_tensors.Image(image_3HW), corners_M4)
    found_M4 = corners_M4.as_subclass(Tensor)
    left_M = (found_M4[:, 2:] > found_M4[:, :2]).all(1)  # those that a crop leaves out have no area
    return image.as_subclass(Tensor), Boxes(found_M4[left_M], boxes.labels_M.cpu()[left_M])


@cache
def ssd_transforms(fill: Colour) -> v2.Compose:
    """The transforms in order. Every crop must hold the centre of a box, so images without boxes are not cropped."""
    return v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop()])
