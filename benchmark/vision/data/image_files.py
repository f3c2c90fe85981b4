"""Image files: which there are, and how one is read.

Shapes: H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import ExifTags, Image

from benchmark.vision.data.regular_files import check_regular_file, printable

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SYSTEM_FILES = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx"}
)  # what systems leave in folders, beside .DS_Store and ._x
UPRIGHT_TRANSPOSES = {  # by EXIF orientation: what shows the stored pixels as they were meant
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE_TRANSPOSES = UPRIGHT_TRANSPOSES | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

FRAMES_KEY = "al_benchmark_frames"  # in an image's info: how many there are in the file

Exif: TypeAlias = Literal["turn", "ignore"]  # whether photographs are turned as their EXIF tags say
Turn: TypeAlias = Literal["", "turned", "stored"]  # what became of one: no tag says anything, turned, left as stored
Size: TypeAlias = tuple[int, int]  # width and height in pixels
UNKNOWN_SIZE: Size = (0, 0)


def is_hidden_name(name: str) -> bool:
    """Whether systems put a file or a folder of that name beside people's own: .DS_Store, ._0.png, Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return Path(name).suffix.lower() in EXTENSIONS and not is_hidden_name(name)


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, in the order of their names. ValueError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    files = sorted(path for path in folder.iterdir() if is_image(path.name))
    if not files:
        raise ValueError(f"{folder}: no images ({', '.join(sorted(EXTENSIONS))})")
    return files


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are read when used, in the block. ValueError names a file that is no image."""
    try:
        check_regular_file(path)
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"{printable(path)} is missing") from error
    except Exception as error:  # Pillow's decoders raise what they like on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{printable(path)} cannot be read as an image: {reason}") from error


def decode_image(
    path: Path, stated_size: Size = UNKNOWN_SIZE, exif: Exif = "turn", is_mask: bool = False
) -> tuple[Image.Image, Turn]:
    """The whole image in RGB, and whether it was turned; the first frame of several, whose number is then in its info.

    Args:
        path: its file.
        stated: width and height that its annotation states, `UNSTATED` where it states none.
        exif: see `upright`.
        mask: whether it is a label map: one byte a pixel, which is the label.

    Raises:
        ValueError: for a file that cannot be read whole, and for one that is not of the size that its annotation
            states: then its labels are another image's.
    """
    with open_image(path) as file:
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # phones put previews behind photographs
        if file.format != "TIFF":  # Pillow turns a TIFF as it reads it, and no other
            file.load()  # looking for the tags of a PNG reads its pixels too, and hides what is wrong with them
        image, turn = turn_upright(file, stated_size, exif)
        image = require_one_byte(image) if is_mask else require_eight_bits(image).convert("RGB")
        image.load()
    if frames > 1:
        image.info[FRAMES_KEY] = frames
    if 0 not in stated_size and image.size != stated_size:
        wrong, right = (f"{width} x {height}" for width, height in (image.size, stated_size))
        raise ValueError(f"{path} has {wrong} pixels, but its annotation is of an image of {right}")
    return image, turn


def turn_upright(image: Image.Image, stated_size: Size, exif: Exif) -> tuple[Image.Image, Turn]:
    """The image turned as its EXIF tags say, unless they are ignored or its stated size fits the stored pixels alone.

    Args:
        image: one that was opened.
        stated: width and height that its annotation states, `UNSTATED` where it states none.
        exif: whether the tags count.
    """
    held = orientation(image)
    if held not in UPRIGHT_TRANSPOSES:
        return image, ""
    if image.format == "TIFF":  # Pillow turns these itself when it reads their pixels
        shown, stored = image, image.transpose(INVERSE_TRANSPOSES[held])
    else:
        shown, stored = image.transpose(UPRIGHT_TRANSPOSES[held]), image
    as_stored = exif == "ignore" or stated_size == stored.size != shown.size
    return (stored, "stored") if as_stored else (shown, "turned")


def orientation(image: Image.Image) -> int:
    """How the EXIF tags say that the camera was held; 1, upright, where they are broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the pixels may be sound
        return 1
    return value if isinstance(value, int) else 1


def require_eight_bits(image: Image.Image) -> Image.Image:
    """The image, unless more than 8 bits a channel would be lost, all but the darkest of them in white."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it is of mode {image.mode}, more than 8 bits a channel: convert it to 8 bits")
    return image


def require_one_byte(image: Image.Image) -> Image.Image:
    """The image, if it is a label map."""
    if image.mode not in ("L", "P"):
        raise ValueError(f"it is of mode {image.mode}: a mask has one byte a pixel, the label")
    return image
