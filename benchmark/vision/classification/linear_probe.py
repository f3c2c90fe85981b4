"""A linear probe: a linear layer alone, trained on the features that a frozen encoder gives of each image.

Shapes: N images, C classes, E features of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.api import Companion, Machine, seeded
from benchmark.vision.classification.augment import Batch
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool
from benchmark.vision.fingerprints import derive_seed, digest
from benchmark.vision.networks import ClassificationNetwork


class LinearNetwork(ClassificationNetwork):
    """Dropout and a linear layer: what it takes is the input of its last layers."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_classes)
        self.companion = None

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The inputs, (N, E), as they are, and no stage map."""
        return inputs, []


@dataclass(frozen=True)
class LabelledFeatures:
    """Features and the labels of their images; nothing is augmented."""

    features_NE: Tensor
    labels_N: Tensor

    def prepare_batch(self, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """The features and the labels of one step."""
        return self.features_NE[batch.positions_N], self.labels_N[batch.positions_N]


class LinearProbe(Classification):
    """A linear layer on the features of the recipe's encoder, standardised over the pool: see `Classification`."""

    def __init__(
        self, machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:  # fmt: skip
        assert recipe.encoder is not None, "not the recipe of a linear probe"
        unaugmented = replace(recipe, flip=False, pad=0)  # so that one fit has one checkpoint, whatever these say
        super().__init__(machine, unaugmented, pool, test, num_classes, classes, root)
        both = digest(pool.images_NKHW, test.images_NKHW)
        tests = Encodings(InMemoryPool(self._test_inputs), self._encoder_pool, both, machine)
        pool_NE, test_NE = (encodings.features(recipe.encoder) for encodings in (self._encodings, tests))
        self._inputs, self._test_inputs = standardise(pool_NE, pool_NE), standardise(test_NE, pool_NE)
        self._uses_batch_statistics = False

    def _build_network(self, seed: int, companion: Companion | None) -> LinearNetwork:
        if companion is not None:
            raise ValueError("a linear probe has no stage maps for a companion (learning_loss) to read")
        with seeded(derive_seed(seed, "network")):
            network = LinearNetwork(self._inputs.shape[1], self.num_classes, self._recipe.dropout)
        return network.eval().to(self._device)

    def _prepare_inputs(self, inputs: Tensor) -> Tensor:
        return inputs

    def _labelled_set(self, which_N: Tensor) -> LabelledFeatures:
        return LabelledFeatures(self._inputs[which_N], self._labels[which_N])


def standardise(features_NE: Tensor, pool_NE: Tensor) -> Tensor:
    """Features scaled so that those of the pool have mean 0 and deviation 1.

    Args:
        features_NE: (N, E) what is scaled.
        pool_NE: (N, E) the features of the pool; those that are constant there are only centred.

    Returns:
        (N, E) float32.
    """
    deviation_E, mean_E = torch.std_mean(pool_NE.double(), 0, correction=0)
    deviation_E = deviation_E.where(deviation_E > 0, 1.0)
    return (features_NE.float() - mean_E.float()) / deviation_E.float()
