"""Breaking ties by rank, for code that computes an argmax itself instead of calling `View.lowest` or `View.highest`."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Indices

WORST_RANK = torch.iinfo(torch.int64).max


def argmax_by_rank(values_N: Tensor, rank_N: Tensor) -> Tensor:
    """Returns the position of the largest value, (1,), by lowest rank among equal ones; never waits for the GPU."""
    return rank_N.where(values_N == values_N.amax(), WORST_RANK).argmin(0, keepdim=True)


def ranks_as_tensor(ranks: Indices, like: Tensor) -> Tensor:
    """Returns the ranks of `View.tie_ranks` as a tensor on the device of `like`."""
    return torch.from_numpy(ranks).to(like.device)
