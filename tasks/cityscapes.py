"""Cityscapes (Cordts et al., 2016), and any data set in its layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Machine, register_task
from benchmark.vision.data.annotations import ImageFiles, list_names
from benchmark.vision.data.image_checks import read_all, warn_once
from benchmark.vision.data.image_files import Exif, is_image
from benchmark.vision.data.label_maps import IGNORE_INDEX, DownscaledImages, MaskFiles, Split
from benchmark.vision.data.regular_files import printable
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import PUBLISHED, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.task import Segmentation

LABEL_IDS = {  # of the 19 that are scored, in their order: the label id of each
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
MASK_BYTES = {
    "labelIds": list(LABEL_IDS.values()),
    "labelTrainIds": list(range(len(LABEL_IDS))),
}  # bytes of the classes
IMAGE_SUFFIX = "_leftImg8bit.png"
ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com"


@register_task(
    version=1,
    default=SegmenterRecipe(),
    published=PUBLISHED,
    missing_capabilities=missing_capabilities,
    check=check_weights,
)
def cityscapes(
    machine: Machine, recipe: SegmenterRecipe, *, root: str = "cityscapes", size: int | None = None, exif: Exif = "turn"
) -> Segmentation:
    """Street scenes of 1024x2048 pixels, 19 classes: a pool of train (2,975), scored on val (500), for the labels of
    test are not public.

    root: absolute, or inside the data folder; leftImg8bit/ and gtFine/ are in it. Read are *_gtFine_labelIds.png, or
        *_gtFine_labelTrainIds.png where a split has none of those. Labels outside the 19 classes are ignored.
    size: height in pixels that images (bilinear) and label maps (nearest neighbour) are shrunk to, for small machines;
        null: none are. Scores are then of the small maps, and not those of the published ones.
    exif: turn turns photographs as their EXIF tags say, but where a label map has the size of the stored pixels alone;
        ignore leaves all as they are stored.
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
    """One split, its cities and images in the order of their names. ValueError says which file is missing or does not
    fit."""
    home = folder / "leftImg8bit" / split_name
    there = [f"{city}/{name}" for city in list_names(home) for name in list_names(home / city)]
    names = [name for name in there if name.endswith(IMAGE_SUFFIX)]
    if others := [name for name in there if is_image(name) and not name.endswith(IMAGE_SUFFIX)]:
        warn_once(
            f"{home}: images that are passed over, for their names do not end in {IMAGE_SUFFIX}: {len(others):,} "
            f"({printable(others[0])})"
        )
    if not names:
        raise ValueError(f"{home} has no CITY/*{IMAGE_SUFFIX}: unpack {ARCHIVES} in {folder}, or set root= (and data=)")
    truth, stems = folder / "gtFine" / split_name, [name.removesuffix(IMAGE_SUFFIX) for name in names]
    unknown = np.zeros((len(names), 2), np.int64)
    kind = next(
        (k for k in MASK_BYTES if any(n.endswith(f"_{k}.png") for n in list_names(truth / Path(stems[0]).parent))), None
    )
    if kind is None:
        raise ValueError(f"{truth} has no CITY/*_gtFine_labelIds.png: unpack {ARCHIVES} in {folder}")
    maps = [f"{stem}_gtFine_{kind}.png" for stem in stems]
    every = [f"{city}/{name}" for city in list_names(truth) for name in list_names(truth / city)]
    if alone := [name for name in every if name.endswith(f"_gtFine_{kind}.png") and name not in set(maps)]:
        warn_once(f"{truth}: label maps without an image are left out: {len(alone):,} ({printable(alone[0])})")
    masks = ImageFiles(truth, maps, unknown, exif, is_mask=True).with_scans()
    images = ImageFiles(home, names, masks.sizes_N2, exif).with_scans()
    split = Split(images, MaskFiles(masks, class_table(MASK_BYTES[kind])))
    return split if size is None else Split(DownscaledImages(split.images, size), DownscaledImages(split.maps, size))


def class_table(labels: list[int]) -> Tensor:
    """(256,) uint8: the class of each byte of a mask whose classes have these labels."""
    class_256 = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
    class_256[labels] = torch.arange(len(labels), dtype=torch.uint8)
    return class_256
