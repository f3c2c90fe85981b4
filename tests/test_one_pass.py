"""One-pass schedules: everything is selected at once and trained on at each budget, from some labels or from none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.analysis import audit
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.tables import round_headers
from benchmark.api import Machine
from benchmark.cli import commands
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.records.store import Store
from benchmark.runner import acquisition, fit_cache, loop, task_loading
from benchmark.runner.events import Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch
from benchmark.seeds import seed
from tests._cells import bytes_of, cell, run

GEAL = "geal[encoder=patch_pca,k=3]"
COLD = {"initial": 0, "budget": 10, "validation": 0}
CPU = Machine(torch.device("cpu"))


def records(events: list[Any]) -> list[Any]:
    assert all(isinstance(event, Round) for event in events), events
    return [event.record for event in events]


@pytest.mark.parametrize("strategy", ["random", "entropy", GEAL])
def test_all_is_chosen_at_once_by_the_model_of_round_0_and_bought_in_order(strategy: str, tmp_path: Path) -> None:
    one_cell = cell(strategy, rounds=4, one_pass=True)
    recorded = records(run([one_cell], tmp_path))
    assert [len(record.bought) for record in recorded] == [20, 5, 5, 5]
    task = task_loading.build_task(one_cell.task, CPU)
    fits, initial_draw = FitCache(tmp_path / "other", 0, "cpu"), acquisition.draw_initial(one_cell, task)
    model = fit_cache.fit_round(one_cell, task, fits, initial_draw.initial, 0).model
    rng = np.random.default_rng(seed("select", "digits", 0, one_cell.strategy.label, 1))
    view = acquisition.build_view(one_cell, task, initial_draw, model, [initial_draw.initial])
    whole = one_cell.strategy.plugin.function(view, 15, rng, **one_cell.strategy.values)
    assert [index for record in recorded[1:] for index in record.bought] == whole.tolist()


def test_it_differs_from_choosing_anew_each_round(tmp_path: Path) -> None:
    """The first selections start alike; the later ones differ, for a strategy that asks the model."""
    once, anew = (
        records(run([cell("entropy", one_pass=one_pass_)], tmp_path / str(one_pass_))) for one_pass_ in (True, False)
    )
    assert once[1].bought == anew[1].bought
    assert once[2].bought != anew[2].bought


@pytest.mark.parametrize("schedule", [{}, COLD])
def test_a_run_that_is_broken_off_goes_on_to_the_same_bytes(schedule: dict[str, int], tmp_path: Path) -> None:
    one_cell = cell(GEAL, rounds=4, one_pass=True, **schedule)
    run([one_cell], tmp_path / "whole")
    for stop in (1, 2, 3):
        home = tmp_path / f"stopped {stop}"
        rounds = local_launch.run_cell(
            one_cell, Store(home / "run"), FitCache(home / "fits", 1, "cpu"), task_loading.TaskLoader(CPU)
        )
        for _ in range(stop):
            next(rounds)
        rounds.close()
        run([one_cell], home, cache_gb=0)
        assert bytes_of(home / "run") == bytes_of(tmp_path / "whole" / "run")


def test_a_choice_that_comes_out_otherwise_buys_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that rounds differently: the second process draws another order."""
    one_cell = cell("random", rounds=4, one_pass=True, budget=300)
    store = Store(tmp_path / "run")
    rounds = local_launch.run_cell(one_cell, store, FitCache(tmp_path / "fits", 1, "cpu"), task_loading.TaskLoader(CPU))
    for _ in range(3):
        next(rounds)
    rounds.close()
    monkeypatch.setattr(loop, "seed", lambda *names: seed(*names) + (names[0] == "select"))
    run([one_cell], tmp_path)
    bought = [index for record in store.records(one_cell.path)[1] for index in record.bought]
    assert len(bought) == len(set(bought)) == 920


