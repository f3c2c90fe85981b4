"""What strategies store of images, and how they read it again: see `FromShards`.

Probabilities are stored in single precision, since margins and entropies of uncertain images lie close together;
features in half precision, which halves what a selection reads.

Shapes: N images, P predictions, C classes, D features, A rows of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.api import EncoderName, Indices, Predictions, Rows, ShardedPool, View

PROBABILITIES = "probabilities"
BLOCK = 16384  # images whose values are computed at once
MAX_IN_MEMORY = 2**18  # images; up to so many are selected as from a pool in memory where the disk needs another way


def prediction_tables(**_: object) -> tuple[str, ...]:
    """Returns the names of the tables of `describe_predictions`."""
    return PROBABILITIES, count_of(PROBABILITIES)


def describe_predictions(view: View, indices: Indices, **_: object) -> dict[str, Tensor]:
    """Describes images by the class probabilities of their predictions."""
    predictions = view.predict(indices)
    count_N = predictions.image_P.bincount(minlength=len(indices)).int()
    order_P = predictions.image_P.argsort(stable=True)
    tables = {PROBABILITIES: predictions.scores_PC[order_P].float(), count_of(PROBABILITIES): count_N}
    return {name: table.cpu() for name, table in tables.items()}


def feature_table(encoder: EncoderName | None) -> str:
    """Returns the name of the table of `describe_features`."""
    return "features" if encoder is None else f"features of {encoder}"


def describe_features(view: View, indices: Indices, encoder: EncoderName | None) -> dict[str, Tensor]:
    """Describes images by one vector each: the model's own features, or those of an encoder."""
    if encoder is None:
        features_ND = view.embed(indices)
    else:
        features_ND = torch.cat([part.global_NE for part in view.encode(indices, encoder)])
    return {feature_table(encoder): features_ND.half().cpu()}


def count_of(table: str) -> str:
    """Returns the name of the table that holds the number of rows of each image."""
    return f"{table}_count"


def first_rows(pool: ShardedPool, table: str) -> Tensor:
    """Returns the first row of each image in a table, and the number of rows, (N + 1,)."""
    counts = torch.cat([block for _, block in pool.tables[count_of(table)].blocks(BLOCK)])
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.long().cumsum(0)])


def highest(pool: ShardedPool, budget: int, values_of: Callable[[Predictions], Tensor]) -> Indices:
    """Returns the candidates with the largest values of their predictions, as `View.highest` does."""
    values_N = torch.cat([values_of(part).double() for part in stored_predictions(pool)])
    candidates = torch.from_numpy(pool.unlabelled)
    values = values_N[candidates].numpy()
    if num_nan := int(np.isnan(values).sum()):
        raise ValueError(f"{num_nan} of {len(values)} scores are NaN")
    threshold = np.partition(-values, budget - 1)[budget - 1]
    near = np.flatnonzero(-values <= threshold)
    order = np.lexsort((pool.tie_rank_N.numpy()[pool.unlabelled[near]], -values[near]))
    first = near[order[:budget]]
    picks: Indices = pool.unlabelled[first]
    pool.scores = dict(zip(picks.tolist(), values[first].tolist(), strict=True))
    return picks


def stored_predictions(pool: ShardedPool) -> Iterator[Predictions]:
    """Yields the predictions of consecutive images."""
    first_N, table = first_rows(pool, PROBABILITIES), pool.tables[PROBABILITIES]
    for start in range(0, pool.num_images, BLOCK):
        own = first_N[start : start + BLOCK + 1]
        image_P = torch.repeat_interleave(own.diff())
        yield Predictions(table.take(torch.arange(int(own[0]), int(own[-1]))), image_P, len(own) - 1)


def initial_bounds(is_candidate_N: Tensor) -> Tensor:
    """Returns infinity for candidates and -infinity for the others, in double precision."""
    return torch.where(is_candidate_N, torch.inf, -torch.inf).double()


@dataclass(frozen=True)
class GradientRows:
    """The two factors of each image's gradient embedding side by side, (N, C + D), as `Rows`.

    Args:
        probabilities: (N, C).
        features: (N, D).
    """

    probabilities: Rows
    features: Rows

    def __len__(self) -> int:
        """Returns N."""
        return len(self.features)

    def take(self, indices_A: Tensor) -> Tensor:
        """Returns some rows."""
        return self.join(self.probabilities.take(indices_A), self.features.take(indices_A))

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields all rows in order."""
        for start in range(0, len(self), size):
            yield start, self.take(torch.arange(start, min(start + size, len(self))))

    @staticmethod
    def join(p_AC: Tensor, features_AD: Tensor) -> Tensor:
        """Returns residuals and features."""
        residual_AC = torch.nn.functional.one_hot(p_AC.argmax(1), p_AC.shape[1]) - p_AC
        return torch.cat([residual_AC, features_AD.to(residual_AC)], 1)
