"""Labels of images that were picked: classes in CSV files, boxes in COCO files or in folders of VOC's XML files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmark.api import Boxes, ImageLabel
from benchmark.plugins.paths import parse_paths
from benchmark.runner.picking.sources import PATH_COLUMNS, UnlabelledFiles, find_column, find_path, read_csv
from benchmark.text.words import did_you_mean
from benchmark.vision.data import coco_json
from benchmark.vision.data.annotation_values import parse_flag
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.voc_annotations import read_annotations

LABEL_COLUMNS = ("label", "class", "choice")  # of a CSV file, the first that it has


def read_labels(
    text: str, files: UnlabelledFiles, classes: Sequence[str], data: Path | None, *, skip: bool
) -> dict[int, ImageLabel]:
    """Reads the labels of images among the unlabelled files.

    Args:
        text: the setting `labelled`: paths, separated by commas.
        files: the files that `unlabelled` names.
        classes: the names of the task's classes.
        data: the folder of data sets.
        skip: whether labels of other images are left out.

    Returns:
        The labels by position in `files`.

    Raises:
        ValueError: a file cannot be read, a class is not the task's, an image is none of the files, or two labels of it
            differ.
    """
    labels, strange = dict[int, ImageLabel](), list[str]()
    for source in parse_paths(text, f"labelled={text}"):
        path = find_path(source, "labelled", data)
        for name, label in read_label_file(path, classes):
            position = files.find(name)
            if position is None:
                strange.append(f"{path} labels {printable(name)}")
            elif not equal_labels(labels.setdefault(position, label), label):
                raise ValueError(f"labelled={text}: two labels of {printable(name)} differ")
    if strange and not skip:
        more = f" (and {len(strange) - 1:,} more)" if len(strange) > 1 else ""
        raise ValueError(
            f"{strange[0]}{more}, which is none of the {len(files):,} images of unlabelled={files.source}: remove the "
            "label, or set on_error=skip"
        )
    return labels


def equal_labels(first: ImageLabel, second: ImageLabel) -> bool:
    """Returns whether two labels of an image are the same."""
    if isinstance(first, Boxes) and isinstance(second, Boxes):
        return torch.equal(first.corners_M4, second.corners_M4) and torch.equal(first.labels_M, second.labels_M)
    return bool(first == second)


def read_label_file(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, ImageLabel]]:
    """Yields the name of each labelled image of a file or folder, and its label."""
    if path.is_dir():
        return read_voc_boxes(path, classes)
    if path.suffix.lower() == ".json":
        return read_coco_boxes(path, classes)
    if path.suffix.lower() == ".csv":
        return read_csv_classes(path, classes)
    raise ValueError(f"labelled={path}: must be a CSV file, a COCO file (.json) or a folder of VOC's XML files")


def read_csv_classes(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, ImageLabel]]:
    """Yields the rows of a CSV file that have a label: so a file of picks can be filled in little by little."""
    rows = read_csv(path)
    names, labels = (find_column(path, rows, columns) for columns in (PATH_COLUMNS, LABEL_COLUMNS))
    for row in rows:
        if row[labels].strip():
            yield row[names], find_class(path, row[labels].strip(), classes)


def find_class(path: Path, name: str, classes: Sequence[str]) -> int:
    """Returns the number of a class. ValueError where the task has no such class."""
    if name not in classes:
        raise ValueError(f"{path}: the task has no class called {did_you_mean(name, classes)}")
    return classes.index(name)


def read_coco_boxes(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, ImageLabel]]:
    """Yields the boxes of each image that a COCO file lists, also where it has none; crowds are left out."""
    images, annotations, categories = coco_json.read_entries(path)
    image_ids, category_ids = (
        coco_json.parse_ids(path, kind, [row.id for row in rows])
        for kind, rows in (("image", images), ("category", categories))
    )
    names = [coco_json.parse_category_name(path, row) for row in categories]
    class_by_rank = [names[number] for number in coco_json.argsort_ids(category_ids)]
    image_B = coco_json.rank_ids(path, "image", [entry.image_id for entry in annotations], image_ids)
    category_B = coco_json.rank_ids(path, "category", [entry.category_id for entry in annotations], category_ids)
    corners_B4 = coco_json.parse_boxes(path, [entry.bbox for entry in annotations])
    is_crowd_B = [parse_flag(f"{path}: an annotation's iscrowd", entry.crowd) for entry in annotations]
    rows_by_image: list[list[int]] = [[] for _ in images]
    for number, (image, is_crowd) in enumerate(zip(image_B.tolist(), is_crowd_B, strict=True)):
        if not is_crowd:
            rows_by_image[image].append(number)
    for rank, number in enumerate(coco_json.argsort_ids(image_ids)):
        rows = rows_by_image[rank]
        labels = [find_class(path, class_by_rank[category_B[row]], classes) for row in rows]
        corners_M4 = torch.from_numpy(corners_B4[rows]).reshape(-1, 4)
        yield (
            coco_json.parse_file_name(path, images[number]),
            Boxes(corners_M4, torch.tensor(labels, dtype=torch.int64)),
        )


def read_voc_boxes(folder: Path, classes: Sequence[str]) -> Iterator[tuple[str, ImageLabel]]:
    """Yields the boxes of each XML file of a folder, which is named as its image is.

    Corners count from 1, as PASCAL VOC defines, unless a box of the folder begins below 1.
    """
    paths = sorted(folder.glob("*.xml"))
    if not paths:
        raise ValueError(f"labelled={folder}: there is no XML file in this folder")
    annotations = read_annotations(paths)
    begins = [side for annotation in annotations for thing in annotation.objects for side in thing.corners[:2]]
    first_pixel = 0.0 if any(0 <= side < 1 for side in begins) else 1.0
    for annotation in annotations:
        corners = [
            [thing.corners[0] - first_pixel, thing.corners[1] - first_pixel, *thing.corners[2:]]
            for thing in annotation.objects
        ]
        labels = [find_class(annotation.path, thing.name, classes) for thing in annotation.objects]
        boxes = Boxes(torch.tensor(corners).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64))
        yield annotation.image_name or annotation.path.stem, boxes
