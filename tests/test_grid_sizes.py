"""Every cell of every grid that comes with the package chooses once, on a stand-in of its pool's size and with its
budget: what a strategy refuses, forgets or cannot finish there is found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from benchmark import config
from benchmark.api import Indices
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, paths
from benchmark.runner import acquisition
from tests._stand_in import BLOCKS, Kind, StandIn

discovery.discover()
KINDS: dict[str, Kind] = {
    "Classification": "classifier", "Detection": "detector", "PoseEstimation": "pose estimator",
    "Segmentation": "segmenter",
}  # fmt: skip
POOLS: dict[str, tuple[Kind, int]] = {  # by experiment, or else by task; of other tasks: as many images as they buy
    "cifar10": ("classifier", 50_000), "cifar100": ("classifier", 50_000), "svhn": ("classifier", 73_257),
    "svhn_as_published": ("classifier", 73_257), "digits": ("classifier", 1_297),
    "image_folder": ("classifier", 50_000), "tiny_imagenet": ("classifier", 100_000),
    "coco": ("detector", 117_266), "coco_large_fcos": ("detector", 118_287), "coco_sample": ("detector", 80),
    "coco_large_fcos_torchvision": ("detector", 118_287),
    "voc": ("detector", 5_717), "voc0712": ("detector", 16_551), "neu_det": ("detector", 1_500),
    "oxford_pet": ("classifier", 3_680),
    "scenes": ("detector", 800), "scene_masks": ("segmenter", 800), "cityscapes": ("segmenter", 2_975),
    "coco_keypoints": ("pose estimator", 64_115), "stick_figures": ("pose estimator", 400),
}  # fmt: skip
NETWORKS_OF_THEIR_OWN = {  # trained when they choose: one epoch of a small network is enough here
    "discriminative": {"epochs": 1}, "vaal": {"epochs": 1, "size": 8, "width": 8},
}  # fmt: skip
PICK_BY_PICK = ("coreset", "badge", "geal", "freesel", "typiclust", "probcover")
MANY = 100_000_000  # pairs of candidates and picks from which these are slow


@cache
def experiments_of(name: str) -> Sequence[Experiment]:
    """The experiments of a grid."""
    return config.build_grid(config.compose_settings([f"grid={name}"])).experiments


def kind_of(experiment: Experiment) -> Kind:
    """What the class of the task is."""
    names = [parent.__name__ for parent in experiment.task.plugin.task_class.__mro__]
    [kind] = [KINDS[name] for name in names if name in KINDS]
    return kind


def pool(experiment: Experiment) -> tuple[Kind, int]:
    """Kind and size of the stand-in: a grid that is new needs no entry above, unless its pool is much larger."""
    schedule = experiment.schedule
    num_labels = schedule.initial + schedule.validation + schedule.budget * schedule.num_acquisitions
    needed = num_labels + num_labels // 10
    return POOLS.get(experiment.name) or POOLS.get(experiment.task.name) or (kind_of(experiment), needed)


def num_bought(cell: Cell) -> int:
    """In one choice."""
    return sum(cell.schedule.budgets) if cell.schedule.one_pass else cell.schedule.budget


def is_slow(experiment: Experiment, cell: Cell) -> bool:
    """Takes a second or more."""
    given, pairs = cell.strategy.values, pool(experiment)[1] * num_bought(cell)
    return (
        cell.strategy.name == "vaal"
        or given.get("depth", 0) * given.get("repeats", 0) >= 1000
        or (pairs >= MANY and cell.strategy.name in PICK_BY_PICK)
    )


def quick(strategy: Spec) -> Spec:
    """The strategy, which trains for one epoch if it trains a network of its own."""
    return replace(strategy, values=strategy.values | NETWORKS_OF_THEIR_OWN.get(strategy.name, {}))


def choice_of(strategy: Spec) -> str:
    """What its choice depends on here: which encoder it has does not matter."""
    values = strategy.values | {"encoder": strategy.values.get("encoder") is not None}
    return f"{strategy.name} {sorted(values.items())}"


def cells() -> Iterator[Any]:
    """Each of the grids' cells once, by what a choice depends on here."""
    keys = set()
    for name in paths.grid_names():
        for experiment in experiments_of(name):
            for strategy in experiment.strategies:
                strategy = quick(strategy)
                cell = Cell(experiment.task, strategy, experiment.schedule, 0)
                key = (pool(experiment), experiment.schedule, choice_of(strategy))
                if key not in keys:
                    keys.add(key)
                    marks = [pytest.mark.slow] if is_slow(experiment, cell) else []
                    title = f"{name}-{experiment.name}-{strategy.label}"
                    yield pytest.param(experiment, cell, id=title, marks=marks)


CELLS = list(cells())


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


@pytest.mark.parametrize("name", paths.grid_names())
def test_pools_are_of_their_kind_and_large_enough(name: str) -> None:
    for experiment in experiments_of(name):
        kind, num_pool = pool(experiment)
        assert kind == kind_of(experiment), experiment.name
        experiment.schedule.check_pool_size(num_pool)


def test_every_cell_of_every_file_is_tested() -> None:
    """Those that choose alike once, in the first grid that has them."""
    tested = {(pool(experiment), cell.schedule, choice_of(cell.strategy)) for experiment, cell in map(values_of, CELLS)}
    for path in (paths.CONFIGS / "grid").glob("*.yaml"):
        for experiment in experiments_of(path.stem):
            for strategy in experiment.strategies:
                assert (pool(experiment), experiment.schedule, choice_of(quick(strategy))) in tested, (path, strategy)


def values_of(parameters: Any) -> tuple[Experiment, Cell]:
    experiment, cell = parameters.values
    return experiment, cell


@pytest.mark.parametrize(("experiment", "cell"), CELLS)
def test_every_cell_of_every_grid_chooses_at_its_size(experiment: Experiment, cell: Cell) -> None:
    cell.check_needs()
    picks = choose(experiment, cell)
    assert len(np.unique(picks)) == num_bought(cell)
