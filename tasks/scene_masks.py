"""Scenes of scikit-learn's handwritten digits: semantic segmentation that runs anywhere, with fits of seconds."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from benchmark.api import Machine, register_task
from benchmark.vision.data.label_maps import InMemoryMaps, Split
from benchmark.vision.data.scenes import Canvases, DigitSource, Scene, digit_sources, draw_scenes
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import SMALL, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.task import Segmentation

INK_THRESHOLD = 0.3  # a pixel with more ink, on the scale 0..1, is of its digit's class
CLASSES = ("background", *map(str, range(10)))
DEFAULT = SegmenterRecipe(
    model=SMALL,
    crop=48,
    scale_min=1.0,
    scale_max=1.0,
    flip=False,
    epochs=32,
    batch_size=4,
    lr=0.03,
    precision="float32",
    channels_last=False,
)


@register_task(version=1, default=DEFAULT, missing_capabilities=missing_capabilities, check=check_weights)
def scene_masks(machine: Machine, recipe: SegmenterRecipe) -> Segmentation:
    """The grey canvases of `scenes`, 64x64 pixels with up to four digits of 14 to 28 pixels, with label maps.

    The pool has 800 canvases. The test set has 200, drawn from other handwritten digits. There are 11 classes: pixels
    with a digit's ink are of its class, all others of class 0, the background.

    Args:
        machine: Has the device.
        recipe: How to train.
    """
    pool, test = build_splits()
    return Segmentation(machine, recipe, pool, test, CLASSES)


@cache
def build_splits() -> tuple[Split, Split]:
    """Draws the pool and the test set, the same on every machine."""
    first, second = map(build_split, digit_sources())
    return first, second


def build_split(source: DigitSource) -> Split:
    """Draws canvases and their label maps."""
    drawings = list(draw_scenes(source))
    maps_NHW = torch.from_numpy(np.stack([label_map(drawing) for drawing in drawings]))
    return Split(Canvases.from_grey([drawing.image_HW for drawing in drawings]), InMemoryMaps(maps_NHW))


def label_map(scene: Scene) -> npt.NDArray[np.uint8]:
    """(H, W): the class of each pixel."""
    map_HW = np.zeros(scene.ink_HW.shape, np.uint8)
    for (x1, y1, x2, y2), label in scene.digits:
        map_HW[y1:y2, x1:x2] = np.where(scene.ink_HW[y1:y2, x1:x2] > INK_THRESHOLD, label + 1, 0)
    return map_HW
