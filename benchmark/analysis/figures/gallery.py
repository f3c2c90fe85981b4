"""Reads the gallery of a pool: the labels and thumbnails that figures of what was bought need beside the records.

Shapes: P images of a pool, M boxes on them, N images with a thumbnail, C classes, D features, K boxes on thumbnails.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.analysis.curves import Experiment
from benchmark.system import files
from benchmark.system.digests import digest
from benchmark.text.words import plural, slug

Ints: TypeAlias = npt.NDArray[np.int64]

LARGEST_VALUE = 1e15  # of features and pixels: their squares fit single precision
LARGEST_GALLERY, LONGEST_SIDE, MOST_CLASSES = 2 * 2**30, 512, 2**16  # bytes, pixels of a thumbnail, classes
OLDER_RELEASES_LACK = ("digest", "box_overlap_M")
ARRAY_FORMS = {  # dtype kinds and number of dimensions of a gallery's arrays
    "labels_P": ("iu", 1), "box_image_M": ("iu", 1), "box_class_M": ("iu", 1), "box_side_M": ("f", 1),
    "shown_N": ("iu", 1), "thumbs_NHW3": ("u", 4), "features_ND": ("f", 2), "drawn_K5": ("f", 2), "classes_C": ("U", 1),
    "digest": ("U", 0), "box_overlap_M": ("f", 1),
}  # fmt: skip
READ_ERRORS = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, RuntimeError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError,
)  # fmt: skip  # RuntimeError: an encrypted archive, or an unknown compression
HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images of a pool: labels and boxes of all images, thumbnails and features of some."""

    labels_P: Ints  # class of each image; empty for detection
    box_image_M: Ints  # pool positions; empty for classification, as the next two
    box_class_M: Ints
    box_side_M: npt.NDArray[np.float32]  # square root of the area in pixels
    shown_N: Ints  # pool positions of the images below
    thumbs_NHW3: npt.NDArray[np.uint8]
    features_ND: npt.NDArray[np.float16]
    drawn_K5: npt.NDArray[np.float32]  # boxes on thumbnails: row in N, then x1, y1, x2, y2 in pixels of the thumbnail
    classes_C: npt.NDArray[np.str_]
    box_overlap_M: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    # the largest IoU with another box of the image; empty for regions, and in galleries of older releases

    @classmethod
    def read(cls, path: str | Path) -> Gallery:
        """Reads a gallery from a .npz file.

        Raises:
            ValueError: in one line: the file cannot be read, is no gallery, or is damaged.
        """
        try:
            arrays, recorded_digest = read_arrays(path, ARRAY_FORMS, OLDER_RELEASES_LACK)
            gallery = cls(**arrays)
        except READ_ERRORS as error:
            raise ValueError(f"{path} is no gallery: {' '.join(str(error).split())}") from error
        if fault := gallery.fault:
            raise ValueError(f"{path} is no gallery: {fault}")
        if recorded_digest not in (None, digest(Path(path).stem, arrays)):
            raise ValueError(f"{path} is damaged: its digest does not fit")
        return gallery

    @property
    def fault(self) -> str:
        """The first inconsistency of the arrays; "" if there is none."""
        same_length = (("box_image_M", "box_class_M", "box_side_M"), ("shown_N", "thumbs_NHW3", "features_ND"))
        for names in same_length:
            if len({len(getattr(self, name)) for name in names}) > 1:
                return f"{', '.join(names)} differ in length"
        if len(self.box_overlap_M) not in (0, len(self.box_side_M)):
            return "box_side_M, box_overlap_M differ in length"
        wrong = [name for name in ("labels_P", "box_class_M") if not in_range(getattr(self, name), len(self.classes_C))]
        if self.drawn_K5.size and (self.drawn_K5.shape[1] != 5 or not in_range(self.drawn_K5[:, 0], len(self.shown_N))):
            wrong.append("drawn_K5")
        for name in ("features_ND", "box_side_M", "drawn_K5", "box_overlap_M"):
            if not float(np.abs(getattr(self, name)).max(initial=0)) <= LARGEST_VALUE:  # true for NaN as well
                wrong.append(name)
        return f"{', '.join(wrong)} has impossible values" if wrong else ""

    @property
    def row_by_position(self) -> dict[int, int]:
        """The row of the thumbnail and the features by pool position."""
        return {int(position): row for row, position in enumerate(self.shown_N)}

    def classes_of(self, images: Sequence[int]) -> Ints:
        """The classes of these pool positions, or of the boxes on them.

        Raises:
            ValueError: the gallery's pool has no such image.
        """
        if not len(self.labels_P):
            return self.box_class_M[np.isin(self.box_image_M, images)]
        if max(images, default=0) >= len(self.labels_P):
            pool = plural(len(self.labels_P), "image")
            raise ValueError(f"the gallery is of another pool: {pool}, without number {max(images)}")
        return self.labels_P[list(images)]


