"""Active-learning strategies, compared fairly: run them, then ask for tables, savings, comparisons and a report.

Begin with `run`: it takes minutes and needs no data. Exit status: 0 all is done and recorded, 1 something failed or is
not finished, 2 a wrong command.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import typer.core

from benchmark import config
from benchmark.analysis.options import AnalysisOptions, parse_options
from benchmark.cli import analysis_commands, completion
from benchmark.cli.display import show_activity
from benchmark.cli.help import CommandWithSettings
from benchmark.cli.help import print_version as show_version
from benchmark.cli.terminal import err, print_rows, say, tolerate_narrow_encodings
from benchmark.experiment import spec as experiment_spec
from benchmark.experiment.settings import Settings, known_settings
from benchmark.plugins import discovery, registry
from benchmark.plugins.paths import grid_names as list_grids
from benchmark.plugins.paths import path_as_typed
from benchmark.plugins.settings import Setting
from benchmark.records.provenance import provenance
from benchmark.records.store import Store
from benchmark.system import activity, remarks
from benchmark.system.files import StoreWriteError
from benchmark.system.streams import ignore_hangup, tolerate_closed_streams
from benchmark.text import notation
from benchmark.text.escaping import make_visible, shell_command
from benchmark.text.words import did_you_mean, first_sentence

if TYPE_CHECKING:
    from benchmark.runner.carry_out import Job, Outcome
from benchmark.runner.machine import prepare_machine


class CommandGroup(typer.core.TyperGroup):
    """The commands."""

    def invoke(self, ctx: Any) -> Any:
        """Runs one. A plug-in that exits where none is expected to run is a fault of its own, and never a success."""
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            raise RuntimeError(f"a plug-in called sys.exit({error.code!r})") from error


app = typer.Typer(
    cls=CommandGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def program_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Takes what stands before the command."""


SHUTDOWN_SECONDS = 60.0  # that threads and clean-up have after a command is through
Words = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="settings; see below")]


@app.command(cls=CommandWithSettings)
def run(words: Words = None) -> None:
    """Run what is missing of a grid of tasks, strategies and seeds, then print and write its tables."""
    chosen = config.compose_settings(words or [], "run")
    if chosen.sets is not None:
        raise ValueError(f"sets={chosen.sets}: has no effect here: `variance sets=N`, or seeds=N")
    run_grid(
        chosen,
        words or [],
        partial(analysis_commands.show_tables, AnalysisOptions(out=chosen.out, format=chosen.format)),
    )


@app.command(cls=CommandWithSettings)
def variance(words: Words = None) -> None:
    """Show how much initial sets, training and selection make runs differ; sets=30 first runs what that takes."""
    from benchmark.cli import variance_commands

    given = words or []
    if not any(word.startswith("sets=") for word in given):
        variance_commands.show_variance(parse_options(given, "variance"))
        return
    chosen = config.compose_settings(given, "variance")
    counted = "what a training does not repeat would count as selection"
    if not chosen.deterministic and any(word.startswith("deterministic=") for word in given):
        raise ValueError(f"deterministic=false: {counted}: leave it away")
    if not chosen.deterministic:
        say(f"deterministic=true is set: {counted}")
    asked = AnalysisOptions(
        out=chosen.out, format=chosen.format, level=chosen.level, reference=chosen.reference or "",
        anonymous=chosen.anonymous,
    )  # fmt: skip
    run_grid(replace(chosen, deterministic=True), given, partial(variance_commands.show_variance, asked))


