"""Text as users write it: lists and parameters, with quotes around what holds commas or brackets."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

PLUGIN_NAME = r"[A-Za-z]\w*"  # of a plug-in


class QuotedText(str):
    """Text that stood in quotes: it is that text, and never null."""


QUOTES = "\"'"
BRACKETS = {"[": "]", "{": "}"}
QUOTED_TEXT = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1""", re.DOTALL)
QUOTING_HINT = 'text with commas, brackets or quotes goes into quotes, as in name[root="a,b"]'


def parse_label(text: object) -> tuple[str, dict[str, Any]]:
    """`coreset[metric=cosine]`, or {"coreset": {"metric": "cosine"}}, as (name, parameters).

    Values of the first form are text still: `checked` reads them by the parameter's type. In double or single quotes
    they may hold anything, with a backslash before a quote of that kind and before a backslash.
    """
    if isinstance(text, Mapping) and len(text) == 1:
        [(name, values)] = text.items()
        if isinstance(values, Mapping) or values is None:
            return str(name), dict(values or {})
    match = re.fullmatch(rf"\s*({PLUGIN_NAME})\s*(?:\[(.*)\])?\s*", text, re.DOTALL) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a name or name[key=value,...]")
    given = dict[str, Any]()
    for item in filter(None, split_commas(match[2] or "")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{text}: {item!r} is not key=value; {QUOTING_HINT}")
        if key.strip() in given:
            raise ValueError(f"{text}: {key.strip()} is there twice")
        given[key.strip()] = unquote(value.strip())
    return match[1], given


def split_commas(text: str) -> list[str]:
    """The parts between commas, those inside brackets and quotes aside: `like=isal[k=2,order=file],min_score=0.5` has
    two. A quote is one only where a value begins: `O'Brien` holds none. ValueError where one is not closed."""
    parts, closing, quote, before = [""], "", "", ","  # closing: the brackets that are still to come
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
                raise ValueError(f"{text}: a {character} closes nothing; {QUOTING_HINT}")
            closing = closing[1:]
        before = before if character.isspace() else character
    if quote or closing:
        fault = f"the quote {quote} is not closed" if quote else f"a bracket is not closed: {text}{closing}"
        raise ValueError(f"{text}: {fault}; {QUOTING_HINT}")
    return parts


def parse_list(text: str) -> list[str]:
    """The items of `[a,"b,c"]` or `a,b`, without the quotes around them. ValueError as `split`."""
    text = text.strip()
    parts = split_commas(text)
    if len(parts) == 1 and text[:1] == "[":
        parts = split_commas(text[1:-1])
    return [unquote(part.strip()) for part in parts if part.strip()]


def parse_mapping(text: str) -> dict[str, Any]:
    """`{isal: {k: 2}}` as {"isal": {"k": "2"}}. ValueError where it is none, or as `split`."""
    found, closes = dict[str, Any](), text.endswith("}")
    for item in filter(str.strip, split_commas(text[1:-1])):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not (closes and colon and unquote(key)):
            raise ValueError(f"{text} is not a mapping {{name: {{key: value}}}}: write name[key=value] instead")
        found[unquote(key)] = parse_mapping(value) if value.startswith("{") else unquote(value)
    return found


def unquote(text: str) -> str:
    """The text inside quotes; other text as it is. ValueError where something follows the quote."""
    if text[:1] not in tuple(QUOTES):
        return text
    match = QUOTED_TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a text in quotes: {QUOTING_HINT}")
    return QuotedText(re.sub(r"""\\([\\"'])""", r"\1", match[2]))


def parse_scalar(text: str) -> Any:
    """A parameter's value from text: true, false, null, a finite number (1e-3 too), or the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := kind(text)):
                return number
    return {"true": True, "false": False, "null": None}.get(text.lower(), text)


def format_value(value: Any) -> str:
    """A parameter's value as users write it."""
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def format_list(texts: Iterable[str]) -> str:
    """`[a,"b,c"]`, which `items` reads again."""
    return f"[{','.join(map(quote_if_needed, texts))}]"


def quote_if_needed(text: str) -> str:
    """A text in quotes, where it would not be read as it is without them."""
    try:
        plain_text = bool(text) and text == text.strip() and split_commas(text) == [text] and unquote(text) == text
    except ValueError:
        plain_text = False
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return text if plain_text else f'"{escaped}"'
