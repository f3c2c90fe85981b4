"""The cost at which learning curves reach a score.

Curves are linear between rounds, and monotone through their running maximum.
Shapes: S runs, R rounds, M replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.analysis.curves import Floats
from benchmark.analysis.stats import MIN_PAIRS

Bools: TypeAlias = npt.NDArray[np.bool_]

TARGET_TOLERANCE = 1e-12  # relative: a score that misses its target by rounding alone still reaches it


@dataclass(frozen=True)
class StrategyRuns:
    """Costs and scores of one strategy's runs, each (S, R)."""

    cost_SR: Floats
    value_SR: Floats

    @property
    def complete_rounds_R(self) -> Bools:
        """(R,): whether every run has the round."""
        return np.asarray((np.isfinite(self.cost_SR) & np.isfinite(self.value_SR)).all(0))

    @property
    def start_cost(self) -> float:
        """The mean cost of round 0."""
        return float(self.cost_SR[:, 0].mean())

    @property
    def total_cost(self) -> float:
        """The mean over the runs of all that each has paid."""
        return float(np.nanmax(self.cost_SR, axis=1).mean())

    @property
    def round_cost(self) -> float:
        """The mean cost of a round after round 0."""
        num_rounds = self.cost_SR.shape[1] - 1
        return (self.total_cost - self.start_cost) / num_rounds if num_rounds else 0.0

    def replicate_means(self, weights_MS: Floats) -> tuple[Floats, Floats]:
        """(M, R) replicates of the mean cost and of the mean score, over the rounds that every run has.

        Raises:
            ValueError: there is no such round.
        """
        rounds_R = self.complete_rounds_R
        if not rounds_R.any():
            raise ValueError("no round is finished by every run: nothing can be compared yet")
        return weights_MS @ self.cost_SR[:, rounds_R], weights_MS @ self.value_SR[:, rounds_R]

    def cost_to_reach(self, low: float) -> tuple[Floats, Bools]:
        """The cost of the first round that scores `low` or more, without interpolation.

        Returns:
            (S,) the cost of each run: all that it has paid if it has no such round; and (S,) whether it has one.
        """
        hit_SR = np.nan_to_num(self.value_SR, nan=-np.inf) >= low - TARGET_TOLERANCE * abs(low)
        hit_S: Bools = np.asarray(hit_SR.any(1))
        first_S = self.cost_SR[np.arange(len(hit_SR)), hit_SR.argmax(1)]
        return np.where(hit_S, first_S, np.nanmax(self.cost_SR, axis=1)), hit_S


def crossing_cost(cost_MR: Floats, score_MR: Floats, target_M: Floats) -> Floats:
    """The cost at which each curve first reaches its target.

    Args:
        cost_MR: the cost up to each round.
        score_MR: the score of each round; higher is better.
        target_M: the score that each curve has to reach.

    Returns:
        (M,) costs, linear between the running maxima of two rounds; the cost of round 0 where its score is enough, and
        infinity where no round reaches the target.
    """
    best_MR = np.maximum.accumulate(score_MR, axis=1)
    hit_MR = best_MR >= (target_M - TARGET_TOLERANCE * np.abs(target_M))[:, None]
    rows, columns = np.arange(len(cost_MR)), hit_MR.argmax(1)
    before = np.maximum(columns - 1, 0)
    rise_M = best_MR[rows, columns] - best_MR[rows, before]
    fraction_M = np.divide(target_M - best_MR[rows, before], rise_M, out=np.zeros(len(rows)), where=rise_M > 0)
    step_M = cost_MR[rows, columns] - cost_MR[rows, before]
    return np.where(hit_MR.any(1), cost_MR[rows, before] + fraction_M.clip(0, 1) * step_M, np.inf)


def rounding_offsets(min_std: float, differences_S: Floats) -> Floats:
    """(S,) offsets that raise the standard deviation of differences to at least `min_std`.

    The offsets have mean zero and are uncorrelated with the differences.
    """
    num_runs, centred_S = len(differences_S), differences_S - differences_S.mean()
    missing_variance = min_std**2 - float(centred_S @ centred_S) / max(num_runs - 1, 1)
    if num_runs < MIN_PAIRS or missing_variance <= 0:
        return np.zeros(num_runs)
    fixed_S2 = np.stack([np.ones(num_runs), centred_S], 1)
    free_S = np.linalg.qr(np.concatenate([fixed_S2, np.eye(num_runs)], 1))[0][:, 2]
    return np.asarray(free_S * math.sqrt(missing_variance * (num_runs - 1)))
