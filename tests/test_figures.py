"""Figures show the recorded numbers, write names literally, and are saved to the same bytes every time."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from _curves import identity
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Run
from benchmark.analysis.figures import (
    all_figures,
    boxes_per_image,
    patch_clusters,
    ranking,
    seconds,
    selections,
    style,
)
from benchmark.analysis.figures import curves as figures_curves
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.stats import student_interval
from benchmark.contract.metrics import ACCURACY
from benchmark.experiment.schedule import Schedule
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.text import words

HOSTILE = '<b>$x_1$ & "q"'


@pytest.mark.parametrize("charged", [0, 3])
def test_ranks_are_over_the_price_where_rounds_cost_unequally(charged: float) -> None:
    """As in the verdicts: an additional cost moves a curve to the right, past one that is lower in every round."""
    high, low = curve("high", [[10.0, 20, 30]], [0]), curve("low", [[9.0, 19, 29]], [0])
    high = replace(high, cost={"images": high.cost["images"] + charged})
    first = {name for name, rank in ranking.split_ranks(rank_curves([high, low]))[0].items() if rank == 1}
    assert first == {"low" if charged else "high"}
    far = replace(high, cost={"images": high.cost["images"] + 1000})
    assert ranking.mean_areas(experiment([far, low])) == {}
    alone = replace(experiment([curve("high", [[1.0]], [0])]), rounds=(0,))
    assert ranking.mean_areas(alone) == {"high": 1.0}


def rank_curves(curves: Sequence[Curve]) -> stats.Ranks:
    areas = ranking.mean_areas(experiment(curves))
    return stats.rank_strategies(list(areas), np.array([list(areas.values())] * 2), ["one", "two"])


LONG = "long[" + ",".join(f"parameter_{number}=0.{number}" for number in range(12)) + "]"
BOUGHT = {  # strategy -> seed -> positions by round
    "first": {0: [[0, 1], [2, 3], [4, 5]], 1: [[0, 1], [2, 3], [4, 5]]},
    "second": {0: [[0, 1], [2, 4], [3, 6]], 1: [[0, 1], [6, 7], [8, 9]]},
    HOSTILE: {0: [[0, 1], [8, 9], [7, 6]], 1: [[0, 1], [8, 9], [7, 6]]},
}
SCORES = {
    "first": [[50.0, 60.0, 70.0], [52.0, 64.0, 71.0]],
    "second": [[50.0, 65.0, 75.0], [52.0, 69.0, 77.0]],
    HOSTILE: [[50.0, 55.0, 80.0], [52.0, 58.0, 81.0]],
}


def run(strategy: str, seed: int, bought: Sequence[list[int]]) -> Run:
    records = [
        Record(number, 2 * number + 2, new, {"images": 2.0 * number + 5}, {"accuracy": 50.0})
        for number, new in enumerate(bought)
    ]
    measurements = [
        Measured(number, {"fit": 1.0, "select": 10.0 * number * (seed + 1)}, False, 1.0, "cpu", {})
        for number in range(len(bought))
    ]
    header = Header("k", identity("random"), "data", 10, "accuracy", [])
    result = Run(f"{strategy}/{seed}", strategy, seed, (), False, header, records, False, "", Store("none"))
    result.__dict__["measurements"] = measurements  # as if it had been read from disk
    return result


def curve(strategy: str, value: Sequence[Sequence[float]], seeds: Sequence[int] = (0, 1), **more: Any) -> Curve:
    value_SR = np.array(value, np.float64).reshape(len(value), -1)
    rounds = np.arange(value_SR.shape[1]) + np.zeros_like(value_SR)
    there = np.where(np.isfinite(value_SR), 1, np.nan)
    cost = {"images": (rounds * 2 + 5) * there, "boxes": (rounds * 7 + np.arange(len(value))[:, None]) * there}
    result = Curve(
        strategy, len(value), len(value), value_SR, rounds * there, {"images": cost["images"]}, tuple(seeds),
        ("same",) * len(seeds),
    )  # fmt: skip
    return replace(result, **({"cost": cost} if more.pop("boxes", False) else {}), **more)


def experiment(curves: Sequence[Curve], title: str = "made", runs: Sequence[Run] = ()) -> Experiment:
    return Experiment(title, "grid", "task", ACCURACY, (0, 1, 2), {c.strategy: c for c in curves}, runs=tuple(runs))


@pytest.fixture
def example() -> Experiment:
    runs = [run(name, seed, bought) for name, by_seed in BOUGHT.items() for seed, bought in by_seed.items()]
    return experiment([curve(name, value) for name, value in SCORES.items()], runs=runs)


@pytest.fixture
def styles(example: Experiment) -> dict[str, style.StrategyStyle]:
    return style.strategy_styles(example.curves)


def arrays(detection: bool = False) -> dict[str, Any]:
    """Arrays of a gallery of ten images: labels 0 1 2 0 1 2 ..., or one box per image, with a second one on image 2."""
    rng = np.random.default_rng(1)
    none, some = np.zeros(0, np.int64), np.arange(10)
    return {
        "labels_P": none if detection else some % 3,
        "box_image_M": np.append(some, 2) if detection else none,
        "box_class_M": np.append(some % 3, 0) if detection else none,
        "box_side_M": (np.append(some, 20) if detection else none).astype(np.float32),
        "shown_N": some[::-1].copy(),
        "thumbs_NHW3": np.arange(10, dtype=np.uint8)[::-1, None, None, None] + np.zeros((10, 8, 6, 3), np.uint8),
        "features_ND": rng.standard_normal((10, 4)).astype(np.float16),
        "drawn_K5": np.array([[7, 1, 2, 4, 5]] if detection else np.zeros((0, 5)), np.float32),  # on image 2
        "classes_C": np.array(["cat", "$dog$", "<cow>"]),
    }


def gallery(detection: bool = False) -> Gallery:
    return Gallery(**arrays(detection))


def texts(figure: Figure) -> list[str]:
    return [str(text.get_text()) for text in figure.findobj(Text) if isinstance(text, Text)]


def got(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float], str]]:
    """x, y and colour of the lines that the legend names."""
    names = [text.get_text().replace("\n", "") for text in figure.legends[0].get_texts()]
    curves = [line for line in figure.axes[0].lines if line.get_marker() in style.MARKERS]
    data = [(list(np.asarray(a.get_xdata())), list(np.asarray(a.get_ydata())), str(a.get_color())) for a in curves]
    return dict(zip(names, data, strict=True))


def cells(figure: Figure, panel: int = 0) -> dict[tuple[int, int], str]:
    """The numbers in a heat map's cells, by row and column."""
    return {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in figure.axes[panel].texts
    }


