"""A linear probe: a linear layer trained on the features that a frozen encoder computes of each image.

Shapes: N images, C classes, E features of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Companion, Machine, seeded
from benchmark.vision.classification.augment import Batch
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import ClassificationNetwork
from benchmark.vision.task import VisionTask


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


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with the labels of their images, without augmentation."""

    features_NE: Tensor
    labels_N: Tensor

    def prepare_batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """The features and the labels of one step."""
        return self.features_NE[batch.positions_N], self.labels_N[batch.positions_N]


class LinearProbe(Classification):
    """The task of a linear layer on the features of the recipe's encoder; see `Classification`.

    Features are standardised with the pool's mean and deviation.
    """

    def __init__(
        self, machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        assert recipe.encoder is not None, "not the recipe of a linear probe"
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
            "model=linear_probe: standardises features by those of the whole pool, so it needs all at once"
        )

    def _build_network(self, seed: int, companion: Companion | None) -> LinearNetwork:
        """Builds a fresh linear layer. Companions are not supported."""
        if companion is not None:
            raise ValueError("a linear probe has no stage maps for a companion (learning_loss) to read")
        with seeded(derive_seed(seed, "network")):
            network = LinearNetwork(self._inputs.shape[1], self.num_classes, self._recipe.dropout)
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
