"""Any folder of images with labels: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.api import Machine, register_task
from benchmark.vision.classification import (
    PUBLISHED,
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.image_checks import read_all, warn_once
from benchmark.vision.data.image_files import EXTENSIONS, Exif, is_hidden_name, is_image, list_images_below
from benchmark.vision.data.regular_files import printable
from benchmark.vision.fingerprints import derive_seed

LAYOUT = "ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg"
TRAIN_NAMES = ("train", "training")  # usual names of the pool's folder
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "eval")  # usual names of the test set's folder
MAX_LISTED = 8  # folders that a message names


@register_task(
    version=1,
    default=Recipe(),
    published=replace(PUBLISHED, normalise="pool"),
    missing_capabilities=missing_capabilities,
    check=check_weights,
)
def image_folder(
    machine: Machine,
    recipe: Recipe,
    *,
    root: str,
    size: int = 32,
    train: str = "train",
    test: str = "test",
    split: float | None = None,
    exif: Exif = "turn",
) -> Classification:
    """The images of a folder, resized to `size` x `size` pixels (bilinear, antialiased) and kept in memory as RGB.

    Classes are numbered in the order of their names. The pool is train/, class by class, with files in the order of
    their paths. Images in folders inside a class's folder belong to the class. Hidden files and files without an
    image's extension are ignored.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        root: The folder of the data set: absolute, or inside the data folder.
        size: Height and width of the images in pixels.
        train: The folder in `root` with a folder of images for each class of the pool.
        test: The folder in `root` with a folder of images for each class of the test set.
        split: 0.2 draws a fifth of each class of `train` as the test set, the same in every run; if there is no such
            folder, of each class in `root` itself. null uses the folder `test`.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.

    Raises:
        ValueError: A folder is missing, train/ and test/ have different classes, a class has no images, or images
            cannot be read.
    """
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1")
    if split is not None and not 0 < split < 1:
        raise ValueError(f"split={split:g}: must be between 0 and 1, the share of test images")
    folder = machine.resolve_path(root)
    if split is None:
        pool, tests, classes = read_split_folders(folder, train, test, size, exif)
    else:
        pool, tests, classes = draw_test_set(folder, train, test, split, size, exif)
    return build_task(machine, recipe, pool, tests, num_classes=len(classes), classes=classes, root=folder)


def read_split_folders(folder: Path, train: str, test: str, size: int, exif: Exif) -> tuple[Split, Split, list[str]]:
    """Reads the pool, the test set and the names of the classes from two folders."""
    split_folders = [folder / name for name in (train, test)]
    if not all(path.is_dir() for path in split_folders):
        raise ValueError(describe_missing(folder, train, test))
    classes, test_classes = map(list_classes, split_folders)
    if differing := sorted({*classes} ^ {*test_classes}):
        present, missing = (train, test) if differing[0] in classes else (test, train)
        raise ValueError(f"{folder}: the class {printable(differing[0])} is in {present}/ but not in {missing}/")
    pool, tests = read_all(*(partial(read_split, path, classes, size, exif) for path in split_folders))
    return pool, tests, classes


def draw_test_set(
    folder: Path, train: str, test: str, share: float, size: int, exif: Exif
) -> tuple[Split, Split, list[str]]:
    """Reads one folder of classes and draws a share of each as the test set; returns pool, test set and classes."""
    class_folder = folder / train if (folder / train).is_dir() else folder
    if not class_folder.is_dir():
        raise ValueError(describe_missing(folder, train, test))
    if class_folder != folder and (folder / test).is_dir():
        warn_once(f"split={share:g}: the test set is drawn from {class_folder}; {folder / test} is not used")
    classes = list_classes(class_folder)
    whole, rng = read_split(class_folder, classes, size, exif), np.random.default_rng(derive_seed(0, "split"))
    is_test_N = np.zeros(len(whole.labels_N), bool)
    for label, name in enumerate(classes):
        members = rng.permutation(np.flatnonzero(whole.labels_N == label))
        if len(members) < 2:
            raise ValueError(
                f"{printable(class_folder / name)} has one image: split={share:g} needs two, one of them a test image"
            )
        is_test_N[members[: min(len(members) - 1, max(1, round(share * len(members))))]] = True
    return whole.select(np.flatnonzero(~is_test_N)), whole.select(np.flatnonzero(is_test_N)), classes


def describe_missing(folder: Path, train: str, test: str) -> str:
    """An error message that says what is missing, what the folder holds, and what to type instead."""
    if not folder.is_dir():
        return f"no such folder: {folder} (wanted: {LAYOUT})"
    folders, others = list_entries(folder)
    missing = " and ".join(f"no {name}/" for name in (train, test) if not (folder / name).is_dir())
    contents = [printable(f"{name}/") for name in folders[:MAX_LISTED]] + ["..."] * (len(folders) > MAX_LISTED)
    contents += [*map(printable, others[:1])] + [f"{len(others) - 1:,} more"] * (len(others) > 1)
    parameters = list[str]()
    for key, name, usual_names in (("train", train, TRAIN_NAMES), ("test", test, TEST_NAMES)):
        matches = [other for usual_name in usual_names for other in folders if other.lower() == usual_name]
        if matches and not (folder / name).is_dir():
            parameters.append(f"{key}={matches[0]}")
    roots = [f"root={printable(folder / name)}" for name in folders if (folder / name / train).is_dir()]
    advice = " ".join(roots[:1] or parameters) or "train= and test= to the names of their folders"
    return (
        f"{folder} has {missing} (wanted: {LAYOUT}), but {', '.join(contents) or 'nothing'}: set {advice}, "
        "or split=0.2 to test on a fifth of each class"
    )


def list_entries(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of the folders and of the files in a folder, without hidden ones."""
    entries = sorted(
        (entry for entry in os.scandir(folder) if not is_hidden_name(entry.name)), key=lambda entry: entry.name
    )
    folders = [entry.name for entry in entries if os.path.isdir(entry)]
    return folders, [entry.name for entry in entries if not os.path.isdir(entry)]


def list_classes(folder: Path) -> list[str]:
    """The sorted names of the class folders. Raises ValueError if there are fewer than two."""
    names, _ = list_entries(folder)
    if len(names) < 2:
        raise ValueError(f"{folder}: {len(names)} class folders; a task needs two")
    return names


def read_split(folder: Path, classes: Sequence[str], size: int, exif: Exif = "turn") -> Split:
    """Loads all images of all classes with their labels, and logs which files are left out."""
    class_files = [list_images_below(folder / name) for name in classes]
    if others := [path for _, other_files in class_files for path in other_files]:
        warn_once(f"{folder}: files that are no images are left out: {len(others):,} ({printable(others[0].name)})")
    if outside := [name for name in list_entries(folder)[1] if is_image(name)]:
        warn_once(
            f"{folder}: images outside the class folders are left out: {len(outside):,} ({printable(outside[0])})"
        )
    for name, (images, _) in zip(classes, class_files, strict=True):
        if not images:
            raise ValueError(f"{printable(folder / name)}: no images ({', '.join(sorted(EXTENSIONS))})")
    paths = [path for images, _ in class_files for path in images]
    labels = [label for label, (images, _) in enumerate(class_files) for _ in images]
    return Split.from_files(paths, labels, size, exif)
