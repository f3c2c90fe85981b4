"""Terminal output: tables and lines on standard output, remarks on standard error.

A table is at most as wide as the window (or COLUMNS, or else 80 columns). A wider table is adapted in this order: names
are shortened in the middle, and printed in full below; sentences wrap between words; deviations go below their means;
the remaining columns go into further blocks, each of which repeats the names. Control characters are escaped: see
`benchmark.text.escaping`.
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
from rich.table import Table as RichTable
from rich.text import Text

from benchmark.analysis.tables import Table, text_rows
from benchmark.text.escaping import make_visible
from benchmark.text.words import shorten, shorten_names, wrap_name

out = Console()
err = Console(stderr=True)

SENTENCE_COLUMNS = {"what", "why", "note", "parameters"}  # heads of the columns whose cells wrap between words
COLUMN_PADDING = 3  # width of a column's border and padding, in characters
NUMBER_START = re.compile(r"(< )?[-+−–]?[\d.∞]")  # the beginning of a cell that holds a number
SHORT_TEXT_WIDTH = 16  # greatest width of texts in columns of numbers, as `missing (10/10)`


@dataclass(frozen=True)
class Column:
    """A column of a table: its head and its cells."""

    head: str
    cells: Sequence[str]
    is_first: bool = False  # the first column holds names, even where they look like numbers

    @property
    def is_sentence(self) -> bool:
        """Whether its cells are sentences, which wrap between words."""
        return self.head in SENTENCE_COLUMNS

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers or short texts beside numbers. They are never shortened."""
        numbers = [bool(NUMBER_START.match(cell)) for cell in self.cells]
        short = all(
            is_number or cell_len(cell) <= SHORT_TEXT_WIDTH for is_number, cell in zip(numbers, self.cells, strict=True)
        )
        return not (self.is_first or self.is_sentence) and any(numbers) and short

    @property
    def width(self) -> int:
        """The width of its longest line."""
        return max(cell_len(line) for text in (self.head, *self.cells) for line in text.split("\n"))

    def min_width(self, name_width: int, sentence_width: int) -> int:
        """The least width at which the column is readable.

        Args:
            name_width: the least width of names.
            sentence_width: the least width of sentences.
        """
        head = max(map(cell_len, self.head.split()), default=0)
        if self.is_number:
            return max(head, *(cell_len(line) for cell in self.cells for line in cell.split("\n")))
        return min(self.width, max(head, sentence_width if self.is_sentence else name_width))


def print_table(table: Table) -> None:
    """Prints a table of results, with its note and its legend."""
    head, *rows = [[make_visible(cell) for cell in row] for row in text_rows(table)]
    columns = [
        Column(*column, not index) for index, column in enumerate(zip(head, zip(*rows, strict=True), strict=True))
    ]
    print_columns(f"{table.title}: {table.metric}", columns, "\n".join([table.note, *table.legend]))


