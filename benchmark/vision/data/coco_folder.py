"""The folder of COCO or of a data set in its format: where it is, its pool and its test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from benchmark.api import Machine, Requirement
from benchmark.vision.data.annotations import LayoutError, Split
from benchmark.vision.data.coco_json import locate_splits
from benchmark.vision.data.image_checks import read_all
from benchmark.vision.data.layouts import suggest_parameters
from benchmark.vision.data.requirements import missing_data
from benchmark.vision.data.splitting import check_disjoint, drop_empty_images, pool_test_split

SITE = "http://images.cocodataset.org"
ARCHIVE_URLS = f"{SITE}/zips/train2017.zip, {SITE}/zips/val2017.zip and {SITE}/annotations/annotations_trainval2017.zip"
DEFAULT_ROOT = "coco"
# Takes a JSON file and the folder of its images; returns them with the names of the classes.
ReadSplit: TypeAlias = Callable[[Path, Path], tuple[Split, list[str]]]


@dataclass(frozen=True)
class CocoFolder:
    """The parameters of a task that say where its data are.

    Args:
        root: the folder of the data set: absolute, or inside the data folder.
        train: the split that is the pool.
        test: the split that is the test set.
        images: the folder of the images, inside `root`; SPLIT in it stands for the name of the split.
        annotations: the JSON file, inside `root`, with SPLIT likewise.
        split: the share of `train` that becomes the test set; None uses `test`.
        filter_empty: "oracle" takes images without boxes out of the pool.
    """

    root: str
    train: str
    test: str
    images: str
    annotations: str
    split: float | None
    filter_empty: Literal["none", "oracle"]

    def read(
        self, machine: Machine, read_split: ReadSplit, *, suggests_boxes: bool = True
    ) -> tuple[Split, Split, list[str], Path]:
        """Reads the pool and the test set.

        Args:
            machine: has the data folder.
            read_split: reads one JSON file and its images.
            suggests_boxes: whether a message on missing files may suggest tasks that read boxes alone.

        Returns:
            The pool, the test set, the names of the classes and the folder.

        Raises:
            ValueError: files are missing or cannot be read, or the splits overlap or have different categories.
        """
        folder = self.resolve_root(machine)
        try:
            paths = locate_splits(folder, self.train, self.test, self.images, self.annotations, self.split)
            splits = read_all(*(partial(read_split, path, image_folder) for path, image_folder in paths))
        except LayoutError as error:
            advice = self.fallback_advice(folder)
            if suggests_boxes:
                raise ValueError(f"{error}. {suggest_parameters(folder, self.root, advice)}") from None
            raise ValueError(f"{error}; {advice}") from None
        (first_split, names), test_names = splits[0], [names for _, names in splits[1:]]
        if test_names and names != test_names[0]:
            differing = sorted(set(names) ^ set(test_names[0]))
            difference = f"only one of them has {differing[0]!r}" if differing else "their order differs"
            raise ValueError(f"{paths[1][0]} has other categories than {paths[0][0]}: {difference}")
        share = self.split
        pool, tests = (first_split, splits[1][0]) if share is None else pool_test_split(first_split, share)
        check_disjoint(pool, tests)
        return drop_empty_images(pool) if self.filter_empty == "oracle" else pool, tests, names, folder

    def resolve_root(self, machine: Machine) -> Path:
        """The folder of the data set. Raises ValueError without a data folder; the message says where to get the
        data."""
        try:
            return machine.resolve_path(self.root)
        except ValueError as error:
            raise ValueError(f"{error}, and unpack {ARCHIVE_URLS} into {self.root}/ there") from None

    def fallback_advice(self, folder: Path) -> str:
        """What to do if the folder cannot be read: get COCO, or set parameters if the user has named a folder."""
        if self.root == DEFAULT_ROOT:
            return f"for COCO itself, unpack {ARCHIVE_URLS} into {folder}"
        return "set root=, annotations=, images= (SPLIT in them stands for train= and test=), or split=0.2 for one file"


def missing_coco(machine: Machine, label: str, root: str) -> Iterator[Requirement]:
    """Yields COCO, or the user's own data set in its format, if it is not there.

    Args:
        machine: has the data folder.
        label: what a data set of the user's own is called.
        root: the folder of the data set: absolute, or inside the data folder.
    """
    if root == DEFAULT_ROOT:
        yield from missing_data(machine, "COCO 2017", root, ARCHIVE_URLS)
    else:
        yield from missing_data(machine, label, root, "")
