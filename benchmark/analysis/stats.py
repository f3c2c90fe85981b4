"""Statistics of paired runs, on numpy and scipy; what is random takes a Generator.

Shapes: S runs (seeds), M replicates, R rounds, K comparisons, A strategies, T experiments, D data sets.
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

MAX_EXACT_RUNS = 16  # runs up to which every one of the 2^S sign flips is tried
NUM_FLIPS, FLIPS_PER_BLOCK = 20_000, 1_000  # drawn above that, so many at once: they stay in the processor's cache
MAX_SIMULATED_RUNS, NUM_POWER_SAMPLES = 10, 2_000  # runs up to which power is simulated, and samples of it
MAX_FORECAST_RUNS = 200  # runs that a forecast considers
MIN_RUNS = 3  # runs that an interval takes
MIN_PAIRS = 5  # pairs that a penalty takes


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the truth in `level` of all cases; NaN where runs are too few."""

    value: float
    low: float
    high: float


def bootstrap_weights(num_runs: int, num_replicates: int, rng: Generator) -> Floats:
    """(M, S) weights of the runs in each replicate; those of the first are 1/S, and each row sums to 1.

    A multiplier bootstrap over runs: normal multipliers, over the root of a chi-square divided by its S - 1 degrees of
    freedom. The percentile interval of anything linear in the runs is then Student's, which resampling runs with
    replacement is far from where runs are few: of three runs, it covers three quarters at most. Runs keep their
    weight in every curve, so that what is paired stays paired. Of fewer than FEWEST runs nothing is replicated: (1, S).
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
    """The interval of replicates, of which the first is the estimate itself; ends may be infinite, NaNs are left out.

    NaN as ends where there is nothing but the estimate, or all replicates are the same: see `student`.
    """
    replicates_M = np.sort(values_M[1:][~np.isnan(values_M[1:])])
    if not len(replicates_M) or np.isclose(replicates_M[0], replicates_M[-1], rtol=1e-9, atol=1e-9):
        return Interval(float(values_M[0]), math.nan, math.nan)
    places = (len(replicates_M) - 1) * np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = replicates_M[[math.floor(places[0]), math.ceil(places[1])]]
    return Interval(float(values_M[0]), float(low), float(high))


def student_interval(values_S: Floats, level: float = 0.95) -> Interval:
    """Mean and Student's interval. Its ends are NaN with fewer than FEWEST runs, and where all score the same: then the
    scores come in steps too coarse to tell how sure their mean is."""
    value = float(values_S.mean())
    if len(values_S) < MIN_RUNS or np.ptp(values_S) == 0:
        return Interval(value, math.nan, math.nan)
    half = student_quantile(len(values_S) - 1, (1 + level) / 2) * float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    return Interval(value, value - half, value + half)


@cache
def student_quantile(freedom: int, share: float) -> float:
    """Student's quantile."""
    return float(special.stdtrit(freedom, share))


@cache
def sign_patterns(num_runs: int) -> Floats:
    """(2^(S-1), S): all choices of signs, up to one sign for all."""
    bits = np.arange(2 ** (num_runs - 1))[:, None] >> np.arange(num_runs) & 1
    return np.asarray(1.0 - 2.0 * bits)


