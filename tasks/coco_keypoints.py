"""Keypoints of COCO's persons, and of any data set in its format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.data.coco_folder import DEFAULT_ROOT, CocoFolder, missing_coco
from benchmark.vision.data.coco_json import IMAGES
from benchmark.vision.data.coco_keypoints import ANNOTATIONS, read_coco_keypoints
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.splitting import label_leakage
from benchmark.vision.keypoints.builder import check_weights
from benchmark.vision.keypoints.recipe import PUBLISHED_KEYPOINT_RCNN, PoseRecipe, missing_capabilities
from benchmark.vision.keypoints.task import PoseEstimation


def missing_requirements(
    machine: Machine, recipe: PoseRecipe, *, root: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the data set, if it is not there; see `register_task`."""
    yield from missing_coco(machine, f"coco_keypoints[root={root}]", root)


@register_task(
    version=1,
    default=PoseRecipe(),
    published=PUBLISHED_KEYPOINT_RCNN,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
    label_leakage=label_leakage,
)
def coco_keypoints(
    machine: Machine,
    recipe: PoseRecipe,
    *,
    root: str = DEFAULT_ROOT,
    train: str = "train2017",
    test: str = "val2017",
    images: str = IMAGES,
    annotations: str = ANNOTATIONS,
    split: float | None = None,
    filter_empty: Literal["none", "oracle"] = "none",
    exif: Exif = "turn",
    sigmas: str | None = None,
) -> PoseEstimation:
    """Persons with keypoints in the COCO format; the score is the COCO evaluator's AP of keypoints, the mean over OKS
    thresholds of 0.50 to 0.95.

    The annotations have one category, which need not be persons, with the names of its keypoints. A mirror exchanges
    keypoints whose names say left and right. Persons without labelled keypoints are trained on as boxes and ignored in
    the score, as in COCO. A keypoint outside its image counts as not labelled.

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
        filter_empty: "oracle" takes images without persons out of the pool; this looks at labels that are not paid for.
        exif: "turn" turns photographs as their EXIF tags say, unless the size that the annotation states fits only the
            unturned image. "ignore" leaves all images as they are stored.
        sigmas: The sigma of every keypoint in the score (0.05), or of each with / between them. null takes those of
            COCO's 17 keypoints of persons.

    Raises:
        ValueError: Files are missing or cannot be read, the splits overlap or have different categories, or one of them
            has no labelled keypoint.
    """
    data = CocoFolder(root, train, test, images, annotations, split, filter_empty)
    read = partial(read_coco_keypoints, exif=exif, sigmas=sigmas)
    pool, tests, names, folder = data.read(machine, read, suggests_boxes=False)
    return PoseEstimation(machine, recipe, pool, tests, names, folder)
