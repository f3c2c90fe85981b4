"""Oxford-IIIT Pet (Parkhi et al., Cats and Dogs, CVPR 2012)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark.api import Machine, Requirement, register_task
from benchmark.vision.classification import (
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.annotation_values import read_text
from benchmark.vision.data.download import load_or_download
from benchmark.vision.data.image_checks import read_all
from benchmark.vision.data.image_files import Exif
from benchmark.vision.data.requirements import missing_data

FOLDER = "oxford-iiit-pet"  # torchvision's name for it
URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz and annotations.tar.gz"
# image with breed, number of the breed, species, number within the species
LINE_PATTERN = re.compile(r"((\w+)_\d+) (\d{1,9}) [12] \d+")
DEFAULT = Recipe(
    model="torchvision:resnet50",
    weights="default",
    epochs=50,
    batch_size=64,
    lr=0.01,
    weight_decay=1e-4,
    pad=28,
    normalise="imagenet",
)


def missing_requirements(machine: Machine, recipe: Recipe, **parameters: object) -> Iterator[Requirement]:
    """Yields the data set if it is not there; see `register_task`."""
    return missing_data(
        machine, "Oxford-IIIT Pet", ".", URL, is_there=lambda folder: (folder / FOLDER).is_dir(), downloads=True
    )


@register_task(
    version=1,
    default=DEFAULT,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=missing_requirements,
)
def oxford_pet(machine: Machine, recipe: Recipe, *, size: int = 224, exif: Exif = "turn") -> Classification:
    """3,680 + 3,669 photographs (trainval, test) of cats and dogs, 37 breeds; downloaded into the data folder (811 MB).

    Images are resized to `size` x `size` pixels (bilinear, antialiased) and kept in memory (1.1 GB at 224), in the
    order of annotations/trainval.txt and test.txt. The default recipe fine-tunes torchvision's ResNet-50, whose
    ImageNet weights are downloaded on first use. It is not from a paper: GEAL reports 93.13 % with all labels, but its
    recipe is not known.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.
        size: Height and width of the images in pixels.
        exif: "turn" turns photographs as their EXIF tags say; "ignore" leaves them as they are stored.

    Raises:
        ValueError: Files are missing and cannot be downloaded, a line or images cannot be read, or the classes of pool
            and test set differ.
    """
    if size < 1:
        raise ValueError(f"oxford_pet[size={size}]: must be at least 1")
    folder = prepare_folder(machine)
    pool, test = (read_list(folder, part) for part in ("trainval", "test"))
    classes, test_classes = (dict(sorted((entry.label, entry.breed) for entry in part)) for part in (pool, test))
    if classes != test_classes or list(classes) != list(range(1, len(classes) + 1)):
        raise ValueError(f"{folder / 'annotations'}: trainval.txt and test.txt must have the same classes, 1, 2, ...")
    names = list(classes.values())
    photographs, tests = read_all(*(partial(load_split, part, size, exif) for part in (pool, test)))
    return build_task(machine, recipe, photographs, tests, num_classes=len(names), classes=names, root=folder)


@dataclass(frozen=True)
class ListEntry:
    """An image, the number of its class (from 1) and the name of that class."""

    path: Path
    label: int
    breed: str


def load_split(entries: Sequence[ListEntry], size: int, exif: Exif) -> Split:
    """Loads the images; their labels count from 0."""
    return Split.from_files([entry.path for entry in entries], [entry.label - 1 for entry in entries], size, exif)


def prepare_folder(machine: Machine) -> Path:
    """Downloads and unpacks the data set if needed, and returns its folder."""
    from torchvision.datasets import OxfordIIITPet  # imported here because it takes a second

    data = machine.resolve_path(".")
    folder = data / FOLDER
    if not all((folder / part).is_dir() for part in ("images", "annotations")):
        load_or_download(partial(OxfordIIITPet, data), folder, URL)
    return folder


def read_list(folder: Path, split_name: str) -> list[ListEntry]:
    """Reads annotations/SPLIT_NAME.txt. Raises ValueError for a bad line or a missing image."""
    path, entries = folder / "annotations" / f"{split_name}.txt", list[ListEntry]()
    if not path.is_file():
        raise ValueError(f"no such file: {path}: delete {path.parent} to download it again")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = LINE_PATTERN.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: {line!r:.60} is not BREED_NUMBER CLASS SPECIES NUMBER")
        image = folder / "images" / f"{match[1]}.jpg"
        if not image.is_file():
            raise ValueError(
                f"no such file: {image}, which {path.name} lists: delete {image.parent} to download it again"
            )
        entries.append(ListEntry(image, int(match[3]), match[2]))
    return entries
