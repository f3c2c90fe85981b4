"""Statistics against brute force and hand cases, and against simulated curves whose truth is known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from _curves import curve, experiment
from scipy import stats as scipy_stats

from benchmark.analysis import stats
from benchmark.analysis.annotation_cost import crossing_cost
from benchmark.analysis.comparison_tables import describe_comparison, format_interval
from benchmark.analysis.comparisons import compare, compare_all
from benchmark.analysis.savings import Price, TargetRule, compute_savings
from benchmark.analysis.stats import (
    Interval,
    bootstrap_weights,
    holm,
    pair_runs,
    percentile_interval,
    sign_flip_test,
    student_interval,
)
from benchmark.experiment.schedule import Schedule

IMAGES = Price("images")
NUM_SIMULATED = 1500  # of a share of 0.95: a standard error of 0.0056


# --- brute force and hand cases ---------------------------------------------------------------
@pytest.mark.parametrize("num", [1, 2, 3, 6, 9])
def test_sign_flip_is_the_share_of_all_flips(num: int) -> None:
    rng = np.random.default_rng(num)
    gaps_KS = rng.normal(0.5, 1, (4, num))
    for gaps_S, p in zip(gaps_KS, sign_flip_test(gaps_KS, rng), strict=True):
        flips = [abs(np.dot(flip, gaps_S)) for flip in itertools.product([-1, 1], repeat=num)]
        assert p == pytest.approx(np.mean(np.array(flips) >= abs(gaps_S.sum()) - 1e-9))


def test_sign_flips_of_many_runs_are_drawn_and_close_to_exact() -> None:
    rng = np.random.default_rng(0)
    gaps_S = rng.normal(0.35, 1, stats.MAX_EXACT_RUNS + 2)
    bits = np.arange(2 ** len(gaps_S))[:, None] >> np.arange(len(gaps_S)) & 1
    exact = (np.abs((1 - 2 * bits) @ gaps_S) >= abs(gaps_S.sum()) - 1e-9).mean()
    [p] = sign_flip_test(gaps_S[None], rng)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / stats.NUM_FLIPS))


def test_sign_flip_of_equal_runs_is_no_evidence() -> None:
    assert sign_flip_test(np.zeros((1, 5)), np.random.default_rng(0)) == 1.0


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 x 4 3 2 1 = .04 .06 .06 .04 -> running maximum .04 .06 .06 .06
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.02])), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])
    assert len(holm(np.array([]))) == 0


def test_student_is_scipys() -> None:
    values = np.array([1.0, 2.5, 0.5, 3.0])
    interval = student_interval(values, 0.9)
    low, high = scipy_stats.t.interval(0.9, 3, values.mean(), scipy_stats.sem(values))
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.75, low, high))
    for few in (values[:1], values[:2], np.array([0.6, 0.6]), np.array([0.6, 0.6, 0.6])):
        assert math.isnan(student_interval(few).low)
        assert math.isnan(student_interval(few).high)
    assert student_interval(np.array([0.6, 0.6, 0.6])).value == pytest.approx(0.6)


def test_detectable_difference_is_found_with_that_power() -> None:
    rng = np.random.default_rng(1)
    for num, comparisons in ((6, 1), (8, 1), (9, 5)):
        gaps = rng.normal(stats.detectable_difference(num, 0.95, comparisons), 1, (20_000, num))
        p = sign_flip_test(gaps, rng)
        assert (p <= 0.05 / comparisons + 1e-9).mean() == pytest.approx(0.8, abs=0.03)
    gaps = rng.normal(stats.detectable_difference(14), 1, (20_000, 14))
    assert (scipy_stats.ttest_1samp(gaps, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert stats.detectable_difference(14) == pytest.approx(stats.detectable_difference(10), rel=0.25)
    assert [stats.detectable_difference(num) for num in (1, 3, 5)] == [math.inf] * 3  # they never give p < 0.05
    assert stats.detectable_difference(6, 0.95, 2) == math.inf


def test_weights_replicate_students_interval_and_keep_pairs() -> None:
    rng = np.random.default_rng(2)
    values = np.array([1.0, 2.5, 0.5, 3.0, 2.0])
    weights_MS = bootstrap_weights(5, 40_000, rng)
    np.testing.assert_allclose(weights_MS.sum(1), 1)
    replicated, exact = percentile_interval(weights_MS @ values, 0.95), student_interval(values)
    assert (replicated.value, replicated.low, replicated.high) == pytest.approx(
        (exact.value, exact.low, exact.high), abs=0.03
    )
    shift = weights_MS @ (values + 7) - weights_MS @ values  # what is paired does not vary at all
    np.testing.assert_allclose(shift, 7)


def test_percentiles_reach_infinity_and_skip_what_is_unknown() -> None:
    values = np.array([5.0, *range(100), *[np.inf] * 10, np.nan])
    interval = percentile_interval(values, 0.9)
    assert (interval.value, interval.high) == (5.0, math.inf)
    assert interval.low == pytest.approx(5, abs=1)
    assert math.isnan(percentile_interval(np.array([3.0]), 0.95).low)


def test_area_is_the_mean_height() -> None:
    assert stats.normalized_area(np.array([0.0, 1, 3]), np.array([0.0, 2, 2])) == pytest.approx((1 + 4) / 3)
    assert stats.normalized_area(np.array([0.0, 1, 3]), np.array([4.0, np.nan, 2])) == pytest.approx(3)
    assert stats.normalized_area(np.array([5.0]), np.array([7.0])) == 7
    assert math.isnan(stats.normalized_area(np.array([1.0, 2]), np.array([np.nan, np.nan])))


def test_penalties_by_hand() -> None:
    base = np.arange(5)[:, None] + np.array([50.0, 60, 70])
    noise = np.array([0.01, -0.01, 0, 0.02, -0.02])[:, None] * [0, 1, 500]
    gap = np.array([0, 1, 1])
    wins = stats.penalty_matrix([curve("a", base), curve("b", base + gap + noise)])
    # round 0 is shared, round 1 a clear gap of 1, round 2 a gap of 1 within 7.9 x t / sqrt(5)
    np.testing.assert_allclose(wins, [[0, 0], [1 / 2, 0]])
    np.testing.assert_allclose(
        stats.penalty_matrix(
            [curve("a", base), curve("b", base + [1, 1, 1] + noise + noise[:, [1, 0, 0]])], num_shared=0
        ),
        [[0, 0], [2 / 3, 0]],
    )


def test_penalties_take_five_pairs_that_differ() -> None:
    base = np.arange(5)[:, None] + np.array([50.0, 60])
    better = base + 3 + np.array([[0.1], [0.2], [0.0], [-0.1], [0.3]])
    for num_pairs, expected in ((5, 1.0), (4, np.nan), (2, np.nan), (1, np.nan)):
        pair = [curve("a", better[:num_pairs]), curve("b", base)]
        np.testing.assert_array_equal(stats.penalty_matrix(pair), [[0, expected], [expected * 0, 0]])
    alone = [curve("a", better[:, :1]), curve("b", base[:, :1])]  # nothing but the round that both share
    np.testing.assert_array_equal(stats.penalty_matrix(alone), [[0, np.nan], [np.nan, 0]])
    np.testing.assert_array_equal(stats.penalty_matrix([curve("a", base + 3), curve("b", base)]), np.zeros((2, 2)))


def test_chance_gives_a_fortieth_of_the_rounds() -> None:
    rng = np.random.default_rng(0)
    pair = [curve(name, rng.normal(size=(5, 20_001))) for name in "ab"]
    wins = stats.penalty_matrix(pair)
    assert wins[0, 1] == pytest.approx(0.025, abs=0.005)
    assert wins[1, 0] == pytest.approx(0.025, abs=0.005)


def test_ranks_and_their_critical_difference() -> None:
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 1, 2], [2, 2, 1], [3, 2, 1]])
    ranks = stats.rank_strategies(["a", "b", "c"], scores, list("vwxyz"))
    np.testing.assert_allclose(ranks.mean_A, [(4 + 1.5) / 5, (2 + 2 + 3 + 1.5 + 2) / 5, (3 + 3 + 2 + 3 + 3) / 5])
    assert ranks.critical_difference == pytest.approx(
        2.343 * math.sqrt(3 * 4 / (6 * 5)), abs=2e-3
    )  # Demšar's table: q.05, k = 3
    assert ranks.p == pytest.approx(scipy_stats.friedmanchisquare(*scores.T).pvalue)
    few = stats.rank_strategies(["a", "b", "c"], scores, list("vwxyy"))
    assert few.num_data_sets == 4
    assert math.isnan(few.critical_difference)
    np.testing.assert_allclose(few.mean_A, [(1 + 1 + 1 + 1) / 4, (2 + 2 + 3 + 2) / 4, (3 + 3 + 2 + 3) / 4])


@pytest.mark.slow
@pytest.mark.parametrize(("num_sets", "num_schedules"), [(3, 4), (5, 4), (10, 1)])
def test_schedules_of_one_data_set_do_not_make_equal_strategies_differ(num_sets: int, num_schedules: int) -> None:
    """Strategies that are equal over all data sets, of which each has an order of its own that its schedules share."""
    rng, rejections = np.random.default_rng(num_sets), []
    data_sets = [str(number) for number in range(num_sets) for _ in range(num_schedules)]
    for _ in range(1_000):
        own_DA = rng.normal(size=(num_sets, 5))
        scores_TA = np.repeat(own_DA, num_schedules, 0) + rng.normal(0, 0.1, (num_sets * num_schedules, 5))
        ranks = stats.rank_strategies(list("abcde"), scores_TA, data_sets)
        rejections.append(np.ptp(ranks.mean_A) > ranks.critical_difference)
    print(num_sets, "x", num_schedules, "family-wise error", np.mean(rejections))
    assert np.mean(rejections) <= 0.06


def test_pairing_is_by_seed_and_start_never_by_order() -> None:
    a = curve("a", [[1.0], [2], [3]], seeds=(0, 1, 2))
    b = curve("b", [[30.0], [10], [20]], seeds=(2, 0, 5))
    pairs = pair_runs(a, b)
    assert (pairs.seeds, pairs.first_rows, pairs.second_rows) == ((0, 2), [0, 2], [1, 0])
    assert pairs.unpaired_runs == ("a seed 1", "b seed 5")
    with pytest.raises(ValueError, match=r"a and c do not pair at seed 1: they started from other data"):
        pair_runs(a, curve("c", [[1.0], [2]], seeds=(0, 1), starts=("start 0", "elsewhere")))
    with pytest.raises(ValueError, match="no common seed"):
        pair_runs(a, curve("d", [[1.0]], seeds=(9,)))
    with pytest.raises(ValueError, match="of its 5 runs only the mean is known"):
        pair_runs(a, curve("e", [[1.0]], seeds=(), num_runs=5))


def test_a_comparison_in_five_lines() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal([60, 70, 75], 1, (6, 3))
    results = experiment(curve("a", base + [0, 3, 3] + rng.normal(0, 0.1, (6, 3)) * [0, 1, 1]), curve("b", base))
    comparison = compare(results, "a", "b", IMAGES, 0.95, 0)
    assert comparison.verdict == "better"
    assert comparison.final_difference.value == pytest.approx(3, abs=0.2)
    assert comparison.area_difference.value == pytest.approx(2.25, abs=0.1)  # 0 3 3: (1.5 + 3) / 2
    assert list(comparison.round_differences) == [0, 1, 2]
    assert comparison.round_differences[0].value == 0
    assert (
        comparison.round_differences[2]
        == comparison.final_difference
        == student_interval(results.curves["a"].value_SR[:, 2] - base[:, 2])
    )
    assert comparison.areas[0] - comparison.areas[1] == pytest.approx(comparison.area_difference.value)
    assert comparison.areas[1] == pytest.approx(stats.normalized_area(np.arange(3.0), base.mean(0)))
    assert comparison.area_p == comparison.holm_p == 2 / 2**6
    lines = describe_comparison(comparison, 2)
    assert len(lines) == 5
    assert lines[0] == "a minus b on made_up: 6 seeds, paired"
    assert lines[4].startswith("a is better than b: it needs ")
    assert lines[4].endswith(", 6 seeds")
    few = compare(experiment(curve("a", base[:3] + 3), curve("b", base[:3])), "a", "b", IMAGES, 0.95, 0)
    assert few.verdict == "undecided"
    assert describe_comparison(few, 2)[4] == "a against b is undecided: 3 seeds can decide nothing: it takes 6 seeds"
    two = compare(experiment(curve("a", base[:2] + 0.6), curve("b", base[:2])), "a", "b", IMAGES, 0.95, 0)
    assert describe_comparison(two, 2)[0] == "a minus b on made_up: 2 seeds, paired"
    assert describe_comparison(two, 2)[1].endswith(": +0.60, p = 0.5 (sign flips)")
    assert describe_comparison(two, 2)[3].startswith("at accuracy 75.")
    assert "[" not in describe_comparison(two, 2)[3]
    assert two.verdict == "undecided"
    single = compare(experiment(curve("a", base[:1] + 3), curve("b", base[:1])), "a", "b", IMAGES, 0.95, 0)
    assert math.isnan(single.final_difference.low)
    assert describe_comparison(single, 2)[4] == "a against b is undecided: 1 seed can decide nothing: it takes 6 seeds"


def test_a_table_corrects_over_all_comparisons_and_names_who_does_not_pair() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal([60, 70], 1, (6, 2))
    stranger = curve("stranger", base, starts=tuple("elsewhere" for _ in range(6)))
    comparisons, refusals = compare_all(
        experiment(curve("b", base), curve("x", base + 1), curve("y", base - 1), stranger), "b", IMAGES, 0.95, 0
    )
    assert [row.strategy for row in comparisons] == ["x", "y"]
    assert [row.holm_p for row in comparisons] == [2 * row.area_p for row in comparisons]
    assert len(refusals) == 1
    assert "stranger and b do not pair at seed 0" in refusals[0]


# --- simulated curves with known truth --------------------------------------------------------
X = np.arange(1, 11) * 1000.0
TRUTH = {"a": 95 - 50 * np.exp(-X / 3000), "b": 95 - 50 * np.exp(-X / 4000)}


def simulated(rng: np.random.Generator, num_seeds: int, truth: dict[str, np.ndarray] = TRUTH) -> dict[str, np.ndarray]:
    """Curves of seeds that share an effect of the initial set, and have noise of their own in every round."""
    shared = rng.normal(0, 1.0, (num_seeds, 1))
    return {name: mean + shared + rng.normal(0, 0.5, (num_seeds, len(X))) for name, mean in truth.items()}


def share_that_covers(rule: TargetRule, truth: float, num_seeds: int) -> float:
    rng, covered = np.random.default_rng(num_seeds), 0
    for _ in range(NUM_SIMULATED):
        curves = simulated(rng, num_seeds)
        results = experiment(*(curve(name, values, X) for name, values in curves.items()))
        [saving] = compute_savings(results, "a", "b", rule, IMAGES, rng)
        covered += saving.amount.low <= truth <= saving.amount.high
    return covered / NUM_SIMULATED


def saved_in_truth(target: float) -> float:
    a, b = (float(crossing_cost(X[None], TRUTH[name][None], np.array([target]))[0]) for name in "ab")
    return b - a


@pytest.mark.parametrize("num_seeds", [5, 10])
def test_intervals_of_savings_cover_the_truth(num_seeds: int) -> None:
    assert 0.93 <= share_that_covers(TargetRule("value", 85.0), saved_in_truth(85.0), num_seeds) <= 0.97


def test_intervals_of_savings_at_the_final_score_cover_the_truth() -> None:
    assert 0.93 <= share_that_covers(TargetRule("final"), saved_in_truth(TRUTH["b"][-1]), 5) <= 0.97


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_intervals_of_paired_differences_cover_the_truth(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    curves = simulated(rng, num_seeds * 4000)
    gaps = (curves["a"] - curves["b"])[:, 4].reshape(4000, num_seeds)
    truth = TRUTH["a"][4] - TRUTH["b"][4]
    intervals = [student_interval(row) for row in gaps]
    assert 0.93 <= np.mean([interval.low <= truth <= interval.high for interval in intervals]) <= 0.97


def test_resampling_five_runs_would_not_cover() -> None:
    """Why `weights` are not those of runs drawn with replacement."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(5, [0.2] * 5, 2000) / 5
    values = rng.normal(0, 1, (2000, 5))
    ends = np.percentile(values @ weights.T, [2.5, 97.5], axis=1)
    assert np.mean((ends[0] <= 0) & (ends[1] >= 0)) < 0.88


