"""Localization tightness (Kao et al., Localization-Aware Active Learning for Object Detection, ACCV 2018)."""

from __future__ import annotations

import numpy as np

from benchmark.api import Indices, View, register

from .shared.boxes import box_corners, iou


@register(needs={"proposals"}, version=2)
def localization_tightness(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """The images with a box whose class and place disagree most: smallest J_I = min_j |T_j + P_j - 1|, in 0..1 (LT/C).

    T of a box: its IoU with the proposal it was refined from, for two-stage detectors; P: its confidence. J is 0 for a
    sure class in a loose box and for an unsure class in a tight one, 1 where both are sure or neither is. An image
    without boxes has J_I = 1. Deterministic. In double precision, so that small J do not tie.
    Deviation: the correct IoU, where CALD's code forgets to add a pixel in one of its areas.
    Cost: a forward pass an unlabelled image, and one IoU a box.
    """
    predictions = view.proposals(view.unlabelled)
    assert predictions.proposals_P4 is not None, "a task with `proposals` returns them"
    tightness_P = iou(box_corners(predictions).double(), predictions.proposals_P4.double())
    disagreement_P = 1 - (tightness_P + predictions.confidence_P.double() - 1).abs()
    return view.highest(predictions.per_image(disagreement_P, "max"), budget)
