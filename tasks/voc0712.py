"""PASCAL VOC 2007 and 2012 together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark.api import MEAN_AP_VOC07, Machine, Requirement, register_task
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.pascal_voc import archive_urls, find_year_folder, read_pascal_voc, resolve_root
from benchmark.vision.data.requirements import missing_data
from benchmark.vision.detection.detectors import check_weights, missing_packages
from benchmark.vision.detection.recipe import PUBLISHED_SSD300, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection


def missing_requirements(
    machine: Machine, recipe: DetectorRecipe, *, root: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the detector's package and the two years of data, if they are not there; see `register_task`."""
    yield from missing_packages(recipe)
    for year in (2007, 2012):
        is_there = partial(find_year_folder, year=year)
        yield from missing_data(machine, f"PASCAL VOC {year}", root, archive_urls(year), is_there=is_there)


@register_task(
    version=2,
    default=DetectorRecipe(),
    published=PUBLISHED_SSD300,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
)
def voc0712(
    machine: Machine, recipe: DetectorRecipe, *, root: str = ".", difficult: bool = False, exif: Exif = "turn"
) -> Detection:
    """The trainval sets of VOC 2007 and 2012 as the pool (16,551 images), the test set of 2007 as the test set (4,952).

    The pool has the images of 2007 first. The score is `voc07_map` in per cent: mean average precision as VOC defined
    it in 2007, with the precision at eleven recalls, which papers print for this test set. `map` is the AP50 of the
    COCO evaluator, and `voc_map` the area under the precision-recall curve, as VOC defines it since 2010, both in 0..1.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        root: The folder around VOC2007 and VOC2012, or around VOCdevkit: absolute, or inside the data folder.
        difficult: Whether objects marked as difficult are trained on and scored like all others; if not, they are
            ignored.
        exif: "turn" turns photographs as their EXIF tags say, unless the size that the annotation states fits only the
            unturned image. "ignore" leaves all images as they are stored.

    Raises:
        ValueError: Files are missing or cannot be read, or the test set has a class that the pool does not have.
    """
    first, second = (resolve_year_folder(machine, root, year) for year in (2007, 2012))
    pool, tests, names = read_pascal_voc(
        first, "trainval", "test", difficult=difficult, first_pixel=1, exif=exif, extra_folders=[second]
    )
    root_folder = machine.resolve_path(root)
    return Detection(
        machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names, root=root_folder,
        metric=MEAN_AP_VOC07,
    )  # fmt: skip


def resolve_year_folder(machine: Machine, root: str, year: int) -> Path:
    """The folder of a year's data. Raises ValueError if there is none; the message says where to get the data."""
    folder = resolve_root(machine, root, year)
    if (year_folder := find_year_folder(folder, year)) is None:
        raise ValueError(
            f"{folder} has no VOC{year}, no VOCdevkit/VOC{year}: unpack {archive_urls(year)} there, or set root="
        )
    return year_folder
