"""A run on a CPU says at its start how long it will take, and which settings take less time."""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _cells import cell

from benchmark.api import Machine
from benchmark.experiment.cell import Cell
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner.forecast import LongRunWarner, cpu_task_label
from benchmark.system import activity
from benchmark.system.activity import Stage

CPU = Machine(torch.device("cpu"))


def lines_after(
    cells: Sequence[Cell], seconds: float, images: int, epochs: int, monkeypatch: pytest.MonkeyPatch, num_jobs: int = 1
) -> list[str]:
    """Returns what is said after a fit that has gone through so many images in that time, here or in a worker."""
    lines, label = list[str](), cells[0].task.label
    tasks: Any = SimpleNamespace(by_label={label: None} if num_jobs == 1 else {})
    listener = LongRunWarner({each: each.schedule.rounds for each in cells}, tasks, lines.append, num_jobs)
    now = [100.0]
    monkeypatch.setattr(activity.time, "monotonic", lambda: now[0])
    fit = Stage(listener, "fitting", 10**9, "images", epochs)
    fit.worker, fit.task = (0, "") if num_jobs == 1 else (1, label)
    now[0] += seconds
    fit.advance(images)
    fit.advance(0)
    now[0] += 1
    fit.advance(images // 10)
    return lines


def test_a_long_run_is_told_once_with_a_recipe_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery.discover()
    label = "image_folder[root=birds,size=64]"
    cells = [cell(name, task=label, initial=100, budget=50, rounds=3, validation=0) for name in ("random", "margin")]
    # 100 images once, 150 and 200 twice: 800 of 200 epochs
    small = "image_folder[batch_size=32,epochs=20,precision=float32,root=birds,size=64,warmup=0.2,width=16]"
    assert lines_after(cells, 10, 80, 200, monkeypatch) == [
        f"{label}: 5 fits of 200 epochs take about 5.6 hours on this CPU, at 8 images/s; "
        f"smaller, for a CPU: 'tasks=[{small}]'"
    ]


def test_a_long_run_of_two_processes_takes_half_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery.discover()
    cells = [cell(name, task="digits[epochs=200]", rounds=3) for name in ("random", "margin")]
    alone, side_by_side = (lines_after(cells, 10, 1, 200, monkeypatch, num_jobs) for num_jobs in (1, 2))
    [hours], [half] = (
        [float(re.search(r"about ([\d.]+) hours", line)[1]) for line in lines] for lines in (alone, side_by_side)
    )  # type: ignore[index]
    assert half == pytest.approx(hours / 2, rel=0.05)
    assert "on this CPU in 2 processes, at 0.1 images/s" in side_by_side[0]


def test_a_short_run_and_a_short_fit_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery.discover()
    cells = [cell("random", task="digits", rounds=3)]
    assert lines_after(cells, 20, 10_000, 30, monkeypatch) == []
    assert lines_after(cells, 5, 1, 200, monkeypatch) == []


@pytest.mark.parametrize(
    ("task", "fits"),
    [
        ("image_folder[root=birds]", "batch_size=32,epochs=20,precision=float32,root=birds,warmup=0.2,width=16"),
        (
            "image_folder[root=birds,model=torchvision:resnet50,published=true]",
            "batch_size=32,epochs=20,.*root=birds,.*width=16",
        ),
        ("coco[root=birds]", "backbone=small,channels=32,epochs=30,lr=0.02,max_size=256,min_size=96,.*root=birds"),
        ("voc[root=steel,model=faster_rcnn,year=2007]", "backbone=small,.*root=steel,year=2007"),
        ("cityscapes[size=128]", "batch_size=4,crop=96,epochs=32,lr=0.03,model=small,precision=float32,size=128"),
        ("image_folder[root=birds,width=16,epochs=20]", None),
        ("scenes", None),
        ("scene_masks", None),
        ("digits[epochs=5]", None),
    ],
)
def test_the_recipe_for_cpus_keeps_the_data_and_is_sound(task: str, fits: str | None) -> None:
    discovery.discover()
    label = cpu_task_label(Spec.read("task", task))
    if fits is None:
        assert label == ""
        return
    assert re.search(rf"\[{fits}", label), label
    spec = Spec.read("task", label)
    assert spec.plugin.recipe(spec.values) is not None  # no setting is refused beside another
    assert cpu_task_label(spec) == ""


def test_purchases_by_the_box_are_at_least_the_initial_images(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery.discover()
    schedule = {"initial": 100, "budget": 5000, "budget_in": "boxes", "validation": 0}
    cells = [cell("random", task="coco[root=birds]", rounds=2, **schedule)]
    (line,) = lines_after(cells, 10, 5, 12, monkeypatch)
    assert line.startswith(
        "coco[root=birds]: 2 fits of 12 epochs take at least 1.3 hours on this CPU, at 0.5 images/s;"
    )


def test_a_task_without_a_recipe_has_none_for_cpus() -> None:
    discovery.discover()
    assert cpu_task_label(cell("random", task="shelf").task) == ""
