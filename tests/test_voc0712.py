"""PASCAL VOC 2007 and 2012 as one pool, from small folders of the same layout."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import MEAN_AP_VOC07, Machine, Scores
from benchmark.plugins import discovery, registry
from benchmark.tasks import scenes
from benchmark.tasks.voc0712 import voc0712
from benchmark.vision.data.annotations import ConcatenatedImages, GroundTruth, ImageFiles, Split, concatenate_splits
from benchmark.vision.detection.detection_set import DetectionSet
from benchmark.vision.detection.recipe import PUBLISHED_SSD300, DetectorRecipe
from benchmark.vision.detection.scores import DetectionArrays
from benchmark.vision.detection.task import Detection

discovery.discover()
CPU = torch.device("cpu")
Thing = tuple[str, tuple[int, int, int, int], int]  # class, sides as VOC counts them, difficult
POOL_2007: dict[str, list[Thing]] = {"b": [("dog", (1, 1, 40, 30), 0)], "a": [], "c": [("cat", (2, 3, 20, 21), 1)]}
TEST_2007: dict[str, list[Thing]] = {"t": [("sheep", (3, 3, 9, 9), 0), ("cat", (5, 5, 20, 20), 1)]}
POOL_2012: dict[str, list[Thing]] = {
    "c": [("sheep", (11, 1, 30, 12), 0), ("cat", (1, 1, 5, 5), 0)],
    "b": [("cat", (6, 6, 12, 12), 0)],
}


def refused(message: str) -> Any:
    """Expects a ValueError whose message is one line that contains `message`."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{re.escape(message)}[^\n]*\Z")


