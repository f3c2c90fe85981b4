"""`make gpu`: a session on a borrowed GPU, rehearsed with tiny sizes on the CPU, and how its output is taken in."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import config
from benchmark.analysis.load_experiments import read_experiments
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Grid
from benchmark.plugins import discovery
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.run_grid import manifest_entry
from tools import gpu_output, gpu_probe, gpu_session
from tools.gpu_session import GRID, IMAGES, Options, Session
from tools.readme import render_page

HOME = Path(__file__).parent.parent
CARD = "NVIDIA H200, deterministic"
NUM_POOL = 6_000


# --- the whole, with tiny sizes ---------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive of a small image folder: two classes of noise."""
    home, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    with tarfile.open(home / f"{IMAGES}.tar.xz", "w:xz") as archive:
        for split, number in (("train", 40), ("test", 5)):
            for name, mean in (("cat", 60), ("dog", 180)):
                for index in range(number):
                    pixels = rng.integers(mean - 50, mean + 50, (8, 8, 3)).astype(np.uint8)
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    member = tarfile.TarInfo(f"{IMAGES}/{split}/{name}/{index:03}.jpg")
                    member.size = buffer.tell()
                    buffer.seek(0)
                    archive.addfile(member, buffer)
    return home


def make_gpu(output: Path, data: Path, records: Path, *settings: str) -> str:
    """Types `make gpu` with tiny sizes on the CPU, and returns what is on the screen."""
    paths = [f"OUT={output}", f"DATA={data}", f"RECORDS={records}", f"PYTHON={sys.executable}"]
    command = ["make", "--no-print-directory", "gpu", "TINY=1", "DEVICE=cpu", *paths, *settings]
    run = subprocess.run(command, cwd=HOME, text=True, capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr + (output / "log.txt").read_text()
    return run.stdout


@pytest.mark.slow
def test_sessions_with_tiny_sizes_add_up(data: Path, tmp_path: Path) -> None:
    reference = tmp_path / "home" / "results" / "reference" / GRID
    screen = make_gpu(tmp_path / "first", data, reference, "SECONDS=3600")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "first").iterdir()}
    assert set(sizes) == {"summary.txt", "log.txt", "benchmarks.json", "records.tar.xz"}
    assert max(sizes.values()) < 16e6
    assert len(screen.splitlines()) <= 60
    assert screen == (tmp_path / "first" / "summary.txt").read_text()
    rounds = f"6 more rounds of {GRID}, now 6 of 6"
    for line in (r"tests: \d+ skipped \(", r"  k-center, 500 x 512, 20 picks: ours ", rounds):
        assert re.search(line, screen), screen

    assert gpu_output.take_in(tmp_path / "first", tmp_path / "home")[0].endswith("was timed without a GPU")
    lines = gpu_output.take_in(tmp_path / "first", tmp_path / "home", tiny=True)
    assert re.fullmatch(r"times of \d+ groups on CPU", lines[0])
    assert lines[1:] == [f"6 rounds of {GRID}"]
    assert "| CPU | ours |" in (tmp_path / "home" / "results" / "benchmarks" / "gpu.md").read_text()
    assert str(tmp_path) not in (reference / "grid.json").read_text()
    [last, *_] = whole = sorted((reference / "cells").rglob("*.jsonl"))
    text = last.read_text()
    last.write_text("".join(text.splitlines(keepends=True)[:-1]))  # as if the time had been up before the last round

    screen = make_gpu(tmp_path / "second", data, reference, "STEPS=grid")
    assert f"1 more rounds of {GRID}, now 6 of 6" in screen
    assert gpu_output.take_in(tmp_path / "second", tmp_path / "home", tiny=True) == [f"1 round of {GRID}"]
    assert last.read_text() == text
    assert len(whole) == 2
    assert gpu_output.take_in(tmp_path / "second", tmp_path / "home", tiny=True) == [f"0 rounds of {GRID}"]


