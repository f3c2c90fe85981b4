"""Reads persons with keypoints from COCO's format (`person_keypoints_train2017.json`).

Shapes: N images, B persons of a split, J keypoints of a person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.api import Indices
from benchmark.vision.data.annotation_values import check_unique, parse_flag, parse_name, short_repr
from benchmark.vision.data.annotations import LOG, SPLIT_PLACEHOLDER, GroundTruth, ImageFiles, Split
from benchmark.vision.data.coco_json import (
    MAX_COORDINATE,
    AnnotationEntry,
    CategoryEntry,
    argsort_ids,
    list_image_files,
    parse_boxes,
    parse_category_name,
    parse_ids,
    rank_ids,
    read_entries,
)
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.poses import PoseTruth, Skeleton
from benchmark.vision.data.regular_files import printable

ANNOTATIONS = f"annotations/person_keypoints_{SPLIT_PLACEHOLDER}.json"
COCO_SIGMAS = {  # of COCO's persons, as its evaluator has them
    "nose": 0.026, "left_eye": 0.025, "right_eye": 0.025, "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.079, "right_shoulder": 0.079, "left_elbow": 0.072, "right_elbow": 0.072, "left_wrist": 0.062,
    "right_wrist": 0.062, "left_hip": 0.107, "right_hip": 0.107, "left_knee": 0.087, "right_knee": 0.087,
    "left_ankle": 0.089, "right_ankle": 0.089,
}  # fmt: skip
AREA_OF_BOX = 0.53  # a person's area as a share of the box, where no area is stated, as COCO's evaluators take it


def read_coco_keypoints(
    path: Path, folder: Path, exif: Exif = "turn", sigmas: str | None = None
) -> tuple[Split, list[str]]:
    """Reads images with persons and their keypoints from a JSON file in COCO's format.

    Images come in the order of their ids. Persons with iscrowd=1 are ignored in training and scoring. A person without
    `keypoints`, or with none labelled, stays a person. A keypoint outside its image counts as not labelled. A person's
    area is `area`, or 0.53 of the box where that is missing. One line of the log counts what was changed.

    Args:
        path: The JSON file, with one category, which names its keypoints.
        folder: The folder that the images' `file_name` entries are relative to.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.
        sigmas: The sigma of all keypoints, or of each with / between them; None for those of COCO's persons.

    Returns:
        The images with their persons, and the name of the category.

    Raises:
        LayoutError: No image of the file is in the folder.
        BadImagesError: Names all images that are missing or cannot be read.
        ValueError: As `read_coco_json`; or there are several categories, a person's keypoints are not three finite
            numbers for each name, or `sigmas` does not fit the names.
    """
    images, annotations, categories = read_entries(path)
    category = find_category(path, categories)
    skeleton = build_skeleton(path, category, sigmas)
    image_ids = parse_ids(path, "image", [row.id for row in images])
    rank_ids(path, "category", [row.category_id for row in annotations], parse_ids(path, "category", [category.id]))
    image_B = rank_ids(path, "image", [row.image_id for row in annotations], image_ids)
    order_B = np.argsort(image_B, kind="stable")
    boxes = GroundTruth.from_boxes(
        image_B,
        parse_boxes(path, [row.bbox for row in annotations]),
        np.zeros(len(image_B), np.int64),
        np.array([parse_flag(f"{path}: an annotation's iscrowd", row.crowd) for row in annotations], np.bool_),
        len(image_ids),
    )
    keypoints_BJ3 = np.array([parse_keypoints(path, row, len(skeleton)) for row in annotations], np.float32)
    areas_B = np.array([parse_area(row.area) for row in annotations], np.float32)
    truth = PoseTruth(
        **vars(boxes), keypoints_BJ3=keypoints_BJ3.reshape(-1, len(skeleton), 3)[order_B], areas_B=areas_B[order_B],
        skeleton=skeleton,
    )  # fmt: skip
    report_wrong_counts(path, annotations, truth.num_keypoints_B[np.argsort(order_B)])
    files = list_image_files(path, folder, [images[number] for number in argsort_ids(image_ids)], exif)
    split = Split.from_files(files, truth, path)
    return clean_keypoints(split, path), [parse_category_name(path, category)]


def find_category(path: Path, categories: Sequence[CategoryEntry]) -> CategoryEntry:
    """The only category. Raises ValueError if there are others, or if it has no list of keypoints."""
    if len(categories) > 1:
        names = ", ".join(parse_category_name(path, row) for row in categories[:3])
        raise ValueError(f"{path} has {len(categories)} categories ({names} ...): a keypoint task has one")
    if not isinstance(categories[0].keypoints, list) or not categories[0].keypoints:
        name = parse_category_name(path, categories[0])
        raise ValueError(
            f"{path}: category {name} has no list `keypoints` of names, as person_keypoints_train2017.json has"
        )
    return categories[0]


def build_skeleton(path: Path, category: CategoryEntry, sigmas: str | None) -> Skeleton:
    """The names of the keypoints with their sigmas. Raises ValueError if they do not fit each other."""
    names = tuple(parse_name(f"{path}: the name of a keypoint", name) for name in category.keypoints)
    check_unique(names, f"{path}: the keypoint")
    if sigmas is None:
        if unknown := [name for name in names if name not in COCO_SIGMAS]:
            raise ValueError(
                f"{path}: keypoint {unknown[0]} is none of COCO's persons, so its sigma is not known: set sigmas=0.05 "
                "for all keypoints, or a number for each with / between them"
            )
        return Skeleton(names, tuple(COCO_SIGMAS[name] for name in names))
    try:
        numbers = [float(text) for text in sigmas.split("/")]
    except ValueError:
        numbers = []
    numbers = numbers * len(names) if len(numbers) == 1 else numbers
    if len(numbers) != len(names) or not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"sigmas={sigmas}: must be a number above 0, or {len(names)} of them with / between them")
    return Skeleton(names, tuple(numbers))


def parse_keypoints(path: Path, entry: AnnotationEntry, num: int) -> list[float]:
    """The 3 J numbers of a person's keypoints; zeros where it has none. Raises ValueError for any other form."""
    values = entry.keypoints or [0] * (3 * num)
    if not isinstance(values, list) or len(values) != 3 * num:
        length = f"{len(values)} numbers" if isinstance(values, list) else short_repr(values)
        raise ValueError(f"{path}: an annotation's keypoints are {length}, not {3 * num}: x, y and visibility of {num}")
    if not all(type(value) in (int, float) and -MAX_COORDINATE < value < MAX_COORDINATE for value in values):
        raise ValueError(f"{path}: an annotation's keypoints {short_repr(values)} are not finite numbers")
    if unknown := set(values[2::3]) - {0, 1, 2}:
        raise ValueError(f"{path}: the visibility {min(unknown):g} of a keypoint is not 0, 1 or 2")
    return values


