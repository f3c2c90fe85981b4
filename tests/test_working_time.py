"""Time in which a process is stopped counts neither as work nor towards a time limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _cells import FAULTY
from test_faults import ENVIRONMENT, check_stated

from benchmark.records.store import Store

WORK = """
import sys, time
from benchmark.system import working_time
from benchmark.runner.time_limit import time_limit
working_time.MIN_STOP_SECONDS = 0.5
how, limit = sys.argv[1], float(sys.argv[2])
start_time, wall = working_time.working_seconds(), time.perf_counter()
print("ready", flush=True)
try:
    with time_limit(limit, "mine"):
        if how == "computes":
            sum(range(60_000_000))  # lets no other thread run
        elif how == "hangs":
            time.sleep(60)
        else:
            for _ in range(60):
                time.sleep(0.02)
except TimeoutError as error:
    print(error)
print(working_time.working_seconds() - start_time, time.perf_counter() - wall)
"""


DOZES = """
import time
from benchmark.api import register
@register(needs=(), version=1)
def dozes(view, budget, rng):
    'Takes a second and a half.'
    for _ in range(30):
        time.sleep(0.05)
    return view.unlabelled[:budget]
"""


@contextmanager
def worker(how: str, limit: float) -> Iterator[subprocess.Popen[str]]:
    """A process that works under a time limit, in a process group of its own."""
    command = [sys.executable, "-c", WORK, how, str(limit)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def stopped(process: int, seconds: float) -> None:
    """Stops a process, and continues it after some seconds."""
    time.sleep(0.3)
    os.kill(process, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process, signal.SIGCONT)


def test_a_process_that_was_stopped_has_its_time_all_the_same() -> None:
    with worker("sleeps", 4) as process:
        stopped(process.pid, 5)
        *said, times = process.communicate(timeout=60)[0].splitlines()
    worked, wall = map(float, times.split())
    assert said == []
    assert wall > 5
    assert worked < wall - 4


def test_a_limit_that_passed_while_the_process_was_stopped_is_set_anew() -> None:
    with worker("hangs", 2) as process:
        stopped(process.pid, 4)
        *said, times = process.communicate(timeout=60)[0].splitlines()
    worked, wall = map(float, times.split())
    assert said == ["select_timeout=2: mine did not select within 2 s"]
    assert wall > 5.5
    assert 1.9 < worked < wall - 3


@pytest.mark.parametrize("how", ["computes", "sleeps"])
def test_what_works_counts_whatever_it_does(how: str) -> None:
    with worker(how, 100) as process:
        worked, wall = map(float, process.communicate(timeout=100)[0].split())
    assert wall - worked < 0.01


@pytest.mark.slow
def test_a_run_that_was_stopped_in_a_selection_goes_on(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "dozes.py").write_text(DOZES)
    shutil.copy(FAULTY / "shelf.py", tmp_path / "plugins")
    cell_path = "shelf/20+5x2v10/dozes/seed-0"
    words = ["tasks=[shelf]", "strategies=[dozes]", "seeds=1", "rounds=3", "initial=20", "budget=5", "validation=10"]
    command = [sys.executable, "-m", "benchmark", "run", *words, "device=cpu", "select_timeout=4"]
    command += [f"plugins={tmp_path / 'plugins'}", f"out={tmp_path / 'run'}"]
    store = Store(tmp_path / "run")
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, process_group=0)
    while len(store.read(cell_path).records) < 1:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    stopped(process.pid, 8)
    check_stated("process stopped (SIGSTOP, Ctrl-Z, a laptop's lid)", process.wait(60), (tmp_path / "log").read_text())
    assert all(round_.seconds["select"] < 4 for round_ in store.measurements(cell_path))
