"""Reads the PASCAL VOC format: ROOT/JPEGImages, ROOT/Annotations/IMAGE.xml and ROOT/ImageSets/Main/SPLIT.txt.

The folders may have other names. Shapes: N images, B boxes of a split.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.api import Machine
from benchmark.vision.data.annotation_values import check_unique, read_text
from benchmark.vision.data.annotations import (
    LOG,
    SPLIT_PLACEHOLDER,
    GroundTruth,
    ImageFiles,
    LayoutError,
    Split,
    concatenate_splits,
    list_names,
)
from benchmark.vision.data.image_checks import read_all, warn_once
from benchmark.vision.data.image_files import EXTENSIONS, Exif, is_hidden_name, is_image
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.splitting import pool_test_split
from benchmark.vision.data.voc_annotations import AnnotationFile, is_difficult, read_annotations

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"  # PASCAL VOC's folders
SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVE_URLS = {
    2007: f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar and {SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    2012: f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar",
}


class ReadingOptions(NamedTuple):
    """How annotated objects become boxes; see `read_pascal_voc`."""

    classes: list[str]
    difficult: bool  # whether difficult objects are boxes like all others
    first_pixel: int  # 0 or 1: the number of the first pixel of a row
    exif: Exif


class SplitFiles(NamedTuple):
    """One split as its files describe it."""

    source: Path  # the list of its images, or the folder of its annotations
    images: Path  # the folder of its images
    ids: list[str]  # the names of its images without extension
    annotations: list[AnnotationFile]
    other_files: Sequence[str] = ()  # files in the folder of annotations that are neither annotations nor images


class Layout(NamedTuple):
    """The folders of a data set, as paths inside its root folder.

    SPLIT in `images` or `annotations` stands for the name of a split. With SPLIT in `annotations`, a split is all of
    its folder, and there are no lists.

    Args:
        images: The folder of the images.
        annotations: The folder of the XML files.
        lists: The folder of the lists, SPLIT.txt for each split.
    """

    images: str = IMAGES
    annotations: str = ANNOTATIONS
    lists: str = LISTS

    def list_path(self, folder: Path, split: str, share: float | None) -> Path | None:
        """The list of a split's images; None if all annotations in its folder belong to it."""
        if SPLIT_PLACEHOLDER in self.annotations or (share is not None and not (folder / self.lists).is_dir()):
            return None
        return folder / self.lists / f"{split}.txt"


