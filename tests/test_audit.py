"""Each audit catches the fault that was planted for it, and finds none where there is none."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _curves import PLAIN, curve, experiment, recorded
from typer.testing import CliRunner

from benchmark.analysis.audit import CHECKS, Fault, audit, smallest_batch
from benchmark.analysis.curves import Experiment, ours, read
from benchmark.analysis.question import PUBLISHED
from benchmark.analysis.tables import latex, markdown, tables
from benchmark.cli import app
from benchmark.store import Record, Store, read_lines, seal

HOME = Path(__file__).parents[1]
CELL = "made/mine/seed-1"


def found(store: Store) -> list[Fault]:
    [made] = ours([store])
    return audit(made)


def changed(store: Store, number: int, cell: str = CELL, **fields: object) -> None:
    """Writes a round of a cell again, soundly sealed."""
    path = store.path(cell)
    lines = [seal(body) for body in read_lines(path)[0]]
    body = dataclasses.asdict(store.records(cell)[1][number]) | fields
    lines[number + 1] = seal(body)
    path.write_bytes(b"".join(lines))


def test_clean_records_pass(tmp_path: Path) -> None:
    assert found(recorded(tmp_path, PLAIN)) == []


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in HOME.glob("results/reference/*/grid.json")))
def test_committed_runs_pass(folder: str) -> None:
    for made in read(str(HOME / "results" / "reference" / folder)):
        assert audit(made) == []


def cut_short(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(path.read_bytes()[:-5])


def flipped(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(path.read_bytes().replace(b'"round": 1', b'"round": 7', 1))


def twice(store: Store) -> None:
    path = store.path(CELL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[2]]))


def missing(store: Store) -> None:
    path = store.path(CELL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3]]))


FAULTS: list[tuple[str, str, Callable[[Store], None]]] = [
    ("round 0 agrees", "57 in round 0, where others score 52", lambda s: changed(s, 0, scores={"accuracy": 57.0})),
    ("round 0 agrees", "starts from other data or images", lambda s: changed(s, 0, bought=[1, 2, 3, 4])),
    ("within budget", "round 1 buys 1 images of a budget of 2", lambda s: changed(s, 1, bought=[53])),
    ("within budget", "round 1 buys 1 images twice", lambda s: changed(s, 1, bought=[53, 53])),
    ("within budget", "round 1 buys 1 images that were bought before", lambda s: changed(s, 1, bought=[53, 10])),
    ("within budget", "round 1 buys 2 images that are held out", lambda s: changed(s, 1, bought=[98, 99])),
    ("within budget", "round 1 buys 1 images that are not in the pool", lambda s: changed(s, 1, bought=[53, 100])),
    ("within budget", "round 1 was trained on 7 images, 6 were bought", lambda s: changed(s, 1, num_labelled=7)),
    ("within budget", "round 1 is charged 5 images for 6 bought", lambda s: changed(s, 1, cost={"images": 5.0})),
    (
        "within budget",
        "round 2 is charged fewer boxes than the round before",
        lambda s: (
            changed(s, 1, cost={"images": 6.0, "boxes": 9.0}),
            changed(s, 2, cost={"images": 8.0, "boxes": 8.0}),
        )[0],
    ),
    ("rounds are whole", "line 4 is torn", cut_short),
    ("rounds are whole", "line 3 is damaged", flipped),
    ("rounds are whole", "line 4 is out of place", twice),
    ("rounds are whole", "line 3 is out of place", missing),
    (
        "fits converged",
        "round 2 scores 20, after 63: not converged",
        lambda s: changed(s, 2, scores={"accuracy": 20.0}),
    ),
]


@pytest.mark.parametrize(("check", "words", "plant"), FAULTS, ids=[words for _, words, _ in FAULTS])
def test_a_planted_fault_is_caught(tmp_path: Path, check: str, words: str, plant: Callable[[Store], None]) -> None:
    store = recorded(tmp_path, PLAIN)
    plant(store)
    faults = [fault for fault in found(store) if fault.check == check]
    assert any(words in fault.words for fault in faults), found(store)
    assert all(CELL in fault.where or "mine seed 1" in fault.where for fault in faults)
    [made] = tables(ours([store]))
    assert f"AUDIT FAILED: {found(store)[0].check}" in markdown(made)
    assert "AUDIT FAILED" in latex(made)
    done = CliRunner().invoke(app, ["verify", f"out={store.folder}"])
    assert done.exit_code == 1
    assert check in done.stdout


def test_a_companion_may_differ_in_round_0_but_not_in_its_images(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN, companions=["mine"])
    changed(store, 0, scores={"accuracy": 40.0})
    assert found(store) == []
    changed(store, 0, bought=[1, 2, 3, 4])
    assert [fault.check for fault in found(store)] == ["round 0 agrees"]


def test_a_dip_that_all_share(tmp_path: Path) -> None:
    dipping = {name: {seed: [50.0 + seed, 45.0, 60.0] for seed in seeds} for name, seeds in PLAIN.items()}
    [fault] = found(recorded(tmp_path, dipping))
    assert (fault.check, fault.where, fault.words) == ("no common dip", "6 images", "all 3 strategies dip")
    two = {name: dipping[name] for name in ("random", "mine")}
    assert found(recorded(tmp_path / "two", two)) == []  # chance enough


def test_a_dip_is_one_of_runs_that_have_the_rounds(tmp_path: Path) -> None:
    dipping = {name: {seed: [50.0 + seed, 45.0, 60.0] for seed in seeds} for name, seeds in PLAIN.items()}
    store = recorded(tmp_path / "with", {**dipping, "late": {0: [], 1: []}})
    assert [fault.check for fault in found(store)] == ["no common dip"]  # one that has not begun hides nothing
    ragged = {name: {0: [60.0 - 2, 70.0 - 2, 75.0], 1: [30.0, 35.0]} for name in PLAIN}
    ragged = {name: {0: [60.0], 1: [30.0, 35.0, 40.0]} for name in ragged}
    assert not [fault for fault in found(recorded(tmp_path / "ragged", ragged)) if fault.check == "no common dip"]


def test_budgets_of_boxes_are_enough_each_round(tmp_path: Path) -> None:
    store = recorded(tmp_path, {"mine": {0: [50.0, 60.0, 70.0]}}, boxes=[10, 19, 35], budget_in="boxes", budget=10)
    [fault] = found(store)
    assert (fault.check, fault.words) == ("within budget", "round 1 has bought 9 boxes since round 0 of 10")


def test_a_tail_of_a_few_images(tmp_path: Path) -> None:
    faults = found(recorded(tmp_path, PLAIN, parameters={"batch_size": 5}))
    assert {fault.check for fault in faults} == {"no tail batch"}
    assert any("round 1: a batch of 1 of 6 images" in fault.words for fault in faults)
    assert found(recorded(tmp_path / "equal", PLAIN, parameters={"batch_size": 8, "drop_last": False})) == []
    assert found(recorded(tmp_path / "dropped", PLAIN, parameters={"batch_size": 5, "drop_last": True})) == []


@pytest.mark.parametrize(
    ("recipe", "num_images", "smallest"),
    [
        ({"batch_size": 32}, 65, 1),
        ({"batch_size": 32}, 64, 32),
        ({"batch_size": 32, "drop_last": False}, 65, 21),
        ({"batch_size": 32, "drop_last": True}, 65, None),
        ({"batch_size": 32, "norm": "frozen"}, 65, None),
        ({"batch_size": 32, "norm": "batch"}, 65, 1),
        ({"batch_size": 2}, 65, None),
        ({}, 65, None),
    ],
)
def test_the_smallest_batch_of_an_epoch(recipe: dict[str, object], num_images: int, smallest: int | None) -> None:
    assert smallest_batch(recipe, num_images) == smallest


def test_selection_that_saw_evaluation_labels_is_a_fault_and_a_dagger(tmp_path: Path) -> None:
    told = "selection saw evaluation labels"
    store = recorded(tmp_path, PLAIN, daggers={"mine": [told]})
    [fault] = found(store)
    assert (fault.check, fault.where, fault.words) == ("selection was blind", "mine", told)
    [made] = tables(ours([store]))
    assert "mine†" in markdown(made)
    assert f"† {told}." in made.note
    assert "AUDIT FAILED" not in made.note  # the dagger says it already


def test_published_curves_are_audited_too() -> None:
    faults = {(one.title, fault.check, fault.where) for one in read(str(PUBLISHED)) for fault in audit(one)}
    assert ("isal_2021_cifar10", "round 0 agrees", "learning_loss") in faults
    assert ("eval_al_2023_cifar10_2k", "no common dip", "21,000 images") in faults
    assert ("isal_2021_cifar10", "selection was blind", "isal") in faults
    assert not any(title == "isal_2021_cifar10" and check == "within budget" for title, check, _ in faults)
    drift = experiment(curve("a", [[1.0, 2, 3, 4]], [1000, 2001, 3002, 4500], seeds=(), num_runs=5))
    assert [str(fault) for fault in audit(drift)] == ["a: between 1,001 and 1,498 images a round"]


def test_every_check_was_planted() -> None:
    planted = {check for check, _, _ in FAULTS} | {"no common dip", "no tail batch", "selection was blind"}
    assert planted == set(CHECKS)


def test_a_clean_run_exits_0_and_says_how_many_checks(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    done = CliRunner().invoke(app, ["verify", f"out={store.folder}"])
    assert done.exit_code == 0, done.output
    assert f"made_up: {len(CHECKS)} of {len(CHECKS)} checks passed" in done.stderr
    done = CliRunner().invoke(app, ["verify", f"out={store.folder}", "format=json"])
    assert json.loads(done.stdout) == [{"faults": [], "verdicts": []}]


def test_an_experiment_without_records_has_no_faults() -> None:
    empty = experiment(curve("a", np.empty((0, 3)), seeds=()))
    assert isinstance(empty, Experiment)
    assert audit(empty) == []
    assert Record(0, 1, [1], {}, {}).diagnostics == {}