# --- curves and savings ---------------------------------------------------------------------
def test_a_curve_is_the_mean_cost_and_score(styles: dict[str, style.StrategyStyle]) -> None:
    two_curves = experiment([curve("first", SCORES["first"], boxes=True), curve("second", SCORES["second"])])
    images, boxes = (got(figures_curves.learning_curves(two_curves, styles, axis)) for axis in ("images", "boxes"))
    assert lines(images)["first"][:2] == ([5, 7, 9], [51, 62, 70.5])
    assert lines(images)["second"][:2] == ([5, 7, 9], [51, 67, 76])
    assert list(lines(boxes)) == ["first"]
    assert lines(boxes)["first"][:2] == ([0.5, 7.5, 14.5], [51, 62, 70.5])
    assert boxes.axes[0].get_xlabel() == "boxes paid for"


def test_the_band_is_students() -> None:
    band = figures_curves.interval_band(curve("first", [[50, 60, np.nan], *([52, 64, 3] for _ in range(4))]))
    expected = student_interval(np.array([60.0, 64.0, 64.0, 64.0, 64.0]))
    assert band[:, 1] == pytest.approx([expected.low, expected.high])
    assert np.isnan(band[:, 2]).all()  # of four runs


@pytest.mark.parametrize("num_runs", [1, 2, 4, 5])
def test_few_runs_are_dots_and_no_band(num_runs: int) -> None:
    values = [[50.0 + seed, 60.0 + 3 * seed] for seed in range(num_runs)]
    figure = got(
        figures_curves.learning_curves(experiment([curve("first", values)]), style.strategy_styles(["first"]), "images")
    )
    [dots] = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    few = 1 < num_runs < 5
    assert sorted(np.asarray(dots.get_ydata()).tolist()) == (sorted(itertools.chain(*values)) if few else [])
    shaded = [path for band in figure.axes[0].collections for path in band.get_paths() if len(path.vertices)]
    assert bool(shaded) == (num_runs == 5)
    notes = " ".join(" ".join(texts(figure)).split())
    assert ("dots: single runs" in notes) == few
    assert ("shaded: 95 % interval of the mean, round by round, not corrected" in notes) == (num_runs == 5)
    low, high = figure.axes[0].get_ylim()
    assert not few or low < 50 < max(itertools.chain(*values)) < high


