"""Simulations of savings: at a score, along a curve, in a band, with few rounds.

Shapes: M replicates, S runs (seeds), R rounds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from benchmark.analysis import stats
from benchmark.analysis.annotation_cost import crossing_cost
from benchmark.analysis.curves import Floats
from benchmark.analysis.savings import TargetRule, compute_savings
from tools.simulated_runs import (
    COSTS_R,
    IMAGES,
    SimulationResults,
    covers,
    make_curve,
    make_experiment,
    seed_noise,
    simulated_saving,
    simulation_generator,
    true_score,
)

BAND = TargetRule("band", 70, 72)


def rising_scores(rng: Generator, num_seeds: int) -> Floats:
    """(S, R): scores of a strategy whose curve still rises at the end."""
    return 90 - 60 / np.sqrt(COSTS_R / 1000) + 0.5 * seed_noise(rng, num_seeds, 1.2)


def savings_final(num: int) -> SimulationResults:
    """Simulates what one of two equal strategies saves, at the smaller of both final scores and at the other's."""
    rng, rows = simulation_generator("savings_final"), []
    for num_seeds in (3, 5, 10, 20):
        smaller, theirs = list[stats.Interval](), list[float]()
        for _ in range(num):
            first, second = (make_curve(name, rising_scores(rng, num_seeds)) for name in ("a", "b"))
            smaller.append(simulated_saving(first, second, TargetRule("final"), rng).amount)
            target = float(second.mean_R[-1])
            theirs.append(simulated_saving(first, second, TargetRule("value", target, target), rng).amount.value)
        reported = [value for value in theirs if math.isfinite(value)]
        values = np.array([interval.value for interval in smaller])
        rows.append({
            "seeds": num_seeds, "saved": values.mean(), "error": values.std() / math.sqrt(num),
            "covered": np.mean([covers(interval, 0.0) for interval in smaller]), "reported": np.isfinite(values).mean(),
            "theirs": np.mean(reported), "theirs_reported": len(reported) / num,
        })  # fmt: skip
    example = {"cost": COSTS_R, "first": true_score(COSTS_R), "second": true_score(COSTS_R, 4000)}
    return {"rows": rows, "hard": [*plateau_rows(num, rng), *dip_rows(num, rng)], "example": example}


def plateau_rows(num: int, rng: Generator) -> list[SimulationResults]:
    """Savings on a plateau: one of two flat curves gets there sooner; at the smaller final score."""
    fast, slow = (90 - 40 * np.exp(-COSTS_R / rate) for rate in (1000, 2000))
    return bias_rows("a plateau, one is there sooner", fast, slow, float(slow[-1]), TargetRule("final"), num, rng)


def dip_rows(num: int, rng: Generator) -> list[SimulationResults]:
    """Savings just above a peak of one strategy, which then falls by 3, while the other rises steadily."""
    steady = true_score(COSTS_R)
    target = float(steady[4]) + 0.2
    dipping = steady - 3.0 * (COSTS_R == 6000)
    return bias_rows(
        "just above a peak, then a dip", dipping, steady, target, TargetRule("value", target, target), num, rng
    )


def bias_rows(
    case: str, mine_R: Floats, theirs_R: Floats, target: float, rule: TargetRule, num: int, rng: Generator
) -> list[SimulationResults]:
    """The bias of savings, and the coverage of their intervals, by number of seeds."""
    [my_cost], [their_cost] = (
        crossing_cost(COSTS_R[None], curve_R[None], np.array([target])) for curve_R in (mine_R, theirs_R)
    )
    rows, truth = [], float(their_cost - my_cost)
    for num_seeds in (3, 5, 10):
        intervals = list[stats.Interval]()
        for _ in range(num):
            first, second = (curve_R + 0.5 * seed_noise(rng, num_seeds, 1.0) for curve_R in (mine_R, theirs_R))
            intervals.append(simulated_saving(make_curve("a", first), make_curve("b", second), rule, rng).amount)
        values = np.array([interval.value for interval in intervals])
        rows.append({
            "case": case, "seeds": num_seeds, "truth": truth, "off": values[np.isfinite(values)].mean() - truth,
            "covered": np.mean([covers(interval, truth) for interval in intervals]),
        })  # fmt: skip
    return rows


