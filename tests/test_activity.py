"""What is being done is shown within a second: live on a terminal, in plain lines elsewhere."""

import contextlib
import copy
import io
import os
import pickle
import pty
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cells import cell, run
from PIL import Image
from rich.console import Console

from benchmark.api import Machine
from benchmark.cli import display
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner import task_loading
from benchmark.system import activity
from benchmark.system.activity import Stage


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(activity.time, "monotonic", lambda: seconds[0])
    return seconds


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_stages_are_reported_at_their_start_as_they_advance_and_at_their_end(now: list[float]) -> None:
    reports = list[str]()
    with activity.report_to(lambda stage: reports.append(stage.status_line())):
        for _ in activity.track(range(400), "reading images"):
            now[0] += 0.01
    assert reports[0] == "reading images: 0 of 400 images"
    assert reports[-1] == ""  # nothing is being done any more
    assert 30 <= len(reports) <= 42  # four seconds, ten reports each at most
    assert reports[20].startswith("reading images: 200 of 400 images, 0:00:0")


def test_a_fit_tells_its_epoch_its_pace_and_the_time_left(now: list[float]) -> None:
    with activity.stage("fitting", 200 * 1000, "images", epochs=200) as fit:
        assert fit.status_line() == "fitting: epoch 1 of 200"
        now[0] += 10
        fit.advance(50_500)
        assert fit.status_line() == "fitting: epoch 51 of 200, 5,050 images/s, 0:00:29 left"
        fit.advance(149_500)
        assert fit.status_line().startswith("fitting: epoch 200 of 200")


def test_a_fit_that_goes_on_tells_the_pace_of_what_it_does_itself(now: list[float]) -> None:
    with activity.stage("fitting", 100, "images", epochs=10, num_done=50) as fit:
        now[0] += 10
        fit.advance(5)
        assert fit.status_line() == "fitting: epoch 6 of 10, 0.5 images/s, 0:01:30 left"


def test_a_stage_inside_another_names_both_and_the_outer_one_comes_back(now: list[float]) -> None:
    reports = list[str]()
    with (
        activity.report_to(lambda stage: reports.append(stage.status_line())),
        activity.stage("selecting"),
        activity.stage("embedding", 10),
    ):
        pass
    assert reports == ["selecting", "selecting: embedding: 0 of 10", "selecting", ""]


def test_nobody_listens_unless_asked_and_not_in_other_threads() -> None:
    reports = list[Stage]()
    with activity.report_to(reports.append):
        other = threading.Thread(target=lambda: list(activity.track(range(3), "reading")))
        other.start()
        other.join()
    assert list(activity.track(range(3), "reading")) == [0, 1, 2]
    assert reports == []


def test_plain_lines_are_few(now: list[float]) -> None:
    console = Console(file=io.StringIO())
    shown = display.Display(console)
    with activity.report_to(shown):
        for _ in range(30):  # rounds within 60 seconds
            with activity.stage("fitting", 10, "images", epochs=2) as fit:
                now[0] += 1
                fit.advance(10)
                shown.tick()
            with activity.stage("selecting"):
                now[0] += 1
                shown.tick()
            shown.tick()  # nothing is being done
    starts = [line.partition(":")[0].partition(" ")[0] for line in lines_of(console)]
    assert starts == ["fitting", "selecting"] * 2


def test_a_long_stage_that_reports_nothing_is_told_again(now: list[float]) -> None:
    console = Console(file=io.StringIO())
    shown = display.Display(console)
    with activity.report_to(shown), activity.stage("selecting"):
        for _ in range(100):
            shown.tick()
            now[0] += 1
    assert lines_of(console) == ["selecting", "selecting (30 s)", "selecting (60 s)", "selecting (90 s)"]


def test_a_pipe_gets_its_first_line_within_a_second_or_two() -> None:
    console = Console(file=io.StringIO())
    with display.show_activity(console), activity.stage("reading images", 10):
        deadline = time.monotonic() + 5
        while not lines_of(console) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert lines_of(console) == ["reading images: 0 of 10"]


def test_a_terminal_has_one_live_line_that_is_erased() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=30, legacy_windows=False, _environ={})
    with display.show_activity(console) as shown, activity.stage("reading a great many images from a disk", 10):
        frame = Console(file=io.StringIO(), width=30)
        frame.print(shown)
        (line,) = lines_of(frame)
        assert "reading a great many" in line
        assert line.endswith("…")
        assert len(line) == 30
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("\x1b[2K\x1b[?25h\r")  # the line is cleared


def test_each_worker_has_a_line_until_it_does_nothing(now: list[float]) -> None:
    console = Console(file=io.StringIO())
    shown = display.Display(console)
    for worker, name in ((2, "fitting"), (1, "scoring"), (3, "fitting")):
        shown(Stage(activity.ignore_stage, name, worker=worker))
    shown(Stage(activity.ignore_stage, "", worker=3))
    console.print(shown)
    assert [line.split()[-1] for line in lines_of(console)] == ["scoring", "fitting"]
    shown.tick()
    assert lines_of(console)[2:] == ["scoring", "fitting"]


