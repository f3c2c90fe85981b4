"""The loop counts every label that it uses as paid, shares fits where it may, and repeats itself byte for byte."""

import dataclasses
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell, run
from _toy import Toy
from msgspec import structs
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmark.api import Machine
from benchmark.cli import progress
from benchmark.cli.display import Display
from benchmark.experiment.cell import Cell
from benchmark.plugins import registry
from benchmark.records.store import Store, StoreWriteError
from benchmark.runner import acquisition, fit_cache, loop, measuring, task_loading
from benchmark.runner.events import Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.record_checks import count_rounds_left
from benchmark.seeds import seed
from benchmark.system import tensor_cache
from benchmark.vision.encoding.vit import Vit

CHEAP = ["random", "entropy", "margin", "least_confidence", "bald", "coreset", "badge", "gradient_similarity"]
FAST_ISAL = "isal[depth=5,repeats=2]"


def rounds(events: list[Round | Failure]) -> list[Round]:
    assert all(isinstance(event, Round) for event in events), [e.line for e in events if isinstance(e, Failure)]
    return [event for event in events if isinstance(event, Round)]


def test_every_round_is_bought_paid_and_scored(tmp_path: Path) -> None:
    first, second, third = (event.record for event in rounds(run([cell("random")], tmp_path)))
    assert [first.num_labelled, second.num_labelled, third.num_labelled] == [20, 25, 30]
    assert [len(first.bought), len(second.bought), len(third.bought)] == [20, 5, 5]
    assert len({*first.bought, *second.bought, *third.bought}) == 30
    assert [record.cost for record in (first, second, third)] == [{"images": 20}, {"images": 25}, {"images": 30}]
    assert 0 <= first.scores["accuracy"] <= 100


def test_round_0_is_the_same_for_all_strategies_of_a_seed(tmp_path: Path) -> None:
    events = rounds(run([cell(name, rounds=1) for name in [*CHEAP, FAST_ISAL]], tmp_path))
    assert len({tuple(event.record.bought) for event in events}) == 1
    assert len({tuple(event.record.scores.items()) for event in events}) == 1
    assert [event.measured.shared_fit for event in events] == [False] + [True] * len(CHEAP)


def test_learning_loss_trains_its_own_round_0_on_the_same_images(tmp_path: Path) -> None:
    random, own = rounds(run([cell("random", rounds=1), cell("learning_loss", rounds=1)], tmp_path))
    assert own.record.bought == random.record.bought
    assert not own.measured.shared_fit


def test_equal_labelled_sets_share_a_fit_whoever_bought_them(tmp_path: Path) -> None:
    cells = [cell("random", rounds=2), cell("random", rounds=3)]  # another schedule, the same picks
    events = rounds(run(cells, tmp_path))
    assert [event.measured.shared_fit for event in events] == [False, False, True, True, False]


def test_seeds_differ_and_adding_one_moves_no_other(tmp_path: Path) -> None:
    alone = rounds(run([cell("random", seed=1)], tmp_path / "a"))
    both = rounds(run([cell("random", seed=0), cell("random", seed=1)], tmp_path / "b"))
    assert [event.record for event in alone] == [event.record for event in both[3:]]
    assert set(both[0].record.bought) != set(both[3].record.bought)


def test_held_out_labels_are_charged_to_those_who_read_them(tmp_path: Path) -> None:
    honest, leaky = rounds(run([cell(FAST_ISAL, rounds=1), cell("isal[reference=test]", rounds=1)], tmp_path))
    assert honest.record.cost == {"images": 30}
    assert leaky.record.cost == {"images": 20}


def test_held_out_images_are_trained_on_by_none(tmp_path: Path) -> None:
    one_cell = cell("random", rounds=4, budget=400, initial=57, validation=40)
    events = rounds(run([one_cell], tmp_path))
    header, _ = Store(tmp_path / "run").records(one_cell.path)
    assert header is not None
    bought = {number for event in events for number in event.record.bought}
    assert len(header.held_out) == 40
    assert not bought & set(header.held_out)
    assert bought | set(header.held_out) == set(range(1297))


