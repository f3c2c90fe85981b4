"""The same cells on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell
from test_classifier import QUICK, TINY, Regress, same
from test_classifier import task as build_classifier
from torch import nn

from benchmark.api import Machine, View
from benchmark.records.store import Store
from benchmark.runner import task_loading
from benchmark.runner.events import Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch
from benchmark.runner.machine import enable_determinism
from benchmark.strategies.shared.influence import inverse_hessian_product, reference_gradient
from benchmark.system import cuda_graphs
from benchmark.system.cuda_graphs import Recording
from benchmark.system.remarks import remark_once
from benchmark.vision.classification import PUBLISHED, Classifier
from benchmark.vision.networks import Network
from tools.device_parity import grow_boxes

pytestmark = pytest.mark.gpu
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, when it starts
STRATEGIES = [
    "random",
    "bald",
    "coreset",
    "badge",
    "isal[depth=5,repeats=2]",
    "learning_loss",
    "discriminative[epochs=5]",
    "vaal[epochs=2,width=8,size=8]",
]


def run_on_gpu(folder: Path) -> list[Round]:
    """Every kind of strategy on small cells."""
    tasks = task_loading.TaskLoader(Machine(torch.device("cuda")))
    cells = [cell(name, rounds=2) for name in STRATEGIES]
    events = list(local_launch.run_locally(cells, Store(folder / "run"), FitCache(folder / "fits", 1.0, "cuda"), tasks))
    assert not [event for event in events if isinstance(event, Failure)]
    return [event for event in events if isinstance(event, Round)]


def test_every_strategy_runs_and_says_where(tmp_path: Path) -> None:
    events = run_on_gpu(tmp_path)
    assert len(events) == 2 * len(STRATEGIES)
    assert {event.measured.device for event in events} == {torch.cuda.get_device_name()}
    assert len({tuple(e.record.bought) for e in events if e.record.round == 0}) == 1


def test_influences_are_those_of_the_cpu() -> None:
    own_cell = cell("random")
    tasks = [own_cell.task.plugin.build(Machine(torch.device(name)), own_cell.task.values) for name in ("cpu", "cuda")]
    model = tasks[0].fit(torch.arange(50).numpy(), 0)
    twin = tasks[1].model()
    twin.load_state_dict(model.state_dict())
    values = []
    for task, fitted in zip(tasks, (model, twin.eval()), strict=True):
        direction = {name: weight.detach().clone() for name, weight in task.weights(fitted).items()}
        indices = torch.arange(20).numpy()
        targets = task.pseudo_labels(fitted, indices, 2, 0.1)
        values.append(task.directional(fitted, indices, targets, direction).cpu())
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-4)


# --- CUDA graphs --------------------------------------------------------------------------------
@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sets `deterministic=true` for a test."""
    before = torch.are_deterministic_algorithms_enabled()
    enable_determinism()
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@contextmanager
def counting_graphs(*, recorded: bool) -> Iterator[list[Recording]]:
    """Runs a block with or without CUDA graphs; yields their recordings."""
    recordings, record = list[Recording](), cuda_graphs.record

    def count(*args: Any) -> Recording:
        recordings.append(record(*args))
        return recordings[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "record", count)
        patch.setattr(cuda_graphs, "WARM_UP_CALLS", cuda_graphs.WARM_UP_CALLS if recorded else 10**9)
        yield recordings
    assert recorded or not recordings


FIFTY_STEPS = {"epochs": 13, "batch_size": 16, "lr": 0.02}  # an epoch of 53 images is a batch of 14 and three of 13
FITS = {
    "ResNet": (replace(TINY, **FIFTY_STEPS), None, 2),
    "float32": (replace(TINY, **FIFTY_STEPS, precision="float32", channels_last=False), None, 2),
    "published": (replace(PUBLISHED, **FIFTY_STEPS, width=4), None, 1),
    "small network": (replace(QUICK, **FIFTY_STEPS, precision="float32"), None, 2),
    "companion": (replace(TINY, **FIFTY_STEPS), Regress(0.5, 0.1), 4),
}


