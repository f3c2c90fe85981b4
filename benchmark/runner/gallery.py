"""What figures need beside the records: labels of the pool, small pictures and features, kept with a finished run.

    gallery/EXPERIMENT.npz    arrays alone: read without pickle, and without torch

Written when the last cell of an experiment is through, for people: no strategy sees it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import torch

from benchmark.api import Annotations, Indices, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment
from benchmark.experiment.variants import ORDINARY
from benchmark.records.store import Store
from benchmark.runner import loop
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launch import Event, Failure, Round, TaskLoader, save_sources
from benchmark.seeds import seed
from benchmark.system import files
from benchmark.system.digests import digest
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import error_message, slug

THUMBNAIL_SIDE = 64  # pixels of a small picture, at most
NUM_FIRST = 8  # images of each purchase that are shown whatever their number
NUM_SHOWN = 200  # images with a picture and features, at most, but for those
NUM_RANDOM = 120  # of them drawn from the pool at random


def update_galleries(
    experiments: Sequence[Experiment], store: Store, fits: FitCache, tasks: TaskLoader
) -> Iterator[str]:
    """Writes the galleries of the experiments that have records, and yields why one cannot be written.

    One that is there is written again where it was made from other records than there are.
    """
    for experiment in experiments:
        ordinary = (cell for cell in experiment.cells() if cell.variant == ORDINARY)
        cells = [cell for cell in ordinary if store.path(cell.path).exists()]
        cells = [cell for cell in cells if cell.seed == cells[0].seed]
        path = store.folder / "gallery" / f"{slug(experiment.name)}.npz"
        try:
            if not cells or read_records_digest(path) == records_digest(cells, store):
                continue
            task = tasks(experiment.task)
            if not isinstance(task, Exception):
                check_data(task, cells[0], store)
                save_sources(experiment.task, task, store)  # under Ray, the first time that this process has the task
            with isolate_plugin(experiment.task.label, seed("global picture", experiment.name)):
                write_gallery(path, task, cells, store, fits)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pictures are no reason to fail a run that is through
            reason = error_message(error) or "no reason given"
            yield f"{experiment.name}: no images in the report: {reason} ({type(error).__name__})"


def records_digest(cells: Sequence[Cell], store: Store) -> str:
    """A digest of the records of some cells."""
    paths = sorted(cell.path for cell in cells)
    content = [hashlib.sha256(files.read_file(store.path(path), files.MAX_RECORDS_BYTES)).hexdigest() for path in paths]
    return hashlib.sha256(json.dumps([paths, content]).encode()).hexdigest()


def read_records_digest(path: Path) -> str | None:
    """The `records_of` the cells that a gallery was made from; None where it does not tell, is damaged or cannot be
    read."""
    try:
        with files.open_file(path) as handle, np.load(handle, allow_pickle=False) as archive:
            if sum(one.file_size for one in archive.zip.infolist()) > files.MAX_FILE_BYTES:
                return None
            content = {name: archive[name] for name in archive.files if name not in ("digest", "records")}
            is_sound = str(archive["digest"]) == digest(path.stem, content)
            return str(archive["records"]) if is_sound else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error):
        return None


def check_data(task: Task, cell: Cell, store: Store) -> None:
    """ValueError where a cell's records are of other data than the task has now."""
    header = store.header(cell.path)
    if header is not None and header.data != task.fingerprint:
        raise ValueError("the records are of other data than there are now")


def write_gallery(path: Path, task: Task | Exception, cells: Sequence[Cell], store: Store, fits: FitCache) -> None:
    """Writes one gallery, where the task can tell what its images look like."""
    if hasattr(task, "annotations") and hasattr(task, "pictures"):
        records = records_digest(cells, store)
        write_npz(path, gallery_arrays(task, cells, store, fits), records)


