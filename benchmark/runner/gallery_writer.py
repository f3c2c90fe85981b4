"""What figures need beside the records: labels of the pool, thumbnails and features, stored with a finished run.

    gallery/EXPERIMENT.npz    arrays only: read without pickle and without torch

Written after the last cell of an experiment, for people: no strategy sees it.
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
from benchmark.runner.acquisition import draw_initial
from benchmark.runner.events import Event, Failure, Round
from benchmark.runner.fit_cache import FitCache, fit_inputs
from benchmark.runner.record_checks import save_task_sources
from benchmark.runner.task_loading import TaskLoader
from benchmark.seeds import seed
from benchmark.system import files
from benchmark.system.digests import digest
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import error_message, slug

THUMBNAIL_SIDE = 64  # pixels, at most
NUM_FIRST = 8  # images of each purchase that are always shown
NUM_SHOWN = 200  # further images that are shown, with thumbnail and features
NUM_RANDOM = 120  # of NUM_SHOWN, images drawn from the pool at random


def update_galleries(
    experiments: Sequence[Experiment], store: Store, fits: FitCache, tasks: TaskLoader
) -> Iterator[str]:
    """Writes the galleries of experiments that have records, and yields why one cannot be written.

    An existing gallery is written again if the records have changed since.
    """
    for experiment in experiments:
        cells = cells_of_lowest_seed(experiment, store)
        path = store.folder / "gallery" / f"{slug(experiment.name)}.npz"
        try:
            if not cells or read_records_digest(path) == records_digest(cells, store):
                continue
            task = tasks(experiment.task)
            if not isinstance(task, Exception):
                check_data(task, cells[0], store)
                save_task_sources(experiment.task, task, store)
            with isolate_plugin(experiment.task.label, seed("global picture", experiment.name)):
                write_gallery(path, task, cells, store, fits)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pictures are no reason to fail a complete run
            reason = error_message(error) or "no reason given"
            yield f"{experiment.name}: no images in the report: {reason} ({type(error).__name__})"


def cells_of_lowest_seed(experiment: Experiment, store: Store) -> list[Cell]:
    """Returns the cells of the first seed that has records: those that figures show."""
    ordinary = (cell for cell in experiment.cells() if cell.variant == ORDINARY)
    cells = [cell for cell in ordinary if store.path(cell.path).exists()]
    return [cell for cell in cells if cell.seed == cells[0].seed]


def records_digest(cells: Sequence[Cell], store: Store) -> str:
    """Returns a digest of the records of some cells."""
    paths = sorted(cell.path for cell in cells)
    content = [hashlib.sha256(files.read_file(store.path(path), files.MAX_RECORDS_BYTES)).hexdigest() for path in paths]
    return hashlib.sha256(json.dumps([paths, content]).encode()).hexdigest()


def read_records_digest(path: Path) -> str | None:
    """Returns the `records_digest` that a gallery was made from; None where it has none, is damaged or unreadable."""
    try:
        with files.open_file(path) as handle, np.load(handle, allow_pickle=False) as archive:
            if sum(member.file_size for member in archive.zip.infolist()) > files.MAX_FILE_BYTES:
                return None
            content = {name: archive[name] for name in archive.files if name not in ("digest", "records")}
            is_sound = str(archive["digest"]) == digest(path.stem, content)
            return str(archive["records"]) if is_sound else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error):
        return None


def check_data(task: Task, cell: Cell, store: Store) -> None:
    """Raises ValueError where a cell's records were made with other data than the task has now."""
    header = store.header(cell.path)
    if header is not None and header.data != task.fingerprint:
        raise ValueError("the records were made with other data than there are now")


def write_gallery(path: Path, task: Task | Exception, cells: Sequence[Cell], store: Store, fits: FitCache) -> None:
    """Writes one gallery, if the task can show its images and labels."""
    if hasattr(task, "annotations") and hasattr(task, "pictures"):
        records = records_digest(cells, store)
        write_npz(path, gallery_arrays(task, cells, store, fits), records)


def call_when_finished(
    events: Iterable[Event],
    experiments: Sequence[Experiment],
    rounds_left: Iterable[Cell],
    on_finished: Callable[[Experiment], object],
) -> Iterator[Event]:
    """Passes events on, and calls `on_finished` with an experiment after the last of its cells.

    The experiment's task is still in memory then, and need not be built again at the end of the run.
    """
    unfinished = set(rounds_left)
    waiting_for = [(experiment, unfinished.intersection(experiment.cells())) for experiment in experiments]
    for event in events:
        yield event
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            for experiment, cells in waiting_for:
                if event.cell in cells:
                    cells.remove(event.cell)
                    if not cells:
                        on_finished(experiment)


