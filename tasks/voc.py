"""PASCAL VOC, and any data set in its format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.data.annotations import SPLIT_PLACEHOLDER, LayoutError
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
from benchmark.vision.data.requirements import missing_data
from benchmark.vision.data.splitting import check_disjoint, drop_empty_images, label_leakage
from benchmark.vision.detection.detectors import check_weights, missing_packages
from benchmark.vision.detection.recipe import PUBLISHED_FCOS_VOC, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

DEFAULT_ROOT = "."  # the data folder itself


def missing_requirements(
    machine: Machine, recipe: DetectorRecipe, *, root: str, year: int | None, lists: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the detector's package and the data set, if they are not there; see `register_task`."""
    yield from missing_packages(recipe)

    def is_there(folder: Path) -> bool:
        return find_year_folder(folder, year) is not None or (folder / lists).is_dir()

    if root == DEFAULT_ROOT:
        yield from missing_data(machine, f"PASCAL VOC {year or 2012}", root, archive_urls(year), is_there=is_there)
    else:
        yield from missing_data(machine, f"voc[root={root}]", root, "")


@register_task(
    version=1,
    default=DetectorRecipe(),
    published=PUBLISHED_FCOS_VOC,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
    label_leakage=label_leakage,
)
def voc(
    machine: Machine,
    recipe: DetectorRecipe,
    *,
    root: str = DEFAULT_ROOT,
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

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        root: Absolute, or inside the data folder. The folder that holds `images`, `annotations` and `lists`, or the
            folder around VOCdevkit/VOC2012 or VOC2012.
        year: Chooses among the folders VOC{year} inside `root`; it has no other effect.
        train: The list of the pool, without .txt. The pool comes in its order.
        test: The list of the test set, without .txt.
        images: The folder of the images, inside `root`. SPLIT in it stands for `train` or `test`.
        annotations: The folder of the XML files, inside `root`. SPLIT in it stands for `train` or `test`: each split is
            then all of its folder and below, and there are no lists.
        lists: The folder of the lists, inside `root`.
        split: The share of the images that becomes the test set, drawn by a hash of each image's name: of those on the
            list `train`, or of all if there is no folder of lists; `test` has no effect then. null uses `test`.
        difficult: Whether objects marked as difficult are trained on and scored like all others; if not, they are
            ignored.
        first_pixel: 1 if xmin and ymin are numbers of pixels that count from 1, with the last pixel inside the box, as
            PASCAL VOC defines; 0 if they are distances from the image's edge, as many tools write them. null: 0 if a
            box of the pool or of the test set begins below 1, which is then logged; else 1.
        filter_empty: "oracle" takes images without boxes out of the pool; this looks at labels that are not paid for.
        exif: "turn" turns photographs as their EXIF tags say, unless the size that the annotation states fits only the
            unturned image. "ignore" leaves all images as they are stored.

    Raises:
        ValueError: Files are missing or cannot be read, an image is in both splits, the test set has a class that the
            pool does not have, or one of them has no boxes.
    """
    if first_pixel not in (None, 0, 1):
        raise ValueError(f"first_pixel={first_pixel}: must be 0, 1 or null")
    layout, root_folder = Layout(images, annotations, lists), resolve_root(machine, root, year)
    folder = find_year_folder(root_folder, year, layout) or root_folder
    try:
        pool, tests, names = read_pascal_voc(
            folder, train, test, difficult=difficult, layout=layout, share=split, first_pixel=first_pixel, exif=exif
        )
    except LayoutError as error:
        raise ValueError(
            f"{error}. {suggest_parameters(root_folder, root, fallback_advice(root_folder, root, year))}"
        ) from None
    if SPLIT_PLACEHOLDER in annotations:
        check_disjoint(pool, tests)
    if filter_empty == "oracle":
        pool = drop_empty_images(pool)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names, root=folder)


def fallback_advice(folder: Path, root: str, year: int | None) -> str:
    """What to do if the folder cannot be read: get PASCAL VOC, or set parameters if the user has named a folder."""
    if root == DEFAULT_ROOT:
        return f"for PASCAL VOC itself, unpack {archive_urls(year)} in {folder}"
    return "set root=, images=, annotations=, lists=, train= and test= to what there is, and split=0.2 without lists"
