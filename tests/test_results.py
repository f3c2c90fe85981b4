"""`benchmark.run`, `load` and `published`: the same numbers from Python as from the command line."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from _curves import PLAIN, recorded
from matplotlib.figure import Figure
from test_house_rules import ROOT, WITHOUT_TORCH

import benchmark
from benchmark.analysis.rounds_csv import COLUMNS
from benchmark.results import Results
from benchmark.runner.from_python import format_settings
from benchmark.text import notation

CIFAR = "isal_2021_cifar10"
Command = Callable[..., tuple[int, str]]
SMALL = {"tasks": ["digits[epochs=1]"], "strategies": ["random", "margin"], "seeds": 2, "rounds": 2, "device": "cpu"}


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("made") / "out"
    return benchmark.run(out=folder, **SMALL), folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    recorded(tmp_path / "plain", PLAIN)
    return tmp_path / "plain"


# --- run --------------------------------------------------------------------------------------
def test_run_records_two_strategies_and_the_frame_is_the_csv_of_the_command_line(
    recorded_run: tuple[Results, Path], command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, folder = recorded_run
    frame = results.frame()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 2 * 2 * 2
    assert not results.failures
    pd.testing.assert_frame_equal(pd.read_csv(folder / "rounds.csv"), frame)
    words = ["tasks=[digits[epochs=1]]", "strategies=[random,margin]", "seeds=2", "rounds=2", "device=cpu"]
    typed = tmp_path / "typed"
    assert command("run", *words, f"out={typed}")[0] == 0
    capsys.readouterr()
    own, theirs = frame, pd.read_csv(typed / "rounds.csv")
    seconds = [name for name in COLUMNS if name.endswith("seconds")]
    pd.testing.assert_frame_equal(theirs.drop(columns=seconds), own.drop(columns=seconds))
    tables = [pd.read_csv(next(place.glob("tables/digits*.csv"))) for place in (folder, typed)]
    pd.testing.assert_frame_equal(*tables)
    pd.testing.assert_frame_equal(tables[0], results.table())


def test_run_says_what_was_typed_instead(recorded_run: tuple[Results, Path]) -> None:
    """The manifest has the command that does the same."""
    run = json.loads((recorded_run[1] / "grid.json").read_text())["runs"][-1]
    assert "'tasks=[digits[epochs=1]]' 'strategies=[random,margin]' seeds=2" in run["command"]


def test_run_prints_nothing_and_its_remarks_are_logged(
    recorded_run: tuple[Results, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "benchmark"):
        again = benchmark.run(out=recorded_run[1], **SMALL)
    assert capfd.readouterr() == ("", "")
    assert "4 cells, 0 to do" in caplog.text
    pd.testing.assert_frame_equal(again.frame(), recorded_run[0].frame())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": ["digit"]}, "no task, and no experiment of grid=quick, is called .*digit"),
        ({"grid": "quik"}, "no grid is called .*quik"),
        ({"stragetis": ["random"]}, "is called .*stragetis"),
        ({"rounds": 0}, "rounds=0"),
        ({"strategies": [{"isal": {"k": 2}}]}, "give text, a number, or a list of them"),
        ({"format": "json"}, "format= has no effect in Python"),
        ({"dry_run": True}, "dry_run= has no effect in Python"),
        ({"sets": 30}, "variance sets=N"),
        ({"device": "gpu"}, "device=gpu: use auto, cpu, cuda or cuda:N"),
    ],
)
def test_errors_of_users_are_value_errors(settings: dict[str, object], words: str, tmp_path: Path) -> None:
    small: dict[str, object] = {**SMALL, "out": tmp_path, **settings}
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        benchmark.run(**small)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_cell_that_fails_is_a_warning_and_stands_in_the_results(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from benchmark.api import register\n\n@register(version=1)\n"
        "def breaks(view, budget, rng):\n    '''Breaks.'''\n    raise RuntimeError('as it should')\n"
    )
    settings = {**SMALL, "strategies": ["random", "breaks"], "seeds": 1}
    with pytest.warns(UserWarning, match="breaks seed 0: RuntimeError: as it should; 1 cell failed"):
        results = benchmark.run(out=tmp_path / "out", plugins=tmp_path, **settings)  # type: ignore[arg-type]
    assert "as it should" in results.failures[0]
    assert set(results.frame()["strategy"]) == {"random", "breaks"}  # its round 0 is there


@pytest.mark.parametrize(
    "text", ["random", "isal[k=2,order=file]", "a,b", "", " x", 'x"y', "'x", "tiny[root=a b]", "x]", "back\\slash"]
)
def test_lists_are_words_that_are_read_again(text: str) -> None:
    assert notation.parse_list(notation.format_list([text, "last"])) == [text, "last"]


def test_settings_are_words() -> None:
    given = {"tasks": ["a[b=c,d]", "e,f"], "seeds": [3, 7], "deterministic": True, "out": Path("x"), "data": None}
    assert format_settings(given) == ['tasks=[a[b=c,d],"e,f"]', "seeds=[3,7]", "deterministic=true", "out=x"]


# --- what results answer ----------------------------------------------------------------------
def test_savings_and_comparisons_are_those_of_the_command_line(
    plain: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    results = benchmark.load(plain)
    printed = typed(command, capsys, "savings", f"out={plain}", "strategy=mine", "against=random", "at=62")
    pd.testing.assert_frame_equal(results.savings("mine", against="random", at=62), pd.DataFrame(printed))
    printed = typed(command, capsys, "compare", "mine", "random", f"out={plain}")
    compared = results.compare("mine", "random")
    theirs = pd.DataFrame(printed).fillna(float("nan")).infer_objects()
    pd.testing.assert_frame_equal(compared.fillna(float("nan")), theirs, check_dtype=False, atol=1e-9, rtol=0)
    printed = typed(command, capsys, "verify", f"out={plain}", code=None)
    assert results.audit().to_dict("records") == printed[0]["faults"]


def typed(command: Command, capsys: pytest.CaptureFixture[str], *words: str, code: int | None = 0) -> list[dict]:
    """What a command prints as JSON."""
    from benchmark.cli import commands

    given = [*words, "format=json"]
    ended = 0
    sys.argv, before = ["benchmark", *given], sys.argv
    try:
        commands.main()
    except SystemExit as error:
        ended = int(error.code or 0)
    finally:
        sys.argv = before
    assert code is None or ended == code
    return json.loads(capsys.readouterr().out)


def test_what_does_not_fit_is_a_value_error(plain: Path) -> None:
    results = benchmark.load(plain)
    for ask, words in (
        (lambda: results.savings("mine", cost="euros"), "cost=euros"),
        (lambda: results.savings("mine", agianst="random"), "no option of savings is called .*agianst"),
        (lambda: results.compare("mine", "nobody"), "no strategy 'nobody'"),
        (lambda: results.compare("mine", "mine"), "two strategies"),
        (lambda: results.plot("nothing"), "nothing"),
        (lambda: results.plot(axis="boxes"), "nothing to draw over boxes"),
        (lambda: benchmark.published().plot(), "plot takes one experiment"),
        (lambda: benchmark.load(), "load takes"),
        (lambda: benchmark.load(plain / "nowhere"), "nowhere"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_a_curve_is_plotted_and_a_page_written(plain: Path, tmp_path: Path) -> None:
    results = benchmark.load(plain)
    figure = results.plot("made_up")
    assert isinstance(figure, Figure)
    assert len(figure.axes[0].get_lines()) >= 3
    page = results.report(tmp_path / "page")
    assert page == tmp_path / "page" / "report.html"
    assert "made_up" in page.read_text()
    assert f"records=[{plain}]" in page.read_text()
    assert "| mine |" in str(results)
    assert "made_up" in repr(results)


def test_boxes_and_papers_have_their_columns(tmp_path: Path) -> None:
    recorded(tmp_path, PLAIN, boxes=[10, 20.5, 30])
    assert list(benchmark.load(tmp_path).frame()["boxes"][:3]) == [10, 20.5, 30]
    papers = benchmark.published()
    frame = papers.frame()
    assert frame["seed"].isna().all()
    assert frame["value"].notna().all()
    assert len(frame[frame["experiment"] == "isal_2021_cifar10"]) == len(
        papers.table("isal_2021_cifar10").dropna(subset=["value"])
    )


def test_tables_write_the_frame_of_several_folders_and_of_papers_beside_runs(tmp_path: Path, command: Command) -> None:
    recorded(tmp_path / "a", {name: {0: runs[0]} for name, runs in PLAIN.items()})
    recorded(tmp_path / "b", {name: {1: runs[1]} for name, runs in PLAIN.items()})
    for places in ((tmp_path / "a", tmp_path / "b"), ("published", tmp_path / "a")):
        to = tmp_path / f"to {places[0]!s:.1}"
        assert command("tables", f"records={','.join(map(str, places))}", f"to={to}")[0] == 0
        pd.testing.assert_frame_equal(pd.read_csv(to / "rounds.csv"), benchmark.load(*places).frame())


# --- what is imported -------------------------------------------------------------------------
def test_the_import_takes_no_time_and_no_torch() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import benchmark; took = time.perf_counter() - began\n"
        "assert took < 0.2, took\n"
        "assert not {'torch', 'pandas', 'numpy', 'hydra'} & {*sys.modules}\n"
        "from benchmark.runner import machine; assert callable(benchmark.run)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_papers_are_read_tabulated_compared_and_reported_without_torch(tmp_path: Path, plain: Path) -> None:
    code = (
        f"import sys, benchmark\npapers = benchmark.load('published', task={CIFAR!r})\n"
        f"ours = benchmark.load({str(plain)!r})\n"
        "print(len(papers.frame()), len(papers.table()), len(papers.savings('isal', against='random')))\n"
        "ours.compare('mine', 'random'), papers.audit(), papers.plot(), papers.report('page')\n"
        "from benchmark.cli.commands import main\n"
        "def typed(*words):\n    sys.argv = ['benchmark', *words]\n"
        "    try: main()\n    except SystemExit as error: print(words[0], error.code)\n"
        f"papers = 'records=published', 'task={CIFAR}'\n"
        "typed('tables', *papers), typed('savings', *papers, 'strategy=isal'), typed('report', *papers, 'to=typed')\n"
        f"typed('compare', 'mine', 'random', 'records={plain}'), typed('verify', 'records={plain}')\n"
        "typed('list', 'grids'), typed('list', 'published'), typed('run'), typed('list', 'strategies')"
    )
    done = python(WITHOUT_TORCH + code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    codes = ["tables 0", "savings 0", "report 0", "compare 0", "verify [01]", "list 0", "list 0", "run 2", "list 2"]
    assert re.search("(?s)" + r"\n.*".join(codes), done.stdout), done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 2
    assert all("pip install 'al-benchmark[train]'" in line for line in lines)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks[0].strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    assert (tmp_path / "curves.png").stat().st_size
    assert (tmp_path / "page" / "report.html").is_file()
    public = [name for name, what in vars(Results).items() if callable(what) and not name.startswith("_")]
    assert [name for name in public if name != "select" and f".{name}(" not in "".join(blocks)] == []
