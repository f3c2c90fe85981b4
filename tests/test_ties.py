"""Images that a strategy finds equal are selected in a random order, drawn for each round of each cell.

The order of the pool, which may be that of the classes, decides nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from _cells import cell

from benchmark.api import Indices, Machine, View
from benchmark.plugins import discovery
from benchmark.plugins.registry import REGISTRY, Plugin
from benchmark.runner import acquisition, task_loading
from benchmark.strategies.shared.ties import argmax_by_rank
from tests._stand_in import Kind, StandIn

discovery.discover()
RNG = np.random.default_rng
OURS = "benchmark.strategies."
PLUGINS = {name: p for name, p in REGISTRY["strategy"].items() if p.function.__module__.startswith(OURS)}
OPTIONS: dict[str, dict[str, Any]] = {
    "isal": {"depth": 2, "repeats": 2},
    "discriminative": {"epochs": 1, "num_queries": 2},
    "matched_random": {"like": "gradient_similarity"},
    "vaal": {"epochs": 1, "latent": 2, "width": 2, "size": 4, "flip": False},
    "probcover": {"delta": 0.1},
    "batch_bald": {"num_samples": 4, "num_configurations": 40},
}
BOXES_ALONE = {"cald", "ppal", "localization_stability", "localization_tightness"}
CLASSES_ALONE = {"badge", "alfa_mix", "bait", "batch_bald", "dcom", "dropquery", "galaxy"}


def look(task: Any, needs: Any = (), tie_seed: int = 0, num_labelled: int = 10) -> View:
    order = RNG(1).permutation(task.num_pool)
    labelled, held_out, rest = np.split(order, [num_labelled, num_labelled + 10])
    given = {"num_initial": num_labelled, "held_out": held_out, "needs": needs, "tie_seed": tie_seed}
    return View(task, task.model(), labelled, np.sort(rest), **given)


def choose(plugin: Plugin, task: StandIn, tie_seed: int, budget: int) -> tuple[View, Indices]:
    values = plugin.bind(OPTIONS.get(plugin.name, {}))
    view = look(task, plugin.resolve_needs(values), tie_seed)
    return view, plugin.function(view, budget, RNG(tie_seed), **values)


# --- View -------------------------------------------------------------------------------------
def test_equal_scores_buy_a_random_part_of_the_pool() -> None:
    """Each of 40 images is selected about equally often, by lowest and by highest."""
    task = StandIn("classifier", 60)
    for name in ("lowest", "highest"):
        views = [look(task, tie_seed=seed) for seed in range(400)]
        bought = Counter(index for view in views for index in getattr(view, name)(torch.zeros(40), 10).tolist())
        assert len(bought) == 40
        assert all(60 < number < 145 for number in bought.values())  # 100 +- 5 standard deviations


def test_equal_scores_buy_all_classes_in_proportion() -> None:
    """In a pool stored by class, 100 images of each of ten, a constant score buys about 30 of each."""
    view = look(StandIn("classifier", 1020), num_labelled=10)
    chosen = view.highest(torch.zeros(len(view.unlabelled)), 300)
    counts = np.bincount(np.minimum(chosen * 10 // 1020, 9), minlength=10)
    assert (abs(counts - 30) < 5 * np.sqrt(30 * 0.7)).all()
    assert np.bincount(view.unlabelled[:300] * 10 // 1020, minlength=10)[5:].sum() == 0  # by position: three classes


def test_ranks_decide_between_equals_alone() -> None:
    view, scores = look(StandIn("classifier", 60), tie_seed=3), torch.tensor([2.0, 1.0, 2.0, 0.0] * 10)
    rank = dict(zip(view.unlabelled.tolist(), view.tie_ranks(view.unlabelled).tolist(), strict=True))
    score = dict(zip(view.unlabelled.tolist(), scores.tolist(), strict=True))
    assert view.lowest(scores, 40).tolist() == sorted(score, key=lambda i: (score[i], rank[i]))
    assert view.highest(scores, 40).tolist() == sorted(score, key=lambda i: (-score[i], rank[i]))
    distinct = torch.from_numpy(RNG(0).permutation(40))
    assert view.lowest(distinct, 40).tolist() == view.unlabelled[distinct.argsort().numpy()].tolist()


def test_ranks_are_those_of_the_whole_round() -> None:
    """Ranks exist for labelled images too; a subset has the same ranks as in the whole; they are one permutation."""
    view = look(StandIn("classifier", 60), tie_seed=3)
    everything = np.concatenate([view.labelled, view.unlabelled])
    whole = dict(zip(everything.tolist(), view.tie_ranks(everything).tolist(), strict=True))
    assert len(set(whole.values())) == 50
    assert view.tie_ranks(everything[7:9]).tolist() == [whole[index] for index in everything[7:9].tolist()]


def test_the_largest_of_equals_is_that_of_the_lowest_rank() -> None:
    values = torch.tensor([1.0, 7.0, -torch.inf, 7.0, 7.0])
    assert argmax_by_rank(values, torch.tensor([0, 4, 1, 2, 3])).tolist() == [3]
    assert argmax_by_rank(torch.full((3,), -torch.inf), torch.tensor([2, 0, 1])).tolist() == [1]
    assert argmax_by_rank(torch.tensor([5, 9, 2]), torch.tensor([0, 2, 1])).tolist() == [1]


def test_the_order_is_drawn_for_each_round_of_each_cell() -> None:
    def ranks(strategy: str, seed: int, num_rounds: int) -> list[int]:
        own_cell = cell(strategy, seed=seed)
        task = task_loading.build_task(own_cell.task, Machine(torch.device("cpu")))
        initial_draw = acquisition.draw_initial(cell("random"), task)
        by_round = [
            initial_draw.initial,
            *(np.flatnonzero(~np.isin(np.arange(40), initial_draw.initial))[:2] for _ in range(1)),
        ]
        view = acquisition.build_view(own_cell, task, initial_draw, task.model(), by_round[:num_rounds])
        return view.tie_ranks(np.arange(40)[np.isin(np.arange(40), view.unlabelled)]).tolist()[:5]

    rounds = [("entropy", 0, 1), ("entropy", 0, 2), ("entropy", 1, 1), ("margin", 0, 1)]
    drawn = [ranks(*row) for row in rounds]
    assert len({tuple(row) for row in drawn}) == 4
    assert drawn == [ranks(*row) for row in rounds]


# --- every strategy ---------------------------------------------------------------------------
def cases() -> list[tuple[str, Kind]]:
    """Returns each strategy with a task that it is made for."""
    for_all = [(name, kind) for name in sorted(PLUGINS) for kind in ("classifier", "detector")]
    left_out = {(name, "classifier") for name in BOXES_ALONE} | {(name, "detector") for name in CLASSES_ALONE}
    return [case for case in for_all if case not in left_out]  # type: ignore[misc]


@pytest.mark.parametrize(("name", "kind"), cases())
def test_where_all_images_are_equal_the_pools_order_decides_nothing(name: str, kind: Kind) -> None:
    """The mean position of 12 selections of 8 of 80 images, on a scale from 0 to 1, is within four standard deviations
    of the middle; the first 8 images would have 0.04."""
    task = StandIn(kind, 100, alike=True)
    places, sets = [], set()
    for seed in range(12):
        view, chosen = choose(PLUGINS[name], task, seed, 8)
        assert len(set(chosen.tolist())) == 8
        places.append(np.searchsorted(view.unlabelled, chosen) / 79)
        sets.add(tuple(sorted(chosen.tolist())))
    assert len(sets) == 12
    assert abs(np.mean(places) - 0.5) < 4 * np.sqrt(1 / 12 / 96)
