"""The command line: one verb each. Exit 0 done, 1 some cells failed, 2 a user's error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from benchmark import grid as grids
from benchmark import plugins
from benchmark.analysis import tables as tabling
from benchmark.grid import Settings
from benchmark.schedule import Schedule
from benchmark.store import Store, Unwritable

if TYPE_CHECKING:
    import torch

    from benchmark import launch
    from benchmark.api import Machine

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Words = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="settings; see configs/config.yaml")]
out = Console()
err = Console(stderr=True)


@app.command()
def run(words: Words = None) -> None:
    """Run the cells of a grid that are not done yet, then print and write its tables."""
    chosen = grids.settings(words or [])
    plugins.discover(chosen.plugins)
    grid = grids.read(chosen)
    cells = grid.cells()
    from benchmark import launch  # imports torch: only where something is trained, and after the words are sound

    store = Store(chosen.out)
    with store.lock():
        left = launch.rounds_left(cells, store)
        store.ask(grid.name, [described(experiment) for experiment in grid.experiments])
        try:
            failed = work(left, len(cells), store, chosen)
        except KeyboardInterrupt:
            say("interrupted: every finished round is recorded; the same command goes on from there")
            raise typer.Exit(1) from None
        if failed and all(one.whole_task for one in failed) and len(failed) == len(cells):
            raise ValueError("; ".join(dict.fromkeys(one.line for one in failed)))  # nothing could run
        show_tables(store, chosen)
    for line in dict.fromkeys(one.line for one in failed):
        say(f"failed: {line}")
    if failed:
        again = "nothing recorded is lost; the same command runs what is missing"
        say(f"{len(failed)} cells failed; tracebacks under {store.folder / 'failures'}; {again}")
        raise typer.Exit(1)


def work(left: dict[grids.Cell, int], num_cells: int, store: Store, chosen: Settings) -> list[launch.Failure]:
    """Runs what is missing, and returns what failed."""
    from benchmark import launch, progress
    from benchmark.fits import Fits
    from benchmark.loop import device_name

    scratch = store.folder / ".fits"
    machine = prepared(chosen, scratch)
    where, total = device_name(machine), sum(left.values())
    fits = Fits(scratch, chosen.cache_gb, where)
    say(f"{num_cells} cells, {len(left)} to do, {total} rounds, on {where}; records in {store.folder}")
    events = progress.follow(launch.local(list(left), store, fits, machine), total, err)
    return [event for event in events if isinstance(event, launch.Failure)]


def prepared(chosen: Settings, scratch: Path | None = None) -> Machine:
    """The machine as these settings want it, its number of threads set; fits in work are kept in `scratch`."""
    import torch

    from benchmark.api import Machine

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    data = Path(chosen.data).expanduser() if chosen.data else None
    return Machine(device(chosen.device), data, scratch, chosen.workers)


def device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the first GPU where there is one."""
    import torch  # only where something is trained: tables and status do without

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name}: use auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: torch sees {torch.cuda.device_count()} GPUs")
    return found


def described(experiment: grids.Experiment) -> dict[str, object]:
    """An experiment as the manifest keeps it."""
    cells = [
        {"path": c.path, "key": c.key, "strategy": c.strategy.label, "seed": c.seed, "dagger": list(c.daggers)}
        for c in experiment.cells()
    ]
    schedule = experiment.schedule.identity()
    return {"name": experiment.name, "task": experiment.task.label, "schedule": schedule, "cells": cells}


@app.command()
def status(words: Words = None) -> None:
    """Show done, failed and missing cells of a results folder, and the time left at its pace."""
    chosen = grids.settings(words or [])
    store = Store(chosen.out)
    rows = [experiment_status(store, experiment) for experiment in store.manifest()["experiments"]]
    show(f"{store.folder}", rows, chosen)


def experiment_status(store: Store, experiment: dict[str, object]) -> dict[str, object]:
    """Counts of one experiment's cells, and the hours its missing rounds, at most, take at the pace of those done."""
    cells, settings = experiment["cells"], experiment["schedule"]
    assert isinstance(cells, list) and isinstance(settings, dict)
    schedule = Schedule(**settings)
    done = failed = rounds = total = 0
    seconds = 0.0
    for cell in cells:
        taken = store.measured(cell["path"])
        seconds += sum(sum(one.seconds.values()) for one in taken)
        records = store.records(cell["path"])[1]
        finished = schedule.finished(records)
        rounds += len(records)
        total += len(records) if finished else schedule.rounds
        done += finished
        failed += store.failed(cell["path"], schedule)
    left = None if not rounds else round(seconds / rounds * (total - rounds) / 3600, 2)
    counts = {"cells": len(cells), "done": done, "failed": failed, "missing": len(cells) - done - failed}
    return {"experiment": experiment["name"], **counts, "rounds": f"{rounds}/{total}", "hours left": left}


