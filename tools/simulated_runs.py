"""Runs whose truth is known, for simulations.

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
COSTS_R = np.linspace(1_000.0, 10_000.0, 10, dtype=np.float64)  # images that ten rounds cost


def simulation_generator(name: str) -> Generator:
    """The generator of a simulation, from its name."""
    return np.random.default_rng(seed(PAGE, name))


def make_curve(name: str, value_SR: Floats, cost_R: Floats | None = None) -> Curve:
    """Runs of a strategy that start together with those of the same seed of every other."""
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
    return Experiment("simulated", "simulated", "simulated", ACCURACY, rounds, {one.strategy: one for one in curves})


def simulated_saving(first: Curve, second: Curve, rule: TargetRule, rng: Generator) -> Saving:
    """What `first` saves against `second`."""
    return compute_savings(make_experiment(first, second), first.strategy, second.strategy, rule, IMAGES, rng)[0]


def covers(one: stats.Interval, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return one.low <= truth <= one.high


def true_score(images: Floats, rate: float = 3000) -> Floats:
    """What a model of so many images scores: a concave curve that flattens."""
    return np.asarray(95 - 50 * np.exp(-images / rate))


def seed_noise(rng: Generator, num_seeds: int, own: float, num_rounds: int = 10) -> Floats:
    """(S, R): an effect of the seed that stays over the rounds, and one of each round."""
    return rng.normal(0, 1, (num_seeds, 1)) + rng.normal(0, own, (num_seeds, num_rounds))