def test_the_permutation_test_keeps_its_level_and_holm_the_family_wise_error() -> None:
    rng = np.random.default_rng(3)
    num_families, num = 3000, 8
    null = {"b": TRUTH["b"], **{f"s{i}": TRUTH["b"] for i in range(5)}}
    wrong, families = 0, 0
    for _ in range(num_families):
        curves = simulated(rng, num, null)
        gaps = np.stack([(curves[f"s{i}"] - curves["b"]).mean(1) for i in range(5)])
        p = sign_flip_test(gaps, rng)
        wrong += int(p[0] <= 0.05)
        families += bool((holm(p) <= 0.05).any())
    exact = math.floor(0.05 * 2 ** (num - 1)) / 2 ** (num - 1)  # its level: a multiple of 2 / 2^8
    assert wrong / num_families == pytest.approx(exact, abs=0.012)
    assert families / num_families <= 0.05 + 0.012


def test_a_true_difference_is_found() -> None:
    rng = np.random.default_rng(4)
    verdicts = [compare_once(rng).verdict for _ in range(20)]
    assert verdicts.count("better") >= 18


def compare_once(rng: np.random.Generator):
    curves = simulated(rng, 8)
    results = experiment(*(curve(name, values, X) for name, values in curves.items()))
    return compare(results, "a", "b", IMAGES, 0.95, 0)


