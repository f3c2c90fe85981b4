"""From stored images to a detector's batch and back: resizing, mirroring, normalising, padding.

Shapes: N images, H x W pixels of the padded batch, M boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Boxes
from benchmark.vision.data.poses import Poses
from benchmark.vision.detection.detector import Batch, PixelFormat
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.transfer import move

SIDE_MULTIPLE = 32  # height and width of a batch are multiples of this


@dataclass(frozen=True)
class ResizedBatch:
    """A batch of resized images, which can map boxes to the stored images and back.

    Args:
        batch: the batch.
        scales: (4,) for each image: pixels of the batch per pixel of the stored image, for x, y, x, y.
        flips: whether each image is mirrored.
    """

    batch: Batch
    scales: list[Tensor]
    flips: Sequence[bool]

    @cached_property
    def scales_N4(self) -> Tensor:
        """The scales on the device of the batch."""
        return move(torch.stack(self.scales), self.batch.images_N3HW.device)

    def to_batch_pixels(self, boxes: Sequence[Boxes]) -> list[Boxes]:
        """Maps boxes from pixels of the stored images to pixels of the batch.

        Boxes on the CPU are moved to the device of the batch all at once.
        """
        batch_boxes = []
        places = zip(self._scales_at(boxes), self.flips, self.batch.sizes, strict=True)
        for image_boxes, (factor, flip, (_, width)) in zip(boxes, places, strict=True):
            corners_M4 = image_boxes.corners_M4 * factor
            if flip:
                x1, y1, x2, y2 = corners_M4.unbind(1)
                corners_M4 = torch.stack([width - x2, y1, width - x1, y2], 1)
            if isinstance(image_boxes, Poses):
                image_boxes = image_boxes.rescale_keypoints(factor[:2], width if flip else None)
            batch_boxes.append(replace(image_boxes, corners_M4=corners_M4))
        return move_boxes(batch_boxes, self.batch.images_N3HW.device)

    def _scales_at(self, boxes: Sequence[Boxes]) -> Sequence[Tensor]:
        """The scales on the device of the boxes."""
        return self.scales_N4.unbind() if any(image.corners_M4.is_cuda for image in boxes) else self.scales

    def image_size(self, number: int) -> tuple[int, int]:
        """Height and width of the stored image."""
        (height, width), (x, y, _, _) = self.batch.sizes[number], self.scales[number].tolist()
        return round(height / y), round(width / x)

    def to_image_pixels(self, number: int, detections: Detections) -> Detections:
        """Maps detections to pixels of the stored image. Mirrored images are not supported."""
        factor = self.scales_N4[number].to(detections.corners_M4)
        proposals = None if detections.proposals_M4 is None else detections.proposals_M4 / factor
        return replace(detections, corners_M4=detections.corners_M4 / factor, proposals_M4=proposals)


class BatchBuilder:
    """Builds batches as a recipe and a detector require them.

    Args:
        recipe: image sizes, augmentation and memory format.
        pixels: normalisation that the detector expects.
        device: device of the batches.
    """

    def __init__(self, recipe: DetectorRecipe, pixels: PixelFormat, device: torch.device) -> None:
        self.recipe, self.device, self.bgr = recipe, device, pixels.bgr
        self.mean, self.deviation = (
            torch.tensor(v, device=device).view(3, 1, 1) for v in (pixels.mean, pixels.deviation)
        )

    def __call__(self, images: Sequence[Tensor], seeds: list[int], flips: Sequence[bool] | None = None) -> ResizedBatch:
        """Builds a batch: bilinear resizing, mirroring, normalisation and padding.

        Args:
            images: (3, H, W) each, as stored.
            seeds: seed of each image.
            flips: whether each image is mirrored; None mirrors none.
        """
        flips = flips if flips is not None else [False] * len(images)
        sizes = [self.resized_size((image.shape[1], image.shape[2])) for image in images]
        resized = []
        for number, image in enumerate(images):
            pixels = move(image, self.device).float()
            if pixels.shape[1:] != sizes[number]:
                pixels = F.interpolate(pixels[None], sizes[number], mode="bilinear", align_corners=False)[0]
            resized.append(pixels.flip(2) if flips[number] else pixels)
        factors = [scale_factors(image, size) for image, size in zip(images, sizes, strict=True)]
        return ResizedBatch(Batch(self.stack_padded(resized), sizes, seeds), factors, flips)

    def augment(
        self, images: Sequence[Tensor], boxes: Sequence[Boxes], seeds: Sequence[int]
    ) -> tuple[list[Tensor], list[Boxes]]:
        """Applies the recipe's training augmentation to stored images and their boxes, before they are put into a
        batch."""
        if self.recipe.augment == "none":
            return list(images), list(boxes)
        from benchmark.vision.detection.ssd_augment import augment_ssd  # importing torchvision takes a second

        red, green, blue = (self.mean.flip(0) if self.bgr else self.mean).flatten().tolist()
        trios = zip(images, boxes, seeds, strict=True)
        fill = (red, green, blue)
        pairs = [augment_ssd(image.to(self.device), boxes_M, seed, fill) for image, boxes_M, seed in trios]
        return [image for image, _ in pairs], [boxes_M for _, boxes_M in pairs]

    def stack_padded(self, images: Sequence[Tensor]) -> Tensor:
        """(N, 3, H, W): images normalised and stacked, with zeros on the right and below."""
        height, width = (self.padded_side(max(image.shape[axis] for image in images)) for axis in (1, 2))
        if all(image.shape[1:] == (height, width) for image in images):
            batch = self.normalise(torch.stack(list(images)))
        else:
            batch = torch.zeros(len(images), 3, height, width, device=self.device)
            for row, image in zip(batch, images, strict=True):
                row[:, : image.shape[1], : image.shape[2]] = self.normalise(image)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return batch.contiguous(memory_format=layout)

    def normalise(self, images: Tensor) -> Tensor:
        """(..., 3, H, W): channels in the detector's order, minus the mean, divided by the deviation."""
        ordered = images.flip(-3) if self.bgr else images
        return (ordered - self.mean) / self.deviation

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in the batch of an image of this stored height and width.

        With `squash`, both sides have that length. Otherwise the shorter side is `min_size`, unless the longer side
        would exceed `max_size`.
        """
        if self.recipe.squash:
            return self.recipe.squash, self.recipe.squash
        height, width = size
        if not self.recipe.min_size:
            return height, width
        scale = min(self.recipe.min_size / min(height, width), self.recipe.max_size / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a batch that holds an image of this stored height and width alone."""
        height, width = map(self.padded_side, self.resized_size(size))
        return height, width

    def padded_side(self, side: int) -> int:
        """The side of a batch that holds an image side of this length; squashed images are not padded."""
        return side if self.recipe.squash else round_up_side(side)

    def split_by_size(self, images: Sequence[Tensor], num_pixels: int) -> list[slice]:
        """Splits images into runs of equal padded size with at most `num_pixels` pixels (and at least one image).

        A detector's output depends on the padding. In such a run each image is padded as it would be alone.
        """
        sizes, ends = [self.padded_size((image.shape[1], image.shape[2])) for image in images], [0]
        for number in range(1, len(images) + 1):
            max_images = max(1, num_pixels // (sizes[ends[-1]][0] * sizes[ends[-1]][1]))
            if number == len(images) or sizes[number] != sizes[ends[-1]] or number - ends[-1] >= max_images:
                ends.append(number)
        return [slice(*pair) for pair in pairwise(ends)]


def move_boxes(boxes: Sequence[Boxes], device: torch.device) -> list[Boxes]:
    """Moves the boxes of several images to a device, in one copy of each of their tensors; those that are there already
    stay as they are."""
    if all(image.corners_M4.device == device for image in boxes):
        return list(boxes)
    counts, parts_by_name = [len(image) for image in boxes], dict[str, Sequence[Tensor]]()
    for name in (name for name, value in vars(boxes[0]).items() if isinstance(value, Tensor)):
        parts_by_name[name] = move(torch.cat([getattr(image, name) for image in boxes]), device).split(counts)
    return [
        replace(image, **{name: parts[number] for name, parts in parts_by_name.items()})
        for number, image in enumerate(boxes)
    ]


def round_up_side(side: int) -> int:
    """The smallest multiple of SIDE_MULTIPLE that is at least `side`."""
    return -(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE


def scale_factors(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(4,): pixels of the resized image per pixel of the stored image, for x, y, x, y."""
    y, x = size[0] / image.shape[1], size[1] / image.shape[2]
    return torch.tensor([x, y, x, y])
