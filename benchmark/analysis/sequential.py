"""The sequential test of `seeds=auto`: tests at growing numbers of seeds, with the error rate of a single test.

Testing after every seed and stopping at p <= 0.05 gives a false verdict in one case of five. Here every look (interim
analysis) spends a share of the error: after n of N seeds, at most alpha n / N is spent in all. The test flips the signs
of the paired differences; a look considers only the sign vectors that no earlier look has rejected. Differences that
are symmetric about zero therefore give a verdict with probability alpha at most, whatever their distribution. Every
look applies Holm's step-down correction over all strategies.
Shapes: V sign vectors, N seeds, K strategies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from benchmark.analysis.curves import Floats
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.seeds import seed
from benchmark.text.words import plural

NUM_SIGN_VECTORS = 20_000
GIVE_UP_POWER = 0.10  # a comparison is given up when its conditional power falls below
MIN_SEEDS_TO_GIVE_UP = 10
DECIDED_STATUSES = ("better", "worse")


@cache
def sign_vectors(num_seeds: int) -> Floats:
    """(V, N): random signs of each seed's difference; the first vector is all ones.

    The columns of fewer seeds are the first columns of more seeds.
    """
    rngs = (np.random.default_rng(seed("sign flips", column)) for column in range(num_seeds))
    columns = [rng.integers(0, 2, NUM_SIGN_VECTORS) for rng in rngs]
    signs_VN = 1.0 - 2.0 * np.stack(columns, 1)
    signs_VN[0] = 1.0
    return np.asarray(signs_VN)


def first_rejecting_look(differences_N: Floats, alpha: float, auto: AutoSeeds) -> int | None:
    """The first look that rejects the hypothesis "the differences are symmetric about zero".

    Args:
        differences_N: the paired differences of the finished seeds, in order.
        alpha: the error rate of all looks together.
        auto: the numbers of seeds at which to look.

    Returns:
        The number of seeds at that look; None if no look so far rejects.
    """
    signs_VN = sign_vectors(auto.max_seeds)
    remaining_V = np.ones(len(signs_VN), bool)
    for num_seeds in auto.looks:
        if num_seeds > len(differences_N):
            return None
        statistics_V = np.abs(signs_VN[:, :num_seeds] @ differences_N[:num_seeds])
        spendable = math.floor(alpha * num_seeds / auto.max_seeds * len(signs_VN) + 1e-9)
        threshold = rejection_threshold(statistics_V[remaining_V], spendable - int((~remaining_V).sum()))
        remaining_V &= statistics_V < threshold
        if not remaining_V[0]:
            return num_seeds
    return None


def rejection_threshold(statistics_V: Floats, allowance: int) -> float:
    """The smallest threshold that at most `allowance` statistics reach; equal statistics count together."""
    if allowance <= 0 or not len(statistics_V):
        return math.inf
    if allowance >= len(statistics_V):
        return -math.inf
    index = len(statistics_V) - allowance - 1
    return float(np.partition(statistics_V, index)[index] * (1 + 1e-9) + 1e-12)


def conditional_power(differences_N: Floats, alpha: float, max_seeds: int) -> float:
    """The probability of a rejection at `max_seeds` if the current mean and spread continue (normal approximation)."""
    num_seeds, std = len(differences_N), float(differences_N.std(ddof=1))
    if num_seeds == max_seeds or not std:
        return 1.0
    fraction = num_seeds / max_seeds
    z = abs(float(differences_N.mean())) / std * math.sqrt(num_seeds)
    critical = float(special.ndtri(1 - alpha / 2))
    return float(special.ndtr((z / math.sqrt(fraction) - critical) / math.sqrt(1 - fraction)))


@dataclass(frozen=True)
class SequentialState:
    """The state of the comparison of one strategy with the reference."""

    status: str  # better, worse, given up, open, or undecided after the last look
    num_seeds: int  # at the look that set the status; for an open comparison: at the next look


def sequential_states(
    differences: Mapping[str, Floats], auto: AutoSeeds, num_others: int = 0
) -> dict[str, SequentialState]:
    """The state of every comparison, look by look, given the finished seeds.

    A comparison that is decided or given up takes no more seeds, and stays in the family of Holm's correction. A
    comparison is given up when a rejection has become unlikely; this never means that the two are equal.

    Args:
        differences: by strategy, the paired differences of the seeds that both it and the reference have finished, in
            order.
        auto: the numbers of seeds at which to look, and the confidence level.
        num_others: further strategies that count in the family.

    Returns:
        The state of every strategy.
    """
    alpha, family_size = 1 - auto.level, len(differences) + num_others
    states = dict[str, SequentialState]()
    for num_seeds in auto.looks:
        undecided = [name for name in differences if name not in states]
        if any(len(differences[name]) < num_seeds for name in undecided):
            return states | {name: SequentialState("open", num_seeds) for name in undecided}
        current = {name: differences[name][:num_seeds] for name in undecided}
        states |= rejections(current, family_size - num_decided(states), auto)
        for name in [name for name in undecided if name not in states]:
            share = alpha / (family_size - num_decided(states))
            if num_seeds == auto.max_seeds:
                states[name] = SequentialState("undecided", num_seeds)
            elif num_seeds >= MIN_SEEDS_TO_GIVE_UP and (
                conditional_power(current[name], share, auto.max_seeds) < GIVE_UP_POWER
            ):
                states[name] = SequentialState("given up", num_seeds)
    return states


def rejections(differences: Mapping[str, Floats], family_size: int, auto: AutoSeeds) -> dict[str, SequentialState]:
    """The comparisons that Holm's step-down procedure rejects at one look.

    Args:
        differences: the paired differences up to this look, by strategy.
        family_size: comparisons that no earlier look has rejected, these among them.
        auto: the numbers of seeds at which to look, and the confidence level.
    """
    rejected = dict[str, SequentialState]()
    while rest := [name for name in differences if name not in rejected]:
        share = (1 - auto.level) / (family_size - len(rejected))
        name = next((name for name in rest if first_rejecting_look(differences[name], share, auto)), None)
        if name is None:
            break
        status = "better" if differences[name].mean() > 0 else "worse"
        rejected[name] = SequentialState(status, len(differences[name]))
    return rejected


def num_decided(states: Mapping[str, SequentialState]) -> int:
    """The number of comparisons that are decided: better or worse."""
    return sum(state.status in DECIDED_STATUSES for state in states.values())


def summarize_states(title: str, reference: str, states: Mapping[str, SequentialState]) -> str:
    """The states of an experiment in a line: `digits: better than random: margin (10 seeds); open, ...: badge`."""
    groups = dict[str, list[str]]()
    for name, state in states.items():
        if state.status == "open":
            groups.setdefault(f"open, next look at {plural(state.num_seeds, 'seed')}", []).append(name)
        else:
            words = f"{state.status} than {reference}" if state.status in DECIDED_STATUSES else state.status
            groups.setdefault(words, []).append(f"{name} ({plural(state.num_seeds, 'seed')})")
    return f"{title}: " + "; ".join(f"{words}: {', '.join(names)}" for words, names in groups.items())
