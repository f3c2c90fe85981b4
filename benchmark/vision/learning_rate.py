"""The learning rate over a fit: warm-up, then a cosine, steps or a polynomial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LearningRateSchedule:
    """The learning rate over a fit: an optional warm-up, and a decay.

    Training progress may be counted in any unit, such as steps or fractions of the fit. `warmup` and `milestones` are
    in the same unit.

    Args:
        lr: base learning rate, which every other factor multiplies.
        shape: `cosine` decays to zero along half a cosine; `poly` decays as (share of training that is left) ** power;
            `step` multiplies by `decay` at each milestone.
        power: exponent of `poly`.
        milestones: progress values at which `step` multiplies the rate by `decay`.
        decay: factor of `step`.
        warmup: length of the warm-up; 0 means no warm-up.
        warmup_start: share of the base rate at which the warm-up begins.
        linear_warmup: True: the warm-up rises linearly to the base rate. False: it stays at `warmup_start` until it
            ends.
        decay_after_warmup: True: the warm-up rises from zero and the decay begins when it ends. False: both begin at
            the first step.
    """

    lr: float
    shape: Literal["cosine", "poly", "step"]
    power: float = 1.0
    milestones: Sequence[float] = ()
    decay: float = 0.1
    warmup: float = 0.0
    warmup_start: float = 0.0
    linear_warmup: bool = True
    decay_after_warmup: bool = False

    def rate_at(self, progress: float, total: float = 1.0) -> float:
        """Returns the learning rate of the step that begins at `progress`.

        Args:
            progress: amount of training that is completed.
            total: amount of training in the whole fit, in the same unit.
        """
        if self.decay_after_warmup and progress < self.warmup:
            return self.lr * progress / self.warmup
        warmup_factor = 1.0
        if progress < self.warmup:
            completed_share = progress / self.warmup if self.linear_warmup else 0.0
            warmup_factor = self.warmup_start + (1 - self.warmup_start) * completed_share
        return self.lr * warmup_factor * self._decay_factor(progress, total)

    def _decay_factor(self, progress: float, total: float) -> float:
        """The factor by which the decay has reduced the base rate."""
        if self.shape == "step":
            return float(self.decay ** sum(progress >= milestone for milestone in self.milestones))
        start = self.warmup if self.decay_after_warmup else 0
        if self.shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (progress - start) / (total - start)))
        return float((1 - (progress - start) / (total - start)) ** self.power)