def run_grid(settings: Settings, arguments: Sequence[str], show_answer: Callable[[], None]) -> None:
    """Runs what is missing of a grid, then gives the answer that it was run for.

    Args:
        chosen: the settings.
        words: as they were typed, for the manifest.
        answer: prints and writes what the records tell.
    """
    with err.status("loading PyTorch and the plug-ins"):
        discovery.discover(settings.plugins)
    from benchmark.cli.progress import TerminalWatcher
    from benchmark.runner import carry_out as runs  # imports torch: only where something is trained

    job = runs.prepare(settings, TerminalWatcher(err))
    if settings.dry_run:
        show_estimate(job)
        return
    with ignore_hangup():
        try:
            outcome = runs.execute(
                job, provenance("run" if settings.sets is None else "variance", arguments), show_answer
            )
        except KeyboardInterrupt:
            say("interrupted: every finished round is recorded; the same command goes on from there")
            raise typer.Exit(1) from None
    exit_on_failure(outcome)


def exit_on_failure(outcome: Outcome) -> None:
    """Says what failed and what is not recorded to its end. Exit 1 unless every cell is, whatever happened."""
    for line in outcome.problems:
        say(line)
    if outcome.failures or outcome.unfinished_cells:
        raise typer.Exit(1)


def show_estimate(job: Job) -> None:
    """Says what a run has to do and how long that takes. The fits of the pilot rounds are kept for it."""
    from benchmark.runner import forecast, launch, resume
    from benchmark.runner.carry_out import manifest_entry
    from benchmark.runner.fit_cache import FitCache
    from benchmark.runner.measuring import device_name

    chosen, grid, built = job.settings, job.grid, job.lazy_tasks
    if chosen.ray_address is not None:
        raise ValueError("dry_run=true runs its pilot rounds here: leave ray_address away, on a machine like the nodes")
    store = Store(chosen.out)
    machine = built.tasks.machine
    fits = FitCache(store.folder / ".fits", chosen.cache_gb, device_name(machine))
    asked, left = [manifest_entry(one) for one in grid.experiments], launch.count_rounds_left(grid.cells(), store)
    launch.check_versions(grid, store.merge_experiments(asked), store)
    for line in resume.restart_changed_cells(left, asked, store, mix=chosen.mix_versions, move=False):
        say(line)
    launch.check_encoders(grid.cells(), machine)
    failed = list[str]()
    with show_activity(err) as display:
        if machine.device.type == "cpu":
            display.listener = forecast.LongRunWarner(left, built.tasks, say)
        rows = forecast.forecast_rows(grid, dict(left), store, fits, built.tasks, say, failed)
    share = chosen.gpus_per_cell or 1.0
    print_rows("to do", [row.table_row(share) for row in rows], chosen.format, ["experiment"], forecast.NOTE)
    if rows or not failed:
        say(forecast.summary(rows, share, device_name(machine)))
    if failed:
        say(f"no hours are known of: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command(name="list", cls=CommandWithSettings)
def list_(
    what: Annotated[str, typer.Argument(metavar="KIND", help="one of the six above")], words: Words = None
) -> None:
    """List strategies, tasks, encoders, grids, settings or published curves."""
    chosen = config.compose_settings(words or [], "list")
    kinds: dict[str, Callable[[], list[dict[str, object]]]] = {
        "strategies": lambda: plugin_rows("strategy", chosen),
        "tasks": lambda: plugin_rows("task", chosen),
        "encoders": lambda: plugin_rows("encoder", chosen),
        "grids": lambda: [{"name": name, "what": config.grid_purpose(name)} for name in list_grids()],
        "settings": lambda: [setting_row(one) for one in known_settings()],
        "published": analysis_commands.published_rows,
    }
    if what not in kinds:
        raise ValueError(f"cannot list {did_you_mean(what, kinds)}")
    if what == "published":
        print_rows("", kinds[what](), chosen.format, ["source", "cite"])
    else:
        print_rows(what, kinds[what](), chosen.format)


def setting_row(setting: Setting) -> dict[str, object]:
    """A setting in a row: name, type, default and what it means."""
    return {"name": setting.name, "type": setting.type, "default": setting.default, "what": setting.meaning}


def plugin_rows(kind: str, settings: Settings) -> list[dict[str, object]]:
    """All plug-ins of a kind, a row each."""
    discovery.discover(settings.plugins)
    return [plugin_row(plugin) for _, plugin in sorted(registry.REGISTRY[kind].items())]


def plugin_row(plugin: registry.Plugin) -> dict[str, object]:
    """A plug-in in a row: name, what it does, parameters with their defaults."""
    what = first_sentence(plugin.function.__doc__ or "")
    given = [
        name if default is registry.REQUIRED else f"{name}={notation.format_value(default)}"
        for name, (_, default) in plugin.parameters().items()
    ]
    return {"name": plugin.name, "version": plugin.version, "what": what, "parameters": " ".join(given)}


@app.command(cls=CommandWithSettings)
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="strategy or task")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="what it is to be called")],
    words: Words = None,
) -> None:
    """Write the file of a new strategy or task, about ten lines, and its test."""
    from benchmark.plugins.scaffold import write_plugin

    chosen = config.compose_settings(words or [], "new")
    discovery.discover(chosen.plugins if chosen.plugins and Path(chosen.plugins).is_dir() else None)
    code, test = write_plugin(kind, name, chosen.plugins, chosen.check_on)
    more = [f"plugins={path_as_typed(Path(chosen.plugins))}"] if chosen.plugins else []
    command = ["python", "-m", "benchmark"]
    typer.echo(make_visible(f"wrote {code} and {test}"))
    typer.echo(f"next: edit it, then\n  {shell_command([*command, 'check', name, *more])}")
    words = [f"tasks=[{name}]"]
    if kind == "strategy":
        words = [f"tasks=[{chosen.check_on}]", f"strategies=[random,{name}]"]
    typer.echo(f"  {shell_command([*command, 'run', *words, *more])}")


