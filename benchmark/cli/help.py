"""The part of `VERB --help` below typer's: each setting with its type, default and meaning."""

from __future__ import annotations

from typing import Any

import typer.core
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from benchmark.cli.command_names import settings_of
from benchmark.plugins.key_value import Setting


class CommandWithSettings(typer.core.TyperCommand):
    """A command whose help ends with the list of its settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints typer's help and the settings."""
        super().format_help(ctx, formatter)
        assert self.name is not None
        Console().print(settings_panel(settings_of(self.name)))


def settings_panel(settings: list[Setting]) -> Panel:
    """The settings as a panel that looks like typer's options."""
    table = Table.grid(padding=(0, 1), expand=True)
    for style in ("bold cyan", "yellow"):
        table.add_column(style=style, no_wrap=True)
    table.add_column(ratio=1)
    for setting in settings:
        default = ("", "") if setting.default in ("", "null") else (f"  [default: {setting.default}]", "dim")
        table.add_row(Text(setting.name), Text(setting.type), Text.assemble(setting.meaning, default))
    return Panel(table, title="Settings, typed as key=value", title_align="left", border_style="dim")


def print_version(requested: bool) -> Any:
    """Prints the version and exits, if `--version` was given."""
    if requested:
        from benchmark.records.provenance import package_version

        typer.echo(package_version())
        raise typer.Exit
