"""`benchmark.run`: a run from Python, with the settings of the command line. It prints nothing."""

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
from benchmark.runner.launchers.child_process import start_early
from benchmark.runner.picking import run_pick
from benchmark.runner.picking.picks import Picks
from benchmark.text import notation

COMMAND_LINE_ONLY = {  # settings without effect in Python, and what to use instead
    "format": "the methods of the results return data frames of pandas",
    "dry_run": "type `python -m benchmark run dry_run=true`",
    "check_on": "type `python -m benchmark check NAME`",
    "sets": "type `python -m benchmark variance sets=N`",
}


def run(settings: Mapping[str, object]) -> Results:
    """Runs the missing cells, writes the tables as the command `run` does, and returns all records of the folder.

    Args:
        settings: settings by name; None: not set.

    Raises:
        ValueError: a setting does not fit, or nothing could run.
    """
    arguments = format_settings(settings)
    for name, instead in COMMAND_LINE_ONLY.items():
        if settings.get(name) is not None:
            raise ValueError(f"{name}= has no effect in Python: {instead}")
    run_settings = config.compose_settings(arguments, "run")
    options = AnalysisOptions(out=run_settings.out)
    with start_early(run_settings) as early_workers:
        discovery.discover(run_settings.plugins)
        from benchmark.runner.run_grid import Watcher, execute, prepare  # imports torch

        outcome = execute(
            prepare(run_settings, Watcher(), early_workers),
            provenance("run", arguments),
            lambda: answers.write_answers(answers.build_answers(options), options),
        )
    if outcome.problems:
        warnings.warn("; ".join(outcome.problems), stacklevel=3)
    return Results(tuple(options.read_experiments()), tuple(options.record_paths), tuple(outcome.problems))


def pick(settings: Mapping[str, object]) -> Picks:
    """Picks the next images to label, as the command `pick` does.

    Args:
        settings: settings by name; None: not set.
    """
    return run_pick.pick(format_settings(settings))[0]


def format_settings(settings: Mapping[str, object]) -> list[str]:
    """Writes settings as arguments of the command line, so that they are parsed and recorded in the same way."""
    return [f"{name}={format_value(name, value)}" for name, value in settings.items() if value is not None]


def format_value(name: str, value: object) -> str:
    """Writes the value of a setting as it is typed. ValueError for values that cannot be typed."""
    if isinstance(value, list | tuple):
        return notation.format_list([format_value(name, item) for item in value])
    if not isinstance(value, str | Path | bool | int | float):
        raise ValueError(f"{name}={value!r}: give text, a number, or a list of them")
    return fspath(value) if isinstance(value, Path) else notation.format_value(value)
