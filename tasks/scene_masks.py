"""Scenes of scikit-learn's handwritten digits: semantic segmentation that runs anywhere, in seconds a fit."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from benchmark.api import Machine, register_task
from benchmark.vision.data.label_maps import Split, Stack
from benchmark.vision.data.scenes import Canvases, Drawing, Source, drawings, sources
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import SMALL, SegmenterRecipe, lacks
from benchmark.vision.segmentation.task import Segmentation

INK = 0.3  # of a pixel, 0..1, above which it is of its digit's class
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


@register_task(version=1, default=DEFAULT, lacks=lacks, check=check_weights)
def scene_masks(machine: Machine, recipe: SegmenterRecipe) -> Segmentation:
    """The grey canvases of `scenes`, 64x64 pixels with up to four digits of 14 to 28 pixels, with a label map each: a
    pool of 800, a test set of 200 drawn from other handwritten digits. 11 classes: pixels of a digit's ink are of its
    class, all others of class 0, the background."""
    pool, test = drawn()
    return Segmentation(machine, recipe, pool, test, CLASSES)


@cache
def drawn() -> tuple[Split, Split]:
    """Pool and test set, the same on every machine."""
    first, second = map(masked, sources())
    return first, second


def masked(source: Source) -> Split:
    """Canvases and their label maps."""
    made = list(drawings(source))
    maps_NHW = torch.from_numpy(np.stack([labelled(one) for one in made]))
    return Split(Canvases.grey([one.image_HW for one in made]), Stack(maps_NHW))


def labelled(drawing: Drawing) -> npt.NDArray[np.uint8]:
    """(H, W): the class of each pixel."""
    map_HW = np.zeros(drawing.ink_HW.shape, np.uint8)
    for (x1, y1, x2, y2), label in drawing.digits:
        map_HW[y1:y2, x1:x2] = np.where(drawing.ink_HW[y1:y2, x1:x2] > INK, label + 1, 0)
    return map_HW
