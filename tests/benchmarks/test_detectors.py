"""Times detectors, reading and decoding included, beside plain torchvision on images that lie on the device; on a GPU
if there is one.

Shapes: H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmark.api import Boxes, Machine
from benchmark.runner.machine import num_reading_processes
from benchmark.vision.data.annotations import GroundTruth, ImageFiles, Split
from benchmark.vision.detection.detector import Detector
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.task import Detection

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IS_GPU = DEVICE.type == "cuda"
N, BATCH, SIDE = (256, 8, 640) if IS_GPU else (8, 4, 96)
NUM_CLASSES, BOXES_PER_IMAGE = 80, 7
RECIPE = DetectorRecipe(
    weights="none", norm="batch", frozen_stages=-1, epochs=1, batch_size=BATCH, warmup=0.0, flip=False,
    min_size=800 if IS_GPU else 64, max_size=1333 if IS_GPU else 128, precision="bfloat16" if IS_GPU else "float32",
)  # fmt: skip
PLAIN: dict[str, Callable[..., Any]] = {
    "fcos": torchvision.models.detection.fcos_resnet50_fpn,
    "faster_rcnn": torchvision.models.detection.fasterrcnn_resnet50_fpn,
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """JPEG files of three shapes, as photographs have them, with boxes."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    sizes = np.array([[(SIDE, 3 * SIDE // 4), (3 * SIDE // 4, SIDE), (SIDE, 2 * SIDE // 3)][n % 3] for n in range(N)])
    for number, (width, height) in enumerate(sizes.tolist()):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    image_B = np.repeat(np.arange(N), BOXES_PER_IMAGE)
    corner_B2 = rng.random((len(image_B), 2)) * sizes[image_B] / 2
    corners_B4 = np.concatenate([corner_B2, corner_B2 + sizes[image_B] / 4], 1).astype(np.float32)
    truth = GroundTruth.from_boxes(
        image_B, corners_B4, rng.integers(0, NUM_CLASSES, len(image_B)), np.zeros(len(image_B), bool), N
    )
    return Split.from_files(ImageFiles(folder, [f"{n}.jpg" for n in range(N)], sizes), truth, folder)


def ours(model: str, split: Split) -> tuple[Callable[[], object], Callable[[], object]]:
    """An epoch of a fit, and a prediction on all images."""
    machine = Machine(DEVICE, workers=num_reading_processes(DEVICE))
    task = Detection(machine, replace(RECIPE, model=model), split, split, NUM_CLASSES, "50")
    untrained: Detector = task.model()

    def predict() -> object:
        task._memo = None
        return task.predict(untrained, np.arange(N))

    return lambda: task.fit(np.arange(N), 0), predict


def plain(model: str, split: Split) -> tuple[Callable[[], object], Callable[[], object]]:
    """torchvision's model in the same precision, on images that lie on the device."""
    network = PLAIN[model](
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1,
        min_size=RECIPE.min_size, max_size=RECIPE.max_size,
    ).to(DEVICE)  # fmt: skip
    sgd = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images = [split.images[number].to(DEVICE).float() / 255 for number in range(N)]
    targets = [labels_of(split.truth.boxes_of(number)) for number in range(N)]
    autocast = torch.autocast(DEVICE.type, torch.bfloat16, enabled=RECIPE.precision == "bfloat16")

    def train() -> None:
        network.train()
        for start in range(0, N, BATCH):
            with autocast:
                losses = network(images[start : start + BATCH], targets[start : start + BATCH])
            sgd.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            sgd.step()
        wait()

    @torch.no_grad()
    def predict() -> None:
        network.eval()
        for start in range(0, N, BATCH):
            with autocast:
                network(images[start : start + BATCH])
        wait()

    return train, predict


def labels_of(boxes: Boxes) -> dict[str, Tensor]:
    return {"boxes": boxes.corners_M4.to(DEVICE), "labels": (boxes.labels_M + 1).to(DEVICE)}


def wait() -> None:
    if IS_GPU:
        torch.cuda.synchronize()


WAYS = {"plain torchvision, fed from the device": plain, "ours, reading and decoding included": ours}
GROUP = f"{{}} R-50, {RECIPE.min_size} px, batch {BATCH}: {{}} {N} images, {DEVICE.type}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["training on", "prediction on"])
@pytest.mark.parametrize("model", PLAIN)
def test_detectors(benchmark: BenchmarkFixture, split: Split, model: str, what: str, way: str) -> None:
    train, predict = WAYS[way](model, split)
    benchmark.group, benchmark.param = GROUP.format(model, what), way
    benchmark.pedantic(train if what.startswith("training") else predict, rounds=2, warmup_rounds=1)
    benchmark.extra_info["images a second"] = round(N / benchmark.stats["min"], 1)