@pytest.mark.parametrize("num_runs", [2, 5])
def test_savings_of_few_pairs_have_no_band(num_runs: int) -> None:
    values = [[50.0 + seed, 60.0 + 3 * seed, 70.0 + 2 * seed] for seed in range(num_runs)]
    better = [[value + 2 for value in row] for row in values]
    pair = experiment([curve(name, rows, range(num_runs)) for name, rows in (("first", values), ("second", better))])
    figure = got(figures_curves.savings_curve(pair, style.strategy_styles(["first", "second"]), "first"))
    assert bool(figure.axes[0].collections) == (num_runs == 5)
    notes = " ".join(" ".join(texts(figure)).split())
    assert ("too few runs for intervals" in notes) == (num_runs == 2)
    assert ("shaded: 95 % interval, pointwise, not corrected" in notes) == (num_runs == 5)
    assert "3 rounds: prices are linear between them" in notes


@pytest.mark.parametrize("num_classes", [8, 20])
def test_long_class_names_are_shortened_and_leave_the_bars_room(num_classes: int, example: Experiment) -> None:
    names = [f"{number:05}_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_terrestris" for number in range(99)]
    known = gallery()
    many = np.array([*names[:num_classes], "caf\udce9"], np.str_)[-num_classes:]
    figure = got(selections.bought_classes(example, replace(known, classes_C=many)))
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(set(labels)) == num_classes
    assert all(len(label) <= selections.MAX_CLASS_NAME for label in labels)
    assert labels[-1] == r"caf\xe9"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[-1].get_xticklabels()]
    assert all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(boxes))
    assert figure.axes[0].get_window_extent().height / figure.dpi > 0.9


def test_bars_are_published_standard_deviations() -> None:
    paper = curve("first", [[50, 60, 70]], seeds=(), std_R=np.array([1.0, np.nan, 2.0]), num_runs=5)
    figure = got(figures_curves.learning_curves(experiment([paper]), style.strategy_styles(["first"]), "images"))
    (bars,) = figure.axes[0].containers
    segments = [np.asarray(segment) for segment in bars.lines[2][0].get_segments()]
    assert [segment[:, 1].tolist() for segment in segments if segment.size] == [[49, 51], [68, 72]]
    assert any("mean of 5 runs; bars: standard deviation" in text for text in texts(figure))


def test_missing_rounds_are_left_out() -> None:
    short = curve("short", [[50, np.nan, np.nan]], seeds=[0])
    uneven = curve("uneven", [[50, 60, 70], [52, np.nan, np.nan]])
    none = np.zeros((0, 3))
    empty = Curve("empty", 0, 2, none, none, {"images": none})
    incomplete = experiment([uneven, short, empty])
    figures = all_figures.draw_figures(
        [incomplete, experiment([empty, replace(empty, strategy="b")], "none"), experiment([], "no")], {}
    )
    curves = lines(figures["made-curves-images"])
    assert curves["uneven"][:2] == ([5, 7, 9], [51, 60, 70])
    assert curves["short"][:2] == ([5], [50])
    assert "empty" not in curves
    assert not [stem for stem in figures if stem.startswith("no")]


def test_savings_are_per_cent_of_what_the_other_pays(
    example: Experiment, styles: dict[str, style.StrategyStyle]
) -> None:
    curves = lines(got(figures_curves.savings_curve(example, styles, "first")))
    targets, percent, colour = curves["second"]
    assert targets == [51, 62, 70.5]
    at = 5 + 2 * (62 - 51) / (67 - 51)  # where its mean curve reaches 62
    last = 7 + 2 * (70.5 - 67) / (76 - 67)
    assert percent == pytest.approx([0, 100 * (7 - at) / 7, 100 * (9 - last) / 9])
    assert colour == styles["second"].colour
    assert list(curves) == ["second", HOSTILE]


def test_scores_out_of_reach_are_no_savings(styles: dict[str, style.StrategyStyle]) -> None:
    low = curve("second", [[50, 51, 52], [50, 51, 52]])
    unequal = experiment([curve("first", [[50, 51, 80], [50, 51, 80]]), low])
    assert lines(got(figures_curves.savings_curve(unequal, styles, "first")))["second"][0] == [50, 51]
    other_start = replace(low, start_fingerprints=("other", "other"))
    assert figures_curves.savings_curve(experiment([unequal.curves["first"], other_start]), styles, "first") is None