def call_when_finished(
    events: Iterable[Event],
    experiments: Sequence[Experiment],
    rounds_left: Iterable[Cell],
    on_finished: Callable[[Experiment], object],
) -> Iterator[Event]:
    """Passes events on, and calls `ended` with an experiment when the last of its cells is through: its task is still
    built then, and need not be built again at the end."""
    todo = set(rounds_left)
    waiting = [(experiment, todo.intersection(experiment.cells())) for experiment in experiments]
    for event in events:
        yield event
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            for experiment, cells in waiting:
                if event.cell in cells:
                    cells.remove(event.cell)
                    if not cells:
                        on_finished(experiment)


def gallery_arrays(task: Any, cells: Sequence[Cell], store: Store, fits: FitCache) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one experiment, of the cells of one seed."""
    bought = [np.array(record.bought, np.int64) for cell in cells for record in store.records(cell.path)[1]]
    shown_N = choose_images(bought, task.num_pool, seed("gallery", cells[0].task.name))
    thumbs_NHW3, boxes = task.pictures(shown_N, THUMBNAIL_SIDE)
    drawn = [[number, *corners] for number, corners_K4 in enumerate(boxes) for corners in corners_K4]
    return {
        **label_arrays(task.annotations(), task.num_pool),
        "shown_N": shown_N,
        "thumbs_NHW3": thumbs_NHW3,
        "drawn_K5": np.array(drawn, np.float32).reshape(-1, 5),
        "features_ND": gallery_features(task, cells, fits, shown_N),
    }


def choose_images(purchases: Sequence[Indices], num_pool: int, seed: int) -> Indices:
    """(N,): which images are shown: the first of each purchase, then others that were bought, then any, ascending."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([one[:NUM_FIRST] for one in purchases])
    everything = np.unique(np.concatenate(purchases))
    others = rng.permutation(np.setdiff1d(everything, first))[: max(0, NUM_SHOWN - NUM_RANDOM)]
    shown_N: Indices = np.unique(np.concatenate([first, others, rng.permutation(num_pool)[:NUM_RANDOM]]))
    return shown_N


def label_arrays(annotations: Annotations, num_pool: int) -> dict[str, npt.NDArray[Any]]:
    """A class an image, or class and size of each box."""
    none = np.empty(0, np.int64)
    found: dict[str, npt.NDArray[Any]] = {"classes_C": np.array(annotations.classes, np.str_)}
    if annotations.side_L is None:
        by_image = np.full(num_pool, -1, np.int64)
        by_image[annotations.image_L] = annotations.class_L
        return {**found, "labels_P": by_image, "box_image_M": none, "box_class_M": none, "box_side_M": none}
    sides_M = annotations.side_L.astype(np.float32)
    return {
        **found,
        "labels_P": none,
        "box_image_M": annotations.image_L,
        "box_class_M": annotations.class_L,
        "box_side_M": sides_M,
    }


def gallery_features(task: Task, cells: Sequence[Cell], fits: FitCache, shown_N: Indices) -> npt.NDArray[np.float16]:
    """(N, D): features of the model of round 0, which all strategies share; (N, 0) where it is not in the cache."""
    for cell in cells:
        number, companion, owner = loop.fit_inputs(cell, 0)
        path = fits.path(task, cell.task, loop.draw_initial(cell, task).initial, number, owner)
        fitted = fits.lookup(path, task, companion)
        if fitted is not None and hasattr(task, "embed"):
            parts = [task.embed(fitted.model, shown_N[i : i + 256]) for i in range(0, len(shown_N), 256)]
            return torch.cat(parts).half().cpu().numpy()
    return np.empty((len(shown_N), 0), np.float16)


def write_npz(path: Path, content: dict[str, npt.NDArray[Any]], records: str = "") -> None:
    """Writes an .npz with digests, compressed as fast as can be: numpy's own way takes five times as long. Raises
    Unwritable.

    Args:
        path: gallery/EXPERIMENT.npz below a results folder.
        content: the arrays by name.
        records: `records_of` the cells that they were made from.
    """
    packed, digests = io.BytesIO(), {"digest": digest(path.stem, content), "records": records}
    with ZipFile(packed, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in {**content, **{name: np.array(text) for name, text in digests.items()}}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)  # type: ignore[no-untyped-call]
    files.write_atomically(path, packed.getvalue(), path.parents[1])
