"""Cells side by side in processes of this machine: the same bytes as in one, whatever happens to the workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _cells import FAULTY, bytes_of, cell, run
from _processes import MISHAPS, children, is_running, marked_with

from benchmark import config
from benchmark.api import register
from benchmark.experiment import run_settings
from benchmark.experiment.cell import Cell
from benchmark.plugins import discovery, registry
from benchmark.records.store import Store
from benchmark.runner import forecast
from benchmark.runner.events import CellStarted, Event, Failure, Round
from benchmark.runner.launchers import child_process, launcher, process_launch
from benchmark.runner.launchers.child_process import WorkerProcess, start_early
from benchmark.runner.launchers.process_launch import ProcessBackend, run_in_processes
from benchmark.runner.launchers.worker_pool import WorkerLoss, WorkerPool
from benchmark.system import activity, cores

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
SMALL = ["tasks=[digits[epochs=2]]", "initial=20", "budget=5", "validation=10", "device=cpu", "threads=1"]
CPU = torch.device("cpu")


# --- settings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs=0"], "jobs=0: must be at least 1, or auto"),
        (["jobs=1.5"], "jobs=1.5: must be a whole number or auto"),
        (["jobs=all"], "jobs=all: must be a whole number or auto"),
        (["jobs=true"], "jobs=true: must be a whole number or auto"),
        (["jobs=2", "launcher=ray"], "jobs=2: has no effect with launcher=ray: set cpus_per_cell or gpus_per_cell"),
        (["jobs=auto", "launcher=ray"], "jobs=auto: has no effect with launcher=ray"),
        (["jobs=2", "device=cuda:1"], "jobs=2: device=cuda:1 is a single GPU: set device=cuda"),
        (["jobs=2", "gpus_per_cell=2"], "jobs=2: has no effect with gpus_per_cell=2: set launcher=ray"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        config.compose_settings(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], 1),
        (["jobs=3"], 3),
        (["jobs=3", "threads=8"], 3),
        (["jobs=auto"], 1),  # PyTorch uses all cores
        (["jobs=auto", "threads=1"], 8),
        (["jobs=auto", "threads=3"], 2),
        (["jobs=auto", "threads=16"], 1),
        (["jobs=auto", "deterministic=true"], 8),  # of one thread each
    ],
)
def test_auto_fills_the_cores_where_the_number_of_threads_is_set(
    words: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_settings, "num_cores", lambda: 8)
    assert launcher.resolve_jobs(config.compose_settings(["grid=cifar10", *words]), CPU) == number


def test_a_gpu_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    numbers = [
        launcher.resolve_jobs(config.compose_settings([f"jobs={jobs}"]), torch.device(device))
        for jobs, device in (("auto", "cuda"), (1, "cuda"), (2, "cuda"), ("auto", "cuda:1"))
    ]
    assert numbers == [2, 1, 2, 1]
    with pytest.raises(
        ValueError, match=r"^jobs=4: each process needs a GPU, and PyTorch sees 2 GPUs: .* gpus_per_cell=0.5$"
    ):
        launcher.resolve_jobs(config.compose_settings(["jobs=4"]), torch.device("cuda"))


@pytest.mark.parametrize(
    ("value", "gpus"), [(None, ["0", "1"]), ("3, 5", ["3", "5"]), ("GPU-a,GPU-b,7", ["GPU-a", "GPU-b"])]
)
def test_each_worker_gets_a_gpu_of_those_that_this_process_may_use(
    value: str | None, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert process_launch.visible_gpus() == gpus


def test_cores_are_those_of_the_affinity_and_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
    monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
    numbers = [cores.num_cores()]
    for quota in ("max 100000", "250000 100000", "50000 100000", "900000 100000", ""):
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        numbers.append(cores.num_cores())
    assert numbers == [6, 6, 2, 1, 6, 6]


def launcher_of(words: list[str], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> launcher.Launcher:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launcher, "device_name", lambda machine: device)
    monkeypatch.setattr(launcher, "num_cores", lambda: 2)
    tasks: Any = type("Tasks", (), {"machine": type("AnyMachine", (), {"device": torch.device(device)})})
    settings, no_fits = config.compose_settings(["grid=cifar10", *words]), Any
    return launcher.Launcher.from_settings(settings, Store(tmp_path), no_fits, tasks, [])


@pytest.mark.parametrize(
    ("words", "device", "place", "hint"),
    [
        ([], "cpu", "cpu", ""),
        (["jobs=2", "threads=1"], "cpu", "2 processes, each on cpu", ""),
        (["jobs=9", "threads=1"], "cpu", "3 processes, each on cpu", ""),
        (
            ["jobs=2"],
            "cpu",
            "2 processes, each on cpu",
            "2 processes of 2 threads each share 2 cores: threads=1 is faster",
        ),
        ([], "cuda", "cuda", "1 of 4 GPUs used: jobs=auto runs a cell on each"),
        (["jobs=2"], "cuda", "2 processes, each on cuda", "2 of 4 GPUs used: jobs=auto runs a cell on each"),
        (["jobs=auto"], "cuda", "3 processes, each on cuda", ""),
        (["gpus_per_cell=2"], "cuda", "cuda", "2 of 4 GPUs used: launcher=ray runs as many cells as fit"),
        ([], "cuda:1", "cuda:1", ""),
        (["launcher=ray"], "cpu", "Ray", ""),
    ],
)
def test_the_first_lines_of_a_run_say_where_its_three_cells_run(
    words: list[str], device: str, place: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    chosen = launcher_of(words, device, tmp_path, monkeypatch)
    assert (chosen.describe_place(3), chosen.hint(3)) == (place, hint)
    assert chosen.trains_here(3) == (place in ("cpu", "cuda", "cuda:1"))


def test_a_forecast_tells_the_hours_of_several_processes_too() -> None:
    row = forecast.ForecastRow("digits", "random", 4, 12, 12, fit=3.0, score=0.5, select=0.5)
    assert forecast.summary([row], 1, "cpu").endswith(": 4 hours of cpu")
    assert forecast.summary([row], 1, "cpu", 3).endswith(": 4 hours of cpu, 1.33 in 3 processes")
    assert forecast.summary([row], 1, "cpu", 9).endswith(": 4 hours of cpu, 1 in 4 processes")


def test_a_strategy_that_only_this_process_knows_is_one_line(tmp_path: Path) -> None:
    @register(version=1)
    def from_a_notebook(view: Any, budget: int, rng: Any) -> Any:
        return view.unlabelled[:budget]

    try:
        with pytest.raises(
            ValueError, match=r"^jobs=2: strategy from_a_notebook is known to this process only: put it"
        ):
            in_processes([cell("random"), cell("from_a_notebook")], tmp_path)
    finally:
        registry.REGISTRY["strategy"].pop("from_a_notebook")


# --- processes that run another program -----------------------------------------------------------
def started(program: str, monkeypatch: pytest.MonkeyPatch, *gpus: str) -> tuple[ProcessBackend, WorkerProcess]:
    """Returns a backend, and a worker that runs this program."""
    monkeypatch.setattr(child_process, "PROGRAM", program)
    backend = ProcessBackend(config.compose_settings(["jobs=2"]), Path(), 2, list(gpus))
    return backend, backend.start()


def test_a_worker_gets_its_own_gpu_alone_and_its_successor_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[2]))"
    backend, worker = started(f"{program}; c.send(c.recv()[2])", monkeypatch, "3", "5")
    other = backend.start()
    assert {backend.wait([worker])[1], backend.wait([other])[1]} == {"3", "5"}
    backend.stop(worker)
    successor = backend.start()
    assert backend.wait([successor])[1] == "3"
    backend.stop(successor)
    backend.stop(other)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9 (Killed)"),
        ("import os; os.abort()", "was killed by signal 6 (Aborted)"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os, sys; os.write(int(sys.argv[2]), b'??')", "ended with exit code 0"),  # half a message
        ("import os, sys, time; os.close(int(sys.argv[2])); time.sleep(60)", "was killed by signal 9 (Killed)"),
    ],
)
def test_a_lost_worker_says_how_it_ended(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, worker = started(program, monkeypatch)
    _, loss = backend.wait([worker])
    assert isinstance(loss, WorkerLoss)
    assert str(loss.error) == f"the worker process {reason}"
    assert not loss.is_out_of_memory
    backend.stop(worker)


def test_a_worker_that_the_system_killed_for_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "VMSTAT", tmp_path / "vmstat")
    assert child_process.count_memory_kills() == 0
    for other, is_out_of_memory in (("9", True), ("15", False)):
        (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 3\n")
        backend, worker = started(f"import os; input(); os.kill(os.getpid(), {other})", monkeypatch)
        (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 4\n")
        os.kill(worker.process.pid, int(other))
        _, loss = backend.wait([worker])
        assert isinstance(loss, WorkerLoss)
        assert loss.is_out_of_memory == is_out_of_memory
        backend.stop(worker)


def test_a_stopped_worker_takes_along_what_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '61']).pid); time.sleep(61)"
    program = f"import sys; sys.stdout = open({str(tmp_path / 'pid')!r}, 'w', 1); {program}"
    backend, worker = started(program, monkeypatch)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        time.sleep(0.01)
    backend.stop(worker)
    deadline = time.monotonic() + 10
    while is_running(int((tmp_path / "pid").read_text()), "sleep"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["jobs=3"], 3),
        (["jobs=auto", "threads=1"], child_process.MAX_EARLY),
        (["jobs=auto"], 0),
        ([], 0),
        (["launcher=ray"], 0),
        (["jobs=3", "dry_run=true"], 0),
    ],
)
def test_a_new_run_starts_processes_early_and_those_that_it_does_not_need_end(
    words: list[str], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_settings, "num_cores", lambda: 8)
    monkeypatch.setattr(child_process, "PROGRAM", "import time; time.sleep(61)")
    settings = config.compose_settings(["grid=cifar10", f"out={tmp_path}", *words])
    with start_early(settings) as early:
        workers = [*early]
        backend = ProcessBackend(settings, Path(), 2, [], early)
        taken = [backend.start() for _ in early[:1]]
        assert taken == workers[:1]
    assert len(workers) == number
    assert [worker.process.poll() is None for worker in workers] == [True, *[False] * (number - 1)][:number]
    for worker in taken:
        backend.stop(worker)
    (tmp_path / "grid.json").touch()  # a run that goes on may have nothing to do
    with start_early(settings) as early:
        assert early == []


# --- workers that run cells -----------------------------------------------------------------------
def in_processes(cells: list[Cell], folder: Path, *words: str, plugins_in: Path = FAULTY, jobs: int = 2) -> list[Event]:
    """Runs cells into `folder`/run, and returns what happened."""
    out = folder / "run"
    words = ("device=cpu", "threads=1", f"jobs={jobs}", f"out={out}", f"plugins={plugins_in}", *words)
    return list(run_in_processes(cells, Store(out), config.compose_settings(words), CPU, jobs, []))


def rounds(events: list[Event]) -> list[Round]:
    assert not [event.trace for event in events if isinstance(event, Failure)]
    return [event for event in events if isinstance(event, Round)]


@pytest.fixture
def mishaps(tmp_path: Path) -> Iterator[Path]:
    """The folder of a strategy to which something happens."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "mishap.py").write_text(MISHAPS)
    discovery.discover(folder)
    yield folder
    registry.REGISTRY["strategy"].pop("mishap")


