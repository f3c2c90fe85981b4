"""Probes: small models on the features that a frozen encoder computes of each image.

Shapes: N images, C classes, E features of the encoder, P images of the pool, L labelled ones, B neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Companion, Indices, Machine, seeded
from benchmark.vision.classification.augment import Batch
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import KNN_PROBE, MLP_PROBE, ClassificationNetwork, at_least_float32
from benchmark.vision.task import VisionTask

TEMPERATURE = 0.07  # of the votes of neighbours, as in DINO's evaluation (Caron et al., 2021)
LEAST_VOTE = 1e-6  # of a class without neighbours, so that the negative log-likelihood is finite


class LinearNetwork(ClassificationNetwork):
    """Dropout and a linear layer. Its inputs are the features themselves."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_classes)
        self.companion = None

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the inputs, (N, E), unchanged, and no stage map."""
        return inputs, []


class HiddenLayerNetwork(LinearNetwork):
    """A hidden layer with ReLU, dropout and a linear layer.

    Args:
        num_features: E.
        num_hidden: units of the hidden layer.
        num_classes: C.
        dropout: rate of dropout before the last layer.
    """

    def __init__(self, num_features: int, num_hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__(num_hidden, num_classes, dropout)
        self.hidden = nn.Linear(num_features, num_hidden)

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs of the hidden layer, (N, hidden units), and no stage map."""
        return at_least_float32(self.hidden(inputs).relu()), []


class NeighbourNetwork(ClassificationNetwork):
    """Lets the nearest labelled images vote. It has nothing to train.

    A neighbour's vote is proportional to exp(cosine similarity / 0.07), as in DINO's evaluation.

    Args:
        pool_PE: features of all pool images. They are no part of the state dict.
        num_classes: C.
        neighbours: how many labelled images vote; all, if there are fewer.
    """

    pool_PE: Tensor
    labels_P: Tensor

    def __init__(self, pool_PE: Tensor, num_classes: int, neighbours: int) -> None:
        super().__init__()
        self.num_classes, self.neighbours = num_classes, neighbours
        self.register_buffer("pool_PE", F.normalize(pool_PE, dim=1), persistent=False)
        self.register_buffer("labels_P", torch.full((len(pool_PE),), -1, device=pool_PE.device))  # -1: not labelled
        self.companion = None

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the inputs, (N, E), unchanged, and no stage map."""
        return inputs, []

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, C): the logarithms of the votes."""
        labelled_L = (self.labels_P >= 0).nonzero().squeeze(1)
        similarity_NL = F.normalize(features_ND, dim=1) @ self.pool_PE[labelled_L].T
        nearest_NB = similarity_NL.topk(min(self.neighbours, len(labelled_L)))
        labels_NB = self.labels_P[labelled_L][nearest_NB.indices]
        shares_NB = (nearest_NB.values / TEMPERATURE).softmax(1)
        votes_NC = torch.stack([(shares_NB * (labels_NB == label)).sum(1) for label in range(self.num_classes)], 1)
        return (votes_NC + LEAST_VOTE).log()


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with the labels of their images, without augmentation."""

    features_NE: Tensor
    labels_N: Tensor

    def prepare_batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """The features and the labels of one step."""
        return self.features_NE[batch.positions_N], self.labels_N[batch.positions_N]


class Probe(Classification):
    """The task of a small model on the features of the recipe's encoder; see `Classification`.

    Features are standardised with the pool's mean and deviation.
    """

    def __init__(
        self, machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        assert recipe.encoder is not None, "not the recipe of a probe"
        unaugmented = replace(recipe, flip=False, pad=0)  # so that one fit has one checkpoint, whatever these say
        super().__init__(machine, unaugmented, pool, test, num_classes, classes, root)
        images_hash = digest(pool.images_NKHW, test.images_NKHW)
        test_encodings = Encodings(InMemoryPool(self._test_inputs), self._encoder_pool, images_hash, machine)
        pool_NE, test_NE = (encodings.features(recipe.encoder) for encodings in (self._encodings, test_encodings))
        self._inputs, self._test_inputs = standardise(pool_NE, pool_NE), standardise(test_NE, pool_NE)
        self._uses_batch_statistics = False

    def take_statistics(self, other: VisionTask[Any]) -> None:
        """Refuses: features are standardised by those of the whole pool."""
        raise ValueError(
            f"model={self._recipe.model}: standardises features by those of the whole pool, so it needs all at once"
        )

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> ClassificationNetwork:
        """Trains the probe; neighbours are only looked up, and depend on no seed."""
        if self._recipe.model != KNN_PROBE:
            return super().fit(labelled, seed, companion)
        network = self._build_network(seed, companion)
        assert isinstance(network, NeighbourNetwork)
        positions_N = torch.from_numpy(np.sort(labelled)).to(self._device)
        network.labels_P[positions_N] = self._labels[positions_N]
        return network

    def _build_network(self, seed: int, companion: Companion | None) -> ClassificationNetwork:
        """Builds a fresh probe. Companions are not supported."""
        recipe, num_features = self._recipe, self._inputs.shape[1]
        if companion is not None:
            raise ValueError(f"model={recipe.model}: has no stage maps for a companion (learning_loss) to read")
        with seeded(derive_seed(seed, "network")):
            network: ClassificationNetwork
            if recipe.model == KNN_PROBE:
                network = NeighbourNetwork(self._inputs, self.num_classes, recipe.neighbours)
            elif recipe.model == MLP_PROBE:
                network = HiddenLayerNetwork(num_features, recipe.hidden, self.num_classes, recipe.dropout)
            else:
                network = LinearNetwork(num_features, self.num_classes, recipe.dropout)
        return network.eval().to(self._device)

    def _prepare_inputs(self, inputs: Tensor) -> Tensor:
        """Returns the features unchanged."""
        return inputs

    def _labelled_set(self, positions_N: Tensor) -> LabelledFeatures:
        """The features at these positions."""
        return LabelledFeatures(self._inputs[positions_N], self._labels[positions_N])


def standardise(features_NE: Tensor, pool_NE: Tensor) -> Tensor:
    """Scales features so that those of the pool have mean 0 and standard deviation 1.

    Args:
        features_NE: (N, E) features to scale.
        pool_NE: (N, E) features of the pool. A feature that is constant there is only centred.

    Returns:
        (N, E) float32.
    """
    deviation_E, mean_E = torch.std_mean(pool_NE.double(), 0, correction=0)
    deviation_E = deviation_E.where(deviation_E > 0, 1.0)
    return (features_NE.float() - mean_E.float()) / deviation_E.float()