def test_undecidable_comparisons_say_how_many_seeds_it_takes() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal([60, 70], 1, (6, 2))
    others = [curve(f"s{i}", base + 20 + rng.normal(0, 0.1, base.shape)) for i in range(5)]
    comparisons, _ = compare_all(experiment(curve("b", base), *others), "b", IMAGES, 0.95, 0)
    assert [row.verdict for row in comparisons] == ["undecided"] * 5  # 5 x 2 / 2^6 = 0.16
    assert comparisons[0].detectable_difference == math.inf
    assert comparisons[0].reason == (
        "6 seeds can decide nothing in 5 comparisons: it takes 8 seeds, "
        "and they would find a difference of 1 in 4 of 5 cases"
    )


def test_images_of_many_boxes_do_not_count_where_boxes_are_the_price() -> None:
    """Equal scores at every budget of boxes, spread over more or fewer images: no difference."""
    a, b = (curve(name, [[50.0, 60, 70]] * 2, [10.0, 20, 30], kind="boxes") for name in "ab")
    b = replace(b, cost=b.cost | {"images": 4 * b.cost["images"]})
    schedule = Schedule(10, 10, 3, budget_in="boxes")
    comparison = compare(experiment(a, b, schedule=schedule), "a", "b", Price("boxes"), 0.95, 0)
    assert comparison.area_difference.value == 0
    assert comparison.last_round == "round 2"
    assert comparison.area_over == "all rounds"


