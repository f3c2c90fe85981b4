"""Uncertainty of predictions by the gap between classes.

Shapes: P predictions, C classes.
"""

from __future__ import annotations

from torch import Tensor


def one_minus_gap(scores_PC: Tensor) -> Tensor:
    """Returns 1 minus the gap between the two largest class probabilities, (P,): 1 for a tie, 0 for certainty.

    The gap is computed in double precision, because 1 - gap would round small gaps away.
    """
    first_P, second_P = scores_PC.double().topk(2).values.T
    value_P: Tensor = 1 - (first_P - second_P)
    return value_P
