"""Reads the COCO format: a JSON file with lists of images, annotations and categories, for one split or all images.

Shapes: N images, B boxes of a split.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.api import Indices
from benchmark.vision.data.annotation_values import check_unique, parse_flag, parse_name, short_repr
from benchmark.vision.data.annotations import SPLIT_PLACEHOLDER, GroundTruth, ImageFiles, LayoutError, Split
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.regular_files import printable, read_bytes

Identifiers: TypeAlias = list[int] | list[str]  # integers or text, one per image or category
IMAGES = SPLIT_PLACEHOLDER  # the paths in the COCO data set
ANNOTATIONS = f"annotations/instances_{SPLIT_PLACEHOLDER}.json"
OTHER_FORMATS = {  # by the keys of a file or its first entry
    "Label Studio": {"annotations", "data"},
    "VIA": {"_via_img_metadata"},
    "CreateML": {"image", "annotations"},
    "labelme": {"shapes", "imagePath"},
}
MAX_COORDINATE = 1e9  # pixels; larger numbers are errors
MAX_FILE_BYTES = 2**34  # several times the size of the largest published files


class ImageEntry(NamedTuple):
    """The fields of an image that are used, unchecked, as the file has them."""

    id: Any
    file_name: Any
    width: Any
    height: Any


class CategoryEntry(NamedTuple):
    """The fields of a category that are used, unchecked, as the file has them."""

    id: Any
    name: Any
    keypoints: Any = None  # names


class AnnotationEntry(NamedTuple):
    """The fields of an annotation that are used, unchecked, as the file has them."""

    image_id: Any
    category_id: Any
    bbox: Any  # x, y, width, height in pixels
    crowd: Any  # `iscrowd`: 0, 1 or another spelling, see `parse_flag`
    keypoints: Any = None  # x, y and visibility of one keypoint after the other
    num_keypoints: Any = None
    area: Any = None  # in square pixels


def read_coco_json(path: Path, folder: Path, exif: Exif = "turn") -> tuple[Split, list[str]]:
    """Reads images with boxes from a JSON file in COCO's format.

    Images come in the order of their ids, whatever their order in the file. Classes are numbered 0..C-1 in the order of
    the categories' ids, which may have gaps. Boxes with iscrowd=1 are ignored in training and scoring. Outlines and
    all other fields are not used.

    Args:
        path: The JSON file.
        folder: The folder that the images' `file_name` entries are relative to.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.

    Returns:
        The images with their boxes, and the names of the classes.

    Raises:
        LayoutError: No image of the file is in the folder.
        BadImagesError: Names all images that are missing or cannot be read.
        ValueError: The file has another format, a key or an id occurs twice, an id refers to nothing, a box is not four
            finite numbers, a name is not valid, or a path leads out of the folder.
    """
    images, annotations, categories = read_entries(path)
    image_ids, category_ids = (
        parse_ids(path, kind, [row.id for row in rows]) for kind, rows in (("image", images), ("category", categories))
    )
    truth = GroundTruth.from_boxes(
        rank_ids(path, "image", [entry.image_id for entry in annotations], image_ids),
        parse_boxes(path, [entry.bbox for entry in annotations]),
        rank_ids(path, "category", [entry.category_id for entry in annotations], category_ids),
        np.array([parse_flag(f"{path}: an annotation's iscrowd", entry.crowd) for entry in annotations], np.bool_),
        len(image_ids),
    )
    names = [parse_category_name(path, categories[number]) for number in argsort_ids(category_ids)]
    files = list_image_files(path, folder, [images[number] for number in argsort_ids(image_ids)], exif)
    return Split.from_files(files, truth, path), names


def locate_splits(
    folder: Path, train: str, test: str, images: str, annotations: str, share: float | None
) -> list[tuple[Path, Path]]:
    """Finds the JSON file and the image folder of the pool and of the test set.

    Args:
        folder: The data set's folder.
        train: The name of the split that is the pool.
        test: The name of the split that is the test set.
        images: The image folder inside `folder`; SPLIT in it stands for the name of the split.
        annotations: The JSON file inside `folder`, with SPLIT likewise.
        share: The share of `train` that becomes the test set; None if `test` is the test set.

    Returns:
        The JSON file and the image folder of the pool and of the test set; of `train` alone if there is a `share`.

    Raises:
        LayoutError: Names all that is missing.
    """
    if not folder.is_dir():
        raise LayoutError(f"no such folder: {folder} (root=)")
    splits = [train] if share is not None else [train, test]
    pairs = [tuple(path.replace(SPLIT_PLACEHOLDER, split) for path in (annotations, images)) for split in splits]
    parameters = {path: name for pair in pairs for path, name in zip(pair, ("annotations=", "images="), strict=True)}
    if missing := [f"{path} ({name})" for path, name in parameters.items() if not (folder / path).exists()]:
        raise LayoutError(f"{folder} has no {', no '.join(missing)}")
    if len({json for json, _ in pairs}) < len(pairs):
        raise LayoutError(f"{folder}: {pairs[0][0]} would be the pool and the test set")
    return [(folder / json, folder / image_folder) for json, image_folder in pairs]


def check_files_exist(folder: Path, train: str, test: str, images: str, annotations: str, share: float | None) -> None:
    """Checks that all files of a data set exist, without opening images; arguments as for `locate_splits`.

    Raises:
        ValueError: A JSON file or an image is missing, or the splits have different categories.
    """
    names = list[list[str]]()
    for path, image_folder in locate_splits(folder, train, test, images, annotations, share):
        entries, _, categories = read_entries(path)
        list_image_files(path, image_folder, entries, "turn")
        names.append(sorted(parse_category_name(path, category) for category in categories))
        for entry in entries:
            if not os.path.isfile(image_folder / parse_file_name(path, entry)):
                raise ValueError(f"{printable(image_folder / parse_file_name(path, entry))} is missing")
    if any(other != names[0] for other in names):
        raise ValueError(f"{folder}: the splits have different categories")


def build_entry(pairs: list[tuple[str, Any]]) -> Any:
    """Reduces one JSON object to the fields that are used, so that outlines are freed before the next object is read.

    Raises ValueError for a key that occurs twice, since JSON does not define which value counts.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        check_unique([key for key, _ in pairs], "in one object, the key")
    if ("image_id" in fields) == ("file_name" in fields):  # both or neither: the list that it is in decides later
        return fields
    return as_annotation(fields) if "image_id" in fields else as_image(fields)


