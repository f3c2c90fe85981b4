"""Published means are compared without pairs: differences, Welch's interval where spreads are printed, no verdict."""

import json
import math

import numpy as np
import pytest
from _curves import curve, experiment
from scipy import stats as scipy_stats
from typer.testing import CliRunner

import benchmark
from benchmark.analysis.curves import Curve
from benchmark.analysis.mean_comparisons import compare_means, describe_means, mean_rows
from benchmark.cli.commands import app


def paper_curve(name: str, means: list[float], std: list[float] | None = None, num_runs: int = 5) -> Curve:
    """A curve of which only means are known."""
    std_R = None if std is None else np.array(std)
    return curve(name, means, seeds=(), num_runs=num_runs, std_R=std_R)


def test_the_interval_is_welchs() -> None:
    first = paper_curve("a", [50, 60, 70], [1.0, 1.0, 1.2], num_runs=5)
    second = paper_curve("b", [50, 58, 66], [1.0, 2.0, 0.4], num_runs=3)
    comparison = compare_means(experiment(first, second, source="paper"), "a", "b", 0.95)
    welch = scipy_stats.ttest_ind_from_stats(70, 1.2, 5, 66, 0.4, 3, equal_var=False)
    variances = 1.2**2 / 5, 0.4**2 / 3
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 4 + variances[1] ** 2 / 2)
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert comparison.final_difference.value == 4
    assert comparison.final_difference.low == pytest.approx(4 - half)
    assert comparison.final_difference.high == pytest.approx(4 + half)
    assert welch.statistic == pytest.approx(4 / math.sqrt(sum(variances)))
    assert comparison.areas == (60.0, 58.0)


def test_without_spreads_there_is_no_interval_and_never_a_verdict() -> None:
    papers = experiment(paper_curve("a", [50, 60]), paper_curve("b", [50, 58], [1, 1]), source="paper")
    comparison = compare_means(papers, "a", "b", 0.95)
    assert math.isnan(comparison.final_difference.low)
    lines = describe_means(comparison)
    assert lines[0] == "a minus b on made_up: means of 5 and 5 runs, published by paper, not paired"
    assert lines[1].startswith("accuracy at 2,000 labelled images: +2.00 (no interval")
    assert "no verdict" in lines[-1]
    assert mean_rows([comparison])[0]["verdict"] == "means only"


def test_rounds_that_only_one_has_are_left_out() -> None:
    papers = experiment(paper_curve("a", [50, 60, np.nan]), paper_curve("b", [50, 58, 66]), source="paper")
    comparison = compare_means(papers, "a", "b", 0.95)
    assert (comparison.num_labelled, comparison.final_difference.value, comparison.areas) == (2000, 2, (55.0, 54.0))
    apart = experiment(paper_curve("a", [50, np.nan]), paper_curve("b", [np.nan, 58]), source="paper")
    with pytest.raises(ValueError, match="no number of labels in common"):
        compare_means(apart, "a", "b", 0.95)


def test_shares_and_percentages_are_not_compared() -> None:
    papers = experiment(paper_curve("a", [50, 60]), paper_curve("b", [0.5, 0.6]), source="paper")
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_means(papers, "a", "b", 0.95)


def test_the_command_and_python_compare_published_curves() -> None:
    arguments = ["compare", "isal", "random", "records=published", "task=isal_2021_cifar10"]
    assert "means of 5 and 5 runs, published by isal-2021, not paired" in invoke(*arguments).replace("\n", " ")
    [row] = json.loads(invoke(*arguments, "format=json"))
    [row_in_python] = benchmark.published().compare("isal", "random").query("task == 'cifar10'").to_dict("records")
    assert row["verdict"] == row_in_python["verdict"] == "means only"
    assert row["final"] == pytest.approx(row_in_python["final"]) == pytest.approx(2.67, abs=0.005)


def invoke(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.stdout