@pytest.mark.parametrize("name", ["random", "badge", FAST_ISAL, "learning_loss"])
def test_interrupted_and_resumed_is_byte_identical(tmp_path: Path, name: str) -> None:
    run([cell(name)], tmp_path / "whole")
    whole = bytes_of(tmp_path / "whole" / "run")
    [(path, content)] = whole.items()
    lines = content.splitlines(keepends=True)
    for keep in (1, 2, 3):  # header and keep - 1 rounds; half a line behind them; and no cached fit
        other = tmp_path / f"kept-{keep}"
        target = other / "run" / "cells" / path
        target.parent.mkdir(parents=True)
        target.write_bytes(b"".join(lines[:keep]) + lines[keep][:25])
        run([cell(name)], other)
        assert bytes_of(other / "run") == whole


def test_a_finished_cell_runs_nothing(tmp_path: Path) -> None:
    run([cell("random")], tmp_path)
    assert run([cell("random")], tmp_path) == []


def test_without_a_cache_the_numbers_are_the_same(tmp_path: Path) -> None:
    run([cell("entropy")], tmp_path / "a")
    run([cell("entropy")], tmp_path / "b", cache_gb=0)
    assert bytes_of(tmp_path / "a" / "run") == bytes_of(tmp_path / "b" / "run")
    assert not list((tmp_path / "b" / "fits").glob("*"))


def test_a_damaged_cached_fit_is_trained_again(tmp_path: Path) -> None:
    run([cell("random", rounds=1)], tmp_path)
    before = bytes_of(tmp_path / "run")
    for path in (tmp_path / "fits").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    for path in (tmp_path / "run").rglob("seed-0.jsonl"):
        path.unlink()
    [event] = rounds(run([cell("random", rounds=1)], tmp_path))
    assert not event.measured.shared_fit
    assert bytes_of(tmp_path / "run") == before


def test_the_cache_keeps_to_its_size(tmp_path: Path) -> None:
    run([cell("random", rounds=1)], tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "fits").iterdir())
    run([cell("random", rounds=4, seed=1)], tmp_path, cache_gb=2.5 * size / 1e9)
    assert len(list((tmp_path / "fits").iterdir())) == 2


def test_the_cache_is_looked_through_each_time_a_fiftieth_of_it_was_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([cell("random")], tmp_path / "first")
    size = sum(value.nbytes for value in load_file(next((tmp_path / "first" / "fits").iterdir())).values())
    looked, trim = [], tensor_cache.trim

    def spy(folder: Path, max_bytes: int, keep: Path) -> None:
        looked.append(len(list(folder.glob("*.safetensors"))))
        trim(folder, max_bytes, keep)

    monkeypatch.setattr(tensor_cache, "trim", spy)
    run([cell("random", rounds=7)], tmp_path, cache_gb=125 * size / 1e9)  # 2.5 fits are a fiftieth
    assert looked == [1, 4, 7]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_few", "returned 4 indices for a budget of 5"),
        ("duplicates", "4 duplicates"),
        ("labelled", "5 indices already labelled"),
        ("out_of_range", "5 indices not in `unlabelled`"),
        ("floats", "it must return a one-dimensional array of integer pool positions"),
        ("nan", "1 of 1267 scores are NaN"),
        ("crash", "KeyError: 'a bug in a strategy'"),
        ("undeclared", "did not declare the need 'embed'"),
        ("peek", "must not read labels of unlabelled images"),
    ],
)
def test_a_faulty_strategy_fails_alone_and_is_named(tmp_path: Path, name: str, words: str) -> None:
    events = run([cell(name), cell("random")], tmp_path)
    [failure] = [event for event in events if isinstance(event, Failure)]
    assert words in failure.line
    assert name in failure.line
    assert len(rounds([event for event in events if event.cell.strategy.name == "random"])) == 3
    store = Store(tmp_path / "run")
    assert "Traceback" in (store.read_failure(failure.cell.path) or "")
    assert len(store.records(failure.cell.path)[1]) == 1  # round 0 stays


def test_a_budget_larger_than_the_pool_is_refused_before_any_fit(tmp_path: Path) -> None:
    [failure] = run([cell("random", budget=1000)], tmp_path)
    assert isinstance(failure, Failure)
    assert "buys 2030 labels of a pool of 1297" in failure.line
    assert not list((tmp_path / "fits").iterdir())


def test_select_sees_neither_labelled_nor_held_out_images(tmp_path: Path) -> None:
    one_cell = cell("random")
    task = one_cell.task.plugin.build(Machine(torch.device("cpu")), one_cell.task.values)
    initial_draw = acquisition.draw_initial(one_cell, task)
    view = acquisition.build_view(one_cell, task, initial_draw, task.model(), [initial_draw.initial])
    parts = [view.labelled, view.unlabelled, initial_draw.held_out]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(task.num_pool))


