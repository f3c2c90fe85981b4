"""Reads annotation files in the PASCAL VOC format: the name and size of an image, and its objects."""

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

FORMAT_HINTS = {"annotations": ": a CVAT file? Export it as Pascal VOC or COCO"}  # by the root element of other formats
CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")
MAX_FILE_BYTES = 2**26


class AnnotatedObject(NamedTuple):
    """One object of an image, as the file has it."""

    name: str  # of its class
    corners: tuple[float, ...]  # CORNER_TAGS: pixels that count from 1, or distances from the image's edge
    difficult: str  # 0, 1 or another spelling, see `parse_flag`


class AnnotationFile(NamedTuple):
    """The contents of one annotation file."""

    path: Path
    image_name: str  # the text of <filename>, "" if there is none
    size: tuple[int, int]  # width and height in pixels, (0, 0) if not stated
    objects: list[AnnotatedObject]


def read_annotations(paths: Sequence[Path]) -> list[AnnotationFile]:
    """Reads annotation files.

    Args:
        paths: The XML files.

    Returns:
        The contents of each file.

    Raises:
        BadImagesError: Names all files that cannot be read.
    """
    annotations, errors = list[AnnotationFile](), list[str]()
    for path in activity.track(paths, "reading annotations"):
        try:
            annotations.append(read_annotation(path))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise BadImagesError(errors, len(paths))
    return annotations


def read_annotation(path: Path) -> AnnotationFile:
    """Reads one annotation file. Raises ValueError if it cannot be read or has another format."""
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
    if num_stray := sum(1 for _ in root.iter("bndbox")) - sum(1 + len(node.findall("part/bndbox")) for node in nodes):
        raise ValueError(f"{printable(path)}: {num_stray} of its <bndbox> are in no <object> of <annotation>")
    return AnnotationFile(path, root.findtext("filename", "").strip(), size, objects)


def parse_pixels(text: str) -> int:
    """Parses a number of pixels: 640 and 640.0 are 640, anything else is 0."""
    match = re.fullmatch(r"\s*(\d{1,9})(\.0*)?\s*", text)
    return int(match[1]) if match else 0


def read_xml(path: Path) -> ElementTree.Element:
    """Parses an XML file. Raises ValueError for one with a DOCTYPE, whose entities could expand without limit."""
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
        f"{printable(path)}: an annotation must be XML in UTF-8, or UTF-16 with a byte-order mark, without a DOCTYPE"
    )


def strip_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    """Removes namespaces from the names of all elements, in place."""
    for node in root.iter() if root.tag.startswith("{") else ():
        node.tag = node.tag.rpartition("}")[2]
    return root


def parse_object(path: Path, node: ElementTree.Element) -> AnnotatedObject:
    """Reads one <object>; its parts (head, hand, foot) are ignored."""
    for tag in ("name", "difficult", "bndbox", *(f"bndbox/{side}" for side in CORNER_TAGS)):
        if len(node.findall(tag)) > 1:
            raise ValueError(f"{printable(path)}: an object has more than one {tag}")
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{printable(path)}: an object has no name")
    try:
        corners = tuple(float(node.findtext(f"bndbox/{tag}", "")) for tag in CORNER_TAGS)
    except ValueError:
        raise ValueError(
            f"{printable(path)}: a {name!r:.60} has no bndbox of four numbers ({', '.join(CORNER_TAGS)})"
        ) from None
    return AnnotatedObject(
        parse_name(f"{printable(path)}: an object's name", name), corners, node.findtext("difficult", "")
    )


def is_difficult(annotation: AnnotationFile, annotated_object: AnnotatedObject) -> bool:
    """Whether an object is marked as difficult. Raises ValueError if the mark cannot be parsed."""
    return parse_flag(
        f"{printable(annotation.path)}: <difficult> of a {annotated_object.name!r:.60}", annotated_object.difficult
    )
