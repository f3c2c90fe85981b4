"""`seeds=auto`: a run continues until its comparisons are decided or given up, even after interruptions."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _cells import FAULTY, bytes_of
from typer.testing import CliRunner

from benchmark.cli.commands import app

SHELF = [
    "tasks=[shelf]", "strategies=[random,in_order,scattered]", "seeds=auto", "max_seeds=12", "initial=20", "budget=5",
    "rounds=3", "validation=0", f"plugins={FAULTY}", "device=cpu",
]  # fmt: skip


def invoke(*words: str, code: int = 0) -> str:
    """Runs a command and returns its output."""
    result = CliRunner().invoke(app, [*words])
    refused = code == 2 and isinstance(result.exception, ValueError)
    assert result.exit_code == code or refused, (result.output, result.exception)
    return result.output + (str(result.exception) if code == 2 else "")


def cells(folder: Path) -> dict[str, int]:
    """The number of cells by strategy in the manifest; all of them are recorded."""
    [experiment] = json.loads((folder / "grid.json").read_text())["experiments"]
    names = [cell["strategy"] for cell in experiment["cells"]]
    assert len(bytes_of(folder)) == len(names)
    return {name: names.count(name) for name in names}


def test_a_run_stops_when_all_is_decided_or_given_up(tmp_path: Path) -> None:
    output = invoke("run", *SHELF, f"out={tmp_path}")
    look_lines = [line for line in output.splitlines() if line.startswith("shelf: ")]
    assert "open, next look at 10 seeds: " in look_lines[0]
    assert "open" not in look_lines[-1]
    num_cells = cells(tmp_path)
    assert num_cells["random"] == max(
        num_cells["in_order"], num_cells["scattered"]
    )  # the reference has as many seeds as any other strategy
    assert set(num_cells.values()) <= {8, 10, 12}
    output = invoke("run", *SHELF, f"out={tmp_path}")
    assert f"{sum(num_cells.values())} cells, 0 to do" in output


def test_tables_compare_and_status_show_the_look(tmp_path: Path) -> None:
    invoke("run", *SHELF, f"out={tmp_path}")
    status = next(line for line in invoke("status", f"out={tmp_path}").splitlines() if line.startswith("shelf: "))
    [word, number] = re.findall(r"(better|worse|given up|undecided)[^:]*: scattered \((\d+) seeds\)", status)[0]
    answer = invoke("compare", "scattered", "random", f"out={tmp_path}").splitlines()[-1]
    assert re.match(rf"scattered (is {word} than|against) random", answer)
    assert word in answer
    assert f"{number} seeds" in answer
    rows = (tmp_path / "tables" / "comparisons" / "shelf.csv").read_text().splitlines()
    assert rows[0].endswith(",verdict,look")
    assert any(row.endswith(f",{word},{number}") for row in rows)


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    invoke("run", *SHELF, f"out={tmp_path / 'whole'}")
    for _ in range(3):
        invoke("run", *SHELF, f"out={tmp_path / 'parts'}", "gpu_hours=1e-7", code=1)
    status = invoke("status", f"out={tmp_path / 'parts'}")
    assert re.search(r"open, next look at 8 seeds: .*; it takes \d+ runs", status)
    invoke("run", *SHELF, f"out={tmp_path / 'parts'}")
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "parts")
    assert cells(tmp_path / "whole") == cells(tmp_path / "parts")


@pytest.mark.parametrize("word", ["max_seeds=20", "level=0.9", "reference=in_order", "seeds=12"])
def test_rules_do_not_change_after_the_first_look(tmp_path: Path, word: str) -> None:
    invoke("run", *SHELF, f"out={tmp_path}")
    before = bytes_of(tmp_path)
    output = invoke("run", *SHELF, f"out={tmp_path}", word, code=2)
    assert "cannot change once there are records" in output
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategies=[random]"], "there is only one strategy"),
        (["reference=isal"], "reference=isal: not among the strategies random, in_order, scattered"),
        (["level=0.05"], "0.95 bounds the error at 0.05"),
        (["max_seeds=7"], "max_seeds=7: must be from 8"),
        (["seeds=often"], "seeds=often: "),
    ],
)
def test_wrong_settings_are_refused_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    output = invoke("run", *SHELF, f"out={tmp_path}", *words, code=2)
    assert message in output
    assert not (tmp_path / "grid.json").exists()


def test_strategies_that_are_not_comparable_take_no_more_seeds(tmp_path: Path) -> None:
    output = invoke("run", *SHELF, f"out={tmp_path}", "strategies=[random,box_count]")  # box_count pays for no box
    assert "not comparable: box_count (8 seeds)" in output
    assert cells(tmp_path) == {"random": 8, "box_count": 8}


def test_a_cell_that_fails_leaves_its_comparison_open(tmp_path: Path) -> None:
    words = [*SHELF, f"out={tmp_path}", "strategies=[random,crash]"]
    output = invoke("run", *words, code=1)
    assert "open, next look at 8 seeds: crash" in output
    assert "failed: shelf" in output


@pytest.mark.slow
@pytest.mark.parametrize("word", ["jobs=2", "launcher=ray"])
def test_cells_side_by_side_write_the_same_bytes(word: str, tmp_path: Path) -> None:
    if word == "launcher=ray":
        pytest.importorskip("ray")
    command = [sys.executable, "-m", "benchmark", "run", *SHELF]
    for out, words in (("alone", []), ("parallel", [word])):
        subprocess.run([*command, f"out={tmp_path / out}", *words], check=True, timeout=600)
    assert bytes_of(tmp_path / "alone") == bytes_of(tmp_path / "parallel")


@pytest.mark.slow
def test_a_run_on_digits_stops_by_itself_killed_or_not(tmp_path: Path) -> None:
    words = [
        "tasks=[digits[epochs=10]]", "strategies=[random,margin]", "seeds=auto", "initial=20", "budget=20", "rounds=3",
        "validation=0", "device=cpu", "threads=1",
    ]  # fmt: skip
    command, rng = [sys.executable, "-m", "benchmark", "run", *words], random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([*command, f"out={tmp_path / 'killed'}"], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 10))
        process.send_signal(signal.SIGKILL)
        process.wait()
    for name in ("killed", "whole"):
        result = subprocess.run([*command, f"out={tmp_path / name}"], capture_output=True, text=True, timeout=900)
        assert result.returncode == 0
    print(result.stderr.splitlines()[-1])
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert cells(tmp_path / "killed") == cells(tmp_path / "whole")
