"""Reads the PASCAL VOC format: ROOT/JPEGImages, ROOT/Annotations/IMAGE.xml, ROOT/ImageSets/Main/SPLIT.txt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from benchmark.api import Machine
from tasks._annotations import Files, Split, Truth, joined, listed, once

SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    2007: f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar and {SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    2012: f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar",
}
SIDES = ("xmin", "ymin", "xmax", "ymax")


class Marked(NamedTuple):
    """One object of an image: its class's name, and its sides as the file has them."""

    name: str
    sides: tuple[float, ...]  # pixels from 1, the last one included
    difficult: bool


class Page(NamedTuple):
    """One annotation file: width and height in pixels (0: not stated), and the objects."""

    size: tuple[int, int]
    objects: list[Marked]


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
    folder: Path, train: str, test: str, *, difficult: bool, more: Sequence[Path] = ()
) -> tuple[Split, Split, list[str]]:
    """The pool, the test set and the names of the classes, sorted; images in the order of the splits' lists.

    Sides are of pixels that count from 1, so a box reaches from (xmin - 1, ymin - 1) to (xmax, ymax).
    difficult: whether objects marked so are boxes like any other; if not, they are ignored.
    more: folders whose splits `train` follow in the pool.
    Raises ValueError for lists, annotations and images that are missing or broken, for an image in both splits,
    for a pool without boxes, and for a class of the test set that the pool does not have.
    """
    pool, tests = (part(folder, split) for split in (train, test))
    once([*pool.ids, *tests.ids], f"{folder}: in {train} and {test} together, the image")
    pools = [(folder, pool), *((other, part(other, train)) for other in more)]
    names = set[str]().union(*(names_in(found) for _, found in pools))
    if not names:
        raise ValueError(f"{folder}: no image of {train} has a box")
    if unknown := sorted(names_in(tests) - names):
        raise ValueError(f"{folder}: no image of {train} has a {unknown[0]!r}, but some of {test} have")
    classes = sorted(names)
    splits = [split_of(home, found, classes, difficult) for home, found in pools]
    return joined(splits) if more else splits[0], split_of(folder, tests, classes, difficult), classes


def names_in(found: Part) -> set[str]:
    """The classes of a split's objects."""
    return {thing.name for one in found.pages for thing in one.objects}


def split_of(folder: Path, found: Part, classes: Sequence[str], difficult: bool) -> Split:
    """The images of a split, IMAGE.jpg or, where there is none, IMAGE of another extension, and their boxes."""
    images = folder / "JPEGImages"
    there = sorted(listed(images), key=lambda name: name.endswith(".jpg"))  # the last one of a stem counts
    stems = {os.path.splitext(name)[0]: name for name in there}
    names = [stems.get(name, f"{name}.jpg") for name in found.ids]
    sizes_N2 = np.array([one.size for one in found.pages], np.int64)
    return Split.of_files(Files(images, names, sizes_N2), truth_of(found.pages, classes, difficult), found.source)


def part(folder: Path, split: str) -> Part:
    """What the files of a split say."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    ids = image_ids(path)
    return Part(path, ids, [page(folder / "Annotations" / f"{name}.xml") for name in ids])


def image_ids(path: Path) -> list[str]:
    """The first word of every line of a split's list."""
    if not path.is_file():
        there = ", ".join(name.removesuffix(".txt") for name in listed(path.parent) if name.endswith(".txt"))
        raise ValueError(f"{path} is missing; the splits there are: {there or 'none'}")
    ids = [
        line.split()[0] for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]
    if not ids:
        raise ValueError(f"{path} is empty: it must name an image a line")
    once(ids, f"{path}: the image")
    return ids


def page(path: Path) -> Page:
    """What one annotation file says."""
    root = plain_xml(path)
    if root.tag != "annotation":
        raise ValueError(f"{path}: its root is <{root.tag}>, not <annotation> of the VOC format")
    width, height = (root.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
    size = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)
    return Page(size, [marked(path, node) for node in root.findall("object")])


def plain_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that defines no entities: those could make a small file a huge one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if b"<!DOCTYPE" in content or b"\0" in content:  # in UTF-16 a DOCTYPE would look different
        raise ValueError(f"{path}: an annotation must be XML in UTF-8 without a DOCTYPE")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not XML: {error}") from error


def marked(path: Path, node: ElementTree.Element) -> Marked:
    """One <object>; its parts (head, hand, foot) are not read."""
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{path}: an object has no name")
    try:
        sides = tuple(float(node.findtext(f"bndbox/{side}", "")) for side in SIDES)
    except ValueError:
        raise ValueError(f"{path}: a {name!r} has no bndbox of four numbers ({', '.join(SIDES)})") from None
    return Marked(name, sides, node.findtext("difficult", "").strip() == "1")


def truth_of(pages: Sequence[Page], names: Sequence[str], difficult: bool) -> Truth:
    """The objects as boxes in continuous coordinates."""
    number = {name: label for label, name in enumerate(names)}
    objects = [thing for one in pages for thing in one.objects]
    image_B = np.repeat(np.arange(len(pages)), [len(one.objects) for one in pages])
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and dropped
        sides_B4 = np.array([thing.sides for thing in objects], np.float64).reshape(-1, 4).astype(np.float32)
    labels_B = np.array([number[thing.name] for thing in objects], np.int64)
    ignored_B = np.array([thing.difficult and not difficult for thing in objects], np.bool_)
    return Truth.grouped(image_B, sides_B4 - np.array([1, 1, 0, 0], np.float32), labels_B, ignored_B, len(pages))
