"""Localization tightness: images with a box whose class and position disagree (Kao et al., 2018)."""

from __future__ import annotations

import numpy as np

from benchmark.api import Indices, View, register

from .shared.boxes import box_corners, iou


@register(needs={"proposals"}, version=2)
def localization_tightness(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """Selects the images with a box for which the certainty of the class and of the position disagree most.

    The score is `J_I = min_j |T_j + P_j - 1|`, in 0..1, and the smallest are selected (LT/C in the paper). The
    tightness T of a box is its IoU with the proposal it was refined from, so the strategy needs a two-stage detector. P
    is its confidence. J is 0 for a certain class in a loose box and for an uncertain class in a tight one; it is 1
    where both are certain or neither is. An image without boxes has J_I = 1. The selection is deterministic. It is
    computed in double precision, so that small J do not tie.

    References:
        Kao et al., Localization-Aware Active Learning for Object Detection, ACCV 2018.

    Deviations:
        The IoU is correct, whereas CALD's code forgets to add a pixel in one of its areas.

    Cost:
        One forward pass per unlabelled image, and one IoU per box.
    """
    predictions = view.proposals(view.unlabelled)
    assert predictions.proposals_P4 is not None, "a task with `proposals` returns them"
    tightness_P = iou(box_corners(predictions).double(), predictions.proposals_P4.double())
    disagreement_P = 1 - (tightness_P + predictions.confidence_P.double() - 1).abs()
    return view.highest(predictions.per_image(disagreement_P, "max"), budget)
