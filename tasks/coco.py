"""COCO, and any data set in its format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from benchmark.api import Machine, register_task
from benchmark.vision.data.annotations import (
    LayoutError,
    check_disjoint,
    drop_empty_images,
    label_leakage,
    pool_test_split,
)
from benchmark.vision.data.coco_json import ANNOTATIONS, IMAGES, read_coco_json
from benchmark.vision.data.coco_json import locate_splits as coco_places
from benchmark.vision.data.image_checks import read_all
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.layouts import suggest_parameters
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import PUBLISHED_FCOS_COCO, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

SITE = "http://images.cocodataset.org"
ARCHIVE_URLS = f"{SITE}/zips/train2017.zip, {SITE}/zips/val2017.zip and {SITE}/annotations/annotations_trainval2017.zip"


@register_task(
    version=1,
    default=DetectorRecipe(),
    published=PUBLISHED_FCOS_COCO,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    label_leakage=label_leakage,
)
def coco(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = "coco",
    train: str = "train2017",
    test: str = "val2017",
    images: str = IMAGES,
    annotations: str = ANNOTATIONS,
    split: float | None = None,
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
) -> Detection:
    """Boxes in the COCO format; the score is the COCO evaluator's AP, the mean over overlaps of 50 to 95 per cent.

    root: absolute, or inside the data folder.
    train, test: the splits that are the pool and the test set. The pool is in the order of the images' ids.
    images, annotations: the folder of the images and the JSON file, inside `root`; SPLIT in them stands for the name of
        the split. The file's file_name counts from the folder of the images.
    split: share of `train` that is the test set, drawn by the images' names; `test` counts for nothing then. null: it
        is the test set.
    filter_empty: oracle takes images without boxes out of the pool, for which it looks at their labels.
    exif: turn turns photographs as their EXIF tags say, but where an annotation states the size of the stored pixels
        alone; ignore leaves all as they are stored.
    """
    folder = resolve_root(machine, root)
    try:
        places = coco_places(folder, train, test, images, annotations, split)
        found = read_all(*(partial(read_coco_json, path, home, exif) for path, home in places))
    except LayoutError as error:
        raise ValueError(f"{error}. {suggest_parameters(folder, root, fallback_advice(folder, root))}") from None
    (whole, names), others = found[0], [names for _, names in found[1:]]
    if others and names != others[0]:
        odd = sorted(set(names) ^ set(others[0]))
        how = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(f"{places[1][0]} has other categories than {places[0][0]}: {how}")
    pool, tests = (whole, found[1][0]) if split is None else pool_test_split(whole, split)
    check_disjoint(pool, tests)
    if filter_empty == "oracle":
        pool = drop_empty_images(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50:95", classes=names, root=folder)


def resolve_root(machine: Machine, root: str) -> Path:
    """The data set's folder. ValueError where there is no data folder says how to get one."""
    try:
        return machine.resolve_path(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {ARCHIVE_URLS} into {root}/ there") from None


def fallback_advice(folder: Path, root: str) -> str:
    """What to do where nothing is there: to get COCO, unless the user has named a folder."""
    if root == "coco":
        return f"for COCO itself, unpack {ARCHIVE_URLS} into {folder}"
    return "set root=, annotations=, images= (SPLIT in them is what train= and test= name), or split=0.2 for one file"
