"""Statistics of paired runs, on numpy and scipy. Functions that draw random numbers take a Generator.

Shapes: S runs (seeds), M replicates, R rounds, K comparisons, A strategies, T experiments, D data sets, F sign flips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from scipy import special

from benchmark.analysis.curves import Curve, Floats
from benchmark.seeds import seed
from benchmark.text.words import plural

MAX_EXACT_RUNS = 16  # runs up to which all 2^S sign flips are tried
NUM_FLIPS, FLIPS_PER_BLOCK = 20_000, 1_000  # random flips for more runs, in blocks that fit the processor's cache
MAX_SIMULATED_RUNS, NUM_POWER_SAMPLES = 10, 2_000  # runs up to which power is simulated, and samples of a simulation
MAX_FORECAST_RUNS = 200  # the most runs that a forecast considers
MIN_RUNS = 3  # the fewest runs that have an interval
MIN_PAIRS = 5  # the fewest pairs that have a penalty


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, whose ends are NaN where there are too few runs."""

    value: float
    low: float
    high: float


def bootstrap_weights(num_runs: int, num_replicates: int, rng: Generator) -> Floats:
    """Draws the weights of runs in a multiplier bootstrap.

    The multipliers are normal, divided by the root of a chi-square over its S - 1 degrees of freedom. The percentile
    interval of any linear function of the runs is then Student's interval. Resampling runs with replacement gives much
    narrower intervals for few runs: with three runs it covers the truth in three quarters of the cases at most. A run
    has the same weight in every curve, so that pairs stay paired.

    Args:
        num_runs: S.
        num_replicates: the number of random replicates.
        rng: the source of randomness.

    Returns:
        (M, S): the weights of each replicate, which sum to 1; those of the first are 1/S. With fewer than MIN_RUNS
        runs there is no other: (1, S).
    """
    if num_runs < MIN_RUNS:
        return np.full((1, num_runs), 1 / max(num_runs, 1))
    weights_MS = np.empty((1 + num_replicates, num_runs))
    noise_MS = rng.standard_normal(out=weights_MS[1:])
    noise_MS -= noise_MS.mean(1, keepdims=True)
    noise_MS /= np.sqrt(rng.chisquare(num_runs - 1, (num_replicates, 1)) / (num_runs - 1))
    noise_MS /= math.sqrt(num_runs * (num_runs - 1))
    noise_MS += 1 / num_runs
    weights_MS[0] = 1 / num_runs
    return weights_MS


def percentile_interval(values_M: Floats, level: float) -> Interval:
    """Returns the interval between percentiles of replicates.

    Args:
        values_M: the replicates, of which the first is the estimate itself. NaNs are left out; ends may be infinite.
        level: the confidence level.

    Returns:
        The interval; its ends are NaN where there is only the estimate, or where all replicates are equal (see
        `student_interval`).
    """
    replicates_M = np.sort(values_M[1:][~np.isnan(values_M[1:])])
    if not len(replicates_M) or np.isclose(replicates_M[0], replicates_M[-1], rtol=1e-9, atol=1e-9):
        return Interval(float(values_M[0]), math.nan, math.nan)
    positions = (len(replicates_M) - 1) * np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = replicates_M[[math.floor(positions[0]), math.ceil(positions[1])]]
    return Interval(float(values_M[0]), float(low), float(high))


def student_interval(values_S: Floats, level: float = 0.95) -> Interval:
    """Returns the mean and Student's confidence interval.

    Its ends are NaN with fewer than MIN_RUNS runs, and where all runs score the same: the scores then come in steps too
    coarse to estimate the error of their mean.
    """
    value = float(values_S.mean())
    if len(values_S) < MIN_RUNS or np.ptp(values_S) == 0:
        return Interval(value, math.nan, math.nan)
    half = student_quantile(len(values_S) - 1, (1 + level) / 2) * float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    return Interval(value, value - half, value + half)


@cache
def student_quantile(degrees_of_freedom: int, share: float) -> float:
    """Returns the quantile of Student's distribution with so many degrees of freedom."""
    return float(special.stdtrit(degrees_of_freedom, share))


