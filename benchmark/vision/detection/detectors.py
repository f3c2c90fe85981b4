"""The detectors by name, whichever library builds them: that library is imported only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.api import Machine, seeded
from benchmark.vision.detection.detector import Detector
from benchmark.vision.detection.recipe import MMDET_PREFIX, SMALL, SSD, DetectorRecipe
from benchmark.vision.weights import weights_file


def detector_builder(model: str) -> Callable[..., Detector]:
    """What builds a detector of that name, from a recipe, the number of classes and a file of weights or None."""
    if model.startswith(MMDET_PREFIX):
        from benchmark.vision.detection import mmdet_detectors

        return mmdet_detectors.build_detector
    if model == SSD:
        from benchmark.vision.detection import ssd

        return ssd.Ssd
    from benchmark.vision.detection import torchvision_detectors

    return torchvision_detectors.build_detector


def check_weights(machine: Machine, recipe: DetectorRecipe) -> None:
    """What every detection task registers as its `check`.

    Raises:
        ValueError: The backbone's weights cannot be had, or do not fit it.
    """
    path = weights_file(machine, recipe.weights)
    if recipe.weights != "none" and recipe.backbone != SMALL:
        with seeded(0):
            detector_builder(recipe.model)(recipe, 2, path)
