"""`rounds` may be raised where there are records: cells go on, with the same bytes as a run with as many rounds at
once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from _cells import FAULTY, bytes_of
from typer.testing import CliRunner

from benchmark import config
from benchmark.analysis.load_experiments import read_experiments
from benchmark.cli.commands import app
from benchmark.plugins import registry
from benchmark.records.store import Store
from benchmark.runner import record_checks

Command = Callable[..., tuple[int, str]]
GRID = ["strategies=[random,in_order]", "seeds=2", "initial=20", "budget=5", "validation=10", "device=cpu"]
DIGITS = ["tasks=[digits[epochs=1]]", *GRID[1:], "strategies=[margin,learning_loss,isal[depth=2,repeats=1]]", "seeds=1"]
BOXES = ["tasks=[shelf]", "budget_in=boxes"]


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    """Runs GRID on the task shelf in a folder."""

    def ran(folder: str, rounds: int, *more: str) -> tuple[int, str]:
        words = [*GRID, *("tasks=[shelf]" for _ in [0] if not any(word.startswith("tasks") for word in more)), *more]
        last = {word.partition("=")[0]: word for word in words}  # the last word on a setting counts
        return command("run", *last.values(), f"rounds={rounds}", f"plugins={FAULTY}", f"out={tmp_path / folder}")

    return ran


@pytest.mark.parametrize(
    "more", [[], ["until=map 0.99 +- 0"], DIGITS, BOXES], ids=["images", "until", "digits", "boxes"]
)
def test_more_rounds_are_those_of_a_run_with_as_many_at_once(run: Command, tmp_path: Path, more: list[str]) -> None:
    assert run("whole", 4, *more)[0] == 0
    assert run("grown", 2, *more)[0] == 0
    before = bytes_of(tmp_path / "grown")
    shutil.rmtree(tmp_path / "grown" / ".fits")
    code, said = run("grown", 4, *more)
    assert code == 0
    num = len(before)
    assert f"{num} cells go on from their records of 20+5{'boxes' * (more == BOXES)}x1v10" in said
    assert f"{num} cells, {num} to do, {2 * num} rounds" in said
    after = bytes_of(tmp_path / "grown")
    assert {name: after[name] for name in before} == before  # nothing is taken away
    assert {name: text for name, text in after.items() if name not in before} == bytes_of(tmp_path / "whole")
    [experiment] = read_experiments(str(tmp_path / "grown"))
    assert [len(each.records) for each in experiment.runs] == [4] * num
    assert all(len(each.measurements) == 4 for each in experiment.runs)
    assert f"{num} cells, 0 to do" in run("grown", 4, *more)[1]


def test_a_dry_run_counts_what_is_taken_over_and_changes_nothing(run: Command, tmp_path: Path) -> None:
    assert run("run", 2)[0] == 0
    before = bytes_of(tmp_path / "run")
    assert "4 cells, 8 rounds" in run("run", 4, "dry_run=true")[1]
    assert bytes_of(tmp_path / "run") == before
    assert CliRunner().invoke(app, ["status", f"out={tmp_path / 'run'}"]).output.count("4/4") == 0


def test_who_is_left_out_keeps_his_rounds_until_he_is_run_too(run: Command, tmp_path: Path) -> None:
    assert run("run", 2)[0] == 0
    assert run("run", 3, "strategies=[random]")[0] == 0
    [experiment] = read_experiments(str(tmp_path / "run"))
    assert {name: curve.num_runs for name, curve in experiment.curves.items()} == {"random": 2, "in_order": 2}
    assert [len(each.records) for each in experiment.runs if each.strategy == "in_order"] == [2, 2]
    assert experiment.curves["in_order"].unfinished_seeds == {0, 1}
    code, said = run("run", 3)
    assert code == 0
    assert "2 cells go on from their records of 20+5x1v10" in said
    [experiment] = read_experiments(str(tmp_path / "run"))
    assert [len(each.records) for each in experiment.runs] == [3] * 4
    assert all("20+5x2v10" in each.path for each in experiment.runs)


@pytest.mark.parametrize(
    ("first", "then"), [([4], [2]), ([2, "one_pass=true"], [4, "one_pass=true"]), ([2], [4, "budget=6"])]
)
def test_what_is_not_more_of_the_same_is_refused(
    run: Command, tmp_path: Path, first: list[object], then: list[object]
) -> None:
    assert run("run", *first)[0] == 0
    before = bytes_of(tmp_path / "run")
    code, said = run("run", *then)
    assert code == 2
    assert ("rounds can be raised, not lowered, and not with one_pass=true" in said) == ("budget=6" not in then)
    assert bytes_of(tmp_path / "run") == before


def test_records_of_another_version_are_not_taken_over(run: Command, tmp_path: Path) -> None:
    assert run("run", 2)[0] == 0
    settings = config.compose_settings(["tasks=[shelf]", *GRID, "rounds=4", f"plugins={FAULTY}"])
    cells, store = config.build_grid(settings).cells(), Store(tmp_path / "run")
    assert len(record_checks.find_shorter_cells(cells, store)) == 4
    plugin = registry.get("strategy", "in_order")
    object.__setattr__(plugin, "version", 7)
    try:
        assert {cell.strategy.name for cell in record_checks.find_shorter_cells(cells, store)} == {"random"}
    finally:
        object.__setattr__(plugin, "version", 1)


def test_the_longest_records_are_taken_over(run: Command, tmp_path: Path) -> None:
    for rounds in (2, 3):
        assert run("run", rounds)[0] == 0
    code, said = run("run", 5)
    assert code == 0
    assert "4 cells go on from their records of 20+5x2v10" in said
    assert "4 to do, 8 rounds" in said
