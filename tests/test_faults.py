"""What docs/faults.md states: kills, full and read-only disks, damage, a second run, strategies that hang, clocks.

As a script this file is a server that forks runs: a start then takes a tenth of a second instead of torch's four.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from _cells import FAULTY, bytes_of, cell, run
from _processes import children, is_running

from benchmark.api import Machine
from benchmark.cli.commands import main
from benchmark.experiment.cell import Cell
from benchmark.plugins import discovery, registry
from benchmark.records.store import Store, StoreWriteError
from benchmark.runner import task_loading
from benchmark.runner.events import Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import launcher, local_launch

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DISKS = {  # what a run finds
    "flock": ENVIRONMENT,
    "no locks": ENVIRONMENT | {"PYTHONPATH": f"{ROOT / 'tests' / 'without_locks'}{os.pathsep}{ROOT}"},
}
GRID = [
    "tasks=[digits[epochs=2]]", "strategies=[random,margin,coreset,isal[depth=5,repeats=2]]", "seeds=2", "rounds=5",
    "initial=20", "budget=5", "validation=10", "threads=1", "device=cpu",
]  # fmt: skip
NUM_ROUNDS, NUM_FILES = 40, 8
HOW_MANY = os.environ.get("AL_BENCHMARK_KILLS", "")  # in each test of kills, more than there is time for each night
NUM_KILLS = {"flock": 100, "no locks": 50, "ray": 16, "jobs": 40}
NUM_KILLS = {where: int(HOW_MANY or number) for where, number in NUM_KILLS.items()}
NUM_FRESH, KILLS_A_DRIVER = 5, 4  # kills of commands that were typed; of workers before their driver is killed


# --- what is stated ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Stated:
    """A row of docs/faults.md."""

    exit: int
    said: re.Pattern[str]  # words in capitals stand for any
    tests: list[str]


def table() -> dict[str, Stated]:
    """Returns the rows of docs/faults.md by fault."""
    lines = (ROOT / "docs" / "faults.md").read_text().splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    by_fault = {}
    for fault, code, said, _, tests in rows:
        words = re.sub(r"\b[A-Z]+\b", ".+", re.escape(said.strip("`")))
        by_fault[fault] = Stated(int(code), re.compile(words), re.findall(r"`([^`]+)`", tests))
    assert len(by_fault) == len(rows)
    return by_fault


def check_stated(fault: str, code: int | None, stderr: str) -> None:
    """Checks that the run ended as the table says, and that a user's error took one line."""
    row = table()[fault]
    assert code == row.exit, stderr
    assert row.said.search(stderr), stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code == 2), stderr
    assert "Traceback" not in stderr or code == 1


def test_the_table_names_tests_that_exist_and_every_test_here_is_in_it() -> None:
    named = {name for row in table().values() for name in row.tests}
    for name in named:
        file, _, function = name.rpartition("::")
        text = (ROOT / "tests" / file.partition("::")[0]).read_text()
        assert f"def {function}(" in text, name
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)) - {
        "test_the_table_names_tests_that_exist_and_every_test_here_is_in_it"
    }
    assert {name.rpartition("::")[2] for name in named if name.startswith("test_faults.py")} == here