def test_two_processes_write_the_same_bytes_share_fits_and_report_what_they_do(tmp_path: Path) -> None:
    cells = [cell(name, seed=seed) for seed in (0, 1) for name in ("random", "margin", "learning_loss")]
    cells.append(cell("random", rounds=5, task="shelf", budget=40, budget_in="boxes"))
    cells.append(cell("random", rounds=1, task="digits[epochs=800]"))
    run(cells, tmp_path / "here")
    reports = list[activity.Stage]()
    with activity.report_to(reports.append):
        events = in_processes(cells, tmp_path / "jobs")
    assert bytes_of(tmp_path / "jobs" / "run") == bytes_of(tmp_path / "here" / "run")
    assert {event.cell for event in events if isinstance(event, CellStarted)} == set(cells)
    assert len(rounds(events)) == 24
    shared = {event.cell: event.measured.shared_fit for event in rounds(events) if event.record.round == 0}
    assert [sum(shared[each] for each in cells[i : i + 2]) for i in (0, 3)] == [1, 1]
    assert {path.suffix for path in (tmp_path / "jobs" / "run" / ".fits").iterdir()} == {".safetensors"}
    [fit] = {stage.start_time: stage for stage in reports if stage.epochs == 800}.values()
    assert (fit.full_name, fit.task) == ("fitting", "digits[epochs=800]")
    assert {stage.worker for stage in reports} == {1, 2}


