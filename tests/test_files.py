"""Files are written only below the folder that the user named, whatever lies there; one process writes at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from _cells import FAULTY, bytes_of
from _writer import CELL, HEADER, without
from matplotlib.figure import Figure
from test_faults import check_stated, table

from benchmark.analysis.figures import style
from benchmark.analysis.published import SOURCES_FILE, read_sources
from benchmark.plugins import discovery
from benchmark.records.record import Measured, Record
from benchmark.records.store import WRITTEN_FOLDERS, Store
from benchmark.runner.fit_cache import FitCache
from benchmark.system import files, locks, tensor_files
from benchmark.system.files import StoreWriteError
from benchmark.system.tensor_cache import acquire_lock

GRID = [
    "tasks=[shelf]", "strategies=[random]", "seeds=1", "rounds=3", "initial=20", "budget=5", "validation=10",
    "device=cpu", f"plugins={FAULTY}",
]  # fmt: skip
Command = Callable[..., tuple[int, str]]


def content_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(number: int) -> Record:
    return Record(number, 5, [1, 2], {"images": 5.0}, {"accuracy": 0.5})


def measured(number: int) -> Measured:
    return Measured(number, {"fit": 1.0}, False, 10.0, "cpu", {})


def grown(store: Store, rounds: int) -> Store:
    """Returns the store with some rounds of a cell."""
    store.start_cell(CELL, HEADER)
    for number in range(rounds):
        store.append(CELL, record(number), measured(number))
    return store


# --- links ------------------------------------------------------------------------------------
@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of someone else, with files of the names that a run writes."""
    folder = tmp_path / "outside"
    for name in ("precious", "shelf/20+5x2v10/random/seed-0.jsonl", "tables.md", "shelf.csv", "a.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious\n")
    return folder


CELL_OF_SHELF = "shelf/20+5x2v10/random/seed-0.jsonl"
FOLDERS = [*WRITTEN_FOLDERS, "cells/shelf", "measured/shelf/20+5x2v10", "cells/shelf/20+5x2v10/random"]
FILES = [".lock", f"cells/{CELL_OF_SHELF}", f"measured/{CELL_OF_SHELF}"]


@pytest.mark.parametrize("place", [*FOLDERS, *FILES])
def test_no_link_below_a_results_folder_is_written_through(
    place: str, outside: Path, tmp_path: Path, command: Command
) -> None:
    before, link = content_of(outside), tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if place in FOLDERS else outside / "precious")
    code, said = command("run", *GRID, f"out={tmp_path / 'run'}")
    assert content_of(outside) == before
    assert code == 2
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    if "is not a file of records" not in error:
        check_stated("symbolic link in the place of a folder or a file of records", code, said)
    assert place.partition("/")[0] in error
    assert link.is_symlink()


