"""What analysis writes: nothing beside records that are only read, and a part never takes the place of the whole."""

import shutil
from pathlib import Path

import pytest
from _curves import PLAIN, recorded
from typer.testing import CliRunner, Result

from benchmark.cli.commands import app

PUBLISHED = Path(__file__).parent.parent / "results" / "published"
READING = [
    "tables",
    "savings task=isal_2021_voc2012_fcos strategy=isal against=random",
    "compare isal random",
    "verify",
]


def command(words: str, *more: str) -> Result:
    """A command, run here."""
    return CliRunner().invoke(app, [*words.split(), *more])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", READING)
def test_what_is_read_with_records_is_left_as_it_is(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PUBLISHED, tmp_path / "papers")
    recorded(tmp_path / "a", {"random": {0: [50.0, 60.0]}})
    before = contents(tmp_path)
    for records in ("papers/isal_2021.csv", "papers", "papers,a", "published"):
        done = command(words, f"records={records}")
        assert done.exit_code in (0, 1), done.output
    assert contents(tmp_path) == before


def test_tables_of_records_say_how_they_are_written(tmp_path: Path) -> None:
    done = command("tables records=published task=isal_2021_voc2012_fcos")
    assert "no files are written: add to=FOLDER to write these tables" in done.stderr
    done = command("tables records=published task=isal_2021_voc2012_fcos", f"to={tmp_path / 'to'}")
    assert f"tables written to {tmp_path / 'to' / 'tables'}" in done.stderr
    assert "isal_2021_voc2012_fcos.md" in {path.name for path in (tmp_path / "to" / "tables").iterdir()}


def test_a_report_of_records_asks_where_it_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("report records=published")
    assert isinstance(done.exception, ValueError)
    assert (
        str(done.exception) == "records=published: add to=FOLDER, the folder that the page and figures are written to"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["out", "to"])
def test_a_part_never_takes_the_place_of_the_whole(place: str, tmp_path: Path) -> None:
    five = {name: {seed: PLAIN[name][seed % 3] for seed in range(5)} for name in ("random", "mine")}
    for name in ("one", "two"):
        recorded(tmp_path / name, five, name=name)
    records = f"records={tmp_path / 'one'},{tmp_path / 'two'}" if place == "to" else f"out={tmp_path / 'one'}"
    words = [records, *([f"to={tmp_path / 'to'}"] * (place == "to"))]
    for verb in ("tables", "report"):
        done = command(verb, *words)
        assert done.exit_code == 0, done.output
    folder = tmp_path / ("to" if place == "to" else "one")
    before = contents(folder)
    assert {"tables/tables.md", "report.html", "figures/penalties.svg"} <= before.keys()
    for verb in ("tables", "report"):
        assert command(verb, *words, "task=one").exit_code == 0
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"report-one.html", "figures-one"}


def test_comparisons_that_there_are_no_more_leave_no_file(tmp_path: Path) -> None:
    """A file of an earlier rule, or of strategies that no longer pair, would say what the tables do not."""
    recorded(tmp_path, PLAIN)
    command("tables", f"out={tmp_path}")
    folder = tmp_path / "tables" / "comparisons"
    assert {path.name for path in folder.iterdir()} == {"made_up.csv", "made_up-rounds.csv"}
    shutil.rmtree(tmp_path / "cells")
    shutil.rmtree(tmp_path / "measured")
    recorded(tmp_path, {"random": PLAIN["random"]})
    command("tables", f"out={tmp_path}")
    assert not list(folder.iterdir())
