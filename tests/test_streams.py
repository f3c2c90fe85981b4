"""Standard streams that are closed, full or without a reader, terminals that are closed, names that are not text."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from _cells import FAULTY, bytes_of
from test_faults import check_stated

from benchmark.system.streams import ignore_hangup, tolerant_stream

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
SHELF = ["run", "tasks=[shelf]", "seeds=1", "initial=20", "budget=5", "validation=10", "device=cpu",
         f"plugins={FAULTY}"]  # fmt: skip


# --- writing ----------------------------------------------------------------------------------
ORIGINALS: list[io.TextIOWrapper] = []  # Python keeps those of the standard streams, too


def text_to(number: int) -> io.TextIOWrapper:
    """Returns a text stream on a file descriptor, like standard output."""
    file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    ORIGINALS.append(io.TextIOWrapper(file, encoding="utf-8", line_buffering=True))
    return ORIGINALS[-1]


def test_what_cannot_be_written_is_dropped_and_the_rest_arrives() -> None:
    reader, writer = os.pipe()
    stream = tolerant_stream(text_to(writer))
    print("one", file=stream)
    assert os.read(reader, 99) == b"one\n"
    os.close(reader)
    for _ in range(3):
        print("x" * 100_000, file=stream)
    stream.flush()
    os.close(writer)  # closed below us
    print("three", file=stream)
    stream.flush()


def test_a_full_disk_takes_nothing_and_raises_nothing() -> None:
    number = os.open("/dev/full", os.O_WRONLY)
    stream = tolerant_stream(text_to(number))
    print("one", file=stream)
    stream.flush()
    os.close(number)


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream, parts = tolerant_stream(text_to(writer)), list[bytes]()

    def read() -> None:
        while part := os.read(reader, 4096):
            parts.append(part)
            time.sleep(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    print("x" * 300_000, file=stream)
    stream.flush()
    os.close(writer)
    thread.join()
    os.close(reader)
    assert b"".join(parts) == b"x" * 300_000 + b"\n"


def test_streams_that_are_no_files_stay_and_closed_ones_are_silent() -> None:
    text = io.StringIO()
    assert tolerant_stream(text) is text
    once = tolerant_stream(text_to(2))
    assert tolerant_stream(once) is once
    silent = tolerant_stream(None)
    print("x", file=silent)
    silent.close()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = "from benchmark.system import streams; streams.tolerate_closed_streams(); print('x')"
    code += "; open('f', 'w').write('sound')"
    closed = f"exec 0<&- 1>&- 2>&-; exec {sys.executable} -c \"{code}; import os; os.write(1, b'noise')\""
    assert subprocess.run(["sh", "-c", closed], cwd=tmp_path, env=ENVIRONMENT).returncode == 0
    assert (tmp_path / "f").read_text() == "sound"


# --- commands ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run whose command had no standard output, input and error."""
    folder = tmp_path_factory.mktemp("streams") / "run"
    words = " ".join([f"'{word}'" for word in [*SHELF, "strategies=[random,in_order]", f"out={folder}"]])
    line = f"{sys.executable} -m benchmark {words} 0<&- 1>&- 2>&-"
    assert subprocess.run(["sh", "-c", line], env=ENVIRONMENT).returncode == 0
    return folder


def test_a_run_without_any_stream_is_recorded_whole(recorded: Path) -> None:
    assert [content.count(b"\n") for content in bytes_of(recorded).values()] == [6, 6]
    assert list((recorded / "tables").rglob("*.csv"))


