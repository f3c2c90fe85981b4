"""Images described by their most attended patterns, which GEAL and FreeSel compare.

Shapes: N images, T patches, D features, at most K patterns of one image, P patterns of all images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import EncoderName, Encoding, Indices, View

from .kcenter import Groups

PatternMetric: TypeAlias = Literal["cosine", "euclidean"]
MAX_STEPS = 100  # iterations of k-means


@dataclass(frozen=True)
class Patterns:
    """The patterns of several images."""

    features_PD: Tensor
    image_P: Tensor  # 0..N-1, ascending


@dataclass(frozen=True)
class PatternCandidates:
    """The patterns of the unlabelled images, which are selected image by image, and those of the labelled images."""

    unlabelled: Indices
    features_PD: Tensor
    image_P: Tensor  # the image of each, as a position in `unlabelled`, ascending
    centres_PD: Tensor  # the patterns of the labelled images; (0, D) without any
    first_pick: int  # a random pattern to start from where there are no centres

    @classmethod
    def from_view(
        cls,
        view: View,
        rng: np.random.Generator,
        name: str,
        encoder: EncoderName,
        tau: float,
        k: int,
        metric: PatternMetric,
    ) -> PatternCandidates:
        """Extracts the patterns of a view's images; logs their mean number per unlabelled image.

        Raises:
            ValueError: a parameter of the strategy `name` leaves no patterns.
        """
        if not 0 < tau <= 1:
            raise ValueError(f"{name}[tau={tau}]: must be above 0 and at most 1, as a share of attention")
        if k < 1:
            raise ValueError(f"{name}[k={k}]: must be 1 or more")
        unlabelled = extract_patterns(view.encode(view.unlabelled, encoder), tau, k, metric)
        view.log(patterns=len(unlabelled.image_P) / len(view.unlabelled))
        centres_PD = unlabelled.features_PD[:0]
        if len(view.labelled):
            centres_PD = extract_patterns(view.encode(view.labelled, encoder), tau, k, metric).features_PD
        first = int(rng.integers(len(unlabelled.image_P)))
        return cls(view.unlabelled, unlabelled.features_PD, unlabelled.image_P, centres_PD, first)

    @property
    def groups(self) -> Groups:
        """The patterns of each image as a group."""
        return Groups.from_labels(self.image_P)

    def images(self, picks: Tensor) -> Indices:
        """Returns the pool positions of the images of these patterns."""
        indices: Indices = self.unlabelled[self.image_P[picks.to(self.image_P.device)].cpu().numpy()]
        return indices


def extract_patterns(encodings: Iterable[Encoding], tau: float, k: int, metric: PatternMetric) -> Patterns:
    """Returns the patterns of all images: centres of k-means on the patches that hold the share `tau` of the attention.

    With `metric=cosine` they are scaled to unit length, so that |a - b|^2 = 2 (1 - cos).
    """
    features, images, num_images = [], [], 0
    for encoding in encodings:
        kept_NT = most_attended(encoding.attention_NT, tau)
        centres_NKD, exists_NK = cluster_patches(encoding.patches_NTD, kept_NT, encoding.attention_NT, k)
        features.append(centres_NKD[exists_NK])
        images.append(num_images + exists_NK.nonzero()[:, 0])
        num_images += len(encoding)
    features_PD = torch.cat(features)
    return Patterns(F.normalize(features_PD) if metric == "cosine" else features_PD, torch.cat(images))


def most_attended(attention_NT: Tensor, tau: float) -> Tensor:
    """Returns which patches are kept, (N, T): the fewest that hold the share `tau` of an image's attention.

    As published, these are the patches at which the cumulative sum, from the least attended patch on, is above 1 - tau.
    An image keeps at least one patch.
    """
    values_NT, order_NT = attention_NT.cpu().double().sort(dim=1, stable=True)  # sums in one order on every device
    kept_NT = values_NT.cumsum(1) > 1 - tau
    kept_NT[:, -1] = True  # where the sum rounds to less than one
    return torch.zeros_like(kept_NT).scatter(1, order_NT, kept_NT).to(attention_NT.device)


def cluster_patches(patches_NTD: Tensor, kept_NT: Tensor, attention_NT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the centres of k-means inside each image, (N, K, D), and which of them exist, (N, K).

    An image with k patches or fewer keeps them as they are. All images are clustered at once, by Euclidean distance.
    The first centres are the most attended patch and then always the patch farthest from those so far, so the result is
    deterministic. A centre that loses all patches stays where it is.
    """
    k = min(k, int(kept_NT.sum(1).max()))
    centres_NKD = spread_centres(patches_NTD, kept_NT, attention_NT, k)
    exists_NK = torch.arange(k, device=kept_NT.device) < kept_NT.sum(1, keepdim=True)
    last_nearest_NT = torch.full_like(kept_NT, -1, dtype=torch.int64)
    for _ in range(MAX_STEPS):
        nearest_NT = patch_distances(patches_NTD, centres_NKD, exists_NK).argmin(2).masked_fill(~kept_NT, k)
        if torch.equal(nearest_NT, last_nearest_NT):
            break
        last_nearest_NT = nearest_NT
        member_NTK = F.one_hot(nearest_NT, k + 1)[..., :k].to(patches_NTD)
        counts_NK1 = member_NTK.sum(1)[..., None]
        means_NKD = member_NTK.transpose(1, 2) @ patches_NTD / counts_NK1.clamp(min=1)
        centres_NKD = torch.where(counts_NK1 > 0, means_NKD, centres_NKD)
    return centres_NKD, exists_NK


def spread_centres(patches_NTD: Tensor, kept_NT: Tensor, attention_NT: Tensor, k: int) -> Tensor:
    """Returns the first centres, (N, K, D): the most attended patch, then always the farthest from those so far.

    Rows beyond the number of an image's patches repeat patches.
    """
    rows_N = torch.arange(len(patches_NTD), device=patches_NTD.device)
    pick_N = attention_NT.where(kept_NT, -1.0).argmax(1)
    centres, nearest_NT = [patches_NTD[rows_N, pick_N]], torch.full_like(attention_NT, torch.inf)
    for _ in range(k - 1):
        distance_NT = (patches_NTD - centres[-1][:, None]).square().sum(2)
        nearest_NT = torch.minimum(nearest_NT, distance_NT).where(kept_NT, -torch.inf)
        nearest_NT[rows_N, pick_N] = -torch.inf
        pick_N = nearest_NT.argmax(1)
        centres.append(patches_NTD[rows_N, pick_N])
    return torch.stack(centres, 1)


def patch_distances(patches_NTD: Tensor, centres_NKD: Tensor, exists_NK: Tensor) -> Tensor:
    """Returns squared distances up to |patch|^2, (N, T, K); infinite to centres that do not exist."""
    norms_NK = centres_NKD.square().sum(2).masked_fill(~exists_NK, torch.inf)
    return torch.baddbmm(norms_NK[:, None], patches_NTD, centres_NKD.transpose(1, 2), alpha=-2)