def parse_area(area: object) -> float:
    """A stated area in square pixels; 0 if it is no positive number, and so not stated."""
    if not isinstance(area, int | float) or isinstance(area, bool):
        return 0.0
    return float(area) if 0 < area < MAX_COORDINATE**2 else 0.0


def report_wrong_counts(path: Path, annotations: Sequence[AnnotationEntry], num_B: Indices) -> None:
    """Logs how many persons state another `num_keypoints` than they have; what they have counts."""
    stated = [row.num_keypoints for row in annotations]
    if wrong := sum(number not in (None, num) for number, num in zip(stated, num_B.tolist(), strict=True)):
        LOG.warning(
            "%s: num_keypoints of %d annotations is not the number of keypoints with a visibility > 0, and is ignored",
            path, wrong,
        )  # fmt: skip


def clean_keypoints(split: Split, source: Path) -> Split:
    """Marks keypoints outside their images as not labelled, and completes areas that are not stated.

    Args:
        split: Images in files (`ImageFiles`) with a `PoseTruth`.
        source: The file of the keypoints, for messages.
    """
    truth, files = split.truth, split.images
    assert isinstance(truth, PoseTruth) and isinstance(files, ImageFiles), "not from a reader"
    image_B = np.repeat(np.arange(len(files)), np.diff(truth.offsets_N1))
    places_BJ2, is_labelled_BJ = truth.keypoints_BJ3[..., :2], truth.keypoints_BJ3[..., 2] > 0
    inside_BJ = ((places_BJ2 >= 0) & (places_BJ2 <= files.sizes_N2[image_B][:, None])).all(2)
    outside_BJ = is_labelled_BJ & ~inside_BJ
    if outside_BJ.any():
        first = printable(files.names[image_B[outside_BJ.any(1)][0]])
        LOG.warning(
            "%s: of %d labelled keypoints %d outside their image count as not labelled (the first in %s)",
            source, is_labelled_BJ.sum(), outside_BJ.sum(), first,
        )  # fmt: skip
    keypoints_BJ3 = np.where((is_labelled_BJ & inside_BJ)[..., None], truth.keypoints_BJ3, np.float32(0))
    box_areas_B = AREA_OF_BOX * (truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]).prod(1)
    areas_B = np.where(truth.areas_B > 0, truth.areas_B, box_areas_B)
    return Split(files, replace(truth, keypoints_BJ3=keypoints_BJ3, areas_B=areas_B))
