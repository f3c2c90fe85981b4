"""The looks of a run with `seeds=auto`: which seeds the next one takes, and the cells that it runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.analysis import comparisons, reading
from benchmark.analysis.sequential import SequentialState, summarize_states
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.store import Store

if TYPE_CHECKING:
    from benchmark.runner.launch import Event


def extend_grid(grid: Grid, store: Store) -> Grid:
    """The grid with the seeds that the next look of each experiment takes, as far as its records have come."""
    return replace(grid, experiments=tuple(extend_experiment(one, store) for one in grid.experiments))


def extend_experiment(experiment: Experiment, store: Store) -> Experiment:
    """An experiment with the seeds that its next look takes: of a strategy that is decided or given up those it has
    had, of the reference as many as any has."""
    auto = experiment.auto
    if auto is None:
        return experiment
    found = recorded_states(experiment, store)
    labels = [spec.label for spec in experiment.strategies]
    num_seeds = {name: found[name].num_seeds if name in found else auto.looks[0] for name in labels}
    others = [number for name, number in num_seeds.items() if name != auto.reference]
    return replace(experiment, num_seeds={**num_seeds, auto.reference: max(others)})


def recorded_states(experiment: Experiment, store: Store) -> Mapping[str, SequentialState]:
    """Where the comparisons of an experiment stand, by its records; {} where there are none, or none that agree."""
    if experiment.auto is None or not any(one["name"] == experiment.name for one in store.experiments()):
        return {}
    try:
        [known] = reading.read_stores([store], experiment.name)
    except MixedRecordsError:  # which the run refuses, or moves aside
        return {}
    wanted = {spec.label for spec in experiment.strategies}
    known = replace(known, auto_seeds=experiment.auto, curves={n: c for n, c in known.curves.items() if n in wanted})
    return comparisons.compare_sequentially(known, experiment.auto.reference)


def run_looks(
    grid: Grid,
    rounds_left: dict[Cell, int],
    store: Store,
    run: Callable[[Sequence[Cell]], Generator[Event]],
    update_manifest: Callable[[Iterable[Experiment]], None],
    say: Callable[[str], None],
) -> Generator[Event]:
    """Runs what is left of a look, and then of the next, until all is decided or given up, or seeds have failed.

    Args:
        grid: with the seeds of the look that its records have come to.
        left: rounds that each cell lacks; those of later looks are added.
        store: where records are.
        run: a launcher.
        ask: puts the experiments of a look into the manifest.
        say: is told, in a line an experiment, what a look has shown.
    """
    from benchmark.runner.launch import count_rounds_left  # imports torch

    cells = list(rounds_left)
    while True:
        yield from run(cells)
        for experiment in grid.experiments:
            if experiment.auto is not None:
                found = recorded_states(experiment, store)
                say(summarize_states(experiment.name, experiment.auto.reference, found))
        grid = extend_grid(grid, store)
        later = count_rounds_left(grid.cells(by_seed=True), store)
        cells = [cell for cell in later if cell not in rounds_left]
        if not cells:
            return
        update_manifest(grid.experiments)
        rounds_left.update({cell: later[cell] for cell in cells})
