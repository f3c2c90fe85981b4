"""The files that images come from: stored beside records, named when one changed, shown by explain and the report."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _cells import bytes_of
from PIL import Image

from benchmark.analysis import explain
from benchmark.analysis.load_experiments import read_experiments
from benchmark.records.image_file_list import Sources
from benchmark.records.store import Store

Command = Callable[..., tuple[int, str]]
TASK = "image_folder[epochs=1,model=small_cnn,precision=float32,root=own,size=8]"
WORDS = [
    f"tasks=[{TASK}]",
    "strategies=[random,margin]",
    "initial=4",
    "budget=3",
    "rounds=2",
    "validation=0",
    "seeds=1",
]


def photograph(path: Path, number: int) -> None:
    """Returns an image that differs from those of other numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)).save(path)


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    """Runs WORDS on 12 photographs of two classes."""
    for number in range(16):
        part = "train" if number < 12 else "test"
        photograph(tmp_path / "own" / part / "ab"[number % 2] / f"{number:02}.png", number)
    return lambda *more: command("run", *WORDS, "device=cpu", f"data={tmp_path}", f"out={tmp_path / 'run'}", *more)


def test_a_run_writes_down_the_files_and_the_analysis_names_them(
    run: Command,
    command: Command,
    tmp_path: Path,
) -> None:
    assert run()[0] == 0
    [path] = (tmp_path / "run" / "data").iterdir()
    content = json.loads(path.read_text())
    assert sorted(content) == ["data", "files", "remarks"]
    assert [name for name, _ in content["files"]["test"]] == [f"test/{'ab'[n % 2]}/{n}.png" for n in (12, 14, 13, 15)]
    [experiment] = read_experiments(str(tmp_path / "run"))
    names = experiment.file_names(experiment.runs[0])
    assert names == [f"train/{'ab'[n % 2]}/{n:02}.png" for n in (*range(0, 12, 2), *range(1, 12, 2))]
    lines = list(explain.describe_run(experiment, experiment.runs[0]))
    first = experiment.runs[0].records[0].bought
    assert f"          files  {' '.join(names[index] for index in first)}" in lines
    before = path.stat().st_mtime_ns
    assert run("seeds=2")[0] == 0
    assert path.stat().st_mtime_ns == before
    assert command("report", f"out={tmp_path / 'run'}")[0] == 0
    bought = experiment.runs[1].records[1].bought
    assert f"round 1: {', '.join(names[index] for index in bought)}" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("change", ["another", "more", "less", "a label"])
def test_a_changed_file_is_named_and_its_records_are_not_lost(run: Command, tmp_path: Path, change: str) -> None:
    assert run()[0] == 0
    before, photographs = bytes_of(tmp_path / "run"), tmp_path / "own" / "train" / "a"
    words = {
        "another": "train/a/02.png is another image now",
        "more": "train/a/99.png is new",
        "less": "train/a/02.png is gone",
        "a label": "train/b/02.png is new, train/a/02.png is gone",
    }[change]
    if change in ("another", "more"):
        photograph(photographs / ("02.png" if change == "another" else "99.png"), 99)
    elif change == "less":
        (photographs / "02.png").unlink()
    else:
        (photographs / "02.png").rename(tmp_path / "own" / "train" / "b" / "02.png")
    for more in ([], ["dry_run=true"]):
        code, said = run("seeds=[1]", *more)
        assert code == 2
        assert words in said
        assert "was written with other data" in said
        assert "the same command" not in said
    assert bytes_of(tmp_path / "run") == before
    assert run("seeds=[1]", "rerun_changed=true")[0] == 0
    assert bytes_of(tmp_path / "run" / "set_aside" / "1") == before
    stores = [Store(folder) for folder in (tmp_path / "run", tmp_path / "run" / "set_aside" / "1")]
    now, then = (store.sources(TASK) for store in stores)
    assert now is not None
    assert then is not None
    assert then.describe_changes(now) == words


def test_what_was_set_aside_is_not_taken_over_by_more_rounds(run: Command, tmp_path: Path) -> None:
    for rounds in ("rounds=2", "rounds=3"):
        assert run(rounds)[0] == 0
    photograph(tmp_path / "own" / "train" / "a" / "02.png", 99)
    code, said = run("rounds=3", "rerun_changed=true")
    assert code == 0, said
    assert "2 cells of other versions, data or weights" in said
    assert "2 to do, 6 rounds" in said
    assert {name.split("/")[1] for name in bytes_of(tmp_path / "run" / "set_aside" / "1")} == {"4+3x2"}
    assert len(read_experiments(str(tmp_path / "run" / "set_aside" / "1"))[0].runs) == 2
    assert len(read_experiments(str(tmp_path / "run"))[0].runs) == 2


def test_what_is_recorded_is_not_told_by_images_of_today(run: Command, tmp_path: Path) -> None:
    assert run()[0] == 0
    (tmp_path / "run" / "gallery").rename(tmp_path / "gone")
    sources = next((tmp_path / "run" / "data").iterdir())
    before = sources.read_bytes()
    photograph(tmp_path / "own" / "train" / "a" / "02.png", 99)
    code, said = run()
    assert code == 0  # all of it is recorded
    assert "no images in the report: the records were made with other data than there are now" in said
    assert sources.read_bytes() == before
    assert not (tmp_path / "run" / "gallery").exists()


def test_what_changed_is_told_in_a_line() -> None:
    def sources(*names: str) -> Sources:
        return Sources("d", {"pool": [(name, name) for name in names], "test": []})

    assert (
        sources("a").describe_changes(sources("a"))
        == "no image changed, but the labels, their order or what is read of them did"
    )
    changes = sources("a").describe_changes(sources(*"bcdef"))
    assert changes == "b is new, c is new, d is new, 3 more"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": "d", "files": [], "remarks": []}', '{"data"'])
def test_a_file_that_tells_no_sources_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.json does not list the files that the images come from"):
        Sources.read(text, "x.json")
