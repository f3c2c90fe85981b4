"""Reads the PASCAL VOC format: ROOT/JPEGImages, ROOT/Annotations/IMAGE.xml, ROOT/ImageSets/Main/SPLIT.txt."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from benchmark.api import Machine
from tasks._annotations import LOG, Files, Split, Truth, flag, is_utf16, joined, listed, once, text_of
from tasks._image_checks import together
from tasks._image_files import EXTENSIONS, Exif, is_image

SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    2007: f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar and {SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    2012: f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar",
}
HINTS = {"annotations": ": a CVAT file? Export it as Pascal VOC or COCO"}  # the root of other formats
SIDES = ("xmin", "ymin", "xmax", "ymax")


class Marked(NamedTuple):
    """One object of an image: its class's name, and its sides as the file has them."""

    name: str
    sides: tuple[float, ...]  # pixels from 1, the last one included; or lengths from the image's edge
    difficult: str  # 0, 1 or as tools write them


class Page(NamedTuple):
    """One annotation file: the image it names, width and height in pixels (0: not stated), and the objects."""

    path: Path
    image: str
    size: tuple[int, int]
    objects: list[Marked]


class Reading(NamedTuple):
    """What turns objects into boxes."""

    classes: list[str]
    difficult: bool  # whether objects marked so are boxes like any other
    first_pixel: int  # 0 or 1: the number of the first pixel of a row
    exif: Exif  # whether photographs are turned


class Part(NamedTuple):
    """One split as its files have it."""

    source: Path  # the file that lists its images
    ids: list[str]  # the images' names without extension
    pages: list[Page]


