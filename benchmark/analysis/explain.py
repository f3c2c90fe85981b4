"""What lies behind one cell: `python -m benchmark explain CELL`."""

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

MACHINE_SETTINGS = (
    "data",
    "plugins",
    "device",
    "threads",
    "deterministic",
)  # settings beside the grid's that a cell may need


def find_run(experiments: Sequence[Experiment], cell: str) -> tuple[Experiment, Run]:
    """The run of that path, or of `EXPERIMENT STRATEGY SEED` joined by slashes; the end of a path will do where it is
    the only one. ValueError otherwise."""
    known = [(one, run) for one in experiments for run in one.all_runs]
    names = {run.path: f"{one.title}/{run.strategy}/seed-{run.seed}{run.variant.file_suffix}" for one, run in known}
    wanted = cell.strip("/").removesuffix(".jsonl").removeprefix("cells/")
    exact = [(one, run) for one, run in known if wanted in (run.path, names[run.path])]
    if not exact and (file := Path(expand_home(cell, cell))).is_file():
        exact = [(one, run) for one, run in known if run.file.resolve() == file.resolve()]
    found = exact or [(one, run) for one, run in known if f"/{run.path}".endswith(f"/{wanted}")]
    if len({run.path for _, run in found}) != 1:
        if found:
            raise ValueError(f"{cell}: several cells end in this: {', '.join(run.path for _, run in found)}")
        raise ValueError(f"there is no cell {did_you_mean(cell, [*names, *names.values()][:200])}")
    return found[0]


def describe_run(experiment: Experiment, run: Run) -> Iterator[str]:
    """Command, seeds, data, versions, and a line a round: labels, cost, scores, seconds and what was bought."""
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
        part = run.header.cell[kind]
        told = " ".join(f"{name}={value}" for name, value in part["parameters"].items())
        yield f"{kind:<10}{part['name']} version {part['version']} {told}".rstrip()
    for one in {json.dumps([one.versions, one.device]): one for one in run.measurements}.values():
        yield f"versions  {' '.join(f'{name} {value}' for name, value in one.versions.items())}; on {one.device}"
    yield from describe_rounds(run, experiment.file_names(run))


def command_line(experiment: Experiment, run: Run, folder: Path) -> str:
    """The words that run this cell alone, in the folder that it is in, or, where it varies training or selection alone,
    with all sets up to its own; the machine's settings are those of the last command there."""
    assert experiment.schedule is not None
    told = {key: value for key, value in experiment.schedule.identity().items() if value != ""}
    sets = {one.seed for one in experiment.all_runs if one.seed <= run.seed}
    verb, seeds = ("run", f"seeds=[{run.seed}]") if run.variant == ORDINARY else ("variance", f"sets={len(sets)}")
    words = [verb, f"grid={experiment.source}", f"tasks=[{experiment.title}]", f"strategies=[{run.strategy}]", seeds]
    words += [*(f"{key}={value}" for key, value in told.items()), f"out={path_as_typed(folder)}"]
    return shell_command([*words, *(word for word in last_command(run) if word.partition("=")[0] in MACHINE_SETTINGS)])


def last_command(run: Run) -> list[str]:
    """The words of the last command in a run's folder; none where the manifest does not tell them."""
    commands = [one["command"] for one in run.store.manifest().get("runs", [])]
    try:
        return shlex.split(commands[-1]) if commands else []
    except ValueError:  # a quote that is not closed
        return []


def describe_rounds(run: Run, file_names: Sequence[str]) -> Iterator[str]:
    """A line a round, and one of what was bought; files: of the pool's images, where they are known."""
    assert run.header is not None
    measured = {one.round: one for one in run.measurements}
    task = run.header.cell["task"]["name"]
    for record in run.records:
        cost = ", ".join(f"{value:g} {name}" for name, value in record.cost.items())
        scores = " ".join(f"{name} {value:.6g}" for name, value in record.scores.items())
        yield f"round {record.round:<4}{record.num_labelled} labelled, paid {cost}; {scores}"
        if record.round in measured:
            one = measured[record.round]
            seconds = " ".join(f"{name} {value:.2f} s" for name, value in one.seconds.items())
            shared = " (a fit that is shared)" if one.shared_fit else ""
            yield f"          {seconds}{shared}, peak {one.peak_mb:.0f} MB"
        if record.diagnostics:
            logged = " ".join(f"{name} {value:.4g}" for name, value in record.diagnostics.items())
            yield f"          logged by the strategy: {logged}"
        fit = seed("fit", task, run.seed, record.round, *run.variant.training_seed_names)
        select = seed("select", task, run.seed, run.strategy, record.round, *run.variant.selection_seed_names)
        yield f"          seeds fit {fit}" + f", select {select}" * bool(record.round)
        yield f"          bought {' '.join(map(str, record.bought))}"
        if len(file_names) > max(record.bought, default=0):
            yield f"          files  {shell_command(file_names[index] for index in record.bought)}"
