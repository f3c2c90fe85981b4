"""Detectors by name. The library that builds a detector is imported only when that detector is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmark.api import Machine, Requirement, seeded
from benchmark.vision.detection.detector import Detector
from benchmark.vision.detection.recipe import MMDET_PREFIX, SMALL, SSD, DetectorRecipe
from benchmark.vision.weights import weights_file


def detector_builder(model: str) -> Callable[..., Detector]:
    """Returns the function that builds the detector of the given name.

    Args:
        model: `model` of a recipe.

    Returns:
        A function of a recipe, the number of classes and a file of weights (or None).
    """
    if model.startswith(MMDET_PREFIX):
        from benchmark.vision.detection import mmdet_detectors

        return mmdet_detectors.build_detector
    if model == SSD:
        from benchmark.vision.detection import ssd

        return ssd.Ssd
    from benchmark.vision.detection import torchvision_detectors

    return torchvision_detectors.build_detector


def missing_packages(recipe: DetectorRecipe) -> Iterator[Requirement]:
    """Yields the package that a recipe's detector needs and that is not installed.

    Args:
        recipe: the recipe, which names the detector.
    """
    if recipe.model.startswith(MMDET_PREFIX):
        from benchmark.vision.detection.mmdet_settings import INSTALL_MMDET, missing_package

        if package := missing_package():
            yield Requirement(package, INSTALL_MMDET, is_package=True)


def check_weights(machine: Machine, recipe: DetectorRecipe) -> None:
    """Checks the backbone's weights before any data are read; every detection task registers it as its `check`.

    Args:
        machine: where the task runs.
        recipe: the recipe, which names the backbone and its weights.

    Raises:
        ValueError: the weights cannot be loaded, or do not fit the backbone.
    """
    path = weights_file(machine, recipe.weights)
    if recipe.weights != "none" and recipe.backbone != SMALL:
        with seeded(0):
            detector_builder(recipe.model)(recipe, 2, path)
