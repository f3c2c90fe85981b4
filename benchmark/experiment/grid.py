"""Experiments and grids: the cells of a run, and their order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import ORDINARY, Variant


@dataclass(frozen=True)
class Experiment:
    """The experiment behind one table: a task under a schedule, with strategies and seeds."""

    name: str
    task: Spec
    schedule: Schedule
    strategies: tuple[Spec, ...]
    seeds: tuple[int, ...]
    auto: AutoSeeds | None = None
    num_seeds: Mapping[str, int] = field(default_factory=dict, hash=False)  # by strategy, where fewer than `seeds`
    variants: tuple[Variant, ...] = (ORDINARY,)  # run for each seed

    def cells(self) -> Iterator[Cell]:
        """Yields its cells seed by seed, so that a run that stops early has whole comparisons."""
        return (cell for _, cell in self.ranked_cells())

    def ranked_cells(self) -> Iterator[tuple[int, Cell]]:
        """Yields its cells, each with the position of its seed among the seeds."""
        for (rank, number), variant in itertools.product(enumerate(self.seeds), self.variants):
            for strategy in self.strategies:
                if rank >= self.num_seeds.get(strategy.label, len(self.seeds)):
                    continue
                yield rank, Cell(self.task, strategy, self.schedule, number, variant)


@dataclass(frozen=True)
class Grid:
    """All experiments of a run."""

    name: str
    experiments: tuple[Experiment, ...]
    remarks: tuple[str, ...] = ()  # settings that were filled in, one line for each experiment

    def cells(self, by_seed: bool = False) -> list[Cell]:
        """Lists the cells in the order of running, each once even where experiments share it, and checks their needs.

        Args:
            by_seed: the first seed of all experiments goes before the second; otherwise experiment by experiment.
        """
        pairs = [pair for experiment in self.experiments for pair in experiment.ranked_cells()]
        ordered = sorted(pairs, key=lambda pair: pair[0]) if by_seed else pairs
        cells = {cell.path: cell for _, cell in ordered}
        for cell in cells.values():
            cell.check_needs()
        return list(cells.values())
