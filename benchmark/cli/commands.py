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
from benchmark.cli import answers, completion
from benchmark.cli.display import shown
from benchmark.cli.help import Command
from benchmark.cli.help import version as show_version
from benchmark.cli.terminal import err, say, show, spare_the_screen
from benchmark.experiment import spec as experiment_spec
from benchmark.experiment.settings import Settings, known_settings
from benchmark.plugins import discovery, registry
from benchmark.plugins.places import grids as list_grids
from benchmark.plugins.places import written
from benchmark.plugins.settings import Setting
from benchmark.records.provenance import provenance
from benchmark.records.store import Store
from benchmark.system import activity, remarks
from benchmark.system.files import Unwritable
from benchmark.system.streams import outlasting_the_terminal, tolerate_closed_streams
from benchmark.text import quoted
from benchmark.text.escaping import shell, visible
from benchmark.text.words import first_sentence, unknown

if TYPE_CHECKING:
    from benchmark.runner.carry_out import Job, Outcome
from benchmark.runner.machine import prepared


class Commands(typer.core.TyperGroup):
    """The commands."""

    def invoke(self, ctx: Any) -> Any:
        """Runs one. A plug-in that exits where none is expected to run is a fault of its own, and never a success."""
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            raise RuntimeError(f"a plug-in called sys.exit({error.code!r})") from error


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Takes what stands before the command."""


END_SECONDS = 60.0  # that threads and clean-up have after a command is through
Words = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="settings; see below")]


@app.command(cls=Command)
def run(words: Words = None) -> None:
    """Run what is missing of a grid of tasks, strategies and seeds, then print and write its tables."""
    chosen = config.settings(words or [], "run")
    if chosen.sets is not None:
        raise ValueError(f"sets={chosen.sets}: has no effect here: `variance sets=N`, or seeds=N")
    carry_out(chosen, words or [], partial(answers.show_tables, AnalysisOptions(out=chosen.out, format=chosen.format)))


@app.command(cls=Command)
def variance(words: Words = None) -> None:
    """Show how much initial sets, training and selection make runs differ; sets=30 first runs what that takes."""
    from benchmark.cli import variance_answers

    given = words or []
    if not any(word.startswith("sets=") for word in given):
        variance_answers.show_variance(parse_options(given, "variance"))
        return
    chosen = config.settings(given, "variance")
    counted = "what a training does not repeat would count as selection"
    if not chosen.deterministic and any(word.startswith("deterministic=") for word in given):
        raise ValueError(f"deterministic=false: {counted}: leave it away")
    if not chosen.deterministic:
        say(f"deterministic=true is set: {counted}")
    asked = AnalysisOptions(
        out=chosen.out, format=chosen.format, level=chosen.level, reference=chosen.reference or "",
        anonymous=chosen.anonymous,
    )  # fmt: skip
    carry_out(replace(chosen, deterministic=True), given, partial(variance_answers.show_variance, asked))


def carry_out(chosen: Settings, words: Sequence[str], answer: Callable[[], None]) -> None:
    """Runs what is missing of a grid, then gives the answer that it was run for.

    Args:
        chosen: the settings.
        words: as they were typed, for the manifest.
        answer: prints and writes what the records tell.
    """
    with err.status("loading PyTorch and the plug-ins"):
        discovery.discover(chosen.plugins)
    from benchmark.cli.progress import Terminal
    from benchmark.runner import carry_out as runs  # imports torch: only where something is trained

    job = runs.prepare(chosen, Terminal(err))
    if chosen.dry_run:
        estimate(job)
        return
    with outlasting_the_terminal():
        try:
            outcome = runs.execute(job, provenance("run" if chosen.sets is None else "variance", words), answer)
        except KeyboardInterrupt:
            say("interrupted: every finished round is recorded; the same command goes on from there")
            raise typer.Exit(1) from None
    conclude(outcome)


def conclude(outcome: Outcome) -> None:
    """Says what failed and what is not recorded to its end. Exit 1 unless every cell is, whatever happened."""
    for line in outcome.lines:
        say(line)
    if outcome.failed or outcome.unfinished:
        raise typer.Exit(1)


def estimate(job: Job) -> None:
    """Says what a run has to do and how long that takes. The fits of the pilot rounds are kept for it."""
    from benchmark.runner import forecast, launch, resume
    from benchmark.runner.carry_out import described
    from benchmark.runner.fits import Fits
    from benchmark.runner.loop import device_name

    chosen, grid, built = job.chosen, job.grid, job.built
    if chosen.ray_address is not None:
        raise ValueError("dry_run=true runs its pilot rounds here: leave ray_address away, on a machine like the nodes")
    store = Store(chosen.out)
    machine = built.tasks.machine
    fits = Fits(store.folder / ".fits", chosen.cache_gb, device_name(machine))
    asked, left = [described(one) for one in grid.experiments], launch.rounds_left(grid.cells(), store)
    launch.check_versions(grid, store.joined(asked), store)
    for line in resume.begin_anew(left, asked, store, mix=chosen.mix_versions, move=False):
        say(line)
    launch.check_encoders(grid.cells(), machine)
    failed = list[str]()
    with shown(err) as display:
        if machine.device.type == "cpu":
            display.also = forecast.Forewarning(left, built.tasks, say)
        rows = forecast.rows(grid, dict(left), store, fits, built.tasks, say, failed)
    share = chosen.gpus_per_cell or 1.0
    show("to do", [row.told(share) for row in rows], chosen.format, ["experiment"], forecast.NOTE)
    if rows or not failed:
        say(forecast.summary(rows, share, device_name(machine)))
    if failed:
        say(f"no hours are known of: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command(name="list", cls=Command)
def list_(
    what: Annotated[str, typer.Argument(metavar="KIND", help="one of the six above")], words: Words = None
) -> None:
    """List strategies, tasks, encoders, grids, settings or published curves."""
    chosen = config.settings(words or [], "list")
    kinds: dict[str, Callable[[], list[dict[str, object]]]] = {
        "strategies": lambda: registered("strategy", chosen),
        "tasks": lambda: registered("task", chosen),
        "encoders": lambda: registered("encoder", chosen),
        "grids": lambda: [{"name": name, "what": config.purpose(name)} for name in list_grids()],
        "settings": lambda: [setting_row(one) for one in known_settings()],
        "published": answers.published,
    }
    if what not in kinds:
        raise ValueError(f"cannot list {unknown(what, kinds)}")
    if what == "published":
        show("", kinds[what](), chosen.format, ["source", "cite"])
    else:
        show(what, kinds[what](), chosen.format)


def setting_row(one: Setting) -> dict[str, object]:
    """A setting in a row: name, type, default and what it means."""
    return {"name": one.name, "type": one.type, "default": one.default, "what": one.meaning}


def registered(kind: str, chosen: Settings) -> list[dict[str, object]]:
    """All plug-ins of a kind, a row each."""
    discovery.discover(chosen.plugins)
    return [told(plugin) for _, plugin in sorted(registry.REGISTRY[kind].items())]


def told(plugin: registry.Plugin) -> dict[str, object]:
    """A plug-in in a row: name, what it does, parameters with their defaults."""
    what = first_sentence(plugin.function.__doc__ or "")
    given = [
        name if default is registry.REQUIRED else f"{name}={quoted.plain(default)}"
        for name, (_, default) in plugin.parameters().items()
    ]
    return {"name": plugin.name, "version": plugin.version, "what": what, "parameters": " ".join(given)}


@app.command(cls=Command)
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="strategy or task")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="what it is to be called")],
    words: Words = None,
) -> None:
    """Write the file of a new strategy or task, about ten lines, and its test."""
    from benchmark.plugins.scaffold import new_plugin

    chosen = config.settings(words or [], "new")
    discovery.discover(chosen.plugins if chosen.plugins and Path(chosen.plugins).is_dir() else None)
    code, test = new_plugin(kind, name, chosen.plugins, chosen.check_on)
    more = [f"plugins={written(Path(chosen.plugins))}"] if chosen.plugins else []
    command = ["python", "-m", "benchmark"]
    typer.echo(visible(f"wrote {code} and {test}"))
    typer.echo(f"next: edit it, then\n  {shell([*command, 'check', name, *more])}")
    words = [f"tasks=[{name}]"]
    if kind == "strategy":
        words = [f"tasks=[{chosen.check_on}]", f"strategies=[random,{name}]"]
    typer.echo(f"  {shell([*command, 'run', *words, *more])}")


@app.command(cls=Command)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a strategy or a task")], words: Words = None
) -> None:
    """Check that a strategy or a task keeps the rules that all must keep, and say what it breaks."""
    from benchmark.conformance import checks

    chosen = config.settings(words or [], "check")
    with err.status("loading PyTorch and the plug-ins"):
        discovery.discover(chosen.plugins)
    kind = "task" if quoted.parse(name)[0] in registry.REGISTRY["task"] else "strategy"
    on = experiment_spec.Spec.read("task", chosen.check_on)
    with shown(err), activity.stage(f"checking {name}"):
        findings = checks.check(experiment_spec.Spec.read(kind, name), on, prepared(chosen))
    rows: list[dict[str, object]] = [
        {"check": one.check, "result": "failed" if one.words else "ok", "why": one.words} for one in findings
    ]
    show(f"check {name}", rows, chosen.format)
    if any(one.words for one in findings):
        raise typer.Exit(1)


answers.register(app)


def end(code: int) -> NoReturn:
    """Ends the process, whatever still runs in it."""
    say(f"ended after {END_SECONDS:.0f} s: threads or clean-up of a plug-in still ran")
    sys.stdout.flush()
    os._exit(code)


@contextmanager
def ended_in_time() -> Iterator[None]:
    """Ends the process some time after a block, where threads that a plug-in left running would keep it for ever."""
    code = 1  # of a traceback
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        timer = threading.Timer(END_SECONDS, end, [code])
        timer.daemon = True
        timer.start()


def command() -> None:
    """The command line as a program of its own."""
    if instruction := os.environ.get(completion.VARIABLE):
        completion.answer(instruction)
        return
    with ended_in_time():
        main()


def main() -> None:
    """Runs the command line; every user's error is one line."""
    atexit.register(gc.freeze)  # what PyTorch's import left takes the interpreter half a second to collect at its end
    tolerate_closed_streams()
    spare_the_screen()
    remarks.listen(say)
    try:
        app()
    except (ValueError, OSError, Unwritable) as error:
        say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
