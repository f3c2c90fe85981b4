"""Reads the COCO format: one JSON file with images, annotations and categories, of a split or of all images.

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

Identifiers: TypeAlias = list[int] | list[str]  # whole numbers or text, one an image or category
IMAGES, ANNOTATIONS = SPLIT_PLACEHOLDER, f"annotations/instances_{SPLIT_PLACEHOLDER}.json"  # as COCO names them
OTHER_FORMATS = {  # by keys that their files, or the first entries of these, have
    "Label Studio": {"annotations", "data"},
    "VIA": {"_via_img_metadata"},
    "CreateML": {"image", "annotations"},
    "labelme": {"shapes", "imagePath"},
}
MAX_COORDINATE = 1e9  # pixels: no box reaches so far
MAX_FILE_BYTES = 2**34  # bytes of a file, several times the largest data sets'


class ImageEntry(NamedTuple):
    """What is kept of an image, as the file has it."""

    id: Any
    file_name: Any
    width: Any
    height: Any


class CategoryEntry(NamedTuple):
    """What is kept of a category, as the file has it."""

    id: Any
    name: Any


class AnnotationEntry(NamedTuple):
    """What is kept of an annotation, as the file has it."""

    image_id: Any
    category_id: Any
    bbox: Any  # x, y, width, height in pixels
    crowd: Any  # 0, 1 or as tools write them


def read_coco_json(path: Path, folder: Path, exif: Exif = "turn") -> tuple[Split, list[str]]:
    """The images of `folder` with their boxes, and the names of the categories.

    Images are in the order of their ids, whatever their order in the file; classes 0..C-1 in the order of the
    categories' ids, which may have gaps. Boxes with iscrowd=1 are ignored. Outlines, areas and all else are not read.
    Raises ValueError for a file of another kind, for keys and ids that are there twice, for ids that name nothing, for
    a box that is not four finite numbers, for a name that is none, and for images that are missing or outside the
    folder.
    """
    pictures, marks, categories = read_entries(path)
    image_ids, category_ids = (
        parse_ids(path, kind, [row.id for row in rows])
        for kind, rows in (("image", pictures), ("category", categories))
    )
    truth = GroundTruth.from_boxes(
        rank_ids(path, "image", [mark.image_id for mark in marks], image_ids),
        parse_boxes(path, [mark.bbox for mark in marks]),
        rank_ids(path, "category", [mark.category_id for mark in marks], category_ids),
        np.array([parse_flag(f"{path}: an annotation's iscrowd", mark.crowd) for mark in marks], np.bool_),
        len(image_ids),
    )
    names = [parse_category_name(path, categories[number]) for number in argsort_ids(category_ids)]
    images = list_image_files(path, folder, [pictures[number] for number in argsort_ids(image_ids)], exif)
    return Split.from_files(images, truth, path), names


def locate_splits(
    folder: Path, train: str, test: str, images: str, annotations: str, share: float | None
) -> list[tuple[Path, Path]]:
    """The JSON file and the folder of images of both splits; of the one that is to be divided, where there is a share.

    Args:
        folder: holds all of them.
        train: the split that is the pool.
        test: the split that is the test set.
        images: the folder of the images, in which SPLIT stands for the name of the split.
        annotations: the JSON file, likewise.
        share: of `train` that is the test set, in place of `test`.

    Raises:
        LayoutError: names all that is missing.
    """
    if not folder.is_dir():
        raise LayoutError(f"no such folder: {folder} (root=)")
    splits = [train] if share is not None else [train, test]
    found = [tuple(path.replace(SPLIT_PLACEHOLDER, split) for path in (annotations, images)) for split in splits]
    wanted = {path: name for pair in found for path, name in zip(pair, ("annotations=", "images="), strict=True)}
    if missing := [f"{path} ({name})" for path, name in wanted.items() if not (folder / path).exists()]:
        raise LayoutError(f"{folder} has no {', no '.join(missing)}")
    if len({json for json, _ in found}) < len(found):
        raise LayoutError(f"{folder}: {found[0][0]} would be the pool and the test set")
    return [(folder / json, folder / home) for json, home in found]


def check_files_exist(folder: Path, train: str, test: str, images: str, annotations: str, share: float | None) -> None:
    """ValueError where a file or an image is missing, without a look into images. Takes what `places` takes."""
    names = list[list[str]]()
    for path, home in locate_splits(folder, train, test, images, annotations, share):
        pictures, _, categories = read_entries(path)
        list_image_files(path, home, pictures, "turn")
        names.append(sorted(parse_category_name(path, category) for category in categories))
        for picture in pictures:
            if not os.path.isfile(home / parse_file_name(path, picture)):
                raise ValueError(f"{printable(home / parse_file_name(path, picture))} is missing")
    if any(other != names[0] for other in names):
        raise ValueError(f"{folder}: the splits have other categories")


def build_entry(pairs: list[tuple[str, Any]]) -> Any:
    """What is kept of one object of the file; outlines are let go before the next object is read. ValueError where a
    key is there twice: JSON says nothing of which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        check_unique([key for key, _ in pairs], "in one object, the key")
    if ("image_id" in found) == ("file_name" in found):  # the list that it is in tells which of the two it is
        return found
    return as_annotation(found) if "image_id" in found else as_image(found)


