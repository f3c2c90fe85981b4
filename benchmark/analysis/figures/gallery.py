"""Reads the gallery of a pool, which figures of what was bought need beside the records, and checks its arrays' forms.

Shapes: P images of a pool, M boxes on them, N images shown, C classes, D features, K boxes drawn.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.system import files
from benchmark.system.digests import digest
from benchmark.text.words import plural

Ints: TypeAlias = npt.NDArray[np.int64]


LARGEST_VALUE = 1e15  # of features and pixels, whose squares single precision holds
LARGEST_GALLERY, LONGEST_SIDE, MOST_CLASSES = 2 * 2**30, 512, 2**16  # bytes, pixels of a thumbnail, classes
ARRAY_FORMS = {  # kinds of number and dimensions of a gallery's arrays
    "labels_P": ("iu", 1), "box_image_M": ("iu", 1), "box_class_M": ("iu", 1), "box_side_M": ("f", 1),
    "shown_N": ("iu", 1), "thumbs_NHW3": ("u", 4), "features_ND": ("f", 2), "drawn_K5": ("f", 2), "classes_C": ("U", 1),
    "digest": ("U", 0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gallery:
    """What a pool's images look like: labels and boxes of all of it, thumbnails and features of some."""

    labels_P: Ints  # class of each image; empty for detection
    box_image_M: Ints  # pool positions; empty for classification, as the next two
    box_class_M: Ints
    box_side_M: npt.NDArray[np.float32]  # root of the area in pixels
    shown_N: Ints  # pool positions of what follows
    thumbs_NHW3: npt.NDArray[np.uint8]
    features_ND: npt.NDArray[np.float16]
    drawn_K5: npt.NDArray[np.float32]  # boxes on thumbnails: row in N, x1, y1, x2, y2 in their pixels
    classes_C: npt.NDArray[np.str_]

    @classmethod
    def read(cls, path: str | Path) -> Gallery:
        """A gallery of a .npz file; ValueError, in one line, where it is none."""
        try:
            with files.open_file(path) as handle:
                if not zipfile.is_zipfile(handle):
                    raise ValueError("no zip file")
                handle.seek(0)
                with np.load(handle, allow_pickle=False) as file:
                    check_forms(file.zip)
                    gallery = cls(**(arrays := {one.name: file[one.name] for one in fields(cls)}))
                    stated = str(file["digest"]) if "digest" in file else None  # None: of an older release
        except READ_ERRORS as error:
            raise ValueError(f"{path} is no gallery: {' '.join(str(error).split())}") from error
        if fault := gallery.fault:
            raise ValueError(f"{path} is no gallery: {fault}")
        if stated not in (None, digest(Path(path).stem, arrays)):
            raise ValueError(f"{path} is damaged: its digest does not fit")
        return gallery

    @property
    def fault(self) -> str:
        """What does not fit together; "" where all of it does."""
        same = (("box_image_M", "box_class_M", "box_side_M"), ("shown_N", "thumbs_NHW3", "features_ND"))
        for names in same:
            if len({len(getattr(self, name)) for name in names}) > 1:
                return f"{', '.join(names)} differ in length"
        limits = {"labels_P": len(self.classes_C), "box_class_M": len(self.classes_C)}
        wrong = [name for name, top in limits.items() if not in_range(getattr(self, name), top)]
        if self.drawn_K5.size and (self.drawn_K5.shape[1] != 5 or not in_range(self.drawn_K5[:, 0], len(self.shown_N))):
            wrong.append("drawn_K5")
        for name in ("features_ND", "box_side_M", "drawn_K5"):
            wrong += [name] * (
                not float(np.abs(getattr(self, name)).max(initial=0)) <= LARGEST_VALUE
            )  # nor where it is NaN
        return f"{', '.join(wrong)} has values that cannot be" if wrong else ""

    @property
    def row_by_position(self) -> dict[int, int]:
        """The row of a pool position's thumbnail and features."""
        return {int(place): row for row, place in enumerate(self.shown_N)}

    def classes_of(self, images: Sequence[int]) -> Ints:
        """Classes of these images, or of the boxes on them. ValueError where they are not of this pool."""
        if not len(self.labels_P):
            return self.box_class_M[np.isin(self.box_image_M, images)]
        if max(images, default=0) >= len(self.labels_P):
            pool = plural(len(self.labels_P), "image")
            raise ValueError(f"these pictures are of another pool: {pool}, without number {max(images)}")
        return self.labels_P[list(images)]


READ_ERRORS = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, RuntimeError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError,
)  # fmt: skip  # RuntimeError: encrypted, or packed in a way that is not known
HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_forms(archive: zipfile.ZipFile) -> None:
    """ValueError, before an array takes memory, where one is of another kind or shape than a gallery's may be, or of
    another size than its shape says."""
    if (total := sum(one.file_size for one in archive.infolist())) > LARGEST_GALLERY:
        raise ValueError(f"it would take {total / 2**30:,.0f} GiB, and {LARGEST_GALLERY / 2**30:.0f} at most")
    for name, (kinds, dimensions) in ARRAY_FORMS.items():
        if name == "digest" and f"{name}.npy" not in archive.namelist():  # of an older release
            continue
        with archive.open(f"{name}.npy") as handle:
            shape, _, dtype = HEADER_READERS[np.lib.format.read_magic(handle)](handle)  # type: ignore[no-untyped-call]
            size = archive.getinfo(f"{name}.npy").file_size - handle.tell()
        told, number = f"{name} is {dtype} of shape {shape}", math.prod(shape)
        sides = dimensions < 4 or (all(0 < side <= LONGEST_SIDE for side in shape[1:3]) and shape[3:] == (3,))
        plain = dtype.kind in kinds or (not number and dtype.kind in "iuf")  # boxes of images that have none
        if len(shape) != dimensions or not plain or (number and not sides):
            raise ValueError(told)
        if min(shape, default=0) < 0 or number * dtype.itemsize != size:
            raise ValueError(f"{told}, but there are {size:,} bytes")
        if name == "classes_C" and number > MOST_CLASSES:
            raise ValueError(f"{told}: at most {MOST_CLASSES:,} classes")


def in_range(values: npt.NDArray[Any], bound: int) -> bool:
    """Whether all are at least 0 and below `top`."""
    return bool(((values >= 0) & (values < bound)).all())
