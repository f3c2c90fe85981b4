"""Times training compared with the usual loop, and with deterministic=true; on a GPU if there is one.

`AL_BENCHMARK_TINY=1` makes the sizes tiny: it shows that the benchmarks run, and their times say nothing.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmark.api import Machine
from benchmark.runner import machine
from benchmark.vision.classification import Classifier, Recipe, Split

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = os.environ.get("AL_BENCHMARK_TINY") == "1"
N = 8 if TINY else 50_000 if DEVICE.type == "cuda" else 1_024
RECIPE = Recipe(epochs=1, batch_size=128, width=4 if TINY else 64)


class Photographs(Dataset[tuple[torch.Tensor, int]]):
    """Yields images one by one, as torchvision's CIFAR10 does."""

    def __init__(self, images_NHW3: npt.NDArray[np.uint8], labels_N: npt.NDArray[np.int64]) -> None:
        self.images_NHW3, self.labels_N = images_NHW3, labels_N
        self.change = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.change(Image.fromarray(self.images_NHW3[number])), int(self.labels_N[number])


def data() -> Split:
    """N random images."""
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (N, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, N))


def task(recipe: Recipe) -> Classifier:
    """A task on N random images, on the device."""
    split = data()
    return Classifier(Machine(DEVICE), recipe, split, Split(split.images_NKHW[:2], split.labels_N[:2]), num_classes=10)


def ours(recipe: Recipe) -> Callable[[], object]:
    """An epoch of a task's fit, until the GPU has finished it."""
    model_task = task(recipe)

    def epoch() -> None:
        model_task.fit(np.arange(N), 0)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def usual(num_workers: int) -> Callable[[], object]:
    """An epoch of the usual loop: a DataLoader, transforms per image, float32, and the loss read at every step."""
    split = data()
    photographs = Photographs(split.images_NKHW.transpose(0, 2, 3, 1), split.labels_N)
    network = task(replace(RECIPE, channels_last=False, precision="float32")).model().train()
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(photographs, 128, shuffle=True, num_workers=num_workers, pin_memory=DEVICE.type == "cuda")

    def epoch() -> float:
        total = 0.0
        for images_N3HW, labels_N in loader:
            loss = F.cross_entropy(network(images_N3HW.to(DEVICE)), labels_N.to(DEVICE))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += loss.item()
        return total

    return epoch


def full() -> Callable[[], object]:
    """An epoch of ours in the precision and memory layout of the usual loop."""
    return ours(replace(RECIPE, precision="float32", channels_last=False))


WAYS = {
    "ours": lambda: ours(RECIPE),
    "ours, compiled": lambda: ours(replace(RECIPE, compile=True)),
    "ours, float32": full,
    "usual, 2 workers": lambda: usual(2),
    "usual, no workers": lambda: usual(0),
}


@pytest.mark.benchmark(group=f"ResNet-18, batch 128: an epoch of {N:,} images, {DEVICE.type}")
@pytest.mark.parametrize("way", WAYS)
def test_training(benchmark: BenchmarkFixture, way: str) -> None:
    if TINY and way == "ours, compiled":
        pytest.skip("takes a minute to compile at any size")
    epoch = WAYS[way]()
    benchmark.pedantic(epoch, rounds=2, warmup_rounds=1)
    benchmark.extra_info["images a second"] = round(N / benchmark.stats["min"])


@contextmanager
def repeatable(on: bool) -> Iterator[None]:
    """Runs a block with or without `deterministic=true`."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    if on:
        machine.enable_determinism()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.device
@pytest.mark.benchmark(group=f"deterministic=true: an epoch of {N:,} images, {DEVICE.type}")
@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_repeatable_training(benchmark: BenchmarkFixture, on: bool) -> None:
    epoch = ours(RECIPE)
    with repeatable(on):
        benchmark.pedantic(epoch, rounds=2, warmup_rounds=1)