def as_annotation(value: Any) -> Any:
    """An annotation, where it is one."""
    if not isinstance(value, dict) or "image_id" not in value:
        return value
    return AnnotationEntry(value["image_id"], value.get("category_id"), value.get("bbox"), value.get("iscrowd"))


def as_image(value: Any) -> Any:
    """An image, where it is one."""
    if not isinstance(value, dict) or "file_name" not in value:
        return value
    return ImageEntry(value.get("id"), value["file_name"], value.get("width"), value.get("height"))


def read_entries(path: Path) -> tuple[list[ImageEntry], list[AnnotationEntry], list[CategoryEntry]]:
    """The three lists of a file, whose values may be anything still. ValueError for a file of another kind."""
    try:
        content = json.loads(read_json_text(path), object_pairs_hook=build_entry)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    pictures, marks, found = (
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")
    )
    if not (isinstance(pictures, list) and isinstance(marks, list) and isinstance(found, list)):
        wanted = f"it must have the lists images, annotations and categories{other_format_hint(content)}"
        raise ValueError(f"{path} is no instances file: {wanted}")
    pictures, marks = list(map(as_image, pictures)), list(map(as_annotation, marks))
    categories = [
        CategoryEntry(row["id"], row["name"]) for row in found if isinstance(row, dict) and {"id", "name"} <= {*row}
    ]
    if not pictures or not categories:
        raise ValueError(f"{path} has {len(pictures)} images and {len(categories)} categories: it needs some of both")
    if not all(type(row) is ImageEntry for row in pictures) or len(categories) < len(found):
        raise ValueError(f"{path}: every image must have a file_name, and every category an id and a name")
    if not all(type(row) is AnnotationEntry for row in marks):
        raise ValueError(f"{path}: every annotation must have an image_id")
    return pictures, marks, categories


def read_json_text(path: Path) -> str:
    """A file in UTF-8, UTF-16 or UTF-32, whichever its first bytes tell; these are let go before it is parsed."""
    content = read_bytes(path, MAX_FILE_BYTES)
    return content.decode(json.detect_encoding(content))


def other_format_hint(content: object) -> str:
    """Which tool's own format a file is in, where it is a known one, and what to do."""
    first = content[0] if isinstance(content, list) and content else content
    keys = {*first} if isinstance(first, dict) else set()
    name = next((name for name, own in OTHER_FORMATS.items() if own <= keys), None)
    return f"; it is {name}'s own format: export it as COCO" if name else ""


