"""Oxford-IIIT Pet (Parkhi et al., Cats and Dogs, CVPR 2012)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark.api import Machine, register_task
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

FOLDER = "oxford-iiit-pet"  # torchvision's name for it
URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz and annotations.tar.gz"
LINE_PATTERN = re.compile(
    r"((\w+)_\d+) (\d{1,9}) [12] \d+"
)  # image, breed; its number; cat or dog, its number among those
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


@register_task(version=1, default=DEFAULT, missing_capabilities=missing_capabilities, check=check_weights)
def oxford_pet(machine: Machine, recipe: Recipe, *, size: int = 224, exif: Exif = "turn") -> Classification:
    """3,680 + 3,669 photographs (trainval, test) of cats and dogs, 37 breeds; downloaded into the data folder (811 MB).

    Images are squashed to `size` x `size` pixels (bilinear, antialiased) and kept in memory (1.1 GB at 224), in the
    order of annotations/trainval.txt and test.txt. The default recipe fine-tunes a ResNet-50 of torchvision, whose
    ImageNet weights are downloaded when first used. It is no paper's: GEAL's (93.13 % with all labels) is not known.
    exif: turn turns photographs as their EXIF tags say; ignore leaves them as they are stored.
    Raises ValueError for missing files, a line or images that cannot be read, and classes that differ.
    """
    if size < 1:
        raise ValueError(f"oxford_pet[size={size}]: must be at least 1")
    folder = prepare_folder(machine)
    pool, test = (read_list(folder, part) for part in ("trainval", "test"))
    classes, others = (dict(sorted((one.label, one.breed) for one in part)) for part in (pool, test))
    if classes != others or list(classes) != list(range(1, len(classes) + 1)):
        raise ValueError(f"{folder / 'annotations'}: trainval.txt and test.txt must have the same classes, 1, 2, ...")
    names = list(classes.values())
    photographs, tests = read_all(*(partial(load_split, part, size, exif) for part in (pool, test)))
    return build_task(machine, recipe, photographs, tests, num_classes=len(names), classes=names, root=folder)


@dataclass(frozen=True)
class ListEntry:
    """An image, the number of its class (from 1 on) and that class's name."""

    path: Path
    label: int
    breed: str


def load_split(entries: Sequence[ListEntry], size: int, exif: Exif) -> Split:
    """The images themselves, and their classes from 0 on."""
    return Split.from_files([one.path for one in entries], [one.label - 1 for one in entries], size, exif)


def prepare_folder(machine: Machine) -> Path:
    """The data set's folder, downloaded and unpacked first where it is not there."""
    from torchvision.datasets import OxfordIIITPet  # torchvision takes a second: only where it is used

    data = machine.resolve_path(".")
    folder = data / FOLDER
    if not all((folder / part).is_dir() for part in ("images", "annotations")):
        load_or_download(partial(OxfordIIITPet, data), folder, URL)
    return folder


def read_list(folder: Path, split_name: str) -> list[ListEntry]:
    """What annotations/PART.txt lists."""
    path, images = folder / "annotations" / f"{split_name}.txt", []
    if not path.is_file():
        raise ValueError(f"no such file: {path}: delete {path.parent} to have it anew")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = LINE_PATTERN.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: {line!r:.60} is not BREED_NUMBER CLASS SPECIES NUMBER")
        image = folder / "images" / f"{match[1]}.jpg"
        if not image.is_file():
            raise ValueError(f"no such file: {image}, which {path.name} lists: delete {image.parent} to have it anew")
        images.append(ListEntry(image, int(match[3]), match[2]))
    return images
