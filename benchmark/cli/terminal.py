"""What people see at the terminal: tables and lines on standard output, words about the work on standard error.

A table is as wide as the window (or COLUMNS; 80 columns where nobody knows). Where that is not enough names are
shortened in the middle and stand whole below, sentences wrap between words, deviations go below their means, and what
is then still too wide goes on in further blocks of columns, each with the names again. What would command a terminal is
text here: see `benchmark.text.escaping`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from benchmark.analysis.tables import Table, text_rows
from benchmark.text.escaping import make_visible
from benchmark.text.words import shorten, shorten_names, wrap_name

out = Console()
err = Console(stderr=True)

SENTENCE_COLUMNS = {"what", "why", "note", "parameters"}  # columns whose cells wrap between words
COLUMN_PADDING = 3  # columns of the terminal that a column takes besides its text
NUMBER_START = re.compile(r"(< )?[-+−–]?[\d.∞]")  # how a cell that holds a number begins
SHORT_TEXT_WIDTH = 16  # columns that `missing (10/10)` and the like take at most


@dataclass(frozen=True)
class Column:
    """A column of a table: its head and its cells."""

    head: str
    cells: Sequence[str]
    is_first: bool = False  # then its cells are names, whatever they look like

    @property
    def is_sentence(self) -> bool:
        """Whether its cells are sentences."""
        return self.head in SENTENCE_COLUMNS

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers, or a word or two where there is none: they are never shortened."""
        numbers = [bool(NUMBER_START.match(cell)) for cell in self.cells]
        short = all(
            there or cell_len(cell) <= SHORT_TEXT_WIDTH for there, cell in zip(numbers, self.cells, strict=True)
        )
        return not (self.is_first or self.is_sentence) and any(numbers) and short

    @property
    def width(self) -> int:
        """Of its longest line."""
        return max(cell_len(line) for text in (self.head, *self.cells) for line in text.split("\n"))

    def min_width(self, name_width: int, sentence_width: int) -> int:
        """The width below which it cannot be read: of a name, of a sentence, of its longest number."""
        head = max(map(cell_len, self.head.split()), default=0)
        if self.is_number:
            return max(head, *(cell_len(line) for cell in self.cells for line in cell.split("\n")))
        return min(self.width, max(head, sentence_width if self.is_sentence else name_width))


def print_table(table: Table) -> None:
    """A table of results and what a reader must know of it."""
    head, *rows = [[make_visible(cell) for cell in row] for row in text_rows(table)]
    columns = [Column(*told, not place) for place, told in enumerate(zip(head, zip(*rows, strict=True), strict=True))]
    print_columns(f"{table.title}: {table.metric}", columns, "\n".join([table.note, *table.legend]))


def print_rows(
    title: str,
    rows: Sequence[dict[str, object]],
    output_format: str = "text",
    group_by: Sequence[str] = (),
    note: str = "",
) -> None:
    """Rows as tables, or as JSON.

    Args:
        title: what they are.
        rows: their columns by name, the same in each.
        style: text or json.
        by: columns that are the same in each table and stand in its title.
        note: what a reader must know of the columns; below the last table.
    """
    if output_format == "json":
        typer.echo(json.dumps(rows, indent=1, allow_nan=False))
        return
    texts = [{name: format_cell(value) for name, value in row.items()} for row in rows]
    parts = [(common, list(part)) for common, part in groupby(texts, lambda row: [row[name] for name in group_by])]
    for number, (common, part) in enumerate(parts, start=1):
        names = [name for name in part[0] if name not in group_by]
        columns = [Column(name, [row[name] for row in part], name == names[0]) for name in names]
        columns = [column for column in columns if any(column.cells) or not column.is_sentence]
        print_columns(": ".join(filter(None, [*common, title])), columns, note if number == len(parts) else "")


def format_cell(value: object) -> str:
    """A value in a cell: nothing for None, and no number that is longer than it tells."""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return "< 0.001"
    return "" if value is None else make_visible(str(value))


def print_columns(title: str, columns: Sequence[Column], note: str = "") -> None:
    """A table in as many blocks as it takes, its title above, and below it the whole names and the note."""
    short = dict[str, str]()
    print_paragraphs([title], style="bold")
    for block in lay_out(columns, out.width):
        shown = Shown(header_style="bold")
        for column, width in block:
            side: Literal["left", "right"] = "right" if column.is_number else "left"
            shown.add_column(Text(column.head), justify=side, width=width, overflow="fold")
        cells = [fit_cells(column, width, short) for column, width in block]
        for row in zip(*cells, strict=True):
            shown.add_row(*map(Text, row))
        out.print(shown)
    print_paragraphs([f"{name} = {whole}" for name, whole in short.items()], 2)
    print_paragraphs([*note.split("\n"), ""] if note else [""], 2)


