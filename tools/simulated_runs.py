"""Simulated runs of strategies whose true scores are known.

Shapes: S runs (seeds), R rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats
from benchmark.analysis.savings import Price, Saving, TargetRule, compute_savings
from benchmark.contract.metrics import ACCURACY
from benchmark.seeds import seed

SimulationResults = dict[str, Any]
PAGE = "docs/statistics.md"
IMAGES = Price("images")
COSTS_R = np.linspace(1_000.0, 10_000.0, 10, dtype=np.float64)  # images paid for up to each of ten rounds


def simulation_generator(name: str) -> Generator:
    """The random generator of a simulation, seeded by its name."""
    return np.random.default_rng(seed(PAGE, name))


def make_curve(name: str, value_SR: Floats, cost_R: Floats | None = None) -> Curve:
    """A curve of simulated runs; runs of the same seed have the same start, so that strategies pair."""
    num_runs, num_rounds = value_SR.shape
    costs_R = 1000.0 * np.arange(1, num_rounds + 1) if cost_R is None else cost_R
    cost_SR = np.broadcast_to(costs_R, value_SR.shape).astype(np.float64)
    seeds = tuple(range(num_runs))
    starts = tuple(f"start {number}" for number in seeds)
    return Curve(
        name, num_runs, num_runs, value_SR, cost_SR, {"images": cost_SR}, seeds, starts, num_ended_R=(0,) * num_rounds
    )


def make_experiment(*curves: Curve) -> Experiment:
    """An experiment of these curves, scored by accuracy."""
    rounds = tuple(range(curves[0].value_SR.shape[1]))
    by_strategy = {curve.strategy: curve for curve in curves}
    return Experiment("simulated", "simulated", "simulated", ACCURACY, rounds, by_strategy)


def simulated_saving(first: Curve, second: Curve, rule: TargetRule, rng: Generator) -> Saving:
    """What `first` saves compared with `second`."""
    return compute_savings(make_experiment(first, second), first.strategy, second.strategy, rule, IMAGES, rng)[0]


def covers(interval: stats.Interval, truth: float) -> bool:
    """Whether an interval covers the true value."""
    return interval.low <= truth <= interval.high


def true_score(images: Floats, rate: float = 3000) -> Floats:
    """The true score of a model trained on so many images: a concave curve that flattens."""
    return np.asarray(95 - 50 * np.exp(-images / rate))


def seed_noise(rng: Generator, num_seeds: int, round_std: float, num_rounds: int = 10) -> Floats:
    """(S, R): the sum of an effect of the seed, the same in all rounds, and an effect of each round."""
    return rng.normal(0, 1, (num_seeds, 1)) + rng.normal(0, round_std, (num_seeds, num_rounds))
