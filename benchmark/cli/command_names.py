"""The names of the commands, and the settings of each. Imports neither typer nor the modules of the commands."""

from __future__ import annotations

from benchmark.analysis import settings as analysis_settings
from benchmark.experiment import pick_settings
from benchmark.experiment.run_settings import known_settings
from benchmark.plugins.key_value import Setting

LIST_KINDS = ("strategies", "tasks", "encoders", "grids", "settings", "published")  # the kinds that `list` knows
VERBS = (
    "run", "variance", "list", "new", "check", "status", "tables", "savings", "compare", "explain", "verify", "report",
    "seconds", "classes", "pick",
)  # fmt: skip


def settings_of(verb: str) -> list[Setting]:
    """The settings that a command takes, in the order that help shows."""
    if verb == "pick":
        return pick_settings.known_settings()
    analysis = analysis_settings.known_settings(verb) if verb in analysis_settings.COMMAND_SETTINGS else []
    if verb != "variance":
        return analysis or known_settings(verb)
    run_settings = known_settings(verb)  # with sets=N, `variance` runs a grid first
    return [
        *run_settings,
        *(setting for setting in analysis if setting.name not in {other.name for other in run_settings}),
    ]
