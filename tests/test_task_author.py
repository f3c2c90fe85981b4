"""What CONTRIBUTING shows a task's author works as it stands there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.plugins.registry import REGISTRY

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    discovery.discover()
    before = dict(REGISTRY["task"])
    yield
    REGISTRY["task"].clear()
    REGISTRY["task"].update(before)


def built(name: str, folder: Path, parameters: str) -> object:
    """The task of that name in CONTRIBUTING, on the data in a folder."""
    examples = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    [code] = [example for example in examples if f"def {name}(" in example]
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / f"{name}.py").write_text(code)
    discovery.discover(plugins)
    spec = Spec.read("task", f"{name}[{parameters}]")
    return spec.plugin.build(Machine(torch.device("cpu"), folder), spec.values)


def test_the_classification_task_of_contributing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (60, 3, 32, 32), np.uint8))
    np.save(tmp_path / "labels.npy", rng.integers(0, 5, 60))
    task = built("textures", tmp_path, "width=4,epochs=1,channels_last=false")
    assert task.score(task.fit(np.arange(20), 0))["num_test_classes"] == 5  # type: ignore[attr-defined]


def test_the_detection_task_of_contributing(tmp_path: Path) -> None:
    photos = tmp_path / "shelves" / "photos"
    photos.mkdir(parents=True)
    images = [{"id": number, "file_name": f"{number}.png", "width": 64, "height": 64} for number in range(10)]
    for row in images:
        pixels = np.random.default_rng(row["id"]).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(photos / str(row["file_name"]))
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 20, 30], "iscrowd": 0} for n in range(10)]
    categories = [{"id": 1, "name": "jar"}]
    annotations = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "shelves" / "boxes.json").write_text(json.dumps(annotations))
    small = "backbone=small,weights=default,frozen_stages=1,channels=32,min_size=64,max_size=64,epochs=1"
    task = built("shelves", tmp_path, f"{small},precision=float32")
    assert "map" in task.score(task.fit(np.arange(6), 0))  # type: ignore[attr-defined]
