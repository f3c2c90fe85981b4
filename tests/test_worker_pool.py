"""The pool of workers: who runs which cell, and what happens to workers that are lost. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _cells import bytes_of, cell
from msgspec import structs

from benchmark.experiment.cell import Cell
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.launchers.worker import SerializedCell, WorkerFailure
from benchmark.runner.launchers.worker_pool import WorkerLoss, WorkerPool, choose_cell
from benchmark.system import activity, remarks
from benchmark.system.files import StoreWriteError

LOST = WorkerLoss(KeyError("the worker died"))
STARVED = WorkerLoss(MemoryError("no memory left"), is_out_of_memory=True)
FAULT = WorkerFailure("OddError", "odd", "trace", is_value_error=False, is_out_of_memory=False, whole_task=False)
ROUND = "a round"  # in a script: the next round of the cell
RANDOM, MARGIN = cell("random", rounds=2), cell("margin", rounds=2)


@dataclass(eq=False)
class StandIn:
    """A worker."""

    answers: list[Any]


@dataclass
class StandIns:
    """A backend whose workers answer as the script says: for each strategy, the answers to each time it is sent."""

    script: dict[str, list[list[Any]]]
    num_workers: int = 2
    setting: str = "jobs=2"
    log: list[str] = field(default_factory=list)

    def capacity(self) -> int:
        return self.num_workers

    def start(self) -> StandIn:
        self.log.append("start")
        return StandIn(self.next_answers("start") or [None])

    def send(self, worker: StandIn, one_cell: SerializedCell, past: Sequence[Record]) -> None:
        [name] = one_cell.strategy
        self.log.append(f"{name} from {len(past)}")
        numbers = iter(range(len(past), 9))
        answers = self.next_answers(name) or [*[ROUND] * (2 - len(past)), None]
        worker.answers += [header_of(one_cell.to_cell())]
        worker.answers += [round_of(next(numbers)) if answer == ROUND else answer for answer in answers]

    def next_answers(self, name: str) -> list[Any]:
        return [*self.script[name].pop(0)] if self.script.get(name) else []

    def wait(self, workers: Sequence[StandIn]) -> tuple[StandIn, Any]:
        worker = min((worker for worker in workers if worker.answers), key=lambda worker: len(worker.answers))
        return worker, worker.answers.pop(0)

    def stop(self, worker: StandIn) -> None:
        self.log.append("stop")

    def reserve_whole_devices(self) -> None:
        self.log.append("alone")
        self.num_workers = 1


def header_of(one_cell: Cell) -> Header:
    return Header(one_cell.key, one_cell.identity(), "data", 100, "accuracy", [])


def round_of(number: int) -> tuple[Record, Measured]:
    record = Record(number, 20, [number], {"images": 20.0}, {"accuracy": 0.5}, {})
    return record, Measured(number, {"fit": 1.0}, False, 1.0, "cpu", {})


def run_pool(
    script: dict[str, list[list[Any]]], folder: Path, cells: Sequence[Cell] = (RANDOM, MARGIN), num_workers: int = 1
) -> tuple[list[Event], list[str]]:
    """Returns what happens to these cells, and what the backend did."""
    backend = StandIns(script, num_workers)
    return list(WorkerPool(list(cells), Store(folder), backend).events()), backend.log


def rounds(events: Sequence[Event], one_cell: Cell) -> list[int]:
    return [event.record.round for event in events if isinstance(event, Round) and event.cell == one_cell]


def failures(events: Sequence[Event]) -> list[Failure]:
    return [event for event in events if isinstance(event, Failure)]


def test_a_worker_runs_one_cell_after_the_other_and_is_stopped_when_none_is_left(tmp_path: Path) -> None:
    events, log = run_pool({}, tmp_path)
    assert log == ["start", "random from 0", "margin from 0", "stop"]
    assert [type(event) for event in events] == [CellStarted, Round, Round] * 2
    assert len(bytes_of(tmp_path)) == 2


def test_there_are_no_more_workers_than_cells(tmp_path: Path) -> None:
    assert run_pool({}, tmp_path, num_workers=5)[1].count("start") == 2


def test_a_lost_cell_comes_first_and_goes_on_from_what_is_recorded(tmp_path: Path) -> None:
    events, log = run_pool({"random": [[ROUND, LOST]]}, tmp_path)
    assert log == ["start", "random from 0", "stop", "start", "random from 1", "margin from 0", "stop"]
    assert rounds(events, RANDOM) == [0, 1]
    assert not failures(events)


def test_a_cell_that_is_lost_four_times_fails_and_the_others_go_on(tmp_path: Path) -> None:
    events, log = run_pool({"random": [[LOST]] * 4}, tmp_path)
    [failure] = failures(events)
    assert (failure.cell, failure.error) == (RANDOM, LOST.error)
    assert log.count("random from 0") == 4
    assert rounds(events, MARGIN) == [0, 1]
    assert "the worker died" in (Store(tmp_path).read_failure(RANDOM.path) or "")


@pytest.mark.parametrize("answer", [STARVED, dataclasses.replace(FAULT, is_out_of_memory=True)])
def test_a_cell_that_ran_out_of_memory_is_run_once_more_alone(answer: object, tmp_path: Path) -> None:
    events, log = run_pool({"random": [[ROUND, answer]]}, tmp_path / "once", num_workers=2)
    assert log[-4:] == ["alone", "start", "random from 1", "stop"]
    assert log.index("margin from 0") < log.index("alone")
    assert (rounds(events, RANDOM), failures(events)) == ([0, 1], [])
    events, log = run_pool({"random": [[answer], [answer]]}, tmp_path / "twice", num_workers=2)
    assert [failure.cell for failure in failures(events)] == [RANDOM]
    assert log.count("random from 0") == 2


def test_workers_that_never_start_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^jobs=2: no worker starts: 'the worker died'$"):
        run_pool({"start": [[LOST]] * 4}, tmp_path)
    events, _ = run_pool({"start": [[LOST]] * 3}, tmp_path)
    assert rounds(events, RANDOM) == [0, 1]


def test_a_worker_goes_on_after_a_fault(tmp_path: Path) -> None:
    events, log = run_pool({"random": [[ROUND, FAULT, None]]}, tmp_path)
    assert log == ["start", "random from 0", "margin from 0", "stop"]
    assert [failure.line for failure in failures(events)] == [f"{RANDOM.label}: OddError: odd"]


def test_a_cell_whose_records_are_of_other_data_fails_and_its_worker_goes(tmp_path: Path) -> None:
    """The worker is at the next round already."""
    other = structs.replace(header_of(RANDOM), data="other")
    events, log = run_pool({"random": [[other, ROUND, None]]}, tmp_path)
    [failure] = failures(events)
    assert failure.whole_task
    assert "was written with other data" in failure.line
    assert log == ["start", "random from 0", "stop", "start", "margin from 0", "stop"]


def test_files_of_images_are_listed_beside_the_records_and_changed_ones_are_named(tmp_path: Path) -> None:
    sources = Sources("data", {"pool": [("a.png", "1")]})
    run_pool({"random": [[ROUND, None]]}, tmp_path, [RANDOM])
    pool = WorkerPool([MARGIN], Store(tmp_path), StandIns({}))
    pool.sources[MARGIN.task.label] = sources
    assert not failures(list(pool.events()))
    assert Store(tmp_path).sources(MARGIN.task.label) == sources
    other = structs.replace(header_of(RANDOM), data="other")
    script = {"random": [[Sources("other", {"pool": [("a.png", "2")]}), other]]}
    [failure] = failures(run_pool(script, tmp_path, [RANDOM])[0])
    assert "a.png" in failure.line


def test_a_disk_that_cannot_be_written_ends_the_run_and_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreWriteError("no space left")

    monkeypatch.setattr(Store, "append", fail)
    backend = StandIns({})
    with pytest.raises(StoreWriteError):
        list(WorkerPool([RANDOM, MARGIN], Store(tmp_path), backend).events())
    assert (backend.log.count("start"), backend.log.count("stop")) == (2, 2)


def test_a_remark_that_several_workers_make_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remarks.remark_once.cache_clear()
    line = "the cache cannot be written"
    run_pool({"random": [[line, ROUND, None]], "margin": [[line, line, None]]}, tmp_path)
    assert caplog.messages == [line]


def test_stages_of_workers_are_reported_here_until_the_worker_stops(tmp_path: Path) -> None:
    reports = list[tuple[int, str, str]]()
    fitting = activity.Stage(activity.ignore_stage, "fitting")
    script = {name: [[fitting, ROUND, ROUND, None]] for name in ("random", "margin")}
    with activity.report_to(lambda stage: reports.append((stage.worker, stage.task, stage.name))):
        run_pool(script, tmp_path, num_workers=2)
    task = RANDOM.task.label
    for number in (1, 2):
        assert [report[1:] for report in reports if report[0] == number] == [(task, "fitting"), ("", "")]


def test_a_worker_stays_with_its_task_and_off_fits_that_others_are_at() -> None:
    waiting = [cell("margin"), cell("random", seed=1), cell("random", task="shelf")]
    tiny, shelf = waiting[0].task.label, "shelf"
    assert choose_cell(waiting, "", set()) == 0
    assert choose_cell(waiting, "", {(tiny, 0, 0)}) == 1
    assert choose_cell(waiting, tiny, {(tiny, 0, 0), (tiny, 1, 0)}) == 0
    assert choose_cell(waiting, "", {(tiny, 0, 0), (tiny, 1, 0)}) == 2
    assert choose_cell(waiting, shelf, set()) == 2
    assert choose_cell(waiting[:2], shelf, set()) == 0
    next_seed = [waiting[2], *(each for each in waiting[:2] if each.seed == 1), waiting[2]]
    assert [choose_cell(next_seed, tiny, set(), in_order) for in_order in (False, True)] == [1, 0]
