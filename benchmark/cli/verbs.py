"""The commands by name, and the settings that each takes. Imports neither typer nor what the commands need."""

from __future__ import annotations

from benchmark.analysis import settings as analysis_settings
from benchmark.experiment.settings import known_settings
from benchmark.plugins.settings import Setting

LIST_KINDS = ("strategies", "tasks", "encoders", "grids", "settings", "published")  # what `list` lists
VERBS = (
    "run", "variance", "list", "new", "check", "status", "tables", "savings", "compare", "explain", "verify", "report",
    "seconds",
)  # fmt: skip


def settings_of(verb: str) -> list[Setting]:
    """The settings that a command takes, in the order that help shows."""
    analysis = analysis_settings.known_settings(verb) if verb in analysis_settings.COMMAND_SETTINGS else []
    if verb != "variance":
        return analysis or known_settings(verb)
    trained = known_settings(verb)  # with sets=N it runs a grid first
    return [*trained, *(one for one in analysis if one.name not in {other.name for other in trained})]
