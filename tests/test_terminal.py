"""Tables can be read in windows of every width and behind a pipe, and no screen's encoding stops them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _curves import PLAIN, recorded
from rich.cells import cell_len
from typer.testing import CliRunner

from benchmark.cli import terminal
from benchmark.cli.commands import app
from benchmark.cli.terminal import Column, lay_out, print_columns, print_rows, split_into_blocks, wrap_line
from benchmark.text.escaping import make_visible
from benchmark.text.words import first_sentence, plural, shorten, shorten_names

LONG = "voc[backbone=resnet18,channels=32,epochs=3,max_size=128,min_size=128,root=steel,test=test,train=trainval]"
WIDTHS = (40, 80, 120, 200)
INTERVAL = re.compile(r"[-+]?[\d.,]+ \[[-+\d.,∞]+, [-+\d.,∞]+\]")


def printed(words: list[str], width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints at that width, or with nobody to read along."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(terminal.out, "_width", None)  # COLUMNS may have been set when the module was imported
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, words)
    assert not done.exception or isinstance(done.exception, SystemExit), done.exception
    return done.stdout


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of many rounds, with a task and a strategy of long names."""
    folder = tmp_path_factory.mktemp("wide")
    rounds = [[50.0 + seed + number / 3 for number in range(12)] for seed in range(3)]
    names = ["random", "discriminative[batch_size=128,epochs=50,lr=0.001,num_queries=2]", "margin"]
    store = recorded(folder, {name: dict(enumerate(rounds)) for name in names}, name=LONG, rounds=12)
    return store.folder


TABLES = [
    ["status"],
    ["tables"],
    ["savings", "strategy=margin"],
    ["compare", "margin", "random"],
    ["verify"],
    ["seconds"],
    ["explain", "margin/seed-0"],
]
LISTS = [["list", what] for what in ("strategies", "tasks", "encoders", "grids", "published")]