@pytest.mark.parametrize("place", ["grid.json", "tables/tables.md", "tables/shelf.csv"])
def test_a_link_in_the_place_of_a_file_that_is_written_whole_is_replaced(
    place: str, outside: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "run"
    assert command("run", *GRID, f"out={out}")[0] == 0
    before, expected = content_of(outside), (out / place).read_bytes()
    shutil.copy(out / place, outside / "copy")
    (out / place).unlink()
    (out / place).symlink_to(outside / ("copy" if place == "grid.json" else "precious"))
    before = content_of(outside)
    assert command("run", *GRID, f"out={out}")[0] == 0
    assert content_of(outside) == before
    assert not (out / place).is_symlink()
    assert (out / place).read_bytes() == expected


def test_a_draft_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".grid.json.{os.getpid()}").symlink_to(tmp_path / "precious")
    files.write_atomically(tmp_path / "run" / "grid.json", "{}", tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "precious"
    assert content_of(tmp_path / "run") == {"grid.json": b"{}"}


@pytest.mark.parametrize(
    "write",
    [
        lambda path, root: files.write_atomically(path, "x", root),
        lambda path, root: files.append(path, b"x\n", root, create=True),
        lambda path, root: files.truncate(path, 0, root),
        lambda path, root: files.remove(path, root),
        lambda path, root: files.move(path, root / "moved", root),
        lambda path, root: files.move(root / "mine", path, root),
    ],
    ids=["replace", "append", "truncate", "remove", "move from", "move to"],
)
def test_nothing_is_done_in_a_folder_that_is_a_link(write: Callable[[Path, Path], None], outside: Path) -> None:
    root = outside.parent / "run"
    root.mkdir()
    (root / "mine").write_text("mine")
    (root / "linked").symlink_to(outside)
    before = content_of(outside)
    with pytest.raises(StoreWriteError, match="it is a symbolic link"):
        write(root / "linked" / "precious", root)
    assert content_of(outside) == before


def test_the_folder_that_a_user_names_may_be_a_link(tmp_path: Path, command: Command) -> None:
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "runs" / "link").symlink_to(tmp_path / "disk" / "real")
    (tmp_path / "disk" / "real").mkdir()
    assert command("run", *GRID, f"out={tmp_path / 'home' / 'runs' / 'link'}")[0] == 0
    assert list(bytes_of(tmp_path / "disk" / "real")) == [CELL_OF_SHELF]


def test_results_that_are_linked_together_are_read(tmp_path: Path, command: Command) -> None:
    assert command("run", *GRID, f"out={tmp_path / 'a'}")[0] == 0
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "grid.json", tmp_path / "b" / "grid.json")
    (tmp_path / "b" / "cells").symlink_to(tmp_path / "a" / "cells")
    assert command("status", f"out={tmp_path / 'b'}")[0] == 0
    assert Store(tmp_path / "b").records(CELL_OF_SHELF.removesuffix(".jsonl"))[1]


@pytest.mark.parametrize("how", ["append", "truncate"])
def test_a_backup_of_hard_links_stays_as_it_is(how: str, tmp_path: Path) -> None:
    store = grown(Store(tmp_path / "run"), 2)
    path, whole = store.path(CELL), store.path(CELL).read_bytes()
    os.link(path, tmp_path / "backup")
    if how == "append":
        store.append(CELL, record(2), measured(2))
        assert path.read_bytes().startswith(whole)
    else:
        files.truncate(path, len(whole) - 5, store.folder)
        assert path.read_bytes() == whole[:-5]
    assert (tmp_path / "backup").read_bytes() == whole