def fit_cells(column: Column, width: int, abbreviations: dict[str, str]) -> list[str]:
    """The cells of a column of that width; names that were shortened for it join `short`, with the whole ones."""
    if column.is_sentence or column.is_number:
        words = {word for cell in column.cells for word in cell.split()}
        cut = {word: shorten(word, width) for word in sorted(words) if cell_len(word) > width}
        abbreviations.update({name: word for word, name in cut.items()})
        return [re.sub(r"\S+", lambda match: cut.get(match[0], match[0]), cell) for cell in column.cells]
    cells = shorten_names(column.cells, width)
    abbreviations.update(
        {name.strip(): whole.strip() for name, whole in zip(cells, column.cells, strict=True) if name != whole}
    )
    return cells


def lay_out(columns: Sequence[Column], width: int) -> list[list[tuple[Column, int]]]:
    """Blocks of columns with their widths, none wider than `width`."""
    found = split_into_blocks(columns, width)
    if len(found) > 1:
        folded = [replace(one, cells=[cell.replace(" ± ", "\n± ") for cell in one.cells]) for one in columns]
        found = min(found, split_into_blocks(folded, width), key=lambda made: len(made) > 1)
    return found


def split_into_blocks(columns: Sequence[Column], width: int) -> list[list[tuple[Column, int]]]:
    """The same, of columns as they are; the first column is in every block."""
    first, *rest = columns
    least = {id(one): one.min_width(max(8, width // 5), max(16, width // 4)) for one in columns}
    room = width - least[id(first)] - COLUMN_PADDING - 1
    found = [[first]]
    for column in rest:
        taken = sum(least[id(one)] + COLUMN_PADDING for one in found[-1][1:])
        if len(found[-1]) > 1 and taken + least[id(column)] + COLUMN_PADDING > room:
            found.append([first])
        found[-1].append(column)
    made = [
        widen_columns(block, [min(least[id(one)], max(room - COLUMN_PADDING, 1)) for one in block], width)
        for block in found
    ]
    names = min(block[0][1] for block in made)  # shortened alike in every block
    return [[(first, names), *block[1:]] for block in made]


def widen_columns(block: list[Column], widths: list[int], width: int) -> list[tuple[Column, int]]:
    """The columns of a block; those that lack room are given what is left of `width`, names before sentences."""
    for _ in range(width - sum(widths) - COLUMN_PADDING * len(widths) - 1):
        lacking = [place for place, one in enumerate(block) if widths[place] < one.width]
        if not lacking:
            break
        widths[min(lacking, key=lambda place: (block[place].is_sentence, widths[place]))] += 1
    return list(zip(block, widths, strict=True))


def print_paragraphs(lines: Iterable[str], indent: int = 0, style: str = "") -> None:
    """Lines that wrap between words in a window's width, what goes on below by `indent`; whole where there is none."""
    for line in map(make_visible, lines):
        for part in wrap_line(line, out.width, indent) if is_in_window() else [line]:
            out.print(Text(part, style=style), soft_wrap=True)


def is_in_window() -> bool:
    """Whether somebody reads along, if through a pager."""
    return "COLUMNS" in os.environ or any(map(os.isatty, range(3)))


UNBREAKABLE_SPACES = (
    r" (?=%)|(?<=,) (?=[-+−]?[\d.∞]+\])|(?<=\d) (?=\[[-+−\d.∞])"  # spaces of an interval and before per cent
)
NO_BREAK_SPACE = "\u00a0"


def wrap_line(line: str, width: int, indent: int = 0) -> list[str]:
    """A line in lines of at most `width`, broken between words; inside a name only where it is longer than that."""
    line = re.sub(UNBREAKABLE_SPACES, NO_BREAK_SPACE, line)
    parts = textwrap.wrap(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return [
        piece.replace(NO_BREAK_SPACE, " ") for part in parts or [""] for piece in break_long_name(part, width, indent)
    ]


def break_long_name(part: str, width: int, indent: int) -> list[str]:
    """A line as it is, or, where it is one long name, broken behind commas and brackets."""
    pieces = wrap_name(part.strip(), width - indent).split("\n")
    return [part] if cell_len(part) <= width else [" " * indent + piece for piece in pieces]


def say(line: str) -> None:
    """A line for the person at the terminal, apart from the output."""
    err.print(Text(make_visible(line)), soft_wrap=True)  # text: no markup in it, and no :emoji:


ASCII_REPLACEMENTS = {
    "…": "~",
    "–": "-",
    "−": "-",
    "†": "+",
    "±": "+-",
    "∞": "inf",
}  # where a screen has no such character


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the screen's encoding lacks, as `codecs.register_error` wants it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII_REPLACEMENTS.get(one, "?") for one in error.object[error.start : error.end]), error.end


codecs.register_error("plain", replace_unencodable)


def tolerate_narrow_encodings() -> None:
    """Has standard output and standard error replace what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
