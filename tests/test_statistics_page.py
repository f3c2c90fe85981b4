"""docs/statistics.md shows the results of its simulations, and these are repeatable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.seeds import seed
from tools import statistics_page
from tools.simulations import SIMULATIONS
from tools.statistics_figures import FIGURES
from tools.statistics_page import PAGE, PICTURES, RESULTS, markdown_table, render_page, run_simulation, to_json_numbers

COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))
SECTIONS = {  # by rule: its section, and words of the harness that the section explains
    "pairing": ("Pairs", "stats.student_interval"), "sign_flips": ("Sign flips", "stats.sign_flip_test"),
    "seeds_needed": ("How many seeds", "stats.runs_to_find"), "holm": ("Many tests", "of this table alone"),
    "spread": ("Mean and spread", "sample standard deviation over n seeds"), "price": ("Equal price", "range of cost"),
    "savings_final": ("Savings", "smaller of both final scores"), "few_rounds": ("Few rounds", "linear"),
    "savings_curve": ("Savings along the curve", "pointwise"), "savings_band": ("Savings in a band", "Fewer than five"),
    "verdicts": ("Better, equivalent, undecided", "Undecided"), "ranks": ("Ranks", "From five data sets on"),
    "penalties": ("The penalty matrix", "stats.penalty_matrix"), "verify": ("Reproduced", "inconclusive"),
    "seeds_auto": ("seeds=auto", "auto_seeds.md"),
}  # fmt: skip


def section(title: str) -> str:
    """A section of the page, in one line."""
    page = PAGE.read_text(encoding="utf-8")
    [text] = [part for part in page.split("\n## ")[1:] if part.partition("\n")[0] == title]
    return " ".join(text.split())


def test_the_page_is_rendered_from_the_simulations() -> None:
    assert render_page(COMMITTED) == PAGE.read_text(encoding="utf-8")


def test_a_number_of_the_page_is_a_number_of_the_file() -> None:
    other = json.loads(json.dumps(COMMITTED))
    other["spread"]["rows"][0]["disjoint"] = 0.987
    assert "| 0.987 |" in render_page(other)
    assert "| 0.987 |" not in render_page(COMMITTED)


@pytest.mark.parametrize("name", SIMULATIONS)
def test_every_rule_has_a_section_a_figure_and_a_simulation(name: str) -> None:
    title, words = SECTIONS[name]
    text = section(title)
    for part in ("**Question.**", "**Rule.**", "**Simulation.**", "**Limits.**", words):
        assert part in text
    assert f"(figures/statistics/{name}.svg)" in text
    assert f"{COMMITTED[name]['replicates']:,}" in text
    assert COMMITTED[name]["seed"] == seed("docs/statistics.md", name)


def test_no_rule_is_left_out() -> None:
    assert list(SECTIONS) == list(SIMULATIONS) == list(FIGURES) == list(COMMITTED)
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(FIGURES)
    page = PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles == [title for title, _ in SECTIONS.values()]
    anchors = {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([^)]+)\)", page)) <= anchors


@pytest.mark.parametrize("name", ["holm", "spread"])
def test_a_simulation_gives_the_same_numbers_again(name: str) -> None:
    assert run_simulation(name, 40) == run_simulation(name, 40)
    assert run_simulation(name, 40)["rows"] != run_simulation(name, 50)["rows"]


def test_page_and_pictures_are_drawn_from_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_page, "ROOT", tmp_path)
    monkeypatch.setattr(statistics_page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(statistics_page, "PICTURES", tmp_path / "pictures")
    statistics_page.main(["--render"])
    assert (tmp_path / "page.md").read_bytes() == PAGE.read_bytes()
    paths = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in paths] == sorted(f"{name}.svg" for name in FIGURES)
    for path in paths:
        assert path.read_bytes() == (PICTURES / path.name).read_bytes(), path.name


def test_tables_and_numbers_by_hand() -> None:
    assert markdown_table([{"a": 1, "b": 0.25}, {"a": 2, "b": None}], "n=a:d", "share=b:.2f") == (
        "| n | share |\n| ---: | ---: |\n| 1 | 0.25 |\n| 2 | – |"
    )
    assert to_json_numbers({"a": [1.23456789, float("nan")]}) == {"a": [1.2346, None]}


# --- what the page promises -------------------------------------------------------------------
def rows(name: str, **conditions: Any) -> list[dict[str, Any]]:
    return [row for row in COMMITTED[name]["rows"] if all(row[key] == value for key, value in conditions.items())]


def test_rules_keep_their_promises() -> None:
    """The claims of the page hold, up to three standard errors of the simulation."""
    assert all(0.93 <= row["covered"] <= 0.97 for row in rows("pairing"))
    assert all(row["rejected"] <= 0.06 for row in rows("sign_flips") if row["shape"].startswith("symmetric"))
    assert all(row["rejected"] > 0.06 for row in rows("sign_flips", seeds=10) if row["shape"].startswith("skewed"))
    assert all(row["power_about"] >= 0.72 for row in rows("seeds_needed"))
    assert rows("holm", tables=1)[0]["holm"] <= 0.05 + 0.02
    assert all(abs(row["interval"] - 0.95) < 0.015 for row in rows("spread"))
    assert all(abs(row["found"] - row["truth"]) <= 3 * row["error"] for row in rows("price"))
    assert all(abs(row["saved"]) <= 50 + 3 * row["error"] and row["reported"] == 1 for row in rows("savings_final"))
    assert all(row["covered"] >= 0.94 for row in rows("savings_final"))
    assert all(row["covered"] >= 0.92 for row in rows("savings_band") if row["seeds"] >= 5)
    assert all(row["given"] == 0 for row in rows("savings_band", seeds=3))
    assert all(row["wrong"] <= 0.09 for row in rows("ranks", counted="data sets"))
    assert all(abs(row["share"] - 0.025) < 0.005 for row in rows("penalties"))
    assert all(row["reproduced"] <= 0.08 for row in rows("verify", truth=1.0))
    inside = [row["reproduced"] for row in rows("verify", truth=0.1)]
    assert inside == sorted(inside)
    assert rows("seeds_auto", difference=0.0)[0]["decided"] <= 0.05 + 0.021


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_every_simulation_repeats_the_committed_results(name: str) -> None:
    assert_close(run_simulation(name), COMMITTED[name])


def assert_close(result: Any, committed: Any) -> None:
    """Asserts that results are equal, up to the effect of another processor's rounding."""
    if isinstance(result, dict):
        assert list(result) == list(committed)
        result, committed = list(result.values()), list(committed.values())
    if isinstance(result, list):
        assert len(result) == len(committed)
        for value, other in zip(result, committed, strict=True):
            assert_close(value, other)
    else:
        assert result == (pytest.approx(committed, rel=2e-3, abs=2e-3) if isinstance(committed, float) else committed)
