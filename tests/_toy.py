"""A tiny task on random numbers with every capability of a classifier, and a view of one round of it.

Shapes: N images, C classes; images are (1, 4, 4), the embedding has 8 features, the two stage maps 8 channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from benchmark.api import Companion, Direction, Indices, Predictions, View, seeded


class ToyModel(nn.Module):
    """Two convolutions and a linear layer, smooth so that Hessians are; dropout before the last layer."""

    def __init__(self, num_classes: int, companion: Companion | None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, num_classes)
        self.companion: Any = None if companion is None else companion.module((8, 8))

    def stages(self, images: Tensor) -> list[Tensor]:
        first_stage = F.softplus(self.first(images))
        return [first_stage, F.softplus(self.second(first_stage))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(images)[-1].mean((2, 3))))


class Toy:
    """A pool of 60 images, 20 test images, a few steps of full-batch gradient descent."""

    metric, batch_size, fingerprint = "accuracy", 7, "toy"

    def __init__(self, num_classes: int = 4, dtype: torch.dtype = torch.float32, num_pool: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        self.num_pool, self.num_classes, self.dtype = num_pool, num_classes, dtype
        self.images = torch.randn(num_pool + 20, 1, 4, 4, generator=generator).to(dtype)
        self.labels = torch.randint(num_classes, (num_pool + 20,), generator=generator)

    def num_test(self) -> int:
        return len(self.images) - self.num_pool

    def model(self, companion: Companion | None = None) -> ToyModel:
        return ToyModel(self.num_classes, companion).to(self.dtype)

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> ToyModel:
        with seeded(seed):
            return self.trained(self.model(companion), labelled, companion)

    def trained(self, model: ToyModel, labelled: Indices, companion: Companion | None) -> ToyModel:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for _ in range(15):
            losses = self.losses(model, np.sort(labelled))
            total = losses.mean()
            if companion is not None:
                maps = [stage.detach() for stage in model.stages(self.images[np.sort(labelled)])]
                total = total + companion.loss(model.companion(maps), losses.detach())
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        return model.eval()

    @torch.no_grad()
    def score(self, model: ToyModel) -> dict[str, float]:
        right = model(self.images[self.num_pool :]).argmax(1) == self.labels[self.num_pool :]
        return {"accuracy": right.double().mean().item()}

    def cost(self, indices: Indices) -> dict[str, float]:
        return {"images": float(len(indices))}

    def scrambled(self, paid: Indices, seed: int) -> Toy:
        other = Toy(self.num_classes, self.dtype, self.num_pool)
        other.labels = torch.randint(self.num_classes, self.labels.shape, generator=torch.Generator().manual_seed(seed))
        other.labels[paid] = self.labels[paid]
        return other

    def losses(
        self, model: nn.Module, indices: Indices, targets: Tensor | None = None, *, test: bool = False
    ) -> Tensor:
        rows = torch.from_numpy(indices) + (self.num_pool if test else 0)
        return F.cross_entropy(
            model(self.images[rows]), self.labels[rows] if targets is None else targets, reduction="none"
        )

    @torch.no_grad()
    def predict(self, model: ToyModel, indices: Indices) -> Predictions:
        return Predictions(model(self.images[indices]).softmax(1), torch.arange(len(indices)), len(indices))

    def sample(self, model: ToyModel, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        for number in range(num_samples):
            with seeded(seed + number):
                model.dropout.train()
                sample = self.predict(model, indices)
                model.dropout.eval()
            yield sample

    @torch.no_grad()
    def embed(self, model: ToyModel, indices: Indices) -> Tensor:
        return model.stages(self.images[indices])[-1].mean((2, 3))

    @torch.no_grad()
    def companion(self, model: ToyModel, indices: Indices) -> Tensor:
        return model.companion(model.stages(self.images[indices]))

    def weights(self, model: ToyModel) -> dict[str, nn.Parameter]:
        return {name: w for name, w in model.named_parameters() if w.ndim > 1 and not name.startswith("companion")}

    def pseudo_labels(self, model: ToyModel, indices: Indices, k: int, min_score: float = 0.0) -> Tensor:
        p_NC = self.predict(model, indices).scores_PC
        top = p_NC.topk(min(k, self.num_classes))
        return torch.zeros_like(p_NC).scatter(1, top.indices, torch.ones_like(top.values) if k == 1 else top.values)

    def directional(self, model: ToyModel, indices: Indices, targets: Tensor, direction: Direction) -> Tensor:
        def losses_at(weights: dict[str, Tensor]) -> Tensor:
            logits_NC = functional_call(model, weights, self.images[indices])
            return F.cross_entropy(logits_NC, targets, reduction="none")

        weights = {name: w.detach() for name, w in self.weights(model).items()}
        return jvp(losses_at, (weights,), (direction,))[1].detach()


def look(
    task: Any,
    needs: Collection[str],
    companion: Companion | None = None,
    *,
    num_labelled: int = 12,
    model: Any = None,
) -> View:
    """A view of `task` after a fit on 12 random images, 8 others held out."""
    order = np.random.default_rng(0).permutation(task.num_pool)
    labelled, held_out = order[:num_labelled], order[-8:]
    unlabelled = np.sort(order[num_labelled:-8])
    model = task.fit(labelled, 0, companion) if model is None else model
    return View(task, model, labelled, unlabelled, num_initial=num_labelled // 2, held_out=held_out, needs=needs)