@pytest.mark.parametrize("words", [["status"], ["tables"], ["list", "settings"], ["--help"], ["run", "--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_whose_reader_goes_away_ends_quietly(recorded: Path, words: list[str], unbuffered: str) -> None:
    out = [f"out={recorded}"] * (words[0] in ("status", "tables"))
    environment = ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "benchmark", *words, *out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    assert "Error" not in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_goes_on_without_readers(tmp_path: Path, recorded: Path) -> None:
    words = " ".join([f"'{word}'" for word in [*SHELF, "strategies=[random,in_order]"]])
    start = f"{sys.executable} -m benchmark {words}"
    lines = f"{start} out=a 2>/dev/full | head -1; {start} out=b 2>&1 >/dev/full | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {lines}"], cwd=tmp_path, env=ENVIRONMENT)
    check_stated("standard output or error closed, full or without a reader", done.returncode, "")
    for name in "ab":
        assert bytes_of(tmp_path / name) == bytes_of(recorded)
        assert list((tmp_path / name / "tables").rglob("*.csv"))


# --- terminals --------------------------------------------------------------------------------
def test_a_run_goes_on_when_its_terminal_is_closed(tmp_path: Path, recorded: Path) -> None:
    master, terminal = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    words = [*SHELF, "strategies=[random,in_order,pauses]", f"out={tmp_path / 'run'}"]
    environment = ENVIRONMENT | {"TERM": "xterm-256color"}
    command = [sys.executable, "-m", "benchmark", *words]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen(command, **streams, env=environment, preexec_fn=take_terminal) as process:
        os.close(terminal)
        shown = b""
        while not list(tmp_path.rglob("pauses/seed-0.jsonl")):
            with contextlib.suppress(OSError):
                shown += os.read(master, 4096)
            assert process.poll() is None, shown.decode()
        os.close(master)  # the system sends SIGHUP
    check_stated("terminal closed or connection lost", process.returncode, "")
    contents = bytes_of(tmp_path / "run")
    assert {path: contents[path] for path in bytes_of(recorded)} == bytes_of(recorded)
    assert len(contents) == 3
    assert list((tmp_path / "run" / "tables").rglob("*.csv"))


def test_only_a_block_outlasts_the_terminal_and_who_decided_otherwise_is_obeyed() -> None:
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    with ignore_hangup():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    signal.signal(signal.SIGHUP, lambda *_: None)
    own = signal.getsignal(signal.SIGHUP)
    with ignore_hangup():
        assert signal.getsignal(signal.SIGHUP) is own
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def elsewhere() -> None:
        with ignore_hangup():
            raised.append(signal.getsignal(signal.SIGHUP))

    raised = list[object]()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert raised == [signal.SIG_DFL]


# --- names that are no text -------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "ascii:strict"])
def test_a_failure_whose_text_is_no_text_is_said_and_nothing_else_fails(tmp_path: Path, encoding: str) -> None:
    words = [*SHELF, "strategies=[ends[how=no_utf8],random]", f"out={tmp_path / 'run'}"]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    command = [sys.executable, "-m", "benchmark"]
    done = subprocess.run([*command, *words], env=environment, capture_output=True)
    check_stated("name that is no UTF-8", done.returncode, done.stderr.decode())
    [failure] = (tmp_path / "run" / "failures").rglob("*.txt")
    assert rb"cannot read b\xff.jpg" in failure.read_bytes()
    for verb in (["status"], ["tables"], ["report"]) if encoding == "ascii" else ():
        read = subprocess.run([*command, *verb, f"out={tmp_path / 'run'}"], env=environment, capture_output=True)
        assert (read.returncode, b"Traceback" in read.stderr) == (0, False), read.stderr.decode()


# --- the end ----------------------------------------------------------------------------------
ENDING = """
import sys, threading, time
from benchmark.cli import commands
commands.SHUTDOWN_SECONDS = 0.5
with commands.limit_shutdown():
    threading.Thread(target=time.sleep, args=(100,)).start()
    {}
"""


def test_an_exit_while_things_are_cleaned_up_changes_no_exit_code() -> None:
    ending = ENDING.replace("threading.Thread(target=time.sleep, args=(100,)).start()", "pass")
    for last, code in (("sys.exit(1)", 1), ("", 0)):
        source = f"import atexit, sys; atexit.register(sys.exit, 7)\n{ending.format(last)}"
        assert subprocess.run([sys.executable, "-c", source], env=ENVIRONMENT, capture_output=True).returncode == code


@pytest.mark.parametrize(("last", "code"), [("", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("sys.exit()", 0)])
def test_what_a_plug_in_leaves_running_keeps_no_process(last: str, code: int) -> None:
    command = [sys.executable, "-c", ENDING.format(last)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    if not last:
        check_stated("plug-in leaves a thread running that never ends", done.returncode, done.stderr)