def test_without_labels_round_0_buys_too(tmp_path: Path) -> None:
    cells = [cell(name, one_pass=True, **COLD) for name in ("random", GEAL, "coreset[encoder=patch_pca]")]
    recorded = records(run(cells, tmp_path))
    assert [(record.num_labelled, len(record.bought)) for record in recorded] == [(10, 10), (20, 10), (30, 10)] * 3
    starts = {tuple(record.bought) for record in recorded if record.round == 0}
    assert len(starts) == 3


@pytest.mark.parametrize("strategy", ["random", "max_herding", "tcm", "uncertainty_herding", "dcom", "dropquery"])
def test_without_labels_a_strategy_selects_round_by_round(strategy: str, tmp_path: Path) -> None:
    """Round 0 has no model; later rounds select with the model of the round before."""
    label = strategy if strategy == "random" else f"{strategy}[encoder=patch_pca]"
    one_cell = cell(label, **COLD)
    recorded = records(run([one_cell], tmp_path / "whole"))
    assert [(record.num_labelled, len(record.bought)) for record in recorded] == [(10, 10), (20, 10), (30, 10)]
    assert len({index for record in recorded for index in record.bought}) == 30
    if strategy == "uncertainty_herding":  # it logs a radius that depends on the labels
        assert recorded[0].diagnostics["radius"] == 1 > recorded[2].diagnostics["radius"]


BY = "typiclust[encoder=patch_pca]"


def test_a_strategy_draws_the_initial_set_for_all_strategies(tmp_path: Path) -> None:
    """It is paid for and recorded as any initial set, with what the strategy logged and the time that it took."""
    cells = [cell(name, initial_by=BY) for name in ("random", "entropy")]
    events: Any = run(cells, tmp_path)
    first, second = (event for event in events if event.record.round == 0)
    assert first.record.bought == second.record.bought
    assert len(set(first.record.bought)) == first.record.cost["images"] == 20
    assert first.record.diagnostics["clusters"] == 20
    assert first.measured.seconds["encode"] > 0
    assert [event.record.num_labelled for event in events[:3]] == [20, 25, 30]
    random_start = records(run([cell("random")], tmp_path / "other"))[0]
    assert random_start.bought != first.record.bought
    task = task_loading.build_task(cells[0].task, CPU)
    held_out = acquisition.draw_initial(cells[0], task).held_out
    assert held_out.tolist() == acquisition.draw_initial(cell("random"), task).held_out.tolist()
    assert not np.isin(first.record.bought, held_out).any()


def test_an_initial_strategy_is_part_of_key_and_path(tmp_path: Path) -> None:
    plain, by = cell("random"), cell("random", initial_by=BY)
    assert plain.key != by.key
    assert "initial_by" not in plain.identity()["schedule"]
    assert by.identity()["initial_by"]["version"] == by.initial_strategy.plugin.version  # type: ignore[union-attr]
    assert by.path.split("/")[1] == "20+5x2v10_initial_by_typiclust-encoder=patch_pca"
    assert "20 images at first by typiclust[encoder=patch_pca]" in by.schedule.description


def test_a_cell_with_an_initial_strategy_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    one_cell = cell("entropy", initial_by=BY)
    run([one_cell], tmp_path / "whole")
    rounds = local_launch.run_cell(
        one_cell, Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1, "cpu"), task_loading.TaskLoader(CPU)
    )
    next(rounds)
    rounds.close()
    run([one_cell], tmp_path, cache_gb=0)
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole" / "run")


@pytest.mark.parametrize("by", ["margin", "learning_loss"])
def test_an_initial_strategy_needs_no_model(by: str) -> None:
    with pytest.raises(ValueError, match=rf"^initial_by={by}: {by} uses a trained model"):
        cell("random", initial_by=by).check_needs()


