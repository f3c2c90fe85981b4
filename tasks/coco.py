"""COCO, and any data set in its format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.data.coco_folder import DEFAULT_ROOT, CocoFolder, missing_coco
from benchmark.vision.data.coco_json import ANNOTATIONS, IMAGES, read_coco_json
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.splitting import label_leakage
from benchmark.vision.detection.detectors import check_weights, missing_packages
from benchmark.vision.detection.recipe import PUBLISHED_FCOS_COCO, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection


def missing_requirements(
    machine: Machine, recipe: DetectorRecipe, *, root: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the detector's package and the data set, if they are not there; see `register_task`."""
    yield from missing_packages(recipe)
    yield from missing_coco(machine, f"coco[root={root}]", root)


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
    data = CocoFolder(root, train, test, images, annotations, split, filter_empty)
    pool, tests, names, folder = data.read(machine, partial(read_coco_json, exif=exif))
    return Detection(machine, recipe, pool, tests, num_classes=len(names), map_at="50:95", classes=names, root=folder)
