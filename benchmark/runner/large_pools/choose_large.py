"""`pick` with shards=: chooses the next images to label from a pool that does not fit into memory.

The model is trained as without shards, on the labelled images. Then what the strategy stores of each unlabelled image
is written in shards, and the strategy selects from these.

Shapes: N unlabelled files, L images of the task's pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.api import Indices, Machine, ShardedPool, Task, encoder_code_hash, encoder_identity
from benchmark.experiment.cell import Cell
from benchmark.experiment.pick_settings import PickSettings
from benchmark.experiment.run_settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.plugins.capability_names import MODEL_FREE
from benchmark.plugins.paths import expand_home
from benchmark.records.versions import minor_version
from benchmark.runner.acquisition import InitialDraw, selection_seed, selection_stage
from benchmark.runner.fit_cache import FitCache, fit_round
from benchmark.runner.large_pools.describing import ImageDescriber, build_describer, extend
from benchmark.runner.large_pools.image_lists import ImageLists, describe_file
from benchmark.runner.large_pools.selecting import find_way, prepend, select_from_shards
from benchmark.runner.large_pools.shard_writer import ShardJob, ShardWorker, write_shards
from benchmark.runner.measuring import Clock, device_name
from benchmark.runner.picking.choose import ROUND, build_cell, build_pick, check_settings, predict_objects
from benchmark.runner.picking.labels import read_labels
from benchmark.runner.picking.picks import Pick, Picks
from benchmark.runner.picking.pool import PickPool, extend_task, load_task, read_picked, unlabelled_spec
from benchmark.runner.picking.sources import UnlabelledFiles, list_unlabelled
from benchmark.runner.time_limit import time_limit
from benchmark.system import activity, tensor_files
from benchmark.system.digests import digest
from benchmark.text.words import plural
from benchmark.vision.task import VisionTask

SHARD_SIZE = 4096  # images
NUM_ENCODER_IMAGES = 1024  # of the pool, that encoders are built on which are trained


@dataclass(frozen=True)
class LargePool:
    """The unlabelled files, and the images whose labels the model is trained on.

    Args:
        base: the task; None for a pool without labels.
        files: the unlabelled files.
        trained: the task with the labelled files at the end of its pool; all of its images are labelled.
        labelled_files: positions in `files` of those that have labels.
        pending: positions in `files` of those that were picked earlier and are not labelled yet.
    """

    base: Task | None
    files: UnlabelledFiles
    trained: PickPool
    labelled_files: Indices
    pending: Indices


def choose(settings: PickSettings, machine: Machine, run_settings: Settings) -> Picks:
    """Trains on the labelled images, and chooses among the unlabelled ones by way of shards.

    Args:
        settings: the settings.
        machine: where to train and to choose.
        run_settings: the settings of processes and of Ray.

    Raises:
        ValueError: a setting, a file or a label does not fit.
    """
    strategy = Spec.read("strategy", settings.strategy)
    clock, _ = Clock(), find_way(strategy)
    spec = Spec.read("task", settings.task) if settings.task else None
    check_settings(settings, strategy, spec, machine)
    pool = build_large_pool(settings, spec, list_unlabelled(settings, machine.data), machine)
    cell, draw = build_cell(settings, strategy, spec or unlabelled_spec(), pool.trained)
    model, seconds = train(cell, pool, draw.initial, machine, run_settings.cache_gb)
    worker = ShardWorker(build_job(settings, strategy, pool, model, machine, run_settings))
    with clock("describe"):
        numbers = write_all(worker, machine, run_settings)
        for _ in activity.track(numbers, "describing images", "shards", worker.job.num_shards):
            pass
        sharded = open_pool(cell, draw, pool, worker, machine)
    rng = np.random.default_rng(selection_seed("select", cell, ROUND))
    with selection_stage(cell, ROUND), clock("select"), time_limit(machine.select_timeout, strategy.label):
        picks = select_from_shards(strategy, sharded, settings.budget, rng)
    times = {"fit": seconds, "describe": clock.seconds["describe"], "select": clock.seconds["select"]}
    rows = build_picks(cell, pool, model, sharded, picks, settings.min_score, machine)
    trained, num_left = pool.trained, len(sharded.unlabelled)
    return Picks(strategy.label, rows, trained.classes, len(trained.labelled), num_left, times, trained.remarks)


def train(cell: Cell, pool: LargePool, labelled: Indices, machine: Machine, cache_gb: float) -> tuple[nn.Module, float]:
    """Returns the model, and the seconds of its training; where the strategy needs none, one that does nothing."""
    if not cell.strategy.needs - MODEL_FREE:
        return nn.Identity().eval(), 0.0
    fits = FitCache((machine.scratch or Path()) / "fits", cache_gb * bool(machine.scratch), device_name(machine))
    fit = fit_round(cell, pool.trained.task, fits, labelled, 0)
    return fit.model, fit.seconds


def build_picks(
    cell: Cell, pool: LargePool, model: nn.Module, sharded: ShardedPool, picks: Indices, min_score: float,
    machine: Machine,
) -> list[Pick]:  # fmt: skip
    """Returns the picks with their scores and predictions; the images of these files alone are read again."""
    first = sharded.num_images - len(pool.files)
    paths = [pool.files.paths[position - first] for position in picks.tolist()]
    files = UnlabelledFiles(pool.files.source, pool.files.folder, paths)
    picked = PickPool(extend(pool.base, machine, paths), files, pool.trained.labelled, np.empty(0, np.int64))
    ranked = picked.first + np.arange(len(paths))
    is_trained = bool(cell.strategy.needs - MODEL_FREE)
    objects = predict_objects(cell, picked, model if is_trained else None, ranked, min_score)
    return [
        build_pick(picked, cell, rank, index, sharded.scores.get(position), objects.get(index, []))
        for rank, (index, position) in enumerate(zip(ranked.tolist(), picks.tolist(), strict=True), 1)
    ]


def build_large_pool(settings: PickSettings, spec: Spec | None, files: UnlabelledFiles, machine: Machine) -> LargePool:
    """Loads the task, and finds out which files are labelled or were picked earlier."""
    base = None if spec is None else load_task(spec, machine)
    names, positions = read_picked(settings, files, base, machine.data), list[int]()
    if settings.labelled:
        classes, skip = getattr(base, "classes", ()), settings.on_error == "skip"
        positions = sorted(read_labels(settings.labelled, files, classes, machine.data, skip=skip))
    picked = {position for name in names if (position := files.find(name)) is not None}
    pending = np.array(sorted(picked - set(positions)), np.int64)
    few = UnlabelledFiles(files.source, files.folder, [files.paths[position] for position in positions])
    task = base
    if base is None or positions:
        shown = few if base is not None else UnlabelledFiles(files.source, files.folder, files.paths[:1])
        task, _ = extend_task(settings, base, shown, machine)
    assert task is not None
    if isinstance(base, VisionTask) and isinstance(task, VisionTask):
        task.take_statistics(base)
    labelled = np.arange(task.num_pool if base is not None else 0)
    remarks = [f"picked earlier and not labelled yet, so not picked again: {plural(len(pending), 'image')}"]
    trained = PickPool(task, few, labelled, np.empty(0, np.int64), remarks[: len(pending)])
    return LargePool(base, files, trained, np.array(positions, np.int64), pending)


def build_job(
    settings: PickSettings, strategy: Spec, pool: LargePool, model: nn.Module, machine: Machine, run_settings: Settings
) -> ShardJob:
    """Writes the lists of images and the model's weights, and returns what is to be written of the images.

    Tables of a model and tables of an encoder are named by that model or encoder alone, so that later calls, by other
    strategies too, find them.
    """
    folder = Path(expand_home(settings.shards, f"shards={settings.shards}")).absolute()
    num_images = ImageLists(folder / "images", SHARD_SIZE).write(path.absolute() for path in pool.files.paths)
    facts: dict[str, Any] = {"torch": minor_version(torch.__version__), "device": machine.device.type}
    model_file, encoder_images = "", list[str]()
    if strategy.needs - MODEL_FREE:
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        name = tensor_files.tensor_digest(settings.task, weights)[:32]
        model_file = str(folder / f"model-{name}.safetensors")
        tensor_files.write(Path(model_file), f"model-{name}", weights, 0.0)
        facts |= {"task": settings.task, "model": name}
    if encoders := [label for plugin, label in strategy.nested_plugins() if plugin.kind == "encoder"]:
        encoder_images = [str(path.absolute()) for path in pool.files.paths[:NUM_ENCODER_IMAGES]]
        images = [describe_file(Path(path)) for path in encoder_images]
        facts["encoders"] = [[encoder_identity(label, machine), encoder_code_hash(label)] for label in encoders]
        facts["encoder_images"] = digest(images, {})
        facts["task"] = settings.task  # which decides the size of images
    arguments = {
        "strategy": strategy.label, "task": settings.task, "model": model_file, "plugins": run_settings.plugins or "",
        "data": "" if machine.data is None else str(machine.data.absolute()), "device": str(machine.device),
        "workers": machine.workers, "threads": run_settings.num_threads or 0, "encoder_images": encoder_images,
    }  # fmt: skip
    tables = list(find_way(strategy).tables(**strategy.values))
    builder = f"{build_describer.__module__}:{build_describer.__name__}"
    return ShardJob(str(folder), SHARD_SIZE, num_images, tables, facts, builder, arguments)


def write_all(worker: ShardWorker, machine: Machine, run_settings: Settings) -> Iterator[int]:
    """Writes the shards that are missing: in this process, in several, or on Ray; yields their numbers."""
    if run_settings.launcher == "ray":
        from benchmark.runner.launchers.ray_launch import WorkerResources, write_shards_on_ray  # ray is an extra

        gpus = (run_settings.gpus_per_cell or 1) if machine.device.type == "cuda" else 0
        resources = WorkerResources(run_settings.cpus_per_cell or 1, gpus)
        return write_shards_on_ray(worker.job, resources, run_settings.ray_address)
    return write_shards(worker.job, run_settings.num_jobs_on_cpu, worker)


def open_pool(cell: Cell, draw: InitialDraw, pool: LargePool, worker: ShardWorker, machine: Machine) -> ShardedPool:
    """Opens the shards as the pool that the strategy sees: the images of the task's pool first, then the files."""
    describer = worker.describe
    assert isinstance(describer, ImageDescriber)
    num_base = 0 if pool.base is None else pool.base.num_pool
    tables = worker.job.open_tables()
    if num_base:
        tables = prepend(describer.describe_base(), tables)
    positions = np.concatenate([np.arange(num_base), num_base + pool.labelled_files])  # of the images of `trained`
    excluded = np.concatenate([positions, num_base + pool.pending])
    tie_seed = selection_seed("ties", cell, 1 if len(draw.initial) else 0)
    num_images = num_base + len(pool.files)
    return ShardedPool(num_images, positions[draw.initial], excluded, tables, tie_seed, machine.device)