def parse_integers(description: str, values: Sequence[Any]) -> list[int]:
    """The values, which must be whole numbers; 20.0 and "20" are 20."""
    numbers = [value if type(value) is int else parse_integer(value) for value in values]
    for number, value in zip(numbers, values, strict=True):
        if number is None or abs(number) >= 2**63:
            raise ValueError(f"{description} {short_repr(value)} is not a whole number")
    return [number for number in numbers if number is not None]


def parse_integer(value: object) -> int | None:
    """The whole number that a float or text stands for; None where it stands for none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,19}\s*", value) else None


def parse_ids(path: Path, kind: str, ids: Sequence[Any]) -> Identifiers:
    """The ids of all images, or of all categories: whole numbers, or text where any of them is no number."""
    what = f"{path}: the {kind} id"
    text = all(isinstance(value, str) for value in ids) and any(parse_integer(value) is None for value in ids)
    found = [str(value) for value in ids] if text else parse_integers(what, ids)
    check_unique(found, what)
    return found


def argsort_ids(ids: Identifiers) -> list[int]:
    """The places of ids in ascending order."""
    return sorted(range(len(ids)), key=ids.__getitem__)


def rank_ids(path: Path, kind: str, ids: Sequence[Any], known_ids: Identifiers) -> Indices:
    """(B,): the place (0..) of each annotation's id in the order of those that are known."""
    what = f"{path}: an annotation's {kind}_id"
    place = {known_ids[number]: rank for rank, number in enumerate(argsort_ids(known_ids))}
    wanted = [str(value) for value in ids] if isinstance(known_ids[0], str) else parse_integers(what, ids)
    if (wrong := next((value for value in wanted if value not in place), None)) is not None:
        raise ValueError(f"{what} {printable(wrong)} is the id of no {kind}")
    return np.array([place[value] for value in wanted], np.int64)


def parse_boxes(path: Path, bboxes: Sequence[Any]) -> npt.NDArray[np.float32]:
    """(B, 4): x1, y1, x2, y2 in pixels, from x, y, width, height."""
    for bbox in bboxes:
        numbers = bbox if isinstance(bbox, list) else ()
        if len(numbers) != 4 or not all(
            type(one) in (int, float) and -MAX_COORDINATE < one < MAX_COORDINATE for one in numbers
        ):
            raise ValueError(
                f"{path}: an annotation's bbox {short_repr(bbox)} is not four finite numbers (x, y, width, height)"
            )
    boxes_B4 = np.array(bboxes, np.float64).reshape(-1, 4)
    boxes_B4[:, 2:] += boxes_B4[:, :2]
    return boxes_B4.astype(np.float32)


def list_image_files(path: Path, folder: Path, entries: Sequence[ImageEntry], exif: Exif) -> ImageFiles:
    """The files of the images. A size that is not two whole numbers counts as not stated."""
    names = [parse_file_name(path, picture) for picture in entries]
    for name in names:
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{path}: the file_name {name} leads out of {folder}")
    check_unique(names, f"{path}: the file_name")
    if not any(os.path.isfile(folder / name) for name in names):
        raise LayoutError(f"{folder} (images=) has none of the {len(names)} images of {path}, as {names[0]}")
    sizes_N2 = [[parse_side(side) for side in picture[2:]] for picture in entries]
    return ImageFiles(folder, names, np.array(sizes_N2, np.int64), exif)


def parse_file_name(path: Path, entry: ImageEntry) -> str:
    """The file of an image, inside the folder of all."""
    return os.path.normpath(parse_name(f"{path}: the file_name", entry.file_name).replace("\\", "/"))


def parse_category_name(path: Path, entry: CategoryEntry) -> str:
    """What a category is called."""
    return parse_name(f"{path}: the name of a category", entry.name)


def parse_side(side: object) -> int:
    """A stated width or height; 0 where it is no whole number, and so not stated."""
    number = side if type(side) is int else parse_integer(side)
    return number if number is not None and 0 < number < MAX_COORDINATE else 0
