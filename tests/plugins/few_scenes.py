"""A detection task small enough for the conformance kit: 150 scenes, one epoch."""

import dataclasses

import numpy as np
from sklearn.datasets import load_digits

from benchmark.api import Machine, register_task
from benchmark.tasks import scenes
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection


@register_task(
    version=1,
    default=dataclasses.replace(scenes.DEFAULT, epochs=1),
    missing_capabilities=missing_capabilities,
    check=check_weights,
)
def few_scenes(machine: Machine, recipe: DetectorRecipe) -> Detection:
    """150 + 20 canvases."""
    data = load_digits()
    glyphs, labels = data.images.astype(np.float32) / 16, data.target.astype(np.int64)
    pool, test = (scenes.build_split(glyphs, labels, n, np.random.default_rng(s)) for n, s in ((150, 0), (20, 1)))
    return Detection(machine, recipe, pool, test, num_classes=10, map_at="50")
