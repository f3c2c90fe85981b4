"""Help, `--version` and which settings a command takes: all from the one definition of each setting."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmark.cli.command_names import VERBS, settings_of
from benchmark.cli.commands import app, main
from tools.readme import render_page

ROOT = Path(__file__).parent.parent


def test_the_help_of_every_command_shows_each_of_its_settings_with_type_default_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for verb in VERBS:
        monkeypatch.setattr(sys, "argv", ["benchmark", verb, "--help"])
        with pytest.raises(SystemExit):
            main()
        text = capsys.readouterr().out
        lines = [line for line in text.splitlines() if line.startswith("│")]
        assert all(len(line) == 80 for line in lines)
        words = " ".join(" ".join(line.strip("│ ").split()) for line in lines)
        for setting in settings_of(verb):
            assert setting.meaning
            assert f"{setting.name} {setting.type} {setting.meaning.split()[0]}" in words
            assert f"[default: {setting.default}]" in words or setting.default in ("", "null")


@pytest.mark.parametrize(
    ("verb", "takes", "takes_not"),
    [
        ("run", {"seeds", "dry_run", "device"}, {"sets", "check_on", "records", "experiments"}),
        ("variance", {"sets", "seeds", "records", "to"}, {"check_on"}),
        ("list", {"plugins", "format"}, {"seeds", "grid"}),
        ("check", {"check_on", "device"}, {"grid", "seeds", "out"}),
        ("savings", {"at", "cost", "records"}, {"to", "seeds"}),
        ("explain", {"out", "task"}, {"level", "format"}),
        ("pick", {"unlabelled", "to", "seed", "device", "data"}, {"seeds", "rounds", "out", "grid", "records"}),
    ],
)
def test_a_command_shows_and_takes_its_own_settings_alone(verb: str, takes: set[str], takes_not: set[str]) -> None:
    known = {setting.name for setting in settings_of(verb)}
    assert takes <= known
    assert known.isdisjoint(takes_not)


@pytest.mark.parametrize("words", [["list", "grids", "seeds=3"], ["check", "random", "out=x"], ["run", "check_on=x"]])
def test_a_setting_without_effect_on_a_command_is_an_error(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert "no setting of this command is called" in str(done.exception)


def test_the_version_is_printed_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['x', '--version']\n"
    code += "from benchmark.cli.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{version('al-benchmark')}\n", done.stderr


def test_completion_knows_every_command() -> None:
    assert sorted(typer.main.get_command(app).commands) == sorted(VERBS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["command_line", "pick"])
def test_the_page_of_settings_is_rendered(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert "<!-- settings: " in page
    assert render_page(page, ROOT) == page
