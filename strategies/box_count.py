"""Selection by the number of predicted boxes: a control for strategies that save boxes by choosing sparse images."""

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
    """Selects the images with the fewest (or the most) predicted boxes.

    This is a control and from no paper. Images with equally many boxes are taken in random order. Each image of a
    classifier counts as one box, so the selection is uniformly random there.

    Args:
        order: which images come first, those with the `fewest` or with the `most` boxes. `fewest` is this project's
            choice, because the control is about sparse images.
        min_score: the smallest confidence (0 to 1) of a box that counts; 0.3 is this project's choice.

    Deviations:
        None, because there is no paper to deviate from.

    Cost:
        One forward pass per unlabelled image.
    """
    count_N = count_boxes(view.predict(view.unlabelled), min_score)
    pick = view.lowest if order == "fewest" else view.highest
    return pick(torch.from_numpy(count_N), budget)
