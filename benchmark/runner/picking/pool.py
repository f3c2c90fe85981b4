"""The pool that `pick` chooses from: the task's own images, which are labelled, and the unlabelled files.

Shapes: N images of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from benchmark.api import ExtendsPool, FromFiles, ImageLabel, Indices, Machine, Task
from benchmark.experiment.pick_settings import PickSettings
from benchmark.experiment.spec import Spec
from benchmark.plugins.paths import parse_paths
from benchmark.plugins.registry import Plugin
from benchmark.runner.picking.formats import read_picked_names
from benchmark.runner.picking.labels import read_labels
from benchmark.runner.picking.sources import UnlabelledFiles, find_path
from benchmark.runner.task_loading import build_task
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import plural
from benchmark.vision.data.image_checks import BadImagesError
from benchmark.vision.data.regular_files import printable
from benchmark.vision.image_pool import ImagePool


@dataclass(frozen=True)
class PickPool:
    """A task whose pool holds the labelled images first, then the unlabelled files."""

    task: Task
    files: UnlabelledFiles  # the end of the pool
    labelled: Indices  # positions in the pool
    unavailable: Indices  # positions of images that need no label: picked earlier, or equal to another image
    remarks: Sequence[str] = field(default_factory=list)

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes; none without labels."""
        return self.task.classes if isinstance(self.task, ExtendsPool) else ()

    @property
    def first(self) -> int:
        """The position of the first unlabelled file in the pool."""
        return self.task.num_pool - len(self.files)


def unlabelled_images(machine: Machine, paths: Sequence[Path]) -> ImagePool:
    """Builds a pool without labels, for strategies that need no model."""
    return ImagePool(machine, paths)


def unlabelled_spec() -> Spec:
    """Returns the task of a pool without labels; it is in no registry, since it cannot be run."""
    plugin = Plugin("task", unlabelled_images.__name__, unlabelled_images, 1)
    return Spec(plugin, plugin.name, {})


def build_pool(settings: PickSettings, spec: Spec | None, files: UnlabelledFiles, machine: Machine) -> PickPool:
    """Builds the pool.

    Args:
        settings: the settings.
        spec: the task whose pool is labelled; None for no labels.
        files: the unlabelled files.
        machine: where the task runs.

    Raises:
        ValueError: files, labels or earlier picks do not fit, and on_error is not skip.
    """
    base, remarks = None if spec is None else load_task(spec, machine), list[str]()
    names = read_picked(settings, files, base, machine.data)
    try:
        task, labelled_files = extend_task(settings, base, files, machine)
    except BadImagesError as error:
        if settings.on_error == "refuse":
            raise ValueError(f"{error}; or set on_error=skip to leave them out") from error
        remarks.append(f"on_error=skip: {error}")
        if len(error.positions) == len(files):
            raise ValueError(f"unlabelled={settings.unlabelled}: none of its images can be read: {error}") from error
        files = files.without(error.positions)
        task, labelled_files = extend_task(settings, base, files, machine)
    first = task.num_pool - len(files)
    labelled = np.concatenate([np.arange(first), first + labelled_files])
    picked = {position for name in names if (position := files.find(name)) is not None}
    pending = first + np.setdiff1d(np.array(sorted(picked), np.int64), labelled_files)
    if len(pending):
        remarks.append(f"picked earlier and not labelled yet, so not picked again: {plural(len(pending), 'image')}")
    copies, lines = find_copies(task, files, np.concatenate([labelled, pending]))
    return PickPool(task, files, labelled, np.union1d(pending, copies), [*remarks, *lines])


def load_task(spec: Spec, machine: Machine) -> Task:
    """Builds the task whose pool is labelled. ValueError where that fails for a reason that the user can mend."""
    task = build_task(spec, machine)
    if isinstance(task, ValueError):
        raise ValueError(f"{spec.label}: {task}") from task
    if isinstance(task, Exception):
        raise task
    if not isinstance(task, ExtendsPool):
        raise ValueError(f"task={spec.label}: files cannot be added to its pool: it must have the method with_images")
    return task


def extend_task(
    settings: PickSettings, base: Task | None, files: UnlabelledFiles, machine: Machine
) -> tuple[Task, Indices]:
    """Returns the task with the files at the end of its pool, and the positions of the files that have labels."""
    with isolate_plugin("task", seed("global build", "pick")), activity.stage("loading unlabelled images"):
        if base is None:
            return cast(Task, ImagePool(machine, files.paths)), np.empty(0, np.int64)
        assert isinstance(base, ExtendsPool)
        labels = dict[int, ImageLabel]()
        if settings.labelled:
            skip = settings.on_error == "skip"
            labels = read_labels(settings.labelled, files, base.classes, machine.data, skip=skip)
        return base.with_images(files.paths, labels), np.array(sorted(labels), np.int64)


def read_picked(settings: PickSettings, files: UnlabelledFiles, base: Task | None, data: Path | None) -> list[str]:
    """Reads which images were picked earlier.

    An image that is no longer where it was picked may have been moved into the folder of its class: then a labelled
    image of the task has its name.

    Raises:
        ValueError: an image has vanished, and on_error is not skip.
    """
    if not settings.picked:
        return []
    names, vanished = list[str](), list[str]()
    labelled_names = {Path(name).name for name, _ in source_files(base, "pool")} if base is not None else set()
    for source in parse_paths(settings.picked, f"picked={settings.picked}"):
        for name in read_picked_names(path := find_path(source, "picked", data)):
            if files.find(name) is not None:
                names.append(name)
            elif Path(name).name not in labelled_names:
                vanished.append(f"{path} names {printable(name)}")
    if vanished and settings.on_error == "refuse":
        more = f" (and {len(vanished) - 1:,} more)" if len(vanished) > 1 else ""
        raise ValueError(
            f"{vanished[0]}{more}, which is not in unlabelled={settings.unlabelled} any more, and no labelled image "
            "has that name: restore it, or set on_error=skip"
        )
    return names


def source_files(task: Task, part: str) -> Sequence[tuple[str, str]]:
    """Returns the file and the pixel hash of each image of the "pool" or the "test" set; none where not in files."""
    return task.source_files().get(part, []) if isinstance(task, FromFiles) else []


def find_copies(task: Task, files: UnlabelledFiles, known: Indices) -> tuple[Indices, list[str]]:
    """Finds the files that need no label, because they equal another image to the pixel.

    Args:
        task: the task, with the files at the end of its pool.
        files: the files.
        known: positions in the pool of images that are labelled, or will be.

    Returns:
        Their positions in the pool, and sentences on how many there are.
    """
    hashes = [""] * task.num_pool  # "" for images that are in no file: then those in files are the last ones
    if sources_of_pool := source_files(task, "pool"):
        hashes[-len(sources_of_pool) :] = [pixel_hash for _, pixel_hash in sources_of_pool]
    sources = dict.fromkeys((pixel_hash for _, pixel_hash in source_files(task, "test")), "a test image")
    sources |= dict.fromkeys((hashes[position] for position in known.tolist()), "an image that is labelled or picked")
    copies, known_positions = dict[int, str](), set(known.tolist())
    for position in range(task.num_pool - len(files), task.num_pool):
        if position not in known_positions and hashes[position]:
            if (other := sources.get(hashes[position])) is not None:
                copies[position] = other
            sources.setdefault(hashes[position], "another unlabelled image")
    lines = [
        f"equal to the pixel to {other}, so not picked: {plural(list(copies.values()).count(other), 'image')}"
        for other in dict.fromkeys(copies.values())
    ]
    return np.array(list(copies), np.int64), lines