def test_choosing_is_timed_once_and_logged_once(tmp_path: Path) -> None:
    events: Any = run([cell(GEAL, rounds=4, one_pass=True)], tmp_path)
    assert [bool(event.record.diagnostics) for event in events] == [False, True, False, False]
    assert ["encode" in event.measured.seconds for event in events] == [False, True, False, False]
    assert events[1].measured.seconds["select"] > 10 * events[3].measured.seconds["select"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"initial": -1}, "initial=-1: must be at least 0"),
        ({"initial": 0, "initial_by": "random"}, "initial_by=random has no effect with initial=0"),
        ({"initial": 0, "budget_in": "boxes"}, "initial=0: the boxes of an image are not known"),
        ({"one_pass": True, "budget_in": "boxes"}, "one_pass=true: .* budget_in=images"),
        ({"first_budget": 3}, "first_budget=3 has no effect with initial=5"),
        ({"initial": 0, "one_pass": True, "first_budget": -1}, "first_budget=-1: must be at least 0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(**({"initial": 5, "budget": 5, "rounds": 3} | settings))


def test_a_strategy_that_asks_the_model_needs_a_first_label() -> None:
    entropy_cell: Cell = cell("entropy", one_pass=True, **COLD)
    with pytest.raises(ValueError, match=r"initial=0: entropy uses a trained model: predictions \(predict\)"):
        entropy_cell.check_needs()


def test_a_schedule_tells_how_it_is() -> None:
    warm = Schedule(10, 5, 3, one_pass=True)
    cold = Schedule(0, 5, 3, validation=2, one_pass=True)
    assert (warm.label, cold.label) == ("10+5x2_one_pass", "0+5x3v2_one_pass")
    assert round_headers(warm) == ["10", "15", "20"]
    assert round_headers(cold) == ["5", "10", "15"]
    assert "one_pass" not in Schedule(10, 5, 3).identity()
    with pytest.raises(ValueError, match="buys 17 labels of a pool of 16"):
        cold.check_pool_size(16)
    uneven = Schedule(0, 5, 3, one_pass=True, first_budget=8)
    assert (uneven.label, uneven.budgets, round_headers(uneven)) == ("0+8+5x2_one_pass", [8, 5, 5], ["8", "13", "18"])
    assert uneven.description.endswith("all chosen at once, 8 images bought first, then 5 images a round, 2 times")
    assert "first_budget" not in cold.identity()
    with pytest.raises(ValueError, match="buys 18 labels of a pool of 17"):
        uneven.check_pool_size(17)


def test_a_first_budget_of_its_own_only_cuts_the_same_order_elsewhere(tmp_path: Path) -> None:
    sizes = {"first_budget": 16, "budget": 7, "rounds": 3}, {"budget": 10, "rounds": 3}
    uneven, even = (
        records(run([cell(GEAL, one_pass=True, **(COLD | size))], tmp_path / str(number)))
        for number, size in enumerate(sizes)
    )
    assert [len(record.bought) for record in uneven] == [16, 7, 7]
    assert [record.num_labelled for record in uneven] == [16, 23, 30]
    orders = [[index for record in recorded for index in record.bought] for recorded in (uneven, even)]
    assert orders[0] == orders[1]


def test_the_analysis_takes_a_start_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of one seed are paired; different first purchases are no fault, and a missing image is one."""
    words = [
        "grid=quick", "tasks=[digits[batch_size=8,epochs=15]]", f"strategies=[random,{GEAL}]", "initial=0",
        "one_pass=true", "budget=10", "rounds=3", "seeds=2", "validation=0", f"out={tmp_path}",
    ]  # fmt: skip
    commands.app(["run", *words], standalone_mode=False)
    [experiment] = read_experiments(str(tmp_path))
    assert audit.find_faults(experiment) == []
    assert len({run.start_fingerprint for run in experiment.runs}) == 1
    assert experiment.num_labelled_R.tolist() == [10, 20, 30]
    capsys.readouterr()
    commands.app(["run", *words[:-1], "dry_run=true", f"out={tmp_path}/dry"], standalone_mode=False)
    assert re.search(r"4 cells, 12 rounds", capsys.readouterr().err)