# --- runs that are killed ---------------------------------------------------------------------
class Forks:
    """A process that has imported what a run imports and computed nothing; its forks are runs."""

    def __init__(self, *before: str, disk: str = "flock") -> None:
        command = [*before, sys.executable, __file__]
        self.server = subprocess.Popen(
            command, env=DISKS[disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0
        )
        assert self.heard() == "ready"

    def tell(self, **message: Any) -> None:
        """Sends a message."""
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(message).encode() + b"\n")

    def heard(self) -> str:
        """Returns the next line of the answer."""
        assert self.server.stdout is not None
        return self.server.stdout.readline().decode().strip()

    def start(self, *words: object, log: Path, room: int = 0) -> Forked:
        """Starts a run with its output in `log`; `room`: the bytes that it may allocate beside what is imported."""
        self.tell(words=[str(word) for word in words], log=str(log), room=room)
        return Forked(self)

    def run(self, *words: object, log: Path, room: int = 0) -> tuple[int | None, str]:
        """Returns exit code and output of an undisturbed run."""
        process = self.start(*words, log=log, room=room)
        assert process.ended(120), log.read_text()
        return process.code, log.read_text()

    def shell(self, line: str) -> None:
        """Runs a command line where the server sees its disks."""
        enter = ["nsenter", "--preserve-credentials", "--user", "--mount", f"--target={self.server.pid}"]
        subprocess.run([*enter, "sh", "-c", line], check=True)

    def close(self) -> None:
        """Ends the server."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


class Forked:
    """A run in a process group of its own."""

    def __init__(self, forks: Forks) -> None:
        self.forks, self.code = forks, None
        self.pid = int(forks.heard())

    code: int | None

    def ended(self, within: float) -> bool:
        """Whether it ended within so many seconds."""
        if self.code is None and select.select([self.forks.server.stdout], [], [], within)[0]:
            self.code = int(self.forks.heard())
        return self.code is not None

    def kill(self, alone: bool = False) -> bool:
        """Sends SIGKILL to its group, or only to it; whether that ended it."""
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(self.pid, signal.SIGKILL)
        assert self.ended(60)
        return self.code == -signal.SIGKILL


class Fresh:
    """A run from the command line, in a process group of its own."""

    def __init__(self, *words: object, log: Path, disk: str = "flock") -> None:
        command = [sys.executable, "-m", "benchmark", *map(str, words)]
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, env=DISKS[disk], stdout=out, stderr=out, process_group=0)
        self.pid = self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.returncode

    def ended(self, within: float) -> bool:
        """Whether it ended within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        return self.code is not None

    def kill(self, alone: bool = False) -> bool:
        """Sends SIGKILL to its group, or only to it; whether that ended it."""
        if not self.ended(0):
            (os.kill if alone else os.killpg)(self.pid, signal.SIGKILL)
        assert self.ended(60)
        return self.code == -signal.SIGKILL


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """The server."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the results folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    process = Fresh("run", *GRID, f"out={folder / 'run'}", log=folder / "log")
    assert process.ended(300)
    assert process.code == 0, (folder / "log").read_text()
    assert num_rounds(bytes_of(folder / "run")) == NUM_ROUNDS
    return folder / "run"


def num_rounds(contents: dict[str, bytes]) -> int:
    """Returns the number of whole lines in record files, without their headers."""
    return sum(max(content.count(b"\n") - 1, 0) for content in contents.values())


def tables_of(folder: Path) -> dict[str, bytes]:
    """Returns the tables of a results folder."""
    paths = sorted(path for path in (folder / "tables").rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def sizes(folder: Path) -> dict[str, int]:
    """Returns the size of every file below a folder."""
    by_path = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            by_path[str(path)] = path.stat().st_size
    return by_path


def moment(process: Forked | Fresh, folder: Path, rng: random.Random, longest: float) -> bool:
    """Waits some seconds, or until at most 3 ms after something was written; False if the run ended first."""
    if rng.random() < 0.5:
        return not process.ended(rng.uniform(0, longest))
    before, num_left = sizes(folder), rng.randrange(1, 20)
    while num_left:
        if process.ended(0.001):
            return False
        now = sizes(folder)
        before, num_left = now, num_left - (now != before)
    return not process.ended(rng.uniform(0, 0.003))


def check_kept(before: dict[str, bytes], after: dict[str, bytes], whole: Path, stderr: str) -> None:
    """Checks that no record is lost that was there or reported, and that each file begins an undisturbed run's file."""
    complete = bytes_of(whole)
    assert all(complete[path].startswith(content) for path, content in after.items())
    assert all(after[path].startswith(content) for path, content in before.items())
    num_told = len(re.findall(r"^\[\d+/\d+\] ", stderr, re.MULTILINE))
    assert num_told <= num_rounds(after) - num_rounds(before) <= num_told + 1
    for num_left in re.findall(r"^\d+ cells, \d+ to do, (\d+) rounds", stderr):
        assert int(num_left) == NUM_ROUNDS - num_rounds(before)


