"""Reads settings of the form `key=value`, and describes settings for help. Every command uses it."""

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
    annotation: Any  # its type
    default: str  # as typed; "" where there is none
    meaning: str

    @property
    def type(self) -> str:
        """Its type in a word, or its possible values: `integer`, `text|json`."""
        words = [
            "|".join(filter(None, map(str, typing.get_args(member))))
            if typing.get_origin(member) is Literal
            else TYPE_NAMES.get(typing.get_origin(member) or member, "")
            for member in union_members(self.annotation)
        ]
        return "|".join(filter(None, words))


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; for any other annotation, the annotation alone."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def read_settings(arguments: Sequence[str], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `key=value` arguments.

    Args:
        arguments: the arguments as typed; of several with the same key, the last counts.
        annotations: the type of each known setting, by name.

    Returns:
        A value of the annotated type for each key that was typed.

    Raises:
        ValueError: an argument is not key=value, its key is unknown, or its value does not fit; in one line.
    """
    pairs = [split_key_value(word) for word in arguments]
    for key, _ in pairs:
        if key not in annotations:
            raise ValueError(f"no setting of this command is called {did_you_mean(key, annotations)}")
    return {key: read_value(key, text, annotations[key]) for key, text in pairs}


def split_key_value(word: str) -> tuple[str, str]:
    """Splits `key=value` into a pair. ValueError where there is no `=`, or a resolver as `${oc.env:X}`."""
    key, equals, value = reject_resolvers(word).partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not key=value; a value with spaces or brackets goes into quotes: 'key=value'")
    return key, value


def read_value(key: str, text: str, annotation: Any) -> Any:
    """Reads the value of a setting. Text is not parsed, since folders may have any name; lists are parsed.

    Args:
        key: the name of the setting.
        text: the value as typed.
        annotation: the type of the setting. Settings that take an integer or a list take lists of numbers; settings
            that take a list only take labels of plug-ins, `a,b[c=1]` or `{b: {c: 1}}`.

    Raises:
        ValueError: the text does not fit.
    """
    options = union_members(annotation)
    if text == "null" and types.NoneType in options:
        return None
    if list not in {typing.get_origin(option) or option for option in options}:
        return convert_value(f"{key}={text}", text, annotation)
    try:
        parts = notation.parse_list(text)
    except ValueError as error:
        raise ValueError(f"{key}={error}") from error
    if int in options:
        return [notation.parse_scalar(part) for part in parts] if text.startswith("[") else notation.parse_scalar(text)
    return [notation.parse_mapping(part) if part.startswith("{") else part for part in parts]
