"""Puts a borrowed GPU to use for a few minutes: `make gpu OUT=DIR`; docs/gpu.md explains it.

    python -m tools.gpu_session OUT [--seconds 480] [--device cuda] [--data DIR] [--wheels DIR] [--records DIR]
                                    [--steps tests benchmarks parity grid] [--tiny]

It runs the tests that need a GPU, the benchmarks, the comparison of CPU and GPU, and then grid=gpu_reference from where
its committed records end. A step that exceeds its share of the time is interrupted; what it has done by then stays. OUT
receives summary.txt, log.txt, benchmarks.json and records.tar.xz, which `python -m tools.gpu_output OUT` takes in.

Needs no network. This process imports the standard library alone, so that it can say which packages are missing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.records.provenance import checkout_commit
from benchmark.system import files
from tools.benchmark_pages import seconds as row_seconds
from tools.benchmark_pages import summarize_groups

HOME = Path(__file__).resolve().parents[1]
GRID = "gpu_reference"
IMAGES = "cifar10_jpeg"  # the folder of its images in the folder of data sets, or IMAGES.tar.xz with that folder inside
TINY_TASK = f"image_folder[batch_size=16,epochs=1,root={IMAGES},width=2]"
TINY_SETTINGS = (
    f"tasks=[{TINY_TASK}]", "strategies=[random,entropy]", "seeds=1", "initial=20", "budget=10", "rounds=3",
    "validation=10", "threads=1",
)  # fmt: skip
PYTEST = (sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short", "-p", "no:cacheprovider")
GRACE_SECONDS = 10.0  # that an interrupted program has to end
CLOSING_SECONDS = 15.0  # at the end, for the last program to end and for packing
STARTING_SECONDS = 15.0  # in which a run loads PyTorch, before gpu_hours counts, and writes tables after it
MAX_LOG = 2**20  # characters of a program's output in log.txt, the last ones


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    out: Path
    seconds: float
    device: str
    data: Path | None
    wheels: Path | None
    records: Path  # from where the grid goes on
    steps: list[str]
    tiny: bool


@dataclass(frozen=True)
class Result:
    """What became of a program."""

    output: str
    code: int
    seconds: float
    is_cut: bool  # it was interrupted

    @property
    def note(self) -> str:
        """Its seconds, and whether it was interrupted."""
        return f"{self.seconds:.0f} s" + ", cut off" * self.is_cut


@dataclass
class Session:
    """One use of a GPU.

    Args:
        options: what was asked for.
        work: a folder for all that does not go to OUT.
        environment: variables of the programs that are run.
        log: what these have printed.
        has_failures: whether a test or a benchmark failed.
        is_stopped: whether the user stopped it.
    """

    options: Options
    work: Path
    environment: dict[str, str]
    log: list[str] = field(default_factory=list)
    has_failures: bool = False
    is_stopped: bool = False

    def run(self, words: Sequence[str | Path], limit: float, cwd: Path = HOME, **variables: str) -> Result:
        """Runs a program, and interrupts it after `limit` seconds or when the user stops the session."""
        command, start = list(map(str, words)), time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=self.environment | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip
        content, stages = b"", ((None, limit), (signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS))
        for number, patience in stages:
            if number is not None:
                os.killpg(process.pid, number)
            try:
                content, _ = process.communicate(timeout=max(patience, 0.0))
                break
            except subprocess.TimeoutExpired as error:
                content = error.output or content  # used where a program that left the group holds the pipe
            except KeyboardInterrupt:
                self.is_stopped = True
        assert process.stdout is not None
        process.stdout.close()
        output = content.decode(errors="replace")
        result = Result(output, process.poll() or 0, time.monotonic() - start, number is not None)
        self.log.append(f"== {' '.join(command)}\n{output[-MAX_LOG:]}\n== exit {result.code}, {result.note}\n")
        return result

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file of OUT."""
        files.write_atomically(self.options.out / name, content)


