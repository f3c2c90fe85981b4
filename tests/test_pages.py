"""The page of every strategy: rendered again, it equals the committed one, and it leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import EncoderName, Indices, View
from benchmark.plugins import discovery, registry
from benchmark.plugins.registry import Plugin
from benchmark.text.notation import format_value
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.detection.recipe import DetectorRecipe
from tools import pages

HOME = Path(__file__).parent.parent
discovery.discover()
STRATEGIES = [
    plugin
    for plugin in registry.REGISTRY["strategy"].values()
    if registry.source_file(plugin).parent == HOME / "strategies"
]


def test_the_committed_pages_are_those_of_the_docstrings_and_records() -> None:
    page_texts = pages.render_pages(HOME)
    committed = {path.name: path.read_text() for path in (HOME / "docs" / "strategies").glob("*.md")}
    assert page_texts == committed
    assert set(committed) == {"README.md", *(f"{path.stem}.md" for path in (HOME / "strategies").glob("[!_]*.py"))}


@pytest.mark.parametrize("plugin", STRATEGIES, ids=lambda plugin: plugin.name)
def test_a_page_says_paper_parameters_deviations_cost_and_a_measured_row(plugin: Plugin) -> None:
    sections = pages.docstring_sections(plugin)
    assert set(plugin.parameters()) == set(pages.split_entries(sections.get("Args", "")))
    assert {"", "Deviations", "Cost"} <= set(sections) <= {"", *pages.SECTIONS}
    assert all(len(text) > 3 for text in sections.values())
    text = (HOME / "docs" / "strategies" / f"{plugin.name}.md").read_text()
    assert "## Measured" in text
    assert f"`{plugin.name}" in text.partition("## Measured")[2]


def made_up(
    view: View, budget: int, rng: np.random.Generator, *, depth: int = 3, encoder: EncoderName = "dino", share: float
) -> Indices:
    """Selects what it selects.

    Depth: a word with a colon
    begins no section within a line.

    It has a second paragraph.

    Args:
        depth: how deep (3: the paper's); a note:
            with a colon in it.
        encoder: whose features.
        share: a share | of what.

    References:
        Somebody, 2020.
        Somebody else,
            2021.

    Deviations:
        None of note,
        or one.

    Cost:
        One pass.

    Logs:
        depth_used: how deep it went.
    """
    raise NotImplementedError


def test_a_docstring_falls_into_its_sections() -> None:
    plugin = Plugin("strategy", "made_up", made_up, 1, needs={"encode"})
    sections = pages.docstring_sections(plugin)
    assert list(sections) == ["", *pages.SECTIONS]
    assert sections[""] == (
        "Selects what it selects.\n\nDepth: a word with a colon begins no section within a line.\n\n"
        "It has a second paragraph."
    )
    assert pages.split_entries(sections["Args"]) == {
        "depth": "How deep (3: the paper's); a note: with a colon in it.",
        "encoder": "Whose features.",
        "share": "A share | of what.",
    }
    page = pages.strategy_page(plugin, [])
    assert "| `depth` | `3` | How deep (3: the paper's); a note: with a colon in it. |" in page
    assert "| `share` | must be given | A share \\| of what. |" in page
    assert "## References\n\n* Somebody, 2020.\n* Somebody else, 2021.\n" in page
    assert "## Deviations\n\nNone of note, or one.\n" in page
    assert "## Cost\n\nOne pass.\n" in page
    assert "## Recorded diagnostics\n\n* `depth_used`: How deep it went.\n" in page
    assert "**Needs from the task:** `encode`. **Version** 1." in page
    assert "## Measured" not in page


@pytest.mark.parametrize(("heading", "recipe"), [("classifiers", Recipe()), ("detectors", DetectorRecipe())])
def test_the_recipes_page_tells_the_defaults(heading: str, recipe: object) -> None:
    """`name`, `other` | value, value | ...: what is told behind a value, after a space or a colon, is prose."""
    page = (HOME / "docs" / "recipes.md").read_text().split(f"# Recipes: how the {heading} are trained")[1]
    rows = [line.split(" | ") for line in page.split("| parameter |")[1].split("\n\n")[0].splitlines()[2:]]
    stated = dict[str, str]()
    for names, values, *_ in rows:
        stated |= dict(zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True))
    assert len(stated) > 20
    for name, text in stated.items():
        value, word = getattr(recipe, name), re.split(r"[ :]", text)[0]
        assert (float(word) == value) if type(value) in (int, float) else (word == format_value(value)), name
