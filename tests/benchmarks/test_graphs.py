"""Times what a GPU runs as CUDA graphs beside the same operations launched one by one, and beside the usual loop.

`AL_BENCHMARK_TINY=1` makes the sizes tiny, for a CPU too: it shows that they run, and the times say nothing.

Shapes: N images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.test_training import usual
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.api import Machine, View
from benchmark.strategies.badge import badge
from benchmark.strategies.discriminative import discriminative
from benchmark.strategies.isal import isal
from benchmark.system import cuda_graphs
from benchmark.vision.classification import Classifier, Recipe, Split

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = os.environ.get("AL_BENCHMARK_TINY") == "1"
EPOCHS, NUM_TRAINED, NUM_POOL = (1, 32, 60) if TINY else (4, 25_600, 50_000)  # each fit records its graphs once
RECIPE = Recipe(epochs=EPOCHS, batch_size=8 if TINY else 128, width=4 if TINY else 64)

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(DEVICE.type == "cpu" and not TINY, reason="a CPU runs no CUDA graphs"),
]


@contextmanager
def graphs(on: bool) -> Iterator[None]:
    """Runs a block with or without CUDA graphs, and waits for the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if not on:
            patch.setattr(cuda_graphs, "WARM_UP_CALLS", 10**9)
        yield
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@cache
def task(recipe: Recipe, num_images: int) -> Classifier:
    """A task on random images of CIFAR's size."""
    rng = np.random.default_rng(0)
    images_N3HW, labels_N = (
        rng.integers(0, 256, (num_images, 3, 32, 32), dtype=np.uint8),
        rng.integers(0, 10, num_images),
    )
    split = Split(images_N3HW, labels_N)
    return Classifier(Machine(DEVICE), recipe, split, Split(images_N3HW[:2], labels_N[:2]), num_classes=10)


def fit(recipe: Recipe, *, on: bool = True) -> None:
    """Trains a network."""
    with graphs(on):
        task(recipe, NUM_TRAINED).fit(np.arange(NUM_TRAINED), 0)


def usual_epochs() -> Callable[[], None]:
    """As many epochs of the usual loop, with two workers."""
    epoch = usual(2)

    def epochs() -> None:
        for _ in range(EPOCHS):
            epoch()

    return epochs


WAYS: dict[str, Callable[[], Callable[[], None]]] = {
    "ours": lambda: lambda: fit(RECIPE),
    "ours, compiled": lambda: lambda: fit(replace(RECIPE, compile=True)),
    "ours, without CUDA graphs": lambda: lambda: fit(RECIPE, on=False),
    "ours, published recipe": lambda: lambda: fit(replace(RECIPE, precision="float32", channels_last=False)),
    "usual, 2 workers": usual_epochs,
}


@pytest.mark.benchmark(
    group=f"ResNet-18, batch {RECIPE.batch_size}: {EPOCHS} epochs of {NUM_TRAINED:,} images, {DEVICE.type}"
)
@pytest.mark.parametrize("way", WAYS)
def test_training(benchmark: BenchmarkFixture, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if TINY and way == "ours, compiled":
        pytest.skip("takes a minute to compile at any size")
    monkeypatch.setattr("benchmarks.test_training.N", NUM_TRAINED)
    benchmark.pedantic(WAYS[way](), rounds=2, warmup_rounds=1)
    benchmark.extra_info["images a second"] = round(EPOCHS * NUM_TRAINED / benchmark.stats["min"])


FEW: dict[str, dict[str, Any]] = {
    "isal": {"depth": 2, "repeats": 2} if TINY else {"depth": 250, "repeats": 4},
    "discriminative": {"epochs": 2, "num_queries": 2} if TINY else {"epochs": 50, "num_queries": 5},
}
SELECTIONS: dict[str, Callable[[View], object]] = {
    "isal": lambda view: isal(view, len(view.labelled), np.random.default_rng(0), **FEW["isal"]),
    "badge": lambda view: badge(view, len(view.labelled), np.random.default_rng(0)),
    "one pass of predictions": lambda view: view.predict(view.unlabelled),
    "discriminative": lambda view: discriminative(
        view, len(view.labelled), np.random.default_rng(0), **FEW["discriminative"]
    ),
}


@pytest.mark.benchmark(group=f"a selection from {NUM_POOL:,} images, {DEVICE.type}")
@pytest.mark.parametrize("way", [*SELECTIONS, "isal, without CUDA graphs", "discriminative, without CUDA graphs"])
def test_selection(benchmark: BenchmarkFixture, way: str) -> None:
    """A fiftieth of the pool is labelled, and as many images are held out, and selected."""
    name, _, without = way.partition(", ")
    num, pool_task = NUM_POOL // 50 if not TINY else 4, task(RECIPE, NUM_POOL)
    needs = {"predict", "embed", "losses", "directional", "pseudo_labels", "weights", "held_out"}
    model, labelled, held_out = pool_task.model(), np.arange(num), np.arange(num, 2 * num)

    def select() -> None:
        view = View(
            pool_task, model, labelled, np.arange(2 * num, NUM_POOL), num_initial=num, held_out=held_out, needs=needs
        )
        pool_task._memo = None  # the predictions of the last selection
        with graphs(not without):
            SELECTIONS[name](view)

    benchmark.pedantic(select, rounds=1 if without else 2, warmup_rounds=0 if without else 1)  # a minute each