@pytest.mark.slow
def test_what_raises_ends_or_hangs_fails_alone(tmp_path: Path) -> None:
    reasons = {
        "crash": "KeyError: 'a bug in a strategy'",
        "nan": "1 of 1267 scores are NaN",
        "ends[how=exit]": "SystemExit: 0",
        "ends[how=at_once]": "SystemExit: 0",
        "ends[how=interrupt]": "KeyboardInterrupt: ",
        "hangs": "TimeoutError: select_timeout=1: hangs did not select within 1 s",
    }
    cells = [
        *map(cell, [*reasons, "random"]),
        cell("random", task="ending_task"),
        cell("random", rounds=1, task="shelf"),
    ]
    events = in_processes(cells, tmp_path, "select_timeout=1")
    lines = {event.cell: event.line for event in events if isinstance(event, Failure)}
    assert lines == {
        **{each: f"{each.label}: {reason}" for each, reason in zip(cells, reasons.values(), strict=False)},
        cells[-2]: "ending_task: RuntimeError: SystemExit: 0",
    }
    store = Store(tmp_path / "run")
    assert "faulty.py" in (store.read_failure(cells[0].path) or "")
    assert [len(store.records(each.path)[1]) for each in cells] == [1, 1, 1, 1, 1, 1, 3, 0, 1]
    assert sum(isinstance(event, CellStarted) for event in events) == len(cells)


