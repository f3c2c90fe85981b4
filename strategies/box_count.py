"""By the number of predicted boxes alone: a control for strategies that owe their savings in boxes to sparse images."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from benchmark.api import Indices, View, register

from .shared.boxes import count_boxes


@register(needs={"predict"}, version=2)
def box_count(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    order: Literal["most", "fewest"] = "fewest",
    min_score: float = 0.3,
) -> Indices:
    """The images with the fewest (or most) predicted boxes of a confidence of at least min_score; no paper's.

    Equals are taken in random order. A classifier's images count one each, so this is random sampling there.
    order: whether those with the `fewest` or the `most` boxes come first. `fewest` is ours: sparse images are what it
        is a control for.
    min_score: the least confidence of a box that counts (ours).
    Deviations: none, as there is no paper to deviate from. Cost: a forward pass an unlabelled image.
    """
    count_N = count_boxes(view.predict(view.unlabelled), min_score)
    pick = view.lowest if order == "fewest" else view.highest
    return pick(torch.from_numpy(count_N), budget)
