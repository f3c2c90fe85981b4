"""Reads one annotation file of the PASCAL VOC format: the image that it is of, and its objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmark.api import activity
from benchmark.vision.data.annotation_values import flag, is_utf16, name_of
from benchmark.vision.data.image_checks import BadImages
from benchmark.vision.data.regular_files import content_of, shown

HINTS = {"annotations": ": a CVAT file? Export it as Pascal VOC or COCO"}  # the root of other formats
SIDES = ("xmin", "ymin", "xmax", "ymax")
MOST = 2**26  # bytes of an annotation


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


def pages(paths: Sequence[Path]) -> list[Page]:
    """What each annotation file says. BadImages names all that cannot be read."""
    found, bad = list[Page](), list[str]()
    for path in activity.tracked(paths, "reading annotations"):
        try:
            found.append(page(path))
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise BadImages(bad, len(paths))
    return found


def page(path: Path) -> Page:
    """What one annotation file says."""
    root = plain_xml(path)
    if root.tag != "annotation":
        raise ValueError(
            f"{shown(path)}: its root is <{shown(root.tag)}>, not <annotation> of the VOC format"
            f"{HINTS.get(root.tag, '')}"
        )
    width, height = (whole_number(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    nodes = root.findall("object")
    objects = [marked(path, node) for node in nodes]
    if extra := sum(1 for _ in root.iter("bndbox")) - sum(1 + len(node.findall("part/bndbox")) for node in nodes):
        raise ValueError(f"{shown(path)}: {extra} of its <bndbox> are in no <object> of <annotation>")
    return Page(path, root.findtext("filename", "").strip(), size, objects)


def whole_number(text: str) -> int:
    """The number of pixels that a text states: 640 and 640.0 are 640, all else is 0."""
    match = re.fullmatch(r"\s*(\d{1,9})(\.0*)?\s*", text)
    return int(match[1]) if match else 0


def plain_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that defines no entities: those could make a small file a huge one."""
    try:
        content = content_of(path, MOST)
        xml = content.decode("utf-16") if is_utf16(content) else content
        plain = xml if isinstance(xml, str) else xml.decode("latin-1")
        if "<!DOCTYPE" not in plain and "\0" not in plain:
            return without_namespaces(ElementTree.fromstring(xml))
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{shown(path)} is not XML: {error}") from error
    raise ValueError(f"{shown(path)}: an annotation must be XML in UTF-8, or UTF-16 with its mark, without a DOCTYPE")


def without_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    """The same elements by their names alone."""
    for node in root.iter() if root.tag.startswith("{") else ():
        node.tag = node.tag.rpartition("}")[2]
    return root


def marked(path: Path, node: ElementTree.Element) -> Marked:
    """One <object>; its parts (head, hand, foot) are not read."""
    for tag in ("name", "difficult", "bndbox", *(f"bndbox/{side}" for side in SIDES)):
        if len(node.findall(tag)) > 1:
            raise ValueError(f"{shown(path)}: an object has more than one {tag}")
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{shown(path)}: an object has no name")
    try:
        sides = tuple(float(node.findtext(f"bndbox/{side}", "")) for side in SIDES)
    except ValueError:
        raise ValueError(f"{shown(path)}: a {name!r:.60} has no bndbox of four numbers ({', '.join(SIDES)})") from None
    return Marked(name_of(f"{shown(path)}: an object's name", name), sides, node.findtext("difficult", ""))


def is_difficult(page: Page, thing: Marked) -> bool:
    """Whether an object is marked so."""
    return flag(f"{shown(page.path)}: <difficult> of a {thing.name!r:.60}", thing.difficult)
