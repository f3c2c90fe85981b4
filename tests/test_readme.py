"""The README's numbers are those of the committed records, and its commands exist."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.tables import build_tables
from benchmark.cli import commands
from tools.readme import BLOCK, draw_page_figures, render_page

HOME = Path(__file__).parent.parent
README = HOME / "README.md"


@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        ("README.md", 1),
        ("docs/start.md", 3),
        ("docs/answers.md", 1),
        ("docs/real_images.md", 4),
        ("docs/variance.md", 1),
        ("docs/gpu.md", 1),
        ("docs/command_line.md", 3),
    ],
)
def test_its_tables_are_those_of_the_records(page: str, blocks: int) -> None:
    text = (HOME / page).read_text()
    assert len(list(BLOCK.finditer(text))) >= blocks
    assert render_page(text, HOME) == text


def test_a_changed_number_is_noticed() -> None:
    text = README.read_text()
    tampered = re.sub(r"(\| random \| )\d", r"\g<1>0", text)
    assert tampered != text
    assert render_page(tampered, HOME) == text


def test_its_figures_are_drawn_from_the_records(tmp_path: Path) -> None:
    for line in (HOME / "constraints.txt").read_text().splitlines():
        if line.startswith("matplotlib==") and line != f"matplotlib=={version('matplotlib')}":
            pytest.skip(f"drawn by {line}")
    paths = draw_page_figures(README.read_text(), HOME, tmp_path)
    assert paths
    for path in paths:
        assert path.read_bytes() == (HOME / "docs" / "figures" / path.relative_to(tmp_path)).read_bytes()


def test_its_verbs_and_make_targets_exist() -> None:
    text = README.read_text()
    verbs = set(re.findall(r"python -m benchmark (\w+)", text))
    known = {
        command.name or command.callback.__name__ for command in commands.app.registered_commands if command.callback
    }
    assert verbs <= known
    targets = set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert {"quick", "test"} <= targets
    assert targets <= set(re.findall(r"^([\w-]+):", (HOME / "Makefile").read_text(), re.MULTILINE))


GROWING = "gpu_reference"  # is run piece by piece


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in HOME.glob("results/reference/*/grid.json") if path.parent.name != GROWING),
    ids=lambda p: p.name,
)
def test_committed_records_are_whole(folder: Path) -> None:
    for table in build_tables(read_experiments(str(folder))):
        for name, row in table.rows.items():
            assert all(entry.num_runs == entry.num_planned and not entry.num_failed for entry in row), name
