"""Draws canvases with scikit-learn's handwritten digits, the same on every machine.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.vision.data.digits import read_digits
from benchmark.vision.fingerprints import digest

NUM_POOL, NUM_TEST = 800, 200
CANVAS_SIDE = 64  # pixels of a canvas
DIGIT_SIZES = (14, 28)  # pixels: the range of a digit's longer side
MAX_DIGITS = 4  # per canvas; some canvases are empty


@dataclass(frozen=True)
class Canvases:
    """Images in memory, all of one size."""

    images_N3HW: Tensor  # uint8

    def __len__(self) -> int:
        return len(self.images_N3HW)

    def __getitem__(self, index: int) -> Tensor:
        """One image: (3, H, W) uint8."""
        return self.images_N3HW[index]

    @property
    def fingerprint(self) -> str:
        """A hash of the pixels."""
        return digest(self.images_N3HW.numpy())

    @classmethod
    def from_grey(cls, images: list[npt.NDArray[np.uint8]]) -> Canvases:
        """Builds RGB images from grey ones.

        Args:
            images: (H, W) each.
        """
        return cls(torch.from_numpy(np.stack(images))[:, None].repeat(1, 3, 1, 1))


class DigitSource(NamedTuple):
    """The digits and the generator that canvases are drawn from."""

    glyphs_NHW: npt.NDArray[np.float32]  # amount of ink, 0..1
    labels_N: npt.NDArray[np.int64]
    num_canvases: int
    rng: np.random.Generator


class PlacedDigit(NamedTuple):
    """One digit on a canvas."""

    corners: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
    label: int


class Scene(NamedTuple):
    """One canvas and the digits on it."""

    image_HW: npt.NDArray[np.uint8]
    ink_HW: npt.NDArray[np.float32]  # amount of ink of the digits, 0..1, without noise
    digits: list[PlacedDigit]


def digit_sources() -> list[DigitSource]:
    """The sources of the pool and of the test set, which share no handwritten digit."""
    values_NHW, labels_N = read_digits()
    glyphs_NHW = values_NHW.astype(np.float32) * np.float32(1 / 16)
    order_N = np.random.default_rng(0).permutation(len(labels_N))
    parts = np.split(order_N, [int(0.75 * len(order_N))])
    return [
        DigitSource(glyphs_NHW[part_N], labels_N[part_N], num_canvases, np.random.default_rng(seed))
        for part_N, num_canvases, seed in zip(parts, (NUM_POOL, NUM_TEST), (1, 2), strict=True)
    ]


def draw_scenes(source: DigitSource) -> Iterator[Scene]:
    """Draws canvases one after the other; one in ten is empty.

    Args:
        source: The digits, the number of canvases and the generator.
    """
    rng = source.rng
    for _ in range(source.num_canvases):
        num_digits = int(rng.integers(1, MAX_DIGITS + 1)) if rng.random() >= 0.1 else 0
        canvas, digits = np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32), list[PlacedDigit]()
        for _ in range(num_digits):
            place_digit(canvas, digits, source)
        noisy = canvas * rng.uniform(0.6, 1.0) + rng.normal(0.0, 0.05, canvas.shape)
        yield Scene(np.round(noisy.clip(0, 1) * 255).astype(np.uint8), canvas, digits)


def place_digit(canvas: npt.NDArray[np.float32], digits: list[PlacedDigit], source: DigitSource) -> None:
    """Adds a random digit at a random place where it covers no other one; gives up after ten places."""
    rng = source.rng
    index, size = int(rng.integers(len(source.labels_N))), int(rng.integers(DIGIT_SIZES[0], DIGIT_SIZES[1] + 1))
    glyph = trim_margins(resize_glyph(source.glyphs_NHW[index], size))
    height, width = glyph.shape
    for _ in range(10):
        y, x = int(rng.integers(0, CANVAS_SIDE - height + 1)), int(rng.integers(0, CANVAS_SIDE - width + 1))
        corners = (x, y, x + width, y + height)
        if all(are_disjoint(corners, other.corners) for other in digits):
            canvas[y : y + height, x : x + width] = glyph
            digits.append(PlacedDigit(corners, int(source.labels_N[index])))
            return


def resize_glyph(glyph: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Resizes a glyph to `size` x `size` pixels bilinearly."""
    values = F.interpolate(torch.from_numpy(glyph)[None, None], (size, size), mode="bilinear", align_corners=False)
    pixels: npt.NDArray[np.float32] = values[0, 0].numpy()
    return pixels


def trim_margins(glyph: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cuts off the empty margins of a glyph."""
    rows, columns = (np.flatnonzero((glyph > 0.2).any(axis)) for axis in (1, 0))
    return glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def are_disjoint(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (x1, y1, x2, y2) do not overlap."""
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
