"""When enough seeds have run: looks at growing numbers of seeds that keep the error of a single test.

Looking at p after every seed and stopping at 0.05 is wrong in one case of five. Here every look spends a share of the
error: cumulative alpha n / N of N seeds, by sign flips that no earlier look has rejected, so that a difference that
is symmetric about zero is called one with probability alpha at most, however the differences are distributed. Holm's
step-down over the strategies is taken of all of them at every look. Shapes: V vectors of signs, N seeds, K strategies.
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
GIVE_UP_POWER = 0.10  # conditional power below which a comparison is given up
MIN_SEEDS_TO_GIVE_UP = 10  # seeds
DECIDED_STATUSES = ("better", "worse")


@cache
def sign_vectors(num_seeds: int) -> Floats:
    """(V, N): signs of each seed's difference, the identity first; of more seeds they begin with those of fewer."""
    rngs = (np.random.default_rng(seed("sign flips", place)) for place in range(num_seeds))
    columns = [rng.integers(0, 2, NUM_SIGN_VECTORS) for rng in rngs]
    signs_VN = 1.0 - 2.0 * np.stack(columns, 1)
    signs_VN[0] = 1.0
    return np.asarray(signs_VN)


def first_rejecting_look(differences_N: Floats, alpha: float, auto: AutoSeeds) -> int | None:
    """The look at which "the differences are symmetric about zero" is rejected.

    Args:
        differences_N: of the seeds that have run, in order.
        alpha: the error over all looks together.
        auto: when one looks.

    Returns:
        The number of seeds at that look; None where no look so far rejects.
    """
    signs_VN = sign_vectors(auto.max_seeds)
    left_V = np.ones(len(signs_VN), bool)
    for number in auto.looks:
        if number > len(differences_N):
            return None
        far_V = np.abs(signs_VN[:, :number] @ differences_N[:number])
        allowance = math.floor(alpha * number / auto.max_seeds * len(signs_VN) + 1e-9) - int((~left_V).sum())
        bound = rejection_threshold(far_V[left_V], allowance)
        left_V &= far_V < bound
        if not left_V[0]:
            return number
    return None


def rejection_threshold(statistics_V: Floats, allowance: int) -> float:
    """From which value on the largest are at most as many as allowed; equal ones go together."""
    if allowance <= 0 or not len(statistics_V):
        return math.inf
    if allowance >= len(statistics_V):
        return -math.inf
    first_left = np.partition(statistics_V, len(statistics_V) - allowance - 1)[len(statistics_V) - allowance - 1]
    return float(first_left * (1 + 1e-9) + 1e-12)


def conditional_power(differences_N: Floats, alpha: float, max_seeds: int) -> float:
    """The probability of a rejection at `max_seeds` if the differences go on as they are; the normal approximation."""
    number, spread = len(differences_N), float(differences_N.std(ddof=1))
    if number == max_seeds or not spread:
        return 1.0
    share = number / max_seeds
    z = abs(float(differences_N.mean())) / spread * math.sqrt(number)
    bound = float(special.ndtri(1 - alpha / 2))
    return float(special.ndtr((z / math.sqrt(share) - bound) / math.sqrt(1 - share)))


@dataclass(frozen=True)
class SequentialState:
    """Where the comparison of one strategy with the reference stands."""

    status: str  # better, worse, given up, open, undecided (at the last look)
    num_seeds: int  # at the look at which that was said; of an open one: seeds that the next look takes


def sequential_states(
    differences: Mapping[str, Floats], auto: AutoSeeds, num_others: int = 0
) -> dict[str, SequentialState]:
    """Where every comparison stands, look by look, with what has run.

    A strategy that is decided or given up takes no more seeds and stays in the family. Given up: no rejection is
    likely; that binds nobody, and never means that two are equal.

    Args:
        differences: by strategy: of the seeds that both it and the reference have finished, in order.
        auto: when one looks, and at which level.
        num_others: strategies that count in the family besides.

    Returns:
        A state for every strategy.
    """
    alpha, family, found = 1 - auto.level, len(differences) + num_others, dict[str, SequentialState]()
    for number in auto.looks:
        still = [name for name in differences if name not in found]
        if any(len(differences[name]) < number for name in still):
            return found | {name: SequentialState("open", number) for name in still}
        found |= rejections({name: differences[name][:number] for name in still}, family - num_decided(found), auto)
        for name in [name for name in still if name not in found]:
            so_far_N, share = differences[name][:number], alpha / (family - num_decided(found))
            if number == auto.max_seeds:
                found[name] = SequentialState("undecided", number)
            elif number >= MIN_SEEDS_TO_GIVE_UP and conditional_power(so_far_N, share, auto.max_seeds) < GIVE_UP_POWER:
                found[name] = SequentialState("given up", number)
    return found


def rejections(differences: Mapping[str, Floats], family: int, auto: AutoSeeds) -> dict[str, SequentialState]:
    """What Holm's step-down rejects at one look of so many comparisons that are not rejected yet, these among them."""
    new = dict[str, SequentialState]()
    while rest := [name for name in differences if name not in new]:
        share = (1 - auto.level) / (family - len(new))
        first = next((name for name in rest if first_rejecting_look(differences[name], share, auto)), None)
        if first is None:
            break
        so_far_N = differences[first]
        new[first] = SequentialState("better" if so_far_N.mean() > 0 else "worse", len(so_far_N))
    return new


def num_decided(states: Mapping[str, SequentialState]) -> int:
    """How many are rejected."""
    return sum(state.status in DECIDED_STATUSES for state in states.values())


def summarize_states(title: str, reference: str, states: Mapping[str, SequentialState]) -> str:
    """Where an experiment stands, in a line: `digits: better than random: margin (10 seeds); open, ...: badge`."""
    words = dict[str, list[str]]()
    for name, state in states.items():
        if state.status == "open":
            words.setdefault(f"open, next look at {plural(state.num_seeds, 'seed')}", []).append(name)
        else:
            kind = f"{state.status} than {reference}" if state.status in DECIDED_STATUSES else state.status
            words.setdefault(kind, []).append(f"{name} ({plural(state.num_seeds, 'seed')})")
    return f"{title}: " + "; ".join(f"{kind}: {', '.join(names)}" for kind, names in words.items())