@pytest.fixture(scope="module")
def forks_without_locks() -> Iterator[Forks]:
    """The server where no disk supports locks."""
    server = Forks(disk="no locks")
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize(("disk", "server"), [("flock", "forks"), ("no locks", "forks_without_locks")])
def test_a_hundred_kills_cost_the_rounds_in_flight_and_nothing_else(
    disk: str, server: str, tmp_path: Path, whole: Path, request: pytest.FixtureRequest
) -> None:
    forks: Forks = request.getfixturevalue(server)
    rng, log, num_kills, num_again, drafts = random.Random(0), tmp_path / "log", 0, 0, list[str]()
    for number in itertools.count():
        folder, code = tmp_path / f"run-{number}", None
        while code != 0:
            before, words = bytes_of(folder), ["run", *GRID, f"out={folder}"]
            is_fresh = num_kills < NUM_FRESH
            process = Fresh(*words, log=log, disk=disk) if is_fresh else forks.start(*words, log=log)
            if num_kills < NUM_KILLS[disk] and moment(process, folder, rng, longest=8 if is_fresh else 2):
                num_kills += process.kill()
            assert process.ended(120)
            code = process.code
            assert code in (0, -signal.SIGKILL), log.read_text()
            check_kept(before, bytes_of(folder), whole, log.read_text())
        assert bytes_of(folder) == bytes_of(whole)
        assert tables_of(folder) == tables_of(whole)
        assert forks.run("tables", f"out={folder}", log=log)[0] == 0
        assert tables_of(folder) == tables_of(whole)
        assert list((folder / ".fits").glob("*.draft")) == []
        num_again += sum(path.read_bytes().count(b"\n") for path in folder.rglob("measured/**/*.jsonl")) - NUM_ROUNDS
        drafts += [path.name for path in folder.rglob(".*.*") if re.fullmatch(r"\..+\.\d+", path.name)]
        assert (folder / ".writer").exists() is False
        if num_kills == NUM_KILLS[disk]:
            break
    print(f"killed: {num_kills} runs in {number + 1} folders; {num_again} rounds measured twice; left: {drafts}")
    assert 0 <= num_again <= num_kills


@pytest.mark.slow
def test_a_folder_is_free_at_once_when_a_driver_with_readers_of_images_was_killed(tmp_path: Path, forks: Forks) -> None:
    words = ["tasks=[few_scenes]", "strategies=[random]", "seeds=1", "rounds=1", "initial=60", "budget=5"]
    words = ["run", *words, "validation=0", "workers=2", "device=cpu", f"plugins={FAULTY}", f"out={tmp_path / 'run'}"]
    process = forks.start(*words, log=tmp_path / "log")
    while not any("benchmark" not in line for line in children(process.pid).values()):
        assert not process.ended(0.01), (tmp_path / "log").read_text()
    assert process.kill(alone=True)
    assert forks.run(*words, log=tmp_path / "log") == (0, (tmp_path / "log").read_text())


@pytest.mark.slow
def test_kills_of_worker_processes_and_drivers_cost_the_rounds_in_flight(
    tmp_path: Path, whole: Path, forks: Forks
) -> None:
    rng, log, everyone, killed = random.Random(0), tmp_path / "log", set[int](), Counter[str]()
    for number in itertools.count():
        out, code = tmp_path / f"run-{number}", None
        while code != 0:
            before = bytes_of(out)
            process = forks.start("run", *GRID, "jobs=2", f"out={out}", log=log)
            while killed.total() < NUM_KILLS["jobs"] and moment(process, out, rng, longest=8):
                workers = [pid for pid, name in children(process.pid).items() if "worker_process" in name]
                everyone |= set(workers)
                if killed["workers"] >= KILLS_A_DRIVER * (killed["drivers"] + 1):
                    killed["drivers"] += process.kill(alone=True)
                elif workers:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    killed["workers"] += 1
            assert process.ended(300), log.read_text()
            code = process.code
            # 1: a cell was lost four times; 2: four workers in a row were killed before they were ready
            assert code in (0, 1, -signal.SIGKILL) or "no worker starts" in log.read_text(), log.read_text()
            check_kept(before, bytes_of(out), whole, log.read_text())
        assert bytes_of(out) == bytes_of(whole)
        assert tables_of(out) == tables_of(whole)
        assert list((out / ".fits").glob("*.draft")) == []
        if killed.total() >= NUM_KILLS["jobs"]:
            break
    print("killed:", f"{dict(killed)} in {number + 1} folders")
    assert killed["drivers"] >= NUM_KILLS["jobs"] // (KILLS_A_DRIVER + 2)
    deadline = time.monotonic() + 10
    while remaining := [pid for pid in everyone if is_running(pid, "worker_process")]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.05)


