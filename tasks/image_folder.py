"""Any folder of images with labels: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.api import Machine, register_task
from tasks._classifier import PUBLISHED, Classifier, Recipe, Split, lacks
from tasks._image_files import listed, read


@register_task(version=1, default=Recipe(), published=replace(PUBLISHED, normalise="pool"), lacks=lacks)
def image_folder(machine: Machine, recipe: Recipe, *, root: str, size: int = 32) -> Classifier:
    """The images of a folder, resized to `size` x `size` pixels (bilinear, antialiased) and kept in memory as RGB.

    root: absolute, or inside the data folder. Classes are numbered in the order of their names; the pool is
    train/, class by class, files in the order of their names. Files without an image's extension are ignored.
    Raises ValueError for a missing folder, classes that differ between train/ and test/, a class without
    images, and an image that cannot be read.
    """
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1")
    folder = machine.located(root)
    classes = class_names(folder)
    pool, test = (split(folder / part, classes, size) for part in ("train", "test"))
    return Classifier(machine, recipe, pool, test, num_classes=len(classes), classes=classes)


def class_names(folder: Path) -> list[str]:
    """The folders in train/, which must be those in test/ too, sorted."""
    found = []
    for part in (folder, folder / "train", folder / "test"):
        if not part.is_dir():
            raise ValueError(f"no such folder: {part} (wanted: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg)")
        found.append({entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")})
    _, train, test = found
    if differing := sorted(train ^ test):
        there, missing = ("train", "test") if differing[0] in train else ("test", "train")
        raise ValueError(f"{folder}: the class {differing[0]} is in {there}/ but not in {missing}/")
    if len(train) < 2:
        raise ValueError(f"{folder / 'train'}: {len(train)} class folders; a task needs two")
    return sorted(train)


def split(folder: Path, classes: list[str], size: int) -> Split:
    """Every image of every class, and its class's number."""
    paths: list[Path] = []
    labels = []
    for label, name in enumerate(classes):
        files = listed(folder / name)
        paths += files
        labels += [label] * len(files)
    return Split(read(paths, size), np.array(labels))