@app.command()
def tables(words: Words = None) -> None:
    """Print the tables of a results folder and write them there as csv, md and tex."""
    chosen = grids.settings(words or [])
    show_tables(Store(chosen.out), chosen)


def show_tables(store: Store, chosen: Settings) -> None:
    """Prints the tables, then writes them beside the records."""
    made, source = tabling.tables(store), store.manifest()["grid"]
    if chosen.format == "json":
        typer.echo(tabling.as_json(made, source))
    else:
        for one in made:
            print_table(one)
    tabling.write(made, store.folder, source)
    say(f"tables written to {store.folder / 'tables'}")


def print_table(one: tabling.Table) -> None:
    """Nothing is cut: a narrow terminal folds names and puts the spread below the mean; elsewhere a row is a line."""
    head, *rows = tabling.grid_of(one)
    shown = Shown(title=escape(f"{one.title}: {one.metric}"), caption=escape(one.note), header_style="bold")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    if out.is_terminal and sum(widths) + 3 * len(head) + 1 > out.width:
        widths[1:] = [
            max(len(word) for row in (head, *rows) for word in row[c].split()) + 2 for c in range(1, len(head))
        ]
        widths[0] = max(16, out.width - sum(widths[1:]) - 3 * len(head) - 1)
    for number, name in enumerate(head):
        shown.add_column(escape(name), justify="right" if number else "left", width=widths[number], overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    wide(sum(widths) + 3 * len(head) + 1).print(shown)


def wide(least: int) -> Console:
    """The console, as wide as `least` at least."""
    return Console(width=max(out.width, least))


@app.command(name="list")
def list_(what: str, words: Words = None) -> None:
    """List strategies, tasks or grids."""
    chosen = grids.settings(words or [])
    plugins.discover(chosen.plugins)
    kinds: dict[str, Callable[[], list[dict[str, object]]]] = {
        "strategies": lambda: [told(plugin) for _, plugin in sorted(plugins.REGISTRY["strategy"].items())],
        "tasks": lambda: [told(plugin) for _, plugin in sorted(plugins.REGISTRY["task"].items())],
        "grids": lambda: [{"name": name, "what": grids.purpose(name)} for name in grids.names()],
    }
    if what not in kinds:
        raise ValueError(f"cannot list {plugins.unknown(what, kinds)}")
    show(what, kinds[what](), chosen)


def told(plugin: plugins.Plugin) -> dict[str, object]:
    """A plug-in in a row: name, what it does, parameters with their defaults."""
    lines = (plugin.function.__doc__ or "").strip().splitlines() or [""]
    given = [
        name if default is plugins.REQUIRED else f"{name}={plugins.plain(default)}"
        for name, (_, default) in plugin.parameters().items()
    ]
    return {"name": plugin.name, "version": plugin.version, "what": lines[0], "parameters": " ".join(given)}


@app.command()
def new(kind: str, name: str, words: Words = None) -> None:
    """Write a new strategy of about ten lines and its test."""
    from benchmark.scaffold import new_strategy

    if kind != "strategy":
        raise ValueError(f"new {kind}: only `new strategy NAME` is known")
    chosen = grids.settings(words or [])
    plugins.discover(chosen.plugins if chosen.plugins and Path(chosen.plugins).is_dir() else None)
    code, test = new_strategy(name, chosen.plugins, chosen.check_on)
    more = f" plugins={chosen.plugins}" if chosen.plugins else ""
    typer.echo(f"wrote {code} and {test}\nnext: edit it, then\n  python -m benchmark check {name}{more}")
    typer.echo(f"  python -m benchmark run 'tasks=[{chosen.check_on}]' 'strategies=[random,{name}]'{more}")


@app.command()
def check(name: str, words: Words = None) -> None:
    """Run the conformance kit on one strategy or task and say what failed."""
    from benchmark import conformance

    chosen = grids.settings(words or [])
    plugins.discover(chosen.plugins)
    kind = "task" if plugins.parse(name)[0] in plugins.REGISTRY["task"] else "strategy"
    on = grids.Spec.read("task", chosen.check_on)
    findings = conformance.check(grids.Spec.read(kind, name), on, prepared(chosen))
    rows: list[dict[str, object]] = [
        {"check": one.check, "result": "failed" if one.words else "ok", "why": one.words} for one in findings
    ]
    show(f"check {name}", rows, chosen)
    if any(one.words for one in findings):
        raise typer.Exit(1)


def show(title: str, rows: list[dict[str, object]], chosen: Settings) -> None:
    """Rows as a table, or as JSON."""
    if chosen.format == "json":
        typer.echo(json.dumps(rows, indent=1))
        return
    shown = Shown(title=escape(title), header_style="bold")
    for number, name in enumerate(rows[0] if rows else ()):
        shown.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    (out if out.is_terminal else wide(160)).print(shown)


def say(line: str) -> None:
    """A line for the person at the terminal, apart from the output."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command line; every user's error is one line."""
    try:
        app()
    except (ValueError, OSError, Unwritable) as error:
        say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