def gallery_arrays(task: Any, cells: Sequence[Cell], store: Store, fits: FitCache) -> dict[str, npt.NDArray[Any]]:
    """Returns the arrays of one experiment, for the cells of one seed."""
    bought = [np.array(record.bought, np.int64) for cell in cells for record in store.records(cell.path)[1]]
    shown_N = choose_images(bought, task.num_pool, seed("gallery", cells[0].task.name))
    thumbs_NHW3, boxes = task.pictures(shown_N, THUMBNAIL_SIDE)
    box_rows = [[number, *corners] for number, corners_K4 in enumerate(boxes) for corners in corners_K4]
    return {
        **label_arrays(task.annotations(), task.num_pool),
        "shown_N": shown_N,
        "thumbs_NHW3": thumbs_NHW3,
        "drawn_K5": np.array(box_rows, np.float32).reshape(-1, 5),
        "features_ND": gallery_features(task, cells, fits, shown_N),
    }


def choose_images(purchases: Sequence[Indices], num_pool: int, seed: int) -> Indices:
    """(N,): the images to show, ascending: the first of each purchase, others that were bought, and random ones."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([bought[:NUM_FIRST] for bought in purchases])
    everything = np.unique(np.concatenate(purchases))
    others = rng.permutation(np.setdiff1d(everything, first))[: max(0, NUM_SHOWN - NUM_RANDOM)]
    shown_N: Indices = np.unique(np.concatenate([first, others, rng.permutation(num_pool)[:NUM_RANDOM]]))
    return shown_N


def label_arrays(annotations: Annotations, num_pool: int) -> dict[str, npt.NDArray[Any]]:
    """Returns the class of each image, or the class, size and overlap of each box."""
    empty = np.empty(0, np.int64)
    arrays: dict[str, npt.NDArray[Any]] = {"classes_C": np.array(annotations.classes, np.str_)}
    if annotations.side_L is None:
        by_image = np.full(num_pool, -1, np.int64)
        by_image[annotations.image_L] = annotations.class_L
        return {**arrays, "labels_P": by_image, "box_image_M": empty, "box_class_M": empty, "box_side_M": empty}
    sides_M = annotations.side_L.astype(np.float32)
    if annotations.overlap_L is not None:
        arrays["box_overlap_M"] = annotations.overlap_L.astype(np.float32)
    arrays |= {"box_image_M": annotations.image_L, "box_class_M": annotations.class_L, "box_side_M": sides_M}
    return {**arrays, "labels_P": empty}


def gallery_features(task: Task, cells: Sequence[Cell], fits: FitCache, shown_N: Indices) -> npt.NDArray[np.float16]:
    """(N, D): features of the model of round 0, which all strategies share; (N, 0) where it is not in the cache."""
    for cell in cells:
        fit_seed, companion, owner = fit_inputs(cell, 0)
        path = fits.path(task, cell.task, draw_initial(cell, task).initial, fit_seed, owner)
        fit = fits.lookup(path, task, companion)
        if fit is not None and hasattr(task, "embed"):
            parts = [task.embed(fit.model, shown_N[i : i + 256]) for i in range(0, len(shown_N), 256)]
            return torch.cat(parts).half().cpu().numpy()
    return np.empty((len(shown_N), 0), np.float16)


def write_npz(path: Path, content: dict[str, npt.NDArray[Any]], records: str = "", root: Path | None = None) -> None:
    """Writes an .npz file with digests, with the fastest compression: numpy's own function takes five times as long.

    Args:
        path: in a results folder.
        content: the arrays by name.
        records: the `records_digest` of the cells that they were made from.
        root: the results folder; None: of a path gallery/EXPERIMENT.npz in it.

    Raises:
        StoreWriteError: the file cannot be written.
    """
    packed, digests = io.BytesIO(), {"digest": digest(path.stem, content), "records": records}
    with ZipFile(packed, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in {**content, **{name: np.array(text) for name, text in digests.items()}}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)  # type: ignore[no-untyped-call]
    files.write_atomically(path, packed.getvalue(), root or path.parents[1])
