"""Scenes of scikit-learn's handwritten digits: object detection that runs anywhere, with fits of seconds."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from benchmark.api import Machine, register_task
from benchmark.vision.data.annotations import GroundTruth, Split, offsets
from benchmark.vision.data.scenes import (
    CANVAS_SIDE,
    DIGIT_SIZES,
    MAX_DIGITS,
    NUM_POOL,
    NUM_TEST,
    Canvases,
    DigitSource,
    digit_sources,
    draw_scenes,
)
from benchmark.vision.detection.detectors import check_weights, missing_packages
from benchmark.vision.detection.recipe import SMALL, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

DEFAULT = DetectorRecipe(
    backbone=SMALL,
    channels=32,
    min_size=0,
    flip=False,
    epochs=20,
    batch_size=8,
    lr=0.02,
    precision="float32",
)


@register_task(
    version=1,
    default=DEFAULT,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=lambda machine, recipe: missing_packages(recipe),
)
def scenes(machine: Machine, recipe: DetectorRecipe) -> Detection:
    """Grey canvases of 64x64 pixels with up to four digits of 14 to 28 pixels, 10 classes.

    The pool has 800 canvases. The test set has 200, drawn from other handwritten digits. One canvas in ten is empty.
    `map` is AP at IoU 0.50.

    Args:
        machine: Has the device.
        recipe: How to train.
    """
    pool, test = build_splits()
    return Detection(machine, recipe, pool, test, num_classes=10, map_at="50")


@cache
def build_splits() -> tuple[Split, Split]:
    """Draws the pool and the test set, the same on every machine."""
    first, second = (build_split(*source) for source in digit_sources())
    return first, second


def build_split(
    glyphs_NHW: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], number: int, rng: np.random.Generator
) -> Split:
    """Draws canvases with these digits.

    Args:
        glyphs_NHW: The digits' ink, 0..1.
        labels_N: Their classes.
        number: The number of canvases.
        rng: The generator.
    """
    drawings = list(draw_scenes(DigitSource(glyphs_NHW, labels_N, number, rng)))
    digits = [digit for drawing in drawings for digit in drawing.digits]
    offsets_N1 = offsets(np.array([len(drawing.digits) for drawing in drawings], np.int64))
    corners_B4 = np.array([digit.corners for digit in digits], np.float32).reshape(-1, 4)
    labels_B = np.array([digit.label for digit in digits], np.int64)
    truth = GroundTruth(corners_B4, labels_B, np.zeros(len(digits), bool), offsets_N1)
    return Split(Canvases.from_grey([drawing.image_HW for drawing in drawings]), truth)


__all__ = [
    "CANVAS_SIDE",
    "DEFAULT",
    "DIGIT_SIZES",
    "MAX_DIGITS",
    "NUM_POOL",
    "NUM_TEST",
    "Canvases",
    "build_split",
    "build_splits",
    "scenes",
]
