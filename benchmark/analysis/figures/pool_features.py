"""Reads the features of a pool by the models of a round, which `run embed_round=N` stores.

Shapes: N images, D features, M models, A strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.gallery import LARGEST_VALUE, READ_ERRORS, Ints, in_range, read_arrays, read_gallery
from benchmark.system.digests import digest
from benchmark.text.words import slug

FORMS = {
    "positions_N": ("iu", 1), "strategies_A": ("U", 1), "model_A": ("iu", 1), "features_MND": ("f", 3),
    "digest": ("U", 0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PoolFeatures:
    """The features of the images of a pool by the models of one round, one for each strategy or shared ones."""

    positions_N: Ints  # pool positions, ascending
    strategies_A: npt.NDArray[np.str_]
    model_A: Ints  # the model of each strategy, 0..M-1
    features_MND: npt.NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> PoolFeatures:
        """Reads features from a .npz file.

        Raises:
            ValueError: in one line: the file cannot be read, holds something else, or is damaged.
        """
        try:
            arrays, recorded_digest = read_arrays(path, FORMS)
            features = cls(**arrays)
        except READ_ERRORS as error:
            raise ValueError(f"{path} holds no features: {' '.join(str(error).split())}") from error
        if recorded_digest != digest(path.stem, arrays):
            raise ValueError(f"{path} is damaged: its digest does not fit")
        if not features.is_consistent:
            raise ValueError(f"{path} holds no features: its arrays do not fit together")
        return features

    @property
    def is_consistent(self) -> bool:
        """Whether lengths, indices and values are possible."""
        num_models, num_images, _ = self.features_MND.shape
        return (
            len(self.positions_N) == num_images
            and len(self.strategies_A) == len(self.model_A)
            and in_range(self.model_A, num_models)
            and in_range(self.positions_N, 2**62)
            and float(np.abs(self.features_MND).max(initial=0)) <= LARGEST_VALUE
        )


def read_pool_features(experiment: Experiment, number: int) -> PoolFeatures | None:
    """Reads the features of a round that lie beside the records of an experiment; None where there are none.

    Raises:
        ValueError: see `PoolFeatures.read`.
    """
    if not experiment.runs:
        return None
    path = experiment.runs[0].folder / "gallery" / f"round-{number}" / f"{slug(experiment.title)}.npz"
    return PoolFeatures.read(path) if path.exists() else None


def describe_missing(experiments: Sequence[Experiment], number: int | None) -> list[str]:
    """Returns a line for each experiment with a gallery that lacks the features of a round; none where it is None."""
    return [
        f"{experiment.title}: no features of round {number} are stored, the map shows those of round 0: "
        f"run it again with embed_round={number}"
        for experiment in experiments
        if number and read_gallery(experiment) and read_pool_features(experiment, number) is None
    ]
