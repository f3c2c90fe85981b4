"""Words and names as people read them: plurals, and names that are too long for their place."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

from benchmark.text.escaping import make_visible

ELLIPSIS = "…"
LINE_WIDTH = 40  # characters of a name before it goes on in the next line


def plural(number: int, noun: str, plural_noun: str = "") -> str:
    """A count with its noun.

    Args:
        number: how many.
        noun: of one.
        several: of more; with an s where it is left out.

    Returns:
        `1 cell`, `2 cells`, `1,200 images`.
    """
    return f"{number:,} {noun if number == 1 else plural_noun or f'{noun}s'}"


def shorten(name: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """A name in at most `width` columns of a terminal: what is too much is left out in the middle, where `mark` is."""
    if cell_len(name) <= width:
        return name
    left = max(width - cell_len(ellipsis), 0)
    head, tail = set_cell_size(name, left - left // 2), set_cell_size(name[::-1], left // 2)[::-1]
    return set_cell_size(head + ellipsis + tail, width)


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Names in at most `width` columns that differ where the whole ones do: those that would look alike carry the
    number of the name where the middle was."""
    short = [shorten(name, width) for name in names]
    different = list(dict.fromkeys(names))
    alike = {text for text in short if len({name for name, own in zip(names, short, strict=True) if own == text}) > 1}
    return [
        shorten(name, width, f"{ELLIPSIS}{different.index(name) + 1}{ELLIPSIS}") if text in alike else text
        for name, text in zip(names, short, strict=True)
    ]


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line; all of it where none ends."""
    line = " ".join(text.split("\n\n")[0].split())
    return line[: match.end()] if (match := re.search(r"[a-z0-9)%\]`'\"]\.(?= [A-Z`(])", line)) else line


def error_message(error: BaseException) -> str:
    """What an exception says, where it can say anything."""
    try:
        return str(error)
    except Exception as fault:
        return f"(its message fails: {type(fault).__name__})"


def describe_error(error: BaseException) -> str:
    """What an exception is called, and what it says."""
    return f"{type(error).__name__}: {error_message(error)}"


def wrap_name(name: str, width: int = LINE_WIDTH) -> str:
    """A name in lines of at most `width` characters, broken behind a comma, bracket or space where there is one;
    what is no text is made visible, and nothing else is changed."""
    pattern = rf".{{1,{width}}}\Z|.{{1,{width - 1}}}[,\[ ]|.{{1,{width}}}"
    return "\n".join(re.findall(pattern, make_visible(name), re.DOTALL))


def slug(label: str) -> str:
    """A label as the name of a folder: never a path, and never another label's name."""
    if len(label) <= 100 and (match := re.fullmatch(r"(\w+)(?:\[([\w.=,+-]+)\])?", label, re.ASCII)):
        return "-".join(filter(None, match.groups()))
    plain = re.sub(r"[^A-Za-z0-9_=,+]", "_", label)[:80]
    hexes = hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()
    return f"{plain}-{hexes[:8]}"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """'covset' (did you mean 'coreset'?)"""
    close = difflib.get_close_matches(name, list(candidates), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(candidates)) or 'none'}"
    return f"{name!r} ({hint})"
