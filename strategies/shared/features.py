"""What strategies on fixed features share: features of unit length, distances, k-means.

Shapes: N, M images; E features; K clusters.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, Indices, Need, View

SIMCLR = "simclr"
CHUNK = 2**24  # distances in memory at once
MAX_EXACT_CLUSTERS = 50  # more clusters are computed by mini-batch k-means, as in published code on such features
MINIBATCH = 5000  # images in a mini-batch


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """Returns the need of the features: `embed` for the model's own, `encode` for those of an encoder."""
    return frozenset({"embed"} if encoder is None else {"encode"})


def unit_features(view: View, encoder: EncoderName | None, indices: Indices) -> Tensor:
    """Returns features of whole images, (N, E), of unit length or 0: an encoder's, or without one the model's own."""
    if encoder is None:
        features_NE = view.embed(indices)
    else:
        features_NE = torch.cat([part.global_NE for part in view.encode(indices, encoder)])
    if not features_NE.isfinite().all():
        raise ValueError(f"encoder={encoder or 'null'}: its features hold NaN or infinity")
    return F.normalize(features_NE)


def squared_distances(points_NE: Tensor, others_ME: Tensor) -> Tensor:
    """Returns the squared distances of all pairs, (N, M), exact to about 1e-6 on unit vectors."""
    lengths_N1, lengths_M = points_NE.square().sum(1, keepdim=True), others_ME.square().sum(1)
    return (lengths_N1 + lengths_M - 2 * points_NE @ others_ME.T).clamp_(min=0)


def kmeans(points_NE: Tensor, num: int, rng: np.random.Generator, *, minibatch: bool = False) -> tuple[Indices, Tensor]:
    """Returns the cluster of each point, (N,), and the centres, (K, E), by k-means from one k-means++ start.

    scikit-learn runs on one thread: several threads add in any order and would not give the same clusters twice. Where
    there are fewer than `num` distinct points, some clusters stay empty.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # the import takes a second

    seed = int(rng.integers(2**32))
    if minibatch:
        model = MiniBatchKMeans(num, batch_size=MINIBATCH, n_init=1, random_state=seed)
    else:
        model = KMeans(num, n_init=1, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on fewer distinct points than clusters
        cluster_N = model.fit_predict(points_NE.cpu().numpy()).astype(np.int64)
    return cluster_N, torch.from_numpy(model.cluster_centers_).to(points_NE)


def nearest_to_centres(points_MD: Tensor, num: int, rng: np.random.Generator, rank_M: Indices) -> Indices:
    """Returns the positions of the points nearest to the centres of `num` clusters, one per cluster that is not empty.

    Of equally near points the one with the lowest rank is taken.
    """
    cluster_M, centres_KD = kmeans(points_MD, num, rng)
    squared_M = (points_MD - centres_KD[torch.from_numpy(cluster_M).to(points_MD.device)]).square().sum(1)
    order_M = np.lexsort((rank_M, squared_M.cpu().numpy(), cluster_M))
    picks: Indices = order_M[np.unique(cluster_M[order_M], return_index=True)[1]]
    return picks


def count_within(points_NE: Tensor, others_ME: Tensor, squared: float) -> Tensor:
    """Returns how many of the others are nearer to each point than the radius (given squared), (N,)."""
    count_N = torch.zeros(len(points_NE), dtype=torch.int64, device=points_NE.device)
    for part in others_ME.split(max(1, CHUNK // len(points_NE))):
        count_N += (squared_distances(points_NE, part) < squared).sum(1)
    return count_N


def count_classes(view: View) -> int:
    """Returns the number of classes of the model, without a detector's background."""
    predictions = view.predict(view.unlabelled[:1])
    return predictions.scores_PC.shape[1] - (predictions.boxes_P4 is not None)


def select_centroids(points_NE: Tensor, budget: int, rng: np.random.Generator, rank_N: Indices) -> Indices:
    """Returns `budget` positions: of the points nearest to the centres of that many clusters, then random ones."""
    picks = nearest_to_centres(points_NE, budget, rng, rank_N)
    others = np.setdiff1d(np.arange(len(points_NE)), picks)
    selection: Indices = np.concatenate([picks, rng.choice(others, budget - len(picks), replace=False)])
    return selection
