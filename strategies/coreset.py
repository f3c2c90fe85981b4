"""Core-set selection (Sener and Savarese, 2018): cover the pool with balls around labelled images."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, Indices, Need, View, register

from .shared.kcenter import k_center_greedy
from .shared.ties import ranks_as_tensor


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """The model's embedding, or a frozen encoder's."""
    return frozenset({"encode" if encoder else "embed"})


@register(needs=needs, version=1)
def coreset(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    encoder: EncoderName | None = None,
) -> Indices:
    """Greedy k-center on the input of the last layer, the labelled images as first centres; deterministic.

    A detector's embedding is averaged over places, one vector an image: how is the task's (`View.embed`).
    metric: `euclidean` as in the paper; `cosine` is 1 - cos (the baseline of GEAL): on unit vectors |a - b|^2 = 2 (1 -
        cos), so the greedy rule is the same one. An all-zero embedding has no direction and is taken at squared
        distance 1 from the others.
    encoder: a frozen encoder's features of the whole image instead (GEAL's baselines); without labelled images the
        first is random. Null: the model's, as in the paper.
    Deviation: the greedy 2-approximation only, not the paper's mixed integer programme that tolerates outliers.
    Cost: a forward pass an image, labelled ones too (or the encoder once); for N candidates of D features, O(N D) in
    memory, and in time for each labelled image and each pick. On a CPU a pick looks at the farthest candidates alone
    while that is exact.
    """
    centres_MD, candidates_ND = (image_features(view, which, encoder) for which in (view.labelled, view.unlabelled))
    if metric == "cosine":
        centres_MD, candidates_ND = F.normalize(centres_MD), F.normalize(candidates_ND)
    first = 0 if len(centres_MD) else int(rng.integers(len(candidates_ND)))
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), candidates_ND)
    picks: Indices = view.unlabelled[
        k_center_greedy(candidates_ND, centres_MD, budget, rank_N, first=first).cpu().numpy()
    ]
    return picks


def image_features(view: View, indices: Indices, encoder: EncoderName | None) -> Tensor:
    """(N, D): of the model, or of an encoder."""
    if encoder is None:
        return view.embed(indices)
    return torch.cat([part.global_NE for part in view.encode(indices, encoder)])
