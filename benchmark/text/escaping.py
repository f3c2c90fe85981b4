"""Escaping of text from files and users, one function for each output medium.

Every name, label, path and message that is read from a folder or typed by a user passes through one of these functions
before it is shown on a terminal, a page, a figure or in a table. HTML is also escaped by jinja2, SVG and PDF by
matplotlib. Imports no torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

# Control characters, characters without width, line separators, marks of the direction of writing, lone surrogates, and
# characters that XML forbids. The joiners of Persian and of emoji are not among them.
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
UNDECODABLE = re.compile("[\udc80-\udcff]+")  # bytes of a file name that the locale cannot decode


def escape_code(match: re.Match[str]) -> str:
    """The escape sequence of a character in Python: `\\x1b`, `\\n`, `\\u202e`."""
    return match[0].encode("unicode_escape").decode()


def make_visible(text: str) -> str:
    """Replaces invisible characters by escape sequences, as `\\x1b`, `\\n` or `\\u202e`; the result is one line.

    Bytes of a file name that the locale cannot decode are decoded as UTF-8, or else shown as `\\xff`.
    """
    decoded = UNDECODABLE.sub(
        lambda match: match[0].encode(errors="surrogateescape").decode(errors="backslashreplace"), text
    )
    return INVISIBLE.sub(escape_code, decoded)


def make_lines_visible(text: str) -> str:
    """Applies `make_visible` to each line of a text, such as a traceback."""
    return "\n".join(map(make_visible, text.split("\n")))


def shell_command(words: Iterable[str]) -> str:
    """Joins words into one line that can be pasted into a shell, where each is the same word again.

    Invisible characters are written in the form that bash and zsh read, `$'a\\nb'`, so that nothing is hidden.
    """
    return " ".join(shell_quote(word) for word in words)


def shell_quote(word: str) -> str:
    """Quotes one word of a shell's line."""
    if not INVISIBLE.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{INVISIBLE.sub(shell_escape_code, escaped)}'"


def shell_escape_code(match: re.Match[str]) -> str:
    """The escape sequence of a character in bash, where `\\x` stands for a byte."""
    number = ord(match[0])
    if number < 0x80 or UNDECODABLE.match(match[0]):
        return f"\\x{number & 0xFF:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def requote_command(command: str) -> str:
    """Quotes anew the words of a command that was read from a folder, so that it holds no operator of the shell."""
    try:
        return shell_command(shlex.split(command))
    except ValueError:  # a quote is not closed
        return shell_command([command])


MARKDOWN_MARKS = re.compile(
    r"[\\`*|<~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word, _ has no meaning
    r"|&(?=#?\w+;)"
    r"|\](?=[(\[:])"  # a link, an image, a link's target
    r"|:(?=//)|(?<=\bwww)\.",
    re.IGNORECASE,
)


def escape_markdown(text: str) -> str:
    """Escapes text for a cell or a paragraph of GitHub's Markdown."""
    return MARKDOWN_MARKS.sub(r"\\\g<0>", make_visible(text))


LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "†": r"$^\dagger$", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escapes text for LaTeX. `{}` goes before a leading `[` or `*`, which LaTeX would read as part of a line break."""
    escaped = "".join(LATEX_ESCAPES.get(character, character) for character in make_visible(text).replace("--", "-\0-"))
    return "{}" * escaped.startswith(("[", "*")) + escaped.replace("\0", "{}")


# the beginning of a cell that a spreadsheet would compute, or that was escaped before
FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")


def escape_csv(value: object) -> object:
    """Escapes a cell of a CSV file: an apostrophe goes before text that a spreadsheet would compute (OWASP).

    Numbers, also those in text, stay as they are. `unescape_csv` reverses it.
    """
    if not isinstance(value, str):
        return value
    text = make_visible(value)
    return f"'{text}" if FORMULA.match(text) and not is_number(text) else text


def unescape_csv(text: str) -> str:
    """Reverses `escape_csv`."""
    return text[1:] if text[:1] == "'" and FORMULA.match(text) else text


def escape_surrogates(value: object) -> object:
    """Escapes lone surrogates in a text for JSON, since no encoding can write them; other values stay."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def is_number(text: str) -> bool:
    """Whether `float` can read a text."""
    try:
        float(text)
    except ValueError:
        return False
    return True