# --- styles ---------------------------------------------------------------------------------
def test_a_strategy_looks_the_same_in_every_figure(example: Experiment, styles: dict[str, style.StrategyStyle]) -> None:
    figures = [
        got(figures_curves.learning_curves(example, styles)),
        got(figures_curves.savings_curve(example, styles, "first")),
    ]
    for figure in figures:
        assert {name: colour for name, (_, _, colour) in lines(figure).items()}.items() <= {
            name: style.colour for name, style in styles.items()
        }.items()
    dots = got(seconds.selection_seconds(example, styles)).axes[0].lines
    assert [line.get_color() for line in dots] == [style.colour for style in styles.values() for _ in range(2)]


def test_many_strategies_have_different_styles() -> None:
    styles = style.strategy_styles([f"strategy_{number}" for number in range(60)])
    assert len(set(styles.values())) == 60
    assert len({(style.colour, style.dashes) for style in list(styles.values())[:32]}) == 32
    assert list(style.strategy_styles(["a", "b", "a"])) == ["a", "b"]


# --- over experiments -----------------------------------------------------------------------
def constant(name: str, gap: Sequence[float], **more: Any) -> Curve:
    """Five runs that lie `gap` above 50 to 70 by round, with next to no noise."""
    noise = [1e-6 * len(name) * sign for sign in (1, -1, 1, -1, 1)]
    return curve(
        name, [[50 + 5 * seed + height + noise[seed] for height in gap] for seed in range(5)], range(5), **more
    )


def test_penalties_are_added_over_experiments() -> None:
    first = experiment([constant("aa", [0, 0, 0]), constant("b", [0, 5, 5]), constant("cccc", [0, 0, 5])])
    second = experiment([constant("aa", [0, 5, 5]), constant("b", [0, 0, 0])], "two")
    single = experiment([curve("aa", [[1, 2, 3]], [0]), curve("b", [[7, 8, 9]], [0])], "single")
    figure = got(ranking.penalty_matrix([first, second, single]))
    values = cells(figure)
    assert {place: values[place] for place in ((0, 1), (1, 0), (1, 2), (2, 0), (0, 2))} == {
        (0, 1): "1.00", (1, 0): "1.00", (1, 2): "0.50", (2, 0): "0.50", (0, 2): "0",
    }  # fmt: skip
    assert [values[3, column] for column in range(3)] == ["0.75", "0.50", "0.25"]
    assert (0, 0) not in values
    assert any("by chance 0.025 in each experiment" in " ".join(text.split()) for text in texts(figure))
    assert ranking.penalty_matrix([single]) is None


def test_two_seeds_are_no_penalty() -> None:
    """The figure once showed that margin beats random where the table said undecided."""
    two = experiment([curve("random", [[50, 60, 70], [50, 61, 72]]), curve("margin", [[50, 63, 73], [50, 64, 75]])])
    assert ranking.penalty_matrix([two]) is None


def test_rounds_before_any_selection_count_only_where_something_was_selected() -> None:
    curves = [constant("aa", [0, 5, 5]), constant("b", [0, 5, 0])]
    assert cells(got(ranking.penalty_matrix([experiment(curves)])))[0, 1] == "0.50"
    no_start = replace(experiment(curves), schedule=Schedule(0, 1, 3, one_pass=True))
    assert cells(got(ranking.penalty_matrix([no_start])))[0, 1] == "0.33"


def test_strategies_that_do_not_pair_are_left_out_of_the_penalties() -> None:
    odd = constant("odd", [0, 9, 9], start_fingerprints=("other",) * 5)
    three_curves = experiment([odd, constant("aa", [0, 0, 0]), constant("b", [0, 5, 5])])
    labels = [label.get_text() for label in got(ranking.penalty_matrix([three_curves])).axes[0].get_yticklabels()]
    assert labels == ["aa  1", "b  2", "mean: how often it is beaten"]
    assert ranking.penalty_matrix([experiment([odd, constant("aa", [0, 0, 0])])]) is None


def test_pairs_of_no_experiment_are_empty() -> None:
    first = experiment([constant("aa", [0, 0]), constant("b", [0, 0])])
    second = experiment([constant("aa", [0, 0]), constant("cccc", [0, 0])])
    assert (1, 2) not in cells(got(ranking.penalty_matrix([first, second])))


def on_other_data(name: str) -> Experiment:
    result = experiment([curve("low", [[5, 6, 7]], [0]), curve("high", [[6, 7, 8]], [0])], name)
    return replace(result, task=name)


