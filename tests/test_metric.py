"""A metric decides how tables, comparisons, savings, verdicts and figures treat its values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from _curves import PLAIN, curve, experiment, recorded
from msgspec import structs

import benchmark
from benchmark.analysis import audit, comparisons, savings, tables, verify
from benchmark.analysis.comparisons import Comparison
from benchmark.analysis.curves import Experiment
from benchmark.analysis.equivalence import STRONGER, WEAKER, Gap, judge
from benchmark.analysis.figures import ranking
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.rounds_csv import CLASS_COLUMNS
from benchmark.api import ACCURACY, MEAN_AP, Metric, Scores, scores_by_class
from benchmark.conformance.task_checks import scores_its_metric
from benchmark.contract.metrics import KNOWN_METRICS, class_scores, resolve_metric
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.records.checksummed_lines import encode_line
from benchmark.records.store import Store

ERROR = Metric("error", "percent", higher_is_better=False, digits=1, margin=0.5)
PRICE = savings.Price("images")
RISING = {"good": [[50.0, 70, 80], [52, 71, 82], [51, 72, 84]], "poor": [[50.0, 60, 70], [52, 61, 72], [51, 62, 71]]}


def of_metric(metric: Metric, turned: bool) -> list[Comparison]:
    """A good and a poor strategy, measured by accuracy or by the corresponding error."""
    return comparisons.compare_all(rates(metric, turned), "poor", PRICE, 0.95, 0)[0]


def rates(metric: Metric, turned: bool) -> Experiment:
    curves = [
        curve(name, [[100 - value if turned else value for value in row] for row in rows])
        for name, rows in RISING.items()
    ]
    return experiment(*curves, metric=metric)


def test_the_known_metrics_are_those_that_records_and_curves_name() -> None:
    assert KNOWN_METRICS.keys() == {"accuracy", "map", "voc07_map", "ap", "miou", "oks_ap"}
    assert resolve_metric("accuracy") is ACCURACY
    assert resolve_metric(ERROR) is ERROR
    assert resolve_metric("nobody knows") == Metric("nobody knows", "", True, 2, None)
    assert {curves.metric for curves in benchmark.published().experiments} <= set(KNOWN_METRICS.values())


def test_what_a_header_tells_reaches_table_and_verdict(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    for path in tmp_path.rglob("cells/**/*.jsonl"):
        header, *lines = path.read_bytes().splitlines(keepends=True)
        fields = json.loads(header)["body"] | {"metric": {"name": "accuracy", "digits": 0, "margin": 9.0}}
        path.write_bytes(b"".join([encode_line(fields), *lines]))
    [loaded] = read_experiments(str(store.folder))
    assert loaded.metric == Metric("accuracy", digits=0, margin=9.0)
    assert "| 51 ± 1 |" in tables.to_markdown(tables.build_table(loaded))
    assert tables.tidy_rows(tables.build_table(loaded))[0]["metric"] == "accuracy"
    assert {comparison.margin for comparison in comparisons.compare_all(loaded, "random", PRICE, 0.95, 0)[0]} == {9.0}


def test_less_is_better_where_the_metric_says_so() -> None:
    [rising], [falling] = of_metric(ACCURACY, False), of_metric(ERROR, True)
    better = replace(falling, holm_p=0.001), replace(rising, holm_p=0.001)
    assert [comparison.verdict for comparison in better] == ["better", "better"]
    assert rising.saving is not None
    assert falling.saving is not None
    assert falling.saving.strategy_cost == pytest.approx(rising.saving.strategy_cost)
    assert falling.saving.percent.value == pytest.approx(rising.saving.percent.value)
    assert falling.saving.target == pytest.approx(100 - rising.saving.target)
    words = replace(falling, holm_p=0.001, saving=None).sentence
    assert words.startswith("good is better than poor: its mean error is 7.8 lower, 95 % interval 6.7 to 8.8")
    worse = replace(rising, holm_p=0.001, saving=None, metric=ERROR).sentence
    assert worse.startswith("good is worse than poor: its mean error is 7.8 higher")


@pytest.mark.parametrize(("metric", "turned"), [(ACCURACY, False), (ERROR, True)], ids=["rising", "falling"])
def test_looks_and_figures_know_which_way_is_better(metric: Metric, turned: bool) -> None:
    rng = np.random.default_rng(0)
    scores = {name: level + rng.normal(0, 0.1, (20, 3)) for name, level in (("good", 80.0), ("poor", 70.0))}
    curves = [curve(name, (100 - rows if turned else rows).tolist()) for name, rows in scores.items()]
    results = experiment(*curves, metric=metric, auto_seeds=AutoSeeds("poor", 0.95, 20))
    assert comparisons.compare_sequentially(results, "poor")["good"].status == "better"
    areas = ranking.mean_areas(results)
    assert areas["good"] > areas["poor"]
    names, wins_AA = ranking.sum_penalties([(results, curves)])
    assert names == ["good", "poor"]
    assert wins_AA[0, 1] == 1 > wins_AA[1, 0]


def test_stronger_is_less_of_an_error() -> None:
    gaps = [Gap(100.0, -5.0, 5, 0.1, 5, 0.1)]
    assert judge(gaps, 1.0, 0.95)[0] == WEAKER
    assert judge(gaps, 1.0, 0.95, higher_is_better=False)[0] == STRONGER


def test_bands_are_refused_and_the_audit_asks_nothing_of_scores_that_fall() -> None:
    errors = rates(ERROR, True)
    with pytest.raises(ValueError, match="of error less is better"):
        savings.compute_savings(
            errors, "good", "poor", savings.TargetRule("band", 20.0, 22.0), PRICE, np.random.default_rng(0)
        )
    fallen = experiment(curve("good", [[60.0, 10.0, 0.0]]), metric=ERROR)
    assert not [fault for fault in audit.find_faults(fallen) if fault.check == "fits converged"]
    assert [fault for fault in audit.find_faults(replace(fallen, metric=ACCURACY)) if fault.check == "fits converged"]


def test_a_metric_without_a_margin_has_no_verdict() -> None:
    errors = experiment(curve("a", [[70.0], [70.1], [70.0]], [100]), metric=Metric("error"))
    assert "metric: how close two scores must be is not defined for error" in verify.mismatches(
        errors, errors, "a", "a"
    )


def test_scores_are_a_dict_with_those_of_classes_beside() -> None:
    scores = Scores({"map": 0.5}, {"ap": {"cat": 0.5}})
    assert scores == {"map": 0.5}
    assert class_scores(scores) == {"ap": {"cat": 0.5}}
    assert class_scores({"map": 0.5}) == {}
    assert scores_by_class(["cat", "dog", "cat"], [1.0, None, 3.0]) == {"cat (0)": 1.0, "cat (2)": 3.0}
    assert MEAN_AP.is_share


def test_the_scores_of_single_classes_as_a_frame(tmp_path: Path) -> None:
    store = recorded(tmp_path / "old", {"mine": {0: [50.0, 60.0]}})
    assert benchmark.load(store.folder).class_scores().empty  # records from before they told them
    cell = "made/mine/seed-0"
    header, records = store.records(cell)
    assert header is not None
    new = Store(tmp_path / "new")
    recorded(new.folder, {"mine": {0: []}})
    new.start_cell(cell, header)
    for record, measured in zip(records, store.measurements(cell), strict=True):
        of_class = {"accuracy": {"cat": record.scores["accuracy"] + 1, "dog": 40.0}}
        new.append(cell, structs.replace(record, class_scores=of_class), measured)
    frame = benchmark.load(new.folder).class_scores("made_up")
    assert list(frame.columns) == list(CLASS_COLUMNS)
    assert frame[["strategy", "seed", "round", "images", "class", "score", "value"]].to_numpy().tolist() == [
        ["mine", 0, 0, 4, "cat", "accuracy", 51.0], ["mine", 0, 0, 4, "dog", "accuracy", 40.0],
        ["mine", 0, 1, 6, "cat", "accuracy", 61.0], ["mine", 0, 1, 6, "dog", "accuracy", 40.0],
    ]  # fmt: skip
    old, both = benchmark.load(store.folder).frame(), benchmark.load(new.folder).frame()
    assert old.equals(both)
    for folders in ((store.folder, new.folder), (new.folder, store.folder)):  # of two releases, and still the same
        assert benchmark.load(*folders).frame().equals(old)
    other = Store(tmp_path / "other")
    recorded(other.folder, {"mine": {0: []}})
    other.start_cell(cell, header)
    wrong = structs.replace(records[0], class_scores={"accuracy": {"cat": 1.0}})
    other.append(cell, wrong, store.measurements(cell)[0])
    assert len(benchmark.load(store.folder, other.folder).frame()) == len(old)
    with pytest.raises(ValueError, match="are the same cell with other settings, data or records"):
        benchmark.load(new.folder, other.folder)


def test_the_check_of_a_task_reads_the_scores_of_classes_too() -> None:
    scores = Scores({"accuracy": 50.0}, {"accuracy": {"cat": 50.0, "dog": float("nan")}})
    task = SimpleNamespace(metric=ACCURACY, score=lambda model: scores)
    assert scores_its_metric(SimpleNamespace(prepare=lambda: (task, None, None))) == "not finite: accuracy of dog"  # type: ignore[arg-type]
    task.metric = "nll"
    fitted: Any = SimpleNamespace(prepare=lambda: (task, None, None))
    assert scores_its_metric(fitted) == "score() does not return the metric nll"