@app.command(cls=CommandWithSettings)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a strategy or a task")], words: Words = None
) -> None:
    """Check that a strategy or a task keeps the rules that all must keep, and say what it breaks."""
    from benchmark.conformance import checks

    chosen = config.compose_settings(words or [], "check")
    with err.status("loading PyTorch and the plug-ins"):
        discovery.discover(chosen.plugins)
    kind = "task" if notation.parse_label(name)[0] in registry.REGISTRY["task"] else "strategy"
    on = experiment_spec.Spec.read("task", chosen.check_on)
    with show_activity(err), activity.stage(f"checking {name}"):
        findings = checks.run_checks(experiment_spec.Spec.read(kind, name), on, prepare_machine(chosen))
    rows: list[dict[str, object]] = [
        {"check": one.check, "result": "failed" if one.message else "ok", "why": one.message} for one in findings
    ]
    print_rows(f"check {name}", rows, chosen.format)
    if any(one.message for one in findings):
        raise typer.Exit(1)


analysis_commands.register_commands(app)


def end_process(exit_code: int) -> NoReturn:
    """Ends the process, whatever still runs in it."""
    say(f"ended after {SHUTDOWN_SECONDS:.0f} s: threads or clean-up of a plug-in still ran")
    sys.stdout.flush()
    os._exit(exit_code)


@contextmanager
def limit_shutdown() -> Iterator[None]:
    """Ends the process some time after a block, where threads that a plug-in left running would keep it for ever."""
    code = 1  # of a traceback
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        timer = threading.Timer(SHUTDOWN_SECONDS, end_process, [code])
        timer.daemon = True
        timer.start()


def command() -> None:
    """The command line as a program of its own."""
    if instruction := os.environ.get(completion.COMPLETION_VARIABLE):
        completion.answer_shell(instruction)
        return
    with limit_shutdown():
        main()


def main() -> None:
    """Runs the command line; every user's error is one line."""
    atexit.register(gc.freeze)  # what PyTorch's import left takes the interpreter half a second to collect at its end
    tolerate_closed_streams()
    tolerate_narrow_encodings()
    remarks.send_remarks_to(say)
    try:
        app()
    except (ValueError, OSError, StoreWriteError) as error:
        say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
