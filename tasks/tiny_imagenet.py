"""Tiny ImageNet (Stanford's course CS231n, 2015), 200 classes of ImageNet (Russakovsky et al., 2015)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.classification import (
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.annotation_values import read_text
from benchmark.vision.data.image_checks import read_all
from benchmark.vision.data.image_files import Exif, list_images
from benchmark.vision.data.requirements import missing_data

FOLDER, SIZE = "tiny-imagenet-200", 64
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
LINE_PATTERN = re.compile(r"(\w+\.JPEG)\t(n\d+)(\t\d+){4}")  # image, class, a box


def missing_requirements(machine: Machine, recipe: Recipe, **parameters: object) -> Iterator[Requirement]:
    """Yields the data set if it is not there; see `register_task`."""
    return missing_data(machine, "Tiny ImageNet", ".", URL, is_there=lambda folder: (folder / FOLDER / "val").is_dir())


@register_task(
    version=1,
    default=Recipe(pad=8),
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
)
def tiny_imagenet(machine: Machine, recipe: Recipe, *, exif: Exif = "turn") -> Classification:
    """100,000 + 10,000 (train, val) colour images of 64x64 pixels, 200 classes; kept in memory (1.4 GB).

    The data folder must hold the unpacked archive: tiny-imagenet-200/train/CLASS/images, val/images and
    val/val_annotations.txt. The test set is val, since test has no labels. Classes are numbered in the order of their
    WordNet identifiers. The pool is train/, class by class, with files in the order of their names.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.

    Raises:
        ValueError: Files are missing, or a line or images cannot be read.

    Cost: `resnet18` keeps its stem for 32x32 images, so that its last feature map is 8x8; a fit costs four times as
        much per image as one on CIFAR.
    """
    folder = machine.resolve_path(FOLDER)
    for part in (folder / "train", folder / "val" / "images"):
        if not part.is_dir():
            raise ValueError(f"no such folder: {part}: unpack {URL} in {folder.parent}")
    classes = sorted(path.name for path in (folder / "train").iterdir() if re.fullmatch(r"n\d+", path.name))
    if len(classes) < 2:
        raise ValueError(f"{folder / 'train'}: {len(classes)} class folders; a task needs two")
    lists = list_training(folder / "train", classes), list_validation(folder / "val", classes)
    pool, test = read_all(*(partial(Split.from_files, paths, labels, SIZE, exif) for paths, labels in lists))
    return build_task(machine, recipe, pool, test, num_classes=len(classes), classes=classes, root=folder)


def list_training(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """Lists the images of train/ and their labels, class by class."""
    files = [list_images(folder / name / "images") for name in classes]
    return [path for part in files for path in part], [label for label, part in enumerate(files) for _ in part]


def list_validation(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """Lists the images of val/ and their labels, in the order of val_annotations.txt."""
    path, images, labels = folder / "val_annotations.txt", [], []
    if not path.is_file():
        raise ValueError(f"no such file: {path}: it is in {URL}")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = LINE_PATTERN.fullmatch(line.strip())
        if match is None or match[2] not in classes:
            raise ValueError(
                f"{path}:{number}: {line!r:.60} is not a file, a folder of train/ and a box, separated by tabs"
            )
        images.append(folder / "images" / match[1])
        labels.append(classes.index(match[2]))
    return images, labels
