"""Simulations of every statistical rule with known true values, through the harness's own functions.

They are the numbers of docs/statistics.md. A simulation takes the number of replicates, and returns `rows` of a table
and an `example` to draw.
Shapes: M replicates, S runs (seeds), R rounds, A strategies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from benchmark.analysis import stats
from benchmark.analysis.comparisons import compare
from benchmark.analysis.curves import Floats
from benchmark.analysis.equivalence import REPRODUCED, Gap, judge
from benchmark.analysis.sequential import DECIDED_STATUSES, sequential_states
from benchmark.analysis.tables import build_row, interval_factor
from benchmark.experiment.auto_seeds import LOOKS, AutoSeeds
from tools.simulated_runs import (
    COSTS_R,
    IMAGES,
    SimulationResults,
    covers,
    make_curve,
    make_experiment,
    seed_noise,
    simulation_generator,
    true_score,
)
from tools.simulated_savings import few_rounds, savings_band, savings_curve, savings_final

MARGIN = 1.0  # of accuracy: scores that differ by no more count as equal


# --- differences ----------------------------------------------------------------------------
def pairing(num: int) -> SimulationResults:
    """Simulates intervals of a difference of 1.5 standard deviations, with paired and with unpaired seeds."""
    rng, truth, rows = simulation_generator("pairing"), 1.5, []
    for num_seeds in (3, 5, 10):
        for correlation in (0.0, 0.4, 0.8):
            first_MS, second_MS = correlated_scores(rng, (num, num_seeds), correlation)
            first_MS += truth
            paired_intervals = [stats.student_interval(gaps_S) for gaps_S in first_MS - second_MS]
            unpaired_intervals = [welch_interval(*pair) for pair in zip(first_MS, second_MS, strict=True)]
            rows.append({
                "seeds": num_seeds, "correlation": correlation,
                "covered": np.mean([covers(interval, truth) for interval in paired_intervals]),
                "found": np.mean([interval.low > 0 for interval in paired_intervals]),
                "found_unpaired": np.mean([interval.low > 0 for interval in unpaired_intervals]),
            })  # fmt: skip
    first_MS, second_MS = correlated_scores(rng, (1, 6), 0.9)
    return {"rows": rows, "example": {"first": 81.5 + first_MS[0], "second": 80 + second_MS[0]}}


def correlated_scores(rng: Generator, shape: tuple[int, int], correlation: float) -> tuple[Floats, Floats]:
    """(M, S): scores of two strategies that are correlated over the seeds."""
    shared_MS = math.sqrt(correlation) * rng.standard_normal(shape)
    first_MS, second_MS = (shared_MS + math.sqrt(1 - correlation) * rng.standard_normal(shape) for _ in range(2))
    return first_MS, second_MS


def welch_interval(first_S: Floats, second_S: Floats) -> stats.Interval:
    """Welch's interval of the difference of two means."""
    (mine, my_std), (theirs, their_std) = ((scores_S.mean(), scores_S.std(ddof=1)) for scores_S in (first_S, second_S))
    return Gap(0, float(mine - theirs), len(first_S), float(my_std), len(second_S), float(their_std)).interval(0.95)


def sign_flips(num: int) -> SimulationResults:
    """Simulates how often p is at most 0.05 when the mean difference is zero."""
    rng = simulation_generator("sign_flips")
    shapes: dict[str, Callable[[tuple[int, int]], Floats]] = {
        "symmetric: normal": rng.standard_normal,
        "symmetric: heavy tails (Student's, 2 degrees)": lambda shape: rng.standard_t(2, shape),
        "skewed: exponential": lambda shape: rng.exponential(1, shape) - 1,
        "skewed: lognormal": lambda shape: rng.lognormal(0, 1, shape) - math.exp(0.5),
    }
    rows = [
        {
            "shape": name,
            "seeds": num_seeds,
            "rejected": np.mean(stats.sign_flip_test(draw((num, num_seeds)), rng) <= 0.05),
        }
        for name, draw in shapes.items()
        for num_seeds in (5, 6, 8, 10, 12)
    ]
    gaps_S = np.array([0.9, 1.6, -0.3, 1.1, 0.4, 2.0])  # an example to draw
    means_F = stats.sign_patterns(6) @ gaps_S / 6
    flips, p = np.sort(np.concatenate([means_F, -means_F])), stats.sign_flip_test(gaps_S[None], rng)[0]
    return {"rows": rows, "example": {"flips": flips, "mean": gaps_S.mean(), "p": p}}