@pytest.mark.slow
def test_kills_of_ray_workers_and_drivers_cost_the_rounds_in_flight(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("ray")
    rng, log, everyone, killed = random.Random(0), tmp_path / "log", set[int](), Counter[str]()
    for number in itertools.count():
        out, code = tmp_path / f"run-{number}", None
        while code != 0:
            before = bytes_of(out)
            process = Fresh("run", *GRID, "launcher=ray", f"out={out}", log=log)
            while not process.ended(rng.uniform(0.1, 1.5)):
                descendants = children(process.pid)
                everyone |= set(descendants)
                hands = [pid for pid, name in descendants.items() if name.startswith("ray::Worker")]
                if not hands or killed.total() >= NUM_KILLS["ray"]:
                    continue
                if killed["workers"] >= KILLS_A_DRIVER * (killed["drivers"] + 1):
                    killed["drivers"] += process.kill(alone=True)
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(hands), signal.SIGKILL)
                    killed["workers"] += 1
            code = process.code
            assert code in (0, 1, -signal.SIGKILL), log.read_text()
            check_kept(before, bytes_of(out), whole, log.read_text())
        assert bytes_of(out) == bytes_of(whole)
        assert tables_of(out) == tables_of(whole)
        if killed.total() >= NUM_KILLS["ray"]:
            break
    print("killed:", f"{dict(killed)} in {number + 1} folders")
    assert killed["drivers"] >= NUM_KILLS["ray"] // (KILLS_A_DRIVER + 1)
    deadline = time.monotonic() + 120  # Ray notices in seconds; on a busy machine it took over 30
    while remaining := [pid for pid in everyone if is_running(pid, "ray")]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.2)


# --- disks and folders ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mounts() -> Iterator[Forks]:
    """The server where disks may be mounted that only it sees, and that disappear with it."""
    before = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*before, "mount", "-t", "tmpfs", "x", "/mnt"]).returncode:
        pytest.skip("this system lets its users mount nothing")
    server = Forks(*before)
    yield server
    server.close()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, whole: Path, mounts: Forks
) -> None:
    disk, log, words = tmp_path / "disk", tmp_path / "log", ["run", *GRID, f"out={tmp_path / 'disk'}"]
    disk.mkdir()
    fill = f"cat /dev/zero > {disk}/filler 2>/dev/null; test -s {disk}/filler"
    mounts.shell(f"mount -t tmpfs -o size=64k none {disk}; {fill}")
    check_stated("disk full from the start", *mounts.run(*words, log=log))
    mounts.shell(f"rm {disk}/filler")
    check_stated("disk full in the middle of a run", *mounts.run(*words, log=log))
    mounts.shell(f"cp -r {disk} {tmp_path / 'full'}")
    full = bytes_of(tmp_path / "full")
    assert 0 < num_rounds(full) < NUM_ROUNDS
    assert all(content.endswith(b"\n") for content in full.values())  # no half line is left
    check_kept({}, full, whole, log.read_text())
    mounts.shell(f"mount -o remount,size=64m {disk}")
    assert mounts.run(*words, log=log)[0] == 0
    assert f"{NUM_ROUNDS - num_rounds(full)} rounds, on" in log.read_text()
    mounts.shell(f"rm -r {disk}/tables; {fill}")
    check_stated("disk full when tables are written", *mounts.run("tables", f"out={disk}", log=log))
    mounts.shell(f"rm {disk}/filler")
    assert mounts.run("tables", f"out={disk}", log=log)[0] == 0
    mounts.shell(f"cp -r {disk} {tmp_path / 'done'}; umount {disk}")
    assert bytes_of(tmp_path / "done") == bytes_of(whole)
    assert tables_of(tmp_path / "done") == tables_of(whole)


@pytest.mark.slow
def test_a_read_only_folder_is_one_line_and_is_read(tmp_path: Path, whole: Path, mounts: Forks) -> None:
    disk, log, words = tmp_path / "disk", tmp_path / "log", ["run", *GRID, f"out={tmp_path / 'disk'}"]
    (disk / "measured").mkdir(parents=True)
    process = mounts.start(*words, log=log)
    while num_rounds(bytes_of(disk)) < 3:
        assert not process.ended(0.01), log.read_text()
    mounts.shell(f"mount --bind {disk}/measured {disk}/measured; mount -o remount,ro,bind {disk}/measured")
    assert process.ended(60)
    check_stated("folder becomes read-only in the middle of a run", process.code, log.read_text())
    check_kept({}, bytes_of(disk), whole, log.read_text())
    before = bytes_of(disk)
    mounts.shell(f"umount {disk}/measured; mount --bind {disk} {disk}; mount -o remount,ro,bind {disk}")
    check_stated("folder is read-only", *mounts.run(*words, log=log))
    check_stated("folder is read-only, tables", *mounts.run("tables", f"out={disk}", log=log))
    check_stated("folder is read-only, status", *mounts.run("status", f"out={disk}", log=log))
    assert f"{num_rounds(before)}/{NUM_ROUNDS}" in log.read_text()
    mounts.shell(f"umount {disk}")
    assert bytes_of(disk) == before
    assert mounts.run(*words, log=log)[0] == 0
    assert bytes_of(disk) == bytes_of(whole)