def test_ranks_are_of_what_all_experiments_share() -> None:
    first = experiment(
        [curve("low", [[1, 2, 3]], [0]), curve("high", [[2, 3, 4]], [0]), curve("alone", [[9, 9, 9]], [0])]
    )
    second = on_other_data("two")
    empty = experiment([Curve("low", 0, 2, np.zeros((0, 3)), np.zeros((0, 3)), {})], "empty")
    figure = got(ranking.rank_diagram([first, second, empty]))
    assert {"high  1.00 ", " 2.00  low"} <= set(texts(figure))
    assert "no test: it takes 5 data sets" in "".join(texts(figure))
    many = got(ranking.rank_diagram([first, *map(on_other_data, "abcd")]))
    assert any("critical difference 0.88" in text for text in texts(many))  # Demšar: 1.96 * sqrt(2 * 3 / (6 * 5))
    same = got(ranking.rank_diagram([first, *[replace(first, title=name) for name in "abcd"]]))  # on one data set
    assert not any("critical difference" in text for text in texts(same))
    assert any("over 1 data set, 5 experiments" in text for text in texts(same))
    assert ranking.rank_diagram([first, empty]) is None
    assert ranking.rank_diagram([first, experiment([curve("alone", [[1, 2, 3]], [0])])]) is None
    assert ranking.rank_diagram([]) is None


# --- what was bought ------------------------------------------------------------------------
def test_overlap_is_jaccards_of_all_that_was_bought_so_far(example: Experiment) -> None:
    names = list(example.curves)
    first, last = selections.jaccard_overlaps(example, names, 1), selections.jaccard_overlaps(example, names, 2)
    assert first[0, 1] == pytest.approx((1 / 3 + 0) / 2)
    assert last[0, 1] == pytest.approx((3 / 5 + 0) / 2)  # seed 0 shares 2, 3 and 4 of 2, 3, 4, 5 and 6
    assert last[2, 1] == last[1, 2] == pytest.approx((1 / 7 + 1) / 2)
    figure = got(selections.overlap_heat_maps(example))
    assert [axes.get_title("left") for axes in figure.axes] == ["up to round 1", "up to round 2"]
    assert cells(figure)[1, 0] == "0.17"
    assert cells(figure, 1)[0, 1] == "0.30"


def test_overlap_is_over_the_seeds_that_both_have(example: Experiment) -> None:
    short = [
        replace(shortened, records=shortened.records[:2]) if shortened.seed else shortened for shortened in example.runs
    ]
    shortened = replace(example, runs=tuple(short))
    assert selections.jaccard_overlaps(shortened, ["first", "second"], 2)[0, 1] == pytest.approx(3 / 5)
    assert selections.overlap_heat_maps(replace(example, runs=())) is None
    assert selections.overlap_heat_maps(replace(example, runs=example.runs[:2])) is None


def heights(figure: Figure, panel: int) -> list[float]:
    return [patch.get_height() for patch in figure.axes[panel].containers[0]]


def test_classes_are_counted_over_what_was_bought(example: Experiment) -> None:
    figure = got(selections.bought_classes(example, gallery()))
    assert heights(figure, 0) == pytest.approx([25, 25, 50])  # 2 3 4 5 are of classes 2 0 1 2
    assert heights(figure, 1) == pytest.approx([50, 25, 25])  # 2 4 3 6
    assert figure.axes[0].get_title("left") == "first (4)"
    boxes = got(selections.bought_classes(example, gallery(detection=True)))
    assert heights(boxes, 0) == pytest.approx([40, 20, 40])  # image 2 holds one more, of class 0
    assert boxes.axes[0].get_title("left") == "first (5)"
    assert selections.bought_classes(replace(example, runs=()), gallery()) is None


def test_a_gallery_of_another_pool_is_refused(example: Experiment) -> None:
    with pytest.raises(ValueError, match="the gallery is of another pool: 5 images, without number 5"):
        selections.bought_classes(example, replace(gallery(), labels_P=np.arange(5) % 3))


@pytest.mark.parametrize(("paid", "unit"), [("boxes", "boxes"), ("images", "regions")])
def test_several_labels_of_an_image_are_boxes_where_boxes_are_paid_for(
    example: Experiment, paid: str, unit: str
) -> None:
    curves = {name: replace(curve, cost={paid: curve.cost["images"]}) for name, curve in example.curves.items()}
    sizes = got(selections.bought_sizes(replace(example, curves=curves), gallery(detection=True)))
    classes = got(selections.bought_classes(replace(example, curves=curves), gallery(detection=True)))
    assert sizes.get_supylabel() == classes.get_supylabel() == f"% of {unit}"
    assert f"sizes of the {unit} bought" in " ".join(texts(sizes))
    assert all(f"in brackets: how many {unit}" in " ".join(texts(figure)) for figure in (sizes, classes))


