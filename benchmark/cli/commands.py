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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
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
from benchmark.experiment import cell as experiment_cell
from benchmark.experiment import grid as grids
from benchmark.experiment import spec as experiment_spec
from benchmark.experiment.settings import Settings, known_settings
from benchmark.plugins import discovery, registry
from benchmark.plugins.places import grids as list_grids
from benchmark.plugins.places import written
from benchmark.plugins.settings import Setting
from benchmark.records import anonymous
from benchmark.records.provenance import provenance
from benchmark.records.store import Store
from benchmark.system import activity, remarks
from benchmark.system.files import Unwritable
from benchmark.system.streams import outlasting_the_terminal, tolerate_closed_streams
from benchmark.text import quoted
from benchmark.text.escaping import shell, visible
from benchmark.text.words import first_sentence, plural, unknown

if TYPE_CHECKING:
    from benchmark.runner import launch
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
    store, built = Store(chosen.out, say, chosen.anonymous), Built(chosen)
    grid = at_look(config.read(chosen, built.num_pool, store.schedules()), store)
    for line in grid.remarks:
        say(line)
    cells = sound_cells(grid, chosen, built)
    if chosen.anonymous:
        anonymous.check(cells)
    if chosen.dry_run:
        estimate(grid, chosen, built)
        return
    from benchmark.runner import (  # import torch: only where something is trained, and after the words are sound
        launch,
        resume,
    )

    asked = [described(experiment) for experiment in grid.experiments]
    with outlasting_the_terminal(), store.lock():
        if chosen.rerun_changed:
            for line in launch.set_aside_changed(grid, store, built.tasks):
                say(line)
        left = launch.rounds_left(cells, store)
        launch.check_versions(grid, store.joined(asked), store)
        for line in resume.begin_anew(left, asked, store, mix=chosen.mix_versions):
            say(line)
        for line in launch.take_over([cell for cell in cells if left.get(cell, 0) < cell.schedule.rounds], store):
            say(line)
        for line in launch.edited(cells, store):
            say(line)
        store.ask(grid.name, asked, provenance("run" if chosen.sets is None else "variance", words))
        try:
            failed = work(left, grid, store, chosen, built)
        except KeyboardInterrupt:
            say("interrupted: every finished round is recorded; the same command goes on from there")
            raise typer.Exit(1) from None
        if failed and all(one.whole_task for one in failed) and len(failed) == len(cells):
            raise ValueError("; ".join(dict.fromkeys(one.line for one in failed)))  # nothing could run
        cells = at_look(grid, store).cells()
        unfinished = launch.unfinished(cells, store)
        answer()
    conclude(failed, unfinished, len(cells), store)


def at_look(grid: grids.Grid, store: Store) -> grids.Grid:
    """The grid; of seeds=auto with the seeds of the look that its records have come to."""
    if not any(one.auto for one in grid.experiments):
        return grid
    from benchmark.runner import looks  # scipy takes a tenth of a second

    return looks.extended(grid, store)


def conclude(
    failed: list[launch.Failure], unfinished: list[experiment_cell.Cell], num_cells: int, store: Store
) -> None:
    """Says what failed and what is not recorded to its end. Exit 1 unless every cell is, whatever happened."""
    from benchmark.runner import launch

    for line in dict.fromkeys(one.line for one in failed):
        say(f"failed: {line}")
    if failed:
        again = " and the same command tries them again, once the cause is mended"
        kept = f"what is recorded stays{again * any(not launch.misfit(one) for one in failed)}"
        say(f"{plural(len(failed), 'cell')} failed; tracebacks are in {store.folder / 'failures'}; {kept}")
    if others := len(set(unfinished) - {one.cell for one in failed}):
        are = "is" if others == 1 else "are"
        say(f"{others} of {plural(num_cells, 'cell')} {are} not finished; the same command goes on from here")
    if failed or unfinished:
        raise typer.Exit(1)


class Built:
    """The tasks of a run on its machine, made when the first is asked for: until then the words are checked."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen = chosen

    @cached_property
    def tasks(self) -> launch.Tasks:
        """The tasks."""
        from benchmark.runner import launch

        chosen = self.chosen if self.chosen.dry_run else of_driver(self.chosen)
        return launch.Tasks(prepared(chosen, Path(chosen.out) / ".fits"))

    def num_pool(self, spec: experiment_spec.Spec) -> int:
        """Images in a task's pool. ValueError where the task cannot be had."""
        with shown(err):
            task = self.tasks(spec)
        if isinstance(task, ValueError):
            raise ValueError(f"{spec.label}: {task}") from task
        if isinstance(task, Exception):
            raise task
        return task.num_pool


