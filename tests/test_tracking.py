"""The copy on Weights & Biases: one run per cell; an error there never fails a run."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from _cells import cell, run

from benchmark.runner import tracking
from benchmark.runner.events import CellStarted, Event, Failure, Round


class Fake(types.ModuleType):
    """The part of wandb that is used."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.broken = broken
        self.error: type[BaseException] = ConnectionError
        self.api = types.SimpleNamespace(api_key=None)
        self.Settings = lambda **options: options

    def init(self, **options: Any) -> types.SimpleNamespace:
        if self.broken:
            raise self.error("no way out")
        options["logged"], options["closed"] = [], None
        self.runs.append(options)
        return types.SimpleNamespace(
            log=lambda row, step: options["logged"].append((step, row)),
            finish=lambda exit_code: options.update(closed=exit_code),
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    library = Fake()
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return library


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    folder = tmp_path_factory.mktemp("tracked")
    all_events: list[Event] = []
    for strategy in ("random", "margin", "crash"):
        one_cell = cell(strategy, rounds=2)
        all_events += [CellStarted(one_cell), *run([one_cell], folder)]
    return all_events


def test_one_run_a_cell_grouped_by_task_and_strategy(fake: Fake, events: list[Event], tmp_path: Path) -> None:
    said: list[str] = []
    assert list(tracking.mirror_events(events, "wandb", tmp_path, said.append)) == events
    assert said == []
    assert [mirrored["job_type"] for mirrored in fake.runs] == ["random", "margin", "crash"]
    assert {mirrored["group"] for mirrored in fake.runs} == {"digits[epochs=2]"}
    assert {mirrored["mode"] for mirrored in fake.runs} == {"offline"}
    assert [mirrored["closed"] for mirrored in fake.runs] == [0, 0, 1]
    rounds = [event for event in events if isinstance(event, Round) and event.cell.strategy.label == "margin"]
    logged = fake.runs[1]["logged"]
    assert [step for step, _ in logged] == [0, 1]
    assert logged[1][1]["accuracy"] == rounds[1].record.scores["accuracy"]
    assert logged[1][1]["cost/images"] == 25
    assert fake.runs[1]["config"]["seed"] == 0
    assert len({mirrored["id"] for mirrored in fake.runs}) == 3


def test_a_key_means_online(fake: Fake, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    list(tracking.mirror_events(events, "wandb", tmp_path, print))
    assert {mirrored["mode"] for mirrored in fake.runs} == {"online"}


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_a_failing_mirror_is_said_once_and_fails_nothing(
    fake: Fake, events: list[Event], tmp_path: Path, error: type[BaseException]
) -> None:
    fake.broken, fake.error = True, error
    said: list[str] = []
    assert list(tracking.mirror_events(events, "wandb", tmp_path, said.append)) == events
    assert said == [f"tracking=wandb failed, the run goes on without it: {error.__name__}: no way out"]


def test_a_mirror_that_fails_at_its_end_fails_nothing(fake: Fake, events: list[Event], tmp_path: Path) -> None:
    def refuse(**options: Any) -> types.SimpleNamespace:
        def finish(exit_code: int) -> None:
            raise ConnectionError("gone")

        return types.SimpleNamespace(log=lambda row, step: None, finish=finish)

    fake.init = refuse  # type: ignore[method-assign]
    said: list[str] = []
    assert list(tracking.mirror_events(events, "wandb", tmp_path, said.append)) == events
    assert len(said) == 1


def test_cells_side_by_side_keep_their_runs(fake: Fake, events: list[Event], tmp_path: Path) -> None:
    """Rounds of two cells alternate, as several workers report them."""
    cells = [[e for e in events if e.cell.strategy.label == name] for name in ("random", "margin")]
    mixed = [event for pair in zip(*cells, strict=True) for event in pair]
    list(tracking.mirror_events(mixed, "wandb", tmp_path, print))
    assert [mirrored["job_type"] for mirrored in fake.runs] == ["random", "margin"]
    assert [[step for step, _ in mirrored["logged"]] for mirrored in fake.runs] == [[0, 1], [0, 1]]
    assert [mirrored["closed"] for mirrored in fake.runs] == [0, 0]


def test_without_wandb_it_is_one_line(events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[wandb\]'"):
        list(tracking.mirror_events(events, "wandb", tmp_path, print))
    assert list(tracking.mirror_events(events, "none", tmp_path, print)) == events
    assert any(isinstance(event, Failure) for event in events)


@pytest.mark.slow
def test_the_real_library_writes_offline(events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    list(tracking.mirror_events(events, "wandb", tmp_path, said.append))
    assert said == []
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 3
