"""Training steps that are recorded and replayed end in the bytes of plain steps: on the CPU, by a stand-in for CUDA
graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _graphs import graphs_on_cpu
from test_classifier import QUICK, TINY, Regress, same, task
from torch import nn

from benchmark.api import Machine
from benchmark.vision import training
from benchmark.vision.classification import Recipe
from benchmark.vision.classification.task import Classification

LABELLED = np.arange(53)  # an epoch is a batch of 14 and three of 13
LONG = {"epochs": 5}


def plainly(fit: Callable[[], nn.Module]) -> nn.Module:
    """Fits with plain steps, and the implementation of SGD that recorded ones use."""
    sgd = torch.optim.SGD
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", lambda *args, **options: sgd(*args, **options, fused=True))
        return fit()


def recorded(fit: Callable[[], nn.Module], num_recordings: int) -> nn.Module:
    """Fits with recorded steps."""
    with graphs_on_cpu() as recordings:
        network = fit()
    assert len(recordings) == num_recordings
    return network


RECIPES = {
    "small network, dropout": replace(QUICK, **LONG),
    "ResNet, bfloat16, channels last": replace(TINY, **LONG, channels_last=True),
    "published": replace(
        TINY, **LONG, drop_last=True, nesterov=False, decay_all=True, schedule="step", precise_bn=True
    ),
    "no momentum": replace(QUICK, **LONG, momentum=0.0, nesterov=False, label_smoothing=0.1, pad=0),
    "black borders": replace(QUICK, **LONG, pad_colour="black", precision="float32"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recorded_fits_end_in_the_same_bytes(machine: Machine, name: str) -> None:
    classifier = task(machine, RECIPES[name])

    def fit() -> nn.Module:
        return classifier.fit(LABELLED, 0)

    num_sizes = 1 if RECIPES[name].drop_last else 2
    network = recorded(fit, num_sizes)
    assert same(network, plainly(fit))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize(("detach_after", "num_recordings"), [(0.0, 2), (0.6, 4), (1.0, 2)])
def test_a_companion_is_detached_in_time(machine: Machine, detach_after: float, num_recordings: int) -> None:
    """One recording for each size of batch before, and one after it."""
    classifier = task(machine, replace(TINY, epochs=10))

    def fit() -> nn.Module:
        return classifier.fit(LABELLED, 0, Regress(detach_after, 0.1))

    assert same(recorded(fit, num_recordings), plainly(fit))


def test_a_linear_probe_is_recorded_too(machine: Machine) -> None:
    recipe = Recipe(model="linear_probe", encoder="patch_pca[patch=4]", epochs=6, batch_size=16, dropout=0.3)
    probe: Classification = build(machine, recipe)

    def fit() -> nn.Module:
        return probe.fit(LABELLED, 0)

    assert same(recorded(fit, 2), plainly(fit))


def build(machine: Machine, recipe: Recipe) -> Classification:
    from test_classifier import images

    from benchmark.plugins import discovery
    from benchmark.vision.classification import build_task

    discovery.discover()
    return build_task(machine, recipe, images(60, 8, 0), images(20, 8, 1), num_classes=10)


@pytest.mark.parametrize("after", [2, 9, 20], ids=["before recording", "between recordings", "at the end"])
def test_a_killed_fit_goes_on_with_recorded_steps(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    classifier, companion = task(replace(machine, scratch=tmp_path), replace(TINY, **LONG)), Regress(0.5, 0.1)
    whole = plainly(lambda: classifier.fit(LABELLED, 0, companion))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    write, steps = training.save_checkpoint, list[int]()

    def dying(*args: Any) -> None:
        write(*args)
        steps.append(args[-1])
        if len(steps) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", dying)
    with graphs_on_cpu():
        with pytest.raises(KeyboardInterrupt):
            classifier.fit(LABELLED, 0, companion)
        assert same(whole, classifier.fit(LABELLED, 0, companion))
    assert steps == list(range(1, 21))


def test_a_recorded_fit_that_diverges_says_so(machine: Machine) -> None:
    classifier = task(machine, replace(QUICK, **LONG, lr=1e30))
    with graphs_on_cpu() as recordings, pytest.raises(ValueError, match="the fit on 53 images diverged"):
        classifier.fit(LABELLED, 0)
    assert recordings


def test_a_network_that_waits_for_the_gpu_is_trained_plainly(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from benchmark.system.remarks import remark_once
    from benchmark.vision.networks import Network

    remark_once.cache_clear()
    classifier, features = task(machine, replace(QUICK, **LONG)), Network.features
    whole = plainly(lambda: classifier.fit(LABELLED, 0))
    monkeypatch.setattr(Network, "features", lambda self, images: (images.sum().item(), features(self, images))[1])
    with graphs_on_cpu() as recordings:
        assert same(whole, classifier.fit(LABELLED, 0))
        classifier.fit(LABELLED, 1)
    assert not recordings
    assert [line.getMessage().partition(" (")[0][:15] for line in caplog.records] == ["a training step"]


def test_steps_on_a_cpu_keep_their_optimiser(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers are those of the records."""
    groups: list[dict[str, Any]] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda sgd: (groups.extend(sgd.param_groups), step(sgd))[1])
    task(machine, QUICK).fit(LABELLED, 0)
    assert groups
    assert all(group["fused"] is None and isinstance(group["lr"], float) for group in groups)
