"""Core-set selection: greedy k-center (Sener and Savarese, 2018).

Shapes: N images, D features.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, FromShards, Indices, Need, ShardedPool, View, register

from .shared.kcenter import k_center_greedy
from .shared.lazy_rows import Centres, LazyRows, cosine, euclidean, widen
from .shared.stored import describe_features, feature_table, initial_bounds
from .shared.ties import ranks_as_tensor

Metric: TypeAlias = Literal["euclidean", "cosine"]


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """Returns the need `embed` for the model's own features, or `encode` for those of a frozen encoder."""
    return frozenset({"encode" if encoder else "embed"})


def describe(view: View, indices: Indices, *, encoder: EncoderName | None, metric: Metric) -> dict[str, Tensor]:
    """Returns what is stored of images: one vector each."""
    return describe_features(view, indices, encoder)


def tables(*, encoder: EncoderName | None, metric: Metric) -> tuple[str, ...]:
    """Returns the name of the table of vectors."""
    return (feature_table(encoder),)


def select_from_shards(
    pool: ShardedPool, budget: int, rng: np.random.Generator, *, metric: Metric, encoder: EncoderName | None
) -> Indices:
    """Selects as `coreset` does in double precision, from stored features; exactly, without holding them."""
    rows = pool.tables[feature_table(encoder)]
    centres = Centres(widen(rows.take(torch.from_numpy(pool.labelled)).to(pool.device)))
    distance = cosine if metric == "cosine" else euclidean
    lazy = LazyRows(
        rows, initial_bounds(pool.is_candidate_N), centres, pool.tie_rank_N, distance=distance, device=pool.device
    )
    if not len(pool.labelled):
        lazy.take(int(pool.unlabelled[rng.integers(len(pool.unlabelled))]))
    return lazy.pick_farthest(budget)


@register(needs=needs, version=1, selects_high="distance", from_shards=FromShards(tables, describe, select_from_shards))
def coreset(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    metric: Metric = "euclidean",
    encoder: EncoderName | None = None,
) -> Indices:
    """Selects the images that are farthest from all labelled images in feature space, by greedy k-center.

    The labelled images are the first centres; each selected image becomes a centre. The features are the input of the
    last layer. A detector's features are averaged over places, one vector per image, by the task (see `View.embed`).
    The selection is deterministic.

    Args:
        metric: the distance between features. `euclidean` is the paper's. `cosine`, 1 - cos, is a baseline in GEAL: on
            unit vectors |a - b|^2 = 2 (1 - cos), so the greedy rule is the same. A vector of zeros has no direction and
            is taken at squared distance 1 from all others.
        encoder: the frozen encoder whose features of the whole image are used (baselines in GEAL), or `null` for the
            model's own features, as in the paper. With an encoder a run may start without labelled images; the first
            image is then drawn at random.

    References:
        Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018, Algorithm
            1.

    Deviations:
        Only the greedy 2-approximation, not the paper's mixed integer programme that tolerates outliers.

    Cost:
        One forward pass per image, labelled images included (or one pass of the encoder, once). For N candidates with D
        features, O(N D) memory, and O(N D) time per labelled image and per selected image. On a CPU a step looks at the
        farthest candidates alone, as long as that is exact.
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
    """Returns the features of images, (N, D): the model's own, or those of an encoder."""
    if encoder is None:
        return view.embed(indices)
    return torch.cat([part.global_NE for part in view.encode(indices, encoder)])
