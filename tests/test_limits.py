"""Time limits, the order of cells under one, forecasts, and runs that repeat bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from _cells import FAULTY, bytes_of, cell, run

from benchmark import config
from benchmark.api import Machine
from benchmark.cli.commands import main
from benchmark.plugins import discovery, registry
from benchmark.records.record import Measured, Record
from benchmark.records.store import Store
from benchmark.runner import events as runner_events
from benchmark.runner import forecast, measuring, task_loading
from benchmark.runner import gpu_hours as runner_gpu_hours
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch
from benchmark.runner.time_limit import time_limit

SMALL = ["tasks=[digits[epochs=2]]", "initial=20", "budget=5", "validation=10", "rounds=3"]


def command(*words: object, code: int = 0) -> None:
    """Runs the command line in this process; code: the expected exit status."""
    sys.argv = ["benchmark", *map(str, words)]
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code


# --- select_timeout ---------------------------------------------------------------------------
def test_a_strategy_that_hangs_fails_alone_and_is_named(tmp_path: Path) -> None:
    store, tasks = Store(tmp_path), task_loading.TaskLoader(Machine(torch.device("cpu"), select_timeout=0.3))
    start_time = time.monotonic()
    events = list(
        local_launch.run_locally([cell("hangs"), cell("random")], store, FitCache(tmp_path / "fits", 1, "cpu"), tasks)
    )
    assert time.monotonic() - start_time < 30
    (failure,) = (event for event in events if isinstance(event, Failure))
    assert failure.line.endswith(" hangs seed 0: TimeoutError: select_timeout=0.3: hangs did not select within 0.3 s")
    assert "time.sleep" in failure.trace  # where it hangs
    assert [len(store.records(cell(name).path)[1]) for name in ("hangs", "random")] == [1, 3]


def test_a_block_that_swallows_the_alarm_hears_it_again() -> None:
    def deaf() -> None:
        with time_limit(0.1, "deaf"):
            try:
                time.sleep(5)
            except TimeoutError:
                time.sleep(5)

    with pytest.raises(TimeoutError, match=r"select_timeout=0\.1: deaf did not"):
        deaf()


def test_the_alarm_is_off_after_the_block_and_who_had_it_has_it_again() -> None:
    def own(*_: object) -> None:
        """Somebody else's."""

    before = signal.signal(signal.SIGALRM, own)
    try:
        with time_limit(0.05, "quick"):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is own
        with time_limit(None, "free"):
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)


# --- gpu_hours --------------------------------------------------------------------------------
TASKS = {"margin": "digits[epochs=2]", "random": "shelf"}
CELLS = {(name, seed): cell(name, seed=seed, task=task) for name, task in TASKS.items() for seed in (0, 1)}
Told = tuple[str, int, int, float]  # strategy, seed, round (-1: started, -2: failed), hours since the last event


def hours(schedule_of_events: list[Told], gpu_hours: float | None, share: float = 1.0) -> tuple[int, bool, list[str]]:
    """Returns how many events pass under a budget, whether the launcher was closed, and what was said."""
    now, closed, said = 0.0, False, list[str]()

    def events() -> Generator[Event]:
        nonlocal now, closed
        try:
            for strategy, seed, number, since in schedule_of_events:
                now += 3600 * since
                running = CELLS[strategy, seed]
                if number == -1:
                    yield CellStarted(running)
                elif number == -2:
                    yield runner_events.Failure(running, ValueError("no"), whole_task=False)
                else:
                    yield Round(running, Record(number, 1, [], {}, {}, {}), Measured(number, {}, False, 0, "", {}))
        finally:
            closed = True

    passed_events = list(runner_gpu_hours.stop_after_gpu_hours(events(), gpu_hours, share, said.append, lambda: now))
    return len(passed_events), closed, said


ONE_CELL: list[Told] = [("margin", 0, -1, 0), ("margin", 0, 0, 1.0), ("margin", 0, 1, 1.0), ("margin", 0, 2, 1.0)]


def test_a_budget_ends_before_the_round_that_might_not_fit_and_closes_the_launcher() -> None:
    assert hours(ONE_CELL, 2.9) == (3, True, ["gpu_hours=2.9: 2 are spent; the same command goes on from here"])
    assert hours(ONE_CELL, 1.9)[0] == 2
    assert hours(ONE_CELL, 1.4, share=0.5)[0] == 3  # two cells share a GPU
    for enough in (3.0, None):
        assert hours(ONE_CELL, enough) == (4, True, [])  # all is done: nothing to say


def test_a_budget_is_spent_by_all_cells_in_work_and_by_those_that_fail() -> None:
    side_by_side: list[Told] = [
        ("margin", 0, -1, 0), ("margin", 1, -1, 0), ("margin", 0, 0, 1.0), ("margin", 1, 0, 0.0), ("margin", 0, 1, 1.0),
    ]  # fmt: skip
    assert hours(side_by_side, 3.9)[0] == 4  # two hours are spent by two cells, and two more were
    assert hours(side_by_side, 4.1)[0] == 5
    failing: list[Told] = [("margin", 0, -1, 0), ("margin", 0, -2, 2.0), *((n, 1, r, t) for n, _, r, t in ONE_CELL)]
    assert hours(failing, 3.5)[0] == 4  # failure, start, round 0; not round 1
    assert hours(failing, 5.0)[0] == 6