@cache
def sign_patterns(num_runs: int) -> Floats:
    """(2^(S-1), S): all choices of signs, up to a common sign."""
    bits = np.arange(2 ** (num_runs - 1))[:, None] >> np.arange(num_runs) & 1
    return np.asarray(1.0 - 2.0 * bits)


def sign_flip_test(differences_KS: Floats, rng: Generator) -> Floats:
    """Tests whether paired differences are symmetric about 0.

    The test is exact up to MAX_EXACT_RUNS runs, and uses NUM_FLIPS random flips for more. The smallest p-value of S
    runs is 2 / 2^S: 0.25 for three runs, 0.0625 for five, 0.03 for six.

    Args:
        differences_KS: the paired differences of each comparison.
        rng: the source of random flips.

    Returns:
        (K,): two-sided p-values: the share of sign flips whose mean is at least as far from 0 as the observed mean.
    """
    num_runs = differences_KS.shape[1]
    observed_K1 = np.abs(differences_KS.sum(1, keepdims=True))
    least_K1 = observed_K1 * (1 - 1e-9) - 1e-12
    if num_runs <= MAX_EXACT_RUNS:
        return np.asarray((np.abs(differences_KS @ sign_patterns(num_runs).T) >= least_K1).mean(1))
    far_K = np.ones(len(differences_KS))  # the observed signs count as one flip, so that p is never 0
    for _ in range(NUM_FLIPS // FLIPS_PER_BLOCK):
        bits_N = np.unpackbits(np.frombuffer(rng.bytes(FLIPS_PER_BLOCK * num_runs // 8), np.uint8))
        sums_KF = np.abs(differences_KS @ (2.0 * bits_N - 1).reshape(num_runs, FLIPS_PER_BLOCK))
        far_K += (sums_KF >= least_K1).sum(1)
    return np.asarray(far_K / (NUM_FLIPS + 1))


def holm(p_K: Floats) -> Floats:
    """(K,): p-values adjusted by Holm's method.

    Rejecting those below alpha keeps the family-wise error at alpha.
    """
    order = np.argsort(p_K, kind="stable")
    ascending = np.maximum.accumulate(p_K[order] * np.arange(len(p_K), 0, -1))
    result = np.empty(len(p_K))
    result[order] = np.minimum(ascending, 1.0)
    return result


@cache
def detectable_difference(num_runs: int, level: float = 0.95, num_comparisons: int = 1, power: float = 0.8) -> float:
    """Returns the mean difference that the sign-flip test detects with a given power.

    Args:
        num_runs: pairs of runs.
        level: the confidence level.
        num_comparisons: comparisons that are corrected together; each is tested at its Bonferroni share of 1 - level.
        power: the probability of a detection.

    Returns:
        The difference in standard deviations of the paired differences; infinite where the test can never reject.
    """
    alpha = (1 - level) / num_comparisons
    if num_runs < 2 or 2.0 ** (1 - num_runs) > alpha:
        return math.inf
    power_at = power_function(num_runs, alpha)
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high


@cache
def runs_to_find(difference: float, level: float = 0.95, num_comparisons: int = 1, power: float = 0.8) -> int | None:
    """Returns about how many runs detect a mean difference with a given power.

    Args:
        difference: in standard deviations of the paired differences.
        level: the confidence level.
        num_comparisons: comparisons that are corrected together.
        power: the probability of a detection.

    Returns:
        The number of runs; None where MAX_FORECAST_RUNS are too few.
    """
    alpha = (1 - level) / num_comparisons
    numbers = range(min_runs_to_reject(level, num_comparisons), MAX_FORECAST_RUNS + 1)
    return next((number for number in numbers if power_function(number, alpha)(difference) >= power), None)


def min_runs_to_reject(level: float, num_comparisons: int) -> int:
    """Returns the fewest runs with which the sign-flip test can reject in one of so many comparisons."""
    return math.ceil(1 + math.log2(num_comparisons / (1 - level)) - 1e-9)


def power_function(num_runs: int, alpha: float) -> Callable[[float], float]:
    """Returns the power of the sign-flip test as a function of the difference in standard deviations.

    It is simulated up to MAX_SIMULATED_RUNS runs. For more runs it is that of the t-test, which is close to it there.
    """
    if num_runs <= MAX_SIMULATED_RUNS:
        return simulated_power(num_runs, alpha)
    steps = 2.0 ** (num_runs - 1)  # p is a multiple of 1 / steps
    return t_power(num_runs, math.floor(alpha * steps) / steps)


def simulated_power(num_runs: int, alpha: float) -> Callable[[float], float]:
    """Returns the power of the sign-flip test as the share of normal samples in which it rejects."""
    noise_MS = np.random.default_rng(seed("power", num_runs)).standard_normal((NUM_POWER_SAMPLES, num_runs))
    flipped_MF, sums_F = noise_MS @ sign_patterns(num_runs).T, sign_patterns(num_runs).sum(1)

    def power(difference: float) -> float:
        totals_MF = np.abs(flipped_MF + difference * sums_F)
        return float(((totals_MF >= totals_MF[:, :1] * (1 - 1e-9)).mean(1) <= alpha).mean())

    return power


def t_power(num_runs: int, alpha: float) -> Callable[[float], float]:
    """Returns the power of the t-test as a function of the difference in standard deviations."""
    freedom, bound = num_runs - 1, student_quantile(num_runs - 1, 1 - alpha / 2)

    def power(difference: float) -> float:
        noncentrality = difference * math.sqrt(num_runs)
        ends = np.array([bound, -bound])
        below = np.nan_to_num(special.nctdtr(freedom, noncentrality, ends))  # NaN stands for almost 0
        return float(1 - below[0] + below[1])

    return power


def normalized_area(x_R: Floats, y_R: Floats) -> float:
    """Returns the area under a learning curve divided by its length: its mean score (trapezoids).

    Args:
        x_R: what the area is over: rounds or cost. Rounds in which x or y is not finite are left out.
        y_R: the scores.
    """
    is_finite = np.isfinite(x_R) & np.isfinite(y_R)
    x, y = x_R[is_finite], y_R[is_finite]
    if len(x) < 2 or x[-1] == x[0]:
        return float(y.mean()) if len(y) else math.nan
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def areas_at_equal_cost(costs_AR: Floats, values_AR: Floats) -> tuple[Floats, float, float]:
    """Computes the normalized areas under curves over the range of cost that all of them have.

    Args:
        costs_AR: the cost of each curve up to each round.
        values_AR: the scores.

    Returns:
        (A,): the mean score of each curve, linear between rounds; and both ends of the range.

    Raises:
        ValueError: the curves have no range of cost in common.
    """
    low, high = float(costs_AR[:, 0].max()), float(costs_AR[:, -1].min())
    if not low < high:
        raise ValueError(f"one has paid {high:,.0f} in all, and the other begins at {low:,.0f}")
    areas = []
    for cost_R, value_R in zip(costs_AR, values_AR, strict=True):
        grid = np.union1d(cost_R[(low < cost_R) & (cost_R < high)], [low, high])
        areas.append(normalized_area(grid, np.interp(grid, cost_R, value_R)))
    return np.array(areas), low, high


@dataclass(frozen=True)
class Pairs:
    """The rows of two curves that are paired: those of seeds that both have finished."""

    seeds: tuple[int, ...]
    first_rows: list[int]
    second_rows: list[int]
    unpaired_runs: tuple[str, ...]  # names of runs without a finished partner


def pair_runs(first: Curve, second: Curve) -> Pairs:
    """Pairs the runs of two strategies by seed and start (data, initial set and held-out set), never by their order.

    Raises:
        ValueError: the runs of a seed started differently, no common seed has finished, or a curve is the mean of a
            paper, which has no single runs.
    """
    for curve in (first, second):
        if not curve.seeds:
            runs = plural(curve.num_runs, "run") if curve.has_known_runs else "runs"
            raise ValueError(f"{curve.strategy}: of its {runs} only the mean is known: nothing can be paired")
    common = [seed for seed in first.seeds if seed in second.seeds]
    seeds = tuple(seed for seed in common if seed not in first.unfinished_seeds | second.unfinished_seeds)
    rows = [[curve.seeds.index(seed) for seed in seeds] for curve in (first, second)]
    for number, a, b in zip(seeds, *rows, strict=True):
        if first.start_fingerprints[a] != second.start_fingerprints[b]:
            raise ValueError(
                f"{first.strategy} and {second.strategy} do not pair at seed {number}: they started from other data, "
                "initial sets or held-out draws"
            )
    unpaired = tuple(
        f"{curve.strategy} seed {seed}{' (unfinished)' * (seed in curve.unfinished_seeds)}"
        for curve in (first, second)
        for seed in curve.seeds
        if seed not in seeds
    )
    if not seeds:
        reason = "no common seed has finished" if common else "no common seed"
        raise ValueError(f"{first.strategy} and {second.strategy} do not pair: {reason}")
    return Pairs(seeds, rows[0], rows[1], unpaired)


def penalty_matrix(curves: Sequence[Curve], num_shared: int = 1, level: float = 0.95) -> Floats:
    """(A, A): the share of rounds in which the strategy of the row beats that of the column.

    Rounds are compared by a paired t-test at `level` (Ash et al., 2020, with five runs, summed over experiments). By
    chance the share is (1 - level) / 2. It is NaN for pairs of strategies with fewer than MIN_PAIRS common runs, or
    with no common round.

    Args:
        curves: the curves of A strategies.
        num_shared: rounds before the first selection, which do not count.
        level: the confidence level of the t-test.
    """
    wins_AA = np.full((len(curves), len(curves)), np.nan)
    np.fill_diagonal(wins_AA, 0.0)
    for i, first in enumerate(curves):
        for j, second in enumerate(curves[:i]):
            pairs = pair_runs(first, second)
            gaps_SR = (first.value_SR[pairs.first_rows] - second.value_SR[pairs.second_rows])[:, num_shared:]
            gaps_SR = gaps_SR[:, np.isfinite(gaps_SR).all(0)]
            if len(gaps_SR) < MIN_PAIRS or not gaps_SR.shape[1]:
                continue
            half_R = (
                student_quantile(len(gaps_SR) - 1, (1 + level) / 2) * gaps_SR.std(0, ddof=1) / math.sqrt(len(gaps_SR))
            )
            mean_R, differ_R = gaps_SR.mean(0), np.ptp(gaps_SR, 0) > 0  # as in `student_interval`
            wins_AA[i, j] = ((mean_R > half_R) & differ_R).mean()
            wins_AA[j, i] = ((-mean_R > half_R) & differ_R).mean()
    return wins_AA


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of strategies over data sets, with the critical difference of two mean ranks."""

    strategies: tuple[str, ...]
    mean_A: Floats  # 1 is best
    num_data_sets: int
    p: float  # p-value of Friedman's test; NaN with fewer than MIN_DATA_SETS data sets or three strategies
    critical_difference: float  # Nemenyi's, at `level`; NaN with fewer than MIN_DATA_SETS data sets


MIN_DATA_SETS = 5  # the fewest data sets that have a critical difference; ten are better


def rank_strategies(
    strategies: Sequence[str], scores_TA: Floats, data_sets: Sequence[str], level: float = 0.95
) -> Ranks:
    """Ranks strategies over data sets: higher scores first, ties share their mean rank (Demšar, 2006).

    Experiments on one data set are not independent: their ranks are averaged first, and the averages are ranked.

    Args:
        strategies: the labels of A strategies.
        scores_TA: the score of each strategy in each experiment.
        data_sets: the data set of each of T experiments.
        level: the confidence level of the critical difference.
    """
    from scipy import stats  # takes most of a second: only where it is used

    ranks_TA, data_set_T = stats.rankdata(-scores_TA, axis=1), np.array(data_sets)
    means_DA = np.array([ranks_TA[data_set_T == name].mean(0) for name in dict.fromkeys(data_sets)])
    ranks_DA = stats.rankdata(means_DA.round(9), axis=1)
    num_sets, num = ranks_DA.shape
    if num_sets < MIN_DATA_SETS:
        return Ranks(tuple(strategies), ranks_DA.mean(0), num_sets, math.nan, math.nan)
    p = float(stats.friedmanchisquare(*ranks_DA.T).pvalue) if num > 2 else math.nan
    quantile = float(stats.studentized_range.ppf(level, num, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(num * (num + 1) / (6 * num_sets))
    return Ranks(tuple(strategies), ranks_DA.mean(0), num_sets, p, critical)
