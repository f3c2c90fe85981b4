"""Variance components: true values are recovered, and `variance` runs the cells it needs, each of them once."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from _cells import FAULTY, bytes_of
from typer.testing import CliRunner

from benchmark.analysis import load_experiments, variance
from benchmark.analysis.savings import Price
from benchmark.analysis.stats import Interval
from benchmark.analysis.variance import VarianceComponents, contributions, estimate_components, expected_standard_errors
from benchmark.cli.commands import app
from benchmark.contract.metrics import ACCURACY
from benchmark.experiment.variants import ORDINARY
from benchmark.records.store import Store
from benchmark.seeds import seed

SHELF = [
    "tasks=[shelf]", "strategies=[random,in_order,scattered]", "initial=20", "budget=5", "rounds=3", "validation=0",
    f"plugins={FAULTY}", "device=cpu",
]  # fmt: skip


def simulate_scores(num_sets: int, num: int, parts: tuple[float, float, float], name: str) -> np.ndarray:
    """(num, N, 3): scores of simulated experiments with these true variances."""
    rng = np.random.default_rng(seed("variance simulated", name, num_sets))
    initial, training, selection = np.sqrt(parts)
    training_N2 = training * rng.standard_normal((num, num_sets, 2))
    selection_N3 = selection * rng.standard_normal((num, num_sets, 3))
    return initial * rng.standard_normal((num, num_sets, 1)) + training_N2[..., [0, 0, 1]] + selection_N3


@pytest.mark.parametrize(("num_sets", "errors"), [(30, (0.55, 0.49, 0.26)), (10, (0.985, 0.855, 0.45))])
def test_true_components_are_recovered_within_their_standard_errors(num_sets: int, errors: tuple[float, ...]) -> None:
    estimates = contributions(simulate_scores(num_sets, 10_000, (1, 1, 1), "recovered")).mean(1)
    np.testing.assert_allclose(estimates.mean(0), 1, atol=4 * max(errors) / math.sqrt(10_000))
    np.testing.assert_allclose(estimates.std(0), errors, rtol=0.04)
    np.testing.assert_allclose(expected_standard_errors((1, 1, 1), num_sets), errors, rtol=0.02)


@pytest.mark.parametrize("parts", [(2.0, 0.5, 0.1), (0.0, 1.0, 3.0), (1.0, 0.0, 0.0)])
def test_components_are_separated_from_each_other(parts: tuple[float, float, float]) -> None:
    estimates = contributions(simulate_scores(20, 10_000, parts, "apart")).mean(1)
    errors = expected_standard_errors(parts, 20)
    np.testing.assert_allclose(estimates.mean(0), parts, atol=4 * errors.max() / math.sqrt(10_000))
    np.testing.assert_allclose(estimates.std(0), errors, rtol=0.04, atol=1e-9)


def test_estimates_below_zero_are_reported_as_they_are() -> None:
    scores_N3 = np.array([[1.0, -1, 0], [-1, 1, 0], [1, -1, 0], [-1, 1, 0], [1, -1, 0.0]])
    initial, training, selection = estimate_components(scores_N3, 0.95, np.random.default_rng(0))
    assert (training.value, selection.value) == (-1.5, 2.0)
    assert initial.value == pytest.approx(5 / 9 * 1.5 - 2 / 3)
    [row] = variance.rows([VarianceComponents("x", ACCURACY, "a", "", "area", 5, (initial, training, selection), 0.95)])
    assert row["training"] == "-1.5"
    negative = VarianceComponents("x", ACCURACY, "a", "b", "area", 5, (Interval(-1, -2, 0), initial, selection), 0.95)
    assert negative.expected_variance(20, 1) <= negative.expected_variance(
        5, 4
    )  # a negative estimate does not change that


def test_constant_components_and_few_sets_have_no_interval() -> None:
    rng = np.random.default_rng(1)
    scores_N3 = np.repeat(rng.standard_normal((8, 2)), [2, 1], axis=1)  # the first two runs are the same
    parts = estimate_components(scores_N3, 0.95, rng)
    assert parts[2].value == 0
    assert [math.isnan(estimate.low) for estimate in parts] == [False, False, True]
    assert all(math.isnan(estimate.low) for estimate in estimate_components(scores_N3[:4], 0.95, rng))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_sets", "parts", "least"), [(30, (1, 1, 1), 0.90), (10, (1, 1, 1), 0.86), (30, (0.2, 1.0, 0.5), 0.90)]
)
def test_intervals_cover_the_truth(
    num_sets: int, parts: tuple[float, float, float], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variance, "REPLICATES", 1_000)
    rng, covered, plain = np.random.default_rng(seed("variance coverage", num_sets)), np.zeros(3), np.zeros(3)
    for scores_N3 in simulate_scores(num_sets, 1_000, parts, "covered"):
        estimates = estimate_components(scores_N3, 0.95, rng)
        covered += [estimate.low <= truth <= estimate.high for estimate, truth in zip(estimates, parts, strict=True)]
        drawn_M3 = contributions(scores_N3[rng.integers(num_sets, size=(500, num_sets))]).mean(1)
        low_3, high_3 = np.quantile(drawn_M3, [0.025, 0.975], axis=0)  # the plain percentile interval, for comparison
        plain += (low_3 <= parts) & (parts <= high_3)
    print(num_sets, parts, covered / 1_000, plain / 1_000)
    assert plain.mean() < covered.mean()
    assert (covered / 1_000 >= least).all()
    assert (covered / 1_000 <= 0.98).all()


def test_new_initial_sets_are_the_best_use_of_runs() -> None:
    even = tuple(Interval(0.5, math.nan, math.nan) for _ in range(3))
    components = VarianceComponents("x", ACCURACY, "margin", "random", "area", 30, even, 0.95)  # type: ignore[arg-type]
    assert components.expected_variance(20, 1) == pytest.approx(0.075)
    assert components.expected_variance(5, 4) == pytest.approx(0.15)
    words = variance.advice([components])
    assert "20 sets of 1 run know the mean difference of accuracy from random with a standard error of 0.27" in words
    assert "5 sets of 4 runs with one of 0.39" in words
    rng = np.random.default_rng(seed("variance designs"))  # a simulation of both designs confirms it
    for num_sets, num_runs in variance.DESIGNS:
        initial_MN1 = rng.standard_normal((20_000, num_sets, 1))
        means_M = (initial_MN1 + math.sqrt(2) * rng.standard_normal((20_000, num_sets, num_runs))).mean((1, 2))
        assert means_M.var() == pytest.approx(2 * components.expected_variance(num_sets, num_runs), rel=0.05)


# --- the command ------------------------------------------------------------------------------
@pytest.fixture
def _restored_settings() -> Iterator[None]:
    """Restores the settings of this process that deterministic=true changes."""
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


pytestmark = pytest.mark.usefixtures("_restored_settings")


def invoke(*words: str, code: int = 0) -> str:
    """Runs a command and returns its output."""
    result = CliRunner().invoke(app, [*words])
    refused = code == 2 and isinstance(result.exception, ValueError)
    assert result.exit_code == code or refused, (result.output, result.exception)
    return result.output + (str(result.exception) if code == 2 else "")


@pytest.fixture(scope="module")
def three_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with three strategies and three sets; tests that change it take `sets_copy`."""
    folder = tmp_path_factory.mktemp("sets")
    invoke("variance", *SHELF, "sets=3", f"out={folder}")
    return folder


