"""Images in memory, at one size: decoded on all cores, and stored in the user's cache folder for later runs.

Shapes: N images, S x S pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image, features

from benchmark.api import activity
from benchmark.vision.data.forked_processes import map_in_processes, num_cores, shared_array
from benchmark.vision.data.image_checks import (
    THUMBNAIL_SIDE,
    BadImagesError,
    ImageScan,
    describe_image,
    report_frames,
    report_pillow_warnings,
    report_turns,
)
from benchmark.vision.data.image_files import FRAMES_KEY, Exif, Turn, decode_image
from benchmark.vision.data.user_cache import read_or_compute

FORMAT = 1  # of a stored file; raised when what is decoded or its meaning changes
CODECS = [(name, features.version(name)) for name in ("jpg", "libtiff", "webp", "zlib")]  # they decide the pixels
TURNS: tuple[Turn, ...] = ("", "turned", "stored")
HASH_BYTES = 16  # of a pixel hash
MAX_STEP = 64  # images that a process decodes between two reports of progress
MIN_FOR_PROCESSES = 32  # fewer images are decoded by this process

Text = TypeVar("Text", str, bytes)


class Messages(NamedTuple):
    """What is to be said of some images.

    Args:
        errors: What is wrong with the bad ones, by row.
        warnings: What Pillow warned of.
    """

    errors: dict[int, str]
    warnings: list[str]


class DecodedImages(NamedTuple):
    """Decoded images, and what is known of their files: the fields of `ImageScan` in arrays.

    Args:
        pixels_N3SS: RGB.
        sizes_N2: Width and height before they were resized.
        turns_N: Positions in TURNS.
        hashes_NB: Pixel hashes, before they were resized.
        thumbnails_NT: Grey values, row by row.
        has_frames_N: Whether the file holds several images.
    """

    pixels_N3SS: npt.NDArray[np.uint8]
    sizes_N2: npt.NDArray[np.int64]
    turns_N: npt.NDArray[np.uint8]
    hashes_NB: npt.NDArray[np.uint8]
    thumbnails_NT: npt.NDArray[np.uint8]
    has_frames_N: npt.NDArray[np.bool_]

    @classmethod
    def allocate(cls, num_images: int, size: int) -> Self:
        """Returns arrays of zeros for so many images, which forked processes can write into."""
        return cls(
            pixels_N3SS=shared_array((num_images, 3, size, size), np.uint8),
            sizes_N2=shared_array((num_images, 2), np.int64),
            turns_N=shared_array((num_images,), np.uint8),
            hashes_NB=shared_array((num_images, HASH_BYTES), np.uint8),
            thumbnails_NT=shared_array((num_images, THUMBNAIL_SIDE**2), np.uint8),
            has_frames_N=shared_array((num_images,), np.bool_),
        )

    def decode(self, paths: Sequence[Path], exif: Exif, rows: Iterable[int]) -> Messages:
        """Decodes images into these rows, apart from bad ones, which are returned as errors."""
        errors = dict[int, str]()
        with warnings.catch_warnings(record=True) as pillow_warnings:
            warnings.simplefilter("always")
            for row in rows:
                try:
                    self.decode_file(row, paths[row], exif)
                except ValueError as error:
                    errors[row] = str(error)
        return Messages(errors, [str(warning.message) for warning in pillow_warnings])

    def decode_file(self, row: int, path: Path, exif: Exif) -> None:
        """Decodes an image into a row. Raises ValueError if the file cannot be read completely."""
        image, turn = decode_image(path, exif=exif)
        array, size = np.asarray(image), self.pixels_N3SS.shape[-1]
        scan = describe_image(path, image, array, turn)
        is_fitting = image.size == (size, size)
        resized = array if is_fitting else np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        self.pixels_N3SS[row] = resized.transpose(2, 0, 1)
        self.sizes_N2[row], self.turns_N[row] = image.size, TURNS.index(turn)
        self.hashes_NB[row] = np.frombuffer(bytes.fromhex(scan.pixel_hash), np.uint8)
        self.thumbnails_NT[row] = np.frombuffer(scan.thumbnail, np.uint8)
        self.has_frames_N[row] = FRAMES_KEY in image.info

    def scans(self, paths: Sequence[Path]) -> list[ImageScan]:
        """The scans of the files."""
        hashes = split_evenly(self.hashes_NB.tobytes().hex(), 2 * HASH_BYTES)
        thumbnails = split_evenly(self.thumbnails_NT.tobytes(), THUMBNAIL_SIDE**2)
        columns = paths, self.sizes_N2.tolist(), self.turns_N.tolist(), hashes, thumbnails
        return [
            ImageScan(path, width, height, TURNS[turn], pixel_hash, thumbnail)
            for path, (width, height), turn, pixel_hash, thumbnail in zip(*columns, strict=True)
        ]


def load_images(paths: Sequence[Path], size: int, exif: Exif) -> tuple[npt.NDArray[np.uint8], list[ImageScan]]:
    """Loads images into memory at one size. Files that have not changed since an earlier run are not decoded again.

    A file has changed if its path, its size in bytes or the time of its last change of any kind (ctime, which users
    cannot set) is another one.

    Args:
        paths: N files.
        size: Height and width in pixels; images of another size are resized (bilinear, antialiased).
        exif: See `image_files.turn_upright`.

    Returns:
        (N, 3, size, size) RGB, and the scan of each file at its original size.

    Raises:
        BadImagesError: Names all files that cannot be read completely.
    """

    def decode() -> Mapping[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in decode_all(paths, size, exif)._asdict().items()}

    states_N2 = file_states(paths)
    if states_N2 is None:
        tensors = decode()
    else:
        place = "" if all(path.is_absolute() for path in paths) else os.getcwd()
        key = ["decoded", FORMAT, PIL.__version__, CODECS, size, exif, place, "\0".join(map(str, paths)), states_N2]
        tensors = read_or_compute(key, decode)
    images = DecodedImages(**{name: tensor.numpy() for name, tensor in tensors.items()})
    scans = images.scans(paths)
    report_turns(scans)
    report_frames([paths[row] for row in np.flatnonzero(images.has_frames_N)])
    return images.pixels_N3SS, scans


def file_states(paths: Sequence[Path]) -> npt.NDArray[np.int64] | None:
    """(N, 2): sizes in bytes, and times of the last change in nanoseconds; None if a file is missing."""
    try:
        states = [(stat.st_size, stat.st_ctime_ns) for stat in map(os.stat, paths)]
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return np.array(states, np.int64).reshape(-1, 2)


def decode_all(paths: Sequence[Path], size: int, exif: Exif) -> DecodedImages:
    """Decodes images on all cores, with a progress display.

    Args:
        paths: N files.
        size: Height and width in pixels.
        exif: See `image_files.turn_upright`.

    Raises:
        BadImagesError: Names all files that cannot be read completely.
    """
    images, errors, pillow_warnings = DecodedImages.allocate(len(paths), size), dict[int, str](), list[str]()
    num_processes = num_cores() if len(paths) >= MIN_FOR_PROCESSES else 1
    step = max(1, min(MAX_STEP, len(paths) // (8 * num_processes)))
    parts = [range(start, min(start + step, len(paths))) for start in range(0, len(paths), step)]
    decode = partial(images.decode, paths, exif)
    results = map(decode, parts) if num_processes == 1 else map_in_processes(decode, parts, num_processes)
    pairs = activity.track(
        zip(parts, results, strict=True), "reading images", total=len(paths), size=lambda pair: len(pair[0])
    )
    for _, messages in pairs:
        errors |= messages.errors
        pillow_warnings += messages.warnings
    report_pillow_warnings(pillow_warnings, len(paths))
    if errors:
        raise BadImagesError(list(errors.values()), len(paths), list(errors))
    return images


def split_evenly(text: Text, length: int) -> Iterator[Text]:
    """Yields the parts of this length."""
    return (text[start : start + length] for start in range(0, len(text), length))
