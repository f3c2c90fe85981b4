"""Finds image files and decodes them.

Shapes: H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import ExifTags, Image

from benchmark.vision.data.regular_files import check_regular_file, printable

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # hidden although they do not begin with a dot
UPRIGHT_TRANSPOSES = {  # by EXIF orientation: the operation that turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE_TRANSPOSES = UPRIGHT_TRANSPOSES | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

FRAMES_KEY = "al_benchmark_frames"  # key in a PIL image's `info`: the number of frames in the file

Exif: TypeAlias = Literal["turn", "ignore"]  # whether photographs are turned as their EXIF tags say or left as stored
Turn: TypeAlias = Literal["", "turned", "stored"]  # no orientation tag; turned upright; left as stored
Size: TypeAlias = tuple[int, int]  # width and height in pixels
UNKNOWN_SIZE: Size = (0, 0)


def is_hidden_name(name: str) -> bool:
    """Whether a file or folder is hidden or created by an operating system, as .DS_Store and Thumbs.db are.

    Args:
        name: Its name without the path.
    """
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def is_image(name: str) -> bool:
    """Whether a file has an image's extension and is not hidden.

    Args:
        name: Its name without the path.
    """
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not is_hidden_name(name)


def list_images(folder: Path) -> list[Path]:
    """Lists the images of a folder, in the order of their names.

    Args:
        folder: The folder; folders inside it are not searched.

    Raises:
        ValueError: There is no such folder, or it has no images.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    files = sorted(path for path in folder.iterdir() if is_image(path.name))
    if not files:
        raise ValueError(f"{folder}: no images ({', '.join(sorted(EXTENSIONS))})")
    return files


def list_images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Lists the images and the other files in a folder and below, without hidden ones.

    The order is that of torchvision's ImageFolder: folder by folder, then by name.

    Args:
        folder: The folder.
    """
    images, others, visited = list[tuple[str, str]](), list[tuple[str, str]](), set[str]()
    for path, subfolders, names in os.walk(folder, followlinks=True):
        if (real_path := os.path.realpath(path)) in visited:  # another link leads to this folder too
            subfolders.clear()
            continue
        visited.add(real_path)
        subfolders[:] = [name for name in subfolders if not is_hidden_name(name)]
        for name in names:
            if not is_hidden_name(name):
                (images if is_image(name) else others).append((path, name))
    image_paths, other_paths = ([Path(path, name) for path, name in sorted(part)] for part in (images, others))
    return image_paths, other_paths


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image for a `with` block; its pixels are read on first use.

    Args:
        path: The file.

    Raises:
        ValueError: The file is missing or cannot be read as an image, also where that shows only inside the block.
    """
    try:
        check_regular_file(path)
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"{printable(path)} is missing") from error
    except Exception as error:  # Pillow's decoders raise exceptions of any kind on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{printable(path)} cannot be read as an image: {reason}") from error


def decode_image(
    path: Path, stated_size: Size = UNKNOWN_SIZE, exif: Exif = "turn", is_mask: bool = False
) -> tuple[Image.Image, Turn]:
    """Decodes an image completely, in RGB and turned as its EXIF tags say.

    Of a file with several frames it reads the first and stores their number in `image.info[FRAMES_KEY]`.

    Args:
        path: The file.
        stated_size: Width and height that its annotation states, `UNKNOWN_SIZE` if it states none.
        exif: See `turn_upright`.
        is_mask: Whether it is a label map, with one byte per pixel that is the label.

    Returns:
        The image and how its EXIF orientation was handled.

    Raises:
        ValueError: The file cannot be read completely, or the image does not have the stated size, so that its
            annotation belongs to another image.
    """
    with open_image(path) as file:
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # phones append previews to photographs
        if file.format != "TIFF":  # Pillow itself turns TIFF files as it reads them, and no others
            file.load()  # reading the tags of a PNG would decode its pixels too and hide errors in them
        image, turn = turn_upright(file, stated_size, exif)
        image = require_one_byte(image) if is_mask else require_eight_bits(image).convert("RGB")
        image.load()
    if frames > 1:
        image.info[FRAMES_KEY] = frames
    if 0 not in stated_size and image.size != stated_size:
        actual, expected = (f"{width} x {height}" for width, height in (image.size, stated_size))
        raise ValueError(f"{path} has {actual} pixels, but its annotation is of an image of {expected}")
    return image, turn


def turn_upright(image: Image.Image, stated_size: Size, exif: Exif) -> tuple[Image.Image, Turn]:
    """Turns an image as its EXIF tags say, unless its stated size fits only the stored pixels.

    Args:
        image: An opened image.
        stated_size: Width and height that its annotation states, `UNKNOWN_SIZE` if it states none.
        exif: "turn", or "ignore" to leave the image as it is stored.

    Returns:
        The image and "turned", "stored", or "" if it has no orientation tag.
    """
    tag = orientation(image)
    if tag not in UPRIGHT_TRANSPOSES:
        return image, ""
    if image.format == "TIFF":  # Pillow turns these itself when it reads their pixels
        upright, unturned = image, image.transpose(INVERSE_TRANSPOSES[tag])
    else:
        upright, unturned = image.transpose(UPRIGHT_TRANSPOSES[tag]), image
    as_stored = exif == "ignore" or stated_size == unturned.size != upright.size
    return (unturned, "stored") if as_stored else (upright, "turned")


def orientation(image: Image.Image) -> int:
    """The orientation in the EXIF tags; 1 (upright) if there is none or the tags are broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the pixels may be intact
        return 1
    return value if isinstance(value, int) else 1


def require_eight_bits(image: Image.Image) -> Image.Image:
    """Returns the image. ValueError if it has more than 8 bits per channel, which Pillow would clip to white."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it is of mode {image.mode}, more than 8 bits per channel: convert it to 8 bits")
    return image


def require_one_byte(image: Image.Image) -> Image.Image:
    """Returns the image. ValueError if it does not have one byte per pixel, as a label map has."""
    if image.mode not in ("L", "P"):
        raise ValueError(f"it is of mode {image.mode}: a mask must have one byte per pixel, the label")
    return image
