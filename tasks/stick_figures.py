"""Stick figures drawn by code: keypoint detection that runs anywhere, with fits of seconds."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmark.api import Machine, register_task
from benchmark.vision.data.annotations import Split
from benchmark.vision.data.stick_figures import draw_split
from benchmark.vision.detection.recipe import SMALL
from benchmark.vision.keypoints.builder import check_weights
from benchmark.vision.keypoints.recipe import PoseRecipe, missing_capabilities
from benchmark.vision.keypoints.task import PoseEstimation

NUM_POOL, NUM_TEST = 400, 100
DEFAULT = PoseRecipe(
    backbone=SMALL,
    channels=32,
    min_size=0,
    epochs=20,
    batch_size=8,
    lr=0.02,
    precision="float32",
    channels_last=False,
)


@register_task(version=1, default=DEFAULT, missing_capabilities=missing_capabilities, check=check_weights)
def stick_figures(machine: Machine, recipe: PoseRecipe) -> PoseEstimation:
    """Grey canvases of 64x64 pixels with up to three stick figures of 22 to 36 pixels, with six joints each.

    The joints are head, hip, hands and feet; the figures face the viewer. The pool has 400 canvases, the test set 100.
    One canvas in ten is empty, and of one figure in ten the hand and the foot on one side are not labelled. The score
    is COCO's AP of keypoints, with a sigma of 0.05 for every joint.

    Args:
        machine: Has the device.
        recipe: How to train.
    """
    pool, test = build_splits()
    return PoseEstimation(machine, recipe, pool, test, ["stick figure"])


@cache
def build_splits() -> tuple[Split, Split]:
    """Draws the pool and the test set, the same on every machine."""
    return draw_split(NUM_POOL, np.random.default_rng(1)), draw_split(NUM_TEST, np.random.default_rng(2))
