"""A tiny detector in double precision: two linear layers on random features, and boxes that noise moves.

Shapes: N images, M boxes of one image, P boxes of all, C classes, K = C + 1 with background last, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from benchmark.api import Boxes, Companion, Direction, Indices, Predictions, seeded
from benchmark.strategies.shared.boxes import rank_in_image

C, D = 3, 5


class ToyLayers(nn.Module):
    """Class scores and a box from the features of an image or of a candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.boxes = nn.Linear(D, C + 1, bias=False), nn.Linear(D, 4, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(features), self.boxes(features)


class ToyDetector:
    """A pool of 60 images with 0 to 4 candidates each: the model says their classes, noise moves their boxes."""

    metric, batch_size, fingerprint, num_pool = "map", 7, "toy detector", 60

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        counts_N = torch.arange(self.num_pool) % 5
        self.image_P = torch.arange(self.num_pool).repeat_interleave(counts_N)
        self.features = torch.randn(self.num_pool, D, generator=generator).double()
        self.candidates = torch.randn(len(self.image_P), D, generator=generator).double()
        corner = torch.rand(len(self.image_P), 2, generator=generator).double() * 200
        self.corners = torch.cat([corner, corner + 20 + corner.flip(0) / 2], 1)
        self.truth = [
            Boxes(torch.rand(number, 4, generator=generator).double(), torch.arange(number) % C)
            for number in (counts_N + 1).tolist()
        ]

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> ToyLayers:
        with seeded(seed):
            return ToyLayers().double().eval()

    @torch.no_grad()
    def predict(self, model: ToyLayers, indices: Indices) -> Predictions:
        """Of the images asked for, in a mixed order."""
        at_P = torch.from_numpy(np.flatnonzero(np.isin(self.image_P, indices))).flip(0)
        image_P = torch.from_numpy(np.searchsorted(indices, self.image_P[at_P].numpy()))
        scores_PK = (2 * model.classes(self.candidates[at_P])).softmax(1)
        return Predictions(scores_PK, image_P, len(indices), self.corners[at_P])

    def perturbed(
        self, model: ToyLayers, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """In parts of seven images; the noise of an image depends on nothing but the image and the seed."""
        for start in range(0, len(indices), 7):
            part = indices[start : start + 7]
            clean = self.predict(model, part)
            yield [clean, *(self.moved(clean, part, *level) for level in zip(sigmas, seeds, strict=True))]

    def moved(self, clean: Predictions, indices: Indices, sigma: float, seed: int) -> Predictions:
        noise = torch.randn(self.num_pool, 8, 4, generator=torch.Generator().manual_seed(seed))
        rank_P = rank_in_image(clean.image_P, len(indices))
        noise_P4 = noise[torch.from_numpy(indices)[clean.image_P], rank_P]
        return Predictions(clean.scores_PC, clean.image_P, len(indices), clean.boxes_P4 + sigma / 8 * noise_P4)

    def proposals(self, model: ToyLayers, indices: Indices) -> Predictions:
        clean = self.predict(model, indices)
        return Predictions(clean.scores_PC, clean.image_P, len(indices), clean.boxes_P4, clean.boxes_P4 + 5)

    def weights(self, model: ToyLayers) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def pseudo_labels(self, model: ToyLayers, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        predictions = self.predict(model, indices)
        sure_P = predictions.confidence_P >= min_score
        each = [(predictions.image_P == number) & sure_P for number in range(len(indices))]
        return [Boxes(predictions.boxes_P4[at] / 200, predictions.scores_PC[at, :C].argmax(1)) for at in each]

    def losses(self, model: Any, indices: Indices, targets: list[Boxes] | None = None, *, test: bool = False) -> Tensor:
        targets = [self.truth[index] for index in indices] if targets is None else targets
        logits_NK, box_N4 = model(self.features[indices])
        return torch.stack([self.loss(*parts) for parts in zip(logits_NK, box_N4, targets, strict=True)])

    def loss(self, logits_K: Tensor, box_4: Tensor, target: Boxes) -> Tensor:
        """The mean over the boxes of an image; without one, that it is background."""
        if not len(target):
            return -logits_K.log_softmax(0)[C]
        classes = F.cross_entropy(logits_K.expand(len(target), -1), target.labels_M)
        return classes + (box_4 - target.corners_M4).square().sum(1).mean()

    def directional(self, model: ToyLayers, indices: Indices, targets: list[Boxes], direction: Direction) -> Tensor:
        def losses_at(weights: dict[str, Tensor]) -> Tensor:
            return self.losses(lambda features: functional_call(model, weights, features), indices, targets)

        weights = {name: w.detach() for name, w in self.weights(model).items()}
        return jvp(losses_at, (weights,), (direction,))[1].detach()