def test_sizes_are_counted_over_what_was_bought(example: Experiment) -> None:
    figure = got(selections.bought_sizes(example, gallery(detection=True)))
    edges = np.linspace(0, 20, 25)
    assert heights(figure, 0) == pytest.approx(20 * np.histogram([2, 3, 4, 5, 20], edges)[0])
    assert selections.bought_sizes(example, gallery()) is None


def test_the_map_marks_what_was_bought_by_round(example: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    at_N2 = np.arange(20.0).reshape(10, 2)
    monkeypatch.setattr(selections, "tsne_positions", lambda features: calls.append(len(features)) or at_N2)
    figure = got(selections.pool_map(example, gallery()))
    assert calls == [10]
    pool, *rounds = (collection.get_offsets() for collection in figure.axes[1].collections)
    assert np.array_equal(pool, at_N2)
    assert [np.asarray(offsets).tolist() for offsets in rounds] == [at_N2[[7, 5]].tolist(), at_N2[[6, 3]].tolist()]
    few = replace(gallery(), shown_N=np.arange(4), features_ND=np.zeros((4, 2), np.float16))
    assert selections.pool_map(example, few) is None
    assert selections.pool_map(replace(example, runs=()), gallery()) is None


def test_tsne_positions_are_repeatable() -> None:
    features = np.random.default_rng(2).standard_normal((60, 50))
    assert np.array_equal(selections.tsne_positions(features), selections.tsne_positions(features))
    assert selections.tsne_positions(features[:5]).shape == (5, 2)


def test_a_contact_sheet_shows_the_first_images_of_each_round(example: Experiment) -> None:
    figure = got(selections.contact_sheet(example, gallery(detection=True), "second", per_round=2))
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert [[int(sheet[top, left, 0]) for left in (0, 7)] for top in (0, 9, 18)] == [[0, 1], [2, 4], [3, 6]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["initial", "round 1", "round 2"]
    outlines = [path.vertices for single in figure.axes[0].collections for path in single.get_paths()]
    assert np.array_equal(outlines[0][[0, 2]], [[0.5, 10.5], [3.5, 13.5]])  # of image 2, in the second row
    assert len(outlines) == 2  # a white outline below a coloured one
    single = got(selections.contact_sheet(example, gallery(), "second", per_round=1))
    column = np.asarray(single.axes[0].images[0].get_array())
    assert column.shape == (3 * 9 - 1, 6, 3)
    assert column[::9, 0, 0].tolist() == [0, 2, 3]
    assert selections.contact_sheet(example, replace(gallery(), shown_N=np.arange(10) + 50), "second") is None
    assert selections.contact_sheet(example, gallery(), "unknown") is None


def test_seconds_are_the_mean_over_the_rounds_that_select(
    example: Experiment, styles: dict[str, style.StrategyStyle]
) -> None:
    assert seconds.mean_selection_seconds(example)["first"] == [15, 30]
    figure = got(seconds.selection_seconds(example, styles))
    assert [list(np.asarray(line.get_xdata())) for line in figure.axes[0].lines[:2]] == [[15, 30], [22.5]]
    assert figure.axes[0].get_xscale() == "log"
    assert seconds.selection_seconds(replace(example, runs=()), styles) is None


def test_boxes_per_bought_image_are_those_of_each_purchase(styles: dict[str, style.StrategyStyle]) -> None:
    """Two runs buy 10 images in each round, with 20 and 30, then 40 and 10 boxes; the initial set is left out."""
    images, boxes = [[10.0, 20, 30]] * 2, [[99.0, 119, 159], [7.0, 37, 47]]
    paid = {"images": np.array(images), "boxes": np.array(boxes)}
    first, second = replace(curve("first", SCORES["first"]), cost=paid), curve("second", SCORES["second"])
    counted = experiment([first, second])
    figure = got(boxes_per_image.boxes_per_image(counted, styles))
    [line] = figure.axes[0].lines
    assert np.asarray(line.get_ydata())[1:].tolist() == [2.5, 2.5]
    assert np.isnan(np.asarray(line.get_ydata())[0])
    cold = replace(counted, schedule=Schedule(0, 10, 3, one_pass=True))
    [line] = got(boxes_per_image.boxes_per_image(cold, styles)).axes[0].lines
    assert np.asarray(line.get_ydata()).tolist() == [(99 + 7) / 20, 2.5, 2.5]
    assert boxes_per_image.boxes_per_image(experiment([second]), styles) is None
    nothing = replace(
        first, cost={kind: values[:, :1] for kind, values in paid.items()}, value_SR=first.value_SR[:, :1]
    )
    assert boxes_per_image.boxes_per_image(experiment([nothing]), styles) is None


def test_patch_clusters_colour_what_is_kept() -> None:
    pixels = np.full((30, 60, 3), 200, np.uint8)
    attention, cluster = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05]), np.array([-1, 0, 1, -1, 0, -1, -1, -1])
    image = patch_clusters.ClusteredImage("image 3", pixels, attention, cluster)
    figure = got(patch_clusters.patch_clusters([image], "birds", "tau 0.5"))
    assert {"image", "attention of 8 patches", "3 hold 60 %: 2 clusters"} <= set(texts(figure))
    overlay = np.asarray(figure.axes[2].images[1].get_array())
    assert overlay.shape == (2, 4, 4)  # twice as wide as high
    colours = overlay.reshape(8, 4)
    assert (colours[1] == colours[4]).all()
    assert not np.allclose(colours[1], colours[2])
    assert (colours[[0, 3, 5, 6, 7], :3] == 1).all()
    with pytest.raises(ValueError, match="image 3: 7 patches form no grid of 30 x 60 pixels"):
        patch_clusters.patch_clusters([replace(image, attention_T=attention[:7], cluster_T=cluster[:7])], "birds")
    assert patch_clusters.patch_clusters([], "birds") is None


