"""Core-set selection (Sener and Savarese, 2018): cover the pool with balls around labelled images."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch.nn import functional as F

from benchmark.api import Indices, View, register
from strategies._kcenter import greedy


@register(needs={"embed"}, version=1)
def coreset(
    view: View, budget: int, rng: np.random.Generator, *, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Indices:
    """Greedy k-center on the input of the last layer, the labelled images as first centres; deterministic.

    metric: `cosine` is 1 - cos (the baseline of GEAL): on unit vectors |a - b|^2 = 2 (1 - cos), so the greedy rule
    is the same one. An all-zero embedding has no direction and is taken at squared distance 1 from the others.
    A detector's embedding is averaged over places, one vector an image: how is the task's (`View.embed`).
    Deviation: the greedy 2-approximation only, not the paper's mixed integer programme that tolerates outliers.
    """
    centres_MD, candidates_ND = view.embed(view.labelled), view.embed(view.unlabelled)
    if metric == "cosine":
        centres_MD, candidates_ND = F.normalize(centres_MD), F.normalize(candidates_ND)
    picks: Indices = view.unlabelled[greedy(candidates_ND, centres_MD, budget).cpu().numpy()]
    return picks
