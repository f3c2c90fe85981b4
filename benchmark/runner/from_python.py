"""A run that Python asks for: the settings of the command line, and nothing printed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import fspath
from pathlib import Path

from benchmark import config
from benchmark.analysis import answers
from benchmark.analysis.options import AnalysisOptions
from benchmark.plugins import discovery
from benchmark.records.provenance import provenance
from benchmark.results import Results
from benchmark.text import notation

COMMAND_LINE_ONLY = {  # settings that would do nothing here, and what to do instead
    "format": "the methods of the results return tables of pandas",
    "dry_run": "type `python -m benchmark run dry_run=true`",
    "check_on": "type `python -m benchmark check NAME`",
    "sets": "type `python -m benchmark variance sets=N`",
}


def run(settings: Mapping[str, object]) -> Results:
    """Runs what is missing, writes the tables as the command `run` does, and reads what is recorded.

    Args:
        given: settings by name; None: not set.

    Raises:
        ValueError: a setting does not fit, or nothing could run.
    """
    words = format_settings(settings)
    for name, instead in COMMAND_LINE_ONLY.items():
        if settings.get(name) is not None:
            raise ValueError(f"{name}= has no effect in Python: {instead}")
    chosen = config.compose_settings(words, "run")
    discovery.discover(chosen.plugins)
    from benchmark.runner.carry_out import Watcher, execute, prepare  # imports torch

    asked = AnalysisOptions(out=chosen.out)
    outcome = execute(
        prepare(chosen, Watcher()),
        provenance("run", words),
        lambda: answers.write_answers(answers.build_answers(asked), asked),
    )
    if outcome.problems:
        warnings.warn("; ".join(outcome.problems), stacklevel=3)
    return Results(tuple(asked.read_experiments()), tuple(asked.record_paths), tuple(outcome.problems))


def format_settings(settings: Mapping[str, object]) -> list[str]:
    """Settings as words of the command line, so that both are read, and recorded, alike."""
    return [f"{name}={format_value(name, value)}" for name, value in settings.items() if value is not None]


def format_value(name: str, value: object) -> str:
    """The value of a setting as a user would type it. ValueError for what cannot be typed."""
    if isinstance(value, list | tuple):
        return notation.format_list([format_value(name, item) for item in value])
    if not isinstance(value, str | Path | bool | int | float):
        raise ValueError(f"{name}={value!r}: give text, a number, or a list of them")
    return fspath(value) if isinstance(value, Path) else notation.format_value(value)