# --- names ----------------------------------------------------------------------------------
def test_hostile_names_are_shown_as_they_are(example: Experiment) -> None:
    figures = all_figures.draw_figures([example, replace(example, title="two")], {"made": gallery()})
    assert {"ranks", "made-savings", "made-pool"} <= set(figures)
    figures["penalties"] = got(ranking.penalty_matrix([experiment([constant(HOSTILE, [0, 1]), constant("b", [0, 0])])]))
    for stem, figure in figures.items():
        of_another = "-bought-" in stem and "x_1" not in stem
        assert of_another or any(HOSTILE in text for text in texts(figure)), stem
        assert not any("$" in text.get_text() and text.get_parse_math() for text in figure.findobj(Text)), stem


def test_names_are_text_in_an_svg(example: Experiment, styles: dict[str, style.StrategyStyle], tmp_path: Path) -> None:
    figure = got(seconds.selection_seconds(example, styles))
    svg = style.save_figure(figure, tmp_path / "stem")[1]
    svg_texts = {node.text for node in ElementTree.parse(svg).iter() if node.tag.endswith("}text")}
    assert {HOSTILE, "first", "10", "100"} <= svg_texts
    classes = style.save_figure(got(selections.bought_classes(example, gallery())), tmp_path / "classes")[1].read_text()
    assert "$dog$" in classes
    assert "&lt;cow&gt;" in classes


@pytest.mark.parametrize("name", [LONG, "_begins", "x" * 150, "a" * 40, "", "one two"])
def test_a_broken_name_keeps_its_characters(name: str) -> None:
    parts = words.wrap_name(name).split("\n")
    assert "".join(parts) == name
    assert all(len(part) <= words.LINE_WIDTH for part in parts)


def test_long_legends_neither_cover_the_plot_nor_leave_the_figure() -> None:
    names = [LONG, "W" * 150, "_begins", *(f"strategy_{number}" for number in range(25))]
    crowded = experiment([curve(name, SCORES["first"]) for name in names], "title " * 30)
    figure = got(figures_curves.learning_curves(crowded, style.strategy_styles(names), "images"))
    legend, plot = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert [text.get_text().replace("\n", "") for text in figure.legends[0].get_texts()] == names
    assert legend.x0 >= plot.x1
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= legend.y0 < legend.y1 <= figure.bbox.y1
    title = next(crowded for crowded in figure.findobj(Text) if str(crowded.get_text()).startswith("title"))
    assert title.get_window_extent().x1 <= legend.x0
    assert plot.width > 300