# --- damaged record files ---------------------------------------------------------------------
def shelved() -> Cell:
    """Returns a cell of five rounds that takes milliseconds."""
    return cell("random", task="shelf", rounds=5)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Returns the record file of a finished cell, which `run([shelved()], tmp_path)` writes."""
    run([shelved()], tmp_path)
    return Store(tmp_path / "run").path(shelved().path)


def check_repaired(path: Path, content: bytes, sound: bytes, harm: str, folder: Path) -> None:
    """Checks a damaged file: `sound` is what is read of `content`, `harm` is reported, and a run restores the file."""
    before = path.read_bytes()
    path.write_bytes(content)
    store, num_sound = Store(folder / "run"), sound.count(b"\n")
    stored_cell = store.read(shelved().path)
    assert [line.round for line in stored_cell.records] == list(range(num_sound - 1))
    assert re.search(f": line {num_sound + 1} is ({harm})" if harm else "^$", stored_cell.damage)
    events = run([shelved()], folder)
    assert [event.record.round for event in events if isinstance(event, Round)] == [*range(max(num_sound - 1, 0), 5)]
    assert path.read_bytes() == before
    assert [line.round for line in store.measurements(shelved().path)] == [0, 1, 2, 3, 4]


def test_a_record_file_that_was_truncated_anywhere_is_completed(recorded: Path, tmp_path: Path) -> None:
    whole, rng = recorded.read_bytes(), random.Random(0)
    for cut in [0, 1, *(rng.randrange(len(whole)) for _ in range(8)), len(whole) - 1]:
        rest = whole[:cut]
        sound = rest[: rest.rfind(b"\n") + 1]
        check_repaired(recorded, rest, sound, "torn" if rest != sound else "", tmp_path)


def test_a_flipped_bit_costs_its_round_and_the_later_ones_which_are_run_again(recorded: Path, tmp_path: Path) -> None:
    whole, rng = recorded.read_bytes(), random.Random(0)
    for place in [0, *(rng.randrange(len(whole)) for _ in range(8)), len(whole) - 1]:
        flipped = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        sound = whole[: whole.rfind(b"\n", 0, place) + 1]
        check_repaired(recorded, flipped, sound, "damaged|torn", tmp_path)


@pytest.mark.parametrize("room", [50, 700, 1000, 1300])
def test_a_line_that_does_not_fit_is_taken_back(recorded: Path, tmp_path: Path, room: int) -> None:
    whole, before = recorded.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    shutil.rmtree(tmp_path / "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # a write stops there, as on a full disk
    try:
        with pytest.raises(StoreWriteError, match=table()["disk full in the middle of a run"].said):
            run([shelved()], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*.jsonl")]
    assert all(content == b"" or content.endswith(b"\n") for content in written)
    run([shelved()], tmp_path)
    assert recorded.read_bytes() == whole


@pytest.mark.parametrize("order", [(0, 0), (0, 1, 2, 2), (0, 1, 3), (0, 1, 3, 2), (0, 1, 2, 3, 4, 5, 5), (1, 2)])
def test_lines_twice_or_out_of_order_are_named_and_run_again(
    recorded: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    num_sound = next(number for number, line in enumerate([*order, -1]) if line != number)
    content, sound = (b"".join(lines[number] for number in some) for some in (order, range(num_sound)))
    check_repaired(recorded, content, sound, "out of place", tmp_path)


@pytest.mark.parametrize("what", ["half a line", "the last line again", "another header", "noise"])
def test_what_another_process_appends_during_a_run_is_named_and_run_again(
    recorded: Path, tmp_path: Path, what: str
) -> None:
    whole = recorded.read_bytes()
    recorded.unlink()
    one_cell, store, machine = shelved(), Store(tmp_path / "run"), Machine(torch.device("cpu"))
    for event in local_launch.run_locally(
        [one_cell], store, FitCache(tmp_path / "fits", 1.0, "cpu"), task_loading.TaskLoader(machine)
    ):
        if isinstance(event, Round) and event.record.round == 2:
            lines = recorded.read_bytes().splitlines(keepends=True)
            junk = {"half a line": lines[3][:99], "the last line again": lines[3], "another header": lines[0]}
            other = subprocess.run(["dd", f"of={recorded}", "oflag=append", "conv=notrunc", "status=none"],
                                   input=junk.get(what, b"\xff\x00\n"))  # fmt: skip
            assert other.returncode == 0
    content = store.read(one_cell.path)
    assert [record.round for record in content.records] == [0, 1, 2]
    assert re.search(r"line 5 is (damaged|out of place)", content.damage)
    assert not one_cell.schedule.is_finished(content.records)
    assert [event.record.round for event in run([one_cell], tmp_path) if isinstance(event, Round)] == [3, 4]
    assert recorded.read_bytes() == whole


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:-20], lambda text: text.replace(b"fit", b"fat", 1)], ids=["torn", "flipped"]
)
def test_damaged_measurements_cost_no_record_and_no_later_measurement(
    recorded: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    whole, store = recorded.read_bytes(), Store(tmp_path / "run")
    for path in (recorded, store.path(shelved().path, "measured")):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    path.write_bytes(spoil(path.read_bytes()))
    assert store.records(shelved().path)[1][-1].round == 1
    run([shelved()], tmp_path)
    assert recorded.read_bytes() == whole
    assert {2, 3, 4} <= {measured.round for measured in store.measurements(shelved().path)}


# --- two runs ---------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_second_run_on_a_folder_is_refused_and_the_first_is_unharmed(
    tmp_path: Path, whole: Path, forks: Forks
) -> None:
    out = tmp_path / "run"
    first = Fresh("run", *GRID, f"out={out}", log=tmp_path / "first")
    while num_rounds(bytes_of(out)) == 0:
        assert not first.ended(0.01), (tmp_path / "first").read_text()
    check_stated("second run", *forks.run("run", *GRID, f"out={out}", log=tmp_path / "second"))
    assert not first.ended(0)  # they were there at once
    assert forks.run("status", f"out={out}", log=tmp_path / "status")[0] == 0
    assert first.ended(120)
    assert first.code == 0
    assert bytes_of(out) == bytes_of(whole)
    assert tables_of(out) == tables_of(whole)


# --- strategies -------------------------------------------------------------------------------
@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a grid on the task shelf in this process, in OUT = tmp_path/run; returns exit code and output."""

    def ran(*words: str) -> tuple[int, str]:
        grid = ["tasks=[shelf]", "rounds=3", "initial=20", "budget=5", "validation=10", "device=cpu"]
        argv = ["run", *grid, *words, f"plugins={FAULTY}", f"out={tmp_path / 'run'}"]
        monkeypatch.setattr(sys, "argv", ["benchmark", *argv])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return ran