# --- unequal prices ---------------------------------------------------------------------------
PLAIN_TRUTH = 95 - 50 * np.exp(-X / 3000)


def test_areas_at_equal_price_by_hand() -> None:
    """A charged set of 1,000 images moves a curve to the right; what it scores at equal price is compared."""
    base = np.array([[10.0, 20, 30, 40]]) + np.arange(6)[:, None]
    a, b = curve("a", base, [2000.0, 3000, 4000, 5000]), curve("b", base, [1000.0, 2000, 3000, 4000])
    comparison = compare(experiment(a, b), "a", "b", IMAGES, 0.95, 0)
    assert comparison.area_over == "2,000 to 4,000 images"
    assert comparison.area_difference.value == pytest.approx(-10)
    assert comparison.all_rounds_difference is not None
    assert comparison.all_rounds_difference.value == 0
    assert comparison.verdict == "worse"
    assert describe_comparison(comparison, 1)[2] == "mean accuracy over 2,000 to 4,000 images: -10.0, p = 0.0312"
    assert describe_comparison(comparison, 1)[3] == "over all rounds, whatever was paid for them: +0.0, p = 1"
    with pytest.raises(ValueError, match="a and b have no range of images in common"):
        compare(experiment(replace(a, cost={"images": 10 * a.cost["images"]}), b), "a", "b", IMAGES, 0.95, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("charged", "wide"), [(500.0, 1.0), (0.0, 1.5)])
