"""GEAL: data selection by patterns of a frozen encoder, the farthest first (Xie et al., 2021).

Shapes: P patterns, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, FromShards, Indices, ShardedPool, View, register

from .shared.kcenter import k_center_greedy
from .shared.lazy_rows import Centres, LazyRows, widen
from .shared.patterns import PatternCandidates, PatternMetric, extract_patterns
from .shared.stored import count_of, first_rows, initial_bounds
from .shared.ties import ranks_as_tensor


def tables(*, encoder: EncoderName, tau: float, k: int, metric: PatternMetric) -> tuple[str, str]:
    """Returns the names of the tables of `describe`."""
    name = f"patterns of {encoder}, tau {tau}, k {k}, {metric}"
    return name, count_of(name)


def describe(
    view: View, indices: Indices, *, encoder: EncoderName, tau: float, k: int, metric: PatternMetric
) -> dict[str, Tensor]:
    """Returns what is stored of images: their patterns, and how many."""
    patterns = extract_patterns(view.encode(indices, encoder), tau, k, metric)
    stored = patterns.features_PD.half(), patterns.image_P.bincount(minlength=len(indices)).int()
    return dict(zip(tables(encoder=encoder, tau=tau, k=k, metric=metric), (part.cpu() for part in stored), strict=True))


def select_from_shards(
    pool: ShardedPool,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName,
    tau: float,
    k: int,
    metric: PatternMetric,
) -> Indices:
    """Selects as `geal` does in double precision, from stored patterns; exactly, without holding them."""
    name, _ = tables(encoder=encoder, tau=tau, k=k, metric=metric)
    rows, first_N = pool.tables[name], first_rows(pool, name)
    is_candidate_P = pool.is_candidate_N.repeat_interleave(first_N.diff())
    centre_rows = [torch.arange(int(first_N[i]), int(first_N[i + 1])) for i in pool.labelled.tolist()]
    centres = Centres(widen(rows.take(torch.cat([torch.arange(0), *centre_rows])).to(pool.device)))
    bound_P = initial_bounds(is_candidate_P)
    lazy = LazyRows(rows, bound_P, centres, pool.tie_rank_N, starts_G=first_N[:-1], device=pool.device)
    first = int(rng.integers(int(is_candidate_P.sum())))
    if not len(pool.labelled):
        row = is_candidate_P.nonzero()[first]
        lazy.take(int(torch.searchsorted(first_N, row, right=True)) - 1)
    return lazy.pick_farthest(budget)


@register(needs={"encode"}, version=2, from_shards=FromShards(tables, describe, select_from_shards))
def geal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName = "dino",
    tau: float = 0.5,
    k: int = 25,
    metric: PatternMetric = "cosine",
) -> Indices:
    """Selects, one by one, the images with the pattern farthest from all patterns of the images selected so far.

    The patterns ("knowledge clusters") of an image are the centres of k-means on the patches that hold most of its
    attention. All patterns of a selected image become centres. No label and no task model plays a part, so one
    selection may serve all rounds (`one_pass=true`), as published. The labelled images are the first selected ones;
    without any, the first image is random, as published.

    Args:
        encoder: the frozen encoder that gives patches and attention; DINO's ViT-S/16 is the paper's.
        tau: the share of an image's attention that the kept patches hold, above 0 and at most 1 (0.5: the paper's,
            which also tries 0.4 and 0.6).
        k: the largest number of patterns per image (25: the paper's, which also tries 5 and 15).
        metric: the distance of patterns: `cosine`, 1 - cos, as in the paper, or `euclidean`, which it tries too.

    Logs:
        patterns: the mean number of patterns per unlabelled image.

    References:
        Xie et al., Towards General and Efficient Active Learning, 2021.

    Deviations:
        k-means starts from patches that are spread out, whereas published code draws them at random, so an image always
        has the same patterns. The encoder `dino` resizes images bilinearly, whereas that code does so bicubically.

    Cost:
        One pass of the encoder per image, once. Per selected image, at most one product of all P patterns with k new
        ones. O(P D) memory.
    """
    candidates = PatternCandidates.from_view(view, rng, "geal", encoder, tau, k, metric)
    rank_P = ranks_as_tensor(view.tie_ranks(view.unlabelled), candidates.image_P)[candidates.image_P]
    picks = k_center_greedy(
        candidates.features_PD,
        candidates.centres_PD,
        budget,
        rank_P,
        groups=candidates.groups,
        first=candidates.first_pick,
    )
    return candidates.images(picks)
