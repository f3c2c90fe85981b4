"""Settings as people type them, `key=value`: the one place that reads them, and what help tells of each."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.plugins.places import check_literal
from benchmark.plugins.registry import checked
from benchmark.text import quoted
from benchmark.text.words import unknown

KINDS = {bool: "true|false", int: "integer", float: "number", str: "text", list: "list"}


@dataclass(frozen=True)
class Setting:
    """One setting, as help and `list settings` show it."""

    name: str
    kind: Any  # its annotation
    default: str  # as it is typed; "" where there is none
    meaning: str

    @property
    def type(self) -> str:
        """Its type in a word, or what it may be: `integer`, `text|json`."""
        words = [
            "|".join(filter(None, map(str, typing.get_args(one))))
            if typing.get_origin(one) is Literal
            else KINDS.get(typing.get_origin(one) or one, "")
            for one in alternatives(self.kind)
        ]
        return "|".join(filter(None, words))


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    is_union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if is_union else (kind,)


def read_settings(words: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `key=value` words.

    Args:
        words: as they were typed; the last of two with one key counts.
        known: the annotated type of each setting that there is, by name.

    Returns:
        A value of that type for each key that was typed.

    Raises:
        ValueError: a word is not key=value, its key is not known, or its value does not fit; in one line.
    """
    pairs = [key_and_value(word) for word in words]
    for key, _ in pairs:
        if key not in known:
            raise ValueError(f"no setting of this command is called {unknown(key, known)}")
    return {key: read_value(key, text, known[key]) for key, text in pairs}


def key_and_value(word: str) -> tuple[str, str]:
    """`key=value` as a pair. ValueError where it is none, or asks for a value from elsewhere."""
    key, equals, value = check_literal(word).partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not key=value; a value with spaces or brackets goes into quotes: 'key=value'")
    return key, value


def read_value(key: str, text: str, kind: Any) -> Any:
    """The value of a setting: text as it is, since folders may be called anything, and lists item by item.

    Args:
        key: the setting.
        text: what stood behind `key=`.
        kind: the setting's annotation. What takes a list or an integer takes lists of numbers; what takes a list
            alone takes names of plug-ins, `a,b[c=1]` or `{b: {c: 1}}`.

    Raises:
        ValueError: the text does not fit.
    """
    options = alternatives(kind)
    if text == "null" and types.NoneType in options:
        return None
    if list not in {typing.get_origin(one) or one for one in options}:
        return checked(f"{key}={text}", text, kind)
    try:
        parts = quoted.items(text)
    except ValueError as error:
        raise ValueError(f"{key}={error}") from error
    if int in options:
        return [quoted.scalar(part) for part in parts] if text.startswith("[") else quoted.scalar(text)
    return [quoted.mapping(part) if part.startswith("{") else part for part in parts]
