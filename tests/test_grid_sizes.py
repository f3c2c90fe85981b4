"""Every cell of every grid that comes with the package chooses once, on a stand-in of its pool's size and with its
budget: what a strategy refuses, forgets or cannot finish there is found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from benchmark import config
from benchmark.api import Indices
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment
from benchmark.plugins import discovery, paths
from benchmark.runner import acquisition
from tests._stand_in import BLOCKS, Kind, StandIn

discovery.discover()
POOLS: dict[str, tuple[Kind, int]] = {  # by experiment, or else by task
    "cifar10": ("classifier", 50_000), "cifar100": ("classifier", 50_000), "svhn": ("classifier", 73_257),
    "svhn_as_published": ("classifier", 73_257), "digits": ("classifier", 1_297),
    "image_folder": ("classifier", 50_000), "tiny_imagenet": ("classifier", 100_000),
    "coco": ("detector", 117_266), "coco_large_fcos": ("detector", 118_287), "coco_sample": ("detector", 80),
    "voc": ("detector", 5_717), "voc0712": ("detector", 16_551), "neu_det": ("detector", 1_500),
    "scenes": ("detector", 800), "scene_masks": ("segmenter", 800), "cityscapes": ("segmenter", 2_975),
}  # fmt: skip
NETWORKS_OF_THEIR_OWN = ("discriminative", "vaal")  # trained when they choose: one epoch is enough here
PICK_BY_PICK = ("coreset", "badge", "geal", "freesel", "typiclust", "probcover")
MANY = 100_000_000  # pairs of candidates and picks from which these are slow


def pool(experiment: Experiment) -> tuple[Kind, int]:
    return POOLS.get(experiment.name) or POOLS[experiment.task.name]


def num_bought(cell: Cell) -> int:
    """In one choice."""
    return cell.schedule.budget * (cell.schedule.num_acquisitions if cell.schedule.one_pass else 1)


def is_slow(experiment: Experiment, cell: Cell) -> bool:
    """Takes a second or more."""
    given, pairs = cell.strategy.values, pool(experiment)[1] * num_bought(cell)
    return (
        cell.strategy.name == "vaal"
        or given.get("depth", 0) * given.get("repeats", 0) >= 1000
        or (pairs >= MANY and cell.strategy.name in PICK_BY_PICK)
    )


def cells() -> Iterator[Any]:
    """Each of the grids' cells once, by what a choice depends on here."""
    keys = set()
    for name in paths.grid_names():
        for experiment in config.build_grid(config.compose_settings([f"grid={name}"])).experiments:
            for strategy in experiment.strategies:
                if strategy.name in NETWORKS_OF_THEIR_OWN:
                    strategy = replace(strategy, values=strategy.values | {"epochs": 1})
                cell = Cell(experiment.task, strategy, experiment.schedule, 0)
                has_encoder = strategy.values.get("encoder") is not None  # which it is does not matter
                values = strategy.values | {"encoder": has_encoder}
                key = (pool(experiment), experiment.schedule, strategy.name, repr(sorted(values.items())))
                if key not in keys:
                    keys.add(key)
                    marks = [pytest.mark.slow] if is_slow(experiment, cell) else []
                    title = f"{name}-{experiment.name}-{strategy.label}"
                    yield pytest.param(experiment, cell, id=title, marks=marks)


def choose(experiment: Experiment, cell: Cell) -> Indices:
    """As the loop does after the initial draw, checked as there: as many as the budget, distinct and unlabelled."""
    kind, num_pool = pool(experiment)
    two_stages = "faster_rcnn" in str(cell.task.values.get("model"))
    task = cast(Any, StandIn(kind, num_pool, num_blocks=BLOCKS["two stages" if two_stages else kind]))
    initial_draw = acquisition.draw_initial(cell, task)
    view = acquisition.build_view(
        cell, task, initial_draw, task.model(), [initial_draw.initial] if cell.schedule.initial else []
    )
    return acquisition.query_strategy(cell, view, 1, num_bought(cell))


@pytest.mark.parametrize(("experiment", "cell"), list(cells()))
def test_every_cell_of_every_grid_chooses_at_its_size(experiment: Experiment, cell: Cell) -> None:
    cell.check_needs()
    picks = choose(experiment, cell)
    assert len(np.unique(picks)) == num_bought(cell)
