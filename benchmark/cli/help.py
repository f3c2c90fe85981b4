"""What `VERB --help` shows below typer's own part: each setting with its type, default and meaning."""

from __future__ import annotations

from typing import Any

import typer.core
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from benchmark.cli.verbs import settings_of
from benchmark.plugins.settings import Setting


class CommandWithSettings(typer.core.TyperCommand):
    """A command whose help ends in its settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        super().format_help(ctx, formatter)
        assert self.name is not None
        Console().print(settings_panel(settings_of(self.name)))


def settings_panel(settings: list[Setting]) -> Panel:
    """Settings in the look of typer's options."""
    table = Table.grid(padding=(0, 1), expand=True)
    for style in ("bold cyan", "yellow"):
        table.add_column(style=style, no_wrap=True)
    table.add_column(ratio=1)
    for one in settings:
        default = ("", "") if one.default in ("", "null") else (f"  [default: {one.default}]", "dim")
        table.add_row(Text(one.name), Text(one.type), Text.assemble(one.meaning, default))
    return Panel(table, title="Settings, typed as key=value", title_align="left", border_style="dim")


def print_version(requested: bool) -> Any:
    """Prints the version and ends, where it is wanted."""
    if requested:
        from benchmark.records.provenance import package_version

        typer.echo(package_version())
        raise typer.Exit