@pytest.fixture
def sets_copy(three_sets: Path, tmp_path: Path) -> Path:
    """A copy of `three_sets` that a test may change."""
    return Path(shutil.copytree(three_sets, tmp_path / "copy"))


def test_ordinary_records_count_and_only_the_rest_is_run(tmp_path: Path) -> None:
    invoke("run", *SHELF, "seeds=3", f"out={tmp_path}", "strategies=[random,in_order,scattered,box_count]")
    before = bytes_of(tmp_path)
    output = invoke("variance", *SHELF, "sets=3", f"out={tmp_path}")
    assert "27 cells, 18 to do" in output
    assert "deterministic=true is set: " in output
    assert "3 initial sets are few" in output
    after = bytes_of(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(after) == 30  # the strategy that is not in the command keeps its three runs
    output = invoke("variance", *SHELF, "sets=3", f"out={tmp_path}", "deterministic=true")
    assert "27 cells, 0 to do" in output
    assert "deterministic=true is set" not in output
    assert "9 cells, 0 to do" in invoke("run", *SHELF, "seeds=3", f"out={tmp_path}")
    commands = [run["command"].split()[3] for run in json.loads((tmp_path / "grid.json").read_text())["runs"]]
    assert commands == ["run", "variance", "variance", "run"]


def test_an_interrupted_run_continues_to_the_same_bytes(three_sets: Path, tmp_path: Path) -> None:
    for _ in range(2):
        invoke("variance", *SHELF, "sets=3", f"out={tmp_path}", "gpu_hours=1e-7", code=1)
    invoke("variance", *SHELF, "sets=3", f"out={tmp_path}")
    assert bytes_of(tmp_path) == bytes_of(three_sets)
    tables = [folder / "tables" / "variance" / "shelf.csv" for folder in (tmp_path, three_sets)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_scores_are_those_of_the_records(three_sets: Path) -> None:
    [shelf] = load_experiments.read_stores([Store(three_sets)])
    price = Price("boxes", 0, 0)
    own = variance.set_scores(shelf, "random", "", [0, 1], price)
    gaps = variance.set_scores(shelf, "scattered", "random", [0, 1], price)
    by_name = {(run.strategy, run.seed, run.variant.file_suffix): run.records for run in shelf.all_runs}
    for place, ending in enumerate(("", "-selection-1", "-training-1-selection-2")):
        for number in (0, 1):
            mine, other = (by_name[name, number, ending] for name in ("scattered", "random"))
            assert own["final"][number, place] == other[-1].scores["map"]
            assert gaps["final"][number, place] == mine[-1].scores["map"] - other[-1].scores["map"]
    runs = [run for run in shelf.runs + shelf.variant_runs if run.strategy == "random" and run.seed < 2]
    paid = {run.path: [record.cost["boxes"] for record in run.records] for run in runs}
    low, high = max(boxes[0] for boxes in paid.values()), min(boxes[-1] for boxes in paid.values())
    first = next(run for run in runs if run.seed == 0 and run.variant == ORDINARY)
    at = np.linspace(low, high, 20_001)  # areas are over the range of cost that all runs of a strategy have
    heights = np.interp(at, paid[first.path], [record.scores["map"] for record in first.records])
    assert own["area"][0, 0] == pytest.approx(heights.mean(), abs=1e-5)
    assert gaps["area"].shape == (2, 3)


def test_tables_and_figures_are_written(sets_copy: Path) -> None:
    shutil.rmtree(sets_copy / "tables")
    shutil.rmtree(sets_copy / "figures")
    output = invoke("variance", f"out={sets_copy}")
    assert "always take new initial sets" in " ".join(output.split())
    rows = (sets_copy / "tables" / "variance" / "shelf.csv").read_text().splitlines()
    assert rows[0] == "task,strategy,against,metric,measure,sets,component,variance,low,high,level"
    assert len(rows) == 1 + 3 * 2 * (3 + 2)  # components, measures, strategies and differences from random
    for ending in ("md", "tex"):
        text = (sets_copy / "tables" / "variance" / f"shelf.{ending}").read_text()
        assert "area minus random" in text
        assert "always take new initial sets" in text
    assert {path.name for path in (sets_copy / "figures").glob("*.svg")} == {
        "shelf-variance-area.svg", "shelf-variance-final.svg",
    }  # fmt: skip
    tidy_rows = json.loads(CliRunner().invoke(app, ["variance", f"out={sets_copy}", "format=json"]).stdout)
    assert {row["component"] for row in tidy_rows} == {"initial set", "training", "selection"}
    assert any(row["low"] is None for row in tidy_rows)  # components that are always 0 have no interval
    other = invoke("variance", f"records={sets_copy}", "reference=scattered", f"to={sets_copy / 'else'}")
    assert "minus scattered" in other
    assert (sets_copy / "else" / "tables" / "variance" / "shelf.csv").exists()


def test_an_incomplete_set_is_left_out(sets_copy: Path) -> None:
    [path] = (sets_copy / "cells").rglob("scattered/seed-2-selection-1.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    output = invoke("variance", f"out={sets_copy}")
    assert "shelf: scattered: 1 set not finished, and left out" in output
    components = variance.strategy_components(
        load_experiments.read_stores([Store(sets_copy)])[0], "random", Price("images", 0, 0), 0.95, 0
    )
    assert {(component.strategy, component.num_sets) for component in components} == {
        ("random", 3),
        ("in_order", 3),
        ("scattered", 2),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variance", "sets=1"], "at least 2"),
        (["variance", "sets=3", "seeds=2"], "seeds=2: has no effect with sets=3"),
        (["variance", "sets=3", "deterministic=false"], "deterministic=false: "),
        (["variance", "sets=3", "reference=isal"], "shelf has no strategy 'isal'"),
        (["run", "sets=3"], "sets=3: has no effect here: type `variance sets=N`, or seeds=N"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    output = invoke(words[0], *SHELF, *words[1:], f"out={tmp_path}", code=2)
    assert message in output


def test_records_without_variants_say_what_to_type(tmp_path: Path) -> None:
    invoke("run", *SHELF, "seeds=2", f"out={tmp_path}")
    assert "add sets=30, which runs them" in invoke("variance", f"out={tmp_path}", code=2)


def test_a_forecast_counts_the_variants(tmp_path: Path) -> None:
    output = invoke("variance", *SHELF, "sets=2", f"out={tmp_path}", "dry_run=true")
    assert "18 cells, 54 rounds, 40 fits (14 of 54 fits are shared)" in output.replace("\n", " ")


def test_rounding_that_counts_as_selection_is_a_remark(three_sets: Path) -> None:
    [shelf] = load_experiments.read_stores([Store(three_sets)])
    assert variance.num_unequal_starts(shelf, "random") == 0
    shelf.curves["random"].value_SR[0, 0] += 1e-9
    components = variance.strategy_components(shelf, "random", Price("images", 0, 0), 0.95, 0)
    assert any(
        "round 0 of 1 set was not repeated by the same training" in line for line in variance.remarks(shelf, components)
    )


@pytest.mark.slow
@pytest.mark.parametrize("word", ["jobs=2", "launcher=ray"])
def test_cells_side_by_side_write_the_same_bytes(word: str, tmp_path: Path) -> None:
    if word == "launcher=ray":
        pytest.importorskip("ray")
    command = [sys.executable, "-m", "benchmark", "variance", *SHELF, "sets=2"]
    for out, words in (("alone", []), ("parallel", [word])):
        subprocess.run([*command, f"out={tmp_path / out}", *words], check=True, timeout=600)
    assert bytes_of(tmp_path / "alone") == bytes_of(tmp_path / "parallel")