def as_annotation(value: Any) -> Any:
    """Converts a JSON object with an `image_id` into an AnnotationEntry; returns other values as they are."""
    if not isinstance(value, dict) or "image_id" not in value:
        return value
    keys = ("category_id", "bbox", "iscrowd", "keypoints", "num_keypoints", "area")
    return AnnotationEntry(value["image_id"], *map(value.get, keys))


def as_image(value: Any) -> Any:
    """Converts a JSON object with a `file_name` into an ImageEntry; returns other values as they are."""
    if not isinstance(value, dict) or "file_name" not in value:
        return value
    return ImageEntry(value.get("id"), value["file_name"], value.get("width"), value.get("height"))


def read_entries(path: Path) -> tuple[list[ImageEntry], list[AnnotationEntry], list[CategoryEntry]]:
    """Reads the lists of images, annotations and categories, whose values are still unchecked.

    Args:
        path: The JSON file.

    Raises:
        ValueError: The file cannot be read, is no JSON or has another format.
    """
    try:
        content = json.loads(read_json_text(path), object_pairs_hook=build_entry)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    images, annotations, rows = (
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")
    )
    if not (isinstance(images, list) and isinstance(annotations, list) and isinstance(rows, list)):
        requirement = f"it must have the lists images, annotations and categories{other_format_hint(content)}"
        raise ValueError(f"{path} is no COCO instances file: {requirement}")
    images, annotations = list(map(as_image, images)), list(map(as_annotation, annotations))
    categories = [
        CategoryEntry(row["id"], row["name"], row.get("keypoints"))
        for row in rows
        if isinstance(row, dict) and {"id", "name"} <= {*row}
    ]
    if not images or not categories:
        raise ValueError(
            f"{path} has {len(images)} images and {len(categories)} categories: it needs at least one of each"
        )
    if not all(type(row) is ImageEntry for row in images) or len(categories) < len(rows):
        raise ValueError(f"{path}: every image must have a file_name, and every category an id and a name")
    if not all(type(row) is AnnotationEntry for row in annotations):
        raise ValueError(f"{path}: every annotation must have an image_id")
    return images, annotations, categories


def read_json_text(path: Path) -> str:
    """Reads a file in UTF-8, UTF-16 or UTF-32, whichever its first bytes show, and frees the bytes."""
    content = read_bytes(path, MAX_FILE_BYTES)
    return content.decode(json.detect_encoding(content))


