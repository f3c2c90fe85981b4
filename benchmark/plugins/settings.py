"""Settings as people type them, `key=value`: the one place that reads them, and what help tells of each."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.plugins.paths import reject_resolvers
from benchmark.plugins.registry import convert_value
from benchmark.text import notation
from benchmark.text.words import did_you_mean

TYPE_NAMES = {bool: "true|false", int: "integer", float: "number", str: "text", list: "list"}


@dataclass(frozen=True)
class Setting:
    """One setting, as help and `list settings` show it."""

    name: str
    annotation: Any  # its annotation
    default: str  # as it is typed; "" where there is none
    meaning: str

    @property
    def type(self) -> str:
        """Its type in a word, or what it may be: `integer`, `text|json`."""
        words = [
            "|".join(filter(None, map(str, typing.get_args(one))))
            if typing.get_origin(one) is Literal
            else TYPE_NAMES.get(typing.get_origin(one) or one, "")
            for one in union_members(self.annotation)
        ]
        return "|".join(filter(None, words))


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def read_settings(arguments: Sequence[str], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `key=value` words.

    Args:
        words: as they were typed; the last of two with one key counts.
        known: the annotated type of each setting that there is, by name.

    Returns:
        A value of that type for each key that was typed.

    Raises:
        ValueError: a word is not key=value, its key is not known, or its value does not fit; in one line.
    """
    pairs = [split_key_value(word) for word in arguments]
    for key, _ in pairs:
        if key not in annotations:
            raise ValueError(f"no setting of this command is called {did_you_mean(key, annotations)}")
    return {key: read_value(key, text, annotations[key]) for key, text in pairs}


def split_key_value(word: str) -> tuple[str, str]:
    """`key=value` as a pair. ValueError where it is none, or asks for a value from elsewhere."""
    key, equals, value = reject_resolvers(word).partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not key=value; a value with spaces or brackets goes into quotes: 'key=value'")
    return key, value


def read_value(key: str, text: str, annotation: Any) -> Any:
    """The value of a setting: text as it is, since folders may be called anything, and lists item by item.

    Args:
        key: the setting.
        text: what stood behind `key=`.
        kind: the setting's annotation. What takes a list or an integer takes lists of numbers; what takes a list
            alone takes names of plug-ins, `a,b[c=1]` or `{b: {c: 1}}`.

    Raises:
        ValueError: the text does not fit.
    """
    options = union_members(annotation)
    if text == "null" and types.NoneType in options:
        return None
    if list not in {typing.get_origin(one) or one for one in options}:
        return convert_value(f"{key}={text}", text, annotation)
    try:
        parts = notation.parse_list(text)
    except ValueError as error:
        raise ValueError(f"{key}={error}") from error
    if int in options:
        return [notation.parse_scalar(part) for part in parts] if text.startswith("[") else notation.parse_scalar(text)
    return [notation.parse_mapping(part) if part.startswith("{") else part for part in parts]
