"""Experiments and grids: which cells a run has, and in which order."""

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
    """One table: a task under a schedule, strategies and seeds."""

    name: str
    task: Spec
    schedule: Schedule
    strategies: tuple[Spec, ...]
    seeds: tuple[int, ...]
    auto: AutoSeeds | None = None
    num_seeds: Mapping[str, int] = field(default_factory=dict, hash=False)  # by strategy, where it takes fewer
    variants: tuple[Variant, ...] = (ORDINARY,)  # of each seed

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that an early stop leaves whole comparisons."""
        return (cell for _, cell in self.ranked_cells())

    def ranked_cells(self) -> Iterator[tuple[int, Cell]]:
        """Its cells, each with the rank of its seed."""
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
    remarks: tuple[str, ...] = ()  # what nobody set and the grid does not say, a line an experiment

    def cells(self, by_seed: bool = False) -> list[Cell]:
        """Each cell once, also where experiments share it; checked, in the order of running: experiment by experiment,
        or the first seed of all of them, then the second."""
        pairs = [pair for experiment in self.experiments for pair in experiment.ranked_cells()]
        ordered = sorted(pairs, key=lambda pair: pair[0]) if by_seed else pairs
        found = {cell.path: cell for _, cell in ordered}
        for cell in found.values():
            cell.check_needs()
        return list(found.values())
