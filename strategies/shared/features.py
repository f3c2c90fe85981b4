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