def rounds_by_strategy(out: Path) -> dict[str, int]:
    """Returns the number of recorded rounds by strategy."""
    counts: dict[str, int] = {}
    for path, content in bytes_of(out).items():
        name = Path(path).parent.name
        counts[name] = counts.get(name, 0) + num_rounds({path: content})
    return counts


def test_a_strategy_that_hangs_fails_alone(tmp_path: Path, typed: Callable[..., tuple[int, str]]) -> None:
    start_time = time.monotonic()
    code, output = typed("strategies=[hangs,random]", "seeds=2", "select_timeout=1")
    check_stated("strategy hangs", code, output)
    assert time.monotonic() - start_time < 15
    assert rounds_by_strategy(tmp_path / "run") == {"hangs": 2, "random": 6}
    assert output.count("failed: shelf 20+5x2v10 hangs seed") >= 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "SystemExit: 0"),
        ("exit_words", "SystemExit: usage: strategy"),
        ("at_once", "SystemExit: 0"),
        ("generator", "GeneratorExit: "),
        ("cancelled", "CancelledError: "),
        ("own", "OddError: enough"),
        ("no_utf8", "cannot read b"),
        ("mute", "MuteError: (its message fails: TypeError)"),
        ("stop", "RuntimeError: generator raised StopIteration"),
    ],
)
def test_a_strategy_that_would_end_the_run_fails_alone(
    tmp_path: Path, typed: Callable[..., tuple[int, str]], how: str, words: str
) -> None:
    name = "ends" if how == "exit" else f"ends[how={how}]"  # a default is left out of names
    code, output = typed(f"strategies=[ends[how={how}],random]", "seeds=1")
    if words == "SystemExit: 0":
        check_stated("plug-in ends the process", code, output)
    assert code == 1
    assert f"failed: shelf 20+5x2v10 {name} seed 0: {words}" in output
    assert "1 cell failed" in output
    assert rounds_by_strategy(tmp_path / "run") == {name.replace("[", "-").replace("]", ""): 1, "random": 3}


def test_a_task_that_would_end_the_run_fails_alone(tmp_path: Path, typed: Callable[..., tuple[int, str]]) -> None:
    code, output = typed("strategies=[random]", "seeds=1", "tasks=[ending_task,shelf]")
    assert (code, output.count("Traceback")) == (1, 0)
    assert "failed: ending_task: RuntimeError: SystemExit: 0" in output
    assert rounds_by_strategy(tmp_path / "run") == {"random": 3}


