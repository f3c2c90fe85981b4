"""COCO, and any data set in its format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from benchmark.api import Machine, register_task
from tasks._annotations import check_apart, reveals, with_boxes
from tasks._coco_json import coco_json
from tasks._detection import Detection
from tasks._detection_recipe import PUBLISHED_FCOS_COCO, DetectorRecipe, lacks
from tasks._image_checks import together
from tasks._image_files import Exif

SITE = "http://images.cocodataset.org"
ARCHIVES = f"{SITE}/zips/train2017.zip, {SITE}/zips/val2017.zip and {SITE}/annotations/annotations_trainval2017.zip"


@register_task(version=1, default=DetectorRecipe(), published=PUBLISHED_FCOS_COCO, lacks=lacks, reveals=reveals)
def coco(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = "coco",
    train: str = "train2017",
    test: str = "val2017",
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
) -> Detection:
    """Boxes in the COCO format; the score is the COCO evaluator's AP, the mean over overlaps of 50 to 95 per cent.

    root: absolute, or inside the data folder. It holds annotations/instances_SPLIT.json and the images in SPLIT/.
    train, test: the splits that are the pool and the test set. The pool is in the order of the images' ids.
    filter_empty: oracle takes images without boxes out of the pool, for which it looks at their labels.
    exif: turn turns photographs as their EXIF tags say, but where an annotation states the size of the stored pixels
        alone; ignore leaves all as they are stored.
    """
    (pool_json, pool_images), (test_json, test_images) = places(machine, root, train, test)
    (pool, names), (tests, others) = together(
        partial(coco_json, pool_json, pool_images, exif), partial(coco_json, test_json, test_images, exif)
    )
    if names != others:
        odd = sorted(set(names) ^ set(others))
        how = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(f"{test_json} has other categories than {pool_json}: {how}")
    check_apart(pool, tests)
    if filter_empty == "oracle":
        pool = with_boxes(pool)
    return Detection(
        machine, recipe, pool, tests, num_classes=len(names), map_at="50:95", classes=names, root=machine.located(root)
    )


def places(machine: Machine, root: str, train: str, test: str) -> list[tuple[Path, Path]]:
    """The JSON file and the folder of images of both splits. ValueError says how to get them."""
    if train == test:
        raise ValueError(f"train={train} is the test set too")
    try:
        folder = machine.located(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {ARCHIVES} into {root}/ there") from None
    found = [(folder / "annotations" / f"instances_{split}.json", folder / split) for split in (train, test)]
    for path in [path for pair in found for path in pair]:
        if not path.exists():
            raise ValueError(
                f"{path} is missing: unpack {ARCHIVES} into {folder}, "
                "or set root= (and data=) to other data in the COCO format"
            )
    return found
