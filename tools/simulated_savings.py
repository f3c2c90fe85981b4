"""Simulations of savings: at a score, along a curve, in a band, with few rounds.

Shapes: M replicates, S runs (seeds), R rounds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from benchmark.analysis import stats
from benchmark.analysis.curves import Floats
from benchmark.analysis.savings import Rule, crossing, savings
from tools.simulated_runs import COSTS_R, IMAGES, Results, curve, experiment, generator, holds, noise, saving, score


def rising(rng: Generator, num_seeds: int) -> Floats:
    """(S, R): runs of a strategy that still rises at the end."""
    return 90 - 60 / np.sqrt(COSTS_R / 1000) + 0.5 * noise(rng, num_seeds, 1.2)


def savings_final(num: int) -> Results:
    """Two equal strategies: what one saves at the smaller of both final scores, and at the other's."""
    rng, rows = generator("savings_final"), []
    for num_seeds in (3, 5, 10, 20):
        smaller, theirs = list[stats.Interval](), list[float]()
        for _ in range(num):
            first, second = (curve(name, rising(rng, num_seeds)) for name in ("a", "b"))
            smaller.append(saving(first, second, Rule("final"), rng).saved)
            target = float(second.mean_R[-1])
            theirs.append(saving(first, second, Rule("value", target, target), rng).saved.value)
        reported = [value for value in theirs if math.isfinite(value)]
        values = np.array([one.value for one in smaller])
        rows.append({
            "seeds": num_seeds, "saved": values.mean(), "error": values.std() / math.sqrt(num),
            "covered": np.mean([holds(one, 0.0) for one in smaller]), "reported": np.isfinite(values).mean(),
            "theirs": np.mean(reported), "theirs_reported": len(reported) / num,
        })  # fmt: skip
    example = {"cost": COSTS_R, "first": score(COSTS_R), "second": score(COSTS_R, 4000)}
    return {"rows": rows, "hard": [*on_a_plateau(num, rng), *beside_a_dip(num, rng)], "example": example}


def on_a_plateau(num: int, rng: Generator) -> list[Results]:
    """Two strategies that hardly rise at the end, one of them there sooner, at the smaller final score."""
    fast, slow = (90 - 40 * np.exp(-COSTS_R / rate) for rate in (1000, 2000))
    return off("a plateau, one is there sooner", fast, slow, float(slow[-1]), Rule("final"), num, rng)


def beside_a_dip(num: int, rng: Generator) -> list[Results]:
    """One strategy falls by 3 after a peak, at a score just above that peak, and the other never does."""
    steady = score(COSTS_R)
    target = float(steady[4]) + 0.2
    dipping = steady - 3.0 * (COSTS_R == 6000)
    return off("just above a peak, then a dip", dipping, steady, target, Rule("value", target, target), num, rng)


def off(
    case: str, mine_R: Floats, theirs_R: Floats, target: float, rule: Rule, num: int, rng: Generator
) -> list[Results]:
    """How far savings are off on average, and how often their intervals hold the truth, by number of seeds."""
    [paid], [other] = (crossing(COSTS_R[None], one_R[None], np.array([target])) for one_R in (mine_R, theirs_R))
    rows, truth = [], float(other - paid)
    for num_seeds in (3, 5, 10):
        found = list[stats.Interval]()
        for _ in range(num):
            first, second = (one_R + 0.5 * noise(rng, num_seeds, 1.0) for one_R in (mine_R, theirs_R))
            found.append(saving(curve("a", first), curve("b", second), rule, rng).saved)
        values = np.array([one.value for one in found])
        rows.append({
            "case": case, "seeds": num_seeds, "truth": truth, "off": values[np.isfinite(values)].mean() - truth,
            "covered": np.mean([holds(one, truth) for one in found]),
        })  # fmt: skip
    return rows