def test_verdicts_at_equal_price_are_unbiased(charged: float, wide: float) -> None:
    """Equal images teach equally: what is charged besides makes a strategy worse, more boxes a round do not make it
    better."""
    rng, differences, by_round = np.random.default_rng(0), [], []
    paid = wide * X + charged
    low, high = max(paid[0], X[0]), min(paid[-1], X[-1])
    fine = np.linspace(low, high, 20_001)
    truth = {"a": np.interp(fine, paid, score(wide * X)), "b": np.interp(fine, X, score(X))}
    for _ in range(300):
        a, b = (
            curve(name, score(learned) + rng.normal(0, 1, (8, 1)) + rng.normal(0, 0.5, (8, len(X))), cost)
            for name, learned, cost in (("a", wide * X, paid), ("b", X, X))
        )
        comparison = compare(experiment(a, b), "a", "b", IMAGES, 0.95, 0)
        assert comparison.all_rounds_difference is not None
        differences.append(comparison.area_difference.value)
        by_round.append(comparison.all_rounds_difference.value)
    expected = float(np.trapezoid(truth["a"] - truth["b"], fine) / (high - low))
    mean, error = np.mean(differences), np.std(differences) / np.sqrt(300)
    print(f"truth {expected:.3f}, at equal price {mean:.3f} +- {error:.3f}, over rounds {np.mean(by_round):.3f}")
    assert abs(mean - expected) <= 3 * error
    assert abs(np.mean(by_round) - expected) > 10 * error  # what rounds alone say


