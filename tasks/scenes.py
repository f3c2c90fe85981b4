"""Scenes of scikit-learn's handwritten digits: object detection that runs anywhere, in seconds a fit.

Shapes: N images, M boxes of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Machine, register_task
from tasks._annotations import Split, Truth
from tasks._classifier import digest
from tasks._detection import Detection
from tasks._detection_recipe import SMALL, DetectorRecipe, lacks
from tasks._handwritten import handwritten

NUM_POOL, NUM_TEST = 800, 200
SIDE = 64  # pixels of a canvas
SIZES = (14, 28)  # pixels of a digit's longer side, least and most
MOST = 4  # digits on a canvas; some have none
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


@dataclass(frozen=True)
class Canvases:
    """Images in memory."""

    images_N3HW: Tensor  # uint8

    def __len__(self) -> int:
        return len(self.images_N3HW)

    def __getitem__(self, number: int) -> Tensor:
        """(3, 64, 64) uint8."""
        return self.images_N3HW[number]

    @property
    def fingerprint(self) -> str:
        """A hash of the pixels."""
        return digest(self.images_N3HW.numpy())


@register_task(version=1, default=DEFAULT, lacks=lacks)
def scenes(machine: Machine, recipe: DetectorRecipe) -> Detection:
    """Grey canvases of 64x64 pixels with up to four digits of 14 to 28 pixels, 10 classes: a pool of 800, a test set
    of 200 drawn from other handwritten digits. One canvas in ten is empty. `map` is AP at IoU 0.50."""
    pool, test = drawn()
    return Detection(machine, recipe, pool, test, num_classes=10, map_at="50")


@cache
def drawn() -> tuple[Split, Split]:
    """Pool and test set, the same on every machine."""
    values_NHW, labels_N = handwritten()
    glyphs_NHW = values_NHW.astype(np.float32) * np.float32(1 / 16)
    order_N = np.random.default_rng(0).permutation(len(labels_N))
    parts = np.split(order_N, [int(0.75 * len(order_N))])
    pairs = zip(parts, (NUM_POOL, NUM_TEST), (1, 2), strict=True)
    first, second = (canvases(glyphs_NHW[p], labels_N[p], n, np.random.default_rng(s)) for p, n, s in pairs)
    return first, second


class Drawn(NamedTuple):
    """One digit on a canvas."""

    corners: tuple[int, int, int, int]
    label: int


def canvases(
    glyphs_NHW: npt.NDArray[np.float32], labels_N: npt.NDArray[np.int64], number: int, rng: np.random.Generator
) -> Split:
    """`number` canvases with digits among these."""
    images, found = [], list[list[Drawn]]()
    for _ in range(number):
        wanted = int(rng.integers(1, MOST + 1)) if rng.random() >= 0.1 else 0
        canvas, digits = np.zeros((SIDE, SIDE), np.float32), list[Drawn]()
        for _ in range(wanted):
            place(canvas, digits, glyphs_NHW, labels_N, rng)
        light = canvas * rng.uniform(0.6, 1.0) + rng.normal(0.0, 0.05, canvas.shape)
        images.append(np.round(light.clip(0, 1) * 255).astype(np.uint8))
        found.append(digits)
    stack = torch.from_numpy(np.stack(images))[:, None].repeat(1, 3, 1, 1)
    flat = [digit for digits in found for digit in digits]
    first_N1 = np.concatenate([[0], np.cumsum([len(digits) for digits in found])]).astype(np.int64)
    corners_B4 = np.array([digit.corners for digit in flat], np.float32).reshape(-1, 4)
    labels_B = np.array([digit.label for digit in flat], np.int64)
    return Split(Canvases(stack), Truth(corners_B4, labels_B, np.zeros(len(flat), bool), first_N1))


def place(
    canvas: npt.NDArray[np.float32], digits: list[Drawn], glyphs_NHW: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64], rng: np.random.Generator,
) -> None:  # fmt: skip
    """Draws one more digit where it covers no other one; gives up after ten places."""
    which, size = int(rng.integers(len(labels_N))), int(rng.integers(SIZES[0], SIZES[1] + 1))
    glyph = inked(scaled(glyphs_NHW[which], size))
    height, width = glyph.shape
    for _ in range(10):
        y, x = int(rng.integers(0, SIDE - height + 1)), int(rng.integers(0, SIDE - width + 1))
        corners = (x, y, x + width, y + height)
        if all(apart(corners, other.corners) for other in digits):
            canvas[y : y + height, x : x + width] = glyph
            digits.append(Drawn(corners, int(labels_N[which])))
            return


def scaled(glyph: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """A glyph at `size` x `size` pixels, bilinear."""
    values = F.interpolate(torch.from_numpy(glyph)[None, None], (size, size), mode="bilinear", align_corners=False)
    pixels: npt.NDArray[np.float32] = values[0, 0].numpy()
    return pixels


def inked(glyph: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The glyph without its empty margins."""
    rows, columns = (np.flatnonzero((glyph > 0.2).any(axis)) for axis in (1, 0))
    return glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes do not meet."""
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