def test_a_stage_arrives_in_another_process_as_it_is(now: list[float]) -> None:
    reports = list[str]()
    with activity.stage("selecting"), activity.stage("embedding", 10, "images", num_done=2) as inner:
        now[0] += 2
        inner.advance(4)
        arrived = pickle.loads(pickle.dumps(inner.detach()))
        assert arrived.status_line() == inner.status_line() == "selecting: embedding: 6 of 10 images, 0:00:02 left"
    with activity.report_to(lambda stage: reports.append(stage.full_name)):
        activity.forward(arrived)
    assert reports == ["selecting: embedding"]


# --- what reports ---------------------------------------------------------------------------------
def reports_of(work: Callable[[], object]) -> dict[str, list[Stage]]:
    """Returns the reports by full name, each as it was at that time."""
    reports = defaultdict[str, list[Stage]](list)
    with activity.report_to(lambda stage: reports[stage.full_name].append(copy.copy(stage))):
        work()
    return reports


def built(task: str, data: Path | None = None) -> Any:
    discovery.discover()
    spec = Spec.read("task", task)
    return spec.plugin.build(Machine(torch.device("cpu"), data), spec.values)


@pytest.mark.parametrize(
    "name",
    [
        "digits[epochs=3]",
        "scenes[epochs=3]",
        "scene_masks[epochs=3]",
    ],
)
def test_fits_report_their_epochs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "REPORT_SECONDS", 0.0)
    task = built(name)
    fits = reports_of(lambda: task.fit(np.arange(20), 0))["fitting"]
    assert {(stage.total, stage.epochs, stage.unit) for stage in fits} == {(60, 3, "images")}
    assert (fits[0].num_done, fits[-1].num_done) == (0, 60)
    assert [stage.num_done for stage in fits] == sorted(stage.num_done for stage in fits)


@pytest.mark.parametrize("name", ["digits", "scenes", "scene_masks"])
def test_predictions_report_what_they_go_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.vision.classification.task.PIXELS_PER_BATCH", 2**12)
    monkeypatch.setattr("benchmark.vision.detection.batches.PIXELS_PER_BATCH", {"cpu": 2**14})
    monkeypatch.setattr("benchmark.vision.segmentation.task.PIXELS_PER_BATCH", {"cpu": 2**14})
    task = built(name)
    model = task.model()
    for work in (lambda: task.predict(model, np.arange(150)), lambda: task.score(model)):
        stages = reports_of(work)["going through images"]
        assert stages[0].total is not None
        assert stages[0].total > 1
        assert stages[0].unit == "batches"


def test_reading_images_is_counted_within_loading(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "birds" / ("train", "test")[number % 2] / "ab"[number // 2 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    spec = Spec.read("task", "image_folder[root=birds,size=8,model=small_cnn]")
    discovery.discover()
    machine = Machine(torch.device("cpu"), tmp_path)
    reports = reports_of(lambda: task_loading.build_task(spec, machine))
    reading = reports[f"loading {spec.label}: reading images"]
    assert {stage.total for stage in reading} == {12}


def test_a_run_reports_fitting_scoring_and_selecting(tmp_path: Path) -> None:
    reports = reports_of(lambda: run([cell("margin", rounds=2)], tmp_path))
    kinds = {words.partition(":")[0].partition(" ")[0] for words in reports}
    assert kinds >= {"fitting", "scoring", "selecting"}


def test_an_encoder_reports_what_it_encodes() -> None:
    task = built("digits")
    reports = reports_of(lambda: list(task.encode(task.model(), np.arange(300), "patch_pca")))
    (stages,) = (stages for words, stages in reports.items() if words.endswith("encoding images with patch_pca"))
    assert stages[0].unit == "batches"


# --- the command line -----------------------------------------------------------------------------
RUN = [
    "run",
    "tasks=[digits[epochs=200]]",
    "strategies=[random,isal]",
    "seeds=1",
    "rounds=2",
    "budget=20",
    "initial=50",
]
COMMAND = [sys.executable, "-m", "benchmark", *RUN]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def on_a_terminal(command: list[str]) -> tuple[str, str]:
    """Returns what a command writes to standard output, and what it shows on its terminal (standard error)."""
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert process.stdout is not None
        return process.stdout.read(), shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_terminal_sees_every_stage_and_standard_output_none(tmp_path: Path, dry_run: bool) -> None:
    written, shown = on_a_terminal([*COMMAND, f"dry_run={str(dry_run).lower()}", f"out={tmp_path}"])
    for words in ("loading PyTorch", "fitting: epoch ", "selecting with isal", "images/s"):
        assert words in shown
        assert words not in written
    assert "random" in written


@pytest.mark.slow
def test_a_pipe_gets_no_escape_codes_and_few_lines(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, f"out={tmp_path}"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    stages = [
        line for line in done.stderr.splitlines() if line.startswith(("fitting", "selecting", "loading", "scoring"))
    ]
    assert len(stages) <= 8