def test_no_strategy_moves_the_sets_that_it_is_checked_against(tmp_path: Path) -> None:
    one_cell = cell("random")
    task = one_cell.task.plugin.build(Machine(torch.device("cpu")), one_cell.task.values)
    view = acquisition.build_view(
        one_cell,
        task,
        acquisition.draw_initial(one_cell, task),
        task.model(),
        [acquisition.draw_initial(one_cell, task).initial],
    )
    before = view.unlabelled
    view.unlabelled[:] = 0
    assert np.array_equal(view.unlabelled, before)
    with pytest.raises(AttributeError):
        view.labelled = before  # type: ignore[misc]


def test_without_a_cache_each_round_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    fit = loop.fit_round
    monkeypatch.setattr(loop, "fit_round", lambda *args: fits.append(args[-1]) or fit(*args))
    run([cell("random", rounds=3)], tmp_path, cache_gb=0)
    assert fits == [0, 1, 2]


def test_a_full_disk_ends_the_run_and_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    run([cell("random", rounds=1, seed=1)], tmp_path)
    before = bytes_of(tmp_path / "run")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreWriteError, match="No space left on device; nothing recorded before is lost"):
        run([cell("random"), cell("margin")], tmp_path)
    after = bytes_of(tmp_path / "run")
    assert {path: after[path] for path in before} == before


def test_two_data_sets_never_share_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([cell("random", rounds=1)], tmp_path)
    header = loop.build_header
    monkeypatch.setattr(loop, "build_header", lambda *args: structs.replace(header(*args), data="other"))
    [failure] = run([cell("margin", rounds=1)], tmp_path)
    assert isinstance(failure, Failure)
    assert "was written with other data" in failure.line


def test_an_encoders_file_of_weights_is_not_exchanged_in_mid_run(tmp_path: Path) -> None:
    network = Vit(Machine(torch.device("cpu")), "vit_tiny_patch16_224", "none", 32).network
    for shift in (0.0, 0.1):
        save_file({name: value + shift for name, value in network.state_dict().items()}, tmp_path / "own.safetensors")
        name = f"geal[k=3,encoder=vit[model=vit_tiny_patch16_224,size=32,weights={tmp_path}/own.safetensors]]"
        events = run([cell(name, rounds=2), cell(name, rounds=2, seed=1 + (shift > 0))], tmp_path)
        if not shift:
            assert len(rounds(events)) == 4
            before = bytes_of(tmp_path / "run")
    assert all("was written with other files of weights of vit" in failure.line for failure in events)
    assert len(events) == 2
    assert bytes_of(tmp_path / "run") == before


def test_a_round_is_not_recorded_where_the_weights_were_exchanged_before_it(tmp_path: Path) -> None:
    network = Vit(Machine(torch.device("cpu")), "vit_tiny_patch16_224", "none", 32).network
    save_file(network.state_dict(), path := tmp_path / "own.safetensors")
    like = f"geal[k=3,encoder=vit[model=vit_tiny_patch16_224,size=32,weights={path}]]"
    one_cell, machine = cell(f"matched_random[like={like}]"), Machine(torch.device("cpu"))
    task = task_loading.build_task(one_cell.task, machine)
    assert list(loop.build_header(one_cell, task, machine).weights) == [like.removeprefix("geal[k=3,encoder=")[:-1]]
    rounds = loop.run(one_cell, task, FitCache(tmp_path / "fits", 1, "cpu"), machine)
    assert next(rounds)[0].round == 0
    save_file({name: value + 0.1 for name, value in network.state_dict().items()}, path)
    with pytest.raises(ValueError, match="weight file was replaced during the round: the round is not recorded"):
        next(rounds)


def test_a_fit_is_named_by_the_version_of_whose_companion_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    one_cell = cell("matched_random[like=learning_loss]", task="digits")
    _, before = fit_cache.companion_and_owner(one_cell)
    plugin = registry.get("strategy", "learning_loss")
    monkeypatch.setitem(registry.REGISTRY["strategy"], "learning_loss", dataclasses.replace(plugin, version=99))
    assert fit_cache.companion_and_owner(one_cell)[1] != before