def write_year(folder: Path, seed: int, **splits: dict[str, list[Thing]]) -> None:
    """Writes the folder of one year, with noise images of 48 x 36 pixels."""
    rng = np.random.default_rng(seed)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, images in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images))
        for name, things in images.items():
            pixels = rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.png")
            inside = ""
            for label, sides, difficult in things:
                box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True))
                inside += (
                    f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
                )
            (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{inside}</annotation>")


def write_both_years(root: Path) -> Path:
    """Writes both years with the same image names."""
    write_year(root / "VOC2007", 1, trainval=POOL_2007, test=TEST_2007)
    write_year(root / "VOC2012", 2, trainval=POOL_2012)
    return root


def small(**changed: Any) -> DetectorRecipe:
    recipe = dataclasses.replace(scenes.DEFAULT, model="ssd300", squash=64, epochs=1, batch_size=2, warmup=0.0)
    return dataclasses.replace(recipe, **changed)


def build_task(data: Path, **parameters: Any) -> Any:
    """Builds the task with a small recipe."""
    return voc0712(Machine(CPU, data), small(), **parameters)


@pytest.mark.parametrize("place", [".", "VOCdevkit"])
def test_2007_comes_first_and_each_year_has_its_own_images(place: str, tmp_path: Path) -> None:
    write_both_years(tmp_path / place)
    task = build_task(tmp_path)
    assert (task.num_pool, task.num_test(), list(task.classes)) == (5, 1, ["cat", "dog", "sheep"])
    paths = [f"VOC2007/JPEGImages/{name}.png" for name in "bac"] + [f"VOC2012/JPEGImages/{name}.png" for name in "cb"]
    for number, path in enumerate(paths):
        pixels = np.array(Image.open(tmp_path / place / path))
        assert np.array_equal(task._pool.images[number].permute(1, 2, 0), pixels)
    boxes = task.labels(None, np.arange(5))
    assert [image_boxes.labels_M.tolist() for image_boxes in boxes] == [[1], [], [], [2, 0], [0]]
    assert boxes[3].corners_M4.tolist() == [[10, 0, 30, 12], [0, 0, 5, 5]]
    assert task._test.truth.boxes_of(0).corners_M4.tolist() == [[2, 2, 9, 9]]


def test_difficult_boxes_are_paid_for_and_learnt_from_only_where_asked(tmp_path: Path) -> None:
    write_both_years(tmp_path)
    plain, all_of_them = build_task(tmp_path), build_task(tmp_path, difficult=True)
    assert len(plain.labels(None, np.array([2]))[0]) == 0
    assert all_of_them.labels(None, np.array([2]))[0].corners_M4.tolist() == [[1, 2, 20, 21]]
    assert (len(plain._test.truth.boxes_of(0)), len(all_of_them._test.truth.boxes_of(0))) == (1, 2)
    assert plain.cost(np.arange(5)) == all_of_them.cost(np.arange(5)) == {"images": 5.0, "boxes": 5.0}


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    site = "http://host.robots.ox.ac.uk/pascal/VOC"
    with refused(f"{tmp_path} has no VOC2007, no VOCdevkit/VOC2007: unpack {site}/voc2007/VOCtrainval_06-Nov-2007.tar"):
        build_task(tmp_path)
    write_year(tmp_path / "VOC2007", 1, trainval=POOL_2007, test=TEST_2007)
    with refused(f"{tmp_path} has no VOC2012, no VOCdevkit/VOC2012: unpack {site}/voc2012/VOCtrainval_11-May-2012"):
        build_task(tmp_path)
    with refused(f"{tmp_path}/VOC2007 has no VOC2007, no VOCdevkit/VOC2007: unpack"):
        build_task(tmp_path, root="VOC2007")
    write_year(tmp_path / "VOC2012", 2, trainval={"c": [("cat", (1, 1, 5, 5), 0)]})
    with refused("trainval.txt: no image of the pool has a 'sheep', but some of the test set have"):
        build_task(tmp_path)
    with refused("set data=DIR or $AL_BENCHMARK_DATA, and unpack"):
        voc0712(Machine(CPU), small())


def test_it_is_fitted_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Detection = build_task(write_both_years(tmp_path))
    assert task.metric == MEAN_AP_VOC07
    model = task.fit(np.array([4, 0, 3]), 0)
    assert set(task.score(model)) >= {"voc07_map", "map", "ap", "ap50", "ap75", "voc_map"}
    scores = Scores({"ap": 0.1, "ap50": 0.2, "ap75": 0.3}, {})
    monkeypatch.setattr("benchmark.vision.detection.task.coco_scores", lambda *_: scores)
    assert task.score(model)["map"] == 0.2
    predictions = task.predict(model, np.arange(5))
    assert predictions.boxes_P4 is not None
    assert (predictions.boxes_P4[:, [0, 2]] <= 48.001).all()
    assert (predictions.boxes_P4[:, [1, 3]] <= 36.001).all()


def test_the_score_is_that_of_2007_in_per_cent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sheep is found, before a wrong one; the cat is difficult and has no score unless asked for."""
    write_both_years(tmp_path)
    task: Detection = build_task(tmp_path)
    sheep = torch.tensor([[2.0, 2, 9, 9], [30, 30, 40, 40]])
    detections = DetectionArrays(
        np.zeros(3, np.int64), np.array([2, 2, 0]), np.array([0.9, 0.8, 0.7]),
        np.concatenate([sheep.double().numpy(), [[4.0, 4, 20, 20]]]),
    )  # fmt: skip
    monkeypatch.setattr(DetectionSet, "to_arrays", lambda _: detections)
    scores = task.score(task.model())
    assert (scores["voc07_map"], scores["voc_map"]) == (100, 1)
    assert scores.by_class["voc07_ap"] == {"sheep": 100}
    every = build_task(tmp_path, difficult=True).score(task.model())
    assert every.by_class["voc07_ap"] == {"cat": 100, "sheep": 100}


def test_the_published_recipe_is_ssd300s() -> None:
    plugin = registry.get("task", "voc0712")
    assert plugin.recipes[True] == PUBLISHED_SSD300
    assert "proposals" not in plugin.capabilities(plugin.bind({"published": True}))
    assert plugin.bind({"published": True})["difficult"] is False


# --- splits one after the other -------------------------------------------------------------------
def test_joined_splits_against_a_plain_loop(tmp_path: Path) -> None:
    rng, splits = np.random.default_rng(0), []
    for part, number in enumerate((3, 1, 4)):
        (tmp_path / str(part)).mkdir()
        names = [f"{image}.png" for image in range(number)]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(tmp_path / str(part) / name)
        image_B = rng.integers(0, number, 6)
        labels_B, ignored_B = rng.integers(0, 5, 6), rng.random(6) < 0.3
        truth = GroundTruth.from_boxes(image_B, rng.random((6, 4), np.float32), labels_B, ignored_B, number)
        splits.append(Split(ImageFiles(tmp_path / str(part), names, np.zeros((number, 2), np.int64)), truth))
    whole = concatenate_splits(splits)
    assert len(whole.images) == len(whole.truth) == 8
    pairs = [(split, number) for split in splits for number in range(len(split.truth))]
    for place, (split, number) in enumerate(pairs):
        assert torch.equal(whole.images[place], split.images[number])
        assert torch.equal(whole.truth.boxes_of(place).corners_M4, split.truth.boxes_of(number).corners_M4)
        assert torch.equal(whole.truth.boxes_of(place).labels_M, split.truth.boxes_of(number).labels_M)
        assert whole.truth.num_annotated_boxes(np.array([place])) == split.truth.num_annotated_boxes(np.array([number]))
    prints = {
        ConcatenatedImages([split.images for split in some]).fingerprint
        for some in (splits, splits[::-1], splits[:2], splits[1:])
    }
    assert len(prints) == 4
