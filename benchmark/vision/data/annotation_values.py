"""Values in files of annotations, as tools write them: text, names, flags."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from benchmark.vision.data.regular_files import printable, read_bytes

FLAGS = {"": False, "none": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
MAX_NAME_LENGTH = 1000  # characters of a name


def check_unique(values: Sequence[Hashable], description: str) -> None:
    """ValueError where a value is there twice; `what` says what they are, and the file that they are from."""
    if len(set(values)) < len(values):
        twice = next(value for value, num in Counter(values).items() if num > 1)
        raise ValueError(f"{description} {printable(twice)} is there twice")


def parse_flag(description: str, value: object) -> bool:
    """A yes or no as tools write it: 1, "1", true, "True", 1.0, and so on; nothing is no. ValueError for others.

    Args:
        what: what the value is, and the file that it is from.
        value: a number, text, a truth value or None.
    """
    text = "" if value is None else str(value).strip().lower() if isinstance(value, str | int | float) else "no flag"
    if text not in FLAGS:
        raise ValueError(f"{description} {short_repr(value)} is neither 0 nor 1")
    return FLAGS[text]


def parse_name(description: str, value: object) -> str:
    """A text or a number as a name. ValueError where it is neither, or nothing that could be written in a line.

    Args:
        what: what the value is, and the file that it is from.
        value: as the file has it.
    """
    name = str(value) if type(value) in (str, int, float) else ""
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{description} {short_repr(value)} is no name")
    return name


def short_repr(value: object) -> str:
    """A value of a file as a message has it."""
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return "that is nested so deeply"


def read_text(path: Path) -> str:
    """What a text file says: in UTF-8 with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        ValueError: names a file that cannot be read, or that is in another encoding.
    """
    try:
        content = read_bytes(path)
        return content.decode("utf-16" if has_utf16_mark(content) else "utf-8-sig")
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error.reason} in byte {error.start}") from error


def has_utf16_mark(content: bytes) -> bool:
    """Whether a file begins with the byte-order mark of UTF-16."""
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