def seeds_needed(num: int) -> SimulationResults:
    """The seeds that make a verdict possible, those with power 0.8 by the forecast, and their simulated power."""
    rng, rows = simulation_generator("seeds_needed"), []
    for family in (1, 9):
        for difference in (1.0, 1.5, 2.0):
            least, about = stats.min_runs_to_reject(0.95, family), stats.runs_to_find(difference, 0.95, family)
            assert about is not None
            power = [
                np.mean(stats.sign_flip_test(rng.normal(difference, 1, (num, number)), rng) <= 0.05 / family)
                for number in (least, about)
            ]
            rows.append({
                "comparisons": family, "difference": difference, "possible": least, "power_possible": power[0],
                "about": about, "power_about": power[1],
            })  # fmt: skip
    seeds = range(4, 21)
    power_of = {
        str(difference): [stats.power_function(number, 0.05 / 9)(difference) for number in seeds]
        for difference in (1.0, 1.5, 2.0)
    }
    return {"rows": rows, "example": {"seeds": list(seeds), "power": power_of}}


def holm(num: int) -> SimulationResults:
    """Simulates false verdicts in a report of equal strategies: nine and a reference in each table, ten seeds."""
    rng, plain_MT, corrected_MT = simulation_generator("holm"), np.zeros((num, 10), bool), np.zeros((num, 10), bool)
    for number in range(10):
        gaps_MAS = rng.standard_normal((num, 9, 10)) - rng.standard_normal((num, 1, 10))
        p_MA = stats.sign_flip_test(gaps_MAS.reshape(-1, 10), rng).reshape(num, 9)
        plain_MT[:, number] = (p_MA <= 0.05).any(1)
        corrected_MT[:, number] = [(stats.holm(p_A) <= 0.05).any() for p_A in p_MA]
    rows = [
        {"tables": number, "uncorrected": plain_MT[:, :number].any(1).mean(),
         "holm": corrected_MT[:, :number].any(1).mean()}
        for number in range(1, 11)
    ]  # fmt: skip
    return {"rows": rows}


def spread(num: int) -> SimulationResults:
    """Simulates what "mean ± standard deviation" covers; each round of two equal strategies is one replicate."""
    rng, rows, example = simulation_generator("spread"), [], SimulationResults()
    for num_seeds in (3, 5, 10):
        curves = [make_curve(name, rng.standard_normal((num_seeds, num))) for name in ("a", "b")]
        first_M2, second_M2 = (
            np.array([(entry.mean, entry.std) for entry in build_row(curve, make_experiment(*curves))], np.float64)
            for curve in curves
        )
        factor = interval_factor(num_seeds)
        rows.append({
            "seeds": num_seeds, "factor": factor, "covered": np.mean(abs(first_M2[:, 0]) <= first_M2[:, 1]),
            "interval": np.mean(abs(first_M2[:, 0]) <= factor * first_M2[:, 1]),
            "disjoint": np.mean(abs(first_M2[:, 0] - second_M2[:, 0]) > first_M2[:, 1] + second_M2[:, 1]),
        })  # fmt: skip
        example.setdefault("first", first_M2[:24])
        example.setdefault("second", second_M2[:24])
    return {"rows": rows, "example": example}


def verdicts(num: int) -> SimulationResults:
    """Simulates verdicts on pairs of strategies, with a standard deviation and a margin of 1."""
    rng, rows = simulation_generator("verdicts"), []
    for difference in (0.0, 0.5, 1.0, 2.0):
        for num_seeds in (5, 10, 20):
            counts = Counter[str]()
            for _ in range(num):
                base_SR = np.array([60.0, 70, 75]) + rng.standard_normal((num_seeds, 1))
                gaps_S1 = rng.normal(difference, 1, (num_seeds, 1))
                pair = make_experiment(make_curve("a", base_SR + gaps_S1), make_curve("b", base_SR))
                counts[compare(pair, "a", "b", IMAGES, 0.95, 0).verdict] += 1
            words = ("better", "worse", "equivalent", "undecided")
            rows.append({"difference": difference, "seeds": num_seeds} | {word: counts[word] / num for word in words})
    return {"rows": rows}


