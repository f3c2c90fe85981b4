"""The interim looks of a run with `seeds=auto`: which seeds the next look needs, and the cells that it runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.analysis import comparisons, load_experiments
from benchmark.analysis.sequential import SequentialState, summarize_states
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.store import Store

if TYPE_CHECKING:
    from benchmark.runner.events import Event


def extend_grid(grid: Grid, store: Store) -> Grid:
    """Returns the grid with the seeds that the next look of each experiment needs, given its records."""
    return replace(grid, experiments=tuple(extend_experiment(experiment, store) for experiment in grid.experiments))


def extend_experiment(experiment: Experiment, store: Store) -> Experiment:
    """Returns an experiment with the seeds of its next look.

    A strategy that is decided or given up keeps the seeds that it has; the reference gets as many as any other
    strategy.
    """
    auto = experiment.auto
    if auto is None:
        return experiment
    states = recorded_states(experiment, store)
    labels = [spec.label for spec in experiment.strategies]
    num_seeds = {name: states[name].num_seeds if name in states else auto.looks[0] for name in labels}
    others = [number for name, number in num_seeds.items() if name != auto.reference]
    return replace(experiment, num_seeds={**num_seeds, auto.reference: max(others)})


def recorded_states(experiment: Experiment, store: Store) -> Mapping[str, SequentialState]:
    """Returns the state of an experiment's comparisons, by strategy; {} without records, or if they do not agree."""
    if experiment.auto is None or not any(entry["name"] == experiment.name for entry in store.experiments()):
        return {}
    try:
        [records] = load_experiments.read_stores([store], experiment.name)
    except MixedRecordsError:  # the run refuses such records, or moves them aside
        return {}
    labels = {spec.label for spec in experiment.strategies}
    curves = {label: curve for label, curve in records.curves.items() if label in labels}
    records = replace(records, auto_seeds=experiment.auto, curves=curves)
    return comparisons.compare_sequentially(records, experiment.auto.reference)


def run_looks(
    grid: Grid,
    rounds_left: dict[Cell, int],
    store: Store,
    run: Callable[[Sequence[Cell]], Generator[Event]],
    update_manifest: Callable[[Iterable[Experiment]], None],
    say: Callable[[str], None],
) -> Generator[Event]:
    """Runs the rest of a look and the following looks, until each comparison is decided or given up, or seeds fail.

    Args:
        grid: with the seeds of the look that its records have reached.
        rounds_left: the rounds that each cell lacks; cells of later looks are added.
        store: the results folder.
        run: the launcher.
        update_manifest: puts the experiments of a look into the manifest.
        say: shows a line to the user: for each experiment, what a look has shown.
    """
    from benchmark.runner.record_checks import count_rounds_left  # imports torch

    cells = list(rounds_left)
    while True:
        yield from run(cells)
        for experiment in grid.experiments:
            if experiment.auto is not None:
                states = recorded_states(experiment, store)
                say(summarize_states(experiment.name, experiment.auto.reference, states))
        grid = extend_grid(grid, store)
        later = count_rounds_left(grid.cells(by_seed=True), store)
        cells = [cell for cell in later if cell not in rounds_left]
        if not cells:
            return
        update_manifest(grid.experiments)
        rounds_left.update({cell: later[cell] for cell in cells})
