"""The loop pays for what it uses, shares what it may, and repeats itself to the byte."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell, run

from benchmark import loop
from benchmark.api import Machine
from benchmark.launch import Failure, Round
from benchmark.store import Store, Unwritable

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
    assert [one.cost for one in (first, second, third)] == [{"images": 20}, {"images": 25}, {"images": 30}]
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
    assert [one.record for one in alone] == [one.record for one in both[3:]]
    assert set(both[0].record.bought) != set(both[3].record.bought)


def test_held_out_labels_are_charged_to_those_who_read_them(tmp_path: Path) -> None:
    honest, leaky = rounds(run([cell(FAST_ISAL, rounds=1), cell("isal[reference=test]", rounds=1)], tmp_path))
    assert honest.record.cost == {"images": 30}
    assert leaky.record.cost == {"images": 20}


def test_held_out_images_are_trained_on_by_none(tmp_path: Path) -> None:
    one = cell("random", rounds=4, budget=400, initial=57, validation=40)
    events = rounds(run([one], tmp_path))
    header, _ = Store(tmp_path / "run").records(one.path)
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_few", "returned 4 indices of a budget of 5"),
        ("duplicates", "4 duplicates"),
        ("labelled", "5 indices that are labelled already"),
        ("out_of_range", "5 indices that are not in `unlabelled`"),
        ("floats", "pool positions are one row of integers"),
        ("nan", "1 of 1267 scores are NaN"),
        ("crash", "KeyError: 'a bug in a strategy'"),
        ("undeclared", "did not declare the need 'embed'"),
        ("peek", "not yours to read"),
    ],
)
def test_a_faulty_strategy_fails_alone_and_is_named(tmp_path: Path, name: str, words: str) -> None:
    events = run([cell(name), cell("random")], tmp_path)
    [failure] = [event for event in events if isinstance(event, Failure)]
    assert words in failure.line
    assert name in failure.line
    assert len(rounds([event for event in events if event.cell.strategy.name == "random"])) == 3
    store = Store(tmp_path / "run")
    assert "Traceback" in (store.failure(failure.cell.path) or "")
    assert len(store.records(failure.cell.path)[1]) == 1  # round 0 stays


def test_a_budget_larger_than_the_pool_is_refused_before_any_fit(tmp_path: Path) -> None:
    [failure] = run([cell("random", budget=1000)], tmp_path)
    assert isinstance(failure, Failure)
    assert "buys 2030 labels of a pool of 1297" in failure.line
    assert not (tmp_path / "fits").exists()


def test_select_sees_neither_labelled_nor_held_out_images(tmp_path: Path) -> None:
    one = cell("random")
    task = one.task.plugin.build(Machine(torch.device("cpu")), one.task.values)
    begin = loop.start(one, task)
    seen = loop.view(one, task, begin, task.model(), begin.initial)
    parts = [seen.labelled, seen.unlabelled, begin.held_out]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(task.num_pool))


def test_no_strategy_moves_the_sets_that_it_is_checked_against(tmp_path: Path) -> None:
    one = cell("random")
    task = one.task.plugin.build(Machine(torch.device("cpu")), one.task.values)
    seen = loop.view(one, task, loop.start(one, task), task.model(), loop.start(one, task).initial)
    before = seen.unlabelled
    seen.unlabelled[:] = 0
    assert np.array_equal(seen.unlabelled, before)
    with pytest.raises(AttributeError):
        seen.labelled = before  # type: ignore[misc]


def test_without_a_cache_each_round_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *given: fits.append(given[-1]) or fit(*given))
    run([cell("random", rounds=3)], tmp_path, cache_gb=0)
    assert fits == [0, 1, 2]


def test_a_full_disk_ends_the_run_and_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    run([cell("random", rounds=1, seed=1)], tmp_path)
    before = bytes_of(tmp_path / "run")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unwritable, match="No space left on device; nothing recorded before is lost"):
        run([cell("random"), cell("margin")], tmp_path)
    after = bytes_of(tmp_path / "run")
    assert {path: after[path] for path in before} == before


def test_two_data_sets_never_share_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([cell("random", rounds=1)], tmp_path)
    header = loop.header
    monkeypatch.setattr(loop, "header", lambda *given: dataclasses.replace(header(*given), data="other"))
    [failure] = run([cell("margin", rounds=1)], tmp_path)
    assert isinstance(failure, Failure)
    assert "was written with other data" in failure.line