@pytest.mark.parametrize("width", [*WIDTHS, None])
@pytest.mark.parametrize("words", [*TABLES, *LISTS], ids=" ".join)
def test_every_command_is_readable_at_every_width(
    words: list[str], width: int | None, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = [] if words[0] == "list" else [f"out={wide}"]
    out += [f"to={tmp_path}"] * (words[0] == "tables")
    lines = printed([*words, *out], width, monkeypatch).splitlines()
    tables = [line for line in lines if line and line[0] in "┏┡└│┃"]
    assert all(cell_len(line) <= (width or 80) for line in tables), max(tables, key=cell_len)
    assert not any(re.search(r"[│┃] ?[│┃]|┳┳|┳━┳", line) for line in tables)  # no column of width 0
    if width is not None:
        commands = ("command ", "python ")
        assert all(cell_len(line) <= width or line.startswith(commands) for line in lines), max(lines, key=cell_len)
    for line in tables:  # no number is broken
        assert line.count("[") == line.count("]") or "=" in line or "list" in words


def test_a_shortened_name_stands_whole_below(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(["status", f"out={wide}"], 80, monkeypatch)
    [row] = [line for line in text.splitlines() if line.startswith("│")]
    short = row.strip("│ ").split()[0]
    assert short.startswith("voc[")
    assert "…" in short
    assert f"{short} =" in text
    assert LONG in re.sub(r"\n\s*", "", text)
    assert "9" in row.split()


def test_many_rounds_go_on_in_blocks_with_all_their_numbers(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(["tables", f"out={wide}", f"to={tmp_path}"], 80, monkeypatch)
    rows = [line for line in text.splitlines() if line.startswith("│ random ")]
    numbers = [number for row in rows for number in re.findall(r"[\d.]+ ± [\d.]+", row)]
    assert numbers == [f"{51 + number / 3:.2f} ± 1.00" for number in range(12)]
    starts = {row.index("│", 1) for row in rows}
    assert len(starts) == 1  # names are as wide in every block


def test_deviations_go_below_their_means_where_that_makes_one_block() -> None:
    columns = [Column("strategy", ["random"], True), *(Column(str(n), ["84.87 ± 4.28"]) for n in range(5))]
    [block] = lay_out(columns, 80)
    assert block[1][0].cells == ["84.87\n± 4.28"]
    assert [len(block_columns) for block_columns in lay_out(columns, 200)] == [6]
    assert lay_out(columns, 200)[0][1][0].cells == ["84.87 ± 4.28"]


def test_a_mean_above_its_deviation_is_not_shortened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100.00 is as wide as ± 0.00: what is folded is measured line by line."""
    monkeypatch.setattr(terminal.out, "_width", 80)
    print_columns("t", [Column("strategy", ["random"], True), *(Column(str(n), ["100.00 ± 0.00"]) for n in range(6))])
    text = capsys.readouterr().out
    assert text.count("100.00") == 6
    assert "…" not in text


def test_columns_of_every_kind_keep_what_they_need() -> None:
    name, number = Column("strategy", [LONG], True), Column("final", ["+2.60 [+0.43, +4.77]", "not reached"])
    assert number.is_number
    assert not Column("where", ["made/random/seed-0", LONG]).is_number
    assert not Column("strategy", ["2d", "3d"], True).is_number
    for width in WIDTHS:
        for block in split_into_blocks(
            [name, number, Column("why", ["because of a sentence that is long " * 3])], width
        ):
            assert sum(taken + 3 for _, taken in block) + 1 <= width
            assert block[0][0] is name
    sizes = dict(zip(["name", "number"], [taken for _, taken in split_into_blocks([name, number], 80)[0]], strict=True))
    assert sizes == {"name": 53, "number": 20}


def test_a_number_that_is_wider_than_the_window_wraps_between_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("strategy", [LONG], True), Column("saved", ["1,234,567 [-1,234,567, +1,234,567]"])]
    for block in split_into_blocks(columns, 40):
        assert sum(taken + 3 for _, taken in block) + 1 <= 40
    print_columns("t", columns)
    assert "1,234,567" in capsys.readouterr().out


def test_titles_and_notes_break_between_words() -> None:
    assert wrap_line("one two three", 8) == ["one two", "three"]
    assert max(map(len, wrap_line(f"{LONG}: map", 40))) <= 40
    assert all(line.endswith((",", "[")) for line in wrap_line(LONG, 40)[:-1])
    assert wrap_line("", 40) == [""]
    assert wrap_line("seed: of each run", 12, 2) == ["seed: of", "  each run"]


def test_an_interval_stays_on_one_line() -> None:
    line = "at the end: saves 16 [-69, 54] images, 11.0 [-70.5, 31.7] % of them"
    for width in range(20, 70):
        text = "\n".join(wrap_line(line, width))
        assert "16 [-69, 54]" in text
        assert "11.0 [-70.5, 31.7] %" in text


def test_small_numbers_are_short_and_sentences_that_nobody_wrote_take_no_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows: list[dict[str, object]] = [{"of": "a", "name": name, "hours": 4.5e-07, "why": ""} for name in ("x", "y")]
    print_rows("to do", rows, group_by=["of"], note="hours: so many")
    text = capsys.readouterr().out
    assert "a: to do" in text
    assert "< 0.001" in text
    assert "why" not in text
    assert "hours: so many" in text
    print_rows("to do", rows, "json")
    assert json.loads(capsys.readouterr().out) == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One thing. Another.", "One thing."),
        ("It goes\n    on here.\n\nMore.", "It goes on here."),
        ("AP is in 0.22 +- 0.003. torchvision's own.", "AP is in 0.22 +- 0.003. torchvision's own."),
        ("Whose (Liu et al., 2021) it is. So", "Whose (Liu et al., 2021) it is."),
        ("", ""),
    ],
)
def test_lists_tell_the_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_names_that_would_look_alike_are_numbered() -> None:
    names = [f"a_name_that_is_long[k={k},and_ends_alike=true]" for k in (1, 2)]
    assert shorten_names(names, 16) == ["a_name_…1…=true]", "a_name_…2…=true]"]
    assert shorten_names([names[0]] * 2, 16) == ["a_name_t…e=true]"] * 2
    assert shorten("猫" * 10, 9) == "猫猫…猫猫"
    assert [cell_len(shorten(LONG, width)) for width in range(1, 40)] == list(range(1, 40))


def test_counts_agree_with_their_nouns() -> None:
    counts = [plural(0, "cell"), plural(1, "cell"), plural(1200, "cell"), plural(2, "batch", "batches")]
    assert counts == ["0 cells", "1 cell", "1,200 cells", "2 batches"]


def test_json_is_not_laid_out(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = json.loads(printed(["status", f"out={wide}", "format=json"], 40, monkeypatch))
    assert row["experiment"] == LONG


# --- encodings --------------------------------------------------------------------------------
def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *words, f"out={folder}"], capture_output=True, env=os.environ | environment
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gb18030", "cp1252"])
def test_a_screen_that_lacks_a_character_gets_another(encoding: str, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", {**PLAIN, "long_" * 30: PLAIN["mine"]}).folder
    done = command(folder, "tables", PYTHONIOENCODING=f"{encoding}:strict", COLUMNS="80")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    text = done.stdout.decode(encoding)
    assert "66.00" in text
    assert "Traceback" not in done.stderr.decode(encoding)
    assert ("±" in text) == (encoding != "ascii")
    assert ("±" in text) or "66.00 +- 1.00" in text or "+- 1.00" in text


def test_names_that_are_no_text_can_be_shown() -> None:
    assert make_visible("caf\udce9") == r"caf\xe9"
    assert make_visible(os.fsdecode("猫".encode())) == "猫"
    assert make_visible("\ud800") == r"\ud800"


@pytest.fixture
def latin(tmp_path: Path) -> dict[str, str]:
    """The environment of a locale whose encoding is not UTF-8."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef here")
    place = tmp_path / "locales" / "zz.ISO-8859-1"
    place.parent.mkdir()
    subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(place)], capture_output=True)
    if not place.exists():
        pytest.skip("no sources of locales here")
    return {"LOCPATH": str(place.parent), "LC_ALL": "zz.ISO-8859-1"}


def test_files_are_utf8_whatever_the_locale(latin: dict[str, str], tmp_path: Path) -> None:
    probe = "import locale; print(locale.getencoding())"
    probed = subprocess.run([sys.executable, "-c", probe], capture_output=True, env=os.environ | latin)
    assert probed.stdout.strip().upper() == b"ISO-8859-1"
    folder = recorded(tmp_path / "run", PLAIN).folder
    done = command(folder, "tables", **latin)
    assert done.returncode == 0, done.stderr
    assert "66.00 ± 1.00" in (folder / "tables" / "tables.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_report_is_utf8_whatever_the_locale(latin: dict[str, str], tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", PLAIN).folder
    done = command(folder, "report", **latin)
    assert done.returncode == 0, done.stderr
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'charset="utf-8"' in page
    assert "66.00 ± 1.00" in page


def test_the_handler_leaves_what_it_cannot_mend() -> None:
    with pytest.raises(UnicodeDecodeError):
        terminal.replace_unencodable(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"))