def test_a_file_that_ends_the_process_when_it_is_imported_is_one_line(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    for number, line in enumerate(["import sys; sys.exit(0)", "import os; os._exit(0)", "raise GeneratorExit"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "script.py").write_text(line)
        for verb in (["run", "tasks=[shelf]"], ["list", "strategies"], ["check", "random"]):
            code, output = command(*verb, f"plugins={folder}", *[f"out={tmp_path / 'run'}"] * (verb[0] == "run"))
            if number < 2:
                check_stated("plug-in file ends the process when it is imported", code, output)
            assert code == 2
            assert len(output.splitlines()) == 1


DECLARES = """
import sys
from numpy.random import Generator
from benchmark.api import Indices, View, register

def fails(**_: object) -> set[str]:
    ERROR

@register(version=1, needs={needs}, companion={companion})
def declares(view: View, budget: int, rng: Generator) -> Indices:
    "Nothing."
    return view.unlabelled[:budget]
"""


@pytest.mark.parametrize("what", ["needs", "companion"])
@pytest.mark.parametrize("error", ["sys.exit(0)", "raise KeyError('k')", "raise ValueError('odd')"])
def test_what_a_strategy_declares_of_itself_may_fail_in_one_line(
    tmp_path: Path, command: Callable[..., tuple[int, str]], what: str, error: str
) -> None:
    text = DECLARES.format(**{"needs": "set()", "companion": None} | {what: "fails"}).replace("ERROR", error)
    (tmp_path / "declares.py").write_text(text)
    grid = ["tasks=[digits[epochs=1]]", "strategies=[declares,random]", "device=cpu", f"plugins={tmp_path}"]
    for more in ([], ["dry_run=true"]):
        code, output = command("run", *grid, *more, f"out={tmp_path / 'run'}")
        registry.REGISTRY["strategy"].pop("declares")
        assert code == 2
        assert output.splitlines()[-1].startswith("error: ")
        assert ("odd" if "odd" in error else f"declares.py: {what} of declares: ") in output


def test_a_pilot_and_a_gallery_that_would_end_the_run_are_a_line_each(
    tmp_path: Path, typed: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = typed("strategies=[ends,random]", "seeds=1", "dry_run=true")
    assert (code, "pilot: shelf ends failed: SystemExit: 0" in output) == (1, True), output
    assert "pilot: shelf random: " in output

    def end(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("benchmark.runner.gallery_writer.write_gallery", end)
    code, output = typed("strategies=[random]", "seeds=1")
    assert (code, "no images in the report: 0 (SystemExit)" in output) == (0, True), output


def test_a_plug_in_that_interrupts_is_taken_for_ctrl_c(tmp_path: Path, typed: Callable[..., tuple[int, str]]) -> None:
    check_stated("Ctrl-C", *typed("strategies=[ends[how=interrupt],random]"))
    assert rounds_by_strategy(tmp_path / "run") == {"ends-how=interrupt": 1}


def test_exit_0_means_that_every_round_is_in_the_records(
    tmp_path: Path, typed: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (5, 2):  # events go missing between the launcher and the command
        local = local_launch.run_locally
        monkeypatch.setattr(launcher, "run_locally", lambda *args: itertools.islice(local(*args), number))  # noqa: B023
        code, output = typed("strategies=[random]", "seeds=3")
        monkeypatch.undo()
        check_stated("rounds are missing at the end", code, output)
    assert typed("strategies=[random]", "seeds=3")[0] == 0
    for path in (tmp_path / "run").rglob("cells/**/seed-1.jsonl"):
        path.write_bytes(path.read_bytes()[:-40])
    assert typed("strategies=[random]", "seeds=3")[0] == 0  # it is run again
    assert rounds_by_strategy(tmp_path / "run") == {"random": 9}


@pytest.mark.slow
def test_a_plug_in_that_crashes_in_compiled_code_costs_the_round_in_flight(tmp_path: Path, forks: Forks) -> None:
    words = [*GRID[:1], "strategies=[random,ends_the_process,margin]", *GRID[2:], f"plugins={FAULTY}"]
    for _ in range(2):
        code, output = forks.run("run", *words, f"out={tmp_path / 'run'}", log=tmp_path / "log")
        check_stated("plug-in crashes in compiled code", code, output)
    assert rounds_by_strategy(tmp_path / "run") == {"random": 5, "ends_the_process": 1}


@pytest.mark.slow
def test_a_strategy_that_hoards_memory_fails_alone(tmp_path: Path, forks: Forks) -> None:
    small = [word for word in GRID if not word.startswith("strategies")]
    words = ["run", *small, "strategies=[hoards,random]", f"plugins={FAULTY}", f"out={tmp_path / 'run'}"]
    check_stated("strategy hoards memory", *forks.run(*words, log=tmp_path / "log", room=1000 * 2**20))
    num_rounds_of = rounds_by_strategy(tmp_path / "run")
    assert num_rounds_of["random"] == 10
    assert 2 < num_rounds_of["hoards"] < 10


def resident_mb() -> float:
    """Returns the memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def held_mb() -> float:
    """Returns what this process holds: all that Python allocated, and every tensor (a compiler's hold nothing)."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return (tracemalloc.get_traced_memory()[0] + sum(storages.values())) / 2**20


def test_failed_cells_hold_no_memory(tmp_path: Path) -> None:
    failures = run([cell("chokes", task="shelf", seed=0)], tmp_path)
    before = resident_mb()
    failures += run([cell("chokes", task="shelf", seed=number) for number in range(1, 21)], tmp_path)
    assert [event.line.partition(": ")[2] for event in failures if isinstance(event, Failure)] == [
        "KeyError: '20 MB in hand'"
    ] * 21
    assert "tests/plugins/faulty.py" in [event for event in failures if isinstance(event, Failure)][-1].trace
    assert resident_mb() - before < 60  # 20 arrays of 20 MB were made


@pytest.mark.slow
def test_cells_that_are_done_hold_no_memory(tmp_path: Path) -> None:
    names, held = ("coreset", "isal[depth=2,repeats=1]"), []
    cells = [cell(name, rounds=2, seed=number) for number in range(20) for name in names]
    fits, tasks = FitCache(tmp_path / "fits", 1.0, "cpu"), task_loading.TaskLoader(Machine(torch.device("cpu")))
    tracemalloc.start()
    try:
        for event in local_launch.run_locally(cells, Store(tmp_path / "run"), fits, tasks):
            assert not isinstance(event, Failure)
            if isinstance(event, Round) and event.is_last:
                held.append(held_mb())
    finally:
        tracemalloc.stop()
    print("MB held after each of 40 cells:", [round(megabytes, 1) for megabytes in held])
    # the resident memory would not tell: it swings by 70 with what the allocator keeps
    assert held[-1] - held[3] < 5


# --- clocks -----------------------------------------------------------------------------------
def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell(name, task="shelf", rounds=4, seed=number) for name in ("random", "in_order") for number in (0, 1)]
    run(cells, tmp_path / "whole")
    year, now, jumps = 365 * 86_400, time.time(), itertools.cycle([0, 3, -3, 1, -1])
    for name in ("time", "time_ns"):
        scale = 10**9 if name == "time_ns" else 1
        monkeypatch.setattr(time, name, lambda scale=scale: scale * (now + year * next(jumps)))
    store, events = Store(tmp_path / "jumped" / "run"), list[Any]()
    fits = FitCache(
        tmp_path / "jumped" / "fits", 1e-6, "cpu"
    )  # room for two fits: the oldest go, whatever their time says
    for event in local_launch.run_locally(cells, store, fits, task_loading.TaskLoader(Machine(torch.device("cpu")))):
        events.append(event)
        for path in (tmp_path / "jumped").rglob("*.*"):
            os.utime(path, (time.time(), time.time()))
    assert bytes_of(store.folder) == bytes_of(tmp_path / "whole" / "run")
    measurements = [event.measured for event in events if isinstance(event, Round)]
    assert len(measurements) == 16
    assert all(0 <= seconds < 60 for measured in measurements for seconds in measured.seconds.values())


def test_nothing_here_reads_the_wall_clock() -> None:
    files = [path for folder in ("benchmark", "strategies", "tasks") for path in (ROOT / folder).rglob("*.py")]
    wall = re.compile(r"\b(time\.time(_ns)?|datetime|from time import|time\.(local|gm|c)time)\b")
    assert len(files) > 40
    assert [path.name for path in files if wall.search(path.read_text())] == []


# --- the server -------------------------------------------------------------------------------
def serve() -> None:
    """Answers each request with the process id and, when it has ended, the exit code of a run."""
    from benchmark.cli import progress  # noqa: F401  what a run imports

    discovery.discover(FAULTY)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            forked(**request)
        with contextlib.suppress(PermissionError):
            os.setpgid(child, child)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def forked(words: list[str], log: str, room: int) -> NoReturn:
    """Runs these arguments in a fork."""
    os.setpgid(0, 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        if room:
            num_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (num_bytes + room, num_bytes + room))
        sys.argv = ["benchmark", *words]
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
