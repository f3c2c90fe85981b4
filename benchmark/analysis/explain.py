"""What the records say about one run: the answer of `python -m benchmark explain CELL`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.analysis.curves import Experiment, Run
from benchmark.experiment.variants import ORDINARY
from benchmark.plugins.paths import expand_home, path_as_typed
from benchmark.seeds import seed
from benchmark.text.escaping import shell_command
from benchmark.text.words import did_you_mean, plural

MACHINE_SETTINGS = ("data", "plugins", "device", "threads", "deterministic")  # settings of the machine


def find_run(experiments: Sequence[Experiment], cell: str) -> tuple[Experiment, Run]:
    """Finds the run that `explain` is asked about.

    Args:
        experiments: the experiments to search.
        cell: the path of the run, the file of its records, or `EXPERIMENT/STRATEGY/seed-N`; the end of a path is
            enough where it is unique.

    Raises:
        ValueError: there is no such run, or several.
    """
    runs = [(experiment, run) for experiment in experiments for run in experiment.all_runs]
    names = {
        run.path: f"{experiment.title}/{run.strategy}/seed-{run.seed}{run.variant.file_suffix}"
        for experiment, run in runs
    }
    name = cell.strip("/").removesuffix(".jsonl").removeprefix("cells/")
    matches = [pair for pair in runs if name in (pair[1].path, names[pair[1].path])]
    if not matches and (file := Path(expand_home(cell, cell))).is_file():
        matches = [pair for pair in runs if pair[1].file.resolve() == file.resolve()]
    matches = matches or [pair for pair in runs if f"/{pair[1].path}".endswith(f"/{name}")]
    if len({run.path for _, run in matches}) != 1:
        if matches:
            raise ValueError(f"{cell}: several cells end in this: {', '.join(run.path for _, run in matches)}")
        raise ValueError(f"there is no cell {did_you_mean(cell, [*names, *names.values()][:200])}")
    return matches[0]


def describe_run(experiment: Experiment, run: Run) -> Iterator[str]:
    """Yields the command, seeds, data and versions of a run, and what each round bought, cost, scored and took."""
    folder = run.folder
    yield f"cell      {run.strategy} on {experiment.task}, seed {run.seed}{run.variant.description}: {run.path}"
    yield f"command   python -m benchmark {command_line(experiment, run, folder)}"
    yield f"records   {run.file}{' (damaged: ' + run.damage + ')' if run.damage else ''}"
    if run.header is None:
        yield f"nothing recorded{', it failed: see ' + str(folder / 'failures') if run.has_failed else ''}"
        return
    yield f"key       {run.header.key}, schema {run.header.schema}"
    yield f"data      {run.header.data[:16]}, {plural(run.header.num_pool, 'image')} in the pool"
    yield f"seeds     initial {seed('initial', run.header.cell['task']['name'], run.seed)}; of each round below"
    held_out = plural(len(run.header.held_out), "held-out image")
    yield f"start     {run.start_fingerprint} (data, initial set, {held_out}: the same for all strategies of a seed)"
    for kind in ("task", "strategy"):
        plugin = run.header.cell[kind]
        parameters = " ".join(f"{name}={value}" for name, value in plugin["parameters"].items())
        yield f"{kind:<10}{plugin['name']} version {plugin['version']} {parameters}".rstrip()
    for row in {json.dumps([row.versions, row.device]): row for row in run.measurements}.values():
        yield f"versions  {' '.join(f'{name} {value}' for name, value in row.versions.items())}; on {row.device}"
    yield from describe_rounds(run, experiment.file_names(run))


def command_line(experiment: Experiment, run: Run, folder: Path) -> str:
    """Returns the command that runs this run alone, in its own folder.

    For a run that varies training or selection alone, the command also runs the initial sets before its own. Settings
    of the machine are those of the last command in the folder.
    """
    assert experiment.schedule is not None
    schedule = {key: value for key, value in experiment.schedule.identity().items() if value != ""}
    seeds = {other.seed for other in experiment.all_runs if other.seed <= run.seed}
    verb, which = ("run", f"seeds=[{run.seed}]") if run.variant == ORDINARY else ("variance", f"sets={len(seeds)}")
    words = [verb, f"grid={experiment.source}", f"tasks=[{experiment.title}]", f"strategies=[{run.strategy}]", which]
    words += [*(f"{key}={value}" for key, value in schedule.items()), f"out={path_as_typed(folder)}"]
    return shell_command([*words, *(word for word in last_command(run) if word.partition("=")[0] in MACHINE_SETTINGS)])


def last_command(run: Run) -> list[str]:
    """Returns the words of the last command in a run's folder; empty where the manifest records none."""
    commands = [entry["command"] for entry in run.store.manifest().get("runs", [])]
    try:
        return shlex.split(commands[-1]) if commands else []
    except ValueError:  # a quote that is not closed
        return []


def describe_rounds(run: Run, file_names: Sequence[str]) -> Iterator[str]:
    """Yields lines on each round; with the files of the images where `file_names` lists those of the pool."""
    assert run.header is not None
    measurements = {row.round: row for row in run.measurements}
    task = run.header.cell["task"]["name"]
    for record in run.records:
        cost = ", ".join(f"{value:g} {name}" for name, value in record.cost.items())
        scores = " ".join(f"{name} {value:.6g}" for name, value in record.scores.items())
        yield f"round {record.round:<4}{record.num_labelled} labelled, paid {cost}; {scores}"
        if (row := measurements.get(record.round)) is not None:
            seconds = " ".join(f"{name} {value:.2f} s" for name, value in row.seconds.items())
            shared = " (fit from the cache)" if row.shared_fit else ""
            yield f"          {seconds}{shared}, peak {row.peak_mb:.0f} MB"
        if record.diagnostics:
            diagnostics = " ".join(f"{name} {value:.4g}" for name, value in record.diagnostics.items())
            yield f"          logged by the strategy: {diagnostics}"
        fit = seed("fit", task, run.seed, record.round, *run.variant.training_seed_names)
        select = seed("select", task, run.seed, run.strategy, record.round, *run.variant.selection_seed_names)
        yield f"          seeds fit {fit}" + f", select {select}" * bool(record.round)
        yield f"          bought {' '.join(map(str, record.bought))}"
        if len(file_names) > max(record.bought, default=0):
            yield f"          files  {shell_command(file_names[index] for index in record.bought)}"