def sound_cells(grid: grids.Grid, chosen: Settings, built: Built) -> list[experiment_cell.Cell]:
    """The cells of a grid in the order of running. ValueError where a task cannot serve a strategy, or, said before
    that, where a task that the command line describes cannot be had."""
    try:
        return grid.cells(tables_first=chosen.gpu_hours is not None)
    except ValueError:
        for one in grid.experiments:
            if one.name not in chosen.experiments:
                built.num_pool(one.task)
        raise


def estimate(grid: grids.Grid, chosen: Settings, built: Built) -> None:
    """Says what a run has to do and how long that takes. The fits of the pilot rounds are kept for it."""
    from benchmark.runner import forecast, launch, resume
    from benchmark.runner.fits import Fits
    from benchmark.runner.loop import device_name

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


def work(
    left: dict[experiment_cell.Cell, int], grid: grids.Grid, store: Store, chosen: Settings, built: Built
) -> list[launch.Failure]:
    """Runs what is missing, and returns what failed."""
    from benchmark.cli import progress
    from benchmark.runner import forecast, gallery, launch, tracking
    from benchmark.runner.fits import Fits
    from benchmark.runner.loop import device_name

    scratch = store.folder / ".fits"
    tasks = built.tasks
    machine, where = tasks.machine, device_name(tasks.machine)
    fits = Fits(scratch, chosen.cache_gb, where)
    local = chosen.launcher == "local"
    told_where = where if local else "Ray"
    rest = f"{len(left)} to do, {plural(sum(left.values()), 'round')}, on {told_where}; records in {store.folder}"
    say(f"{plural(len(grid.cells()), 'cell')}, {rest}")
    if local:
        launch.check_encoders(left, machine)

    def run(cells: Sequence[experiment_cell.Cell]) -> Generator[launch.Event]:
        return launch.local(cells, store, fits, tasks) if local else on_ray(list(cells), store, chosen)

    ran = in_looks(grid, left, store, run) if any(one.auto for one in grid.experiments) else run(list(left))
    events = launch.within(ran, chosen.gpu_hours, chosen.gpus_per_cell or 1.0, say)
    events = tracking.mirrored(events, chosen.tracking, store.folder, say)

    pictured = set[str]()

    def pictures(*experiments: grids.Experiment) -> None:
        missing = [one for one in experiments if one.name not in pictured]
        pictured.update(one.name for one in missing)
        for words in gallery.update(missing, store, fits, tasks):
            say(words)

    if local:  # Ray's workers would wait for the driver meanwhile
        told_seeds = [one for one in grid.experiments if one.auto is None]
        events = gallery.followed(events, told_seeds, left, pictures)
    with shown(err) as display:
        if machine.device.type == "cpu":
            display.also = forecast.Forewarning(left, tasks, say)
        failed = [event for event in progress.follow(events, left, display) if isinstance(event, launch.Failure)]
        display.header = None
        with activity.stage("drawing what was selected"):
            pictures(*at_look(grid, store).experiments)
    return failed


def in_looks(
    grid: grids.Grid,
    left: dict[experiment_cell.Cell, int],
    store: Store,
    run: Callable[[Sequence[experiment_cell.Cell]], Generator[launch.Event]],
) -> Generator[launch.Event]:
    """`looks.look_after_look`, with the manifest kept up to date."""
    from benchmark.runner import looks

    def ask(experiments: Iterable[grids.Experiment]) -> None:
        store.ask(grid.name, list(map(described, experiments)))

    return looks.look_after_look(grid, left, store, run, ask, say)


def on_ray(cells: list[experiment_cell.Cell], store: Store, chosen: Settings) -> Generator[launch.Event]:
    """`ray_launch.remote`. ValueError where Ray is not installed."""
    try:
        from benchmark.runner import ray_launch
    except ImportError as error:
        raise ValueError("launcher=ray: not installed: pip install -e '.[ray]'") from error
    return ray_launch.remote(cells, store, chosen)


def of_driver(chosen: Settings) -> Settings:
    """The settings of this process, which under Ray trains nothing and may be where no GPU is."""
    return replace(chosen, device="auto") if chosen.launcher == "ray" and chosen.device == "cuda" else chosen


def described(experiment: grids.Experiment) -> dict[str, object]:
    """An experiment as the manifest keeps it."""
    cells = [
        {
            "path": cell.path, "key": cell.key, "strategy": cell.strategy.label, "seed": cell.seed,
            "dagger": list(cell.daggers), "companion": cell.companion, **cell.variant.told,
        }
        for cell in experiment.cells()
    ]  # fmt: skip
    schedule = experiment.schedule.identity()
    auto = {"auto": experiment.auto.identity()} if experiment.auto else {}
    return {"name": experiment.name, "task": experiment.task.label, "schedule": schedule, **auto, "cells": cells}


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
