"""Verdicts on published curves hold: by hand, and over simulated papers and runs whose truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmark.analysis.equivalence import (
    INCONCLUSIVE,
    REPRODUCED,
    STRONGER,
    STRONGER_AND_WEAKER,
    WEAKER,
    Gap,
    judge,
    runs_to_decide,
)

MARGIN = 1.0


def gap(
    value: float, *, runs: int = 5, std: float = 0.5, their_runs: int | None = 5, their_std: float | None = 0.5
) -> Gap:
    return Gap(1000, value, runs, std, their_runs, their_std)


def test_an_interval_is_welchs() -> None:
    ours, theirs = np.array([70.1, 71.9, 70.4, 72.2]), np.array([69.0, 70.5, 69.9, 71.1, 68.2, 70.0])
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    interval = Gap(1000, ours.mean() - theirs.mean(), 4, ours.std(ddof=1), 6, theirs.std(ddof=1)).interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_p_beyond_a_margin_of_zero_is_that_of_the_t_test() -> None:
    ours, theirs = np.array([70.1, 71.9, 70.4, 72.2]), np.array([69.0, 70.5, 69.9, 71.1, 68.2, 70.0])
    mine = Gap(1000, ours.mean() - theirs.mean(), 4, ours.std(ddof=1), 6, theirs.std(ddof=1))
    assert mine.p_beyond(0.0) == pytest.approx(scipy_stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    assert mine.p_beyond(5.0) == 1.0


def test_an_interval_that_holds_zero_and_reaches_past_the_margin_is_no_reproduction() -> None:
    wide = gap(0.99, std=0.8, their_std=0.8)  # its 95 % interval holds zero, and is narrower than twice the margin
    assert wide.interval(0.95).low < 0
    assert judge([wide], MARGIN, 0.95)[0] == INCONCLUSIVE


def test_gaps_that_cancel_are_no_reproduction() -> None:
    word, why = judge([gap(3.0), gap(0.0), gap(-3.0)], MARGIN, 0.95)
    assert word == STRONGER_AND_WEAKER
    assert why == "beyond ± 1: +3 at 1,000 labels and at 1 other number of labels"


@pytest.mark.parametrize(
    ("value", "verdict"), [(3.0, STRONGER), (-3.0, WEAKER), (0.1, REPRODUCED), (1.0, INCONCLUSIVE)]
)
def test_verdicts_by_hand(value: float, verdict: str) -> None:
    assert judge([gap(value, std=0.3, their_std=0.3)] * 3, MARGIN, 0.95)[0] == verdict


def test_one_number_of_labels_that_is_not_known_is_enough_to_leave_it_open() -> None:
    narrow, wide = gap(0.1, std=0.2, their_std=0.2), gap(0.1, std=3.0, their_std=0.2)
    assert judge([narrow, narrow], MARGIN, 0.95)[0] == REPRODUCED
    assert judge([narrow, wide], MARGIN, 0.95)[0] == INCONCLUSIVE


def test_what_is_not_published_is_said_to_be_assumed() -> None:
    assert judge([gap(0.0, std=0.2, their_std=None)], MARGIN, 0.95)[1].endswith(
        "assumes equal spread, none is published"
    )
    assert "assumes" not in judge([gap(0.0, std=0.2)], MARGIN, 0.95)[1]
    unknown, single = (gap(0.0, std=0.2, their_runs=runs, their_std=None) for runs in (None, 1))
    assert unknown.standard_error == single.standard_error
    assert judge([unknown], MARGIN, 0.95)[1].endswith(
        "the paper's number of runs, which is not published, is taken as 1"
    )
    assert "taken as 1" not in judge([single], MARGIN, 0.95)[1]


def test_runs_that_would_decide() -> None:
    """The forecast's runs decide in about four of five simulated cases; where theirs are too few, none do."""
    assert runs_to_decide([gap(0.0, std=2.0, their_runs=2, their_std=2.0)], MARGIN, 0.95) is None
    observed = gap(0.0, std=1.0, their_runs=100, their_std=1.0)
    number = runs_to_decide([observed], MARGIN, 0.95)
    assert number is not None
    assert 0.7 < shares(number, 0.0, their_runs=100, num_counts=1, cases=400)[REPRODUCED] < 0.97
    assert judge([observed], 0.4, 0.95)[1].startswith("known to ± ")


def shares(
    num_runs: int, truth: float, *, their_runs: int = 5, num_counts: int = 4, their_spread: float = 1.0, cases: int
) -> Counter[str]:
    """How often each verdict is given, over simulated papers and runs; seeds go on from round to round."""
    rng = np.random.default_rng([num_runs, their_runs, num_counts, cases])
    counts = Counter[str]()
    for _ in range(cases):
        mine_SR, theirs_SR = (
            rng.normal(0, 0.6, (runs, 1)) + rng.normal(0, 0.8, (runs, num_counts)) for runs in (num_runs, their_runs)
        )
        theirs_SR *= their_spread
        gaps = [
            Gap(100.0 * r, truth + mine_SR[:, r].mean() - theirs_SR[:, r].mean(), num_runs, mine_SR[:, r].std(ddof=1),
                their_runs, theirs_SR[:, r].std(ddof=1))
            for r in range(num_counts)
        ]  # fmt: skip
        counts[judge(gaps, MARGIN, 0.95)[0]] += 1
    return Counter({word: number / cases for word, number in counts.items()})


@pytest.mark.slow
@pytest.mark.parametrize(("num_runs", "their_spread"), [(3, 1.0), (5, 1.0), (10, 1.0), (20, 1.0), (10, 3.5)])
def test_at_the_margin_reproduced_is_said_in_one_case_of_twenty_at_most(num_runs: int, their_spread: float) -> None:
    frequencies = shares(num_runs, MARGIN, num_counts=1, their_spread=their_spread, cases=2_000)
    print(num_runs, their_spread, dict(frequencies))
    assert frequencies[REPRODUCED] <= 0.055
    assert frequencies[STRONGER] + frequencies[WEAKER] + frequencies[STRONGER_AND_WEAKER] <= 0.055


@pytest.mark.slow
def test_more_runs_agree_more_often_where_the_truth_lies_inside() -> None:
    frequencies = [shares(num_runs, 0.1, their_runs=20, cases=500)[REPRODUCED] for num_runs in (3, 5, 10, 20)]
    print("reproduced with 3, 5, 10, 20 runs:", frequencies)
    assert frequencies == sorted(frequencies)
    assert frequencies[-1] > frequencies[0] + 0.2