@pytest.mark.slow
def test_lost_and_starved_workers_cost_a_round_and_then_are_told(tmp_path: Path, mishaps: Path) -> None:
    names = ["killed", "starved", "always_killed", "always_starved"]
    cells = [cell(f"mishap[what={what},at=25]", rounds=4) for what in names]
    events = in_processes(cells, tmp_path / "jobs", plugins_in=mishaps)
    failed = {event.cell: event.line.partition(": ")[2] for event in events if isinstance(event, Failure)}
    assert failed == {
        cells[2]: "WorkerLostError: the worker process was killed by signal 9 (Killed)",
        cells[3]: "OutOfMemoryError: CUDA out of memory",
    }
    num_started = Counter(event.cell for event in events if isinstance(event, CellStarted))
    assert [num_started[each] for each in cells] == [2, 2, 4, 2]
    for each, num_rounds in zip(cells, [4, 4, 2, 2], strict=True):
        done = [event.record.round for event in events if isinstance(event, Round) and event.cell == each]
        assert done == list(range(num_rounds))  # none twice: the round in flight alone was lost
    run(cells[:2], tmp_path / "here")  # the flags lie there: nothing happens now
    here = bytes_of(tmp_path / "here" / "run")
    assert {path: bytes_of(tmp_path / "jobs" / "run")[path] for path in here} == here


@pytest.mark.slow
def test_cells_run_side_by_side(tmp_path: Path, mishaps: Path) -> None:
    cells = [cell("mishap[what=met,at=20]", rounds=2, seed=seed) for seed in (0, 1)]
    assert len(rounds(in_processes(cells, tmp_path / "jobs", plugins_in=mishaps))) == 4


@pytest.mark.slow
def test_plug_ins_see_the_gpu_of_their_worker_alone(tmp_path: Path, mishaps: Path) -> None:
    cells = [cell("mishap[what=gpu,at=20]", rounds=2, seed=seed) for seed in (0, 1)]
    settings = config.compose_settings(["device=cpu", "threads=1", "jobs=2", f"plugins={mishaps}"])
    backend = ProcessBackend(settings, tmp_path / "fits", 2, ["3", "GPU-a"])
    assert len(rounds(list(WorkerPool(cells, Store(tmp_path / "run"), backend).events()))) == 4
    names = {path.name for path in mishaps.glob("gpu-*")}
    assert names  # the second process may come too late for a cell
    assert names <= {"gpu-3", "gpu-GPU-a"}
    assert sorted(backend.free_gpus) == ["3", "GPU-a"]


# --- the command line -----------------------------------------------------------------------------
def benchmark(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark", "run", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True)


LOUD = '''
"""A strategy that prints, warns, and needs a module of its own folder."""

import os
import subprocess
import warnings

from _words import WORDS
from benchmark.api import register


@register(version=1)
def loud(view, budget, rng):
    """Says what it does."""
    print(WORDS)
    os.write(1, WORDS.encode())
    subprocess.run(["echo", WORDS])
    warnings.warn(WORDS)
    assert os.path.basename(os.getcwd()) == "home"
    return view.unlabelled[:budget]
'''


@pytest.mark.slow
def test_relative_folders_hold_the_working_folder_shadows_nothing_and_prints_mix_with_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "loud.py").write_text(LOUD)
    (home / "mine" / "_words.py").write_text("WORDS = 'spoken aloud'")
    for name in ("random", "yaml", "json", "torch", "strategies"):
        (home / f"{name}.py").write_text("raise ImportError('not ours')")
    words = [*SMALL, "strategies=[random,loud]", "rounds=2", "seeds=1", "plugins=mine", "format=json"]
    for jobs in (1, 2):
        done = benchmark(*words, f"jobs={jobs}", f"out=jobs-{jobs}", cwd=home)
        assert done.returncode == 0, done.stderr
    assert bytes_of(home / "jobs-1") == bytes_of(home / "jobs-2")
    assert json.loads(done.stdout)
    assert done.stderr.count("spoken aloud") >= 4
    assert "2 cells, 2 to do, 4 rounds, on 2 processes, each on cpu" in done.stderr
    assert (home / "jobs-2" / "gallery").is_dir()
    galleries = [sorted(path.name for path in (home / f"jobs-{jobs}" / "gallery").iterdir()) for jobs in (1, 2)]
    assert galleries[0] == galleries[1] != []


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_cells_in_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys, benchmark\n"
        "settings = dict(tasks=['digits[epochs=2]'], strategies=['random', 'margin'], seeds=1, rounds=2, initial=20)\n"
        "settings |= dict(budget=5, validation=10, device='cpu', threads=1, out=sys.argv[1], jobs=sys.argv[2])\n"
        "print(len(benchmark.run(**settings).frame()))\n"
    )
    for jobs in ("1", "auto"):
        command = [sys.executable, "script.py", f"jobs-{jobs}", jobs]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 0
    assert bytes_of(tmp_path / "jobs-1") == bytes_of(tmp_path / "jobs-auto")


