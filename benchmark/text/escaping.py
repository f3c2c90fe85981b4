"""Text of files and users where it is shown: for each medium one function, which leaves it text and nothing else.

Names, labels, paths, messages and whatever else is read from a folder or typed pass through here on their way to a
terminal, a page, a figure or a table. HTML is escaped by jinja2 besides, SVG and PDF by matplotlib. Imports no torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

# No text: control characters, what has no width, ends of lines, what turns the direction of writing, halves of pairs,
# and what no XML may hold. The joiners of Persian and of emoji are text.
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
UNDECODABLE = re.compile("[\udc80-\udcff]+")  # of a file's name that the locale cannot read


def escape_code(match: re.Match[str]) -> str:
    """A character as Python writes it: `\\x1b`, `\\n`, `\\u202e`."""
    return match[0].encode("unicode_escape").decode()


def make_visible(text: str) -> str:
    """Text in one line, in which everything is seen: `\\x1b`, `\\n` or `\\u202e` stands for what is no text.

    Bytes of a file's name that the locale cannot read are read as UTF-8; those that are not stand there as `\\xff`.
    """
    whole = UNDECODABLE.sub(
        lambda match: match[0].encode(errors="surrogateescape").decode(errors="backslashreplace"), text
    )
    return INVISIBLE.sub(escape_code, whole)


def make_lines_visible(text: str) -> str:
    """The same, of text in several lines, such as a traceback: they stay lines."""
    return "\n".join(map(make_visible, text.split("\n")))


def shell_command(words: Iterable[str]) -> str:
    """Words as a line that people paste into a shell: each is the same word there, and no character of it is hidden or
    ends the line. What is no text is written as bash and zsh read it: `$'a\\nb'`."""
    return " ".join(shell_quote(word) for word in words)


def shell_quote(word: str) -> str:
    """A word of a shell's line."""
    if not INVISIBLE.search(word):
        return shlex.quote(word)
    whole = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{INVISIBLE.sub(shell_escape_code, whole)}'"


def shell_escape_code(match: re.Match[str]) -> str:
    """A character as bash writes it: `\\x` is of bytes there."""
    number = ord(match[0])
    if number < 0x80 or UNDECODABLE.match(match[0]):
        return f"\\x{number & 0xFF:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def requote_command(command: str) -> str:
    """A command that a folder tells, as `shell` writes its words: none of them is an operator of the shell."""
    try:
        return shell_command(shlex.split(command))
    except ValueError:  # a quote is not closed
        return shell_command([command])


MARKDOWN_MARKS = re.compile(
    r"[\\`*|<~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is a letter
    r"|&(?=#?\w+;)"
    r"|\](?=[(\[:])"  # a link, a picture, the target of one
    r"|:(?=//)|(?<=\bwww)\.",
    re.IGNORECASE,
)


def escape_markdown(text: str) -> str:
    """Text for a cell or a paragraph of GitHub's Markdown: a backslash before what would be read as a mark."""
    return MARKDOWN_MARKS.sub(r"\\\g<0>", make_visible(text))


LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "†": r"$^\dagger$", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text for LaTeX. One that begins with a bracket or a star is no argument of the line's end before it."""
    whole = "".join(LATEX_ESCAPES.get(character, character) for character in make_visible(text).replace("--", "-\0-"))
    return "{}" * whole.startswith(("[", "*")) + whole.replace("\0", "{}")


FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")  # how a cell begins that a spreadsheet computes; and one that we escaped


def escape_csv(value: object) -> object:
    """A cell of a CSV file: an apostrophe before text that a spreadsheet would compute, as OWASP has it; numbers, also
    those that are text, stay as they are. `csv_read` gives the text again."""
    if not isinstance(value, str):
        return value
    text = make_visible(value)
    return f"'{text}" if FORMULA.match(text) and not is_number(text) else text


def unescape_csv(text: str) -> str:
    """A cell as it was before `csv_text`."""
    return text[1:] if text[:1] == "'" and FORMULA.match(text) else text


def escape_surrogates(value: object) -> object:
    """A value for JSON: half a pair, which no encoding has, is written out in text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
