"""What tests of large pools describe: a pool with all that strategies store of it, and files with numbers in them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Encoding, Indices, Predictions, View

NUM_IMAGES = 150


class DescribedPool:
    """A task with fixed predictions, features and encodings, which fit into half precision.

    Its features are eight clusters, far apart. Each image has four patches, so that it keeps them as its patterns.
    """

    def __init__(self, *, boxes_per_image: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.cluster_N = rng.integers(8, size=NUM_IMAGES)
        features = 4 * rng.standard_normal((8, 6))[self.cluster_N] + rng.standard_normal((NUM_IMAGES, 6))
        self.features_ND = torch.from_numpy(features).half().double()
        self.patches_NTD = torch.from_numpy(rng.standard_normal((NUM_IMAGES, 4, 5))).half().double()
        self.num_boxes_N = rng.integers(0, 4, NUM_IMAGES) if boxes_per_image else np.ones(NUM_IMAGES, np.int64)
        logits_PC = torch.from_numpy(rng.standard_normal((self.num_boxes_N.sum(), 4)))
        self.scores_PC = logits_PC.float().softmax(1)

    def predict(self, model: object, indices: Indices) -> Predictions:
        first_N = np.cumsum(self.num_boxes_N) - self.num_boxes_N
        rows = [np.arange(first_N[i], first_N[i] + self.num_boxes_N[i]) for i in indices.tolist()]
        image_P = np.repeat(np.arange(len(indices)), self.num_boxes_N[indices])
        return Predictions(self.scores_PC[np.concatenate(rows)], torch.from_numpy(image_P), len(indices))

    def embed(self, model: object, indices: Indices) -> Tensor:
        return self.features_ND[indices]

    def encode(self, model: object, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        for part in np.array_split(indices, 3):
            attention_NT = torch.tensor([0.4, 0.3, 0.2, 0.1]).repeat(len(part), 1)
            yield Encoding(self.patches_NTD[part], attention_NT, -self.features_ND[part])

    def view(self, labelled: Indices, *, excluded: Sequence[int] = (), tie_seed: int = 0) -> View:
        """Returns a view in which all others are unlabelled, except the excluded ones."""
        unlabelled = np.setdiff1d(np.arange(NUM_IMAGES), [*labelled.tolist(), *excluded])
        none, needs, task = np.empty(0, np.int64), {"embed", "encode", "predict"}, self
        return View(
            task,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            labelled, unlabelled, num_initial=0, held_out=none, needs=needs, tie_seed=tie_seed,
        )  # fmt: skip


def build(log: str = "", stop_at: int = -1) -> Any:
    """Builds a `Describe` that stores the number in each file.

    Args:
        log: a file to which the first number of each shard is added; "" for none.
        stop_at: the first number of a shard that is never finished.
    """

    def describe(paths: Sequence[Path]) -> Mapping[str, Tensor]:
        try:
            numbers = [int(path.read_text()) for path in paths]
        except ValueError as error:
            bad = next(path for path in paths if not path.read_text().isdigit())
            raise ValueError(f"{bad} is no number") from error
        if log:
            with open(log, "a") as handle:
                handle.write(f"{numbers[0]}\n")
        if numbers[0] == stop_at:
            time.sleep(60)
        return {"numbers": torch.tensor(numbers, dtype=torch.float16)[:, None]}

    return describe
