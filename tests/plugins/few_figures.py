"""A keypoint task small enough for the conformance kit: 60 canvases with stick figures, few epochs."""

import dataclasses

import numpy as np

from benchmark.api import Machine, register_task
from benchmark.tasks import stick_figures
from benchmark.vision.data.stick_figures import draw_split
from benchmark.vision.keypoints.builder import check_weights
from benchmark.vision.keypoints.recipe import PoseRecipe, missing_capabilities
from benchmark.vision.keypoints.task import PoseEstimation


@register_task(
    version=1,
    default=dataclasses.replace(stick_figures.DEFAULT, epochs=6),
    missing_capabilities=missing_capabilities,
    check=check_weights,
)
def few_figures(machine: Machine, recipe: PoseRecipe) -> PoseEstimation:
    """60 + 10 canvases."""
    pool, test = (draw_split(n, np.random.default_rng(s)) for n, s in ((60, 0), (10, 1)))
    return PoseEstimation(machine, recipe, pool, test)