def score(images: np.ndarray) -> np.ndarray:
    """What a model of so many images scores."""
    return 95 - 50 * np.exp(-images / 3000)


# --- what so many seeds can find --------------------------------------------------------------
@pytest.mark.slow
def test_as_many_seeds_as_told_find_the_difference_in_four_of_five_cases() -> None:
    for difference, family in ((1.0, 1), (1.5, 9)):
        number = stats.runs_to_find(difference, 0.95, family)
        assert number is not None
        rng = np.random.default_rng(number)
        p = sign_flip_test(rng.normal(difference, 1, (2_000, number)), rng)
        power = float((p <= 0.05 / family).mean())
        print(number, "seeds: power", power, "at", difference, "in one of", family)
        assert 0.72 <= power <= 0.9


def test_seeds_that_a_difference_takes() -> None:
    assert stats.runs_to_find(1.5, 0.95, 9) in (10, 11)
    assert stats.runs_to_find(5.0, 0.95, 9) == 9  # fewer cannot reject at all
    assert stats.runs_to_find(0.01, 0.95, 1) is None


@pytest.mark.parametrize("difference", [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0])
def test_power_grows_with_seeds_however_large_the_difference(difference: float) -> None:
    """Against Student's noncentral distribution of `stats`: the special function has NaN where next to nothing is."""
    for num_seeds in range(11, 40):
        alpha, steps = 0.05 / 9, 2.0 ** (num_seeds - 1)
        power, share = stats.power_function(num_seeds, alpha)(difference), math.floor(alpha * steps) / steps
        bound = scipy_stats.t.isf(share / 2, num_seeds - 1)
        assert power == pytest.approx(
            scipy_stats.nct.sf(bound, num_seeds - 1, difference * math.sqrt(num_seeds)), abs=1e-4
        )
    assert stats.runs_to_find(8.0, 0.95, 200) == stats.min_runs_to_reject(0.95, 200)