@pytest.mark.parametrize("name", FITS)
def test_recorded_steps_end_in_the_bytes_of_plain_steps(name: str, deterministic: None) -> None:
    (recorded, plain), _ = fit_both(name)
    assert same(recorded, plain)


def test_recorded_steps_end_close_to_plain_steps() -> None:
    """Without `deterministic=true`, on a network that forgets rounding: in 50 steps ResNets amplify it to per cents."""
    (recorded, plain), classifier = fit_both("small network")
    losses = [classifier.losses(model, np.arange(53)).mean().item() for model in (recorded, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def fit_both(name: str) -> tuple[list[nn.Module], Classifier]:
    """A fit with recorded steps, and one without."""
    recipe, companion, num_graphs = FITS[name]
    classifier, models = build_classifier(Machine(torch.device("cuda")), recipe), []
    for recorded in (True, False):
        with counting_graphs(recorded=recorded) as recordings:
            models.append(classifier.fit(np.arange(53), 0, companion))
        assert len(recordings) == (num_graphs if recorded else 0)
    return models, classifier


def test_a_network_that_waits_for_the_gpu_is_trained_without_graphs(
    deterministic: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With dropout, whose generator must draw again after the failure."""
    remark_once.cache_clear()
    recipe, features = replace(QUICK, **FIFTY_STEPS), Network.features
    classifier = build_classifier(Machine(torch.device("cuda")), recipe)
    with counting_graphs(recorded=False):
        whole = classifier.fit(np.arange(53), 0)
    monkeypatch.setattr(Network, "features", lambda self, images: (images.sum().item(), features(self, images))[1])
    with counting_graphs(recorded=True) as recordings:
        assert same(whole, classifier.fit(np.arange(53), 0))
        classifier.fit(np.arange(53), 1)
    assert not recordings
    assert len([line for line in caplog.records if "cannot run as a CUDA graph" in line.getMessage()]) == 1
    monkeypatch.undo()
    with counting_graphs(recorded=True) as recordings:  # a failure stops no later recording
        assert same(whole, classifier.fit(np.arange(53), 0))
    assert len(recordings) == 2


def test_recorded_hessian_products_are_the_plain_ones(deterministic: None) -> None:
    own_cell = cell("isal[depth=5,repeats=2]")
    digits = own_cell.task.plugin.build(Machine(torch.device("cuda")), own_cell.task.values)
    model, labelled = digits.fit(np.arange(50), 0), np.arange(50)
    needs = {"losses", "weights", "held_out"}
    view = View(digits, model, labelled, np.arange(60, 90), num_initial=50, held_out=np.arange(90, 120), needs=needs)
    v, chains = reference_gradient(view, "held_out"), np.arange(20).reshape(4, 5)
    directions = []
    for recorded in (True, False):
        with counting_graphs(recorded=recorded) as recordings:
            directions.append(inverse_hessian_product(view, v, chains, damping=0.1, scale=dict.fromkeys(v, 100.0)))
        assert len(recordings) == recorded
    assert all(torch.equal(directions[0][name], directions[1][name]) for name in v)
    assert any(not torch.equal(directions[0][name], v[name] / 0.1) for name in v)


@pytest.mark.filterwarnings("default")  # torch.compile's own
def test_compiled_fits_of_several_sizes_learn(tmp_path: Path) -> None:
    """CUDA graphs: another batch size in each round."""
    tasks = task_loading.TaskLoader(Machine(torch.device("cuda")))
    own_cell = cell("random", rounds=4, task="digits[compile=true,epochs=10]", initial=61, budget=67)
    events = list(
        local_launch.run_locally([own_cell], Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1.0, "cuda"), tasks)
    )
    assert [event.line for event in events if isinstance(event, Failure)] == []
    assert [event for event in events if isinstance(event, Round)][-1].record.scores["accuracy"] > 50


# --- determinism --------------------------------------------------------------------------------
def test_a_deterministic_run_repeats_itself(tmp_path: Path, deterministic: None) -> None:
    run_on_gpu(tmp_path / "a")
    run_on_gpu(tmp_path / "b")
    assert bytes_of(tmp_path / "a" / "run") == bytes_of(tmp_path / "b" / "run")


def test_another_run_repeats_all_draws_and_nearly_all_digits(tmp_path: Path) -> None:
    """Without `deterministic=true`: what was drawn, and the scores of the first round."""
    runs = [run_on_gpu(tmp_path / name) for name in ("a", "b")]
    firsts = [[event.record for event in run if event.record.round == 0] for run in runs]
    for first, other in zip(*firsts, strict=True):
        assert first.bought == other.bought
        assert first.scores["nll"] == pytest.approx(other.scores["nll"], rel=1e-3)


@pytest.mark.parametrize("task_label", ["few_scenes", "few_scenes[model=faster_rcnn]", "scene_masks[epochs=1]"])
def test_detectors_repeat_themselves_or_name_what_does_not(
    task_label: str, tmp_path: Path, deterministic: None
) -> None:
    """docs/determinism.md lists the operations without a deterministic kernel."""
    lines: list[list[str]] = []
    for name in ("a", "b"):
        tasks = task_loading.TaskLoader(Machine(torch.device("cuda")))
        store, fits = Store(tmp_path / name / "run"), FitCache(tmp_path / name / "fits", 1.0, "cuda")
        cells = [cell(strategy, rounds=2, task=task_label) for strategy in ("random", "entropy")]
        events = local_launch.run_locally(cells, store, fits, tasks)
        lines.append([event.line for event in events if isinstance(event, Failure)])
    assert all("does not have a deterministic implementation" in line for line in lines[0] + lines[1])
    assert bytes_of(tmp_path / "a" / "run") == bytes_of(tmp_path / "b" / "run")


# --- detection ----------------------------------------------------------------------------------
BOXES = ["random", "entropy", "coreset", "learning_loss", "isal[depth=5,repeats=2]", "localization_stability"]


@pytest.mark.parametrize("task", ["few_scenes", "few_scenes[model=faster_rcnn]"])
def test_detection_strategies_run_on_a_gpu(task: str, tmp_path: Path) -> None:
    tasks = task_loading.TaskLoader(Machine(torch.device("cuda")))
    cells = [cell(name, rounds=2, task=task) for name in BOXES]
    events = list(
        local_launch.run_locally(cells, Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1.0, "cuda"), tasks)
    )
    assert [event.line for event in events if isinstance(event, Failure)] == []
    rounds = [event for event in events if isinstance(event, Round)]
    assert len(rounds) == 2 * len(BOXES)
    assert all(0 <= event.record.scores["map"] <= 1 and event.record.cost["boxes"] >= 0 for event in rounds)


def test_detection_influences_are_those_of_the_cpu() -> None:
    """FCOS, which draws nothing; samplers of Faster R-CNN draw other numbers on a GPU.

    The boxes are grown by a pixel: at the detector's own boxes the IoU loss has a kink, where rounding decides.
    """
    own_cell = cell("random", task="few_scenes[epochs=5]")
    tasks = [own_cell.task.plugin.build(Machine(torch.device(name)), own_cell.task.values) for name in ("cpu", "cuda")]
    model, indices = tasks[0].fit(torch.arange(60).numpy(), 0), torch.arange(60, 90).numpy()
    twin = tasks[1].model()
    twin.load_state_dict(model.state_dict())
    targets = grow_boxes(tasks[0].pseudo_labels(model, indices, 1, 0.1), 1.0)
    values = []
    for task, fitted in zip(tasks, (model, twin.eval()), strict=True):
        direction = {name: weight.detach().clone() for name, weight in task.weights(fitted).items()}
        values.append(task.directional(fitted, indices, targets, direction).cpu())
    torch.testing.assert_close(values[0], values[1], rtol=1e-2, atol=1e-2)