# --- steps: each has `limit` seconds, and returns lines for the summary -----------------------------
def run_tests(session: Session, limit: float) -> list[str]:
    """Runs the tests that need a GPU; without one they are skipped."""
    result = session.run([*PYTEST, "-m", "gpu", *files_that_mark("tests", "gpu")], limit)
    session.has_failures |= result.code != 0
    failed = [line for line in result.output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [f"tests: {closing_line(result)}", *shorten(failed, 9)]


def run_benchmarks(session: Session, limit: float) -> list[str]:
    """Times what is marked `device`, one process a file, so that one that breaks off costs the rows of no other."""
    paths, lines, end = files_that_mark("tests/benchmarks", "device"), list[str](), time.monotonic() + limit
    whole: dict[str, Any] = {}
    for number, path in enumerate(paths):
        share = (end - time.monotonic()) / (len(paths) - number)
        output = session.work / f"{path.stem}.json"
        command = [*PYTEST, "-m", "device", "--benchmark-only", f"--benchmark-json={output}", str(path)]
        result = session.run(command, share, OMP_NUM_THREADS=str(os.cpu_count()))
        session.has_failures |= result.code != 0
        lines.append(f"benchmarks in {path.name}: {closing_line(result)}")
        if output.exists() and (text := output.read_text(encoding="utf-8")):
            raw = json.loads(text)
            whole = {**raw, "benchmarks": [*whole.get("benchmarks", []), *raw["benchmarks"]]}
        if session.is_stopped:
            break
    session.write("benchmarks.json", json.dumps(whole, indent=1) + "\n")
    groups = summarize_groups(whole) if whole else {}
    return shorten([*lines, *(f"  {name}: {ratios(group['rows'])}" for name, group in groups.items())], 18)


def ratios(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of a group in a line: seconds, and how many times those of the first row."""
    first = row_seconds(rows[0])
    return ", ".join(f"{row['name']} {row_seconds(row):.3g} s (x{row_seconds(row) / first:.3g})" for row in rows)


def compare_devices(session: Session, limit: float) -> list[str]:
    """Shows for one image where CPU and GPU part, if this version has the tool for it."""
    if not (HOME / "tools" / "device_parity.py").exists():
        return ["parity: this version has no tools/device_parity.py"]
    places = ["cpu", "cpu:float64", "scenes[epochs=1]"] if session.options.device == "cpu" else ["cpu", "cuda"]
    result = session.run([sys.executable, "-m", "tools.device_parity", *places], limit)
    status = "ended" if result.code == 0 else f"failed with exit status {result.code}"
    return [f"parity: {status} ({result.note})", *shorten(result.output.strip().splitlines(), 20)]


def run_grid(session: Session, limit: float) -> list[str]:
    """Runs rounds of the grid that are not recorded yet, and packs the records."""
    options, records = session.options, session.work / "results" / GRID
    copy_records(options.records, records)
    before, _ = count_rounds(records)
    if (data := find_images(session)) is None:
        return [f"grid: no images: DATA=DIR must have {IMAGES}/ or {IMAGES}.tar.xz"]
    hours = max(limit - STARTING_SECONDS, 1.0) / 3600
    settings = [f"grid={GRID}", *TINY_SETTINGS * options.tiny, *["device=cpu"] * (options.device == "cpu")]
    command = [sys.executable, "-m", "benchmark", "run", *settings, f"gpu_hours={hours:.4f}"]
    # in the folder of work, so that the command, which records name, holds no path of this machine
    result = session.run(command, limit, session.work, AL_BENCHMARK_DATA=str(data))
    session.write("records.tar.xz", pack_records(records))
    after, num_rounds = count_rounds(records)
    failed = [line for line in result.output.splitlines() if line.startswith(("failed: ", "error: "))]
    return [
        f"grid: {after - before} more rounds of {GRID}, now {after} of {num_rounds} ({result.note})",
        *shorten(failed, 8),
    ]


RunStep = Callable[[Session, float], list[str]]
STEPS: dict[str, tuple[RunStep, float]] = {  # with its share of the time where all steps are run
    "tests": (run_tests, 0.2),
    "benchmarks": (run_benchmarks, 0.35),
    "parity": (compare_devices, 0.1),
    "grid": (run_grid, 0.35),
}


# --- what steps share -------------------------------------------------------------------------------
def files_that_mark(folder: str, mark: str) -> list[Path]:
    """The test files of a folder that have a mark. The others are not collected: they may need further packages."""
    paths = sorted((HOME / folder).glob("test_*.py"))
    return [path for path in paths if re.search(rf"pytest\.mark\.{mark}\b", path.read_text(encoding="utf-8"))]


def closing_line(result: Result) -> str:
    """The last line of pytest's that counts tests, as `6 passed, 2 failed`, and the seconds."""
    counts = re.findall(
        r"^[= ]*(\d+ (?:passed|failed|skipped|deselected|error).*) in [\d.]+s", result.output, re.MULTILINE
    )
    last = (result.output.strip().splitlines() or [f"exit status {result.code}"])[-1]
    return f"{counts[-1] if counts else f'no test ended: {last}'} ({result.note})"


def shorten(lines: Sequence[str], number: int) -> list[str]:
    """At most `number` lines; the last one says how many there are besides."""
    if len(lines) <= number:
        return list(lines)
    return [*lines[: number - 1], f"... {len(lines) - number + 1} more lines in log.txt"]


def find_images(session: Session) -> Path | None:
    """The folder of data sets that has the grid's images; unpacks their archive. None where there is neither."""
    data = session.options.data
    if data is None or (data / IMAGES).is_dir():
        return data and data.resolve()
    if not (archive := data / f"{IMAGES}.tar.xz").is_file():
        return None
    with tarfile.open(archive) as images:
        images.extractall(session.work / "data", filter="data")
    return session.work / "data"


def record_files(folder: Path) -> list[Path]:
    """The files of a results folder that hold what was recorded."""
    inside = (path for kind in ("cells", "measured", "failures") for path in (folder / kind).rglob("*.*"))
    return sorted(path for path in (folder / "grid.json", *inside) if path.is_file())


def copy_records(source: Path, target: Path) -> None:
    """Copies records to an empty results folder."""
    for path in record_files(source):
        files.write_atomically(target / path.relative_to(source), path.read_bytes())


def count_rounds(folder: Path) -> tuple[int, int]:
    """The number of rounds that a results folder has, and the number that its manifest asks for."""
    num_recorded = sum(len(path.read_bytes().splitlines()) - 1 for path in (folder / "cells").rglob("*.jsonl"))
    if not (manifest := folder / "grid.json").exists():
        return num_recorded, 0
    experiments = json.loads(manifest.read_text(encoding="utf-8"))["experiments"]
    return num_recorded, sum(len(entry["cells"]) * entry["schedule"]["rounds"] for entry in experiments)


def pack_records(folder: Path) -> bytes:
    """The records of a results folder as a .tar.xz without the names of users; a full grid takes about 1 MB."""

    def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
        return member.replace(uid=0, gid=0, uname="", gname="", mtime=0, deep=False)

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for path in record_files(folder):
            archive.add(path, str(path.relative_to(folder)), filter=without_owner)
    return buffer.getvalue()


# --- before the steps ---------------------------------------------------------------------------------
def prepare(options: Options, work: Path) -> tuple[Session, dict[str, Any]]:
    """Installs the wheels, if any, for this session alone, and looks at the machine.

    Returns:
        The session, and what `tools.gpu_probe` says.

    Raises:
        ValueError: packages or a GPU are missing; the message is one line.
    """
    site = work / "site"
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HOME), str(site), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        **({"AL_BENCHMARK_TINY": "1"} if options.tiny else {}),
        **({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}),
    }  # fmt: skip
    session = Session(options, work, dict(os.environ) | variables)
    if options.wheels is not None:
        install_wheels(session, options.wheels, site)
    probe = session.run([sys.executable, "-m", "tools.gpu_probe"], options.seconds)
    if probe.code:
        raise ValueError(f"this Python cannot be used: {(probe.output.strip().splitlines() or ['interrupted'])[-1]}")
    facts: dict[str, Any] = json.loads(probe.output.splitlines()[-1])
    if facts["missing"]:
        raise ValueError(f"missing: {', '.join(facts['missing'])}: put wheels of them into WHEELS=DIR (docs/gpu.md)")
    if options.device != "cpu" and not facts["card"]:
        raise ValueError("PyTorch sees no GPU: DEVICE=cpu TINY=1 tries everything without one")
    return session, facts


