"""Parses values in annotation files as labelling tools write them: text, names and flags."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from benchmark.vision.data.regular_files import printable, read_bytes

FLAGS = {"": False, "none": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
MAX_NAME_LENGTH = 1000  # characters


def check_unique(values: Sequence[Hashable], description: str) -> None:
    """Checks that no value occurs twice.

    Args:
        values: The values.
        description: What the values are and the file they come from; the error message begins with it.

    Raises:
        ValueError: A value occurs twice.
    """
    if len(set(values)) < len(values):
        duplicate = next(value for value, num in Counter(values).items() if num > 1)
        raise ValueError(f"{description} {printable(duplicate)} occurs twice")


def parse_flag(description: str, value: object) -> bool:
    """Parses a truth value as tools write it: 1, "1", true, "True", 1.0 and so on. An empty value is False.

    Args:
        description: What the value is and the file it comes from; the error message begins with it.
        value: A number, text, a truth value or None.

    Returns:
        The truth value.

    Raises:
        ValueError: The value is none of the accepted spellings.
    """
    text = "" if value is None else str(value).strip().lower() if isinstance(value, str | int | float) else "no flag"
    if text not in FLAGS:
        raise ValueError(f"{description} {short_repr(value)} is neither 0 nor 1")
    return FLAGS[text]


def parse_name(description: str, value: object) -> str:
    """Parses a text or a number as a name that fits on one line.

    Args:
        description: What the value is and the file it comes from; the error message begins with it.
        value: The value as the file has it.

    Returns:
        The name.

    Raises:
        ValueError: The value is neither text nor a number, is blank, is too long or has unprintable characters.
    """
    name = str(value) if type(value) in (str, int, float) else ""
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{description} {short_repr(value)} is not a valid name")
    return name


def short_repr(value: object) -> str:
    """The `repr` of a value, cut to 60 characters, for error messages."""
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return "that is nested too deeply to show"


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Args:
        path: The file.

    Returns:
        The text.

    Raises:
        ValueError: The file cannot be read or has another encoding.
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
