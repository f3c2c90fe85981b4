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
from benchmark.vision.data.annotation_values import brief, flag, name_of, once
from benchmark.vision.data.annotations import SPLIT, Files, LayoutError, Split, Truth
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.regular_files import content_of, shown

Identifiers: TypeAlias = list[int] | list[str]  # whole numbers or text, one an image or category
IMAGES, ANNOTATIONS = SPLIT, f"annotations/instances_{SPLIT}.json"  # as COCO names them
OTHER_FORMATS = {  # by keys that their files, or the first entries of these, have
    "Label Studio": {"annotations", "data"},
    "VIA": {"_via_img_metadata"},
    "CreateML": {"image", "annotations"},
    "labelme": {"shapes", "imagePath"},
}
FAR = 1e9  # pixels: no box reaches so far
MOST = 2**34  # bytes of a file, several times the largest data sets'


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
    crowd: Any  # 0, 1 or as tools write them


def coco_json(path: Path, folder: Path, exif: Exif = "turn") -> tuple[Split, list[str]]:
    """The images of `folder` with their boxes, and the names of the categories.

    Images are in the order of their ids, whatever their order in the file; classes 0..C-1 in the order of the
    categories' ids, which may have gaps. Boxes with iscrowd=1 are ignored. Outlines, areas and all else are not read.
    Raises ValueError for a file of another kind, for keys and ids that are there twice, for ids that name nothing, for
    a box that is not four finite numbers, for a name that is none, and for images that are missing or outside the
    folder.
    """
    pictures, marks, categories = parsed(path)
    image_ids, category_ids = (
        identifiers(path, kind, [row.id for row in rows])
        for kind, rows in (("image", pictures), ("category", categories))
    )
    truth = Truth.grouped(
        positions(path, "image", [mark.image_id for mark in marks], image_ids),
        corners(path, [mark.bbox for mark in marks]),
        positions(path, "category", [mark.category_id for mark in marks], category_ids),
        np.array([flag(f"{path}: an annotation's iscrowd", mark.crowd) for mark in marks], np.bool_),
        len(image_ids),
    )
    names = [category_name(path, categories[number]) for number in in_order(category_ids)]
    images = files(path, folder, [pictures[number] for number in in_order(image_ids)], exif)
    return Split.of_files(images, truth, path), names