def print_rows(
    title: str,
    rows: Sequence[dict[str, object]],
    output_format: str = "text",
    group_by: Sequence[str] = (),
    note: str = "",
) -> None:
    """Prints rows as tables, or as JSON.

    Args:
        title: the title of the tables.
        rows: values by column; all rows have the same columns.
        output_format: text or json.
        group_by: columns that split the rows into tables; their values stand in the titles.
        note: an explanation of the columns, printed below the last table.
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
    """Formats the value of a cell: an empty text for None, `< 0.001` for small positive numbers."""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return "< 0.001"
    return "" if value is None else make_visible(str(value))


def print_columns(title: str, columns: Sequence[Column], note: str = "") -> None:
    """Prints a title, a table in one or more blocks, the full forms of shortened names, and a note."""
    abbreviations = dict[str, str]()
    print_paragraphs([title], style="bold")
    for block in lay_out(columns, out.width):
        table = RichTable(header_style="bold")
        for column, width in block:
            side: Literal["left", "right"] = "right" if column.is_number else "left"
            table.add_column(Text(column.head), justify=side, width=width, overflow="fold")
        cells = [fit_cells(column, width, abbreviations) for column, width in block]
        for row in zip(*cells, strict=True):
            table.add_row(*map(Text, row))
        out.print(table)
    print_paragraphs([f"{name} = {whole}" for name, whole in abbreviations.items()], 2)
    print_paragraphs([*note.split("\n"), ""] if note else [""], 2)


def fit_cells(column: Column, width: int, abbreviations: dict[str, str]) -> list[str]:
    """Fits the cells of a column into a width, and adds names that it shortens to `abbreviations`.

    Args:
        column: the column.
        width: its width in characters.
        abbreviations: full names by shortened name.
    """
    if column.is_sentence or column.is_number:
        words = {word for cell in column.cells for word in cell.split()}
        shortened_words = {word: shorten(word, width) for word in sorted(words) if cell_len(word) > width}
        abbreviations.update({name: word for word, name in shortened_words.items()})
        return [re.sub(r"\S+", lambda match: shortened_words.get(match[0], match[0]), cell) for cell in column.cells]
    cells = shorten_names(column.cells, width)
    abbreviations.update(
        {name.strip(): whole.strip() for name, whole in zip(cells, column.cells, strict=True) if name != whole}
    )
    return cells


def lay_out(columns: Sequence[Column], width: int) -> list[list[tuple[Column, int]]]:
    """Lays columns out in blocks of at most `width`; deviations go below their means where one block is enough then."""
    best = split_into_blocks(columns, width)
    if len(best) > 1:
        folded = [replace(column, cells=[cell.replace(" ± ", "\n± ") for cell in column.cells]) for column in columns]
        best = min(best, split_into_blocks(folded, width), key=lambda candidate: len(candidate) > 1)
    return best


def split_into_blocks(columns: Sequence[Column], width: int) -> list[list[tuple[Column, int]]]:
    """Splits columns into blocks of at most `width`, each column with its own width.

    The first column is repeated in every block, with the same width.
    """
    first, *rest = columns
    min_widths = {id(column): column.min_width(max(8, width // 5), max(16, width // 4)) for column in columns}
    room = width - min_widths[id(first)] - COLUMN_PADDING - 1
    column_blocks = [[first]]
    for column in rest:
        used = sum(min_widths[id(other)] + COLUMN_PADDING for other in column_blocks[-1][1:])
        if len(column_blocks[-1]) > 1 and used + min_widths[id(column)] + COLUMN_PADDING > room:
            column_blocks.append([first])
        column_blocks[-1].append(column)
    least = [
        [min(min_widths[id(column)], max(room - COLUMN_PADDING, 1)) for column in block] for block in column_blocks
    ]
    sized_blocks = [widen_columns(block, widths, width) for block, widths in zip(column_blocks, least, strict=True)]
    name_width = min(block[0][1] for block in sized_blocks)  # names are shortened in the same way in every block
    return [[(first, name_width), *block[1:]] for block in sized_blocks]


def widen_columns(block: list[Column], widths: list[int], width: int) -> list[tuple[Column, int]]:
    """Distributes what is left of `width` among the columns of a block that are too narrow, sentences last."""
    for _ in range(width - sum(widths) - COLUMN_PADDING * len(widths) - 1):
        too_narrow = [index for index, column in enumerate(block) if widths[index] < column.width]
        if not too_narrow:
            break
        widths[min(too_narrow, key=lambda index: (block[index].is_sentence, widths[index]))] += 1
    return list(zip(block, widths, strict=True))


def print_paragraphs(lines: Iterable[str], indent: int = 0, style: str = "") -> None:
    """Prints lines, wrapped to the width of the window if there is one.

    Args:
        lines: the lines.
        indent: spaces before the continuation of a line.
        style: a style of rich.
    """
    for line in map(make_visible, lines):
        for part in wrap_line(line, out.width, indent) if is_in_window() else [line]:
            out.print(Text(part, style=style), soft_wrap=True)


def is_in_window() -> bool:
    """Whether the output goes to a window, possibly through a pager."""
    return "COLUMNS" in os.environ or any(map(os.isatty, range(3)))


# spaces inside `16 [-69, 54]` and before `%`, at which no line is broken
UNBREAKABLE_SPACES = r" (?=%)|(?<=,) (?=[-+−]?[\d.∞]+\])|(?<=\d) (?=\[[-+−\d.∞])"
NO_BREAK_SPACE = "\u00a0"


def wrap_line(line: str, width: int, indent: int = 0) -> list[str]:
    """Breaks a line into lines of at most `width`, between words; inside a word only where the word is too long."""
    line = re.sub(UNBREAKABLE_SPACES, NO_BREAK_SPACE, line)
    parts = textwrap.wrap(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return [
        piece.replace(NO_BREAK_SPACE, " ") for part in parts or [""] for piece in break_long_name(part, width, indent)
    ]


def break_long_name(part: str, width: int, indent: int) -> list[str]:
    """Breaks a line that is one name of more than `width` after commas and brackets; other lines stay."""
    pieces = wrap_name(part.strip(), width - indent).split("\n")
    return [part] if cell_len(part) <= width else [" " * indent + piece for piece in pieces]


def say(line: str) -> None:
    """Prints a remark on standard error."""
    err.print(Text(make_visible(line)), soft_wrap=True)  # Text: rich interprets neither markup nor :emoji: in it


# for encodings that lack the character
ASCII_REPLACEMENTS = {"…": "~", "–": "-", "−": "-", "†": "+", "±": "+-", "∞": "inf"}


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that the encoding of the output lacks: an error handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(ASCII_REPLACEMENTS.get(character, "?") for character in missing), error.end


codecs.register_error("plain", replace_unencodable)


def tolerate_narrow_encodings() -> None:
    """Makes standard output and standard error replace characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
