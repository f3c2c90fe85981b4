"""SSD's training augmentation (Liu et al., 2016, sections 2.2 and 3.6): colours, zooming out and crops, with
torchvision.

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
    """Returns a colour-distorted, zoomed-out and cropped copy of an image, with the boxes that remain in it.

    Half of the images are placed on a canvas of colour `fill` with sides up to four times as long. A crop keeps the
    boxes whose centre it contains and clips them. Colours are computed on the image's device, boxes on the CPU.

    Args:
        image_3HW: the image.
        boxes: its boxes.
        seed: seeds every random draw.
        fill: colour of the canvas.

    Returns:
        The new image, and its boxes in pixels of that image.

    Deviations:
        a crop's required overlap concerns one box inside the crop, as in torchvision and in the code of SSD's authors;
        mmdet, which GEAL trains with, requires it of every box of the image.
    """
    size = (image_3HW.shape[1], image_3HW.shape[2])
    corners_M4 = tv_tensors.BoundingBoxes(boxes.corners_M4.cpu(), format="XYXY", canvas_size=size)
    with seeded(seed):
        image, corners_M4 = ssd_transforms(fill)(tv_tensors.Image(image_3HW), corners_M4)
    new_M4 = corners_M4.as_subclass(Tensor)
    remains_M = (new_M4[:, 2:] > new_M4[:, :2]).all(1)  # boxes outside the crop have no area
    return image.as_subclass(Tensor), Boxes(new_M4[remains_M], boxes.labels_M.cpu()[remains_M])


@cache
def ssd_transforms(fill: Colour) -> v2.Compose:
    """The transforms in order. A crop must contain the centre of a box, so images without boxes are not cropped."""
    return v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop()])