# --- budgets in boxes -----------------------------------------------------------------------
def boxes(name: str, task: str = "shelf", **schedule: object) -> Cell:
    return cell(name, task=task, **({"rounds": 5, "budget": 40, "budget_in": "boxes"} | schedule))


def shelf(one_cell: Cell) -> Any:
    return one_cell.task.plugin.build(Machine(torch.device("cpu")), one_cell.task.values)


@pytest.mark.parametrize("budget", [1, 3, 17, 40, 95])
@pytest.mark.parametrize("name", ["in_order", "random"])
def test_a_budget_of_boxes_is_met_by_less_than_one_image_and_the_excess_is_not_carried_on(
    tmp_path: Path, name: str, budget: int
) -> None:
    one_cell = boxes(name, budget=budget)
    task, initial_draw = shelf(one_cell), acquisition.draw_initial(one_cell, shelf(one_cell))
    records = [event.record for event in rounds(run([one_cell], tmp_path))]
    labelled = {*initial_draw.initial.tolist(), *initial_draw.held_out.tolist()}
    unlabelled = [image for image in range(200) if image not in labelled]
    bought: list[int] = []
    for number, record in enumerate(records[1:], start=1):
        expected = record.bought
        if name == "in_order":  # brute force: image by image
            expected = []
            while sum(task.boxes_N[bought + expected]) < number * budget:
                expected.append(unlabelled.pop(0))
        assert record.bought == expected
        bought += expected
        assert sum(task.boxes_N[bought]) >= number * budget
        assert not bought or sum(task.boxes_N[bought[:-1]]) < number * budget
        paid = sum(task.boxes_N[initial_draw.initial]) + sum(task.boxes_N[bought])
        assert record.cost == {"images": 20 + len(bought), "boxes": paid}
        assert record.num_labelled == 20 + len(bought)
    assert len(set(bought)) == len(bought)


def test_images_without_boxes_make_it_ask_again_for_twice_as_many_with_the_same_seed(tmp_path: Path) -> None:
    one_cell = boxes("in_order", "shelf[empty=70]", rounds=2, budget=20)
    task, initial_draw = shelf(one_cell), acquisition.draw_initial(one_cell, shelf(one_cell))
    first = math.ceil(20 * 20 / sum(task.boxes_N[initial_draw.initial]))
    _, record = (event.record for event in rounds(run([one_cell], tmp_path)))
    num_requested = int(record.diagnostics["asked"])
    assert num_requested in [first * 2**power for power in range(1, 10)]
    assert num_requested / 2 < len(record.bought) <= num_requested
    rng = np.random.default_rng(seed("select", "shelf", 0, "in_order", 1))
    assert record.diagnostics["drawn"] == rng.random()


def test_a_pool_that_lacks_the_boxes_is_used_up_and_then_nothing_is_bought(tmp_path: Path) -> None:
    records = [event.record for event in rounds(run([boxes("random", budget=400, rounds=4)], tmp_path))]
    assert [record.num_labelled for record in records][2:] == [190, 190]
    assert records[3].bought == []
    assert records[3].diagnostics == {}


def test_an_initial_set_without_boxes_is_enough_to_start_from(tmp_path: Path) -> None:
    one_cell = boxes("random", "shelf[empty=200]", rounds=2)
    _, record = (event.record for event in rounds(run([one_cell], tmp_path)))
    assert record.num_labelled == 190
    assert record.cost == {"images": 190, "boxes": 0}


def test_an_image_that_brings_more_than_a_budget_spares_the_next_round(tmp_path: Path) -> None:
    records = [event.record for event in rounds(run([boxes("in_order", budget=1, rounds=5)], tmp_path))]
    assert any(not record.bought for record in records[1:])
    assert [record.round for record in records] == [0, 1, 2, 3, 4]


def test_a_choice_under_a_budget_of_boxes_is_checked_too(tmp_path: Path) -> None:
    [failure] = [event for event in run([boxes("too_few")], tmp_path) if isinstance(event, Failure)]
    assert re.search(r"too_few returned (\d+) indices for a budget of \d+", failure.line)


def test_a_task_that_counts_no_boxes_is_refused_before_any_fit(tmp_path: Path) -> None:
    [failure] = run([cell("random", budget_in="boxes")], tmp_path)
    assert isinstance(failure, Failure)
    assert failure.line.endswith("budget_in=boxes: digits[epochs=2] counts no boxes, only images: set budget_in=images")
    assert not list((tmp_path / "fits").iterdir())