def few_rounds(num: int) -> SimulationResults:
    """The error of a saving that comes from linear interpolation between rounds; nothing is random here.

    Args:
        num: the number of target scores at which the two strategies are compared.
    """
    rows, errors_by_rounds = [], {}
    fine = np.linspace(1000, 10_000, 9_001, dtype=np.float64)
    targets = np.linspace(true_score(fine[:1], 4000)[0], true_score(fine[-1:], 4000)[0], num + 2)[1:-1]
    for num_rounds in (4, 6, 8, 10, 20):
        coarse = np.linspace(1000, 10_000, num_rounds, dtype=np.float64)
        errors = savings_at(coarse, targets) - savings_at(fine, targets)
        rows.append({"rounds": num_rounds, "largest": abs(errors).max(), "mean": abs(errors).mean()})
        errors_by_rounds[str(num_rounds)] = errors[:: max(1, num // 80)]
    return {"rows": rows, "example": {"target": targets[:: max(1, num // 80)], "error": errors_by_rounds}}


def savings_at(cost_R: Floats, targets_M: Floats) -> Floats:
    """(M,): what a faster strategy saves at these scores, when both curves are known at these costs."""
    mine, theirs = (
        crossing_cost(
            np.tile(cost_R, (len(targets_M), 1)), np.tile(true_score(cost_R, rate), (len(targets_M), 1)), targets_M
        )
        for rate in (3000, 4000)
    )
    return np.asarray(theirs - mine)


def savings_curve(num: int) -> SimulationResults:
    """Simulates intervals along a curve of savings: the coverage of each interval, and of all together."""
    rng, rows, example = simulation_generator("savings_curve"), [], SimulationResults()
    mine, theirs = true_score(COSTS_R), true_score(COSTS_R, 4000)
    truth_R = COSTS_R - crossing_cost(np.tile(COSTS_R, (10, 1)), np.tile(mine, (10, 1)), theirs)
    for num_seeds in (5, 10, 20):
        covered = []
        for _ in range(num):
            seed_effect = rng.normal(0, 1, (num_seeds, 1))
            first, second = (
                make_curve(name, truth + seed_effect + rng.normal(0, 0.5, (num_seeds, 10)))
                for name, truth in (("a", mine), ("b", theirs))
            )
            pair = make_experiment(first, second)
            savings = compute_savings(pair, "a", "b", TargetRule("curve"), IMAGES, rng)[1:]  # round 0 is shared
            covered.append([covers(saving.amount, truth) for saving, truth in zip(savings, truth_R[1:], strict=True)])
            ends = {
                "low": [saving.amount.low for saving in savings],
                "high": [saving.amount.high for saving in savings],
            }
            if num_seeds == 10 and not all(covered[-1]) and not example:
                example = ends | {
                    "saved": [saving.amount.value for saving in savings],
                    "truth": truth_R[1:],
                    "cost": COSTS_R[1:],
                }
        rows.append({"seeds": num_seeds, "each": np.mean(covered), "all": np.mean(np.all(covered, 1))})
    return {"rows": rows, "example": example}


def savings_band(num: int) -> SimulationResults:
    """Simulates intervals of a saving in a band, where each run pays for whole rounds."""
    rng, rows = simulation_generator("savings_band"), []
    for deviation in (0.05, 0.6):
        truth = mean_band_price(0.0, deviation) - mean_band_price(1.5, deviation)
        for num_seeds in (3, 5, 10):
            intervals = list[stats.Interval]()
            for _ in range(num):
                first, second = (band_scores(rng, num_seeds, better, deviation) for better in (1.5, 0.0))
                saving = simulated_saving(make_curve("a", first), make_curve("b", second), BAND, rng)
                intervals.append(saving.amount)
            bounded = [interval for interval in intervals if math.isfinite(interval.low)]
            covered = np.mean([covers(interval, truth) for interval in bounded]) if bounded else None
            rows.append({
                "deviation": deviation, "seeds": num_seeds, "truth": truth, "given": len(bounded) / num,
                "saved": np.mean([interval.value for interval in intervals]), "covered": covered,
            })  # fmt: skip
    late_SR = band_scores(rng, 5, 0.0, 1.2)
    late_SR[2] -= 10  # a run that never reaches the band
    saving = simulated_saving(make_curve("a", band_scores(rng, 5, 1.5, 0.6)), make_curve("b", late_SR), BAND, rng)
    example = {"cost": COSTS_R, "runs": late_SR, "paid": saving.against_cost, "note": saving.note}
    return {"rows": rows, "example": example}


def band_scores(rng: Generator, num_seeds: int, better: float, deviation: float) -> Floats:
    """(S, R): scores around a curve that passes 70 between two rounds."""
    return 90 + better - 42 / np.sqrt(COSTS_R / 1000) + deviation * seed_noise(rng, num_seeds, 1.0)


def mean_band_price(better: float, deviation: float) -> float:
    """The mean cost of the first round that scores 70 or more, over many runs."""
    value_SR = band_scores(simulation_generator("price_of_band"), 40_000, better, deviation)
    return float(COSTS_R[(value_SR >= 70).argmax(1)].mean())