def sign_flip_test(differences_KS: Floats, rng: Generator) -> Floats:
    """(K,) two-sided p-values of "the paired differences are symmetric about 0": the share of sign flips whose mean is
    at least as far from 0 as the one found. Exact up to EXACT runs, from FLIPS draws above.

    The smallest that S runs can give is 2 / 2^S: 0.25 for three, 0.0625 for five, 0.03 for six.
    """
    num_runs = differences_KS.shape[1]
    found_K1 = np.abs(differences_KS.sum(1, keepdims=True))
    least_K1 = found_K1 * (1 - 1e-9) - 1e-12
    if num_runs <= MAX_EXACT_RUNS:
        return np.asarray((np.abs(differences_KS @ sign_patterns(num_runs).T) >= least_K1).mean(1))
    far_K = np.ones(len(differences_KS))  # the one found counts: never p = 0
    for _ in range(NUM_FLIPS // FLIPS_PER_BLOCK):
        bits_N = np.unpackbits(np.frombuffer(rng.bytes(FLIPS_PER_BLOCK * num_runs // 8), np.uint8))
        sums_KF = np.abs(differences_KS @ (2.0 * bits_N - 1).reshape(num_runs, FLIPS_PER_BLOCK))
        far_K += (sums_KF >= least_K1).sum(1)
    return np.asarray(far_K / (NUM_FLIPS + 1))


def holm(p_K: Floats) -> Floats:
    """(K,): Holm's adjusted p-values: at most `alpha` of them below it keeps the family-wise error at alpha."""
    order = np.argsort(p_K, kind="stable")
    adjusted = np.maximum.accumulate(p_K[order] * np.arange(len(p_K), 0, -1))
    result = np.empty(len(p_K))
    result[order] = np.minimum(adjusted, 1.0)
    return result


@cache
def detectable_difference(num_runs: int, level: float = 0.95, num_comparisons: int = 1, power: float = 0.8) -> float:
    """The mean difference, in standard deviations of the paired differences, that the sign-flip test finds with this
    power when it is one of so many comparisons (Bonferroni's share of 1 - level); infinite where it never can."""
    alpha = (1 - level) / num_comparisons
    if num_runs < 2 or 2.0 ** (1 - num_runs) > alpha:
        return math.inf
    found = power_function(num_runs, alpha)
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < power else (low, middle)
    return high


@cache
def runs_to_find(difference: float, level: float = 0.95, num_comparisons: int = 1, power: float = 0.8) -> int | None:
    """About how many runs find a mean difference, in standard deviations of the paired differences, with this power,
    see `detectable`; None where MOST do not."""
    alpha = (1 - level) / num_comparisons
    numbers = range(min_runs_to_reject(level, num_comparisons), MAX_FORECAST_RUNS + 1)
    return next((number for number in numbers if power_function(number, alpha)(difference) >= power), None)


def min_runs_to_reject(level: float, num_comparisons: int) -> int:
    """The fewest runs with which the sign-flip test can reject anything in one of so many comparisons."""
    return math.ceil(1 + math.log2(num_comparisons / (1 - level)) - 1e-9)


def power_function(num_runs: int, alpha: float) -> Callable[[float], float]:
    """The power of the sign-flip test at a difference, in standard deviations.

    By simulation up to SIMULATED runs, by the t-test, which it is close to there, above.
    """
    if num_runs <= MAX_SIMULATED_RUNS:
        return simulated_power(num_runs, alpha)
    steps = 2.0 ** (num_runs - 1)  # p is a multiple of 1 / steps
    return t_power(num_runs, math.floor(alpha * steps) / steps)


def simulated_power(num_runs: int, alpha: float) -> Callable[[float], float]:
    """The power of the sign-flip test at a difference, in standard deviations: the share of normal samples."""
    noise_MS = np.random.default_rng(seed("power", num_runs)).standard_normal((NUM_POWER_SAMPLES, num_runs))
    flipped_MF, sums_F = noise_MS @ sign_patterns(num_runs).T, sign_patterns(num_runs).sum(1)

    def found(difference: float) -> float:
        totals_MF = np.abs(flipped_MF + difference * sums_F)
        return float(((totals_MF >= totals_MF[:, :1] * (1 - 1e-9)).mean(1) <= alpha).mean())

    return found


def t_power(num_runs: int, alpha: float) -> Callable[[float], float]:
    """The power of the t-test at a difference, in standard deviations."""
    freedom, bound = num_runs - 1, student_quantile(num_runs - 1, 1 - alpha / 2)

    def found(difference: float) -> float:
        away = difference * math.sqrt(num_runs)
        within, below = np.nan_to_num(special.nctdtr(freedom, away, np.array([bound, -bound])))  # NaN: next to nothing
        return float(1 - within + below)

    return found


def normalized_area(x_R: Floats, y_R: Floats) -> float:
    """Area under a learning curve divided by its length: its mean height, in the score's unit (trapezoids)."""
    there = np.isfinite(x_R) & np.isfinite(y_R)
    x, y = x_R[there], y_R[there]
    if len(x) < 2 or x[-1] == x[0]:
        return float(y.mean()) if len(y) else math.nan
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def areas_at_equal_cost(costs_AR: Floats, values_AR: Floats) -> tuple[Floats, float, float]:
    """The areas of curves over the range of cost that all have, where rounds are not equally dear.

    Args:
        costs_AR: what each has paid up to each round.
        values_AR: their scores.

    Returns:
        The mean score of each, linear between rounds; and the ends of the range.

    Raises:
        ValueError: there is no such range.
    """
    low, high = float(costs_AR[:, 0].max()), float(costs_AR[:, -1].min())
    if not low < high:
        raise ValueError(f"one has paid {high:,.0f} in all, and the other begins at {low:,.0f}")
    areas = []
    for cost_R, value_R in zip(costs_AR, values_AR, strict=True):
        at = np.union1d(cost_R[(low < cost_R) & (cost_R < high)], [low, high])
        areas.append(normalized_area(at, np.interp(at, cost_R, value_R)))
    return np.array(areas), low, high


@dataclass(frozen=True)
class Pairs:
    """The rows of two curves that belong together: of seeds that both have finished."""

    seeds: tuple[int, ...]
    first_rows: list[int]
    second_rows: list[int]
    unpaired_runs: tuple[str, ...]  # runs without a finished partner


def pair_runs(first: Curve, second: Curve) -> Pairs:
    """Pairs runs by seed and start (data, initial set and held-out draw), never by their order.

    ValueError names the runs where a seed's two started differently, where there is no common seed, and curves whose
    runs are not told apart.
    """
    for curve in (first, second):
        if not curve.seeds:
            runs = plural(curve.num_runs, "run")
            raise ValueError(f"{curve.strategy}: of its {runs} only the mean is known: nothing can be paired")
    common = [one for one in first.seeds if one in second.seeds]
    seeds = tuple(one for one in common if one not in first.unfinished_seeds | second.unfinished_seeds)
    rows = [[curve.seeds.index(one) for one in seeds] for curve in (first, second)]
    for number, a, b in zip(seeds, *rows, strict=True):
        if first.start_fingerprints[a] != second.start_fingerprints[b]:
            raise ValueError(
                f"{first.strategy} and {second.strategy} do not pair at seed {number}: they started from other data, "
                "initial sets or held-out draws"
            )
    alone = tuple(
        f"{curve.strategy} seed {one}{' (unfinished)' * (one in curve.unfinished_seeds)}"
        for curve in (first, second)
        for one in curve.seeds
        if one not in seeds
    )
    if not seeds:
        why = "no common seed has finished" if common else "no common seed"
        raise ValueError(f"{first.strategy} and {second.strategy} do not pair: {why}")
    return Pairs(seeds, rows[0], rows[1], alone)


def penalty_matrix(curves: Sequence[Curve], num_shared: int = 1, level: float = 0.95) -> Floats:
    """(A, A): the share of rounds in which row beats column by a paired t-test at `level` (Ash et al., 2020: there of
    five runs, added up over experiments); (1 - level) / 2 by chance. NaN for a pair that shares fewer than RANKED runs
    or no such round.

    num_shared: rounds before anything is selected, which are no part of the share.
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
            mean_R, differ_R = gaps_SR.mean(0), np.ptp(gaps_SR, 0) > 0  # as in `student`
            wins_AA[i, j] = ((mean_R > half_R) & differ_R).mean()
            wins_AA[j, i] = ((-mean_R > half_R) & differ_R).mean()
    return wins_AA


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over data sets, and how far two must be apart."""

    strategies: tuple[str, ...]
    mean_A: Floats  # 1 is best
    num_data_sets: int
    p: float  # Friedman's test of "all are equal"; NaN with fewer than DATA_SETS data sets or three strategies
    critical_difference: float  # Nemenyi's critical difference at `level`; NaN with fewer than DATA_SETS data sets


MIN_DATA_SETS = 5  # that a critical difference takes; ten are better


def rank_strategies(
    strategies: Sequence[str], scores_TA: Floats, data_sets: Sequence[str], level: float = 0.95
) -> Ranks:
    """Ranks of strategies over data sets, higher scores first, ties shared (Demšar, 2006).

    Experiments on one data set are no independent cases: their ranks are averaged, and the averages ranked.

    Args:
        strategies: A of them.
        scores_TA: (T, A): a score in each experiment.
        data_sets: T: which data set an experiment is on.
        level: of the critical difference.
    """
    from scipy import stats  # takes most of a second: only where it is used

    ranks_TA, places_T = stats.rankdata(-scores_TA, axis=1), np.array(data_sets)
    means_DA = np.array([ranks_TA[places_T == one].mean(0) for one in dict.fromkeys(data_sets)])
    ranks_DA = stats.rankdata(means_DA.round(9), axis=1)
    num_sets, num = ranks_DA.shape
    if num_sets < MIN_DATA_SETS:
        return Ranks(tuple(strategies), ranks_DA.mean(0), num_sets, math.nan, math.nan)
    p = float(stats.friedmanchisquare(*ranks_DA.T).pvalue) if num > 2 else math.nan
    quantile_ = float(stats.studentized_range.ppf(level, num, np.inf)) / math.sqrt(2)
    critical = quantile_ * math.sqrt(num * (num + 1) / (6 * num_sets))
    return Ranks(tuple(strategies), ranks_DA.mean(0), num_sets, p, critical)