def test_about_equal_is_told_from_undecided() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal([60, 70, 75], 1, (6, 3))
    near, far = (curve("a", base + rng.normal(0, spread, base.shape)) for spread in (0.2, 3.0))
    equivalent, undecided = (compare(experiment(a, curve("b", base)), "a", "b", IMAGES, 0.95, 0) for a in (near, far))
    assert equivalent.verdict == "equivalent"
    assert equivalent.reason.startswith("the 90 % interval lies within ± 1")
    assert undecided.verdict == "undecided"
    assert "6 seeds find a difference of 3.2 in 4 of 5 cases; about 28 would find a difference of 1" in undecided.reason


def test_verdicts_are_sentences() -> None:
    """The words for people tell what the numbers tell, whichever way round."""
    rng = np.random.default_rng(0)
    base = np.array([60.0, 70, 75]) + rng.normal(0, 0.3, (8, 3))
    a, b = curve("a", base + np.array([0, 3, 3]) + rng.normal(0, 0.1, (8, 3))), curve("b", base)
    better, worse = (compare(experiment(a, b), *names, IMAGES, 0.95, 0) for names in ("ab", "ba"))
    assert better.saving is not None
    percent = better.saving.percent
    assert better.sentence == (
        f"a is better than b: it needs {percent.value:.0f} % fewer labels, "
        f"95 % interval {percent.low:.0f} to {percent.high:.0f} %, 8 seeds"
    )
    assert worse.sentence.startswith("b is worse than a: it needs ")
    assert " % more labels, 95 % interval " in worse.sentence
    flat = curve("a", np.array([50.0, 60, 75]) + base * 0 + rng.normal(0, 0.1, (8, 3)))
    lower = compare(experiment(flat, b), "a", "b", IMAGES, 0.95, 0)
    assert lower.saving is not None
    same = compare(experiment(curve("a", base + rng.normal(0, 0.1, (8, 3))), b), "a", "b", IMAGES, 0.95, 0)
    assert same.sentence.startswith("a is as good as b to within 1: the 90 % interval lies within ± 1, 8 seeds")
    unsure = replace(same, area_difference=replace(same.area_difference, value=5.0))
    assert unsure.verdict == "undecided"
    for verdict in (better, same, unsure):  # a label may hold anything
        named = replace(verdict, strategy="\\input{x}", against="{}")
        assert named.sentence.startswith("\\input{x} ")
        assert " {}" in named.sentence


def test_zero_has_no_sign_of_its_own() -> None:
    assert format_interval(Interval(-1e-6, math.nan, math.nan), 3, "+") == "+0.000"
    assert format_interval(Interval(-0.2, -1.0, 3.0), 0) == "0 [-1, 3]"
    assert format_interval(Interval(0.6, 0.6, 0.6), 2, "+") == "+0.60"
