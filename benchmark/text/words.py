"""Words and names in output: plurals, shortened names, folder names, messages of exceptions, suggestions."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

from benchmark.text.escaping import make_visible

ELLIPSIS = "…"
LINE_WIDTH = 40  # greatest number of characters in a line of a wrapped name


def plural(number: int, noun: str, plural_noun: str = "") -> str:
    """A count with its noun.

    Args:
        number: the count.
        noun: the noun in the singular.
        plural_noun: the noun in the plural; `noun` with an s where it is left out.

    Returns:
        `1 cell`, `2 cells`, `1,200 images`.
    """
    return f"{number:,} {noun if number == 1 else plural_noun or f'{noun}s'}"


def shorten(name: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """Shortens a name to `width` columns of a terminal: `ellipsis` replaces its middle."""
    if cell_len(name) <= width:
        return name
    left = max(width - cell_len(ellipsis), 0)
    head, tail = set_cell_size(name, left - left // 2), set_cell_size(name[::-1], left // 2)[::-1]
    return set_cell_size(head + ellipsis + tail, width)


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Shortens names to `width` columns, and keeps different names different.

    Where two shortened names would be equal, the number of the name replaces the middle.
    """
    short = [shorten(name, width) for name in names]
    different = list(dict.fromkeys(names))
    ambiguous = {
        text for text in short if len({name for name, own in zip(names, short, strict=True) if own == text}) > 1
    }
    return [
        shorten(name, width, f"{ELLIPSIS}{different.index(name) + 1}{ELLIPSIS}") if text in ambiguous else text
        for name, text in zip(names, short, strict=True)
    ]


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line; the whole first paragraph where no sentence ends."""
    line = " ".join(text.split("\n\n")[0].split())
    return line[: match.end()] if (match := re.search(r"[a-z0-9)%\]`'\"]\.(?= [A-Z`(])", line)) else line


def error_message(error: BaseException) -> str:
    """The message of an exception, even where its `__str__` fails."""
    try:
        return str(error)
    except Exception as fault:
        return f"(its message fails: {type(fault).__name__})"


def describe_error(error: BaseException) -> str:
    """The type and the message of an exception."""
    return f"{type(error).__name__}: {error_message(error)}"


def wrap_name(name: str, width: int = LINE_WIDTH) -> str:
    """Breaks a name into lines of at most `width` characters, after a comma, bracket or space if possible.

    Invisible characters are escaped; nothing else is changed.
    """
    pattern = rf".{{1,{width}}}\Z|.{{1,{width - 1}}}[,\[ ]|.{{1,{width}}}"
    return "\n".join(re.findall(pattern, make_visible(name), re.DOTALL))


def slug(label: str) -> str:
    """Turns a label into the name of a folder. It holds no path separator, and differs from every other label's."""
    if len(label) <= 100 and (match := re.fullmatch(r"(\w+)(?:\[([\w.=,+-]+)\])?", label, re.ASCII)):
        return "-".join(filter(None, match.groups()))
    plain = re.sub(r"[^A-Za-z0-9_=,+]", "_", label)[:80]
    hexes = hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()
    return f"{plain}-{hexes[:8]}"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Quotes an unknown name with the closest known one: `'covset' (did you mean 'coreset'?)`.

    Args:
        name: the unknown name.
        candidates: the known names; all are listed where none is close.
    """
    close = difflib.get_close_matches(name, list(candidates), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(candidates)) or 'none'}"
    return f"{name!r} ({hint})"


def short_repr(value: object) -> str:
    """Returns at most 60 characters of a value's repr, even where `__repr__` fails."""
    try:
        return f"{value!r:.60}"
    except Exception:
        return f"a {type(value).__name__}"