def price(num: int) -> SimulationResults:
    """Simulates strategies that learn equally from equal images; one pays for 500 more, or buys 1.5 times as many."""
    rng, rows = simulation_generator("price"), []
    for charged, times in ((500.0, 1.0), (0.0, 1.5)):
        num_images_R, charged_R = times * COSTS_R, times * COSTS_R + charged
        at_equal_cost_M, by_round_M = np.zeros(num), np.zeros(num)
        for number in range(num):
            first, second = (
                make_curve(name, true_score(images_R) + seed_noise(rng, 8, 0.5), cost_R)
                for name, images_R, cost_R in (("a", num_images_R, charged_R), ("b", COSTS_R, COSTS_R))
            )
            comparison = compare(make_experiment(first, second), "a", "b", IMAGES, 0.95, 0)
            assert comparison.all_rounds_difference is not None
            at_equal_cost_M[number] = comparison.area_difference.value
            by_round_M[number] = comparison.all_rounds_difference.value
        fine = np.linspace(max(charged_R[0], COSTS_R[0]), min(charged_R[-1], COSTS_R[-1]), 20_001)
        gaps = np.interp(fine, charged_R, true_score(num_images_R)) - np.interp(fine, COSTS_R, true_score(COSTS_R))
        rows.append({
            "charged": charged, "times": times, "truth": np.trapezoid(gaps, fine) / (fine[-1] - fine[0]),
            "found": at_equal_cost_M.mean(), "error": at_equal_cost_M.std() / math.sqrt(num),
            "by_round": by_round_M.mean(),
        })  # fmt: skip
    example = {"cost": COSTS_R, "first": true_score(COSTS_R), "paid": COSTS_R + 500}
    return {"rows": rows, "example": example}


# --- over experiments -----------------------------------------------------------------------
RANK_CASES = ((3, 4, "experiments"), (3, 4, "data sets"), (5, 4, "data sets"), (10, 1, "data sets"))


def ranks(num: int) -> SimulationResults:
    """Simulates ranks of five strategies that are equal over all data sets; each data set has its own true order."""
    rng, rows = simulation_generator("ranks"), []
    for num_sets, num_schedules, counted in RANK_CASES:
        names = [str(number) for number in range(num_sets) for _ in range(num_schedules)]
        if counted == "experiments":  # each experiment counts as a data set
            names = [str(number) for number in range(len(names))]
        wrong = 0
        for _ in range(num):
            scores_DA = np.repeat(rng.normal(size=(num_sets, 5)), num_schedules, 0)
            ranking = stats.rank_strategies(list("abcde"), scores_DA + rng.normal(0, 0.1, scores_DA.shape), names)
            wrong += bool(np.ptp(ranking.mean_A) > ranking.critical_difference)
        case = {"data_sets": num_sets, "schedules": num_schedules, "counted": counted}
        rows.append(case | {"wrong": wrong / num, "critical": ranking.critical_difference})
    return {"rows": rows}


def penalties(num: int) -> SimulationResults:
    """Simulates the rounds that one of two equal strategies wins; the example is a matrix of four strategies."""
    rng, rows = simulation_generator("penalties"), []
    for num_seeds in (5, 10):
        [first, second] = (make_curve(name, rng.standard_normal((num_seeds, 10 * num))) for name in ("a", "b"))
        share = stats.penalty_matrix([first, second])[0, 1]
        any_of_nine = []
        for _ in range(num):
            pair = [make_curve(name, rng.standard_normal((num_seeds, 10))) for name in ("a", "b")]
            any_of_nine.append((stats.penalty_matrix(pair) > 0).any())
        rows.append({"seeds": num_seeds, "share": share, "any": np.mean(any_of_nine)})
    better = {"equal 1": 0.0, "equal 2": 0.0, "equal 3": 0.0, "better by 3": 3.0}
    curves = [
        make_curve(name, true_score(COSTS_R) + by * (COSTS_R > 1000) + seed_noise(rng, 5, 0.5))
        for name, by in better.items()
    ]
    return {"rows": rows, "example": {"names": list(better), "wins": stats.penalty_matrix(curves)}}


