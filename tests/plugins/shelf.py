"""A detector's task without a detector: boxes are counted and paid for, and nothing is trained."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Companion, Indices, Machine, Predictions, Task, register_task

Flaw = Literal["none", "sums", "image", "infinite", "flat", "cost"]


class Shelf:
    """Images with 0..5 boxes each, drawn from a seed, the first `empty` of them with none.

    A fit's weight is the number n of its images, its bias the seed; map = n / (n + 50) where the test labels are sound.
    """

    metric, batch_size = "map", 16

    def __init__(self, machine: Machine, num_images: int, empty: int, flaw: Flaw) -> None:
        self.machine, self.num_pool, self.flaw = machine, num_images, flaw
        self.boxes_N = np.random.default_rng(7).integers(0, 6, num_images)
        self.boxes_N[:empty] = 0
        self.test_T = np.arange(20)
        self.fingerprint = hashlib.sha256(self.boxes_N.tobytes()).hexdigest()

    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test_T)

    def model(self, companion: Companion | None = None) -> nn.Linear:
        """A weight and a bias."""
        return nn.Linear(1, 1)

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> nn.Linear:
        """The weight is the number of images, the bias the seed."""
        model = self.model()
        nn.init.constant_(model.weight, len(labelled))
        nn.init.constant_(model.bias, seed % 1000)
        return model.eval()

    def score(self, model: nn.Linear) -> dict[str, float]:
        """map in 0..1: rises with the number of images; lower where test labels were scrambled."""
        num_images = model.weight.item()
        return {"map": num_images / (num_images + 50) * float((self.test_T == np.arange(20)).mean())}

    def cost(self, indices: Indices) -> dict[str, float]:
        """Images and boxes."""
        boxes = int(self.boxes_N[indices].sum()) + (self.flaw == "cost")
        return {"images": float(len(indices)), "boxes": float(boxes)}

    def predict(self, model: nn.Linear, indices: Indices) -> Predictions:
        """As many boxes as there are, each of class 0 with a probability of 0.75, 0.25 left to the background."""
        image_P = torch.arange(len(indices)).repeat_interleave(torch.from_numpy(self.boxes_N[indices]))
        scores_PC = torch.tensor([[0.75, 0.25 if self.flaw != "sums" else 0.2]]).repeat(len(image_P), 1)
        boxes_P4 = torch.tensor([[1.0, 2.0, 11.0, 12.0]]).repeat(len(image_P), 1)
        if self.flaw == "infinite":
            boxes_P4[0, 3] = torch.inf
        if self.flaw == "flat":
            boxes_P4[1, 3] = 2
        return Predictions(scores_PC, image_P + (self.flaw == "image"), len(indices), boxes_P4)

    def losses(self, model: nn.Linear, indices: Indices, targets: object = None, *, test: bool = False) -> Tensor:
        """Nothing is trained: zeros."""
        return 0 * model.weight.sum() * torch.ones(len(indices))

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Task:
        """The same shelf with other boxes on the images that are not paid for."""
        rng = np.random.default_rng(seed)
        other = Shelf(self.machine, self.num_pool, 0, self.flaw)
        other.boxes_N = rng.integers(0, 6, self.num_pool)
        other.boxes_N[paid] = self.boxes_N[paid]
        other.test_T = rng.permutation(20) if test else self.test_T
        return other


def label_leakage(*, peeked: bool, **_: object) -> str:
    """What `peeked` gives away."""
    return "the pool was cut by its boxes" if peeked else ""


@register_task(version=1, label_leakage=label_leakage)
def shelf(
    machine: Machine, *, num_images: int = 200, empty: int = 0, peeked: bool = False, flaw: Flaw = "none"
) -> Shelf:
    """A shelf of images; `peeked` says that labels shaped the pool, `flaw` what is wrong with the task."""
    return Shelf(machine, num_images, empty, flaw)
