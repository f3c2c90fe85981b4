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
from benchmark.vision.data.image_files import EXTENSIONS, Exif, is_hidden_name, is_image
from benchmark.vision.data.regular_files import printable
from benchmark.vision.fingerprints import derive_seed

LAYOUT = "ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg"
TRAIN_NAMES, TEST_NAMES = (
    ("train", "training"),
    ("test", "testing", "val", "valid", "validation", "eval"),
)  # usual names
MAX_LISTED = 8  # entries of a folder that a message names


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

    root: absolute, or inside the data folder. Classes are numbered in the order of their names; the pool is
        train/, class by class, files in the order of their paths. Images in folders inside a class's are the class's
        too. Hidden files, and those without an image's extension, are ignored.
    train, test: the folders in root that hold the pool's and the test set's folders of classes.
    split: 0.2 draws a fifth of each class of `train` for the test set, always the same one; where there is no such
        folder, of the classes in root itself. null: the test set is a folder of its own.
    exif: turn turns photographs as their EXIF tags say; ignore leaves them as they are stored.
    Raises ValueError for a missing folder, classes that differ between train/ and test/, a class without
    images, and images that cannot be read.
    """
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1")
    if split is not None and not 0 < split < 1:
        raise ValueError(f"split={split:g}: must be between 0 and 1, the share of images to test on")
    folder = machine.resolve_path(root)
    if split is None:
        pool, tests, classes = read_split_folders(folder, train, test, size, exif)
    else:
        pool, tests, classes = draw_test_set(folder, train, test, split, size, exif)
    return build_task(machine, recipe, pool, tests, num_classes=len(classes), classes=classes, root=folder)


def read_split_folders(folder: Path, train: str, test: str, size: int, exif: Exif) -> tuple[Split, Split, list[str]]:
    """The pool and the test set, which are folders of their own, and the classes."""
    homes = [folder / name for name in (train, test)]
    if not all(home.is_dir() for home in homes):
        raise ValueError(describe_missing(folder, train, test))
    pool, others = map(list_classes, homes)
    if differing := sorted({*pool} ^ {*others}):
        there, missing = (train, test) if differing[0] in pool else (test, train)
        raise ValueError(f"{folder}: the class {printable(differing[0])} is in {there}/ but not in {missing}/")
    first, second = read_all(*(partial(read_split, home, pool, size, exif) for home in homes))
    return first, second, pool


def draw_test_set(
    folder: Path, train: str, test: str, share: float, size: int, exif: Exif
) -> tuple[Split, Split, list[str]]:
    """The pool, the test set, which is a share of each class's images, and the classes."""
    home = folder / train if (folder / train).is_dir() else folder
    if not home.is_dir():
        raise ValueError(describe_missing(folder, train, test))
    if home != folder and (folder / test).is_dir():
        warn_once(f"split={share:g}: the test set is drawn from {home}; {folder / test} is not looked into")
    classes = list_classes(home)
    whole, rng = read_split(home, classes, size, exif), np.random.default_rng(derive_seed(0, "split"))
    tested_N = np.zeros(len(whole.labels_N), bool)
    for label, name in enumerate(classes):
        which = rng.permutation(np.flatnonzero(whole.labels_N == label))
        if len(which) < 2:
            raise ValueError(f"{printable(home / name)} has one image: split={share:g} needs two, one to test on")
        tested_N[which[: min(len(which) - 1, max(1, round(share * len(which))))]] = True
    return whole.select(np.flatnonzero(~tested_N)), whole.select(np.flatnonzero(tested_N)), classes


def describe_missing(folder: Path, train: str, test: str) -> str:
    """What is missing where, what is there, and what to type instead."""
    if not folder.is_dir():
        return f"no such folder: {folder} (wanted: {LAYOUT})"
    folders, others = list_entries(folder)
    missing = " and ".join(f"no {name}/" for name in (train, test) if not (folder / name).is_dir())
    there = [printable(f"{name}/") for name in folders[:MAX_LISTED]] + ["..."] * (len(folders) > MAX_LISTED)
    there += [*map(printable, others[:1])] + [f"{len(others) - 1:,} more"] * (len(others) > 1)
    usual = [
        f"{key}={match}"
        for key, name, words in (("train", train, TRAIN_NAMES), ("test", test, TEST_NAMES))
        if not (folder / name).is_dir() and (match := next((f for w in words for f in folders if f.lower() == w), ""))
    ]
    inside = [f"root={printable(folder / name)}" for name in folders if (folder / name / train).is_dir()]
    advice = " ".join(inside[:1] or usual) or "train= and test= to the names of their folders"
    return (
        f"{folder} has {missing} (wanted: {LAYOUT}), but {', '.join(there) or 'nothing'}: set {advice}, "
        "or split=0.2 to test on a fifth of each class"
    )


def list_entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, sorted, but for hidden ones."""
    entries = sorted(
        (entry for entry in os.scandir(folder) if not is_hidden_name(entry.name)), key=lambda entry: entry.name
    )
    parts = [[entry.name for entry in entries if os.path.isdir(entry) == wanted] for wanted in (True, False)]
    return parts[0], parts[1]


def list_classes(home: Path) -> list[str]:
    """The folders of classes, sorted. ValueError unless there are two at least."""
    names, _ = list_entries(home)
    if len(names) < 2:
        raise ValueError(f"{home}: {len(names)} class folders; a task needs two")
    return names


def read_split(home: Path, classes: Sequence[str], size: int, exif: Exif = "turn") -> Split:
    """Every image of every class, and its class's number."""
    found = [list_class_files(home / name) for name in classes]
    if passed := [path for _, others in found for path in others]:
        warn_once(
            f"{home}: files that are no images and are passed over: {len(passed):,} ({printable(passed[0].name)})"
        )
    if loose := [name for name in list_entries(home)[1] if is_image(name)]:
        warn_once(f"{home}: images in no class's folder, which are left out: {len(loose):,} ({printable(loose[0])})")
    for name, (images, _) in zip(classes, found, strict=True):
        if not images:
            raise ValueError(f"{printable(home / name)}: no images ({', '.join(sorted(EXTENSIONS))})")
    paths = [path for images, _ in found for path in images]
    labels = [label for label, (images, _) in enumerate(found) for _ in images]
    return Split.from_files(paths, labels, size, exif)


def list_class_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images of a class and its other files, those of folders inside it too, in the order of torchvision's
    ImageFolder: folder by folder, by name. Hidden ones are neither."""
    images, others, visited = list[Path](), list[Path](), set[str]()
    for place, inside, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:  # a link to a folder around it
            inside.clear()
            continue
        visited.add(real)
        inside[:] = [name for name in inside if not is_hidden_name(name)]
        for name in names:
            if not is_hidden_name(name):
                (images if is_image(name) else others).append(Path(place, name))
    return sorted(images, key=sort_key), sorted(others, key=sort_key)


def sort_key(path: Path) -> tuple[str, str]:
    """By folder, then by name."""
    return str(path.parent), path.name
