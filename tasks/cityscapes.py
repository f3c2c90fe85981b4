"""Cityscapes (Cordts et al., 2016), and any data set in its layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.data.annotations import ImageFiles, list_names
from benchmark.vision.data.image_checks import read_all, warn_once
from benchmark.vision.data.image_files import Exif, is_image
from benchmark.vision.data.label_maps import IGNORE_INDEX, DownscaledImages, MaskFiles, Split
from benchmark.vision.data.regular_files import printable
from benchmark.vision.data.requirements import missing_data
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import PUBLISHED, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.task import Segmentation

LABEL_IDS = {  # the label id of each of the 19 scored classes, in order
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
# For each kind of mask, the byte of each class.
MASK_BYTES = {"labelIds": list(LABEL_IDS.values()), "labelTrainIds": list(range(len(LABEL_IDS)))}
IMAGE_SUFFIX = "_leftImg8bit.png"
ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com"


def missing_requirements(
    machine: Machine, recipe: SegmenterRecipe, *, root: str, **parameters: object
) -> Iterator[Requirement]:
    """Yields the data set if it is not there; see `register_task`."""
    return missing_data(machine, "Cityscapes", root, ARCHIVES, is_there=lambda folder: (folder / "gtFine").is_dir())


@register_task(
    version=1,
    default=SegmenterRecipe(),
    published=PUBLISHED,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
)
def cityscapes(
    machine: Machine, recipe: SegmenterRecipe, *, root: str = "cityscapes", size: int | None = None, exif: Exif = "turn"
) -> Segmentation:
    """Street scenes of 1024x2048 pixels, 19 classes.

    The pool is train (2,975 images). The test set is val (500), since the labels of test are not public.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        root: The folder with leftImg8bit/ and gtFine/: absolute, or inside the data folder. The label maps are
            *_gtFine_labelIds.png, or *_gtFine_labelTrainIds.png if a split has none of those. Labels outside the 19
            classes are ignored.
        size: Height in pixels to which images (bilinear) and label maps (nearest neighbour) are reduced, for small
            machines; null leaves them as they are. Scores on smaller maps are not comparable with published ones.
        exif: "turn" turns photographs as their EXIF tags say, unless the size of the label map fits only the unturned
            image. "ignore" leaves all images as they are stored.

    Raises:
        ValueError: Files are missing or cannot be read, or images and label maps differ in size.
    """
    if size is not None and size < 1:
        raise ValueError(f"cityscapes[size={size}]: must be at least 1")
    try:
        folder = machine.resolve_path(root)
    except ValueError as error:
        raise ValueError(f"{error}, and unpack {ARCHIVES} there") from None
    pool, test = read_all(*(partial(read_split, folder, part, size, exif) for part in ("train", "val")))
    return Segmentation(machine, recipe, pool, test, list(LABEL_IDS), root=folder)


def read_split(folder: Path, split_name: str, size: int | None, exif: Exif = "turn") -> Split:
    """Reads one split, with cities and images in the order of their names.

    Args:
        folder: The root folder of the data set.
        split_name: "train" or "val".
        size: Height in pixels to which images and maps are reduced; None for none.
        exif: See `cityscapes`.

    Raises:
        ValueError: Files are missing or cannot be read, or images and label maps differ in size.
    """
    image_folder = folder / "leftImg8bit" / split_name
    image_paths = [f"{city}/{name}" for city in list_names(image_folder) for name in list_names(image_folder / city)]
    names = [name for name in image_paths if name.endswith(IMAGE_SUFFIX)]
    if others := [name for name in image_paths if is_image(name) and not name.endswith(IMAGE_SUFFIX)]:
        warn_once(
            f"{image_folder}: images are left out because their names do not end in {IMAGE_SUFFIX}: {len(others):,} "
            f"({printable(others[0])})"
        )
    if not names:
        raise ValueError(
            f"{image_folder} has no CITY/*{IMAGE_SUFFIX}: unpack {ARCHIVES} in {folder}, or set root= (and data=)"
        )
    map_folder, stems = folder / "gtFine" / split_name, [name.removesuffix(IMAGE_SUFFIX) for name in names]
    first_maps = list_names(map_folder / Path(stems[0]).parent)
    kind = next((kind for kind in MASK_BYTES if any(name.endswith(f"_{kind}.png") for name in first_maps)), None)
    if kind is None:
        raise ValueError(f"{map_folder} has no CITY/*_gtFine_labelIds.png: unpack {ARCHIVES} in {folder}")
    maps = [f"{stem}_gtFine_{kind}.png" for stem in stems]
    map_paths = [f"{city}/{name}" for city in list_names(map_folder) for name in list_names(map_folder / city)]
    if unmatched := [name for name in map_paths if name.endswith(f"_gtFine_{kind}.png") and name not in set(maps)]:
        example = printable(unmatched[0])
        warn_once(f"{map_folder}: label maps without an image are left out: {len(unmatched):,} ({example})")
    no_sizes_N2 = np.zeros((len(names), 2), np.int64)
    masks = ImageFiles(map_folder, maps, no_sizes_N2, exif, is_mask=True).with_scans()
    images = ImageFiles(image_folder, names, masks.sizes_N2, exif).with_scans()
    split = Split(images, MaskFiles(masks, class_table(MASK_BYTES[kind])))
    return split if size is None else Split(DownscaledImages(split.images, size), DownscaledImages(split.maps, size))


def class_table(labels: list[int]) -> Tensor:
    """(256,) uint8: the class of each byte of a mask, from the byte of each class."""
    class_256 = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
    class_256[labels] = torch.arange(len(labels), dtype=torch.uint8)
    return class_256
