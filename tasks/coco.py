"""COCO, and any data set in its format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.data.annotations import LayoutError
from benchmark.vision.data.coco_json import ANNOTATIONS, IMAGES, locate_splits, read_coco_json
from benchmark.vision.data.image_checks import read_all
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.layouts import suggest_parameters
from benchmark.vision.data.requirements import missing_data
from benchmark.vision.data.splitting import (
    check_disjoint,
    drop_empty_images,
    label_leakage,
    pool_test_split,
)
from benchmark.vision.detection.detectors import check_weights, missing_packages
from benchmark.vision.detection.recipe import PUBLISHED_FCOS_COCO, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

DEFAULT_ROOT = "coco"
SITE = "http://images.cocodataset.org"
ARCHIVE_URLS = f"{SITE}/zips/train2017.zip, {SITE}/zips/val2017.zip and {SITE}/annotations/annotations_trainval2017.zip"


def missing_requirements(
    machine: Machine, recipe: DetectorRecipe, *, root: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the detector's package and the data set, if they are not there; see `register_task`."""
    yield from missing_packages(recipe)
    if root == DEFAULT_ROOT:
        yield from missing_data(machine, "COCO 2017", root, ARCHIVE_URLS)
    else:
        yield from missing_data(machine, f"coco[root={root}]", root, "")


@register_task(
    version=1,
    default=DetectorRecipe(),
    published=PUBLISHED_FCOS_COCO,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
    label_leakage=label_leakage,
)
def coco(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = DEFAULT_ROOT,
    train: str = "train2017",
    test: str = "val2017",
    images: str = IMAGES,
    annotations: str = ANNOTATIONS,
    split: float | None = None,
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
) -> Detection:
    """Boxes in the COCO format; the score is the COCO evaluator's AP, the mean over IoU thresholds of 0.50 to 0.95.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        root: The folder of the data set: absolute, or inside the data folder.
        train: The split that is the pool. Its images come in the order of their ids.
        test: The split that is the test set.
        images: The folder of the images, inside `root`; SPLIT in it stands for the name of the split. The `file_name`
            entries of the JSON file are relative to it.
        annotations: The JSON file, inside `root`; SPLIT in it stands for the name of the split.
        split: The share of `train` that becomes the test set, drawn by a hash of each image's name; `test` has no
            effect then. null uses `test`.
        filter_empty: "oracle" takes images without boxes out of the pool; this looks at labels that are not paid for.
        exif: "turn" turns photographs as their EXIF tags say, unless the size that the annotation states fits only the
            unturned image. "ignore" leaves all images as they are stored.

    Raises:
        ValueError: Files are missing or cannot be read, the splits overlap or have different categories, or one of them
            has no boxes.
    """
    folder = resolve_root(machine, root)
    try:
        paths = locate_splits(folder, train, test, images, annotations, split)
        splits = read_all(*(partial(read_coco_json, path, image_folder, exif) for path, image_folder in paths))
    except LayoutError as error:
        raise ValueError(f"{error}. {suggest_parameters(folder, root, fallback_advice(folder, root))}") from None
    (first_split, names), test_names = splits[0], [names for _, names in splits[1:]]
    if test_names and names != test_names[0]:
        differing = sorted(set(names) ^ set(test_names[0]))
        difference = f"only one of them has {differing[0]!r}" if differing else "their order differs"
        raise ValueError(f"{paths[1][0]} has other categories than {paths[0][0]}: {difference}")
    pool, tests = (first_split, splits[1][0]) if split is None else pool_test_split(first_split, split)
    check_disjoint(pool, tests)
    if filter_empty == "oracle":
        pool = drop_empty_images(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50:95", classes=names, root=folder)


def resolve_root(machine: Machine, root: str) -> Path:
    """The folder of the data set. Raises ValueError without a data folder; the message says where to get the data."""
    try:
        return machine.resolve_path(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {ARCHIVE_URLS} into {root}/ there") from None


def fallback_advice(folder: Path, root: str) -> str:
    """What to do if the folder cannot be read: get COCO, or set parameters if the user has named a folder."""
    if root == DEFAULT_ROOT:
        return f"for COCO itself, unpack {ARCHIVE_URLS} into {folder}"
    return "set root=, annotations=, images= (SPLIT in them stands for train= and test=), or split=0.2 for one file"