# --- against published curves, and seeds=auto -----------------------------------------------
def verify(num: int) -> SimulationResults:
    """Simulates verdicts on published curves whose true gap from ours is known."""
    rng, rows = simulation_generator("verify"), []
    for truth, their_runs in ((MARGIN, 5), (0.1, 20), (2.0, 5)):
        for num_runs in (3, 5, 10, 20):
            counts = Counter(simulate_verdict(rng, truth, num_runs, their_runs) for _ in range(num))
            shares = {word: counts[word] / num for word in ("weaker", "stronger", "inconclusive", REPRODUCED)}
            rows.append({"truth": truth, "their_runs": their_runs, "runs": num_runs} | shares)
    return {"rows": rows}


def simulate_verdict(rng: Generator, truth: float, num_runs: int, their_runs: int) -> str:
    """The verdict on one simulated paper; runs have a standard deviation of 1, partly shared between rounds."""
    num_counts = 1 if truth == MARGIN else 4  # numbers of labels; at the margin, one is the hardest case
    mine_SR, theirs_SR = (
        rng.normal(0, 0.6, (number, 1)) + rng.normal(0, 0.8, (number, num_counts)) for number in (num_runs, their_runs)
    )
    gaps = [
        Gap(1000.0 * place, truth + mine_S.mean() - theirs_S.mean(), num_runs, mine_S.std(ddof=1), their_runs,
            theirs_S.std(ddof=1))
        for place, (mine_S, theirs_S) in enumerate(zip(mine_SR.T, theirs_SR.T, strict=True), start=1)
    ]  # fmt: skip
    return judge(gaps, MARGIN, 0.95)[0]


def seeds_auto(num: int) -> SimulationResults:
    """Simulates one comparison under seeds=auto, and the false verdicts of testing after every seed instead."""
    rng, rows, auto = simulation_generator("seeds_auto"), [], AutoSeeds("random", 0.95, 30)
    looks = np.zeros(len(LOOKS))
    for difference in (0.0, 0.5, 0.8, 1.2):
        states = [sequential_states({"a": rng.normal(difference, 1, 30)}, auto)["a"] for _ in range(num)]
        decided_at = [state.num_seeds for state in states if state.status in DECIDED_STATUSES]
        rows.append({
            "difference": difference, "decided": len(decided_at) / num,
            "seeds": np.mean([state.num_seeds for state in states]),
        })  # fmt: skip
        if not difference:
            looks += [sum(number <= look for number in decided_at) / num for look in LOOKS]
    rejected_M, peeking = np.zeros(num, bool), []
    gaps_MS = rng.standard_normal((num, 30))
    for number in range(6, 31):
        rejected_M |= stats.sign_flip_test(gaps_MS[:, :number], rng) <= 0.05
        peeking.append(rejected_M.mean())
    example = {"seeds": list(range(6, 31)), "peeking": peeking, "looks": list(LOOKS), "auto": looks}
    return {"rows": rows, "example": example}


SIMULATIONS: dict[str, tuple[Callable[[int], SimulationResults], int]] = {
    "pairing": (pairing, 4_000),
    "sign_flips": (sign_flips, 4_000),
    "seeds_needed": (seeds_needed, 2_000),
    "holm": (holm, 1_000),
    "spread": (spread, 4_000),
    "price": (price, 400),
    "savings_final": (savings_final, 800),
    "few_rounds": (few_rounds, 400),
    "savings_curve": (savings_curve, 400),
    "savings_band": (savings_band, 400),
    "verdicts": (verdicts, 300),
    "ranks": (ranks, 400),
    "penalties": (penalties, 2_000),
    "verify": (verify, 500),
    "seeds_auto": (seeds_auto, 1_000),
}  # by rule: the simulation and its number of replicates
