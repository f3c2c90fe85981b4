"""What people see at the terminal: tables and lines on standard output, words about the work on standard error."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from benchmark.analysis.tables import Table, grid_of

out = Console()
err = Console(stderr=True)


def print_table(one: Table) -> None:
    """Nothing is cut: a narrow terminal folds names and puts the spread below the mean; elsewhere a row is a line."""
    head, *rows = grid_of(one)
    shown = Shown(title=escape(f"{one.title}: {one.metric}"), caption=escape(one.note), header_style="bold")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    if out.is_terminal and sum(widths) + 3 * len(head) + 1 > out.width:
        widths[1:] = [
            max(len(word) for row in (head, *rows) for word in row[c].split()) + 2 for c in range(1, len(head))
        ]
        widths[0] = max(16, out.width - sum(widths[1:]) - 3 * len(head) - 1)
    for number, name in enumerate(head):
        shown.add_column(escape(name), justify="right" if number else "left", width=widths[number], overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    wide(sum(widths) + 3 * len(head) + 1).print(shown)


def wide(least: int) -> Console:
    """The console, as wide as `least` at least."""
    return Console(width=max(out.width, least))


def show(title: str, rows: list[dict[str, object]], style: str = "text") -> None:
    """Rows as a table, or as JSON."""
    if style == "json":
        typer.echo(json.dumps(rows, indent=1, allow_nan=False))
        return
    shown = Shown(title=escape(title), header_style="bold")
    for number, name in enumerate(rows[0] if rows else ()):
        shown.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    (out if out.is_terminal else wide(160)).print(shown)


def say(line: str) -> None:
    """A line for the person at the terminal, apart from the output."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)
