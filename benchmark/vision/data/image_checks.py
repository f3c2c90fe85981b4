"""Every image of a data set read before anything is trained: what is wrong with any, and how each is recognised.

What a file was found to hold is remembered in the user's cache folder until its size or its time of change differs.
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

THUMBNAIL_SIDE = 8  # pixels of a thumbnail
MAX_REPORTED = 3  # bad images that a message names
CACHE_FILE = "images-2.sqlite"  # its number changes with what a row means
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
    """What is known of an image whose file was read."""

    path: Path
    width: int  # in pixels, as it is read
    height: int
    turn: Turn
    pixel_hash: str  # a hash of them
    thumbnail: bytes  # SIDE x SIDE greys


class ScanKey(NamedTuple):
    """What a scan is remembered by."""

    path: str
    read_mode: str  # it was read
    num_bytes: int
    changed_ns: int  # nanoseconds since 1970: of the last change of whatever kind, a time that nobody can set


class BadImagesError(ValueError):
    """Images that cannot be used, in one line."""

    def __init__(self, messages: Sequence[str], total: int) -> None:
        self.messages, self.total = list(messages), total
        more = f"; and {len(messages) - MAX_REPORTED:,} more" if len(messages) > MAX_REPORTED else ""
        count = f"{len(messages):,} of {total:,} images cannot be used: " if len(messages) > 1 else ""
        text = "; ".join(messages[:MAX_REPORTED])
        super().__init__(f"{count}{text}{more} (mend or replace them, or take them out of the data set)")


def read_all(*readers: Callable[[], Result]) -> list[Result]:
    """What each reader returns. BadImages names the bad images of all of them, of which it is raised once."""
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
    """What is known of each file, read now where it has changed since it was.

    Args:
        paths: N files.
        stated: (N,) width and height that the annotations state; 0: not stated.
        exif, mask: see `image_files.decoded`.

    Says in one line of the log how many images were turned.

    Raises:
        BadImages: names all files that cannot be read whole, and all that are not of the size stated.
    """
    kind = f"mask {PIL.__version__}" if is_mask else PIL.__version__  # another release may decode otherwise
    keys = [
        scan_key(path, f"{exif} {width}x{height} {kind}")
        for path, (width, height) in zip(paths, stated_sizes, strict=True)
    ]
    scans = load_scans(keys)
    old = {number: scans[one] for number, one in enumerate(keys) if one is not None and one in scans}
    new, several = dict[int, ImageScan](), set[int]()

    def scan(number: int) -> None:
        image, turn = decode_image(paths[number], stated_sizes[number], exif, is_mask)
        new[number] = describe_image(paths[number], image, np.asarray(image), turn)
        if FRAMES_KEY in image.info:  # not remembered, so that it is said every time
            several.add(number)

    try:
        map_parallel(scan, [number for number in range(len(paths)) if number not in old], len(paths))
    finally:
        sound = new.keys() - several
        save_scans({one: new[number] for number, one in enumerate(keys) if one is not None and number in sound})
    every = old | new
    known = [every[number]._replace(path=path) for number, path in enumerate(paths)]
    report_turns(known)
    report_frames([paths[number] for number in several])
    return known


def load_images(paths: Sequence[Path], size: int, exif: Exif) -> tuple[npt.NDArray[np.uint8], list[ImageScan]]:
    """(N, 3, size, size) RGB, resized where they are of another size (bilinear, antialiased), and the scans.

    Raises BadImages as `scanned` does. Nothing is remembered: the pixels are needed anyway.
    """
    images_N3HW, several = np.empty((len(paths), 3, size, size), np.uint8), list[Path]()

    def load(number: int) -> ImageScan:
        image, turn = decode_image(paths[number], exif=exif)
        array = small = np.asarray(image)
        if image.size != (size, size):
            small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        images_N3HW[number] = small.transpose(2, 0, 1)
        several.extend([paths[number]] * (FRAMES_KEY in image.info))
        return describe_image(paths[number], image, array, turn)

    scans = map_parallel(load, range(len(paths)), len(paths))
    report_turns(scans)
    report_frames(several)
    return images_N3HW, scans


def describe_image(path: Path, image: Image.Image, array: npt.NDArray[np.uint8], turn: Turn) -> ImageScan:
    """What is known of an image, `array` as numpy has it."""
    pixels = hashlib.sha256(f"{array.shape}".encode())
    pixels.update(np.ascontiguousarray(array).data)
    thumb = image.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX).tobytes()
    return ImageScan(path, *image.size, turn, pixels.hexdigest()[:32], thumb)


def map_parallel(function: Callable[[int], Result], indices: Sequence[int], total: int) -> list[Result]:
    """What `work` returns for each number, on all cores. BadImages has all the ValueErrors that it raised."""

    def attempt(number: int) -> Result | ValueError:
        try:
            return function(number)
        except ValueError as error:
            return error

    threads = ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    with warnings.catch_warnings(record=True) as odd:
        warnings.simplefilter("always")
        try:
            results = list(activity.track(threads.map(attempt, indices), "reading images", total=len(indices)))
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupted run waits for the images in work alone
    if odd:
        first = " ".join(str(odd[0].message).split())
        warn_once(f"while {total:,} images were read, Pillow warned {len(odd):,} times, first: {first}")
    if bad := [str(one) for one in results if isinstance(one, ValueError)]:
        raise BadImagesError(bad, total)
    return [one for one in results if not isinstance(one, ValueError)]


def report_turns(scans: Sequence[ImageScan]) -> None:
    """Says in one line of the log how many images were turned as their EXIF tags say, if any have such tags."""
    turned, stored = (sum(scan.turn == turn for scan in scans) for turn in ("turned", "stored"))
    if turned or stored:
        where = os.path.commonpath([scan.path.parent for scan in scans])
        kept = f", {stored:,} left as stored (exif=ignore, or annotations state that size)" if stored else ""
        warn_once(f"{where}: images turned as their EXIF tags say: {turned:,} of {len(scans):,}{kept}")


def report_frames(paths: Sequence[Path]) -> None:
    """Says in one line of the log how many files hold several images, as animations do, if any."""
    if paths:
        count = f"{len(paths):,} ({printable(min(paths))})"
        warn_once(f"files that hold several images, of which the first alone is read: {count}")


@cache
def warn_once(line: str) -> None:
    """Says a line once a process, however often a task is built."""
    logging.getLogger("al_benchmark").warning("%s", line)


# --- what is remembered -----------------------------------------------------------------------------
def scan_key(path: Path, read_mode: str) -> ScanKey | None:
    """What the scan of a file is remembered by; None where there is no such file, or its name is not UTF-8."""
    try:
        stat, name = path.stat(), os.path.abspath(path)
        name.encode()
    except (OSError, ValueError):
        return None
    return ScanKey(name, read_mode, stat.st_size, stat.st_ctime_ns)


def load_scans(keys: Sequence[ScanKey | None]) -> dict[ScanKey, ImageScan]:
    """The scans that are remembered; none where the cache folder cannot be read."""
    try:
        with closing(open_cache()) as rows:
            pairs = ((one, rows.execute(SELECT_SCAN, one).fetchone()) for one in keys if one is not None)
            there = ((one, row[:-1], row[-1]) for one, row in pairs if row is not None)
            return {
                one: ImageScan(Path(one.path), *row) for one, row, stated in there if stated == row_digest(one, row)
            }
    except (OSError, sqlite3.OperationalError, ValueError):  # the last: names that are no text
        return {}
    except sqlite3.DatabaseError:
        tensor_files.remove_file(cache_folder() / CACHE_FILE)  # it is damaged, and images are read again
        return {}


def row_digest(key: ScanKey, row: Sequence[object]) -> str:
    """A hash of a row: where it is damaged, its image is read again."""
    return hashlib.sha256(repr((*key, *row)).encode()).hexdigest()[:32]


def save_scans(scans: dict[ScanKey, ImageScan]) -> None:
    """Keeps the scans, unless the cache folder cannot be written."""
    try:
        with closing(open_cache()) as rows, rows:
            rows.executemany(INSERT_SCAN, [(*one, *scan[1:], row_digest(one, scan[1:])) for one, scan in scans.items()])
    except (OSError, sqlite3.Error, ValueError):
        pass


def cache_folder() -> Path:
    """The user's cache folder for this package. OSError where nobody's home is known."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not os.path.isabs(folder):  # no folder called `~`
        raise OSError(f"{folder} is no absolute path")
    return Path(folder) / "al-benchmark"


def open_cache() -> sqlite3.Connection:
    """The table of scans in the user's cache folder. Raises OSError or sqlite3.Error where there can be none."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    rows = sqlite3.connect(cache_folder() / CACHE_FILE)
    rows.execute(CREATE_TABLE)
    return rows