def install_wheels(session: Session, folder: Path, site: Path) -> None:
    """Installs every wheel of a folder into `site`. Their requirements are not followed: what is missing is said later.

    A folder of its own works with any Python: a virtual environment, or one that its system manages. Raises ValueError
    where pip fails.
    """
    wheels = sorted(folder.resolve().glob("*.whl"))
    if not wheels:
        raise ValueError(f"WHEELS={folder}: no wheels in it")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    result = session.run([*pip, "--no-compile", "--target", site, *wheels], session.options.seconds)
    if result.code:
        raise ValueError(f"WHEELS={folder}: {' '.join(result.output.split()) or 'pip was interrupted'}")


def read_options(words: Sequence[str]) -> Options:
    """Reads the command line. Exits with status 2 where it does not fit."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_session")
    parser.add_argument("out", type=Path, metavar="OUT", help="an empty or new folder")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", type=Path, default=os.environ.get("AL_BENCHMARK_DATA"), help=f"has {IMAGES}")
    parser.add_argument("--wheels", type=Path, help="has the wheels of missing packages")
    parser.add_argument("--records", type=Path, default=HOME / "results" / "reference" / GRID, help="to go on from")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, which show that it works")
    options = Options(**vars(parser.parse_args(words)))
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} is not empty: name a new folder")
    return options


def run_session(options: Options, work: Path, say: Callable[[str], None]) -> bool:
    """Runs the steps, writes OUT after each, and says its lines. Returns whether all tests and benchmarks passed.

    Args:
        options: what was asked for.
        work: an empty folder.
        say: shows a line to the user, all in all at most 60.

    Raises:
        ValueError: packages or a GPU are missing.
    """
    start, lines = time.monotonic(), list[str]()

    def report(*new_lines: str) -> None:
        lines.extend(new_lines)
        session.write("summary.txt", "".join(f"{line}\n" for line in lines))
        for line in new_lines:
            say(line)

    session, facts = prepare(options, work)
    commit = checkout_commit(HOME)[:12] or "unknown"
    report(f"{facts['card'] or 'CPU'}, torch {facts['torch']}, commit {commit}, {options.seconds:g} s at most")
    chosen = {name: STEPS[name] for name in STEPS if name in options.steps}
    end, all_shares = 0.0, sum(share for _, share in chosen.values())
    for name, (run_step, share) in chosen.items():
        end += share / all_shares * (options.seconds - CLOSING_SECONDS)
        left = end - (time.monotonic() - start)
        has_time = left > 0 and not session.is_stopped
        report(*(run_step(session, left) if has_time else [f"{name}: no time was left"]))
        session.write("log.txt", "\n".join(session.log))
    report(f"{time.monotonic() - start:.0f} s; next, at home: python -m tools.gpu_output {options.out}")
    return not session.has_failures


def main(words: Sequence[str]) -> int:
    """Runs a session and returns the exit status: 0 all passed, 1 something failed, 2 it could not start."""
    options = read_options(words)
    for number in (signal.SIGINT, signal.SIGTERM):  # what was done is written then, too; jobs in the background of a
        signal.signal(
            number, signal.default_int_handler
        )  # shell ignore SIGINT, and so would the programs that they run
    with tempfile.TemporaryDirectory(prefix="gpu-session-") as work:
        try:
            all_passed = run_session(options, Path(work), print_line)
        except ValueError as error:
            print_line(f"error: {error}")
            return 2
    return 0 if all_passed else 1


def print_line(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
