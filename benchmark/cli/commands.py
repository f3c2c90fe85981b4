"""Compare active-learning strategies: run them, then print tables, savings, comparisons and a report.

Start with `run`: its default grid takes minutes and needs no download. Exit status: 0 everything is recorded, 1 a cell
failed or is not finished, 2 a wrong command or setting.
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
from benchmark.cli.help import CommandWithSettings, print_version
from benchmark.cli.pick_command import pick_images
from benchmark.cli.terminal import err, print_rows, say, tolerate_narrow_encodings
from benchmark.experiment import spec as experiment_spec
from benchmark.experiment.run_settings import Settings, known_settings
from benchmark.plugins import discovery, registry
from benchmark.plugins.key_value import Setting
from benchmark.plugins.paths import grid_names, path_as_typed
from benchmark.records.provenance import provenance
from benchmark.records.store import Store
from benchmark.system import activity, remarks
from benchmark.system.files import StoreWriteError
from benchmark.system.streams import ignore_hangup, tolerate_closed_streams
from benchmark.text import notation
from benchmark.text.escaping import make_visible, shell_command
from benchmark.text.words import did_you_mean, first_sentence

if TYPE_CHECKING:
    from benchmark.runner.run_grid import Job, Outcome
from benchmark.runner.machine import prepare_machine


class CommandGroup(typer.core.TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command. RuntimeError where a plug-in calls sys.exit, which must never look like success."""
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
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Handles the options before the command."""


SHUTDOWN_SECONDS = 60.0  # time that threads and clean-up code have after a command has finished
Arguments = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="settings; see below")]


@app.command(cls=CommandWithSettings)
def run(arguments: Arguments = None) -> None:
    """Run the missing cells of a grid of tasks, strategies and seeds, then print and write its tables."""
    settings = config.compose_settings(arguments or [], "run")
    if settings.sets is not None:
        raise ValueError(f"sets={settings.sets}: has no effect here: type `variance sets=N`, or seeds=N")
    run_grid(
        settings,
        arguments or [],
        partial(analysis_commands.show_tables, AnalysisOptions(out=settings.out, format=settings.format)),
    )


@app.command(cls=CommandWithSettings)
def variance(arguments: Arguments = None) -> None:
    """Show how much variance is due to initial sets, training and selection; sets=30 first runs what that needs."""
    from benchmark.cli import variance_commands

    texts = arguments or []
    if not any(word.startswith("sets=") for word in texts):
        variance_commands.show_variance(parse_options(texts, "variance"))
        return
    settings = config.compose_settings(texts, "variance")
    reason = "otherwise noise of the training would count as variance of the selection"
    if not settings.deterministic and any(word.startswith("deterministic=") for word in texts):
        raise ValueError(f"deterministic=false: `variance` trains deterministically, {reason}: remove this setting")
    if not settings.deterministic:
        say(f"deterministic=true is set: {reason}")
    options = AnalysisOptions(
        out=settings.out, format=settings.format, level=settings.level, reference=settings.reference or "",
        anonymous=settings.anonymous,
    )  # fmt: skip
    run_grid(replace(settings, deterministic=True), texts, partial(variance_commands.show_variance, options))


def run_grid(settings: Settings, arguments: Sequence[str], show_answer: Callable[[], None]) -> None:
    """Runs the missing cells of a grid, then shows the tables that it was run for.

    Args:
        settings: the settings of the run.
        arguments: the `key=value` arguments as typed; they are recorded in the manifest.
        show_answer: prints and writes the tables of the records.

    Raises:
        typer.Exit: with status 1, where a cell failed or is not finished.
    """
    from benchmark.runner.launchers.child_process import start_early

    with start_early(settings) as early_workers:
        with err.status("loading PyTorch and the plug-ins"):
            discovery.discover(settings.plugins)
        from benchmark.cli.progress import TerminalWatcher
        from benchmark.runner import run_grid as runs  # imports torch: only where something is trained

        job = runs.prepare(settings, TerminalWatcher(err), early_workers)
        if settings.dry_run:
            show_estimate(job)
            return
        with ignore_hangup():
            try:
                outcome = runs.execute(
                    job, provenance("run" if settings.sets is None else "variance", arguments), show_answer
                )
            except KeyboardInterrupt:
                say("interrupted: every finished round is recorded; type the same command to continue")
                raise typer.Exit(1) from None
    exit_on_failure(outcome)


def exit_on_failure(outcome: Outcome) -> None:
    """Tells which cells failed or are unfinished, and exits with status 1 if there are any."""
    for line in outcome.problems:
        say(line)
    if outcome.failures or outcome.unfinished_cells:
        raise typer.Exit(1)


def show_estimate(job: Job) -> None:
    """Prints how many trainings a run needs and how many hours they take. The fits of its pilot rounds are cached."""
    from benchmark.runner import forecast, record_checks, resume, task_loading
    from benchmark.runner.fit_cache import FitCache
    from benchmark.runner.launchers.launcher import resolve_jobs
    from benchmark.runner.measuring import device_name
    from benchmark.runner.run_grid import manifest_entry

    settings, grid, lazy_tasks = job.settings, job.grid, job.lazy_tasks
    if settings.ray_address is not None:
        raise ValueError(
            "dry_run=true trains on this machine: remove ray_address, and use a machine like the cluster's"
        )
    store = Store(settings.out)
    machine = lazy_tasks.tasks.machine
    fits = FitCache(store.folder / ".fits", settings.cache_gb, device_name(machine))
    entries = [manifest_entry(experiment) for experiment in grid.experiments]
    rounds_left = record_checks.count_rounds_left(grid.cells(), store)
    record_checks.check_versions(grid, store.merge_experiments(entries), store)
    for line in resume.restart_changed_cells(rounds_left, entries, store, mix=settings.mix_versions, move=False):
        say(line)
    task_loading.check_encoders(grid.cells(), machine)
    failed = list[str]()
    with show_activity(err) as display:
        if machine.device.type == "cpu":
            display.listener = forecast.LongRunWarner(rounds_left, lazy_tasks.tasks, say)
        rows = forecast.forecast_rows(grid, dict(rounds_left), store, fits, lazy_tasks.tasks, say, failed)
    gpu_share = settings.gpus_per_cell or 1.0
    print_rows("to do", [row.table_row(gpu_share) for row in rows], settings.format, ["experiment"], forecast.NOTE)
    if rows or not failed:
        jobs = resolve_jobs(settings, machine.device)
        say(forecast.summary(rows, gpu_share, device_name(machine), jobs))
    for line in forecast.missing_lines(grid, lazy_tasks.tasks):
        say(line)
    if failed:
        say(f"no hours could be estimated for: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command(cls=CommandWithSettings)
def pick(arguments: Arguments = None) -> None:
    """Pick the next images to label, among images without labels, and write their list: docs/pick.md."""
    pick_images(arguments or [])


@app.command(name="list", cls=CommandWithSettings)
def list_(
    what: Annotated[str, typer.Argument(metavar="KIND", help="what to list: one of the six kinds above")],
    arguments: Arguments = None,
) -> None:
    """List strategies, tasks, encoders, grids, settings or published curves."""
    settings = config.compose_settings(arguments or [], "list")
    kinds: dict[str, Callable[[], list[dict[str, object]]]] = {
        "strategies": lambda: plugin_rows("strategy", settings),
        "tasks": lambda: plugin_rows("task", settings),
        "encoders": lambda: plugin_rows("encoder", settings),
        "grids": lambda: [{"name": name, "what": config.grid_purpose(name)} for name in grid_names()],
        "settings": lambda: [setting_row(setting) for setting in known_settings()],
        "published": analysis_commands.published_rows,
    }
    if what not in kinds:
        raise ValueError(f"cannot list {did_you_mean(what, kinds)}")
    if what == "published":
        print_rows("", kinds[what](), settings.format, ["source", "cite"])
    else:
        print_rows(what, kinds[what](), settings.format)


def setting_row(setting: Setting) -> dict[str, object]:
    """A setting as a row of `list settings`."""
    return {"name": setting.name, "type": setting.type, "default": setting.default, "what": setting.meaning}


def plugin_rows(kind: str, settings: Settings) -> list[dict[str, object]]:
    """The rows of all plug-ins of a kind, sorted by name."""
    discovery.discover(settings.plugins)
    return [plugin_row(plugin) for _, plugin in sorted(registry.REGISTRY[kind].items())]


def plugin_row(plugin: registry.Plugin) -> dict[str, object]:
    """A plug-in as a row: name, version, first sentence of its docstring, parameters with their defaults."""
    what = first_sentence(plugin.function.__doc__ or "")
    parameters = [
        name if default is registry.REQUIRED else f"{name}={notation.format_value(default)}"
        for name, (_, default) in plugin.parameters().items()
    ]
    return {"name": plugin.name, "version": plugin.version, "what": what, "parameters": " ".join(parameters)}


@app.command(cls=CommandWithSettings)
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="strategy or task")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="its name, and the name of its file")],
    arguments: Arguments = None,
) -> None:
    """Write a template of a strategy or a task, about ten lines, and its test."""
    from benchmark.plugins.scaffold import write_plugin

    settings = config.compose_settings(arguments or [], "new")
    discovery.discover(settings.plugins if settings.plugins and Path(settings.plugins).is_dir() else None)
    code, test = write_plugin(kind, name, settings.plugins, settings.check_on)
    options = [f"plugins={path_as_typed(Path(settings.plugins))}"] if settings.plugins else []
    command = ["python", "-m", "benchmark"]
    typer.echo(make_visible(f"wrote {code} and {test}"))
    typer.echo(f"next: edit it, then\n  {shell_command([*command, 'check', name, *options])}")
    run_arguments = [f"tasks=[{name}]"]
    if kind == "strategy":
        run_arguments = [f"tasks=[{settings.check_on}]", f"strategies=[random,{name}]"]
    typer.echo(f"  {shell_command([*command, 'run', *run_arguments, *options])}")


@app.command(cls=CommandWithSettings)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a strategy or a task")], arguments: Arguments = None
) -> None:
    """Check that a strategy or a task follows the rules of the contract, and tell what it violates."""
    from benchmark.conformance import checks

    settings = config.compose_settings(arguments or [], "check")
    with err.status("loading PyTorch and the plug-ins"):
        discovery.discover(settings.plugins)
    kind = "task" if notation.parse_label(name)[0] in registry.REGISTRY["task"] else "strategy"
    task = experiment_spec.Spec.read("task", settings.check_on)
    with show_activity(err), activity.stage(f"checking {name}"):
        findings = checks.run_checks(experiment_spec.Spec.read(kind, name), task, prepare_machine(settings))
    rows: list[dict[str, object]] = [
        {"check": finding.check, "result": "failed" if finding.message else "ok", "why": finding.message}
        for finding in findings
    ]
    print_rows(f"check {name}", rows, settings.format)
    if any(finding.message for finding in findings):
        raise typer.Exit(1)


analysis_commands.register_commands(app)


def end_process(exit_code: int) -> NoReturn:
    """Ends the process, even where threads are still running."""
    say(f"stopped {SHUTDOWN_SECONDS:.0f} s after the command had finished: a plug-in's threads or clean-up still ran")
    sys.stdout.flush()
    os._exit(exit_code)


@contextmanager
def limit_shutdown() -> Iterator[None]:
    """Ends the process SHUTDOWN_SECONDS after a block, where threads of a plug-in would keep it alive."""
    code = 1  # the exit status of a traceback
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
    """The entry point of `al-benchmark` and `python -m benchmark`."""
    if instruction := os.environ.get(completion.COMPLETION_VARIABLE):
        completion.answer_shell(instruction)
        return
    with limit_shutdown():
        main()


def main() -> None:
    """Runs the command line. An error that the user can mend is printed as one line, with exit status 2."""
    atexit.register(gc.freeze)  # spares the interpreter half a second of collecting PyTorch's objects at its end
    tolerate_closed_streams()
    tolerate_narrow_encodings()
    remarks.send_remarks_to(say)
    try:
        app()
    except (ValueError, OSError, StoreWriteError) as error:
        say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
