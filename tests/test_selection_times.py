"""The page of selection times: rendered again, it equals the committed one, and its cells are those of the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.analysis.load_experiments import read_experiments
from benchmark.plugins import discovery
from tools import selection_times

HOME = Path(__file__).parent.parent
discovery.discover()


def test_the_committed_page_is_rendered_from_the_records() -> None:
    page = selection_times.render_page(HOME)
    assert page == (HOME / selection_times.PAGE).read_text()
    assert "| geal | no | no | yes | 648 seconds |" in page
    assert "| cdal | yes | yes | no | 42 hours |" in page
    assert "| vaal | no | no | no | 42 hours |" in page


def test_seconds_are_those_until_the_last_batch_is_selected() -> None:
    [experiment] = read_experiments(str(HOME / selection_times.RECORDS), selection_times.EXPERIMENT)
    rows = [row.measurements for row in experiment.runs if row.strategy == "entropy"]
    training = sum(row.seconds["fit"] for measured in rows for row in measured if row.round < 2) / len(rows)
    selecting = sum(row.seconds["select"] for measured in rows for row in measured) / len(rows)
    page = selection_times.render_page(HOME)
    cells = f"{training:,.2f} | {selecting:,.2f} | 0 | {training + selecting:,.2f}"
    assert f"| entropy | yes | yes | no | {cells} |" in page


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        ("random", ["no", "no", "yes"]),
        ("coreset", ["yes", "yes", "no"]),
        ("coreset[encoder=dino]", ["no", "no", "yes"]),
        ("learning_loss", ["yes", "yes", "no"]),
        ("bald", ["yes", "yes", "no"]),
        ("vaal", ["no", "no", "no"]),
    ],
)
def test_needs_are_those_that_strategies_declare(label: str, answers: list[str]) -> None:
    assert selection_times.need_cells(label) == [label, *answers]
