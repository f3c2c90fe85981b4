"""Whole cells on real photographs, with each backend. Skipped where AL_BENCHMARK_DATA does not hold them."""

import json
import os
from pathlib import Path

import pytest
import torch

from benchmark import config
from benchmark.api import Machine
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.records.store import Store
from benchmark.runner import task_loading
from benchmark.runner.events import Failure, Round
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch

DATA = Path(os.environ.get("AL_BENCHMARK_DATA", "nowhere"))
MMDET = (
    "coco[channels_last=false,epochs=1,frozen_stages=-1,max_size=128,min_size=64,model=mmdet:fcos,precision=float32,"
    "root=coco_sample,weights=none]"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "coco_sample").is_dir(), reason="needs coco_sample in AL_BENCHMARK_DATA"),
]


def own() -> str:
    """The task of grid=coco_sample."""
    [experiment] = config.compose_settings(["grid=coco_sample"]).experiments.values()
    return str(experiment["task"])


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("", id="torchvision"),
        pytest.param(MMDET, id="mmdet-fcos", marks=pytest.mark.mmdet),
    ],
)
def test_three_rounds_on_coco(task: str, tmp_path: Path) -> None:
    discovery.discover()
    spec, schedule = Spec.read("task", task or own()), Schedule(20, 10, 3, 10)
    names = ("random", "isal[depth=5]", "localization_stability")
    cells = [Cell(spec, Spec.read("strategy", name), schedule, 0) for name in names]
    tasks = task_loading.TaskLoader(Machine(torch.device("cpu"), DATA, tmp_path / "fits"))
    events = list(
        local_launch.run_locally(cells, Store(tmp_path / "run"), FitCache(tmp_path / "fits", 5.0, "cpu"), tasks)
    )
    assert [event.line for event in events if isinstance(event, Failure)] == []
    rounds = [event for event in events if isinstance(event, Round)]
    assert len(rounds) == 9
    content = json.loads((DATA / "coco_sample" / "annotations" / "instances_train2017.json").read_text())
    ids = sorted(image["id"] for image in content["images"])
    for event in rounds:
        before = [
            event_.record.bought
            for event_ in rounds
            if event_.cell == event.cell and event_.record.round <= event.record.round
        ]
        paid = {ids[number] for bought in before for number in bought}
        if event.cell.strategy.name == "isal":
            header, _ = Store(tmp_path / "run").records(event.cell.path)
            assert header is not None
            paid |= {ids[number] for number in header.held_out}
        drawn = sum(box["image_id"] in paid for box in content["annotations"])
        assert event.record.cost == {"images": len(paid), "boxes": drawn}
        assert 0 <= event.record.scores["map"] == event.record.scores["ap"] <= 1
    assert len({event.record.scores["map"] for event in rounds if event.record.round == 0}) == 1
