"""Reads one annotation file of the PASCAL VOC format: the image that it is of, and its objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmark.api import activity
from benchmark.vision.data.annotation_values import has_utf16_mark, parse_flag, parse_name
from benchmark.vision.data.image_checks import BadImagesError
from benchmark.vision.data.regular_files import printable, read_bytes

FORMAT_HINTS = {"annotations": ": a CVAT file? Export it as Pascal VOC or COCO"}  # the root of other formats
CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")
MAX_FILE_BYTES = 2**26  # bytes of an annotation


class AnnotatedObject(NamedTuple):
    """One object of an image: its class's name, and its sides as the file has them."""

    name: str
    corners: tuple[float, ...]  # pixels from 1, the last one included; or lengths from the image's edge
    difficult: str  # 0, 1 or as tools write them


class AnnotationFile(NamedTuple):
    """One annotation file: the image it names, width and height in pixels (0: not stated), and the objects."""

    path: Path
    image_name: str
    size: tuple[int, int]
    objects: list[AnnotatedObject]


def read_annotations(paths: Sequence[Path]) -> list[AnnotationFile]:
    """What each annotation file says. BadImages names all that cannot be read."""
    found, bad = list[AnnotationFile](), list[str]()
    for path in activity.track(paths, "reading annotations"):
        try:
            found.append(read_annotation(path))
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise BadImagesError(bad, len(paths))
    return found


def read_annotation(path: Path) -> AnnotationFile:
    """What one annotation file says."""
    root = read_xml(path)
    if root.tag != "annotation":
        raise ValueError(
            f"{printable(path)}: its root is <{printable(root.tag)}>, not <annotation> of the VOC format"
            f"{FORMAT_HINTS.get(root.tag, '')}"
        )
    width, height = (parse_pixels(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    nodes = root.findall("object")
    objects = [parse_object(path, node) for node in nodes]
    if extra := sum(1 for _ in root.iter("bndbox")) - sum(1 + len(node.findall("part/bndbox")) for node in nodes):
        raise ValueError(f"{printable(path)}: {extra} of its <bndbox> are in no <object> of <annotation>")
    return AnnotationFile(path, root.findtext("filename", "").strip(), size, objects)


def parse_pixels(text: str) -> int:
    """The number of pixels that a text states: 640 and 640.0 are 640, all else is 0."""
    match = re.fullmatch(r"\s*(\d{1,9})(\.0*)?\s*", text)
    return int(match[1]) if match else 0


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that defines no entities: those could make a small file a huge one."""
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
        xml = content.decode("utf-16") if has_utf16_mark(content) else content
        plain = xml if isinstance(xml, str) else xml.decode("latin-1")
        if "<!DOCTYPE" not in plain and "\0" not in plain:
            return strip_namespaces(ElementTree.fromstring(xml))
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{printable(path)} is not XML: {error}") from error
    raise ValueError(
        f"{printable(path)}: an annotation must be XML in UTF-8, or UTF-16 with its mark, without a DOCTYPE"
    )


def strip_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    """The same elements by their names alone."""
    for node in root.iter() if root.tag.startswith("{") else ():
        node.tag = node.tag.rpartition("}")[2]
    return root


def parse_object(path: Path, node: ElementTree.Element) -> AnnotatedObject:
    """One <object>; its parts (head, hand, foot) are not read."""
    for tag in ("name", "difficult", "bndbox", *(f"bndbox/{side}" for side in CORNER_TAGS)):
        if len(node.findall(tag)) > 1:
            raise ValueError(f"{printable(path)}: an object has more than one {tag}")
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{printable(path)}: an object has no name")
    try:
        sides = tuple(float(node.findtext(f"bndbox/{side}", "")) for side in CORNER_TAGS)
    except ValueError:
        raise ValueError(
            f"{printable(path)}: a {name!r:.60} has no bndbox of four numbers ({', '.join(CORNER_TAGS)})"
        ) from None
    return AnnotatedObject(
        parse_name(f"{printable(path)}: an object's name", name), sides, node.findtext("difficult", "")
    )


def is_difficult(annotation: AnnotationFile, annotated_object: AnnotatedObject) -> bool:
    """Whether an object is marked so."""
    return parse_flag(
        f"{printable(annotation.path)}: <difficult> of a {annotated_object.name!r:.60}", annotated_object.difficult
    )
