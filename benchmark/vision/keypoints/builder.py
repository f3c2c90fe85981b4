"""Builds keypoint detectors. torchvision is imported only when one is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmark.api import Machine, seeded
from benchmark.vision.detection.detector import Detector
from benchmark.vision.detection.recipe import SMALL
from benchmark.vision.keypoints.recipe import PoseRecipe
from benchmark.vision.weights import weights_file


def pose_builder(num_keypoints: int) -> Callable[..., Detector]:
    """Returns the function that builds a keypoint detector.

    Args:
        num_keypoints: J.

    Returns:
        A function of a recipe, the number of classes and a file of weights (or None).
    """
    from benchmark.vision.keypoints.keypoint_rcnn import KeypointRcnn

    return partial(KeypointRcnn, num_keypoints=num_keypoints)


def check_weights(machine: Machine, recipe: PoseRecipe) -> None:
    """Checks the backbone's weights before any data are read; every keypoint task registers it as its `check`.

    Args:
        machine: where the task runs.
        recipe: the recipe, which names the backbone and its weights.

    Raises:
        ValueError: the weights cannot be loaded, or do not fit the backbone.
    """
    path = weights_file(machine, recipe.weights)
    if recipe.weights != "none" and recipe.backbone != SMALL:
        with seeded(0):
            pose_builder(1)(recipe, 1, path)
