"""Stores the features of a pool by the models of a round, for maps of the pool in the report.

    gallery/round-4/EXPERIMENT.npz    arrays only: read without pickle and without torch

Written after a run with `embed_round=4`, of the models that are still in the cache of fits: nothing is trained for it.

Shapes: N images, D features, M models, A strategies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Indices
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment
from benchmark.records.store import Store
from benchmark.runner.fit_cache import Fit, FitCache, fit_inputs
from benchmark.runner.gallery_writer import cells_of_lowest_seed, check_data, write_npz
from benchmark.runner.task_loading import TaskLoader
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import error_message, slug

MAX_IMAGES = 50_000  # of larger pools: what was bought, and others at random
NUM_COMPONENTS = 50  # principal components that are kept, as is usual before t-SNE
PART = 256  # images that are embedded together


def write_embeddings(
    experiments: Sequence[Experiment], number: int, store: Store, fits: FitCache, tasks: TaskLoader
) -> Iterator[str]:
    """Writes the features by the models of a round for each experiment, and yields what is missing.

    Args:
        experiments: the experiments of a run.
        number: the round.
        store: the records.
        fits: the models that are kept.
        tasks: the tasks.
    """
    for experiment in experiments:
        cells = cells_of_lowest_seed(experiment, store)
        purchases = {cell: read_purchases(cell, store) for cell in cells}
        cells = [cell for cell in cells if len(purchases[cell]) > number]
        task = tasks(experiment.task) if cells else None
        if task is None or isinstance(task, Exception) or not hasattr(task, "embed"):
            yield f"{experiment.name}: no map of the pool: no cell has round {number}, or the task no features"
            continue
        try:
            check_data(task, cells[0], store)
            with isolate_plugin(experiment.task.label, seed("global embeddings", experiment.name)):
                arrays, lost = embed_pool(task, {cell: purchases[cell] for cell in cells}, number, fits)
            if lost:
                labels = ", ".join(lost)
                yield f"{experiment.name}: no map of round {number}, whose model is no longer kept in .fits: {labels}"
            if arrays:
                folder = store.folder / "gallery" / f"round-{number}"
                write_npz(folder / f"{slug(experiment.name)}.npz", arrays, root=store.folder)
        except Exception as error:  # pictures are no reason to fail a complete run
            yield f"{experiment.name}: no map of the pool: {error_message(error)} ({type(error).__name__})"


def read_purchases(cell: Cell, store: Store) -> list[Indices]:
    """Reads what a cell bought in each round, the initial set first."""
    return [np.array(record.bought, np.int64) for record in store.records(cell.path)[1]]


def embed_pool(
    task: Any, purchases: Mapping[Cell, Sequence[Indices]], number: int, fits: FitCache
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Embeds the pool by each cell's model of a round; strategies that share a model share its features.

    Args:
        task: the task.
        purchases: what each cell bought in each round.
        number: the round.
        fits: the models that are kept.

    Returns:
        The arrays, {} where no model is left, and the labels of strategies whose model is not.
    """
    everything = np.concatenate([bought for rounds in purchases.values() for bought in rounds])
    positions_N = choose_positions(everything, task.num_pool, seed("embeddings", task.fingerprint))
    features, model_by_strategy, lost = dict[str, Tensor](), dict[str, int](), list[str]()
    for cell, rounds in purchases.items():
        label = cell.strategy.label
        fit_seed, companion, owner = fit_inputs(cell, number)
        path = fits.path(task, cell.task, np.concatenate(rounds[: number + 1]), fit_seed, owner)
        fit = fits.lookup(path, task, companion) if path.stem not in features else None
        if fit is not None:
            features[path.stem] = principal_components(embed_images(task, fit, positions_N, label))
        if path.stem in features:
            model_by_strategy[label] = list(features).index(path.stem)
        else:
            lost.append(label)
    if not features:
        return {}, lost
    width = min(part_ND.shape[1] for part_ND in features.values())
    stacked_MND = torch.stack([part_ND[:, :width] for part_ND in features.values()]).numpy()
    return {
        "positions_N": positions_N, "strategies_A": np.array(list(model_by_strategy), np.str_),
        "model_A": np.array(list(model_by_strategy.values()), np.int64), "features_MND": stacked_MND,
    }, lost  # fmt: skip


def choose_positions(bought: Indices, num_pool: int, seed: int) -> Indices:
    """(N,): the pool positions to embed, ascending: all; of a large pool what was bought, and others at random."""
    if num_pool <= MAX_IMAGES:
        return np.arange(num_pool)
    first = np.unique(bought)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(num_pool), first))
    chosen_N: Indices = np.unique(np.concatenate([first, others[: max(0, MAX_IMAGES - len(first))]]))
    return chosen_N


def embed_images(task: Any, fit: Fit, positions_N: Indices, label: str) -> Tensor:
    """(N, D): the features of pool images by a model, in part after part."""
    parts = np.array_split(positions_N, max(1, len(positions_N) // PART))
    tracked = activity.track(parts, f"embedding the pool by the model of {label}", "images", len(positions_N), size=len)
    return torch.cat([task.embed(fit.model, part).float().cpu() for part in tracked])


def principal_components(features_ND: Tensor) -> Tensor:
    """(N, at most NUM_COMPONENTS): the features on their first principal axes, each turned to its larger side."""
    centred_ND = features_ND.double() - features_ND.double().mean(0)
    _, axes_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)  # in ascending order
    axes_DK = axes_DD.flip(1)[:, :NUM_COMPONENTS]
    largest_1K = axes_DK.abs().argmax(0, keepdim=True)
    components_NK: Tensor = (centred_ND @ (axes_DK * axes_DK.gather(0, largest_1K).sign())).float()
    return components_NK