@pytest.mark.slow
def test_a_repeatable_run_is_the_same_with_one_process_or_two(tmp_path: Path) -> None:
    words = [*SMALL[:-1], "strategies=[random,badge,isal[depth=5]]", "rounds=3", "seeds=2", "deterministic=true"]
    for jobs in (1, 2):
        assert benchmark(*words, f"jobs={jobs}", f"out=jobs-{jobs}", cwd=tmp_path).returncode == 0
    assert bytes_of(tmp_path / "jobs-1") == bytes_of(tmp_path / "jobs-2")
    for name in bytes_of(tmp_path / "jobs-1"):
        devices = [Store(tmp_path / f"jobs-{jobs}").devices(name.removesuffix(".jsonl")) for jobs in (1, 2)]
        assert devices[0] == devices[1]


@contextlib.contextmanager
def started_run(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, as a shell starts it; its processes have `cwd` in their environment."""
    command, environment = [sys.executable, "-m", "benchmark", "run", *words], ENVIRONMENT | {"MARK": str(cwd)}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0
    ) as process:
        yield process


def check_all_end(mark: Path, seconds: float) -> None:
    """Checks that the processes of a run end within so many seconds."""
    deadline = time.monotonic() + seconds
    while remaining := marked_with(str(mark)):
        assert time.monotonic() < deadline, remaining
        time.sleep(0.05)


@pytest.mark.slow
def test_interrupted_it_leaves_every_round_and_no_process(tmp_path: Path) -> None:
    words = [*SMALL, "strategies=[random,margin]", "rounds=8", "seeds=2"]
    with started_run(*words, "jobs=2", "out=jobs", cwd=tmp_path) as process:
        assert process.stderr is not None
        lines = [line for line, _ in zip(process.stderr, range(6), strict=False)]
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 1, rest
    check_all_end(tmp_path, 1)
    assert "interrupted: every finished round is recorded" in rest
    assert "Traceback" not in rest
    num_told = sum(line.startswith("[") for line in [*lines, *rest.splitlines()])
    assert 0 < num_told <= sum(content.count(b"\n") - 1 for content in bytes_of(tmp_path / "jobs").values()) < 32
    assert benchmark(*words, "jobs=2", "out=jobs", cwd=tmp_path).returncode == 0
    assert benchmark(*words, "out=here", cwd=tmp_path).returncode == 0
    assert bytes_of(tmp_path / "jobs") == bytes_of(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["at work", "at the start"])
def test_workers_end_with_their_driver(how: str, tmp_path: Path) -> None:
    words = [*SMALL, "strategies=[hangs]", "seeds=2", "rounds=2", f"plugins={FAULTY}", "jobs=2", "out=out"]
    with started_run(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        if how == "at work":  # inside of a plug-in, where `os._exit` ends nothing
            num_told = 0
            while num_told < 2:
                num_told += "20 labelled" in process.stderr.readline()
        else:
            while not any("worker_process" in name for name in children(process.pid).values()):
                time.sleep(0.01)
        process.kill()
    check_all_end(tmp_path, 5)


@pytest.mark.slow
def test_the_hours_of_all_processes_count_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = [*SMALL, "strategies=[random,margin]", "rounds=3", "seeds=1", "jobs=2", "out=jobs"]
    done = benchmark(*words, "gpu_hours=1e-7", cwd=tmp_path)
    assert done.returncode == 1
    assert "gpu_hours=1e-07:" in done.stderr
    assert benchmark(*words, cwd=tmp_path).returncode == 0
    assert benchmark(*words[:-2], "out=here", cwd=tmp_path).returncode == 0
    assert bytes_of(tmp_path / "jobs") == bytes_of(tmp_path / "here")
