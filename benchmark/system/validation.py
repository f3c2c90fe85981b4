"""Converts values from files to types and checks them, so that no later code need do so. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Value = TypeVar("Value")

MAX_NUMBER = 1e100  # so that sums and squares of several numbers stay finite
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Amount = Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
Count = Annotated[int, Meta(ge=0, le=2**53)]  # the integers that a float represents exactly
Index = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1)]

KIND_NAMES = {  # plain words for msgspec's names of JSON's types
    "`int`": "a whole number", "`float`": "a number", "`str`": "text", "`bool`": "true or false", "`null`": "nothing",
    "`object`": "a mapping", "`array`": "a list",
}  # fmt: skip


def convert(value: object, kind: type[Value]) -> Value:
    """Converts a value of JSON or YAML to a type.

    Args:
        value: the value that the file holds.
        kind: the type: a structure, a mapping or a list with constraints.

    Returns:
        The value, made of new containers.

    Raises:
        ValueError: it does not fit; the one-line message names the field.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(describe_error(error)) from error


def describe_error(error: Exception) -> str:
    """Returns an error of msgspec in one line, the field first: `cells[3].seed: expected a whole number >= 0`."""
    text = " ".join(str(error).split())
    match = re.fullmatch(r"(.*) - at `(?:key in )?\$\.?(.*)`", text)
    words, field = (match[1], match[2]) if match else (text, "")
    for name, plain in KIND_NAMES.items():
        words = words.replace(name, plain)
    return f"{field}: {words[:1].lower()}{words[1:]}" if field else words[:1].lower() + words[1:]


def first_duplicate(names: Iterator[Any]) -> object:
    """Returns the first value that occurs twice; None where all differ."""
    earlier = set[Any]()
    return next((name for name in names if name in earlier or earlier.add(name)), None)  # type: ignore[func-returns-value]