def test_a_budget_looks_at_the_task_that_is_next() -> None:
    long_then_short: list[Told] = [*ONE_CELL, ("random", 0, -1, 0), ("random", 0, 0, 0.1), ("margin", 1, -1, 0)]
    assert hours(long_then_short, 3.5) == (
        6, True, ["gpu_hours=3.5: 3.1 are spent; the same command goes on from here"]
    )  # fmt: skip


def test_a_run_of_a_few_seconds_stops_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *SMALL, "strategies=[random,margin]", "seeds=1", "threads=1"]
    command(*words, f"out={tmp_path / 'a'}", "gpu_hours=1e-7", code=1)
    output = capsys.readouterr()
    assert "gpu_hours=1e-07:" in output.err
    assert "2 of 2 cells are not finished; the same command goes on from here" in output.err
    assert sum(len(content.splitlines()) for content in bytes_of(tmp_path / "a").values()) == 2  # a header and a round
    command(*words, f"out={tmp_path / 'a'}")
    command(*words, f"out={tmp_path / 'b'}")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_under_a_budget_all_tables_get_their_first_seed_before_any_gets_a_second() -> None:
    discovery.discover(None)
    settings = config.compose_settings(["grid=quick", "strategies=[random,margin]"])
    grid = config.build_grid(settings)
    order = [(each.task.label, each.seed) for each in grid.cells(by_seed=True)]
    assert [seed for _, seed in order] == sorted(seed for _, seed in order)
    assert {task for task, seed in order if seed == 0} == {experiment.task.label for experiment in grid.experiments}
    assert sorted(each.path for each in grid.cells()) == sorted(each.path for each in grid.cells(by_seed=True))
    plain = [each.task.label for each in grid.cells()]
    assert [task for number, task in enumerate(plain) if task != plain[number - 1]] == [
        e.task.label for e in grid.experiments
    ]


@pytest.mark.parametrize("name", ["select_timeout", "gpu_hours"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_limit_is_a_positive_number(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=.*must be (greater than 0|a number or null)"):
        config.compose_settings([f"{name}={value}"])


# --- dry_run ----------------------------------------------------------------------------------
def test_a_forecast_counts_what_a_run_then_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "strategies=[random,margin,learning_loss]", "seeds=2", f"out={tmp_path}", "threads=1"]
    command("run", *words, "dry_run=true", "format=json")
    output = capsys.readouterr()
    rows = json.loads(output.out)
    assert not bytes_of(tmp_path)
    assert [(row["strategy"], row["cells"], row["rounds"], row["fits"]) for row in rows] == [
        ("random", 2, 6, 6),
        ("margin", 2, 6, 4),  # the fits of round 0 are random's
        ("learning_loss", 2, 6, 6),  # its own: they train a companion
    ]
    assert "6 cells, 18 rounds, 16 fits (2 of 18 fits are shared)" in output.err
    cached = set((tmp_path / ".fits").glob("*.safetensors"))
    assert len(cached) == 2  # of random and margin, and of learning_loss
    command("run", *words)
    assert len(set((tmp_path / ".fits").glob("*.safetensors"))) == 16
    measured = [
        line for path in sorted((tmp_path / "measured").rglob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    assert sum('"shared_fit": false' in line for line in measured) == 16 - len(cached)
    capsys.readouterr()
    command("run", *words, "dry_run=true")
    assert "0 cells, 0 rounds, 0 fits (nothing is left to do): 0 hours" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [[], ["dry_run=true"]])
def test_a_schedule_that_a_pool_is_too_small_for_is_one_line(
    dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "strategies=[random,margin]", "seeds=2", f"out={tmp_path}", "threads=1", *dry]
    for much, says in (("initial=5000", "of a pool of 1297: lower"), ("budget_in=boxes", "counts no boxes")):
        command("run", *words, much, code=2)
        output = capsys.readouterr()
        assert says in output.err.splitlines()[-1]
        assert output.err.count(says) == 1
        assert not output.out
    assert not bytes_of(tmp_path)


def test_a_dry_run_refuses_a_folder_of_another_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "strategies=[random]", "seeds=1", f"out={tmp_path}", "threads=1"]
    command("run", *words)
    before = (tmp_path / "grid.json").read_bytes()
    command("run", *words, "rounds=2", "dry_run=true", code=2)
    assert "choose another folder with out=DIR" in capsys.readouterr().err
    assert (tmp_path / "grid.json").read_bytes() == before


def test_a_pilot_that_fails_is_said_and_the_rest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "strategies=[random,faulty]", "seeds=1", f"out={tmp_path}", "threads=1", "dry_run=true"]
    (tmp_path / "plug").mkdir()
    code = "from benchmark.api import Indices, View, register\nimport numpy as np\n\n\n@register(version=1)\n"
    code += "def faulty(view: View, budget: int, rng: np.random.Generator) -> Indices:\n    raise KeyError('never')\n"
    (tmp_path / "plug" / "faulty.py").write_text(code)
    command("run", *words, f"plugins={tmp_path}/plug", code=1)
    registry.REGISTRY["strategy"].pop("faulty")
    err = capsys.readouterr().err
    assert "1 cell, 3 rounds" in err
    assert "no hours could be estimated for: digits[epochs=2] faulty" in err


def test_an_edited_strategy_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "seeds=1", f"out={tmp_path}/run", "threads=1", f"plugins={tmp_path}", "strategies=[random,edited]"]
    code = "from benchmark.api import Indices, View, register\nimport numpy as np\n\n\n@register(version={})\n"
    code += 'def edited(view: View, budget: int, rng: np.random.Generator) -> Indices:\n    """{}"""\n'
    code += "    return view.unlabelled[{}:][:budget]\n"
    says = "edited, or what it imports, was edited since 1 of its cells were recorded, but is still version 1"
    edits = [(1, "One.", 0, ""), (1, "Two.", 0, ""), (1, "Two.", 9, says), (2, "", 9, "")]
    for version, words_of_it, setup, is_said in edits:
        (tmp_path / "edited.py").write_text(code.format(version, words_of_it, setup))
        registry.REGISTRY["strategy"].pop("edited", None)
        command("run", *words, code=2 * (version - 1))
        err = capsys.readouterr().err
        assert is_said in err
        assert ("was edited since" in err) == bool(is_said)
    (tmp_path / "edited.py").unlink()
    plugin = registry.REGISTRY["strategy"].pop("edited")
    assert (plugin.code_hash(), dataclasses.replace(plugin, needs=()).code_hash()) == (plugin.code_hash(), "")
    assert "written with other versions of the strategy: 1 in the file, 2 in this run" in err