def few_rounds(num: int) -> Results:
    """How far off a saving may be since curves are taken to be straight between rounds; nothing is random here.

    Args:
        num: scores at which the two are compared.
    """
    rows, found = [], {}
    fine = np.linspace(1000, 10_000, 9_001, dtype=np.float64)
    targets = np.linspace(score(fine[:1], 4000)[0], score(fine[-1:], 4000)[0], num + 2)[1:-1]
    for num_rounds in (4, 6, 8, 10, 20):
        coarse = np.linspace(1000, 10_000, num_rounds, dtype=np.float64)
        errors = saved_at(coarse, targets) - saved_at(fine, targets)
        rows.append({"rounds": num_rounds, "largest": abs(errors).max(), "mean": abs(errors).mean()})
        found[str(num_rounds)] = errors[:: max(1, num // 80)]
    return {"rows": rows, "example": {"target": targets[:: max(1, num // 80)], "error": found}}


def saved_at(cost_R: Floats, targets_M: Floats) -> Floats:
    """(M,): what a strategy that learns faster saves at these scores, both known at these costs."""
    mine, theirs = (
        crossing(np.tile(cost_R, (len(targets_M), 1)), np.tile(score(cost_R, rate), (len(targets_M), 1)), targets_M)
        for rate in (3000, 4000)
    )
    return np.asarray(theirs - mine)


def savings_curve(num: int) -> Results:
    """Intervals along a curve of savings: how often one holds the truth, and how often all do."""
    rng, rows, example = generator("savings_curve"), [], Results()
    mine, theirs = score(COSTS_R), score(COSTS_R, 4000)
    truth_R = COSTS_R - crossing(np.tile(COSTS_R, (10, 1)), np.tile(mine, (10, 1)), theirs)
    for num_seeds in (5, 10, 20):
        covered = []
        for _ in range(num):
            shared = rng.normal(0, 1, (num_seeds, 1))
            first, second = (
                curve(name, truth + shared + rng.normal(0, 0.5, (num_seeds, 10)))
                for name, truth in (("a", mine), ("b", theirs))
            )
            found = savings(experiment(first, second), "a", "b", Rule("curve"), IMAGES, rng)[1:]  # round 0 is shared
            covered.append([holds(one.saved, truth) for one, truth in zip(found, truth_R[1:], strict=True)])
            ends = {"low": [one.saved.low for one in found], "high": [one.saved.high for one in found]}
            if num_seeds == 10 and not all(covered[-1]) and not example:
                example = ends | {
                    "saved": [one.saved.value for one in found],
                    "truth": truth_R[1:],
                    "cost": COSTS_R[1:],
                }
        rows.append({"seeds": num_seeds, "each": np.mean(covered), "all": np.mean(np.all(covered, 1))})
    return {"rows": rows, "example": example}


def savings_band(num: int) -> Results:
    """Intervals of a saving in a band, where each run pays for whole rounds."""
    rng, rows = generator("savings_band"), []
    for deviation in (0.05, 0.6):
        truth = price_of_band(0.0, deviation) - price_of_band(1.5, deviation)
        for num_seeds in (3, 5, 10):
            found = list[stats.Interval]()
            for _ in range(num):
                first, second = (banded(rng, num_seeds, better, deviation) for better in (1.5, 0.0))
                found.append(saving(curve("a", first), curve("b", second), Rule("band", 70, 72), rng).saved)
            given = [one for one in found if math.isfinite(one.low)]
            covered = np.mean([holds(one, truth) for one in given]) if given else None
            rows.append({
                "deviation": deviation, "seeds": num_seeds, "truth": truth, "given": len(given) / num,
                "saved": np.mean([one.value for one in found]), "covered": covered,
            })  # fmt: skip
    late_SR = banded(rng, 5, 0.0, 1.2)
    late_SR[2] -= 10  # a run that never gets there
    one = saving(curve("a", banded(rng, 5, 1.5, 0.6)), curve("b", late_SR), Rule("band", 70, 72), rng)
    return {"rows": rows, "example": {"cost": COSTS_R, "runs": late_SR, "paid": one.other, "note": one.note}}


def banded(rng: Generator, num_seeds: int, better: float, deviation: float) -> Floats:
    """(S, R) scores around a curve that passes 70 between two rounds."""
    return 90 + better - 42 / np.sqrt(COSTS_R / 1000) + deviation * noise(rng, num_seeds, 1.0)


def price_of_band(better: float, deviation: float) -> float:
    """The mean price of the first round of 70 or more, over many runs."""
    value_SR = banded(generator("price_of_band"), 40_000, better, deviation)
    return float(COSTS_R[(value_SR >= 70).argmax(1)].mean())
