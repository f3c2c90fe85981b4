"""The same cells on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell

from benchmark.api import Machine, View
from benchmark.records.store import Store
from benchmark.runner import local_launch, task_loading
from benchmark.runner.events import Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.strategies.shared.influence import inverse_hessian_product, reference_gradient
from tools.device_parity import grow_boxes

pytestmark = pytest.mark.gpu
STRATEGIES = [
    "random",
    "bald",
    "coreset",
    "badge",
    "isal[depth=5,repeats=2]",
    "learning_loss",
    "discriminative[epochs=5]",
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


def test_products_of_all_chains_at_once_are_those_in_turn() -> None:
    own_cell = cell("isal[depth=5,repeats=2]")
    task = own_cell.task.plugin.build(Machine(torch.device("cuda")), own_cell.task.values)
    model, labelled = task.fit(np.arange(50), 0), np.arange(50)
    needs = {"losses", "weights", "held_out"}
    view = View(task, model, labelled, np.arange(60, 90), num_initial=50, held_out=np.arange(90, 120), needs=needs)
    v, chains = reference_gradient(view, "held_out"), np.arange(20).reshape(4, 5)
    in_turn, at_once = (
        inverse_hessian_product(view, v, chains, damping=0.1, scale=dict.fromkeys(v, 100.0), batched=together)
        for together in (False, True)
    )
    for name, tensor in in_turn.items():
        torch.testing.assert_close(at_once[name], tensor, rtol=1e-3, atol=1e-4 * tensor.abs().max().item())


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


def test_a_gpu_run_repeats_itself(tmp_path: Path) -> None:
    run_on_gpu(tmp_path / "a")
    run_on_gpu(tmp_path / "b")
    assert bytes_of(tmp_path / "a" / "run") == bytes_of(tmp_path / "b" / "run")


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
