"""The notation of labels, lists and values: `coreset[metric=cosine]`, `[a,"b,c"]`, `true`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

PLUGIN_NAME = r"[A-Za-z]\w*"


class QuotedText(str):
    """A value that was written in quotes: it is text, even where it reads `null` or `3`."""


QUOTES = "\"'"
BRACKETS = {"[": "]", "{": "}"}
QUOTED_TEXT = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1""", re.DOTALL)
QUOTING_HINT = 'text with commas, brackets or quotes goes into quotes, as in name[root="a,b"]'


def parse_label(text: object) -> tuple[str, dict[str, Any]]:
    """Parses `coreset[metric=cosine]` or {"coreset": {"metric": "cosine"}} into a name and parameters.

    Values of the first form remain text: `registry.convert_value` reads them by the parameter's type. In single or
    double quotes they may hold anything; a backslash escapes the quote and the backslash.

    Raises:
        ValueError: the text has neither form.
    """
    if isinstance(text, Mapping) and len(text) == 1:
        [(name, values)] = text.items()
        if isinstance(values, Mapping) or values is None:
            return str(name), dict(values or {})
    match = re.fullmatch(rf"\s*({PLUGIN_NAME})\s*(?:\[(.*)\])?\s*", text, re.DOTALL) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a name or name[key=value,...]")
    parameters = dict[str, Any]()
    for item in filter(None, split_commas(match[2] or "")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{text}: {item!r} is not key=value; {QUOTING_HINT}")
        if key.strip() in parameters:
            raise ValueError(f"{text}: {key.strip()} is given twice")
        parameters[key.strip()] = unquote(value.strip())
    return match[1], parameters


def split_commas(text: str) -> list[str]:
    """Splits a text at its commas, except those inside brackets and quotes.

    `like=isal[k=2,order=file],min_score=0.5` has two parts. Quotes count only at the beginning of a value: the
    apostrophe in `O'Brien` is text.

    Raises:
        ValueError: a quote or a bracket is not closed, or a closing bracket has no opening one.
    """
    parts, closing, quote, before = [""], "", "", ","  # closing: the brackets that must still follow
    characters = iter(text)
    for character in characters:
        if character == "," and not closing and not quote:
            parts.append("")
        else:
            parts[-1] += character
        if quote:
            parts[-1] += next(characters, "") if character == "\\" else ""
            quote = "" if character == quote else quote
        elif character in QUOTES and before in "=,[{:":
            quote = character
        elif character in BRACKETS:
            closing = BRACKETS[character] + closing
        elif character in BRACKETS.values():
            if character != closing[:1]:
                raise ValueError(f"{text}: the {character} has no opening bracket; {QUOTING_HINT}")
            closing = closing[1:]
        before = before if character.isspace() else character
    if quote or closing:
        fault = f"the quote {quote} is not closed" if quote else f"a bracket is not closed: {text}{closing}"
        raise ValueError(f"{text}: {fault}; {QUOTING_HINT}")
    return parts


def parse_list(text: str) -> list[str]:
    """Parses `[a,"b,c"]` or `a,b` into its items, without their quotes. ValueError as in `split_commas`."""
    text = text.strip()
    parts = split_commas(text)
    if len(parts) == 1 and text[:1] == "[":
        parts = split_commas(text[1:-1])
    return [unquote(part.strip()) for part in parts if part.strip()]


def parse_mapping(text: str) -> dict[str, Any]:
    """Parses `{isal: {k: 2}}` into {"isal": {"k": "2"}}. ValueError where it is not a mapping."""
    values, closes = dict[str, Any](), text.endswith("}")
    for item in filter(str.strip, split_commas(text[1:-1])):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not (closes and colon and unquote(key)):
            raise ValueError(f"{text} is not a mapping {{name: {{key: value}}}}: write name[key=value] instead")
        values[unquote(key)] = parse_mapping(value) if value.startswith("{") else unquote(value)
    return values


def unquote(text: str) -> str:
    """Removes the quotes around a text; other text stays. ValueError where text follows the closing quote."""
    if text[:1] not in tuple(QUOTES):
        return text
    match = QUOTED_TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a text in quotes: {QUOTING_HINT}")
    return QuotedText(re.sub(r"""\\([\\"'])""", r"\1", match[2]))


def parse_scalar(text: str) -> Any:
    """Reads a value from text: true, false, null, a finite number (also 1e-3), or else the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := kind(text)):
                return number
    return {"true": True, "false": False, "null": None}.get(text.lower(), text)


def format_value(value: Any) -> str:
    """Writes a value as users type it."""
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def format_list(texts: Iterable[str]) -> str:
    """Writes a list, as `[a,"b,c"]`; `parse_list` reverses it."""
    return f"[{','.join(map(quote_if_needed, texts))}]"


def quote_if_needed(text: str) -> str:
    """Puts a text into quotes, unless it is read as the same text without them."""
    try:
        plain_text = bool(text) and text == text.strip() and split_commas(text) == [text] and unquote(text) == text
    except ValueError:
        plain_text = False
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return text if plain_text else f'"{escaped}"'
