"""Random views of images for self-supervised training: crops, mirroring and changes of colour.

Shapes: N images, H x W pixels, U uniform random numbers per view.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.vision.encoding.settings import Settings

MAX_LOG_ASPECT = math.log(4 / 3)  # of a crop, wide or high
JITTER_SHARE, GREY_SHARE = 0.8, 0.2  # of the views
JITTER_STRENGTHS = (0.8, 0.8, 0.8, 0.2)  # of brightness, contrast, saturation and hue, at strength 1
NUM_DRAWS = 11  # random numbers per view: 4 for the crop, 4 for the jitter; whether to mirror, to jitter, to make grey
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue


def random_view(images_N3HW: Tensor, uniform_UN: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """Draws a view of each image: a random crop at the images' size, maybe mirrored, jittered in colour or made grey.

    Args:
        images_N3HW: (N, 3, H, W) uint8.
        uniform_UN: (NUM_DRAWS, N) random numbers in [0, 1).
        settings: Has the strengths of the changes.
        generator: Draws the order of the four colour changes, which is common to all images of a call.

    Returns:
        (N, 3, H, W) in 0..1.
    """
    boxes_N4 = crop_boxes(uniform_UN[:4], (images_N3HW.shape[2], images_N3HW.shape[3]), settings.smallest)
    views_N3HW = crop_images(images_N3HW.float() / 255, boxes_N4, uniform_UN[4] < 0.5 * settings.flip)
    if not settings.colour:
        return views_N3HW
    strength_4N = (2 * uniform_UN[6:10] - 1) * settings.colour * (uniform_UN[5] < JITTER_SHARE)
    for number in torch.randperm(4, generator=generator).tolist():
        views_N3HW = COLOUR_CHANGES[number](
            views_N3HW, (strength_4N[number] * JITTER_STRENGTHS[number]).view(-1, 1, 1, 1)
        )
    return torch.where((uniform_UN[10] < GREY_SHARE).view(-1, 1, 1, 1), to_grey(views_N3HW), views_N3HW)


def crop_boxes(uniform_4N: Tensor, size: tuple[int, int], smallest: float) -> Tensor:
    """(N, 4): y, x, height and width of random crops in whole pixels.

    The area is uniform between `smallest` and 1 of the image's, and the logarithm of the aspect is uniform. Sides
    longer than the image are cut to it.
    """
    most_2 = torch.tensor(size, device=uniform_4N.device, dtype=uniform_4N.dtype)
    area_N = (smallest + (1 - smallest) * uniform_4N[0]) * most_2.prod()
    aspect_N = ((2 * uniform_4N[1] - 1) * MAX_LOG_ASPECT).exp()
    sides_N2 = torch.stack([(area_N / aspect_N).sqrt(), (area_N * aspect_N).sqrt()], 1).round().clamp(min=1)
    sides_N2 = sides_N2.minimum(most_2)
    corner_N2 = (uniform_4N[2:].T * (most_2 - sides_N2 + 1)).floor().minimum(most_2 - sides_N2)
    return torch.cat([corner_N2, sides_N2], 1)


def crop_images(images_N3HW: Tensor, boxes_N4: Tensor, flip_N: Tensor) -> Tensor:
    """(N, 3, H, W): crops resized to the size of the images, bilinear and without pixels from outside the crop.

    `flip_N` says which of them are mirrored.
    """
    height, width = images_N3HW.shape[2:]
    rows_NH = sample_positions(boxes_N4[:, 0], boxes_N4[:, 2], height)
    columns_NW = sample_positions(boxes_N4[:, 1], boxes_N4[:, 3], width)
    columns_NW = torch.where(flip_N[:, None], columns_NW.flip(1), columns_NW)
    grid = torch.broadcast_tensors(columns_NW[:, None], rows_NH[:, :, None])
    return F.grid_sample(images_N3HW, torch.stack(grid, 3), padding_mode="border", align_corners=False)


def sample_positions(start_N: Tensor, length_N: Tensor, num: int) -> Tensor:
    """(N, num): where to sample a side of `num` pixels, on the scale -1..1, to resize `length` pixels from `start`."""
    steps_num = torch.arange(num, device=start_N.device) + 0.5
    inside_Nn = (steps_num * (length_N[:, None] / num) - 0.5).clamp(min=0).minimum(length_N[:, None] - 1)
    return (2 * (start_N[:, None] + inside_Nn) + 1) / num - 1


def to_grey(images_N3HW: Tensor) -> Tensor:
    """(N, 3, H, W): grey images, with the luma in each channel."""
    luma_3 = torch.tensor(LUMA, device=images_N3HW.device, dtype=images_N3HW.dtype)
    return torch.einsum("nchw,c->nhw", images_N3HW, luma_3)[:, None].expand(-1, 3, -1, -1)


def adjust_brightness(images_N3HW: Tensor, amount_N111: Tensor) -> Tensor:
    """Scales the distance of the pixels from black by 1 + amount_N111."""
    return (images_N3HW * (1 + amount_N111)).clamp(0, 1)


def adjust_contrast(images_N3HW: Tensor, amount_N111: Tensor) -> Tensor:
    """Scales the distance of the pixels from the mean of the grey image by 1 + amount_N111."""
    mean_N111 = to_grey(images_N3HW)[:, :1].mean((2, 3), keepdim=True)
    return (images_N3HW + amount_N111 * (images_N3HW - mean_N111)).clamp(0, 1)


def adjust_saturation(images_N3HW: Tensor, amount_N111: Tensor) -> Tensor:
    """Scales the distance of the pixels from the grey image by 1 + amount_N111."""
    return (images_N3HW + amount_N111 * (images_N3HW - to_grey(images_N3HW))).clamp(0, 1)


def adjust_hue(images_N3HW: Tensor, amount_N111: Tensor) -> Tensor:
    """Rotates the hue by a share of the full circle and keeps value and chroma."""
    red, green, blue = images_N3HW.unbind(1)
    value = images_N3HW.amax(1)
    chroma = value - images_N3HW.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sixths = torch.where(value == red, (green - blue) / divisor, sixths)
    offset_311 = torch.tensor([5.0, 3.0, 1.0], device=value.device).view(3, 1, 1)
    angle_N3HW = (offset_311 + sixths[:, None] + 6 * amount_N111).remainder(6)
    return value[:, None] - chroma[:, None] * angle_N3HW.minimum(4 - angle_N3HW).clamp(0, 1)


COLOUR_CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