def other_format_hint(content: object) -> str:
    """The end of a message about a file in another tool's own format: the tool, and what to do. "" for others."""
    first = content[0] if isinstance(content, list) and content else content
    keys = {*first} if isinstance(first, dict) else set()
    name = next((name for name, own_keys in OTHER_FORMATS.items() if own_keys <= keys), None)
    return f"; it is {name}'s own format: export it as COCO" if name else ""


def parse_integers(description: str, values: Sequence[Any]) -> list[int]:
    """Parses whole numbers of at most 64 bits; 20.0 and "20" are 20. Raises ValueError for any other value."""
    numbers = [value if type(value) is int else parse_integer(value) for value in values]
    for number, value in zip(numbers, values, strict=True):
        if number is None or abs(number) >= 2**63:
            raise ValueError(f"{description} {short_repr(value)} is not a whole number")
    return [number for number in numbers if number is not None]


def parse_integer(value: object) -> int | None:
    """The whole number that a float or a text stands for; None if there is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,19}\s*", value) else None


def parse_ids(path: Path, kind: str, ids: Sequence[Any]) -> Identifiers:
    """Parses the distinct ids of all images or categories: whole numbers, or text if one of them is no number."""
    description = f"{path}: the {kind} id"
    is_text = all(isinstance(value, str) for value in ids) and any(parse_integer(value) is None for value in ids)
    values = [str(value) for value in ids] if is_text else parse_integers(description, ids)
    check_unique(values, description)
    return values


def argsort_ids(ids: Identifiers) -> list[int]:
    """The positions of the ids in ascending order."""
    return sorted(range(len(ids)), key=ids.__getitem__)


def rank_ids(path: Path, kind: str, ids: Sequence[Any], known_ids: Identifiers) -> Indices:
    """(B,): the rank (0..) of each annotation's image id or category id among all ids of that kind."""
    description = f"{path}: an annotation's {kind}_id"
    ranks = {known_ids[number]: rank for rank, number in enumerate(argsort_ids(known_ids))}
    values = [str(value) for value in ids] if isinstance(known_ids[0], str) else parse_integers(description, ids)
    if (unknown := next((value for value in values if value not in ranks), None)) is not None:
        raise ValueError(f"{description} {printable(unknown)} is the id of no {kind}")
    return np.array([ranks[value] for value in values], np.int64)


def parse_boxes(path: Path, bboxes: Sequence[Any]) -> npt.NDArray[np.float32]:
    """(B, 4): x1, y1, x2, y2 in pixels, from COCO's x, y, width and height. Raises ValueError for any other form."""
    for bbox in bboxes:
        numbers = bbox if isinstance(bbox, list) else ()
        if len(numbers) != 4 or not all(
            type(number) in (int, float) and -MAX_COORDINATE < number < MAX_COORDINATE for number in numbers
        ):
            raise ValueError(
                f"{path}: an annotation's bbox {short_repr(bbox)} is not four finite numbers (x, y, width, height)"
            )
    boxes_B4 = np.array(bboxes, np.float64).reshape(-1, 4)
    boxes_B4[:, 2:] += boxes_B4[:, :2]
    return boxes_B4.astype(np.float32)


def list_image_files(path: Path, folder: Path, entries: Sequence[ImageEntry], exif: Exif) -> ImageFiles:
    """The files of the images, with their stated sizes; a size that is not two whole numbers counts as not stated.

    Raises LayoutError if none of the files is there, and ValueError for a path that occurs twice or leads out of
    `folder`.
    """
    names = [parse_file_name(path, entry) for entry in entries]
    for name in names:
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{path}: the file_name {name} leads out of {folder}")
    check_unique(names, f"{path}: the file_name")
    if not any(os.path.isfile(folder / name) for name in names):
        raise LayoutError(f"{folder} (images=) has none of the {len(names)} images of {path}, such as {names[0]}")
    sizes_N2 = [[parse_side(side) for side in (entry.width, entry.height)] for entry in entries]
    return ImageFiles(folder, names, np.array(sizes_N2, np.int64), exif)


def parse_file_name(path: Path, entry: ImageEntry) -> str:
    """The path of an image inside the image folder."""
    return os.path.normpath(parse_name(f"{path}: the file_name", entry.file_name).replace("\\", "/"))


def parse_category_name(path: Path, entry: CategoryEntry) -> str:
    """The name of a category."""
    return parse_name(f"{path}: the name of a category", entry.name)


def parse_side(side: object) -> int:
    """A stated width or height in pixels; 0 if it is no whole number, and so not stated."""
    number = side if type(side) is int else parse_integer(side)
    return number if number is not None and 0 < number < MAX_COORDINATE else 0
