"""The documentation site: its links, and the tutorials that `make docs` runs."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tools import site_pages

HOME = Path(__file__).parent.parent
DOCS = HOME / "docs"
NOTEBOOKS = sorted(DOCS.glob("tutorials/*.ipynb"))


@pytest.mark.parametrize(
    ("folder", "link", "rewritten"),
    [
        ("", "docs/start.md", "start.md"),
        ("", "docs/strategies/README.md", "strategies/README.md"),
        ("", "CONTRIBUTING.md", "contributing.md"),
        ("docs", "../CONTRIBUTING.md#a-task", "contributing.md#a-task"),
        ("docs", "statistics.md", "statistics.md"),
        ("docs/strategies", "../../README.md", "../index.md"),
        ("docs/strategies", "../recipes.md", "../recipes.md"),
        ("docs/strategies", "isal.md", "../strategies/isal.md"),
        ("results/benchmarks", "../../docs/gpu.md", "gpu.md"),
        ("results/benchmarks", "gpu.md", "benchmarks_gpu.md"),
        ("", "https://example.org/docs/a.md", "https://example.org/docs/a.md"),
        ("docs", "#completion", "#completion"),
    ],
)
def test_links_lead_to_pages_of_the_site(folder: str, link: str, rewritten: str) -> None:
    assert site_pages.rewrite_links(f"see [it]({link}).", Path(folder)) == f"see [it]({rewritten})."


def test_links_between_files_of_the_repository_lead_somewhere() -> None:
    pages = [HOME / name for name in site_pages.PAGES] + [*DOCS.rglob("*.md")]
    broken = [
        f"{page.relative_to(HOME)}: {path}"
        for page in pages
        for path, _ in site_pages.LINK.findall(page.read_text())
        if not (page.parent / path).exists()
    ]
    assert len(pages) > 20
    assert broken == []


def test_the_gallery_shows_every_figure() -> None:
    page = site_pages.gallery_page(DOCS)
    shown = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert sorted(shown) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("figures/*/*.svg"))


def test_tutorials_are_in_the_navigation_and_hold_no_output() -> None:
    text = (HOME / "mkdocs.yml").read_text()
    names = re.findall(r"tutorials/(\w+\.ipynb)", text)
    assert sorted(names) == [path.name for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 5
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells), path.name


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    text = re.sub(r"!ENV", "", (HOME / "mkdocs.yml").read_text())
    settings = yaml.safe_load(text)
    assert settings["theme"]["font"] is False
    assert "offline" in settings["plugins"]


def test_the_readme_is_short() -> None:
    assert len((HOME / "README.md").read_text().splitlines()) <= 150
