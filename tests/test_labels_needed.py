"""The figure of the labels that strategies need for the same score as the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import benchmark
from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.labels_needed import labels_needed
from benchmark.analysis.figures.style import BETTER, UNDECIDED, WORSE
from benchmark.analysis.load_experiments import read_experiments

QUICK = Path(__file__).parent.parent / "results" / "reference" / "quick"


@pytest.fixture(scope="module")
def digits() -> Experiment:
    """Nine strategies with ten seeds."""
    return next(experiment for experiment in read_experiments([str(QUICK)]) if experiment.title == "digits")


def drawn(figure: Figure | None) -> dict[str, tuple[float, list[float], str]]:
    """The multiple, the ends of its interval and the colour of each strategy, from the top of the figure."""
    assert figure is not None
    [axes] = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    rows: dict[str, list[list[float]]] = {name: [] for name in names}
    colours: dict[str, str] = {}
    for line in axes.lines:
        places = list(line.get_ydata())
        if places != [0, 1]:  # the vertical line at the reference
            name = names[int(places[0])]
            rows[name].append([float(value) for value in line.get_xdata()])
            colours[name] = to_hex(line.get_color())
    return {
        name: (parts[-1][0], parts[0] if len(parts) > 1 else [], colours[name]) for name, parts in rows.items() if parts
    }


def test_it_shows_the_savings_at_the_final_score_in_order(digits: Experiment) -> None:
    rows = drawn(labels_needed(digits, "random"))
    assert rows.keys() == digits.curves.keys() - {"random"}
    results = benchmark.load(QUICK, task="digits")
    for name, (multiple, ends, colour) in rows.items():
        saving = results.savings(name, against="random", at="final").iloc[0]
        assert multiple == pytest.approx(1 - saving["percent"] / 100)
        assert ends == pytest.approx([1 - saving["percent_high"] / 100, 1 - saving["percent_low"] / 100])
        decided = BETTER if ends[1] < 1 else WORSE if ends[0] > 1 else UNDECIDED
        assert colour == to_hex(decided)
    multiples = [multiple for multiple, _, _ in rows.values()]
    assert multiples == sorted(multiples)
    assert {colour for _, _, colour in rows.values()} == {to_hex(each) for each in (BETTER, WORSE, UNDECIDED)}


def test_two_seeds_have_no_interval() -> None:
    [jpeg] = read_experiments([str(QUICK.parent / "cifar10_jpeg")])
    rows = drawn(labels_needed(jpeg, "random"))
    assert len(rows) > 2
    assert [ends for _, ends, _ in rows.values()] == [[]] * len(rows)


def test_nothing_is_drawn_without_another_strategy(digits: Experiment) -> None:
    assert labels_needed(replace(digits, curves={"random": digits.curves["random"]}), "random") is None