def resolve_root(machine: Machine, root: str, year: int | None) -> Path:
    """The root folder of a data set.

    Args:
        machine: Has the data folder.
        root: The path as the user wrote it: absolute, or inside the data folder.
        year: The year of PASCAL VOC, for messages.

    Raises:
        ValueError: There is no data folder; the message says where to get the data.
    """
    try:
        return machine.resolve_path(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {archive_urls(year)} there") from None


def archive_urls(year: int | None) -> str:
    """Where to download a year's data.

    Args:
        year: The year of PASCAL VOC; None for 2012.
    """
    return ARCHIVE_URLS.get(year or 2012, f"an archive of {SITE}/voc{year}/")


def find_year_folder(folder: Path, year: int | None, layout: Layout = Layout()) -> Path | None:  # noqa: B008
    """Finds the folder of a year's data.

    Args:
        folder: The folder that holds VOC{year} or VOCdevkit/VOC{year}.
        year: The year; None finds nothing.
        layout: The folders that the data must have.

    Returns:
        The folder; None if there is none.
    """
    paths = [] if year is None else [folder / f"VOC{year}", folder / "VOCdevkit" / f"VOC{year}"]
    subfolders = (layout.lists, layout.annotations.split(SPLIT_PLACEHOLDER)[0])
    return next((path for path in paths if any((path / name).is_dir() for name in subfolders)), None)


def read_pascal_voc(
    folder: Path,
    train: str,
    test: str,
    *,
    difficult: bool,
    layout: Layout = Layout(),  # noqa: B008  it is immutable
    share: float | None = None,
    first_pixel: int | None = None,
    exif: Exif = "turn",
    extra_folders: Sequence[Path] = (),
) -> tuple[Split, Split, list[str]]:
    """Reads a pool and a test set in the PASCAL VOC format; images come in the order of the splits' lists.

    Args:
        folder: The root folder of the data set.
        train: The name of the split that is the pool.
        test: The name of the split that is the test set.
        difficult: Whether objects marked as difficult are boxes like all others; if not, they are ignored.
        layout: The folders of images, annotations and lists.
        share: The share of `train` that becomes the test set, in place of `test`; of all annotations if there are no
            lists. None: `test` is the test set.
        first_pixel: 1 if corners are numbers of pixels that count from 1, so that a box reaches from
            (xmin - 1, ymin - 1) to (xmax, ymax); 0 if they are distances from the image's edge. None: 0 if an xmin or
            ymin of any box lies in [0, 1), else 1.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.
        extra_folders: Root folders of further data sets whose splits `train` are appended to the pool.

    Returns:
        The pool, the test set and the sorted names of the classes.

    Raises:
        LayoutError: Lists or folders are missing.
        BadImagesError: Names all images or all annotations that are missing or cannot be read.
        ValueError: A list is broken, an image is in both splits, the pool has no box, or the test set has a class that
            the pool does not have.
    """
    pool, *tests = read_splits(folder, train, test, layout, share)
    pools = [pool, *(read_split_files(other, train, layout, share) for other in extra_folders)]
    classes = class_names(pools, tests)
    first = infer_first_pixel([*pools, *tests]) if first_pixel is None else first_pixel
    options = ReadingOptions(classes, difficult, first, exif)
    splits = read_all(*(partial(build_split, split_files, options) for split_files in (*pools, *tests)))
    if share is not None:
        return *pool_test_split(splits[0], share), classes
    *pool_splits, test_split = splits
    return concatenate_splits(pool_splits) if extra_folders else pool_splits[0], test_split, classes


def read_splits(folder: Path, train: str, test: str, layout: Layout, share: float | None) -> list[SplitFiles]:
    """Reads the lists and annotations of both splits, or of `train` alone if a share of it becomes the test set.

    Raises LayoutError and ValueError as `read_pascal_voc` does.
    """
    if not folder.is_dir():
        raise LayoutError(f"no such folder: {folder} (root=)")
    splits = [train] if share is not None else [train, test]
    parameters = dict[str, str]()  # by path: the parameters that set it
    for parameter, split in zip(("train", "test"), splits, strict=False):
        if layout.list_path(folder, split, share) is not None:
            parameters[f"{layout.lists}/{split}.txt"] = f"lists=, {parameter}="
        parameters[layout.annotations.replace(SPLIT_PLACEHOLDER, split) + "/"] = "annotations="
        parameters[layout.images.replace(SPLIT_PLACEHOLDER, split) + "/"] = "images="
    if missing := [f"{path} ({names})" for path, names in parameters.items() if not (folder / path).exists()]:
        raise LayoutError(f"{folder} has no {', no '.join(missing)}")
    pool, *tests = parts = read_all(*(partial(read_split_files, folder, split, layout, share) for split in splits))
    for other in tests:
        if pool.images == other.images:
            check_unique([*pool.ids, *other.ids], f"{folder}: in {train} and {test} together, the image")
    return parts


def class_names(pools: Sequence[SplitFiles], tests: Sequence[SplitFiles]) -> list[str]:
    """The sorted classes of the pool. Raises ValueError if it has none, or if the test set has further ones."""
    names, test_names = (set[str]().union(*map(object_classes, splits)) for splits in (pools, tests))
    if not names:
        raise ValueError(f"{pools[0].source}: no image of the pool has a box")
    if unknown := sorted(test_names - names):
        raise ValueError(f"{pools[0].source}: no image of the pool has a {unknown[0]!r}, but some of the test set have")
    return sorted(names)


def check_files_exist(folder: Path, train: str, test: str, layout: Layout, share: float | None) -> None:
    """Checks that all files of a data set exist, without opening images; arguments as for `read_pascal_voc`.

    Raises:
        ValueError: A list, an annotation or an image is missing.
    """
    pool, *tests = read_splits(folder, train, test, layout, share)
    class_names([pool], tests)
    for split_files in (pool, *tests):
        for name in find_image_files(split_files):
            if not (split_files.images / name).is_file():
                raise ValueError(f"{split_files.images / name} is missing")


def infer_first_pixel(parts: Sequence[SplitFiles]) -> int:
    """1, as the format defines, unless an xmin or ymin lies in [0, 1): then 0, which is logged."""
    annotations = [annotation for part in parts for annotation in part.annotations]
    corners = [(annotation, voc_object.corners[:2]) for annotation in annotations for voc_object in annotation.objects]
    below_one = [(annotation, corner) for annotation, corner in corners if any(0 <= side < 1 for side in corner)]
    if not below_one:
        return 1
    LOG.warning(
        "%s: a box begins at %g, %g (%d of %d boxes begin below 1): corners are taken to count from 0; "
        "set first_pixel=1 if they count from 1, as in PASCAL VOC",
        printable(below_one[0][0].path), *below_one[0][1], len(below_one), len(corners),
    )  # fmt: skip
    return 0


def object_classes(split_files: SplitFiles) -> set[str]:
    """The names of the classes of all objects of a split."""
    return {voc_object.name for annotation in split_files.annotations for voc_object in annotation.objects}


def build_split(split_files: SplitFiles, options: ReadingOptions) -> Split:
    """Builds the split: finds and checks its images, and turns its objects into boxes."""
    names = find_image_files(split_files)
    sizes_N2 = np.array([annotation.size for annotation in split_files.annotations], np.int64)
    files = ImageFiles(split_files.images, names, sizes_N2, options.exif)
    if split_files.source.is_dir():
        report_left_out(split_files, names)
    truth = build_ground_truth(split_files.annotations, options)
    return Split.from_files(files, truth, split_files.source, options.first_pixel)


def report_left_out(split_files: SplitFiles, names: Sequence[str]) -> None:
    """Logs which images and annotation files of a split without a list are left out."""
    subfolders = set(map(os.path.dirname, names))
    paths = {os.path.join(folder, name) for folder in subfolders for name in list_names(split_files.images / folder)}
    without_annotation = sorted(path for path in paths - set(names) if is_image(path))
    if without_annotation:
        count = f"{len(without_annotation):,} ({printable(without_annotation[0])})"
        warn_once(f"{split_files.images}: images without an annotation are left out: {count}")
    if split_files.other_files:
        warn_once(
            f"{split_files.source}: files that are not called NAME.xml are left out: {len(split_files.other_files):,} "
            f"({printable(split_files.other_files[0])})"
        )


def find_image_files(split_files: SplitFiles) -> list[str]:
    """Finds the file of each image: the annotation's name with an image's extension; NAME.jpg if there is no such file.

    Raises ValueError if an image has several files and the annotation's <filename> is none of them, and LayoutError if
    no image is there.
    """
    files_by_id: dict[str, list[str]] = {}
    for subfolder in {os.path.dirname(name) for name in split_files.ids}:
        for name in list_names(split_files.images / subfolder):
            if is_image(name):
                stem = os.path.splitext(name)[0]
                files_by_id.setdefault(os.path.join(subfolder, stem), []).append(os.path.join(subfolder, name))
    if not files_by_id.keys() & set(split_files.ids):
        first = printable(f"{split_files.ids[0]}.jpg")
        raise LayoutError(
            f"{split_files.images} (images=) has none of the {len(split_files.ids)} images, such as {first}"
        )
    return [
        choose_image_file(split_files.images, files_by_id.get(name, [f"{name}.jpg"]), annotation)
        for name, annotation in zip(split_files.ids, split_files.annotations, strict=True)
    ]


def choose_image_file(folder: Path, candidates: Sequence[str], annotation: AnnotationFile) -> str:
    """Chooses the file that belongs to an annotation, by its <filename> if there are several."""
    if len(candidates) == 1:
        return candidates[0]
    matches = [name for name in candidates if os.path.basename(name) == annotation.image_name]
    if not matches:
        names = " and ".join(map(printable, candidates))
        raise ValueError(
            f"{folder} has {names}, and {printable(annotation.path)} does not say which one it belongs to: move the "
            "other one away, or put the right name into its <filename>"
        )
    return matches[0]


def read_split_files(folder: Path, split: str, layout: Layout, share: float | None) -> SplitFiles:
    """Reads the list and the annotations of a split; arguments as for `read_pascal_voc`."""
    annotations, images = (
        folder / path.replace(SPLIT_PLACEHOLDER, split) for path in (layout.annotations, layout.images)
    )
    path = layout.list_path(folder, split, share)
    names, others = list_annotations(annotations)
    ids = names if path is None else read_image_list(path, set(names))
    if not set(ids) & set(names):
        first = printable(f"{ids[0]}.xml")
        raise LayoutError(f"{annotations} (annotations=) has none of the {len(ids)} files of {path}, such as {first}")
    contents = read_annotations([annotations / f"{name}.xml" for name in ids])
    return SplitFiles(path or annotations, images, ids, contents, others)


def list_annotations(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of all annotations in a folder and below, and the other files apart from images."""
    ids, others = list[str](), list[str]()
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        subfolder = os.path.relpath(path, folder)
        stems = [name.removesuffix(".xml") for name in names if name.endswith(".xml") and not is_hidden_name(name)]
        ids += [os.path.normpath(os.path.join(subfolder, stem)) for stem in stems]
        others += [name for name in names if not (name.endswith(".xml") or is_hidden_name(name) or is_image(name))]
    if not ids:
        raise LayoutError(f"{folder} (annotations=) has no annotations called NAME.xml")
    return sorted(ids), sorted(others)


def read_image_list(path: Path, annotation_names: Collection[str]) -> list[str]:
    """Reads the list of a split: the names of its images, each once, in order.

    Args:
        path: The list.
        annotation_names: The names of all annotations, which decide how a line is read, see `parse_list_line`.

    Raises:
        ValueError: The list cannot be read, is empty or leads out of the folder of the annotations.
    """
    ids = [parse_list_line(line, annotation_names) for line in map(str.strip, read_text(path).splitlines()) if line]
    if not ids:
        raise ValueError(f"{path} is empty: it must name one image per line")
    distinct = list(dict.fromkeys(ids))
    if outside := [name for name in distinct if os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir)]:
        raise ValueError(f"{path}: {printable(outside[0])} leads out of the folder of the annotations")
    if len(distinct) < len(ids):
        num_repeated, example = len(ids) - len(distinct), printable(Counter(ids).most_common(1)[0][0])
        warn_once(f"{path}: {num_repeated} of {len(ids)} lines repeat an image, such as {example}: each is used once")
    return distinct


def parse_list_line(line: str, annotation_names: Collection[str]) -> str:
    """Parses a line of a list: a name (NAME), a name and a flag (NAME -1) or a path (FOLDER/NAME.jpg ...).

    A line that fits none of `annotation_names` is read as a name and a flag.
    """
    first = line.split()[0]
    for text in (line, re.sub(r"\s+-?[01]$", "", line), first):
        stem = os.path.splitext(text.replace("\\", "/"))[0] if text.lower().endswith((*EXTENSIONS, ".xml")) else text
        for name in (text, stem, os.path.basename(stem)):
            if name in annotation_names:
                return name
    return first


def build_ground_truth(annotations: Sequence[AnnotationFile], options: ReadingOptions) -> GroundTruth:
    """Turns annotated objects into boxes, with the corners as their files state them."""
    label_of = {name: label for label, name in enumerate(options.classes)}
    objects = [(annotation, voc_object) for annotation in annotations for voc_object in annotation.objects]
    image_B = np.repeat(np.arange(len(annotations)), [len(annotation.objects) for annotation in annotations])
    corners = [voc_object.corners for _, voc_object in objects]
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite and are dropped later
        corners_B4 = np.array(corners, np.float64).reshape(-1, 4).astype(np.float32)
    labels_B = np.array([label_of[voc_object.name] for _, voc_object in objects], np.int64)
    ignored_B = np.array([not options.difficult and is_difficult(*pair) for pair in objects], np.bool_)
    return GroundTruth.from_boxes(image_B, corners_B4, labels_B, ignored_B, len(annotations))
