"""Describes images of a large pool: what a strategy stores of them, from the task's model or an encoder.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import ExtendsPool, Indices, Machine, Task, View
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner.large_pools.selecting import find_way
from benchmark.runner.task_loading import build_task
from benchmark.seeds import seed
from benchmark.system import tensor_files
from benchmark.system.process_state import isolate_plugin
from benchmark.vision.data.user_cache import store_nothing
from benchmark.vision.image_pool import ImagePool
from benchmark.vision.task import VisionTask


@dataclass(frozen=True)
class ImageDescriber:
    """Describes files that are in no pool yet; see `shard_writer.Describe`.

    Args:
        strategy: the strategy, which says what is stored.
        base: the task to whose pool the files are added; None for a pool of these files alone.
        model: the model.
        machine: where the model runs. Without a scratch folder: encodings are stored in shards and nowhere else.
        encoder_images: the images that encoders are built on.
    """

    strategy: Spec
    base: Task | None
    model: nn.Module
    machine: Machine
    encoder_images: VisionTask[nn.Module] | None

    def __call__(self, paths: Sequence[Path]) -> Mapping[str, Tensor]:
        """Returns the rows of each table. ValueError where a file cannot be read."""
        with store_nothing():
            task = extend(self.base, self.machine, paths)
        return self.describe(task, np.arange(task.num_pool - len(paths), task.num_pool))

    def describe_base(self) -> Mapping[str, Tensor]:
        """Returns the rows of the images of the task's own pool."""
        assert self.base is not None
        return self.describe(self.base, np.arange(self.base.num_pool))

    def describe(self, task: Task, indices: Indices) -> dict[str, Tensor]:
        """Returns the rows of some images of a task's pool."""
        if self.encoder_images is not None and isinstance(task, VisionTask):
            task.share_encoders(self.encoder_images)
        none, needs = np.empty(0, np.int64), self.strategy.plugin.resolve_needs(self.strategy.values)
        view = View(task, self.model, none, indices, num_initial=0, held_out=none, needs=needs)
        label = self.strategy.label
        with torch.no_grad(), isolate_plugin(label, seed("global describe", label)):
            return dict(find_way(self.strategy).describe(view, indices, **self.strategy.values))


def extend(base: Task | None, machine: Machine, paths: Sequence[Path]) -> Task:
    """Returns the task with files at the end of its pool."""
    if base is None:
        return cast(Task, ImagePool(machine, paths))
    assert isinstance(base, ExtendsPool)
    task = base.with_images(paths, {})
    if isinstance(task, VisionTask) and isinstance(base, VisionTask):
        task.take_statistics(base)
    return task


def build_describer(
    *, strategy: str, task: str, model: str, plugins: str, data: str, device: str, workers: int, threads: int,
    encoder_images: Sequence[str],
) -> ImageDescriber:  # fmt: skip
    """Builds a describer from plain data, in the process that describes.

    Args:
        strategy: the strategy's label.
        task: the task's label; "" for none.
        model: the file of the model's weights, as `tensor_files.write` writes it under its own name; "" for none.
        plugins: the folders of further plug-ins.
        data: the folder of data sets; "" for none.
        device: `cpu`, `cuda` or `cuda:N`.
        workers: processes that read images.
        threads: CPU threads; 0 for torch's choice.
        encoder_images: files of the images that encoders are built on.
    """
    discovery.discover(plugins or None)
    if threads:
        torch.set_num_threads(threads)
    machine = Machine(torch.device(device), Path(data) if data else None, None, workers)
    base = build_task(Spec.read("task", task), machine) if task else None
    if isinstance(base, Exception):
        raise base
    network = nn.Identity() if base is None else base.model()
    if model and base is not None:
        if (stored := tensor_files.read(Path(model), Path(model).stem)) is None:
            raise ValueError(f"{model} cannot be read: repeat the command that wrote it")
        network.load_state_dict(stored[0])
    way = Spec.read("strategy", strategy)
    pool = extend(base, machine, [Path(name) for name in encoder_images]) if "encode" in way.needs else None
    shared = pool if isinstance(pool, VisionTask) else None
    return ImageDescriber(way, base, network.eval(), machine, shared)
