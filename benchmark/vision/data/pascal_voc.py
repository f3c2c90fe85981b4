"""Reads the PASCAL VOC format: ROOT/JPEGImages, ROOT/Annotations/IMAGE.xml, ROOT/ImageSets/Main/SPLIT.txt, or folders
of other names."""

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
    pool_test_split,
)
from benchmark.vision.data.image_checks import read_all, warn_once
from benchmark.vision.data.image_files import EXTENSIONS, Exif, is_hidden_name, is_image
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.voc_annotations import AnnotationFile, is_difficult, read_annotations

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"  # the folders, as PASCAL VOC names them
SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVE_URLS = {
    2007: f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar and {SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    2012: f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar",
}


class ReadingOptions(NamedTuple):
    """What turns objects into boxes."""

    classes: list[str]
    difficult: bool  # whether objects marked so are boxes like any other
    first_pixel: int  # 0 or 1: the number of the first pixel of a row
    exif: Exif  # whether photographs are turned


class SplitFiles(NamedTuple):
    """One split as its files have it."""

    source: Path  # the file that lists its images, or the folder of its annotations
    images: Path  # the folder of its images
    ids: list[str]  # the images' names without extension
    annotations: list[AnnotationFile]
    other_files: Sequence[str] = ()  # files beside the annotations that are neither annotations nor images


class Layout(NamedTuple):
    """Where a data set has its parts, inside its folder. SPLIT in a path stands for the name of a split: where it is in
    `annotations`, each split has a folder of its own, and no list."""

    images: str = IMAGES
    annotations: str = ANNOTATIONS
    lists: str = LISTS

    def list_path(self, folder: Path, split: str, share: float | None) -> Path | None:
        """The file that lists a split; None where all its annotations count: without lists there is but a share."""
        if SPLIT_PLACEHOLDER in self.annotations or (share is not None and not (folder / self.lists).is_dir()):
            return None
        return folder / self.lists / f"{split}.txt"


def resolve_root(machine: Machine, root: str, year: int | None) -> Path:
    """A folder that users name. ValueError where they name none says how to get one."""
    try:
        return machine.resolve_path(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {archive_urls(year)} there") from None


def archive_urls(year: int | None) -> str:
    """Where a year's data are to be had."""
    return ARCHIVE_URLS.get(year or 2012, f"an archive of {SITE}/voc{year}/")


def find_year_folder(folder: Path, year: int | None, layout: Layout = Layout()) -> Path | None:  # noqa: B008
    """The folder of a year's data inside `folder`; None where there is none."""
    places = [] if year is None else [folder / f"VOC{year}", folder / "VOCdevkit" / f"VOC{year}"]
    parts = (layout.lists, layout.annotations.split(SPLIT_PLACEHOLDER)[0])
    return next((place for place in places if any((place / name).is_dir() for name in parts)), None)


def read_pascal_voc(
    folder: Path,
    train: str,
    test: str,
    *,
    difficult: bool,
    layout: Layout = Layout(),  # noqa: B008  it does not change
    share: float | None = None,
    first_pixel: int | None = None,
    exif: Exif = "turn",
    extra_folders: Sequence[Path] = (),
) -> tuple[Split, Split, list[str]]:
    """The pool, the test set and the names of the classes, sorted; images in the order of the splits' lists.

    Args:
        folder: holds the images, the annotations and the lists.
        train: the list of the pool.
        test: the list of the test set.
        layout: where the parts are in the folder.
        share: of `train` that is the test set, in place of `test`; of all annotations where there are no lists.
        difficult: whether objects marked so are boxes like any other; if not, they are ignored.
        first_pixel: 1 where sides are numbers of pixels from 1 on, so that a box reaches from (xmin - 1, ymin - 1) to
            (xmax, ymax); 0 where they are lengths from the image's edge; None: 0 if an xmin or ymin is below 1.
        exif: whether photographs are turned as their EXIF tags say.
        more: folders whose splits `train` follow in the pool.

    Raises:
        LayoutError: for lists and folders that are missing.
        ValueError: for lists, annotations and images that are missing or broken, for an image in both splits, for a
            pool without boxes, and for a class of the test set that the pool does not have.
    """
    pool, *tests = read_splits(folder, train, test, layout, share)
    pools = [pool, *(read_split_files(other, train, layout, share) for other in extra_folders)]
    names = class_names(pools, tests)
    first = infer_first_pixel([*pools, *tests]) if first_pixel is None else first_pixel
    reading = ReadingOptions(names, difficult, first, exif)
    splits = read_all(*(partial(build_split, found, reading) for found in (*pools, *tests)))
    if share is not None:
        return *pool_test_split(splits[0], share), reading.classes
    *first_splits, last = splits
    return concatenate_splits(first_splits) if extra_folders else first_splits[0], last, reading.classes


def read_splits(folder: Path, train: str, test: str, layout: Layout, share: float | None) -> list[SplitFiles]:
    """What the files of both splits say; of the one that is to be divided, where there is a share.

    Raises ValueError as `pascal_voc` does.
    """
    if not folder.is_dir():
        raise LayoutError(f"no such folder: {folder} (root=)")
    splits = [train] if share is not None else [train, test]
    wanted = dict[str, str]()  # paths, and the parameters that name them
    for parameter, split in zip(("train", "test"), splits, strict=False):
        if layout.list_path(folder, split, share) is not None:
            wanted[f"{layout.lists}/{split}.txt"] = f"lists=, {parameter}="
        wanted[layout.annotations.replace(SPLIT_PLACEHOLDER, split) + "/"] = "annotations="
        wanted[layout.images.replace(SPLIT_PLACEHOLDER, split) + "/"] = "images="
    if missing := [f"{path} ({names})" for path, names in wanted.items() if not (folder / path).exists()]:
        raise LayoutError(f"{folder} has no {', no '.join(missing)}")
    pool, *tests = parts = read_all(*(partial(read_split_files, folder, split, layout, share) for split in splits))
    for other in tests:
        if pool.images == other.images:
            check_unique([*pool.ids, *other.ids], f"{folder}: in {train} and {test} together, the image")
    return parts


def class_names(pools: Sequence[SplitFiles], tests: Sequence[SplitFiles]) -> list[str]:
    """The classes of the pool, sorted. ValueError where it has none, or the test set others."""
    names, others = (set[str]().union(*(object_classes(found) for found in parts)) for parts in (pools, tests))
    if not names:
        raise ValueError(f"{pools[0].source}: no image of the pool has a box")
    if unknown := sorted(others - names):
        raise ValueError(f"{pools[0].source}: no image of the pool has a {unknown[0]!r}, but some of the test set have")
    return sorted(names)


def check_files_exist(folder: Path, train: str, test: str, layout: Layout, share: float | None) -> None:
    """ValueError where a list, an annotation or an image is missing, without a look into images."""
    pool, *tests = read_splits(folder, train, test, layout, share)
    class_names([pool], tests)
    for found in (pool, *tests):
        for name in find_image_files(found):
            if not (found.images / name).is_file():
                raise ValueError(f"{found.images / name} is missing")


def infer_first_pixel(parts: Sequence[SplitFiles]) -> int:
    """1, as the format has it, unless a box begins in [0, 1): then corners are lengths from the edge, which it says."""
    pages = [page for part in parts for page in part.annotations]
    boxes = [(page, thing.corners[:2]) for page in pages for thing in page.objects]
    zeros = [(page, corner) for page, corner in boxes if any(0 <= side < 1 for side in corner)]
    if not zeros:
        return 1
    LOG.warning(
        "%s: a box begins at %g, %g (%d of %d boxes begin below 1): corners are taken to count from 0; "
        "first_pixel=1 is for corners that count from 1, as PASCAL VOC's do",
        printable(zeros[0][0].path), *zeros[0][1], len(zeros), len(boxes),
    )  # fmt: skip
    return 0


def object_classes(split_files: SplitFiles) -> set[str]:
    """The classes of a split's objects."""
    return {thing.name for one in split_files.annotations for thing in one.objects}


def build_split(split_files: SplitFiles, options: ReadingOptions) -> Split:
    """The images of a split and their boxes."""
    sizes_N2, names = np.array([one.size for one in split_files.annotations], np.int64), find_image_files(split_files)
    files = ImageFiles(split_files.images, names, sizes_N2, options.exif)
    if split_files.source.is_dir():
        report_left_out(split_files, names)
    return Split.from_files(
        files, build_ground_truth(split_files.annotations, options), split_files.source, options.first_pixel
    )


def report_left_out(split_files: SplitFiles, names: Sequence[str]) -> None:
    """Says which images and which files of annotations are left out where all that is in their folders counts."""
    homes = set(map(os.path.dirname, names))
    there = {os.path.join(home, name) for home in homes for name in list_names(split_files.images / home)}
    without = sorted(name for name in there - set(names) if is_image(name))
    if without:
        count = f"{len(without):,} ({printable(without[0])})"
        warn_once(f"{split_files.images}: images without an annotation are left out: {count}")
    if split_files.other_files:
        warn_once(
            f"{split_files.source}: files that are not called NAME.xml are left out: {len(split_files.other_files):,} "
            f"({printable(split_files.other_files[0])})"
        )


def find_image_files(split_files: SplitFiles) -> list[str]:
    """The file of each image: the one with an image's ending and the annotation's name, NAME.jpg where there is none.

    Raises ValueError where there are two, unless the annotation's <filename> is one of them; LayoutError where no image
    is there.
    """
    there: dict[str, list[str]] = {}
    for inside in {os.path.dirname(name) for name in split_files.ids}:
        for name in list_names(split_files.images / inside):
            if is_image(name):
                stem = os.path.splitext(name)[0]
                there.setdefault(os.path.join(inside, stem), []).append(os.path.join(inside, name))
    if not there.keys() & set(split_files.ids):
        first = printable(f"{split_files.ids[0]}.jpg")
        raise LayoutError(f"{split_files.images} (images=) has none of the {len(split_files.ids)} images, as {first}")
    return [
        choose_image_file(split_files.images, there.get(name, [f"{name}.jpg"]), page)
        for name, page in zip(split_files.ids, split_files.annotations, strict=True)
    ]


def choose_image_file(folder: Path, candidates: Sequence[str], annotation: AnnotationFile) -> str:
    """The one of these files that an annotation is of."""
    if len(candidates) == 1:
        return candidates[0]
    stated = [name for name in candidates if os.path.basename(name) == annotation.image_name]
    if not stated:
        raise ValueError(
            f"{folder} has {' and '.join(map(printable, candidates))}, and {printable(annotation.path)} does not say which one it is "
            "of: move the other one away, or put the right name into its <filename>"
        )
    return stated[0]


def read_split_files(folder: Path, split: str, layout: Layout, share: float | None) -> SplitFiles:
    """What the files of a split say."""
    annotations, images = (
        folder / path.replace(SPLIT_PLACEHOLDER, split) for path in (layout.annotations, layout.images)
    )
    path = layout.list_path(folder, split, share)
    there, others = list_annotations(annotations)
    ids = there if path is None else read_image_list(path, set(there))
    if not set(ids) & set(there):
        first = printable(f"{ids[0]}.xml")
        raise LayoutError(f"{annotations} (annotations=) has none of the {len(ids)} files of {path}, as {first}")
    return SplitFiles(
        path or annotations, images, ids, read_annotations([annotations / f"{name}.xml" for name in ids]), others
    )


def list_annotations(folder: Path) -> tuple[list[str], list[str]]:
    """The names of all annotations in a folder and below, in their order; and the other files, images aside."""
    ids, others = list[str](), list[str]()
    for home, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        inside = os.path.relpath(home, folder)
        stems = [name.removesuffix(".xml") for name in names if name.endswith(".xml") and not is_hidden_name(name)]
        ids += [os.path.normpath(os.path.join(inside, stem)) for stem in stems]
        others += [name for name in names if not (name.endswith(".xml") or is_hidden_name(name) or is_image(name))]
    if not ids:
        raise LayoutError(f"{folder} (annotations=) has no annotation, NAME.xml")
    return sorted(ids), sorted(others)


def read_image_list(path: Path, annotation_names: Collection[str]) -> list[str]:
    """The images that a split's list names, each once and in its order. `known` are the names of the annotations."""
    ids = [parse_list_line(line, annotation_names) for line in map(str.strip, read_text(path).splitlines()) if line]
    if not ids:
        raise ValueError(f"{path} is empty: it must name an image a line")
    each = list(dict.fromkeys(ids))
    if outside := [name for name in each if os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir)]:
        raise ValueError(f"{path}: {printable(outside[0])} leads out of the folder of the annotations")
    if len(each) < len(ids):
        again, twice = len(ids) - len(each), Counter(ids).most_common(1)[0][0]
        warn_once(
            f"{path}: {again} of {len(ids)} lines name an image again, {printable(twice)} for one: each is taken once"
        )
    return each


def parse_list_line(line: str, annotation_names: Collection[str]) -> str:
    """The image of a list's line, which is its name (NAME), name and flag (NAME -1) or path (FOLDER/NAME.jpg ...).

    `known` are the names of the annotations; a line that fits none of them is read as NAME and flag.
    """
    first = line.split()[0]
    for text in (line, re.sub(r"\s+-?[01]$", "", line), first):
        stem = os.path.splitext(text.replace("\\", "/"))[0] if text.lower().endswith((*EXTENSIONS, ".xml")) else text
        for name in (text, stem, os.path.basename(stem)):
            if name in annotation_names:
                return name
    return first


def build_ground_truth(annotations: Sequence[AnnotationFile], options: ReadingOptions) -> GroundTruth:
    """The objects as boxes, with the corners that their files have."""
    number = {name: label for label, name in enumerate(options.classes)}
    objects = [(page, thing) for page in annotations for thing in page.objects]
    image_B = np.repeat(np.arange(len(annotations)), [len(one.objects) for one in annotations])
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and dropped
        sides_B4 = np.array([thing.corners for _, thing in objects], np.float64).reshape(-1, 4).astype(np.float32)
    labels_B = np.array([number[thing.name] for _, thing in objects], np.int64)
    ignored_B = np.array([not options.difficult and is_difficult(*pair) for pair in objects], np.bool_)
    return GroundTruth.from_boxes(image_B, sides_B4, labels_B, ignored_B, len(annotations))
