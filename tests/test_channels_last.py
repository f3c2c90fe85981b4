"""Channels last is not used for networks whose gradients oneDNN computes incorrectly."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.classification import Classifier, Recipe, Split
from benchmark.vision.networks import resnet18, suits_channels_last

CPU = torch.device("cpu")


def task(width: int, channels_last: bool = True) -> Classifier:
    images_N3HW = np.random.default_rng(0).integers(0, 256, (150, 3, 32, 32), dtype=np.uint8)
    split = Split(images_N3HW, np.arange(150) % 2)
    recipe = Recipe(width=width, epochs=8, batch_size=75, channels_last=channels_last)
    return Classifier(Machine(CPU), recipe, split, split, num_classes=2)


@pytest.mark.parametrize(
    ("network", "suits"),
    [
        (resnet18(16), True),
        (resnet18(15), False),
        (resnet18(4), False),
        (torchvision.models.mobilenet_v3_small(), True),
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(8, 16, 1, stride=(1, 2)), False),
        (nn.Conv2d(8, 16, 1), True),
        (nn.Conv2d(8, 16, 3, stride=2), True),
    ],
    ids=str,
)
def test_networks_that_onednn_spoils_keep_channels_first(network: nn.Module, suits: bool) -> None:
    assert suits_channels_last(network, CPU) == suits
    assert suits_channels_last(network, torch.device("cuda"))


@pytest.mark.parametrize(("width", "last"), [(4, False), (16, True)])
def test_a_classifiers_images_and_weights_are_in_that_layout(width: int, last: bool) -> None:
    built: Any = task(width)
    weight = built.model().backbone.layer2[0].conv1.weight
    images_N3HW = built._prepare_inputs(built._images[:2])
    assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert images_N3HW.is_contiguous(memory_format=torch.channels_last) == last


def test_the_shipped_small_tasks_suit_it() -> None:
    discovery.discover()
    for name in ("scenes", "scene_masks"):
        spec = Spec.read("task", {name: {"channels_last": True}})
        built = spec.plugin.build(Machine(CPU), spec.values)
        assert built._recipe.channels_last


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_narrow_resnet_is_trained_on_two_threads(channels_last: bool) -> None:
    fit = f"layout.task(4, channels_last={channels_last}).fit(numpy.arange(150), 0)"
    script = f"import torch; torch.set_num_threads(2); import numpy, test_channels_last as layout; {fit}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=Path(__file__).parent, text=True)
    assert result.returncode == 0, result.stderr
