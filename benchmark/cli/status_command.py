"""The command `status`: how far the cells of a results folder are."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.analysis import comparisons, load_experiments
from benchmark.analysis.options import PARALLEL_MIN_CELLS, parse_options
from benchmark.analysis.sequential import summarize_states
from benchmark.cli.processes import map_in_processes
from benchmark.cli.terminal import print_rows, say
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY
from benchmark.records import versions
from benchmark.records.manifest import cell_variant
from benchmark.records.record import Measured
from benchmark.records.store import Store
from benchmark.text.words import did_you_mean, plural

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="settings, as `grid=quick` or `records=PATH`; see below"),
]
STATUS_NOTE = """\
cell: one strategy with one seed
hours left: at most, at the pace of the finished rounds"""


def status_command(arguments: Arguments = None) -> None:
    """Show how many cells of a results folder are done, failed or missing, and about how many hours are left."""
    options = parse_options(arguments or [], "status")
    entries = [
        (store, experiment)
        for store in map(Store, options.record_paths)
        for experiment in store.manifest()["experiments"]
    ]
    selected = [
        (store, experiment)
        for store, experiment in entries
        if options.task in ("", experiment["name"], experiment["task"])
    ]
    if not selected:
        names = [experiment["name"] for _, experiment in entries]
        raise ValueError(f"task={options.task}: no experiment is called {did_you_mean(options.task, names)}")
    is_parallel = sum(len(experiment["cells"]) for _, experiment in selected) > PARALLEL_MIN_CELLS
    rows = map_in_processes(experiment_status, selected) if is_parallel else list(map(experiment_status, selected))
    print_rows(", ".join(options.record_paths), rows, options.format, note=STATUS_NOTE)
    if options.format == "text":
        for store, experiment in selected:
            if "auto" in experiment:
                say(auto_seeds_status(store, experiment))
    say_variants(sum(cell_variant(cell) != ORDINARY for _, experiment in selected for cell in experiment["cells"]))


def experiment_status(entry: tuple[Store, dict[str, object]]) -> dict[str, object]:
    """Counts the cells of one experiment by state, and estimates the hours that its missing rounds take.

    The estimate is an upper bound, at the mean pace of the recorded rounds.

    Args:
        entry: the store, and the experiment's entry in its manifest.
    """
    store, experiment = entry
    cells, settings = experiment["cells"], experiment["schedule"]
    assert isinstance(cells, list) and isinstance(settings, dict)
    cells = [cell for cell in cells if cell_variant(cell) == ORDINARY]
    schedule = Schedule.read(settings)
    done = failed = num_rounds = total_rounds = num_restarts = 0
    installed_versions = versions.installed_versions()
    seconds_spent = 0.0
    for cell in cells:
        measurements = store.measurements(cell["path"])
        seconds_spent += sum(own_seconds(measurement) for measurement in measurements)
        records = store.records(cell["path"])[1]
        is_finished = schedule.is_finished(records)
        num_rounds += len(records)
        total_rounds += len(records) if is_finished else schedule.rounds
        done += is_finished
        versions_used = [measurement.versions for measurement in measurements if measurement.round < len(records)]
        num_restarts += not is_finished and versions.needs_restart(
            versions.find_changes(versions_used, installed_versions)
        )
        failed += not is_finished and store.read_failure(cell["path"]) is not None
    hours_left = None if not num_rounds else round(seconds_spent / num_rounds * (total_rounds - num_rounds) / 3600, 2)
    counts = {"cells": len(cells), "done": done, "failed": failed, "missing": len(cells) - done - failed}
    restarts = f"`run` restarts {plural(num_restarts, 'cell')}: the minor version of torch has changed"
    return {
        "experiment": experiment["name"],
        **counts,
        "rounds": f"{num_rounds}/{total_rounds}",
        "hours left": hours_left,
        "note": restarts if num_restarts else "",
    }


def say_variants(number: int) -> None:
    """Tells how many runs vary only training or only selection, and that `variance` alone uses them."""
    if number:
        verb = "varies" if number == 1 else "vary"
        say(f"{plural(number, 'run')} that {verb} training or selection alone: left out here, used by `variance`")


def auto_seeds_status(store: Store, experiment: dict[str, object]) -> str:
    """Describes in one line how far an experiment with seeds=auto is, and what its next interim analysis costs."""
    [curves] = load_experiments.read_stores([store], str(experiment["name"]))
    assert curves.auto_seeds is not None and curves.schedule is not None
    states = comparisons.compare_sequentially(curves, curves.auto_seeds.reference)
    sentence = summarize_states(curves.title, curves.auto_seeds.reference, states)
    target_seeds = {name: state.num_seeds for name, state in states.items() if state.status == "open"}
    if not target_seeds:
        return sentence
    target_seeds[curves.auto_seeds.reference] = max(target_seeds.values())
    finished_runs = [run for run in curves.runs if curves.schedule.is_finished(run.records)]
    num_runs = sum(
        max(0, number - sum(run.strategy == name for run in finished_runs)) for name, number in target_seeds.items()
    )
    seconds_spent = sum(own_seconds(measurement) for run in finished_runs for measurement in run.measurements)
    hours = f", about {seconds_spent / len(finished_runs) * num_runs / 3600:.2g} hours" if finished_runs else ""
    return f"{sentence}; it takes {plural(num_runs, 'run')}{hours}"


def own_seconds(measured: Measured) -> float:
    """Seconds that a round took itself, without encodings and fits that it shared with other cells."""
    return sum(
        value
        for kind, value in measured.seconds.items()
        if kind != "encode" and not (kind == "fit" and measured.shared_fit)
    )
