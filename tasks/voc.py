"""PASCAL VOC, and any data set in its format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmark.api import Machine, register_task
from tasks._annotations import reveals, with_boxes
from tasks._detection import Detection
from tasks._detection_recipe import PUBLISHED_FCOS_VOC, DetectorRecipe, lacks
from tasks._pascal_voc import pascal_voc

SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    2007: f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar and {SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    2012: f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar",
}


@register_task(version=1, default=DetectorRecipe(), published=PUBLISHED_FCOS_VOC, lacks=lacks, reveals=reveals)
def voc(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = ".",
    year: int | None = 2012,
    train: str = "train",
    test: str = "val",
    difficult: bool = True,
    filter_empty: Literal["none", "oracle"] = "none",
) -> Detection:
    """Boxes in the PASCAL VOC format; the score is the AP50 of the COCO evaluator.

    root: absolute, or inside the data folder. It holds ImageSets/Main/, Annotations/ and JPEGImages/ itself, or is
        the folder around VOCdevkit/VOC2012 or VOC2012; `year` chooses among those, and counts for nothing else.
    train, test: the files of ImageSets/Main that list the pool and the test set. The pool is in that order.
    difficult: whether objects marked difficult are trained on and scored as any other; if not, they are ignored.
    filter_empty: oracle takes images without boxes out of the pool, for which it looks at their labels.
    """
    folder = devkit(machine, root, year)
    pool, tests, names = pascal_voc(folder, train, test, difficult=difficult)
    if filter_empty == "oracle":
        pool = with_boxes(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names)


def devkit(machine: Machine, root: str, year: int | None) -> Path:
    """The folder with ImageSets/Main. ValueError says how to get one."""
    archives = ARCHIVES.get(year or 2012, f"an archive of {SITE}/voc{year}/")
    try:
        folder = machine.located(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {archives} there") from None
    inside = [] if year is None else [f"VOC{year}", f"VOCdevkit/VOC{year}"]
    for part in (*inside, "."):
        if (folder / part / "ImageSets" / "Main").is_dir():
            return folder / part
    raise ValueError(
        f"{folder} has no {', no '.join([*inside, 'ImageSets/Main'])}: unpack {archives} there, "
        "or set root= (and data=) to other data in the VOC format"
    )
