"""The reader of COCO's persons with keypoints, and the task `coco_keypoints`, on files made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.data.annotations import ImageFiles
from benchmark.vision.data.coco_keypoints import AREA_OF_BOX, COCO_SIGMAS, read_coco_keypoints
from benchmark.vision.data.poses import Poses, PoseTruth
from benchmark.vision.keypoints.task import PoseEstimation

discovery.discover()
NAMES = ["nose", "left_eye", "right_eye"]
NOTHING = [0] * 9


def person(image: int, keypoints: Any, **other: Any) -> dict[str, Any]:
    own = {"id": 0, "image_id": image, "category_id": 1, "bbox": [2, 3, 20, 30], "iscrowd": 0, "area": 300.5}
    return own | {"keypoints": keypoints, "num_keypoints": sum(v > 0 for v in keypoints[2::3])} | other


def content() -> dict[str, Any]:
    """Images of 40 x 50 pixels, not in the order of their ids; the persons of image 7 lie apart in the file."""
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 50} for number in (9, 7, 8)],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2]]}],
        "annotations": [
            person(7, [5, 6, 2, 7, 8, 1, 0, 0, 0]),
            person(9, NOTHING, num_keypoints=0),
            person(7, [11, 12, 2, 13, 14, 2, 15, 16, 2], bbox=[10, 10, 10, 10], area=None),
            person(8, NOTHING, iscrowd=1, bbox=[0, 0, 39, 20]),
            person(8, [20, 20, 2, 21, 21, 2, 22, 22, 2]),
        ],
    }


def write(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, split: str = "train2017") -> Path:
    rng = np.random.default_rng(len(split))
    (folder / split).mkdir(parents=True, exist_ok=True)
    written = content()
    for image in written["images"]:
        image["file_name"] = image["file_name"].replace(".", "." if split == "train2017" else "v.")
        Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(folder / split / image["file_name"])
    change(written)
    path = folder / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(written))
    return path


def read(path: Path, sigmas: str | None = None) -> PoseTruth:
    split, names = read_coco_keypoints(path, path.parent.parent / "train2017", sigmas=sigmas)
    assert names == ["person"]
    assert isinstance(split.images, ImageFiles)
    assert list(split.images.names) == ["7.png", "8.png", "9.png"]
    assert isinstance(split.truth, PoseTruth)
    return split.truth


def test_persons_come_with_their_keypoints(tmp_path: Path) -> None:
    truth = read(write(tmp_path))
    first, second = truth.boxes_of(0), truth.boxes_of(1)
    assert isinstance(first, Poses)
    assert first.corners_M4.tolist() == [[2, 3, 22, 33], [10, 10, 20, 20]]
    assert first.keypoints_MJ3[0].tolist() == [[5, 6, 2], [7, 8, 1], [0, 0, 0]]
    assert first.keypoints_MJ3[1].tolist() == [[11, 12, 2], [13, 14, 2], [15, 16, 2]]
    assert second.keypoints_MJ3.tolist() == [[[20, 20, 2], [21, 21, 2], [22, 22, 2]]]  # without the crowd
    assert truth.num_keypoints_B.tolist() == [2, 3, 0, 3, 0]
    assert truth.ignored_B.tolist() == [False, False, True, False, False]
    assert truth.areas_B.tolist() == pytest.approx([300.5, AREA_OF_BOX * 100, 300.5, 300.5, 300.5])
    assert truth.num_labelled_keypoints(np.array([0, 2])) == 5
    assert len(truth.boxes_of(2)) == 1  # without a labelled keypoint, and still an instance


def test_skeletons_have_names_sigmas_and_mirrors(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert read(path).skeleton.sigmas == (0.026, 0.025, 0.025)
    assert read(path).skeleton.mirror == (0, 2, 1)
    assert read(path, "0.05").skeleton.sigmas == (0.05,) * 3
    assert read(path, "0.1/0.2/0.3").skeleton.sigmas == (0.1, 0.2, 0.3)


def test_sigmas_are_those_of_the_evaluator() -> None:
    from faster_coco_eval.core.cocoeval import Params

    assert list(COCO_SIGMAS.values()) == pytest.approx(Params(iouType="keypoints").kpt_oks_sigmas.tolist())


def test_keypoints_outside_the_image_count_as_not_labelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def move_out(written: dict[str, Any]) -> None:
        written["annotations"][0]["keypoints"] = [40, 50, 2, 41, 8, 2, 3, -1, 1]

    truth = read(write(tmp_path, move_out))
    assert truth.boxes_of(0).keypoints_MJ3[0].tolist() == [[40, 50, 2], [0, 0, 0], [0, 0, 0]]
    [line] = [record.getMessage() for record in caplog.records if "outside their" in record.getMessage()]
    assert "of 9 labelled keypoints 2 outside their image count as not labelled (the first in 7.png)" in line


def test_boxes_without_area_take_their_keypoints_with_them(tmp_path: Path) -> None:
    truth = read(write(tmp_path, lambda written: written["annotations"][0].update(bbox=[5, 5, 0, 10])))
    assert truth.boxes_of(0).keypoints_MJ3.tolist() == [[[11, 12, 2], [13, 14, 2], [15, 16, 2]]]
    assert truth.num_keypoints_B.tolist() == [3, 0, 3, 0]


def test_a_person_without_the_key_has_no_labelled_keypoint(tmp_path: Path) -> None:
    truth = read(write(tmp_path, lambda written: written["annotations"][0].pop("keypoints")))
    assert truth.num_keypoints_B.tolist() == [0, 3, 0, 3, 0]


def test_a_wrong_count_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = read(write(tmp_path, lambda written: written["annotations"][0].update(num_keypoints=3)))
    assert truth.num_keypoints_B[0] == 2
    [line] = [record.getMessage() for record in caplog.records]
    assert "num_keypoints of 1 annotations is not the number" in line


def set_keypoints(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(written: dict[str, Any]) -> None:
        written["annotations"][0]["keypoints"] = value

    return change


@pytest.mark.parametrize(
    ("change", "sigmas", "message"),
    [
        (set_keypoints([1, 2, 2]), None, "keypoints are 3 numbers, not 9: x, y and visibility of 3"),
        (set_keypoints("some"), None, "keypoints are 'some', not 9"),
        (set_keypoints([1, 2, 3, *NOTHING[3:]]), None, "the visibility 3 of a keypoint is not 0, 1 or 2"),
        (set_keypoints([1, None, 2, *NOTHING[3:]]), None, r"keypoints \[1, None, .* are not finite numbers"),
        (set_keypoints([1, float("nan"), 2, *NOTHING[3:]]), None, "are not finite numbers"),
        (lambda w: w["categories"].append({"id": 2, "name": "dog"}), None, r"has 2 categories \(person, dog"),
        (lambda w: w["categories"][0].pop("keypoints"), None, "category person has no list `keypoints` of names"),
        (lambda w: w["categories"][0].update(keypoints=["a", "a", "b"]), None, "the keypoint a occurs twice"),
        (lambda w: w["categories"][0].update(keypoints=["nose", "tail", "paw"]), None, "tail .* set sigmas=0.05"),
        (lambda w: w["annotations"][0].update(category_id=5), None, "category_id 5 is the id of no category"),
        (lambda _: None, "0.1/0.2", "sigmas=0.1/0.2: must be a number above 0, or 3 of them"),
        (lambda _: None, "wide", "sigmas=wide: must be"),
        (lambda _: None, "0", "sigmas=0: must be"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line(tmp_path: Path, change: Any, sigmas: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path, change), sigmas)
    assert "\n" not in str(caught.value)


# --- the task -------------------------------------------------------------------------------------
def build(root: Path, parameters: str = "") -> PoseEstimation:
    label = f"coco_keypoints[root={root},backbone=small,channels=32,min_size=0,precision=float32{parameters}]"
    spec = Spec.read("task", label)
    task = spec.plugin.build(Machine(torch.device("cpu")), spec.values)
    assert isinstance(task, PoseEstimation)
    return task


def test_the_task_reads_both_splits(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write(tmp_path, split=split)
    task = build(tmp_path)
    assert (task.num_pool, task.num_test(), list(task.classes)) == (3, 3, ["person"])
    assert task.cost(np.arange(3)) == {"images": 3.0, "boxes": 5.0, "keypoints": 8.0}
    assert build(tmp_path, ",filter_empty=oracle").num_pool == 3  # a person without keypoints is a person


def test_images_without_persons_leave_the_pool_only_on_demand(tmp_path: Path) -> None:
    write(tmp_path, lambda written: written["annotations"].pop(1))
    write(tmp_path, split="val2017")
    assert build(tmp_path).num_pool == 3
    assert build(tmp_path, ",filter_empty=oracle").num_pool == 2


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"has no annotations/person_keypoints_val2017\.json") as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    assert "set root=, annotations=" in str(caught.value)
    assert "Try " not in str(caught.value)  # a task that reads boxes


def test_a_test_set_without_labelled_keypoints_is_one_line(tmp_path: Path) -> None:
    def hide(written: dict[str, Any]) -> None:
        for annotation in written["annotations"]:
            annotation.update(keypoints=NOTHING, num_keypoints=0)

    write(tmp_path)
    write(tmp_path, hide, split="val2017")
    with pytest.raises(ValueError, match="none of the 5 persons of the test set has a labelled keypoint"):
        build(tmp_path)
