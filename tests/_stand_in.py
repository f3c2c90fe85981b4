"""A task of any size with every capability and next to no cost, for what strategies do at the sizes of real pools.

Shapes: N images, P predictions, C classes, K columns of scores, T patches, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from benchmark.api import Boxes, Companion, Direction, Encoding, Indices, Predictions

Kind = Literal["classifier", "detector", "segmenter", "pose estimator"]
C, D, T = 10, 4, 2
PLACES = {"classifier": 1, "detector": 2, "segmenter": 2, "pose estimator": 2}  # predictions of an image at most
BLOCKS = {
    "classifier": 1,
    "detector": 3,
    "segmenter": 1,
    "pose estimator": 5,
    "two stages": 4,
}  # weights that influence is computed over


class Layers(nn.Module):
    """Linear layers on the features; the first says the classes."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(D, C + 1, bias=False) for _ in range(num_blocks))
        with torch.no_grad():
            for number, block in enumerate(self.blocks):
                block.weight.normal_(generator=torch.Generator().manual_seed(number))

    def forward(self, features: Tensor) -> Tensor:
        """(N, blocks, C + 1)."""
        return torch.stack([block(features) for block in self.blocks], 1)


class StandIn:
    """Features drawn at random, or those of one image again and again: then nothing tells two images apart."""

    batch_size = 10_000

    def __init__(self, kind: Kind, num_pool: int, *, num_blocks: int = 0, alike: bool = False) -> None:
        self.kind, self.num_pool, self.num_blocks = kind, num_pool, num_blocks or BLOCKS[kind]
        self.metric, self.fingerprint = "accuracy" if kind == "classifier" else "map", f"stand-in of {num_pool}"
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(num_pool, D, generator=generator)
        self.label_N = torch.randint(C, (num_pool,), generator=generator)
        self.num_boxes_N = torch.randint(PLACES[kind] + 1, (num_pool,), generator=generator)
        if alike:
            self.features[:], self.num_boxes_N[:], self.label_N[:] = self.features[0].clone(), 1, 0

    def model(self, companion: Companion | None = None) -> Layers:
        return Layers(self.num_blocks).eval()

    def num_test(self) -> int:
        return min(self.num_pool, 20_000)

    def cost(self, indices: Indices) -> dict[str, float]:
        boxes = {"boxes": float(self.num_boxes_N[indices].sum())} if self.has_boxes else {}
        return {"images": float(len(indices)), **boxes}

    @torch.no_grad()
    def predict(self, model: Layers, indices: Indices) -> Predictions:
        rows = torch.from_numpy(np.asarray(indices))
        if self.has_boxes:
            image_P = torch.arange(len(rows)).repeat_interleave(self.num_boxes_N[rows])
        else:
            image_P = torch.arange(len(rows)).repeat_interleave(PLACES[self.kind])
        scores_PK = model.blocks[0](self.features[rows[image_P]]).softmax(1)
        if self.kind != "detector":
            points_P2 = self.features[rows[image_P], :2] if self.has_boxes else None
            scores_PC = scores_PK[:, :C] / scores_PK[:, :C].sum(1, keepdim=True)
            return Predictions(scores_PC, image_P, len(rows), points_P2=points_P2)
        corner_P2 = 10 * self.features[rows[image_P], :2].abs()
        return Predictions(scores_PK, image_P, len(rows), torch.cat([corner_P2, corner_P2 + 20], 1))

    def perturbed(
        self, model: Layers, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        clean = self.predict(model, indices)
        assert clean.boxes_P4 is not None
        moved = [clean.boxes_P4 + sigma / 8 * clean.scores_PC[:, :1] for sigma in sigmas]
        views = [Predictions(clean.scores_PC, clean.image_P, clean.num_images, moved_P4) for moved_P4 in moved]
        yield [clean, *views]

    def augmented(
        self, model: Layers, indices: Indices, hows: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        return self.perturbed(model, indices, [8.0 * len(how) for how in hows], seeds)

    def proposals(self, model: Layers, indices: Indices) -> Predictions:
        [(clean, moved)] = self.perturbed(model, indices, [8.0], [0])
        return Predictions(clean.scores_PC, clean.image_P, clean.num_images, clean.boxes_P4, moved.boxes_P4)

    def sample(self, model: Layers, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        clean = self.predict(model, indices)
        for number in range(num_samples):
            scores_PC = (clean.scores_PC * (1 + number % 2)).softmax(1)
            yield Predictions(scores_PC, clean.image_P, clean.num_images, clean.boxes_P4)

    def embed(self, model: Layers, indices: Indices) -> Tensor:
        return self.features[indices]

    def classify(self, model: Layers, features_ND: Tensor) -> Tensor:
        logits: Tensor = model.blocks[0](features_ND)[:, :C]
        return logits

    def images(self, model: Layers, indices: Indices, size: tuple[int, int]) -> Tensor:
        grey_N = (self.features[indices, 0].clamp(-2, 2) * 60 + 128).to(torch.uint8)
        return grey_N[:, None, None, None].expand(-1, 3, *size)

    def box_features(self, model: Layers, indices: Indices) -> Tensor:
        return self.features[indices][self.predict(model, indices).image_P]

    def companion(self, model: Layers, indices: Indices) -> Tensor:
        return self.features[indices, 0]

    def encode(self, model: Layers, indices: Indices, encoder: str) -> Iterator[Encoding]:
        for part in np.array_split(indices, max(1, len(indices) // 5000)):
            patches_NTD = self.features[part][:, None].roll(1, 2).repeat(1, T, 1)
            patches_NTD[:, 1:] += 1
            yield Encoding(patches_NTD, torch.full((len(part), T), 1 / T), self.features[part])

    def labels(self, model: Layers, indices: Indices) -> Any:
        if not self.has_boxes:
            return self.label_N[indices]
        counts = self.num_boxes_N[indices].tolist()
        return [Boxes(torch.tensor([[0.0, 0, 20, 20]] * n).view(-1, 4), torch.zeros(n).long()) for n in counts]

    def weights(self, model: Layers) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def pseudo_labels(self, model: Layers, indices: Indices, k: int, min_score: float) -> Any:
        predictions = self.predict(model, indices)
        if self.kind == "classifier" and k > 1:
            top = predictions.scores_PC.topk(k)
            return torch.zeros_like(predictions.scores_PC).scatter(1, top.indices, top.values)
        if not self.has_boxes:
            return predictions.scores_PC[:: PLACES[self.kind]].argmax(1)
        corners_P4 = predictions.scores_PC[:, :4] if predictions.boxes_P4 is None else predictions.boxes_P4
        counts, label_P = self.num_boxes_N[indices].tolist(), predictions.scores_PC[:, :C].argmax(1)
        return [Boxes(*parts) for parts in zip(corners_P4.split(counts), label_P.split(counts), strict=True)]

    def losses(self, model: Any, indices: Indices, targets: Any = None, *, test: bool = False) -> Tensor:
        """The cross entropy of the first block, of a detector with its first box or background, and the squares of
        what the other blocks give."""
        outputs = model(self.features[indices])
        if targets is None:
            targets = self.label_N[indices]
        if isinstance(targets, list):
            targets = torch.tensor([int(boxes.labels_M[0]) if len(boxes) else C for boxes in targets])
        classes = F.cross_entropy(outputs[:, 0, : self.num_columns], targets, reduction="none")
        return classes + outputs[:, 1:].square().mean(2).sum(1)

    @property
    def has_boxes(self) -> bool:
        """Whether images have any number of boxes; those of a pose estimator have keypoints, which it predicts."""
        return self.kind in ("detector", "pose estimator")

    @property
    def num_columns(self) -> int:
        return C + self.has_boxes

    def directional(self, model: Layers, indices: Indices, targets: Any, direction: Direction) -> Tensor:
        def losses_at(weights: dict[str, Tensor]) -> Tensor:
            return self.losses(lambda features: functional_call(model, weights, features), indices, targets)

        weights = {name: weight.detach() for name, weight in self.weights(model).items()}
        return jvp(losses_at, (weights,), (direction,))[1].detach()
