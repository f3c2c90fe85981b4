"""`pick` with detectors and segmenters: labels that are boxes, predicted boxes as pre-annotations, no label is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_image_files import TASKS, save_object
from test_pick import BOX_CONFIG, check_label_studio

import benchmark
from benchmark.api import Boxes
from benchmark.runner.picking.picks import Picks

RECIPE = "backbone=small,channels=32,min_size=0,epochs=3,batch_size=4,precision=float32"
TASK = f"coco[root=shelf,split=0.25,train=all,images=photos,annotations=SPLIT.json,{RECIPE}]"
VOC = f"voc[root=shelf,split=0.25,images=photos,annotations=xml,first_pixel=0,{RECIPE}]"
CLASSES = ("disc", "square")
UNLABELLED = [f"new{number}.png" for number in range(10)]


def draw(path: Path, number: int) -> tuple[str, list[int]]:
    """Saves an image with one bright object; returns its class and its box x, y, width, height."""
    rng, name = np.random.default_rng(number), CLASSES[number % 2]
    pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
    x, y = rng.integers(2, 16, 2).tolist()
    pixels[y : y + 12, x : x + 12] = (250, 40, 40) if name == "disc" else (40, 40, 250)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return name, [x, y, 12, 12]


def coco_file(boxes: dict[str, tuple[str, list[int]]]) -> str:
    """The content of a COCO file with a box on each image."""
    images = [{"id": number, "file_name": name, "width": 32, "height": 32} for number, name in enumerate(boxes)]
    annotations = [
        {"id": number, "image_id": number, "category_id": CLASSES.index(name), "bbox": box, "iscrowd": 0}
        for number, (name, box) in enumerate(boxes.values())
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def voc_file(file_name: str, name: str, box: list[int]) -> str:
    """The content of a VOC file with one box, whose corners count from 0."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0], box[1], box[0] + box[2], box[1] + box[3]), strict=True)
    inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    bndbox = f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>"
    return f"<annotation><filename>{file_name}</filename>{bndbox}</annotation>"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 16 labelled images in two formats, and 10 unlabelled ones in `new`."""
    boxes = {f"{number}.png": draw(tmp_path / "shelf/photos" / f"{number}.png", number) for number in range(16)}
    (tmp_path / "shelf" / "all.json").write_text(coco_file(boxes))
    (tmp_path / "shelf" / "xml").mkdir()
    for name, (label, box) in boxes.items():
        (tmp_path / "shelf" / "xml" / f"{Path(name).stem}.xml").write_text(voc_file(name, label, box))
    for number, name in enumerate(UNLABELLED):
        draw(tmp_path / "new" / name, 100 + number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pick(strategy: str = "entropy", budget: int = 4, **settings: object) -> Picks:
    return benchmark.pick(strategy, budget, "new", **{"task": TASK, "data": ".", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [TASK, VOC])
def test_a_detector_picks_and_goes_on_with_new_boxes(folder: Path, task: str) -> None:
    first = pick(task=task, to="picks.csv")
    assert len(set(first.paths)) == 4
    assert pick(task=task).paths == first.paths
    truth = {path.name: draw(folder / "again" / path.name, 100 + int(path.stem[3:])) for path in first.paths}
    (folder / "boxes.json").write_text(coco_file(truth))
    (folder / "xml").mkdir()
    for name, (label, box) in truth.items():
        (folder / "xml" / f"{name}.xml").write_text(voc_file(name, label, [box[0], box[1], *box[2:]]))
    by_coco = pick(task=task, labelled="boxes.json", picked="picks.csv")
    assert by_coco.num_labelled == first.num_labelled + 4
    assert set(by_coco.paths).isdisjoint(first.paths)


def test_boxes_of_voc_and_coco_files_are_the_same(folder: Path) -> None:
    from benchmark.experiment.pick_settings import PickSettings
    from benchmark.runner.picking.labels import read_labels
    from benchmark.runner.picking.sources import list_unlabelled

    truth = {name: draw(folder / "again" / name, 100 + number) for number, name in enumerate(UNLABELLED[:3])}
    (folder / "boxes.json").write_text(coco_file({f"upload/{name}": entry for name, entry in truth.items()}))
    (folder / "xml").mkdir()
    for name, (label, [x, y, width, height]) in truth.items():
        one_based = [x + 1, y + 1, width - 1, height - 1]  # from the first to the last pixel, as PASCAL VOC counts
        (folder / "xml" / f"{Path(name).stem}.xml").write_text(voc_file("", label, one_based))
    files = list_unlabelled(PickSettings(strategy="random", budget=1, unlabelled="new"), None)
    by_format = [read_labels(source, files, CLASSES, None, skip=False) for source in ("boxes.json", "xml")]
    assert [sorted(labels) for labels in by_format] == [[0, 1, 2]] * 2
    for position, name in enumerate(UNLABELLED[:3]):
        label, [x, y, width, height] = truth[name]
        for labels in by_format:
            boxes = labels[position]
            assert isinstance(boxes, Boxes)
            assert boxes.corners_M4.tolist() == [[x, y, x + width, y + height]]
            assert [CLASSES[number] for number in boxes.labels_M.tolist()] == [label]


def test_a_class_that_the_model_has_not_is_named(folder: Path) -> None:
    (folder / "boxes.json").write_text(coco_file({"new0.png": ("disc", [1, 1, 5, 5])}).replace('"disc"', '"disk"'))
    with pytest.raises(ValueError, match=r"boxes.json: the task has no class called 'disk' \(did you mean 'disc'\?\)"):
        pick(labelled="boxes.json")
    (folder / "labels.csv").write_text("path,label\nnew0.png,disc\n")
    with pytest.raises(ValueError, match="a class cannot be the label of an image of a detection task"):
        pick(labelled="labels.csv")


def test_predicted_boxes_are_pre_annotations(folder: Path) -> None:
    """Also where the strategy needs no model: the format asks for predictions."""
    coco = pytest.importorskip("faster_coco_eval").COCO
    picks = pick("random", to="picks.json", format="coco", min_score=0.05)
    boxes = [(pick, thing) for pick in picks.picks for thing in pick.predictions]
    assert boxes
    assert all(thing.confidence >= 0.05 for _, thing in boxes)
    content = coco("picks.json")
    assert [content.imgs[rank]["file_name"] for rank in range(1, 5)] == [pick.name for pick in picks.picks]
    assert sorted(category["name"] for category in content.cats.values()) == list(CLASSES)
    for annotation, (chosen, thing) in zip(content.dataset["annotations"], boxes, strict=True):
        assert thing.corners is not None
        x1, y1, x2, y2 = thing.corners
        assert annotation["image_id"] == chosen.rank
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert content.cats[annotation["category_id"]]["name"] == thing.label
    assert not any(pick.predictions for pick in pick("random", to="none.json", format="coco", min_score=1.0).picks)


def test_label_studio_takes_boxes_in_per_cent(folder: Path) -> None:
    picks = pick("random", to="tasks.json", format="labelstudio", min_score=0.05)
    tasks = json.loads(Path("tasks.json").read_text())
    results = [result for task in tasks for entry in task.get("predictions", []) for result in entry["result"]]
    things = [thing for pick in picks.picks for thing in pick.predictions]
    for result, thing in zip(results, things, strict=True):
        assert thing.corners is not None
        share = [corner / 32 * 100 for corner in thing.corners]
        value = result["value"]
        corners = [value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]]
        assert corners == pytest.approx(share, abs=1e-3)


def test_label_studios_own_library_accepts_the_boxes(folder: Path) -> None:
    pick("random", to="tasks.json", format="labelstudio", min_score=0.05)
    check_label_studio("tasks.json", BOX_CONFIG)


# --- no label of the added images is read -------------------------------------------------------------------
LABEL_READERS: dict[str, Callable[[Any, Any, np.ndarray[Any, Any]], object]] = {
    "labels": lambda task, model, which: task.labels(model, which),
    "losses": lambda task, model, which: task.losses(model, which),
    "fit": lambda task, model, which: task.fit(which, 0),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("reader", LABEL_READERS)
def test_what_reads_a_label_of_an_added_image_raises(tmp_path: Path, name: str, reader: str) -> None:
    write, build = TASKS[name]
    write(tmp_path / "data")
    task = build(tmp_path, "turn")
    paths = [tmp_path / "new" / f"{number}.jpg" for number in range(2)]
    for number, path in enumerate(paths):
        save_object(path, 6, 50 + number)
    extended = task.with_images(paths, {})
    added, model = np.array([task.num_pool, task.num_pool + 1]), extended.model()
    assert extended.num_pool == task.num_pool + 2 != task.num_pool
    assert extended.fingerprint != task.fingerprint
    assert extended.predict(model, added).num_images == 2
    assert len(extended.embed(model, added)) == 2
    with pytest.raises(PermissionError, match=f"image {task.num_pool} of the pool has no label"):
        LABEL_READERS[reader](extended, model, added)
    with pytest.raises(PermissionError):
        extended.annotations()
    LABEL_READERS["losses"](extended, model, np.arange(task.num_pool))  # those of the task's own images are there
    names = [file_name for file_name, _ in extended.source_files()["pool"]]
    assert [Path(file_name).name for file_name in names[-2:]] == ["0.jpg", "1.jpg"]


def test_a_segmenter_picks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TASKS["cityscapes"][0](tmp_path / "data")
    for number in range(5):
        save_object(tmp_path / "new" / f"{number}.png", 1, 50 + number)
    task = "cityscapes[root=data,model=small,epochs=1,batch_size=2,crop=0]"
    picks = benchmark.pick("margin", 3, "new", task=task, data=".")
    assert len(set(picks.paths)) == 3
    assert benchmark.pick("margin", 3, "new", task=task, data=".").paths == picks.paths
    (tmp_path / "labels.csv").write_text("path,label\n0.png,road\n")
    with pytest.raises(ValueError, match="neither classes nor boxes are label maps"):
        benchmark.pick("margin", 3, "new", task=task, data=".", labelled="labels.csv")


def test_a_pose_estimator_picks_and_takes_no_boxes_as_labels(folder: Path) -> None:
    plugins = Path(__file__).parent / "plugins"
    settings = {"task": "few_figures[epochs=1]", "plugins": str(plugins)}
    first = pick("coreset", **settings)
    assert len(set(first.paths)) == 4
    assert (first.num_labelled, first.num_unlabelled) == (60, 10)
    assert pick("coreset", **settings).paths == first.paths
    (folder / "boxes.json").write_text(coco_file({"new0.png": ("disc", [2, 2, 12, 12])}))
    with pytest.raises(ValueError, match="disc"):
        pick("coreset", labelled="boxes.json", **settings)
