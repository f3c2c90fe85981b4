"""Positions by t-SNE, of hundreds or of tens of thousands of images.

Shapes: N images, D features.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE

from benchmark.analysis.curves import Floats
from benchmark.seeds import seed
from benchmark.system import activity

FEW_IMAGES = 2_000  # up to so many scikit-learn's t-SNE takes seconds, and is used everywhere alike
EXAGGERATED, ORDINARY = 250, 500  # iterations of openTSNE
CALLBACK = 10  # iterations between two reports


def tsne_positions(features_ND: npt.NDArray[Any]) -> Floats:
    """(N, 2): positions by t-SNE; the same features always have the same positions.

    More than FEW_IMAGES are laid out by openTSNE, where it is installed, and else by scikit-learn's Barnes-Hut tree,
    which takes several times as long.
    """
    perplexity, state = min(30.0, (len(features_ND) - 1) / 3), seed("figures", "t-SNE") % 2**32
    single_ND = features_ND.astype(np.float32)
    if len(features_ND) <= FEW_IMAGES:
        return np.asarray(TSNE(perplexity=perplexity, random_state=state).fit_transform(single_ND), np.float64)
    if importlib.util.find_spec("openTSNE") is None:
        with activity.stage(f"t-SNE of {len(features_ND):,} images, without `openTSNE` several times as long"):
            return np.asarray(TSNE(perplexity=perplexity, random_state=state).fit_transform(single_ND), np.float64)
    return run_open_tsne(single_ND, perplexity, state)


def run_open_tsne(features_ND: npt.NDArray[np.float32], perplexity: float, state: int) -> Floats:
    """(N, 2): positions by openTSNE, in one thread: with several, neighbours could be other ones each time."""
    import openTSNE  # optional: the extra `tsne`

    total = EXAGGERATED + ORDINARY
    with activity.stage(f"t-SNE of {len(features_ND):,} images", total, "iterations") as stage:
        positions_N2 = openTSNE.TSNE(
            perplexity=perplexity, random_state=state % 2**31, n_jobs=1, neighbors="annoy",
            negative_gradient_method="fft", early_exaggeration_iter=EXAGGERATED, n_iter=ORDINARY,
            callbacks=lambda iteration, error, embedding: stage.advance(CALLBACK), callbacks_every_iters=CALLBACK,
        ).fit(features_ND)  # fmt: skip
    return np.asarray(positions_N2, np.float64)
