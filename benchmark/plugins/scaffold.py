"""The templates of `new strategy NAME` and `new task NAME`: about ten lines and a test, ready to run."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from benchmark.plugins.registry import FOLDERS, REGISTRY
from benchmark.system import files

STRATEGY_TEMPLATE = '''"""{name}: say in one sentence what it selects, and cite the paper."""

from numpy.random import Generator

from benchmark.api import How, Indices, View, register


@register(needs={{"predict"}}, version=1)
def {name}(view: View, budget: int, rng: Generator, *, how: How = "mean") -> Indices:
    """Selects the images whose most likely class is least likely; `how` combines the boxes of an image."""
    predictions = view.predict(view.unlabelled)
    uncertainty_P = 1 - predictions.scores_PC.amax(1)
    return view.highest(predictions.per_image(uncertainty_P, how), budget)
'''

STRATEGY_TEST_TEMPLATE = '''"""Tests that {name} follows the rules of all strategies; add tests of its own features."""

import torch

from benchmark.api import Machine
from benchmark.conformance import failures
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry


def test_{name}_conforms() -> None:
    discovery.discover({folder})
    machine = Machine(torch.device("cpu"))
    assert failures(registry.get("strategy", "{name}"), Spec.read("task", "{on}"), machine) == []
'''

TASK_TEMPLATE = '''"""{name}: say in one sentence what its images are, and where they come from."""

import numpy as np

from benchmark.api import Machine, register_task
from benchmark.vision.classification import (
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)

SMALL = Recipe(model="small_cnn", epochs=10, batch_size=32, lr=0.05, flip=False, pad=0, precision="float32")


@register_task(version=1, default=SMALL, missing_capabilities=missing_capabilities, check=check_weights)
def {name}(machine: Machine, recipe: Recipe) -> Classification:
    """Noise of three brightnesses: replace it by your own images and labels."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 400)
    images_N3HW = rng.integers(0, 150, (400, 3, 8, 8), np.uint8) + (40 * labels_N[:, None, None, None]).astype(np.uint8)
    pool, test = Split(images_N3HW[:300], labels_N[:300]), Split(images_N3HW[300:], labels_N[300:])
    return build_task(machine, recipe, pool, test, num_classes=3, classes=["dark", "grey", "light"])
'''

TASK_TEST_TEMPLATE = '''"""Tests that {name} follows the rules of all tasks; add tests of its own features."""

import torch

from benchmark.api import Machine
from benchmark.conformance import failures
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry


def test_{name}_conforms() -> None:
    discovery.discover({folder})
    machine = Machine(torch.device("cpu"))
    assert failures(registry.get("task", "{name}"), Spec.read("task", "{name}"), machine) == []
'''
TEMPLATES = {"strategy": (STRATEGY_TEMPLATE, STRATEGY_TEST_TEMPLATE), "task": (TASK_TEMPLATE, TASK_TEST_TEMPLATE)}


def write_plugin(kind: str, name: str, folder: str | None, check_on: str) -> list[Path]:
    """Writes a plug-in and its test.

    Args:
        kind: strategy or task.
        name: the name of the plug-in, and of its file.
        folder: the folder of NAME.py and test_NAME.py; None: strategies/ or tasks/, and tests/, of a checkout.
        check_on: the task that the test of a strategy runs it on.

    Returns:
        The paths of the plug-in and of its test.

    Raises:
        ValueError: the kind is unknown, the name is not valid or exists already, or there is no folder to write to.
    """
    if kind not in TEMPLATES:
        raise ValueError(f"new {kind}: type `new strategy NAME` or `new task NAME`")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is not a valid name for a {kind}: use lower-case letters, digits and _")
    if name.startswith("test_"):
        raise ValueError(f"{name}: a plug-in cannot be called test_*, since its file would be taken for a test")
    if name in REGISTRY[kind]:
        raise ValueError(f"there is a {kind} {name} already")
    if folder is None and not Path(f"{FOLDERS[kind]}/__init__.py").is_file():
        raise ValueError("not in a checkout of al-benchmark: name a folder for your plug-ins, plugins=DIR")
    code = Path(folder or FOLDERS[kind]) / f"{name}.py"
    test = Path(folder or "tests") / f"test_{name}.py"
    where = "" if folder is None else repr(folder)
    texts = (text.format(name=name, folder=where, on=check_on) for text in TEMPLATES[kind])
    for path, text in zip((code, test), texts, strict=True):
        if path.exists():
            raise ValueError(f"{path} is there already")
        files.write_atomically(path, text)
    return [code, test]