def read_arrays(
    path: str | Path, forms: Mapping[str, tuple[str, int]], optional: Collection[str] = ()
) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """Reads the arrays of a .npz file, and the digest that it records; None where an optional one is missing.

    Args:
        path: the file.
        forms: the dtype kinds and the number of dimensions of each array, the digest's included.
        optional: the arrays that the file may lack.

    Raises:
        READ_ERRORS: the file cannot be read, or holds something else.
    """
    with files.open_file(path) as handle:
        if not zipfile.is_zipfile(handle):
            raise ValueError("no zip file")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as file:
            check_forms(file.zip, forms)
            arrays = {name: file[name] for name in forms if name in file or name not in optional}
    recorded_digest = arrays.pop("digest", None)
    return arrays, None if recorded_digest is None else str(recorded_digest)


def check_forms(archive: zipfile.ZipFile, forms: Mapping[str, tuple[str, int]]) -> None:
    """Checks the headers of a file's arrays before the arrays take memory.

    Args:
        archive: the file.
        forms: the kinds of dtypes and the number of dimensions of each array.

    Raises:
        ValueError: an array has another dtype or number of dimensions, or its size does not fit its shape.
    """
    if (total := sum(member.file_size for member in archive.infolist())) > LARGEST_GALLERY:
        raise ValueError(f"it would take {total / 2**30:,.0f} GiB, and {LARGEST_GALLERY / 2**30:.0f} at most")
    for name, (kinds, num_dimensions) in forms.items():
        if name in OLDER_RELEASES_LACK and f"{name}.npy" not in archive.namelist():
            continue
        with archive.open(f"{name}.npy") as handle:
            shape, _, dtype = HEADER_READERS[np.lib.format.read_magic(handle)](handle)  # type: ignore[no-untyped-call]
            size = archive.getinfo(f"{name}.npy").file_size - handle.tell()
        form, number = f"{name} is {dtype} of shape {shape}", math.prod(shape)
        is_image = num_dimensions < 4 or (all(0 < side <= LONGEST_SIDE for side in shape[1:3]) and shape[3:] == (3,))
        has_kind = dtype.kind in kinds or (not number and dtype.kind in "iuf")  # an empty array may have another dtype
        if len(shape) != num_dimensions or not has_kind or (number and not is_image):
            raise ValueError(form)
        if min(shape, default=0) < 0 or number * dtype.itemsize != size:
            raise ValueError(f"{form}, but there are {size:,} bytes")
        if name == "classes_C" and number > MOST_CLASSES:
            raise ValueError(f"{form}: at most {MOST_CLASSES:,} classes")


def in_range(values: npt.NDArray[Any], bound: int) -> bool:
    """Whether all values are at least 0 and below `bound`."""
    return bool(((values >= 0) & (values < bound)).all())


def read_gallery(experiment: Experiment) -> Gallery | None:
    """Reads the gallery that lies beside the records of an experiment; None where there is none.

    Raises:
        ValueError: the file is no gallery, or is damaged.
    """
    if not experiment.runs:
        return None
    path = experiment.runs[0].folder / "gallery" / f"{slug(experiment.title)}.npz"
    return Gallery.read(path) if path.exists() else None
