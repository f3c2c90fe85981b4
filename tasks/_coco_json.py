"""Reads the COCO format: one JSON file with images, annotations and categories.

Shapes: N images, B boxes of a split.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmark.api import Indices
from tasks._annotations import Files, Split, Truth, once

FAR = 1e9  # pixels: no box reaches so far


class Picture(NamedTuple):
    """What is kept of an image, as the file has it."""

    id: Any
    file_name: Any
    width: Any
    height: Any


class Category(NamedTuple):
    """What is kept of a category, as the file has it."""

    id: Any
    name: Any


class Marked(NamedTuple):
    """What is kept of an annotation, as the file has it."""

    image_id: Any
    category_id: Any
    bbox: Any  # x, y, width, height in pixels
    crowd: bool


def coco_json(path: Path, folder: Path) -> tuple[Split, list[str]]:
    """The images of `folder` with their boxes, and the names of the categories.

    Images are in the order of their ids, whatever their order in the file; classes 0..C-1 in the order of the
    categories' ids, which may have gaps. Boxes with iscrowd=1 are ignored.
    Raises ValueError for a file of another kind, for ids that are there twice or name nothing, for a box that is not
    four finite numbers, and for images that are missing or outside the folder.
    """
    pictures, marks, categories = parsed(path)
    image_ids, category_ids = (
        known(path, kind, [row.id for row in rows]) for kind, rows in (("image", pictures), ("category", categories))
    )
    truth = Truth.grouped(
        places(path, "image", [mark.image_id for mark in marks], image_ids),
        corners(path, [mark.bbox for mark in marks]),
        places(path, "category", [mark.category_id for mark in marks], category_ids),
        np.array([mark.crowd for mark in marks], np.bool_),
        len(image_ids),
    )
    names = [str(category.name) for category in sorted(categories)]
    return Split.of_files(files(path, folder, sorted(pictures)), truth, path), names


def compact(found: dict[str, Any]) -> Any:
    """What is kept of one object of the file; outlines are let go before the next object is read."""
    if "image_id" in found:
        crowd = found.get("iscrowd") == 1
        return Marked(found["image_id"], found.get("category_id"), found.get("bbox"), crowd)
    if "file_name" in found:
        return Picture(found.get("id"), found["file_name"], found.get("width"), found.get("height"))
    return found


def parsed(path: Path) -> tuple[list[Picture], list[Marked], list[Category]]:
    """The three lists of a file, whose values may be anything still. ValueError for a file of another kind."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=compact)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    pictures, marks, found = (
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")
    )
    if not (isinstance(pictures, list) and isinstance(marks, list) and isinstance(found, list)):
        raise ValueError(f"{path} is no instances file: it must have the lists images, annotations and categories")
    categories = [
        Category(row["id"], row["name"]) for row in found if isinstance(row, dict) and {"id", "name"} <= {*row}
    ]
    if not pictures or not categories:
        raise ValueError(f"{path} has {len(pictures)} images and {len(categories)} categories: it needs some of both")
    if not all(type(row) is Picture for row in pictures) or len(categories) < len(found):
        raise ValueError(f"{path}: every image must have a file_name, and every category an id and a name")
    if not all(type(row) is Marked for row in marks):
        raise ValueError(f"{path}: every annotation must have an image_id")
    return pictures, marks, categories


def whole(what: str, values: Sequence[Any]) -> Indices:
    """The values, which must be whole numbers."""
    for value in values:
        if type(value) is not int or abs(value) >= 2**63:
            raise ValueError(f"{what} {value!r:.60} is not a whole number")
    return np.array(values, np.int64)


def known(path: Path, kind: str, ids: Sequence[Any]) -> Indices:
    """The ids of all images, or of all categories, ascending."""
    what = f"{path}: the {kind} id"
    ascending = np.sort(whole(what, ids))
    once(ids, what)
    return ascending


def places(path: Path, kind: str, ids: Sequence[Any], known_ids: Indices) -> Indices:
    """(B,): the place (0..) of each annotation's id among those that are known, which ascend."""
    ids_B = whole(f"{path}: an annotation's {kind}_id", ids)
    place_B = np.searchsorted(known_ids, ids_B).clip(max=len(known_ids) - 1)
    wrong_B = known_ids[place_B] != ids_B
    if wrong_B.any():
        raise ValueError(f"{path}: an annotation's {kind}_id {ids_B[wrong_B][0]} is the id of no {kind}")
    return place_B


def corners(path: Path, bboxes: Sequence[Any]) -> npt.NDArray[np.float32]:
    """(B, 4): x1, y1, x2, y2 in pixels, from x, y, width, height."""
    for bbox in bboxes:
        numbers = bbox if isinstance(bbox, list) else ()
        if len(numbers) != 4 or not all(type(one) in (int, float) and -FAR < one < FAR for one in numbers):
            raise ValueError(
                f"{path}: an annotation's bbox {bbox!r:.60} is not four finite numbers (x, y, width, height)"
            )
    boxes_B4 = np.array(bboxes, np.float64).reshape(-1, 4)
    boxes_B4[:, 2:] += boxes_B4[:, :2]
    return boxes_B4.astype(np.float32)


def files(path: Path, folder: Path, pictures: Sequence[Picture]) -> Files:
    """The files of the images. A size that is not two whole numbers counts as not stated."""
    names = [os.path.normpath(str(picture.file_name)) for picture in pictures]
    for name in names:
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{path}: the file_name {name} leads out of {folder}")
    once(names, f"{path}: the file_name")
    sizes_N2 = [[side if type(side) is int and 0 < side < FAR else 0 for side in picture[2:]] for picture in pictures]
    return Files(folder, names, np.array(sizes_N2, np.int64))
