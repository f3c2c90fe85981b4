"""PASCAL VOC, and any data set in its format."""

from __future__ import annotations

from typing import Literal

from benchmark.api import Machine, register_task
from tasks._annotations import reveals, with_boxes
from tasks._detection import Detection
from tasks._detection_recipe import PUBLISHED_FCOS_VOC, DetectorRecipe, lacks
from tasks._image_files import Exif
from tasks._pascal_voc import devkit, pascal_voc


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
    first_pixel: int | None = None,
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
) -> Detection:
    """Boxes in the PASCAL VOC format; the score is the AP50 of the COCO evaluator.

    root: absolute, or inside the data folder. It holds ImageSets/Main/, Annotations/ and JPEGImages/ itself, or is
        the folder around VOCdevkit/VOC2012 or VOC2012; `year` chooses among those, and counts for nothing else.
    train, test: the files of ImageSets/Main that list the pool and the test set. The pool is in that order.
    difficult: whether objects marked difficult are trained on and scored as any other; if not, they are ignored.
    first_pixel: 1 where xmin and ymin are numbers of pixels that count from 1, the last pixel inside the box, as PASCAL
        VOC has it; 0 where sides are lengths from the image's edge, as many tools write them. null: 0 where a box of
        the pool or of the test set begins below 1, which is said then; else 1.
    filter_empty: oracle takes images without boxes out of the pool, for which it looks at their labels.
    exif: turn turns photographs as their EXIF tags say, but where an annotation states the size of the stored pixels
        alone; ignore leaves all as they are stored.
    """
    if first_pixel not in (None, 0, 1):
        raise ValueError(f"first_pixel={first_pixel}: must be 0, 1 or null")
    folder = devkit(machine, root, year)
    pool, tests, names = pascal_voc(folder, train, test, difficult=difficult, first_pixel=first_pixel, exif=exif)
    if filter_empty == "oracle":
        pool = with_boxes(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names, root=folder)
