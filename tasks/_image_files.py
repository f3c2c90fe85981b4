"""Image files, read into memory at one size.

Shapes: N images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks._annotations import eight_bits

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def listed(folder: Path) -> list[Path]:
    """The images of a folder, in the order of their names. ValueError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise ValueError(f"{folder}: no images ({', '.join(sorted(EXTENSIONS))})")
    return files


def read(paths: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """(N, 3, size, size) RGB, resized where they are of another size (bilinear, antialiased)."""
    images_N3HW = np.empty((len(paths), 3, size, size), np.uint8)

    def fill(number: int) -> None:
        images_N3HW[number] = decoded(paths[number], size)

    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as threads:
        for _ in threads.map(fill, range(len(paths))):
            pass
    return images_N3HW


def decoded(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """(3, size, size) RGB. ValueError names a file that is no image."""
    try:
        with Image.open(path) as image:
            colour = eight_bits(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if colour.size != (size, size):
        colour = colour.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(colour).transpose(2, 0, 1)