def places(
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
    found = [tuple(path.replace(SPLIT, split) for path in (annotations, images)) for split in splits]
    wanted = {path: name for pair in found for path, name in zip(pair, ("annotations=", "images="), strict=True)}
    if missing := [f"{path} ({name})" for path, name in wanted.items() if not (folder / path).exists()]:
        raise LayoutError(f"{folder} has no {', no '.join(missing)}")
    if len({json for json, _ in found}) < len(found):
        raise LayoutError(f"{folder}: {found[0][0]} would be the pool and the test set")
    return [(folder / json, folder / home) for json, home in found]


def check_parts(folder: Path, train: str, test: str, images: str, annotations: str, share: float | None) -> None:
    """ValueError where a file or an image is missing, without a look into images. Takes what `places` takes."""
    names = list[list[str]]()
    for path, home in places(folder, train, test, images, annotations, share):
        pictures, _, categories = parsed(path)
        files(path, home, pictures, "turn")
        names.append(sorted(category_name(path, category) for category in categories))
        for picture in pictures:
            if not os.path.isfile(home / file_name(path, picture)):
                raise ValueError(f"{shown(home / file_name(path, picture))} is missing")
    if any(other != names[0] for other in names):
        raise ValueError(f"{folder}: the splits have other categories")


def compact(pairs: list[tuple[str, Any]]) -> Any:
    """What is kept of one object of the file; outlines are let go before the next object is read. ValueError where a
    key is there twice: JSON says nothing of which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        once([key for key, _ in pairs], "in one object, the key")
    if ("image_id" in found) == ("file_name" in found):  # the list that it is in tells which of the two it is
        return found
    return as_marked(found) if "image_id" in found else as_picture(found)


def as_marked(found: Any) -> Any:
    """An annotation, where it is one."""
    if not isinstance(found, dict) or "image_id" not in found:
        return found
    return Marked(found["image_id"], found.get("category_id"), found.get("bbox"), found.get("iscrowd"))


def as_picture(found: Any) -> Any:
    """An image, where it is one."""
    if not isinstance(found, dict) or "file_name" not in found:
        return found
    return Picture(found.get("id"), found["file_name"], found.get("width"), found.get("height"))


def parsed(path: Path) -> tuple[list[Picture], list[Marked], list[Category]]:
    """The three lists of a file, whose values may be anything still. ValueError for a file of another kind."""
    try:
        content = json.loads(json_text(path), object_pairs_hook=compact)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    pictures, marks, found = (
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")
    )
    if not (isinstance(pictures, list) and isinstance(marks, list) and isinstance(found, list)):
        wanted = f"it must have the lists images, annotations and categories{other_format(content)}"
        raise ValueError(f"{path} is no instances file: {wanted}")
    pictures, marks = list(map(as_picture, pictures)), list(map(as_marked, marks))
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


def json_text(path: Path) -> str:
    """A file in UTF-8, UTF-16 or UTF-32, whichever its first bytes tell; these are let go before it is parsed."""
    content = content_of(path, MOST)
    return content.decode(json.detect_encoding(content))


def other_format(content: object) -> str:
    """Which tool's own format a file is in, where it is a known one, and what to do."""
    first = content[0] if isinstance(content, list) and content else content
    keys = {*first} if isinstance(first, dict) else set()
    name = next((name for name, own in OTHER_FORMATS.items() if own <= keys), None)
    return f"; it is {name}'s own format: export it as COCO" if name else ""


def whole(what: str, values: Sequence[Any]) -> list[int]:
    """The values, which must be whole numbers; 20.0 and "20" are 20."""
    numbers = [value if type(value) is int else integer(value) for value in values]
    for number, value in zip(numbers, values, strict=True):
        if number is None or abs(number) >= 2**63:
            raise ValueError(f"{what} {brief(value)} is not a whole number")
    return [number for number in numbers if number is not None]


def integer(value: object) -> int | None:
    """The whole number that a float or text stands for; None where it stands for none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,19}\s*", value) else None


def identifiers(path: Path, kind: str, ids: Sequence[Any]) -> Identifiers:
    """The ids of all images, or of all categories: whole numbers, or text where any of them is no number."""
    what = f"{path}: the {kind} id"
    text = all(isinstance(value, str) for value in ids) and any(integer(value) is None for value in ids)
    found = [str(value) for value in ids] if text else whole(what, ids)
    once(found, what)
    return found


def in_order(ids: Identifiers) -> list[int]:
    """The places of ids in ascending order."""
    return sorted(range(len(ids)), key=ids.__getitem__)


def positions(path: Path, kind: str, ids: Sequence[Any], known: Identifiers) -> Indices:
    """(B,): the place (0..) of each annotation's id in the order of those that are known."""
    what = f"{path}: an annotation's {kind}_id"
    place = {known[number]: rank for rank, number in enumerate(in_order(known))}
    wanted = [str(value) for value in ids] if isinstance(known[0], str) else whole(what, ids)
    if (wrong := next((value for value in wanted if value not in place), None)) is not None:
        raise ValueError(f"{what} {shown(wrong)} is the id of no {kind}")
    return np.array([place[value] for value in wanted], np.int64)


def corners(path: Path, bboxes: Sequence[Any]) -> npt.NDArray[np.float32]:
    """(B, 4): x1, y1, x2, y2 in pixels, from x, y, width, height."""
    for bbox in bboxes:
        numbers = bbox if isinstance(bbox, list) else ()
        if len(numbers) != 4 or not all(type(one) in (int, float) and -FAR < one < FAR for one in numbers):
            raise ValueError(
                f"{path}: an annotation's bbox {brief(bbox)} is not four finite numbers (x, y, width, height)"
            )
    boxes_B4 = np.array(bboxes, np.float64).reshape(-1, 4)
    boxes_B4[:, 2:] += boxes_B4[:, :2]
    return boxes_B4.astype(np.float32)


def files(path: Path, folder: Path, pictures: Sequence[Picture], exif: Exif) -> Files:
    """The files of the images. A size that is not two whole numbers counts as not stated."""
    names = [file_name(path, picture) for picture in pictures]
    for name in names:
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{path}: the file_name {name} leads out of {folder}")
    once(names, f"{path}: the file_name")
    if not any(os.path.isfile(folder / name) for name in names):
        raise LayoutError(f"{folder} (images=) has none of the {len(names)} images of {path}, as {names[0]}")
    sizes_N2 = [[pixels(side) for side in picture[2:]] for picture in pictures]
    return Files(folder, names, np.array(sizes_N2, np.int64), exif)


def file_name(path: Path, picture: Picture) -> str:
    """The file of an image, inside the folder of all."""
    return os.path.normpath(name_of(f"{path}: the file_name", picture.file_name).replace("\\", "/"))


def category_name(path: Path, category: Category) -> str:
    """What a category is called."""
    return name_of(f"{path}: the name of a category", category.name)


def pixels(side: object) -> int:
    """A stated width or height; 0 where it is no whole number, and so not stated."""
    number = side if type(side) is int else integer(side)
    return number if number is not None and 0 < number < FAR else 0
