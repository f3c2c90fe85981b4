"""PASCAL VOC 2007 and 2012 together."""

from __future__ import annotations

from pathlib import Path

from benchmark.api import Machine, register_task
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.pascal_voc import archive_urls, find_year_folder, read_pascal_voc, resolve_root
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import PUBLISHED_SSD300, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection


@register_task(
    version=1,
    default=DetectorRecipe(),
    published=PUBLISHED_SSD300,
    missing_capabilities=missing_capabilities,
    check=check_weights,
)
def voc0712(
    machine: Machine, recipe: DetectorRecipe, *, root: str = ".", difficult: bool = False, exif: Exif = "turn"
) -> Detection:
    """The pool is trainval of VOC 2007, then that of 2012: 16,551 images. The test set is test of 2007, 4,952 images.

    The score is the AP50 of the COCO evaluator; `voc_map`, beside it, is the area under the curve that VOC counts from
    2010 on. The published mAP is that of 2007, with precision read at eleven recalls, which neither is.
    root: absolute, or inside the data folder. It is the folder around VOC2007 and VOC2012, or around VOCdevkit.
    difficult: whether objects marked difficult are trained on and scored as any other; if not, they are ignored.
    exif: turn turns photographs as their EXIF tags say, but where an annotation states the size of the stored pixels
        alone; ignore leaves all as they are stored.
    """
    first, second = (resolve_year_folder(machine, root, year) for year in (2007, 2012))
    pool, tests, names = read_pascal_voc(
        first, "trainval", "test", difficult=difficult, first_pixel=1, exif=exif, extra_folders=[second]
    )
    home = machine.resolve_path(root)
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50", classes=names, root=home)


def resolve_year_folder(machine: Machine, root: str, year: int) -> Path:
    """The folder of a year's data. ValueError says how to get it."""
    folder = resolve_root(machine, root, year)
    if (found := find_year_folder(folder, year)) is None:
        raise ValueError(
            f"{folder} has no VOC{year}, no VOCdevkit/VOC{year}: unpack {archive_urls(year)} there, or set root="
        )
    return found
