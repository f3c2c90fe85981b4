"""What users type: verbs, exit codes, one line for an error, and a run that survives being killed."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from _cells import FAULTY, bytes_of

from benchmark import config
from benchmark.cli.commands import main
from benchmark.conformance.checks import run_checks
from benchmark.experiment import spec
from benchmark.experiment.run_settings import Settings
from benchmark.plugins import discovery
from benchmark.runner import machine as run_machine
from benchmark.runner.launchers import launcher, local_launch

SMALL = ["tasks=[digits[epochs=2]]", "initial=20", "budget=5", "validation=10"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def benchmark(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)


def test_run_twice_trains_once(tmp_path: Path) -> None:
    words = ["run", *SMALL, "strategies=[random,margin]", "seeds=1", "rounds=2", f"out={tmp_path / 'out'}"]
    first, second = benchmark(*words), benchmark(*words)
    assert first.returncode == second.returncode == 0, first.stderr
    assert "2 cells, 2 to do, 4 rounds" in first.stderr
    assert "2 cells, 0 to do, 0 rounds" in second.stderr
    assert first.stdout == second.stdout
    status = json.loads(benchmark("status", f"out={tmp_path / 'out'}", "format=json").stdout)
    assert status == [
        {
            "experiment": "digits[epochs=2]",
            "cells": 2,
            "done": 2,
            "failed": 0,
            "missing": 0,
            "rounds": "4/4",
            "hours left": 0.0,
            "note": "",
        }
    ]
    rows = json.loads(benchmark("tables", f"out={tmp_path / 'out'}", "format=json").stdout)
    assert {row["strategy"] for row in rows} == {"random", "margin"}


def test_a_failed_cell_exits_1_keeps_the_rest_and_shows(tmp_path: Path) -> None:
    words = ["run", *SMALL, "strategies=[crash,random]", "seeds=1", "rounds=2", f"out={tmp_path}", f"plugins={FAULTY}"]
    done = benchmark(*words)
    assert done.returncode == 1
    assert "crash seed 0: KeyError: 'a bug in a strategy'" in done.stderr
    assert "Traceback" in done.stderr  # a bug in a strategy: its author wants to see where
    assert "failed (0/1)" in done.stdout
    assert [path.name for path in tmp_path.rglob("failures/**/*.txt")] == ["seed-0.txt"]
    assert benchmark(*words).returncode == 1  # failures are not cached: it is tried again


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "sed=1"], "did you mean 'seeds'"),
        (["run", "strategies=[entrpy]"], "did you mean 'entropy'"),
        (["run", "device=tpu"], "device=tpu"),
        (["tables", "out=nowhere"], "holds no results"),
        (["status", "out=nowhere"], "holds no results"),
        (["tables", "grid=quik"], "no grid is called 'quik' (did you mean 'quick'?)"),
        (["report", "grid=quik"], "no grid is called 'quik' (did you mean 'quick'?)"),
        (["status", "grid=quik"], "no grid is called 'quik' (did you mean 'quick'?)"),
        (["tables", "grid=quick"], "results/quick holds no results"),
        (["status", "seeds=3"], "no setting of this command is called 'seeds'"),
        (["tables", "outt=x"], "'outt' (did you mean 'out'?)"),
        (["list", "strategy"], "did you mean 'strategies'"),
        (["check", "entrpy"], "did you mean 'entropy'"),
        (["new", "encoder", "mine"], "type `new strategy NAME` or `new task NAME`"),
        (["new", "task", "digits"], "there is a task digits already"),
        (["new", "strategy", "random"], "there is a strategy random already"),
        (["new", "strategy", "No-Name"], "is not a valid name"),
        (["run", "plugins=nowhere"], "no such folder"),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(
    tmp_path: Path, words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_every_setting_is_listed_with_its_default_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "list", "settings", "format=json"])
    with pytest.raises(SystemExit):
        main()
    rows = json.loads(capsys.readouterr().out)
    fields = [field.name for field in dataclasses.fields(Settings) if field.name != "experiments"]
    assert [row["name"] for row in rows] == sorted(fields, key=[row["name"] for row in rows].index)
    assert all(row["what"] and row["default"] for row in rows)


def test_a_folder_of_results_that_is_called_like_no_grid_is_read(tmp_path: Path) -> None:
    (tmp_path / "results" / "mine").mkdir(parents=True)
    done = benchmark("tables", "grid=mine", cwd=tmp_path)
    assert done.stderr.startswith("error: results/mine holds no results")


def test_a_task_that_cannot_be_had_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = benchmark(
        "run",
        "tasks=[image_folder[root=nowhere]]",
        "strategies=[random,margin]",
        f"data={tmp_path}",
        f"out={tmp_path / 'out'}",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: image_folder[root=nowhere]: no such folder")
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    words = ["run", *SMALL, "strategies=[random]", "seeds=1", f"out={tmp_path}"]
    assert benchmark(*words, "rounds=2").returncode == 0
    before = (tmp_path / "grid.json").read_bytes()
    done = benchmark(*words, "rounds=1")
    assert (tmp_path / "grid.json").read_bytes() == before
    assert done.returncode == 2
    assert "choose another folder with out=DIR" in done.stderr


def test_a_read_only_or_full_disk_is_one_line(tmp_path: Path) -> None:
    done = benchmark("run", *SMALL, "strategies=[random]", "seeds=1", "rounds=1", "out=/dev/full/run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_newcomers_strategy_reaches_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    created = benchmark("new", "strategy", "mine", f"plugins={folder}", cwd=tmp_path)
    assert created.returncode == 0, created.stderr
    code = folder / "mine.py"
    assert len(code.read_text().splitlines()) < 20
    code.write_text(code.read_text().replace("view.highest(predictions", "view.lowest(predictions"))
    checked = benchmark("check", "mine", f"plugins={folder}", "check_on=digits[epochs=2]", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    words = ["strategies=[random,mine]", "seeds=1", "rounds=2", f"plugins={folder}", "out=out"]
    ran = benchmark("run", *SMALL, *words, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "mine" in ran.stdout
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "test_mine.py")]
    tested = subprocess.run(test, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert tested.returncode == 0, tested.stdout


def test_a_newcomers_task_reaches_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    created = benchmark("new", "task", "mine", f"plugins={folder}", cwd=tmp_path)
    assert created.returncode == 0, created.stderr
    assert len((folder / "mine.py").read_text().splitlines()) < 32
    words = ["tasks=[mine]", "strategies=[random,margin]", "seeds=1", "initial=10", "budget=10", "rounds=2"]
    ran = benchmark("run", *words, f"plugins={folder}", "out=out", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "mine" in ran.stdout
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "test_mine.py")]
    tested = subprocess.run(test, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert tested.returncode == 0, tested.stdout


def test_check_says_what_is_wrong_in_words(tmp_path: Path) -> None:
    done = benchmark("check", "cheat", f"plugins={FAULTY}", "check_on=digits[epochs=2]", "format=json", cwd=tmp_path)
    assert done.returncode == 1
    failed = [row["why"] for row in json.loads(done.stdout) if row["result"] == "failed"]
    assert any("reads labels that it did not buy" in why for why in failed)


BOXES = ["tasks=[shelf]", "initial=20", "budget=40", "validation=10", "rounds=6", "budget_in=boxes"]


def test_a_grid_in_boxes_that_ends_by_score_is_done_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BOXES, "until=map 0.5 +- 0.01", "strategies=[random,in_order]", "seeds=2", f"plugins={FAULTY}"]
    monkeypatch.chdir(tmp_path)
    given_tasks = []
    local = local_launch.run_locally
    monkeypatch.setattr(launcher, "run_locally", lambda *given: given_tasks.append(given[-1]) or local(*given))
    for verb in ("run", "run", "status", "tables"):
        settings = [*words, "workers=3"] if verb == "run" else []
        monkeypatch.setattr(sys, "argv", ["benchmark", verb, *settings, "out=out", "format=json"])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code
    out, err = capsys.readouterr()
    assert "4 cells, 4 to do, 24 rounds" in err
    assert "4 cells, 0 to do, 0 rounds" in err
    assert [(tasks.machine.scratch, tasks.machine.workers) for tasks in given_tasks] == [(Path("out/.fits"), 3)] * 2
    [status] = json.loads(out[out.index('[\n {\n  "experiment"') :].partition("\n]")[0] + "\n]")
    assert (status["done"], status["failed"], status["missing"], status["hours left"]) == (4, 0, 0, 0.0)
    num_done, total = status["rounds"].split("/")
    assert num_done == total
    assert int(total) < 24
    assert (tmp_path / "out/cells/shelf/20+40boxesx5v10_until_map_0.5+-0.01/random/seed-0.jsonl").exists()
    manifest = json.loads((tmp_path / "out/grid.json").read_text())
    assert manifest["experiments"][0]["schedule"]["until"] == "map 0.5 +- 0.01"


def test_check_keeps_no_fits_in_work() -> None:
    machine = run_machine.prepare_machine(config.compose_settings(["device=cpu"]))
    assert (machine.scratch, machine.workers) == (None, 0)


@pytest.mark.parametrize(
    ("flaw", "title", "words"),
    [
        ("cost", "it counts the images it charges for", "boxes together"),
        ("sums", "it predicts probabilities", "rows of scores sum to 0.95..0.95, not to one"),
        ("image", "it predicts probabilities", "image_P must be in 0..9"),
        ("infinite", "it predicts probabilities", "boxes are not finite"),
        ("flat", "it predicts probabilities", " boxes have no area"),
        ("none", "", ""),
    ],
)
def test_check_says_what_is_wrong_with_boxes(flaw: str, title: str, words: str) -> None:
    discovery.discover(FAULTY)
    task = spec.Spec.read("task", f"shelf[flaw={flaw}]")
    failures = [
        finding
        for finding in run_checks(task, task, run_machine.prepare_machine(config.compose_settings(["device=cpu"])))
        if finding.message
    ]
    assert [finding.check for finding in failures] == [title] * bool(words)
    assert all(words in finding.message for finding in failures)


@pytest.mark.slow
def test_sigkill_three_times_at_random_and_nothing_differs(tmp_path: Path) -> None:
    words = [*SMALL, "strategies=[random,badge,isal[depth=20]]", "seeds=2", "rounds=4"]
    assert benchmark("run", *words, f"out={tmp_path / 'whole' / 'run'}").returncode == 0
    rng = random.Random(0)
    command = [sys.executable, "-m", "benchmark", "run", *words, f"out={tmp_path / 'killed' / 'run'}"]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert benchmark("run", *words, f"out={tmp_path / 'killed' / 'run'}").returncode == 0
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert bytes_of(whole) == bytes_of(killed)
    tables = [
        {path.relative_to(folder): path.read_bytes() for path in (folder / "tables").rglob("*.*")}
        for folder in (whole, killed)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 7  # csv, md, tex, all of them, the comparisons, those round by round, scores of classes


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "tasks=[digits]",
        "strategies=[random]",
        f"out={tmp_path / 'run'}",
    ]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits deafness to it
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 1
    assert "interrupted: every finished round is recorded" in rest
    assert "Traceback" not in rest
    assert sum(content.count(b"\n") for content in bytes_of(tmp_path / "run").values()) >= 3