# --- a session --------------------------------------------------------------------------------------
@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session. Jobs in the background of a shell ignore Ctrl-C; here it interrupts, as `main` sees to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    options = Options(tmp_path / "out", 60.0, "cpu", None, None, tmp_path / "records", ["grid"], True)
    yield Session(options, tmp_path, dict(os.environ))
    signal.signal(signal.SIGINT, before)


def test_a_program_that_takes_longer_is_interrupted_and_its_output_stays(session: Session) -> None:
    code = """if True:
        import time
        print("begun", flush=True)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("written")
    """
    result = session.run([sys.executable, "-c", code], 2.0)
    assert (result.is_cut, result.code, result.output.split()) == (True, 0, ["begun", "written"])
    assert "begun\nwritten" in session.log[0]


def test_a_program_that_ignores_the_interruption_is_killed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session, "GRACE_SECONDS", 0.5)
    result = session.run(["bash", "-c", "trap '' INT; echo begun; while true; do sleep 1; done"], 2.0)
    assert (result.is_cut, result.code, result.output) == (True, -9, "begun\n")


def test_a_program_that_left_the_group_does_not_hold_the_session_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the pipe of the output open."""
    monkeypatch.setattr(gpu_session, "GRACE_SECONDS", 0.5)
    result = session.run(["bash", "-c", "echo begun; setsid sleep 20 & sleep 600"], 2.0)
    assert (result.is_cut, result.code, result.output) == (True, -2, "begun\n")


def test_steps_after_one_that_took_all_the_time_are_left_out(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, clock = list[float](), [0.0]

    def take(seconds: float) -> Callable[[Session, float], list[str]]:
        def step(_: Session, limit: float) -> list[str]:
            limits.append(limit)
            clock[0] += seconds
            return [f"took {seconds:g}"]

        return step

    plan = {"tests": (5.0, 0.2), "benchmarks": (40.0, 0.3), "parity": (1.0, 0.1), "grid": (1.0, 0.4)}
    steps = {name: (take(seconds), share) for name, (seconds, share) in plan.items()}
    monkeypatch.setattr(gpu_session, "STEPS", steps)
    monkeypatch.setattr(gpu_session, "prepare", lambda *_: (session, {"card": "NVIDIA H200", "torch": "2.11"}))
    monkeypatch.setattr(gpu_session.time, "monotonic", lambda: clock[0])
    options = replaced(session.options, seconds=75.0, steps=["grid", "parity", "tests", "benchmarks"])
    lines = list[str]()
    assert gpu_session.run_session(options, session.work, lines.append)
    assert limits == pytest.approx([12.0, 25.0, 15.0])
    assert lines[1:5] == ["took 5", "took 40", "parity: no time was left", "took 1"]
    assert (session.options.out / "summary.txt").read_text().splitlines() == lines
    limits.clear()
    clock[0] = 0.0
    assert gpu_session.run_session(replaced(options, steps=["grid", "tests"]), session.work, lines.append)
    assert limits == pytest.approx([20.0, 55.0])


def replaced(options: Options, **changes: object) -> Options:
    return Options(**(vars(options) | changes))  # type: ignore[arg-type]


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A package, one that another needs, and a GPU."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "msgspec.py").write_text("import no_such_module")
    (tmp_path / "site" / "filelock.py").write_text("raise ModuleNotFoundError(name='filelock')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tools.gpu_session", tmp_path / "out"]
    run = subprocess.run(command, cwd=HOME, env=environment, text=True, capture_output=True)
    assert (run.returncode, run.stdout.count("\n")) == (2, 1), run.stderr
    assert run.stdout.startswith(
        "error: missing: filelock, no_such_module (for msgspec): put wheels of them into WHEELS"
    )


def test_a_session_without_a_gpu_does_not_start(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = gpu_session.Result(json.dumps({"missing": [], "card": "", "torch": "2.11"}) + "\n", 0, 1.0, False)
    monkeypatch.setattr(Session, "run", lambda *_, **__: probed)
    with pytest.raises(ValueError, match="PyTorch sees no GPU"):
        gpu_session.prepare(replaced(session.options, device="cuda"), session.work)
    gpu_session.prepare(session.options, session.work)


def test_wheels_are_installed_for_the_session_alone(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with pytest.raises(ValueError, match="no wheels in it"):
        gpu_session.install_wheels(session, folder, tmp_path / "site")
    info = "made_up_package-1.0.dist-info"
    with zipfile.ZipFile(folder / "made_up_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up_package.py", "NUMBER = 7\n")
        needs = "Metadata-Version: 2.1\nName: made-up-package\nVersion: 1.0\nRequires-Dist: nowhere\n"
        wheel.writestr(f"{info}/METADATA", needs)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    gpu_session.install_wheels(session, folder, tmp_path / "site")
    assert "NUMBER = 7" in (tmp_path / "site" / "made_up_package.py").read_text()


def test_an_output_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.txt").write_text("of an earlier session")
    with pytest.raises(SystemExit):
        gpu_session.read_options([str(tmp_path)])


def test_it_looks_for_every_package_that_the_project_needs() -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["train"], "pytest", "pytest-benchmark"]
    needed += ["antlr4-python3-runtime"]  # which hydra-core needs, and few machines have
    assert set(gpu_probe.PACKAGES.values()) == {re.split(r"[<>=]", line)[0] for line in needed}


# --- taking its output in ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def grid() -> Grid:
    discovery.discover()
    return config.build_grid(config.compose_settings([f"grid={GRID}"]))


def test_whole_tables_come_first(grid: Grid) -> None:
    cells = grid.cells(by_seed=True)
    assert [cell.seed for cell in cells] == [seed for seed in range(5) for _ in range(11)]
    assert {cell.schedule.label for cell in cells} == {"1000+1000x4v500"}


def record(folder: Path, cell: Cell, rounds: int, device: str = CARD, facts: str = "data", shift: float = 0.0) -> Store:
    """Writes rounds of a cell as a run does."""
    store, sizes = Store(folder), cell.schedule
    header = Header(cell.key, cell.identity(), facts, NUM_POOL, "accuracy", list(range(sizes.validation)))
    store.start_cell(cell.path, header)
    for number in range(rounds):
        first = sizes.validation + number * sizes.budget
        bought, labelled = list(range(first, first + sizes.budget)), sizes.initial + number * sizes.budget
        line = Record(number, labelled, bought, {"images": float(labelled)}, {"accuracy": 50.0 + number + shift})
        store.append(cell.path, line, Measured(number, {"fit": 1.0, "score": 1.0}, False, 1.0, device, {}))
    return store


def copy_cell(source: Store, old: str, target: Store, new: str) -> None:
    for kind in ("cells", "measured"):
        target.path(new, kind).parent.mkdir(parents=True, exist_ok=True)
        target.path(new, kind).write_bytes(source.path(old, kind).read_bytes())


Merge = Callable[[], list[str]]


@pytest.fixture
def merge(tmp_path: Path, grid: Grid) -> Merge:
    """Takes tmp_path/out in, packed as a session packs it, and returns the lines."""

    def packed() -> list[str]:
        source = Store(tmp_path / "out")
        run = {"command": "python -m benchmark run grid=gpu_reference", "version": "0", "commit": "0"}
        source.update_manifest(GRID, list(map(manifest_entry, grid.experiments)), run)
        (tmp_path / "records").mkdir(exist_ok=True)
        (tmp_path / "records" / "records.tar.xz").write_bytes(gpu_session.pack_records(source.folder))
        return gpu_output.take_in(tmp_path / "records", tmp_path / "home")

    return packed


def test_only_longer_records_replace_shorter_ones(tmp_path: Path, grid: Grid, merge: Merge) -> None:
    cells = shorter, longer, equal, new = grid.cells()[:4]
    target = Store(tmp_path / "home" / "results" / "reference" / GRID)
    for cell, number_here, number_there in ((shorter, 2, 3), (longer, 4, 3), (equal, 2, 2), (new, 0, 5)):
        record(tmp_path / "out", cell, number_there)
        if number_here:
            record(target.folder, cell, number_here, shift=0.5)
    assert merge() == [f"6 rounds of {GRID}"]
    assert [len(target.records(cell.path)[1]) for cell in cells] == [3, 4, 2, 5]
    assert [len(target.measurements(cell.path)) for cell in cells] == [3, 4, 2, 5]
    assert [target.records(cell.path)[1][0].scores["accuracy"] for cell in cells] == [50.0, 50.5, 50.5, 50.0]
    assert len(target.manifest()["experiments"][0]["cells"]) == 55
    [experiment] = read_experiments(str(target.folder))
    assert experiment.title == GRID


def test_damaged_and_foreign_records_are_refused_in_a_line_each(tmp_path: Path, grid: Grid, merge: Merge) -> None:
    good, torn, altered, unmeasured, others, on_cpu, foreign, longer = grid.cells()[:8]
    home = record(tmp_path / "home" / "results" / "reference" / GRID, longer, 1)
    store = Store(tmp_path / "out")
    for cell in (good, torn, altered, unmeasured):
        record(store.folder, cell, 2)
    record(store.folder, on_cpu, 2, device="cpu (AVX512, 8 threads, deterministic)")
    text = store.path(torn.path).read_text()
    for cell_path in (foreign.path, "elsewhere/seed-0"):
        copy_cell(store, torn.path, store, cell_path)
    copy_cell(record(tmp_path / "other", others, 2, facts="other images"), others.path, store, others.path)
    store.path(torn.path).write_text(text[:-9])
    store.path(altered.path).write_text(store.path(altered.path).read_text().replace("51.0", "99.0"))
    lines = store.path(unmeasured.path, "measured").read_text().splitlines(keepends=True)
    store.path(unmeasured.path, "measured").write_text(lines[0])
    refused = {line.split(": ")[1]: line.split(": ", 2)[2] for line in merge()[:-1]}
    expected = {
        torn.path: "line 3 is torn", altered.path: "line 3 is damaged", unmeasured.path: "rounds without measurements",
        others.path: "other data: other images", on_cpu.path: "not run on a GPU", foreign.path: "other settings",
        "elsewhere/seed-0": "no such cell",
    }  # fmt: skip
    assert set(refused) == set(expected)
    assert all(words in refused[path] for path, words in expected.items()), refused
    assert sorted(path.name for path in (home.folder / "cells").rglob("*.jsonl")) == ["seed-0.jsonl"] * 2
    assert len(home.records(good.path)[1]) == 2


@pytest.mark.parametrize("content", [b"", b"no archive", gpu_session.pack_records(Path("nowhere"))[:40]])
def test_a_damaged_archive_is_refused_in_a_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "records.tar.xz").write_bytes(content)
    [line] = gpu_output.take_in(tmp_path, tmp_path / "home")
    assert line.startswith("refused: records.tar.xz is damaged: ")


def test_no_file_of_an_archive_leaves_the_folder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "records.tar.xz", "w:xz") as archive:
        for name in ("../outside.jsonl", "cells/../../outside.jsonl", "cells/a.py"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("cells/link.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    folder = tmp_path / "inside"
    folder.mkdir()
    assert len(gpu_output.unpack_records(tmp_path / "records.tar.xz", folder)) == 4
    assert [*folder.iterdir()] == []
    assert not (tmp_path / "outside.jsonl").exists()


def test_a_page_shows_the_records_once_there_are_any(tmp_path: Path, grid: Grid, merge: Merge) -> None:
    block = f"<!-- growing_table: results/reference/{GRID} {GRID} -->\n<!-- end -->\n"
    (tmp_path / "home" / "docs").mkdir(parents=True)
    page = tmp_path / "home" / "docs" / "gpu.md"
    page.write_text(render_page(block, tmp_path / "home"))
    assert "No run yet: `make gpu OUT=DIR`" in page.read_text()
    for cell in grid.cells(by_seed=True)[:2]:
        record(tmp_path / "out", cell, 4)
    assert merge() == [f"8 rounds of {GRID}"]
    assert f"8 of 275 rounds so far, on {CARD}." in page.read_text()
    assert "| random | 50.00 " in page.read_text()
    assert render_page(page.read_text(), tmp_path / "home") == page.read_text()
