"""What tasks need and a machine does not have: a dry run lists it, and a run goes on without it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.api import Machine
from benchmark.cli.commands import app
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.detection import mmdet_settings

discovery.discover()
DETECTION = ["voc2012_fcos", "coco_fcos", "coco_large_fcos", "coco_faster_rcnn"]
ONE_CELL = ["strategies=[random]", "seeds=1", "initial=20", "budget=5", "rounds=1", "validation=0", "device=cpu"]
SCENES = "scenes[backbone=resnet50,channels=256,model=mmdet:fcos]"
WITHOUT = f"{SCENES}: mmdet is not installed: type make mmdet (compiles mmcv for about ten minutes)"


@pytest.fixture
def without_mmdet(monkeypatch: pytest.MonkeyPatch) -> None:
    find = mmdet_settings.find_spec
    monkeypatch.setattr(mmdet_settings, "find_spec", lambda name: None if name == "mmdet" else find(name))


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["run", *words])


def missing_lines(output: str) -> dict[str, tuple[list[str], str]]:
    """What is missing: who needs it, and where it comes from."""
    lines = [line for line in output.splitlines() if line.startswith("missing: ")]
    parts = [re.fullmatch(r"missing: ([^(]*) \((.*?)\): (.*)", line) for line in lines]
    return {part[1]: (part[2].split(", "), part[3]) for part in parts if part}


@pytest.mark.usefixtures("without_mmdet")
def test_a_dry_run_of_the_paper_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, without data, without mmdet and without a download; and what is missing, with its source."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run downloads nothing")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("AL_BENCHMARK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "10000")
    done = invoke("grid=paper", "dry_run=true", "device=cpu", "format=json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert sum(row["cells"] for row in rows) == 174
    assert sum(row["rounds"] for row in rows) == 1980
    assert sum(row["fits"] for row in rows) == 1873
    assert all(row["fit h"] is None for row in rows)
    assert "174 cells, 1,980 rounds, 1,873 fits (107 of 1,980 fits are shared): hours are not known" in done.stderr
    missing = missing_lines(done.stderr)
    ablations = ["ablation_k", "ablation_reference", "ablation_similarity"]
    assert {name: needed_by for name, (needed_by, _) in missing.items()} == {
        "CIFAR-10": ["cifar10", "cifar10_large", *ablations], "CIFAR-100": ["cifar100"],
        "SVHN": ["svhn_as_published", "svhn"], "mmdet": DETECTION, "PASCAL VOC 2012": DETECTION[:1],
        "COCO 2017": DETECTION[1:],
    }  # fmt: skip
    assert missing["mmdet"][1] == "type make mmdet (compiles mmcv for about ten minutes)"
    assert missing["CIFAR-10"][1].endswith("/cifar-10-python.tar.gz to DIR; set data=DIR")
    assert missing["PASCAL VOC 2012"][1].endswith("/VOCtrainval_11-May-2012.tar in DIR; set data=DIR")
    assert "annotations_trainval2017.zip in DIR/coco; set data=DIR" in missing["COCO 2017"][1]


@pytest.mark.usefixtures("without_mmdet")
def test_a_run_goes_on_without_a_package(tmp_path: Path) -> None:
    words = [f"tasks=[{SCENES},digits[epochs=1]]", *ONE_CELL, f"out={tmp_path}"]
    done = invoke(*words)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 1
    assert said.count(f"{WITHOUT}; the rest runs without it") == 1
    assert said.count("is not installed") == 2  # at the beginning, and among the failures at the end
    assert f"failed: {WITHOUT}" in said
    assert len(list(tmp_path.glob("cells/**/*.jsonl"))) == 1
    [trace] = tmp_path.glob("failures/**/*.txt")
    assert "mmdet is not installed" in trace.read_text()


@pytest.mark.usefixtures("without_mmdet")
def test_where_nothing_can_run_that_is_the_error(tmp_path: Path) -> None:
    done = invoke(f"tasks=[{SCENES}]", *ONE_CELL, f"out={tmp_path}")
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == WITHOUT
    assert "is not installed" not in done.stderr


@pytest.mark.parametrize(
    ("label", "files"),
    [
        ("cifar10", ["cifar-10-batches-py/batches.meta"]),
        ("cifar100", ["cifar-100-python.tar.gz"]),
        ("svhn", ["svhn/train_32x32.mat", "svhn/test_32x32.mat"]),
        ("svhn_as_published", ["svhn/train_32x32.mat", "svhn/test_32x32.mat"]),
        ("voc", ["VOCdevkit/VOC2012/ImageSets/Main/train.txt"]),
        ("voc[root=neu_det]", ["neu_det/Annotations/a.xml"]),
        ("voc0712", ["VOC2007/ImageSets/Main/trainval.txt", "VOC2012/ImageSets/Main/trainval.txt"]),
        ("coco", ["coco/annotations/instances_train2017.json"]),
        ("coco[root=mine]", ["mine/a.json"]),
        ("tiny_imagenet", ["tiny-imagenet-200/val/val_annotations.txt"]),
        ("oxford_pet", ["oxford-iiit-pet/annotations/trainval.txt"]),
        ("cityscapes", ["cityscapes/gtFine/train/a.png"]),
    ],
)
def test_a_data_set_is_missing_until_it_is_there(
    label: str, files: list[str], tmp_path: Path, machine: Machine
) -> None:
    spec, here = Spec.read("task", label), Machine(machine.device, data=tmp_path)
    assert spec.plugin.find_missing(Machine(machine.device), spec.values)
    for file in files:
        assert [str(tmp_path) in part.source for part in spec.plugin.find_missing(here, spec.values)][-1]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert spec.plugin.find_missing(here, spec.values) == []


def test_every_task_of_a_grid_tells_what_it_needs_or_needs_nothing(machine: Machine) -> None:
    """Without a data folder, a task that reads files says so before it is built."""
    from benchmark import config
    from benchmark.plugins.paths import grid_names

    own = {"image_folder"}  # it reads a folder of the user's
    for name in grid_names():
        for experiment in config.build_grid(config.compose_settings([f"grid={name}"])).experiments:
            spec = experiment.task
            if "root" in spec.values and spec.name not in own:
                assert spec.plugin.find_missing(Machine(machine.device), spec.values), spec.label