def devkit(machine: Machine, root: str, year: int | None, *, bare: bool = True) -> Path:
    """The folder with ImageSets/Main: `root` itself only where `bare`. ValueError says how to get one."""
    archives = ARCHIVES.get(year or 2012, f"an archive of {SITE}/voc{year}/")
    try:
        folder = machine.located(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {archives} there") from None
    inside = [] if year is None else [f"VOC{year}", f"VOCdevkit/VOC{year}"]
    for place in (*inside, ".") if bare else inside:
        if (folder / place / "ImageSets" / "Main").is_dir():
            return folder / place
    missing = [*inside, "ImageSets/Main"] if bare else inside
    raise ValueError(
        f"{folder} has no {', no '.join(missing)}: unpack {archives} there, "
        "or set root= (and data=) to other data in the VOC format"
    )


def pascal_voc(
    folder: Path,
    train: str,
    test: str,
    *,
    difficult: bool,
    first_pixel: int | None = None,
    exif: Exif = "turn",
    more: Sequence[Path] = (),
) -> tuple[Split, Split, list[str]]:
    """The pool, the test set and the names of the classes, sorted; images in the order of the splits' lists.

    Args:
        folder: holds the images, the annotations and the lists.
        train: the list of the pool.
        test: the list of the test set.
        difficult: whether objects marked so are boxes like any other; if not, they are ignored.
        first_pixel: 1 where sides are numbers of pixels from 1 on, so that a box reaches from (xmin - 1, ymin - 1) to
            (xmax, ymax); 0 where they are lengths from the image's edge; None: 0 if an xmin or ymin is below 1.
        exif: whether photographs are turned as their EXIF tags say.
        more: folders whose splits `train` follow in the pool.

    Raises:
        ValueError: for lists, annotations and images that are missing or broken, for an image in both splits, for a
            pool without boxes, and for a class of the test set that the pool does not have.
    """
    pool, tests = (part(folder, split) for split in (train, test))
    once([*pool.ids, *tests.ids], f"{folder}: in {train} and {test} together, the image")
    pools = [(folder, pool), *((other, part(other, train)) for other in more)]
    names = set[str]().union(*(names_in(found) for _, found in pools))
    if not names:
        raise ValueError(f"{folder}: no image of {train} has a box")
    if unknown := sorted(names_in(tests) - names):
        raise ValueError(f"{folder}: no image of {train} has a {unknown[0]!r}, but some of {test} have")
    first = first_pixel_of([*(found for _, found in pools), tests]) if first_pixel is None else first_pixel
    reading, parts = Reading(sorted(names), difficult, first, exif), [*pools, (folder, tests)]
    *splits, last = together(*(partial(split_of, home, found, reading) for home, found in parts))
    return joined(splits) if more else splits[0], last, reading.classes


def first_pixel_of(parts: Sequence[Part]) -> int:
    """1, as the format has it, unless a box begins in [0, 1): then corners are lengths from the edge, which it says."""
    pages = [page for part in parts for page in part.pages]
    boxes = [(page, thing.sides[:2]) for page in pages for thing in page.objects]
    zeros = [(page, corner) for page, corner in boxes if any(0 <= side < 1 for side in corner)]
    if not zeros:
        return 1
    LOG.warning(
        "%s: a box begins at %g, %g (%d of %d boxes begin below 1): corners are taken to count from 0; "
        "first_pixel=1 is for corners that count from 1, as PASCAL VOC's do",
        zeros[0][0].path, *zeros[0][1], len(zeros), len(boxes),
    )  # fmt: skip
    return 0


def names_in(found: Part) -> set[str]:
    """The classes of a split's objects."""
    return {thing.name for one in found.pages for thing in one.objects}


def split_of(folder: Path, found: Part, reading: Reading) -> Split:
    """The images of a split and their boxes."""
    images = folder / "JPEGImages"
    names = image_names(images, found)
    sizes_N2 = np.array([one.size for one in found.pages], np.int64)
    truth = truth_of(found.pages, reading)
    return Split.of_files(Files(images, names, sizes_N2, reading.exif), truth, found.source, reading.first_pixel)


def image_names(folder: Path, found: Part) -> list[str]:
    """The file of each image: the one with an image's ending and the annotation's name, NAME.jpg where there is none.

    Raises ValueError where there are two, unless the annotation's <filename> is one of them.
    """
    there: dict[str, list[str]] = {}
    for inside in {os.path.dirname(name) for name in found.ids}:
        for name in listed(folder / inside):
            if is_image(name):
                stem = os.path.splitext(name)[0]
                there.setdefault(os.path.join(inside, stem), []).append(os.path.join(inside, name))
    return [
        image_name(folder, there.get(name, [f"{name}.jpg"]), page)
        for name, page in zip(found.ids, found.pages, strict=True)
    ]


def image_name(folder: Path, candidates: Sequence[str], page: Page) -> str:
    """The one of these files that an annotation is of."""
    if len(candidates) == 1:
        return candidates[0]
    stated = [name for name in candidates if os.path.basename(name) == page.image]
    if not stated:
        raise ValueError(
            f"{folder} has {' and '.join(candidates)}, and {page.path} does not say which one it is of: "
            "move the other one away, or put the right name into its <filename>"
        )
    return stated[0]


def part(folder: Path, split: str) -> Part:
    """What the files of a split say."""
    path, annotations = folder / "ImageSets" / "Main" / f"{split}.txt", folder / "Annotations"
    ids = image_ids(path, annotations)
    return Part(path, ids, [page(annotations / f"{name}.xml") for name in ids])


def image_ids(path: Path, annotations: Path) -> list[str]:
    """The images that a split's list names, each once and in its order."""
    if not path.is_file():
        there = ", ".join(name.removesuffix(".txt") for name in listed(path.parent) if name.endswith(".txt"))
        raise ValueError(f"{path} is missing; the splits there are: {there or 'none'}")
    known = {name.removesuffix(".xml") for name in listed(annotations)}
    ids = [image_id(line, known) for line in map(str.strip, text_of(path).splitlines()) if line]
    if not ids:
        raise ValueError(f"{path} is empty: it must name an image a line")
    each = list(dict.fromkeys(ids))
    if len(each) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        LOG.warning(
            "%s: %d of %d lines name an image again, %s for one: each is taken once",
            path,
            len(ids) - len(each),
            len(ids),
            twice,
        )
    return each


def image_id(line: str, known: Collection[str]) -> str:
    """The image of a list's line, which is its name (NAME), name and flag (NAME -1) or path (FOLDER/NAME.jpg ...).

    `known` are the names of the annotations; a line that fits none of them is read as NAME and flag.
    """
    first = line.split()[0]
    for text in (line, re.sub(r"\s+-?[01]$", "", line), first):
        stem = os.path.splitext(text.replace("\\", "/"))[0] if text.lower().endswith((*EXTENSIONS, ".xml")) else text
        for name in (text, stem, os.path.basename(stem)):
            if name in known:
                return name
    return first


def page(path: Path) -> Page:
    """What one annotation file says."""
    root = plain_xml(path)
    if root.tag != "annotation":
        raise ValueError(
            f"{path}: its root is <{root.tag}>, not <annotation> of the VOC format{HINTS.get(root.tag, '')}"
        )
    width, height = (whole_number(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    return Page(
        path, root.findtext("filename", "").strip(), size, [marked(path, node) for node in root.findall("object")]
    )


def whole_number(text: str) -> int:
    """The number of pixels that a text states: 640 and 640.0 are 640, all else is 0."""
    match = re.fullmatch(r"\s*(\d{1,9})(\.0*)?\s*", text)
    return int(match[1]) if match else 0


def plain_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that defines no entities: those could make a small file a huge one."""
    try:
        content = path.read_bytes()
        xml = content.decode("utf-16") if is_utf16(content) else content
        plain = xml if isinstance(xml, str) else xml.decode("latin-1")
        if "<!DOCTYPE" not in plain and "\0" not in plain:
            return without_namespaces(ElementTree.fromstring(xml))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not XML: {error}") from error
    raise ValueError(f"{path}: an annotation must be XML in UTF-8, or UTF-16 with its mark, without a DOCTYPE")


def without_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    """The same elements by their names alone."""
    for node in root.iter() if root.tag.startswith("{") else ():
        node.tag = node.tag.rpartition("}")[2]
    return root


def marked(path: Path, node: ElementTree.Element) -> Marked:
    """One <object>; its parts (head, hand, foot) are not read."""
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{path}: an object has no name")
    try:
        sides = tuple(float(node.findtext(f"bndbox/{side}", "")) for side in SIDES)
    except ValueError:
        raise ValueError(f"{path}: a {name!r} has no bndbox of four numbers ({', '.join(SIDES)})") from None
    return Marked(name, sides, node.findtext("difficult", ""))


def truth_of(pages: Sequence[Page], reading: Reading) -> Truth:
    """The objects as boxes, with the corners that their files have."""
    number = {name: label for label, name in enumerate(reading.classes)}
    objects = [(page, thing) for page in pages for thing in page.objects]
    image_B = np.repeat(np.arange(len(pages)), [len(one.objects) for one in pages])
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and dropped
        sides_B4 = np.array([thing.sides for _, thing in objects], np.float64).reshape(-1, 4).astype(np.float32)
    labels_B = np.array([number[thing.name] for _, thing in objects], np.int64)
    ignored_B = np.array([not reading.difficult and is_difficult(*pair) for pair in objects], np.bool_)
    return Truth.grouped(image_B, sides_B4, labels_B, ignored_B, len(pages))


def is_difficult(page: Page, thing: Marked) -> bool:
    """Whether an object is marked so."""
    return flag(f"{page.path}: <difficult> of a {thing.name!r}", thing.difficult)
