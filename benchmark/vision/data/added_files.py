"""Adds files to the pool of a task: images of which few or none have a label.

Shapes: N images, B boxes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Boxes, ImageLabel, Indices
from benchmark.vision.data import label_maps
from benchmark.vision.data.annotations import (
    ConcatenatedImages,
    GroundTruth,
    ImageFiles,
    Images,
    Split,
    clean_boxes,
    concatenate_splits,
)
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.label_maps import IGNORE_INDEX, DownscaledImages
from benchmark.vision.fingerprints import digest


@dataclass(frozen=True)
class IgnoredMaps:
    """Label maps that ignore every pixel, for images that have none."""

    sizes_N2: Indices  # width and height

    def __len__(self) -> int:
        return len(self.sizes_N2)

    def __getitem__(self, index: int) -> Tensor:
        """One label map: (H, W) uint8."""
        width, height = self.sizes_N2[index].tolist()
        return torch.full((height, width), IGNORE_INDEX, dtype=torch.uint8)

    @property
    def fingerprint(self) -> str:
        """A hash of the sizes."""
        return digest("ignored maps", self.sizes_N2)


def read_files(paths: Sequence[Path], exif: Exif) -> ImageFiles:
    """Reads files of images that have no annotation.

    Args:
        paths: The files.
        exif: Whether photographs are turned as their EXIF tags say.

    Raises:
        BadImagesError: Names all that are missing or cannot be read.
    """
    return ImageFiles(Path(), list(map(str, paths)), np.zeros((len(paths), 2), np.int64), exif).with_scans()


def exif_of(images: Images) -> Exif:
    """How images turn photographs; of several folders, the first counts."""
    match images:
        case ImageFiles():
            return images.exif
        case ConcatenatedImages():
            return exif_of(images.parts[0])
        case DownscaledImages():
            return exif_of(images.images)
    return "turn"


def add_files(pool: Split, paths: Sequence[Path], labels: Mapping[int, ImageLabel]) -> Split:
    """Adds files to images with boxes.

    Args:
        pool: The images with their boxes.
        paths: The files; those without a label get no box.
        labels: The boxes of some of them, by position in `paths`.

    Raises:
        BadImagesError: Names all files that cannot be read.
        ValueError: A label is a class.
    """
    files = read_files(paths, exif_of(pool.images))
    boxes = {position: label for position, label in labels.items() if isinstance(label, Boxes)}
    if len(boxes) < len(labels):
        raise ValueError("a class cannot be the label of an image of a detection task: its labels are boxes")
    image_B = np.array([position for position, label in boxes.items() for _ in range(len(label))], np.int64)
    corners_B4, labels_B = (
        torch.cat([empty, *(getattr(label, name) for label in boxes.values())]).numpy()
        for name, empty in (("corners_M4", torch.empty(0, 4)), ("labels_M", torch.empty(0, dtype=torch.int64)))
    )
    truth = GroundTruth.from_boxes(image_B, corners_B4, labels_B, np.zeros(len(image_B), np.bool_), len(files))
    return concatenate_splits([pool, Split(files, clean_boxes(truth, files, Path("labelled=")))])


def add_files_without_labels(pool: Split, paths: Sequence[Path]) -> Split:
    """Adds files to images with boxes or keypoints; the added ones have none.

    Args:
        pool: The images with what is on them.
        paths: The files.

    Raises:
        BadImagesError: Names all files that cannot be read.
    """
    files, offsets_N1 = read_files(paths, exif_of(pool.images)), pool.truth.offsets_N1
    offsets_N1 = np.concatenate([offsets_N1, np.full(len(files), offsets_N1[-1])])
    return Split(ConcatenatedImages([pool.images, files]), replace(pool.truth, offsets_N1=offsets_N1))


def add_files_without_maps(
    pool: label_maps.Split, paths: Sequence[Path], labels: Mapping[int, ImageLabel]
) -> label_maps.Split:
    """Adds files to images with label maps; the maps of the added ones ignore every pixel.

    Args:
        pool: The images with their label maps.
        paths: The files.
        labels: Must be empty: neither classes nor boxes are label maps.

    Raises:
        BadImagesError: Names all files that cannot be read.
        ValueError: There are labels.
    """
    if labels:
        raise ValueError("neither classes nor boxes are label maps: add images and label maps to the task's own folder")
    files = read_files(paths, exif_of(pool.images))
    images: Images = files
    maps: Images = IgnoredMaps(files.sizes_N2)
    if isinstance(pool.images, DownscaledImages):
        images, maps = (DownscaledImages(part, pool.images.height) for part in (images, maps))
    return label_maps.Split(ConcatenatedImages([pool.images, images]), ConcatenatedImages([pool.maps, maps]))