def test_a_forecast_of_a_run_that_began_reads_its_pace_off_the_records(tmp_path: Path) -> None:
    run([cell("margin", rounds=3, seed=0)], tmp_path)
    store = Store(tmp_path / "run")
    measurements = store.measurements(cell("margin").path)
    pace = forecast.recorded_pace([cell("margin", seed=0), cell("margin", seed=1)], store)
    assert pace is not None
    assert pace.fit == pytest.approx(sum(measured.seconds["fit"] for measured in measurements) / (20 + 25 + 30))
    assert pace.select == pytest.approx(sum(measured.seconds["select"] for measured in measurements) / 2)
    assert pace.images_per_round == 5
    assert forecast.recorded_pace([cell("margin", seed=1)], store) is None


def test_a_forecast_multiplies_its_pace_by_what_is_left() -> None:
    pace, shared = forecast.Pace(fit=36.0, score=3.6, select=7.2, images_per_round=5.0), set[object]()
    discovery.discover(FAULTY)
    settings = config.compose_settings([*SMALL, "strategies=[margin]", "seeds=2"])
    (experiment,) = config.build_grid(settings).experiments
    first, second = experiment.cells()
    row = forecast.build_row(experiment, {first: 3, second: 1}, pace, shared)
    assert (row.num_cells, row.num_rounds, row.num_fits) == (2, 4, 4)
    assert row.fit == pytest.approx(0.01 * (20 + 25 + 30 + 30))
    assert (row.score, row.select) == (pytest.approx(0.001 * 4), pytest.approx(0.002 * 3))


# --- deterministic ----------------------------------------------------------------------------
def test_a_repeatable_run_has_a_thread_a_cell_here_as_on_ray() -> None:
    assert config.compose_settings(["grid=cifar10", "deterministic=true"]).num_threads == 1
    assert config.compose_settings(["grid=cifar10", "deterministic=true", "threads=2"]).num_threads == 2
    assert config.compose_settings(["grid=cifar10"]).num_threads is None


def test_a_repeatable_run_says_so_in_its_records_and_shares_no_fit_with_another(tmp_path: Path) -> None:
    words = ["run", *SMALL, "strategies=[margin]", "seeds=1", "threads=1"]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        command(*words, f"out={tmp_path}")
        plain = bytes_of(tmp_path)
        devices = [json.dumps(Store(tmp_path).measurements(name.removesuffix(".jsonl"))[0].device) for name in plain]
        shutil.rmtree(tmp_path / "cells")
        command(*words, f"out={tmp_path}", "deterministic=true")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    (measured,) = (Store(tmp_path).measurements(name.removesuffix(".jsonl")) for name in bytes_of(tmp_path))
    assert {json.dumps(line.device) for line in measured} == {devices[0].replace(")", ", deterministic)")}
    assert not any(line.shared_fit for line in measured)
    assert len(list((tmp_path / ".fits").glob("*.safetensors"))) == 6


def test_the_versions_of_a_gpu_are_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measuring.gpu_driver_version() == "570.86.15"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    recorded = measuring.library_versions.__wrapped__()
    assert recorded["driver"] == "570.86.15"
    assert {"torch", "torchvision", "numpy", "scikit-learn", "python", "cuda", "cudnn"} < recorded.keys()
    tool.unlink()
    assert measuring.gpu_driver_version() == ""