# --- what is measured ------------------------------------------------------------------------
def test_a_record_tells_the_smallest_batch_of_its_fit(tmp_path: Path) -> None:
    one_cell, shelf = cell("random"), cell("random", task="shelf")
    assert [event.record.smallest_batch for event in rounds(run([one_cell], tmp_path))] == [20, 25, 30]
    run([shelf], tmp_path)  # a task that tells nothing of its batches
    store = Store(tmp_path / "run")
    assert [record.smallest_batch for record in store.records(one_cell.path)[1]] == [20, 25, 30]
    assert len({record.batch_size for record in store.records(one_cell.path)[1]} - {None}) == 1
    assert {record.smallest_batch for record in store.records(shelf.path)[1]} == {None}
    assert b"batch" not in store.path(shelf.path).read_bytes()


def test_a_record_tells_the_scores_of_single_classes(tmp_path: Path) -> None:
    one_cell, shelf = cell("random"), cell("random", task="shelf")
    run([one_cell, shelf], tmp_path)
    store = Store(tmp_path / "run")
    for record in store.records(one_cell.path)[1]:
        assert record.class_scores.keys() == {"accuracy"}
        assert list(record.class_scores["accuracy"]) == list("0123456789")
        of_class = list(record.class_scores["accuracy"].values())
        assert np.mean(of_class) == pytest.approx(record.scores["balanced_accuracy"])
    assert b"class_scores" not in store.path(shelf.path).read_bytes()  # a task that tells none


def test_the_seconds_of_a_fit_hold_what_the_gpu_has_queued_and_nothing_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake GPU with a queue: queued work takes its time when somebody waits for it."""
    queued, now = [100.0], [0.0]

    def wait() -> None:
        now[0] += sum(queued)
        queued.clear()

    class Queueing(Toy):
        def fit(self, labelled: Any, seed: int, companion: Any = None) -> Any:
            now[0] += 1.0
            queued.append(7.0)
            return super().fit(labelled, seed, companion)

    monkeypatch.setattr("benchmark.runner.fit_cache.working_seconds", lambda: now[0])
    monkeypatch.setattr("benchmark.runner.fit_cache.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("benchmark.runner.fit_cache.torch.cuda.synchronize", wait)
    fits = FitCache(tmp_path, 0, "cpu")
    assert fits.train(tmp_path / "none", Queueing(), np.arange(9), 0, None).seconds == 8.0  # type: ignore[arg-type]


def test_the_peak_of_a_round_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round resets the peak memory before it measures it."""
    since = list[str]()
    monkeypatch.setattr(loop, "reset_peak_memory", lambda machine: since.append("forget"))
    monkeypatch.setattr(loop, "peak_memory_mb", lambda machine: since.append("measure") or len(since))
    run([cell("random", seed=seed) for seed in (0, 1)], tmp_path)
    assert since == ["forget", "measure"] * 6


@pytest.mark.skipif(not measuring.PROC_SELF.is_dir(), reason="only Linux forgets the peak of a process")
def test_memory_that_was_freed_before_is_not_in_the_peak() -> None:
    machine = Machine(torch.device("cpu"))
    measuring.reset_peak_memory(machine)
    before = measuring.peak_memory_mb(machine)
    held = np.ones(40_000_000)  # 320 MB
    assert measuring.peak_memory_mb(machine) > before + 300
    del held
    assert measuring.peak_memory_mb(machine) > before + 300
    measuring.reset_peak_memory(machine)
    assert measuring.peak_memory_mb(machine) < before + 100


def test_the_peak_of_a_gpu_is_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    most, machine = {"cuda:1": 5e9}, Machine(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: most.update({str(device): 2e9}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: most[str(device)])
    assert measuring.peak_memory_mb(machine) == 5000
    measuring.reset_peak_memory(machine)
    assert measuring.peak_memory_mb(machine) == 2000


def test_where_the_system_forgets_no_peak_it_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "PROC_SELF", tmp_path / "none")
    machine = Machine(torch.device("cpu"))
    measuring.reset_peak_memory(machine)
    assert measuring.peak_memory_mb(machine) > 10


