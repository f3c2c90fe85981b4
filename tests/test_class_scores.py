"""Scores of single classes: means, paired differences and their files, command and figure; the round asked for."""

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _curves import PLAIN, recorded
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scipy import stats as scipy_stats
from typer.testing import CliRunner

import benchmark
from benchmark.analysis import class_scores
from benchmark.analysis.figures import classes as figure_classes
from benchmark.cli.commands import app
from benchmark.records.store import Store

NAMES = ("cat", "dog", "<b>cow & co</b>")
MANY = {strategy: {seed: [50.0, 60.0, 70.0] for seed in range(6)} for strategy in ("random", "mine")}


def of_class(strategy: str, seed: int, number: int, names: Any = NAMES) -> dict[str, dict[str, float]]:
    """Accuracies that differ by strategy, seed, round and class; those of cats are better with `mine` in every seed."""
    rng = np.random.default_rng([len(strategy), seed, number])
    noise = rng.normal(0, 1, len(names))
    values = {name: 50 + 5 * place + float(noise[place]) for place, name in enumerate(names)}
    values[names[0]] += 20 * number * (strategy == "mine")
    return {"accuracy": values, "recall": {name: 0.01 * value for name, value in values.items()}}


def written(folder: Path, scores: Any = MANY, names: Any = NAMES) -> Store:
    return recorded(folder, scores, class_scores=lambda *place: of_class(*place, names=names))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def got(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def test_the_file_has_students_intervals_of_paired_differences(tmp_path: Path) -> None:
    """Compared with scipy's t interval on numbers that are computed again, class by class."""
    store = written(tmp_path)
    run("tables", f"out={store.folder}")
    with (store.folder / "tables" / "class_scores" / "made_up.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3 * 2  # strategies, rounds, classes, scores
    assert [row["score"] for row in rows[:18]] == ["accuracy"] * 18  # nearest to the metric, so it comes first
    for row in rows:
        number, score, name = int(row["round"]), row["score"], row["class"]
        own, other = (
            np.array([of_class(strategy, seed, number)[score][name] for seed in range(6)])
            for strategy in (row["strategy"], "random")
        )
        assert float(row["mean"]) == pytest.approx(own.mean())
        if row["strategy"] == "random":
            assert (row["difference"], row["pairs"]) == ("", "0")
            continue
        gap = own - other
        low, high = scipy_stats.t.interval(0.95, 5, gap.mean(), scipy_stats.sem(gap))
        numbers = [float(row[column]) for column in ("difference", "difference_low", "difference_high")]
        assert numbers == pytest.approx([gap.mean(), low, high])
        assert row["pairs"] == "6"


def test_only_runs_of_one_seed_and_start_are_paired(tmp_path: Path) -> None:
    uneven = {"random": {0: [50.0] * 3, 1: [50.0] * 3, 2: [50.0] * 3}, "mine": {1: [50.0] * 3, 2: [50.0], 9: [5.0] * 3}}
    [experiment] = benchmark.load(written(tmp_path, uneven).folder).experiments
    rows = class_scores.compare_classes(experiment, 2, "accuracy", 0.95)
    [cat] = [row for row in rows if (row.strategy, row.class_name) == ("mine", "cat")]
    assert (cat.num_runs, len(cat.differences)) == (2, 1)
    [gap] = cat.differences
    assert gap == of_class("mine", 1, 2)["accuracy"]["cat"] - of_class("random", 1, 2)["accuracy"]["cat"]
    assert math.isnan(cat.difference.low)
    for run in experiment.runs:
        run.__dict__["start_fingerprint"] = run.strategy  # as if they had started from other images
    rows = class_scores.compare_classes(experiment, 2, "accuracy", 0.95)
    assert all(not row.differences and math.isnan(row.difference.value) for row in rows)


def test_the_command_shows_the_round_and_the_strategies_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    store = written(tmp_path, PLAIN | MANY)
    monkeypatch.setenv("COLUMNS", "80")
    text = run("classes", f"out={store.folder}", "strategy=mine", "round=1")
    assert max(map(len, text.splitlines())) <= 80
    assert "accuracy of single classes in round 1" in text
    assert "other" not in text.split()
    assert "<b>cow & co</b>" in text
    rows = json.loads(run("classes", f"out={store.folder}", "strategy=other", "against=mine", "format=json"))
    assert {(row["strategy"], row["round"]) for row in rows} == {("other", 2), ("mine", 2)}
    assert next(row["difference"] for row in rows if row["strategy"] == "other" and row["class"] == "cat") < -30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["round=3"], "round=3: the last round of these records is 2"),
        (["round=-1"], "round=-1: must be at least 0"),
        (["strategy=mime"], "these records have no strategy 'mime' (did you mean 'mine'?)"),
        (["against=none"], "these records have no strategy 'none'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["classes", f"out={written(tmp_path).folder}", *words])
    assert isinstance(result.exception, ValueError)
    assert str(result.exception).startswith(message)


def test_records_without_scores_of_classes_say_so_and_get_no_file(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    result = CliRunner().invoke(app, ["classes", f"out={store.folder}"])
    assert "no scores of single classes are recorded there" in str(result.exception)
    run("tables", f"out={store.folder}")
    assert not (store.folder / "tables" / "class_scores").exists()
    assert not list(store.folder.rglob("*class_scores*"))


def test_the_figure_is_sorted_and_colours_what_an_interval_decides(tmp_path: Path) -> None:
    [experiment] = benchmark.load(written(tmp_path).folder).experiments
    figure = got(figure_classes.class_differences(experiment))
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0].startswith("cat: ")
    assert {label.split(": ")[0] for label in labels} == set(NAMES)
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    heights = [float(np.asarray(line.get_xdata())[0]) for line in dots]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == pytest.approx(40, abs=3)
    assert dots[0].get_color() == figure_classes.BETTER
    assert len({line.get_color() for line in axes.lines}) > 1
    assert "in round 2" in title(figure)
    assert "in round 0" in title(got(figure_classes.class_differences(experiment, 0)))
    assert figure_classes.class_differences(experiment, 7) is None


def test_few_seeds_are_dots_and_a_lower_score_can_be_better(tmp_path: Path) -> None:
    [experiment] = benchmark.load(written(tmp_path, PLAIN).folder).experiments
    figure = got(figure_classes.class_differences(experiment))
    assert len(figure.axes) == 2  # mine and other
    assert "small dots: single seeds" in title(figure)
    assert "intervals" not in title(figure)
    rows = class_scores.compare_by_metric(experiment, None, 0.95)
    better_if_high, better_if_low = (figure_classes.sorted_rows(rows, "mine", sign) for sign in (1, -1))
    assert better_if_high == better_if_low[::-1]


def test_of_many_classes_both_ends_are_named_inside_the_figure(tmp_path: Path) -> None:
    names = [f"class number {number}" for number in range(100)]
    [experiment] = benchmark.load(written(tmp_path, names=names).folder).experiments
    figure = got(figure_classes.class_differences(experiment))
    labels = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert len({label.get_text() for label in labels}) == 2 * figure_classes.NUM_EXTREMES
    assert "of 100 classes" in title(figure)
    boxes = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: -box.y0)
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= figure.bbox.x0


def test_the_report_shows_them_escaped(tmp_path: Path) -> None:
    store = written(tmp_path)
    run("report", f"out={store.folder}", "round=1")
    page = (store.folder / "report.html").read_text()
    assert "Scores of single classes" in page
    assert "accuracy of single classes in round 1" in page
    assert "&lt;b&gt;cow &amp; co&lt;/b&gt;" in page
    assert "<b>cow" not in page
    assert (store.folder / "figures" / "made_up-class_scores.pdf").exists()
