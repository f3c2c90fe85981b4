"""Published means are compared without pairs: differences, Welch's interval where spreads are printed, no verdict."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from _curves import curve, experiment
from benchmark.analysis.curves import Curve
from benchmark.analysis.mean_comparisons import compare_means, describe_means, mean_rows


def paper_curve(name: str, means: list[float], std: list[float] | None = None, num_runs: int = 5) -> Curve:
    """A curve of which only means are known."""
    std_R = None if std is None else np.array(std)
    return curve(name, means, seeds=(), num_runs=num_runs, std_R=std_R)


def test_the_interval_is_welchs() -> None:
    first = paper_curve("a", [50, 60, 70], [1.0, 1.0, 1.2], num_runs=5)
    second = paper_curve("b", [50, 58, 66], [1.0, 2.0, 0.4], num_runs=3)
    found = compare_means(experiment(first, second, source="paper"), "a", "b", 0.95)
    welch = scipy_stats.ttest_ind_from_stats(70, 1.2, 5, 66, 0.4, 3, equal_var=False)
    variances = 1.2**2 / 5, 0.4**2 / 3
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 4 + variances[1] ** 2 / 2)
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert found.final_difference.value == 4
    assert found.final_difference.low == pytest.approx(4 - half)
    assert found.final_difference.high == pytest.approx(4 + half)
    assert welch.statistic == pytest.approx(4 / math.sqrt(sum(variances)))
    assert found.areas == (60.0, 58.0)


def test_without_spreads_there_is_no_interval_and_never_a_verdict() -> None:
    papers = experiment(paper_curve("a", [50, 60]), paper_curve("b", [50, 58], [1, 1]), source="paper")
    found = compare_means(papers, "a", "b", 0.95)
    assert math.isnan(found.final_difference.low)
    lines = describe_means(found)
    assert lines[0] == "a minus b on made_up: means of 5 and 5 runs, as paper prints them, not paired"
    assert lines[1].startswith("accuracy at 2,000 labelled images: +2.00 (no interval")
    assert "no verdict" in lines[-1]
    assert mean_rows([found])[0]["verdict"] == "means only"


def test_rounds_that_only_one_has_are_left_out() -> None:
    papers = experiment(paper_curve("a", [50, 60, np.nan]), paper_curve("b", [50, 58, 66]), source="paper")
    found = compare_means(papers, "a", "b", 0.95)
    assert (found.num_labelled, found.final_difference.value, found.areas) == (2000, 2, (55.0, 54.0))
    apart = experiment(paper_curve("a", [50, np.nan]), paper_curve("b", [np.nan, 58]), source="paper")
    with pytest.raises(ValueError, match="no number of labels in common"):
        compare_means(apart, "a", "b", 0.95)


def test_shares_and_percentages_are_not_compared() -> None:
    papers = experiment(paper_curve("a", [50, 60]), paper_curve("b", [0.5, 0.6]), source="paper")
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_means(papers, "a", "b", 0.95)