def test_names_of_ranks_stay_in_the_figure() -> None:
    names = ["W" * 150, LONG, "a", "b", "c"]
    every = [experiment([curve(name, [[place, 2, 3]], [0]) for place, name in enumerate(names)], t) for t in "ab"]
    figure = got(ranking.rank_diagram(every))
    for text in [*figure.axes[0].texts, *figure.texts]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


# --- files ----------------------------------------------------------------------------------
def test_a_figure_is_saved_to_the_same_bytes(
    example: Experiment, styles: dict[str, style.StrategyStyle], tmp_path: Path
) -> None:
    figures = [got(figures_curves.learning_curves(example, styles)) for _ in range(2)]
    saved = [
        style.save_figure(figure, tmp_path / str(place) / "stem") for place, figure in enumerate([figures[0], *figures])
    ]
    assert [path.name for path in saved[0]] == ["stem.png", "stem.svg", "stem.pdf"]
    for path, again, anew in zip(*saved, strict=True):
        assert path.read_bytes() == again.read_bytes() == anew.read_bytes(), path.suffix
    assert not re.search(rb"CreationDate|<dc:date>", saved[0][1].read_bytes() + saved[0][2].read_bytes())


def test_a_gallery_is_read_as_it_was_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(detection=True))
    loaded = Gallery.read(tmp_path / "a.npz")
    assert np.array_equal(loaded.box_side_M, arrays(detection=True)["box_side_M"])
    assert loaded.fault == ""


def broken_galleries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Error messages and the files that cause them."""
    broken: dict[str, dict[str, Any]] = {
        "classes_C is object": {"classes_C": np.zeros((1, 2))},
        "differ in length": {"shown_N": np.arange(3)},
        "labels_P has impossible values": {"labels_P": np.array([0, 3])},
        "drawn_K5 has impossible values": {"drawn_K5": np.array([[10, 0, 0, 1, 1]], np.float32)},
        "features_ND has impossible values": {"features_ND": np.full((10, 4), np.inf, np.float16)},
        "thumbs_NHW3 is": {"thumbs_NHW3": np.zeros((10, 8, 6), np.uint8)},
    }
    for number, (message, wrong) in enumerate(broken.items()):
        np.savez(folder / f"{number}.npz", **arrays() | wrong)
        yield message.replace("object", "float64"), folder / f"{number}.npz"
    np.savez(folder / "lacks.npz", labels_P=np.arange(3))
    yield "box_image_M", folder / "lacks.npz"
    np.savez(folder / "objects.npz", **arrays() | {"classes_C": np.array(["a", None])})
    yield "classes_C is object", folder / "objects.npz"
    (folder / "pickle.npz").write_bytes(pickle.dumps(arrays()))
    np.save(folder / "array.npy", np.arange(3))
    (folder / "empty.npz").write_bytes(b"")
    (folder / "torn.npz").write_bytes((folder / "0.npz").read_bytes()[:300])
    (folder / "text.npz").write_text("labels")
    yield from (("is no gallery", folder / name) for name in ("pickle.npz", "array.npy", "empty.npz", "torn.npz"))
    yield from (("is no gallery", folder / name) for name in ("text.npz", "missing.npz"))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for message, path in broken_galleries(tmp_path):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            Gallery.read(path)
        assert f"{path} is no gallery: " in str(error.value)
        assert "\n" not in str(error.value)


def test_everything_names_its_figures(example: Experiment) -> None:
    figures = all_figures.draw_figures([example], {"made": gallery(detection=True)})
    assert list(figures) == [
        "made-curves-images", "made-labels_needed", "made-savings", "made-overlap", "made-seconds", "made-classes",
        "made-sizes", "made-pool", "made-bought-first", "made-bought-second", "made-bought-_b__x_1_____q_-148442dc",
    ]  # fmt: skip
    many = experiment([constant("aa", [0, 1, 1]), constant("b", [0, 0, 0])])
    assert "penalties" in all_figures.draw_figures([many], {})


def test_a_strategy_looks_the_same_whatever_else_is_drawn() -> None:
    alone, many = (
        style.strategy_styles(["isal"]),
        style.strategy_styles(["mine", "random", "isal", "isal[k=2]", "coreset[metric=cosine]"]),
    )
    assert alone["isal"] == many["isal"]
    assert many["coreset[metric=cosine]"] == style.strategy_styles(["coreset"])["coreset"]  # alone
    assert many["isal[k=2]"] != many["isal"]
    assert len(set(many.values())) == 5
    assert style.strategy_styles(["isal[k=2]", "isal"])["isal"] == alone["isal"]  # whichever comes first