def test_the_cache_of_fits_follows_no_link_and_makes_no_results_folder_anew(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".fits").symlink_to(outside)
    before = content_of(outside)
    assert FitCache(tmp_path / "run" / ".fits", 1e-9, "cpu").cache_bytes == 0
    path = tmp_path / "run" / ".fits" / "encodings" / "a" / "0.safetensors"
    tensor_files.write(path, "a", {"x": torch.zeros(3)}, 1.0)
    assert acquire_lock(path.with_suffix(".lock"), fcntl.LOCK_EX) is None
    assert content_of(outside) == before
    (tmp_path / "run" / ".fits").unlink()
    tensor_files.write(path, "a", {"x": torch.zeros(3)}, 1.0)
    assert path.is_file()
    shutil.rmtree(tmp_path / "run")
    tensor_files.write(path, "a", {"x": torch.zeros(3)}, 1.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_an_odd_lock_of_a_fit_is_no_lock_and_nobody_waits(kind: str, tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    for _ in odd(kind, lock):
        assert acquire_lock(lock, fcntl.LOCK_EX) is None
    if kind == "pipe":
        FitCache(tmp_path, 1.0, "cpu")


# --- what is no file --------------------------------------------------------------------------
def odd(kind: str, path: Path) -> Iterator[None]:
    """Puts something that is not a file in the place of one."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "linked pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to("pipe")
        else:
            before = os.getcwd()
            os.chdir(path.parent)  # its name may have a hundred letters
            listener.bind(path.name)
            os.chdir(before)
        yield


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "linked pipe"])
def test_what_is_no_file_is_named_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in odd(kind, path):
        with pytest.raises(ValueError, match=f"file is a {kind.removeprefix('linked ')}, not a file"):
            files.read_file(path)
        if kind != "folder":
            with pytest.raises(StoreWriteError, match=f"it is a ({kind}|symbolic link), not a file"):
                files.append(path, b"x", tmp_path)


OF_A_RUN = ["grid.json", f"cells/{CELL_OF_SHELF}", f"measured/{CELL_OF_SHELF}", ".lock"]


@pytest.mark.parametrize("place", OF_A_RUN)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_run_or_a_table_of_what_is_no_file_is_one_line(
    place: str, kind: str, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "run"
    assert command("run", *GRID, f"out={out}")[0] == 0
    for _ in odd(kind, out / place):
        for words in (["run", *GRID], ["status"], ["tables"]):
            code, said = command(*words, f"out={out}")
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in said
            assert len(errors) == (code == 2)
            assert all(Path(place).name in error for error in errors), errors
            if errors and place != ".lock":
                check_stated("pipe, device, socket or folder in the place of a file", code, said)
        assert place == ".lock" or errors
    assert command("status", f"out={tmp_path}")[0] == 2


def test_published_curves_that_are_no_file_are_named(tmp_path: Path, command: Command) -> None:
    for _ in odd("pipe", tmp_path / "curves.csv"):
        check_stated("pipe, device, socket or folder in the place of a file", *command("tables", f"records={tmp_path}"))
    for _ in odd("pipe", tmp_path / SOURCES_FILE):
        with pytest.raises(ValueError, match=f"{SOURCES_FILE} is a pipe, not a file"):
            read_sources(tmp_path / SOURCES_FILE)


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path, command: Command) -> None:
    store = grown(Store(tmp_path / "run"), 2)
    for path in (store.path(CELL), store.path(CELL, "measured"), store.folder / "grid.json"):
        with open(path, "ab") as handle:
            handle.truncate(2**40)
    for read in (store.records, store.header, store.measurements, store.devices, store.code_hashes):
        with pytest.raises(ValueError, match=r"seed-0\.jsonl has 1,048,576 MB: such a file has 256 at most"):
            read(CELL)
    with pytest.raises(ValueError, match=r"grid\.json has 1,048,576 MB"):
        store.manifest()
    check_stated("file of an absurd size", *command("status", f"out={store.folder}"))


# --- whole or not at all ----------------------------------------------------------------------
def test_a_figure_that_does_not_fit_leaves_the_old_one_and_is_named(tmp_path: Path) -> None:
    figure = Figure()
    figure.add_subplot()
    stem = tmp_path / "figures" / "curves"
    paths = style.save_figure(figure, stem)
    old, before = [path.read_bytes() for path in paths], resource.getrlimit(resource.RLIMIT_FSIZE)
    figure.axes[0].plot([1, 2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))  # a write stops there, as on a full disk
    try:
        with pytest.raises(StoreWriteError, match=r"figures/curves.png cannot be written: File too large"):
            style.save_figure(figure, stem)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.read_bytes() for path in paths] == old
    assert sorted(path.name for path in stem.parent.iterdir()) == ["curves.pdf", "curves.png", "curves.svg"]


# --- a folder that changes while a run writes to it -------------------------------------------
def gone(store: Store) -> None:
    store.path(CELL).unlink()


def measurements_gone(store: Store) -> None:
    store.path(CELL, "measured").unlink()


def emptied(store: Store) -> None:
    store.path(CELL).write_bytes(b"")


def of_another(store: Store) -> None:
    store.path(CELL).write_bytes(store.path(CELL).read_bytes().replace(b"k1", b"k2"))


def moved(store: Store) -> None:
    store.folder.rename(store.folder.with_name("moved"))


def replaced(store: Store) -> None:
    moved(store)
    shutil.copytree(store.folder.with_name("moved"), store.folder)


def deleted(store: Store) -> None:
    shutil.rmtree(store.folder)


def unlocked(store: Store) -> None:
    (store.folder / ".lock").unlink()


def locked_anew(store: Store) -> None:
    unlocked(store)
    (store.folder / ".lock").touch()


HARMS = {
    gone: "is gone: it was moved or deleted while the run wrote to it",
    measurements_gone: "is gone: it was moved or deleted while the run wrote to it",
    emptied: "it no longer begins with the line that this run found or wrote there",
    of_another: "it no longer begins with the line that this run found or wrote there",
    moved: "run was moved, deleted or replaced while this run wrote to it",
    replaced: "run was moved, deleted or replaced while this run wrote to it",
    deleted: "run was moved, deleted or replaced while this run wrote to it",
    unlocked: r"\.lock was deleted or replaced: another run may write there now",
    locked_anew: r"\.lock was deleted or replaced: another run may write there now",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_folder_that_changes_is_noticed_before_a_record_is_appended(
    harm: Callable[[Store], None], tmp_path: Path
) -> None:
    store = Store(tmp_path / "run")
    with store.lock():
        grown(store, 2)
        harm(store)
        before = content_of(tmp_path)
        with pytest.raises(StoreWriteError, match=HARMS[harm]):
            store.append(CELL, record(2), measured(2))
    after = {name: content for name, content in content_of(tmp_path).items() if "measured" not in name}
    assert after == {name: content for name, content in before.items() if "measured" not in name}
    records = [content for name, content in after.items() if "cells/" in name]
    assert [content for content in records if b'"key": ' not in content] == ([b""] if harm is emptied else [])


HARMFUL = """import os
from benchmark.api import register
@register(needs=(), version=1)
def {name}(view, budget, rng):
    'Does harm to the results folder in round 2.'
    if len(view.labelled) > 20:
        {code}
    return view.unlabelled[:budget]
"""
RECORDS = "'{out}/cells/shelf/20+5x2v10/{name}/seed-0.jsonl'"
ROWS = {
    "results folder moved, deleted or replaced during a run": "os.rename('{out}', '{out}-moved')",
    "record file deleted or moved during a run": f"os.unlink({RECORDS})",
    "record file emptied or replaced during a run": f"os.truncate({RECORDS}, 0)",
    "lock file deleted during a run": "os.unlink('{out}/.lock')",
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_run_ends_in_one_line_where_its_folder_changes(fault: str, tmp_path: Path, command: Command) -> None:
    out, name, code_folder = tmp_path / "run", f"harms_{list(ROWS).index(fault)}", tmp_path / "plugins"
    code_folder.mkdir()
    text = HARMFUL.format(name=name, code=ROWS[fault].format(out=out, name=name))
    (code_folder / f"{name}.py").write_text(text)
    discovery.discover(FAULTY)
    words = ["tasks=[shelf]", f"strategies=[{name},random]", "seeds=1", "rounds=3", "initial=20", "budget=5"]
    words += ["validation=10", "device=cpu", f"plugins={code_folder}", f"out={out}"]
    check_stated(fault, *command("run", *words))
    assert not any("random" in path for path in content_of(tmp_path) if "cells" in path)  # the run ended


# --- one writer, of two processes -------------------------------------------------------------
class Writer:
    """A process that writes to a results folder, see _writer.py."""

    def __init__(self, folder: Path, how: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("_writer.py")), str(folder), how]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.said = self.heard()

    def heard(self) -> str:
        """Returns the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def write(self) -> str:
        """Makes it write a round, and returns what it prints."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return self.heard()

    def end(self) -> int:
        """Returns its exit code after it has finished."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.end()


def writers_of(folder: Path) -> list[int]:
    """Returns which process wrote each round."""
    content = Store(folder).read(CELL)
    assert content.damage == ""
    return [record.bought[1] for record in content.records]


@pytest.mark.parametrize("how", ["flock", "files"])
def test_a_lock_that_is_deleted_lets_no_two_runs_interleave(how: str, tmp_path: Path) -> None:
    first = Writer(tmp_path, how)
    assert [first.said, first.write()] == ["locked, 0 rounds", "written"]
    (tmp_path / ".lock").unlink()
    second = Writer(tmp_path, how)
    if how == "flock":  # the folder itself is locked
        assert "another run is writing there" in second.said
        assert second.end() == 2
        assert ".lock was deleted or replaced" in first.write()
        second = Writer(tmp_path, how)
    assert second.said == "locked, 1 rounds"
    if how == "files":
        assert ".lock was deleted or replaced" in first.write()
    assert second.write() == "written"
    assert (first.end(), second.end()) == (2, 0)
    assert writers_of(tmp_path) == [first.process.pid, second.process.pid]


@pytest.mark.parametrize("how", ["ENOLCK", "ENOTSUP"])
def test_a_disk_that_knows_no_locks_has_one_writer_all_the_same(how: str, tmp_path: Path) -> None:
    first = Writer(tmp_path, how)
    assert first.said == "locked, 0 rounds"
    assert first.write() == "written"
    second = Writer(tmp_path, how)
    expected = rf"another run is writing there: process {first.process.pid} on \S+, for 0 min; .* {tmp_path}/.writer if"
    assert re.search(expected, second.said), second.said
    assert table()["second run where the disk supports no locks (some network folders)"].said.search(second.said)
    assert second.end() == 2
    assert first.write() == "written"
    if how != "ENOLCK":
        assert first.end() == 0
        assert not (tmp_path / ".writer").exists()
        return
    first.kill()
    third = Writer(tmp_path, how)
    assert re.search(rf"the run of process {first.process.pid} on \S+ has ended", third.said)
    assert third.heard() == "locked, 2 rounds"
    (tmp_path / ".writer").unlink()
    assert ".writer was deleted or replaced" in third.write()
    assert third.end() == 2


def test_a_mark_of_another_host_is_refused_with_what_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without("ENOTSUP"))
    monkeypatch.setattr(locks, "MARK_TIMEOUT", 0.2)
    (tmp_path / ".writer").write_text("4242\nnode17\n123456\n")
    hours = time.time() - 3 * 3600
    os.utime(tmp_path / ".writer", (hours, hours))
    expected = (
        rf"writing there: process 4242 on node17, for 180 min; .* remove {tmp_path}/.writer if that run has ended"
    )
    with pytest.raises(ValueError, match=expected), Store(tmp_path).lock():
        pass
    (tmp_path / ".writer").unlink()
    (tmp_path / ".writer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="it is a symbolic link, not a file"), Store(tmp_path).lock():
        pass


@pytest.mark.parametrize("how", ["ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_whatever_a_disk_without_locks_answers_a_mark_stands_for_one(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", without(how))
    with Store(tmp_path).lock():
        assert str(os.getpid()) in (tmp_path / ".writer").read_text().splitlines()
    assert not (tmp_path / ".writer").exists()


def test_a_mark_that_was_not_written_to_its_end_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without("ENOLCK"))
    monkeypatch.setattr(locks, "MARK_TIMEOUT", 0.2)
    (tmp_path / ".writer").touch()
    store = Store(tmp_path)
    with store.lock():
        grown(store, 1)
    assert not (tmp_path / ".writer").exists()


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_an_error_of_the_lock_is_told_as_it_is(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without(errno.errorcode[code]))
    with pytest.raises(ValueError, match=f"out={tmp_path}: {os.strerror(code)}$"), Store(tmp_path).lock():
        pass
