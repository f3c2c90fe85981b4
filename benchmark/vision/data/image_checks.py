"""Reads every image of a data set before anything is trained: reports broken files and fingerprints the others.

The results are cached in the user's cache folder until the size or the time of change of a file differs.
Shapes: N images.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from benchmark.api import activity, tensor_files
from benchmark.vision.data.image_files import FRAMES_KEY, Exif, Size, Turn, decode_image
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.user_cache import cache_folder

THUMBNAIL_SIDE = 8  # pixels of a thumbnail
MAX_REPORTED = 3  # bad images that an error message names
CACHE_FILE = "images-2.sqlite"  # the number is raised when the meaning of a row changes
CREATE_TABLE = (
    "CREATE TABLE IF NOT EXISTS scans (path TEXT, how TEXT, bytes INTEGER, changed INTEGER, width INTEGER, "
    "height INTEGER, turn TEXT, pixels TEXT, thumb BLOB, digest TEXT, PRIMARY KEY (path, how)) WITHOUT ROWID"
)
SELECT_SCAN = (
    "SELECT width, height, turn, pixels, thumb, digest FROM scans "
    "WHERE path = ? AND how = ? AND bytes = ? AND changed = ?"
)
INSERT_SCAN = "INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
Result = TypeVar("Result")


class ImageScan(NamedTuple):
    """The result of reading one image file.

    Args:
        path: The file.
        width: In pixels, after the image was turned as its EXIF tags say.
        height: In pixels, likewise.
        turn: How the EXIF orientation was handled.
        pixel_hash: A hash of the decoded pixels and their shape.
        thumbnail: THUMBNAIL_SIDE x THUMBNAIL_SIDE grey values, row by row.
    """

    path: Path
    width: int
    height: int
    turn: Turn
    pixel_hash: str
    thumbnail: bytes


class ScanKey(NamedTuple):
    """The key of a cached scan."""

    path: str
    read_mode: str  # how the file was read: EXIF setting, stated size, image or mask, release of Pillow
    num_bytes: int
    changed_ns: int  # nanoseconds since 1970 of the last change of any kind (ctime, which users cannot set)


class BadImagesError(ValueError):
    """Images cannot be used; the message is one line.

    Args:
        messages: What is wrong with each of them.
        total: The number of images that were read, good ones included.
        positions: The positions of the bad ones among these, where all were read by one call.
    """

    def __init__(self, messages: Sequence[str], total: int, positions: Sequence[int] = ()) -> None:
        self.messages, self.total, self.positions = list(messages), total, list(positions)
        more = f"; and {len(messages) - MAX_REPORTED:,} more" if len(messages) > MAX_REPORTED else ""
        count = f"{len(messages):,} of {total:,} images cannot be used: " if len(messages) > 1 else ""
        text = "; ".join(messages[:MAX_REPORTED])
        super().__init__(f"{count}{text}{more} (repair or replace them, or take them out of the data set)")


def read_all(*readers: Callable[[], Result]) -> list[Result]:
    """Calls all readers, so that one error can name the bad images of all of them.

    Args:
        readers: Functions without arguments, for example one for the pool and one for the test set.

    Returns:
        The result of each reader.

    Raises:
        BadImagesError: Names the bad images of all readers.
    """
    results, bad = list[Result](), list[BadImagesError]()
    for read in readers:
        try:
            results.append(read())
        except BadImagesError as error:
            bad.append(error)
    if bad:
        raise BadImagesError([line for error in bad for line in error.messages], sum(error.total for error in bad))
    return results


def scan_images(
    paths: Sequence[Path], stated_sizes: Sequence[Size], exif: Exif, is_mask: bool = False
) -> list[ImageScan]:
    """Reads image files completely, apart from those whose cached scan is still valid.

    One line of the log counts the images that were turned, another one the files with several frames.

    Args:
        paths: N files.
        stated_sizes: (N,) width and height that the annotations state, (0, 0) where they state none.
        exif: See `image_files.turn_upright`.
        is_mask: Whether the files are label maps, see `image_files.decode_image`.

    Returns:
        The scan of each file.

    Raises:
        BadImagesError: Names all files that cannot be read completely and all that do not have the stated size.
    """
    kind = f"mask {PIL.__version__}" if is_mask else PIL.__version__  # another release may decode differently
    keys = [
        scan_key(path, f"{exif} {width}x{height} {kind}")
        for path, (width, height) in zip(paths, stated_sizes, strict=True)
    ]
    cached = load_scans(keys)
    old = {number: cached[key] for number, key in enumerate(keys) if key is not None and key in cached}
    new, multi_frame = dict[int, ImageScan](), set[int]()

    def scan(number: int) -> None:
        image, turn = decode_image(paths[number], stated_sizes[number], exif, is_mask)
        new[number] = describe_image(paths[number], image, np.asarray(image), turn)
        if FRAMES_KEY in image.info:  # not cached, so that every run warns
            multi_frame.add(number)

    try:
        map_parallel(scan, [number for number in range(len(paths)) if number not in old], len(paths))
    finally:
        cacheable = new.keys() - multi_frame
        save_scans({key: new[number] for number, key in enumerate(keys) if key is not None and number in cacheable})
    by_number = old | new
    scans = [by_number[number]._replace(path=path) for number, path in enumerate(paths)]
    report_turns(scans)
    report_frames([paths[number] for number in multi_frame])
    return scans


def describe_image(path: Path, image: Image.Image, array: npt.NDArray[np.uint8], turn: Turn) -> ImageScan:
    """Hashes the pixels of an image (`array` in numpy) and makes its thumbnail."""
    pixels = hashlib.sha256(f"{array.shape}".encode())
    pixels.update(np.ascontiguousarray(array).data)
    thumbnail = image.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX).tobytes()
    return ImageScan(path, *image.size, turn, pixels.hexdigest()[:32], thumbnail)


def map_parallel(function: Callable[[int], Result], indices: Sequence[int], total: int) -> list[Result]:
    """Calls a function for each index on all cores, with a progress display.

    Args:
        function: May raise ValueError for an image that cannot be used.
        indices: Its arguments.
        total: The number of images of the data set, for messages.

    Returns:
        The results in order.

    Raises:
        BadImagesError: Holds all the ValueErrors that the function raised.
    """

    def attempt(number: int) -> Result | ValueError:
        try:
            return function(number)
        except ValueError as error:
            return error

    threads = ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    with warnings.catch_warnings(record=True) as pillow_warnings:
        warnings.simplefilter("always")
        try:
            results = list(activity.track(threads.map(attempt, indices), "reading images", total=len(indices)))
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupted run waits only for the images that are being read
    report_pillow_warnings([str(warning.message) for warning in pillow_warnings], total)
    bad = {number: result for number, result in zip(indices, results, strict=True) if isinstance(result, ValueError)}
    if bad:
        raise BadImagesError([str(error) for error in bad.values()], total, list(bad))
    return [result for result in results if not isinstance(result, ValueError)]


def report_pillow_warnings(messages: Sequence[str], total: int) -> None:
    """Logs in one line how often Pillow warned while it read `total` images, if it did."""
    if messages:
        first = " ".join(messages[0].split())
        warn_once(f"while {total:,} images were read, Pillow warned {len(messages):,} times, first: {first}")


def report_turns(scans: Sequence[ImageScan]) -> None:
    """Logs in one line how many images were turned as their EXIF tags say, if any have such tags."""
    num_turned, num_stored = (sum(scan.turn == turn for scan in scans) for turn in ("turned", "stored"))
    if num_turned or num_stored:
        folder = os.path.commonpath([scan.path.parent for scan in scans])
        unturned = (
            f", {num_stored:,} left as stored (exif=ignore, or annotations state that size)" if num_stored else ""
        )
        warn_once(f"{folder}: images turned as their EXIF tags say: {num_turned:,} of {len(scans):,}{unturned}")


def report_frames(paths: Sequence[Path]) -> None:
    """Logs in one line how many files hold several images, as animations do, if any."""
    if paths:
        count = f"{len(paths):,} ({printable(min(paths))})"
        warn_once(f"files that hold several images, of which only the first is read: {count}")


@cache
def warn_once(line: str) -> None:
    """Logs a warning once per process, even if a task is built several times.

    Args:
        line: The warning, in one line.
    """
    logging.getLogger("al_benchmark").warning("%s", line)


# --- the cache of scans -----------------------------------------------------------------------------
def scan_key(path: Path, read_mode: str) -> ScanKey | None:
    """The key under which the scan of a file is cached; None if there is no such file or its name is not UTF-8."""
    try:
        stat, name = path.stat(), os.path.abspath(path)
        name.encode()
    except (OSError, ValueError):
        return None
    return ScanKey(name, read_mode, stat.st_size, stat.st_ctime_ns)


def load_scans(keys: Sequence[ScanKey | None]) -> dict[ScanKey, ImageScan]:
    """Reads the cached scans of these keys; an empty dict if the cache folder cannot be read."""
    try:
        with closing(open_cache()) as rows:
            pairs = ((key, rows.execute(SELECT_SCAN, key).fetchone()) for key in keys if key is not None)
            hits = ((key, row[:-1], row[-1]) for key, row in pairs if row is not None)
            return {key: ImageScan(Path(key.path), *row) for key, row, check in hits if check == row_digest(key, row)}
    except (OSError, sqlite3.OperationalError, ValueError):  # ValueError: a path that is not valid text
        return {}
    except sqlite3.DatabaseError:
        tensor_files.remove_file(cache_folder() / CACHE_FILE)  # the file is damaged, and the images are read again
        return {}


def row_digest(key: ScanKey, row: Sequence[object]) -> str:
    """A hash of a row of the cache; an image whose row is damaged is read again."""
    return hashlib.sha256(repr((*key, *row)).encode()).hexdigest()[:32]


def save_scans(scans: dict[ScanKey, ImageScan]) -> None:
    """Writes scans to the cache; does nothing if the cache folder cannot be written."""
    try:
        with closing(open_cache()) as rows, rows:
            rows.executemany(INSERT_SCAN, [(*key, *scan[1:], row_digest(key, scan[1:])) for key, scan in scans.items()])
    except (OSError, sqlite3.Error, ValueError):
        pass


def open_cache() -> sqlite3.Connection:
    """Opens the table of scans in the user's cache folder. Raises OSError or sqlite3.Error if it cannot be created."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    rows = sqlite3.connect(cache_folder() / CACHE_FILE)
    rows.execute(CREATE_TABLE)
    return rows
