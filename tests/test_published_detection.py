"""ISAL's detection experiments: the grids train the paper's detectors, and variants are judged as variants."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmark import config
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.options import PUBLISHED_FOLDER
from benchmark.cli.commands import app
from benchmark.experiment.grid import Experiment
from benchmark.plugins import discovery
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner.run_grid import manifest_entry

discovery.discover()
NAMES = ("voc2012_fcos", "coco_fcos", "coco_large_fcos", "coco_faster_rcnn")
SHARED = {
    "min_size": 800, "max_size": 1333, "flip": True, "frozen_stages": 1, "weights": "default", "epochs": 12,
    "batch_size": 8, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step", "milestones": "8/11",
    "warmup": 500.0, "precision": "float32", "channels_last": False, "augment": "none", "squash": 0, "dropout": 0.0,
}  # fmt: skip
FCOS = {"bias_lr": 2.0, "bias_decay": False, "warmup_kind": "constant", "warmup_ratio": 1 / 3}
RCNN = {"bias_lr": 1.0, "bias_decay": True, "warmup_kind": "linear", "warmup_ratio": 0.001, "clip": 0.0}
PAPER: dict[str, dict[str, Any]] = {  # Liu et al., 2021, section 4.2, and the code released with it
    "voc2012_fcos": {"model": "mmdet:fcos", "clip": 8.0, **FCOS},
    "coco_fcos": {"model": "mmdet:fcos", "clip": 10.0, **FCOS},
    "coco_large_fcos": {"model": "mmdet:fcos", "clip": 10.0, **FCOS},
    "coco_faster_rcnn": {"model": "mmdet:faster_rcnn", **RCNN},
}


def grid_experiment(name: str) -> Experiment:
    [experiment] = config.build_grid(config.compose_settings([f"grid={name}"])).experiments
    return experiment


@pytest.mark.parametrize("name", NAMES)
def test_the_grids_train_the_papers_detectors(name: str) -> None:
    """The networks themselves are compared with the paper's in test_mmdet.py."""
    in_paper = {item.name: item for item in config.build_grid(config.compose_settings(["grid=paper"])).experiments}
    mine = grid_experiment(name)
    assert in_paper[name] == mine
    assert set(PAPER[name].items()) <= set(asdict(mine.task.plugin.recipe(mine.task.values)).items())
    assert set(SHARED.items()) <= set(asdict(mine.task.plugin.recipe(mine.task.values)).items())
    assert mine.task.values["filter_empty"] == ("none" if name == "coco_large_fcos" else "oracle")
    isal = next(strategy for strategy in mine.strategies if strategy.name == "isal")
    scales = "1000/1000/5000/1000" if name == "coco_faster_rcnn" else "100/8000/5000"
    assert {name: isal.values[name] for name in ("min_score", "damping", "block_scales", "depth", "repeats")} == {
        "min_score": 0.1, "damping": 0.01, "block_scales": scales, "depth": 1000, "repeats": 4,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_variants_differ_in_the_detector_alone(name: str) -> None:
    mine, variant = grid_experiment(name), grid_experiment(f"{name}_torchvision")
    assert (variant.schedule, variant.seeds) == (mine.schedule, mine.seeds)
    assert [strategy.name for strategy in variant.strategies] == [strategy.name for strategy in mine.strategies]
    model = str(mine.task.values["model"]).removeprefix("mmdet:")
    assert variant.task.values == mine.task.values | {"model": model}
    assert "paper" not in variant.name
    assert config.grid_purpose(variant.name).startswith(f"Variant of grid={name} ")


def planted(folder: Path, *names: str) -> None:
    """Records of these grids whose scores are the published ones, a thousandth up and down by the seed."""
    papers = {paper.task: paper for paper in read_experiments(str(PUBLISHED_FOLDER)) if paper.source == "isal-2021"}
    store, experiments = Store(folder), [grid_experiment(name) for name in names]
    store.update_manifest("paper", [manifest_entry(experiment) for experiment in experiments])
    for experiment in experiments:
        theirs, schedule = papers[experiment.name.removesuffix("_torchvision")], experiment.schedule
        for cell in experiment.cells():
            header = Header(cell.key, cell.identity(), "data", 200_000, "map", [])
            store.start_cell(cell.path, header)
            published = theirs.curves[cell.strategy.name]
            for place, value in enumerate(published.value_SR[0, np.isfinite(published.value_SR[0])]):
                num = schedule.initial + place * schedule.budget
                first = num - schedule.budget if place else 0
                cost = {"images": float(num), "boxes": float(published.cost["boxes"][0, place])}
                score = float(value) + (cell.seed - 1) / 1000
                record = Record(place, num, list(range(first, num)), cost, {"map": score})
                seconds = {"fit": 1.0, "score": 1.0, "select": float(place > 0)}
                store.append(cell.path, record, Measured(place, seconds, False, 1.0, "cpu", {"numpy": "2"}))


def test_verify_compares_mmdet_with_the_paper_and_its_variants_not(tmp_path: Path) -> None:
    planted(tmp_path, "voc2012_fcos", "voc2012_fcos_torchvision", "coco_faster_rcnn", "coco_faster_rcnn_torchvision")
    done = CliRunner().invoke(app, ["verify", f"out={tmp_path}", "against=published", "format=json"])
    [page] = json.loads(done.stdout)
    verdicts = page["verdicts"]
    assert len(verdicts) == 2 * 5 + 2 * 3
    for row in verdicts:
        if row["task"] in NAMES:
            assert row["verdict"] == "reproduced", row
        else:
            name = row["task"].removesuffix("_torchvision")
            assert row["verdict"] == "not comparable"
            assert row["why"].startswith(f"recipe: a variant of {name}: ours ")
            assert "model=mmdet:" in row["why"].partition("published")[2]
    shown = CliRunner().invoke(app, ["tables", f"out={tmp_path}", "against=published", f"to={tmp_path / 'to'}"])
    said = " ".join(shown.stderr.split())
    assert "voc2012_fcos_torchvision: recipe: a variant of voc2012_fcos: ours voc[filter_empty=oracle,pub" in said
    assert "voc2012_fcos: recipe:" not in said