# --- endings by score: map = n / (n + 50) is 0.286, 0.333, 0.375, 0.412, 0.444 --------------
@pytest.mark.parametrize(
    ("until", "num_rounds"),
    [
        ("map 0.33 +- 0.005", 2),  # entered from below
        ("map 0.35 +- 0.001", 3),  # passed
        ("map 0.375 +- 0", 3),  # its edge
        ("map 0.1 +- 0.01", 1),  # past it from the start
        ("map 0.9 +- 0.01", 5),  # never
        ("", 5),
    ],
)
def test_a_cell_ends_with_the_first_round_in_the_band_or_past_it(tmp_path: Path, until: str, num_rounds: int) -> None:
    one_cell = cell("random", task="shelf", rounds=5, until=until)
    assert count_rounds_left([one_cell], Store(tmp_path / "run")) == {one_cell: 5}
    events = rounds(run([one_cell], tmp_path))
    assert len(events) == num_rounds
    assert sum(event.num_skipped_rounds for event in events) == 5 - num_rounds
    assert count_rounds_left([one_cell], Store(tmp_path / "run")) == {}
    assert run([one_cell], tmp_path) == []


def test_a_band_of_a_score_that_the_task_lacks_fails_at_once_and_records_nothing(tmp_path: Path) -> None:
    one_cell = cell("random", task="shelf", until="acc 0.5 +- 0.1")
    [failure] = run([one_cell], tmp_path)
    assert isinstance(failure, Failure)
    assert failure.line.endswith("until=acc 0.5 +- 0.1: there is no score acc, there are: map")
    store = Store(tmp_path / "run")
    assert store.records(one_cell.path)[1] == []
    assert store.read_failure(one_cell.path)
    assert not one_cell.schedule.is_finished(store.records(one_cell.path)[1])


def test_a_cell_that_has_ended_has_not_failed(tmp_path: Path) -> None:
    one_cell = cell("random", task="shelf", rounds=5, until="map 0.33 +- 0.005")
    run([one_cell], tmp_path)
    store = Store(tmp_path / "run")
    store.save_failure(one_cell.path, "Traceback")
    assert one_cell.schedule.is_finished(store.records(one_cell.path)[1])


@pytest.mark.parametrize("name", ["random", "in_order"])
def test_resumed_under_boxes_and_until_is_byte_identical(tmp_path: Path, name: str) -> None:
    one_cell = boxes(name, rounds=9, until="map 0.6 +- 0.01")
    run([one_cell], tmp_path / "whole")
    [(path, content)] = bytes_of(tmp_path / "whole" / "run").items()
    lines = content.splitlines(keepends=True)
    assert 4 < len(lines) < 10
    for keep in range(1, len(lines)):
        other = tmp_path / f"kept-{keep}"
        target = other / "run" / "cells" / path
        target.parent.mkdir(parents=True)
        target.write_bytes(b"".join(lines[:keep]) + lines[keep][:25])
        run([one_cell], other)
        assert bytes_of(other / "run") == {path: content}


def test_a_companion_may_be_none(tmp_path: Path) -> None:
    assert fit_cache.companion_and_owner(cell("in_order")) == (None, "")
    events = rounds(run([cell(name, task="shelf", rounds=1) for name in ("random", "in_order")], tmp_path))
    assert [event.measured.shared_fit for event in events] == [False, True]


def test_the_progress_bar_drops_the_rounds_that_an_ending_spares(tmp_path: Path) -> None:
    first, other = (cell("random", task="shelf", rounds=5, until=f"map {value} +- 0.005") for value in (0.33, 0.9))
    shown = io.StringIO()
    list(progress.show_progress(run([first, other], tmp_path), {first: 5, other: 5}, Display(Console(file=shown))))
    counts = re.findall(r"^\[(\d+/\d+)\]", shown.getvalue(), re.MULTILINE)
    assert counts == ["1/10", "2/7", "3/7", "4/7", "5/7", "6/7", "7/7"]


def test_a_line_of_a_round_has_its_scores_but_no_counts_of_classes(tmp_path: Path) -> None:
    shown = io.StringIO()
    events = run([cell("random", rounds=1)], tmp_path)
    list(progress.show_progress(events, {}, Display(Console(file=shown))))
    assert {"num_predicted_classes", "balanced_accuracy"} <= set(rounds(events)[0].record.scores)
    assert "balanced_accuracy" in shown.getvalue()
    assert "num_" not in shown.getvalue()
