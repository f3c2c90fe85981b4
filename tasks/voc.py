"""PASCAL VOC, and any data set in its format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmark.api import Machine, register_task
from benchmark.vision.data.annotations import (
    SPLIT_PLACEHOLDER,
    LayoutError,
    check_disjoint,
    drop_empty_images,
    label_leakage,
)
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.layouts import suggest_parameters
from benchmark.vision.data.pascal_voc import (
    ANNOTATIONS,
    IMAGES,
    LISTS,
    Layout,
    archive_urls,
    find_year_folder,
    read_pascal_voc,
    resolve_root,
)
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import PUBLISHED_FCOS_VOC, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection


@register_task(
    version=1,
    default=DetectorRecipe(),
    published=PUBLISHED_FCOS_VOC,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    label_leakage=label_leakage,
)
def voc(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = ".",
    year: int | None = 2012,
    train: str = "train",
    test: str = "val",
    images: str = IMAGES,
    annotations: str = ANNOTATIONS,
    lists: str = LISTS,
    split: float | None = None,
    difficult: bool = True,
    first_pixel: int | None = None,
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
) -> Detection:
    """Boxes in the PASCAL VOC format; the score is the AP50 of the COCO evaluator.

    root: absolute, or inside the data folder. It holds the folders of the next parameters itself, or is the folder
        around VOCdevkit/VOC2012 or VOC2012; `year` chooses among those, and counts for nothing else.
    train, test: the lists of the pool and of the test set, without .txt. The pool is in that order.
    images, annotations, lists: the folders of the images, of the XML files and of the lists, inside `root`. SPLIT in
        the first two stands for what `train` and `test` name; with SPLIT in `annotations` each split is all of its
        folder and below, and there are no lists.
    split: share of the images that is the test set, drawn by their names; of those of the list `train`, or of all where
        there is no folder of lists; `test` counts for nothing then. null: `test` lists it.
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
    layout, given = Layout(images, annotations, lists), resolve_root(machine, root, year)
    folder = find_year_folder(given, year, layout) or given
    try:
        pool, tests, names = read_pascal_voc(
            folder, train, test, difficult=difficult, layout=layout, share=split, first_pixel=first_pixel, exif=exif
        )
    except LayoutError as error:
        raise ValueError(f"{error}. {suggest_parameters(given, root, fallback_advice(given, root, year))}") from None
    if SPLIT_PLACEHOLDER in annotations:
        check_disjoint(pool, tests)
    if filter_empty == "oracle":
        pool = drop_empty_images(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names, root=folder)


def fallback_advice(folder: Path, root: str, year: int | None) -> str:
    """What to do where nothing is there: to get PASCAL VOC, unless the user has named a folder."""
    if root == ".":
        return f"for PASCAL VOC itself, unpack {archive_urls(year)} in {folder}"
    return "set root=, images=, annotations=, lists=, train= and test= to what there is, and split=0.2 without lists"
