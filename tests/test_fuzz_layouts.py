"""Random label maps, lists of labels and folder layouts: read correctly, refused in one line, or reported."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  what its import changes is not a reader's doing
from _fuzz import SIZES, befall, corpus, damaged, folder, judged, picture, size_of
from hypothesis import strategies as st
from PIL import Image

from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.tasks.cityscapes import cityscapes
from benchmark.tasks.oxford_pet import oxford_pet
from benchmark.tasks.tiny_imagenet import tiny_imagenet
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.data import image_checks, label_maps, layouts
from benchmark.vision.data.annotations import image_scans
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.segmentation.recipe import SegmenterRecipe

CPU = torch.device("cpu")


class StandInTask:
    """Stands in for a task: checks its data as the task does and keeps them."""

    def __init__(self, machine: Machine, recipe: Any, pool: Any, test: Any, *classes: Any, **more: Any) -> None:
        self.pool, self.test = pool, test
        if isinstance(pool, label_maps.Split):
            label_maps.check_has_labels(pool, test)
            self.fingerprint = pool.fingerprint + test.fingerprint
        scans = [split.scans if hasattr(split, "scans") else image_scans(split.images) for split in (pool, test)]
        report_sources(*scans, more.get("root"))


@pytest.fixture(autouse=True, scope="module")
def harness() -> Iterator[None]:
    """Replaces the tasks, and switches the cache of scans off."""
    discovery.discover()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_checks, "load_scans", lambda keys: {})
        patch.setattr(image_checks, "save_scans", lambda scans: None)
        for name in ("cityscapes.Segmentation", "oxford_pet.build_task", "tiny_imagenet.build_task"):
            patch.setattr(f"benchmark.tasks.{name}", StandInTask)
        yield


# --- label maps -------------------------------------------------------------------------------
MODES = ["L", "P", "1", "LA", "RGB", "RGBA", "I;16"]


def mask(path: Path, mode: str = "L", side: int = 8, value: int = 7) -> None:
    """Writes a label map of one class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (side, side), value)
    (image if mode == "L" else image.convert(mode)).save(path)


def maps_judged(data: st.DataObject) -> str:
    """Tries one random data set in the layout of Cityscapes."""
    with folder() as root:
        for part in ("train", "val"):
            for number in range(2):
                picture(root / "leftImg8bit" / part / "a" / f"a_{number}_leftImg8bit.png", len(part) + number)
                mask(root / "gtFine" / part / "a" / f"a_{number}_gtFine_labelIds.png", value=7 + number)
        path = root / "gtFine" / "train" / "a" / "a_0_gtFine_labelIds.png"
        damage = data.draw(st.sampled_from(["mode", "value", "side", "bytes", "files", "files", "kind"]))
        if damage in ("mode", "value", "side"):
            mask(
                path,
                mode=data.draw(st.sampled_from(MODES)) if damage == "mode" else "L",
                side=data.draw(st.sampled_from([1, 7, 9, 16])) if damage == "side" else 8,
                value=data.draw(st.integers(0, 255)) if damage == "value" else 7,
            )
        elif damage == "bytes":
            path.write_bytes(damaged(data, path.read_bytes()))
        elif damage == "files":
            befall(data, root / "leftImg8bit" if data.draw(st.booleans()) else root / "gtFine", 2)
        else:
            path.rename(path.with_name("a_0_gtFine_labelTrainIds.png"))

        def check(task: StandInTask, lines: list[str]) -> bool:
            every = [item for item in root.rglob("*.png") if item.name[0] != "." and "train" in item.parts]
            images = [item for item in every if "leftImg8bit" in item.parts]
            maps = [item for item in every if item.name.endswith("_gtFine_labelIds.png")]
            lost = max(len(images), len(maps)) - len(task.pool)
            assert all(size_of(item) is not None for item in (*task.pool.images.paths, *task.pool.maps.files.paths))
            assert [item.shape[-2:] for item in task.pool.images] == [item.shape for item in task.pool.maps]
            assert not lost or lines, f"{lost} files are gone"
            return not lost

        return judged(partial(cityscapes, Machine(CPU), SegmenterRecipe(), root=str(root)), check, root)


@SIZES
def test_label_maps_are_right_named_or_refused(number: int) -> None:
    corpus("label maps", number, maps_judged)


# --- lists of labels --------------------------------------------------------------------------
ODD_LINES = [
    "", " ", "cat_1", "cat_1 1", "cat_1 1 1 1 1", "cat_1 0 1 1", "cat_1 -1 1 1", "cat_9 1 1 1", "../cat_1 1 1 1", "# x",
    "cat_1 1 3 1", "cat_1 99999999999999999999 1 1",
    f"cat_1 {'9' * 5000} 1 1", "é_1 1 1 1", "cat_1 ١ 1 1", "\0",
    "\ud800",
    "0.JPEG\tn1\t0\t0\t1\t1", "0.JPEG\tn9\t0\t0\t1\t1", "../0.JPEG\tn1\t0\t0\t1\t1", "0.JPEG n1 0 0 1 1", "cat_1 2 1 1",
]  # fmt: skip


def write_list(data: st.DataObject, path: Path, lines: list[str]) -> None:
    """Writes a list of labels with a random flaw."""
    lines = list(lines)
    if data.draw(st.booleans()):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.sampled_from(ODD_LINES)))
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(data, text) if data.draw(st.booleans()) else text)


def pets_judged(data: st.DataObject) -> str:
    """Tries one random list of Oxford-IIIT Pet."""
    with folder() as root:
        home = root / "oxford-iiit-pet"
        (home / "annotations").mkdir(parents=True)
        names = [("trainval", 0), ("test", 1)]
        lines = {part: [f"cat_{number} 1 1 1", f"dog_{number} 2 1 1"] for part, number in names}
        for number in range(2):
            for name in ("cat", "dog"):
                picture(home / "images" / f"{name}_{number}.jpg", number + len(name) * (name == "dog"))
        (home / "annotations" / "test.txt").write_text("\n".join(lines["test"]))
        path = home / "annotations" / "trainval.txt"
        write_list(data, path, lines["trainval"])
        if data.draw(st.integers(0, 4)) == 0:
            befall(data, home)

        def check(task: StandInTask, log_lines: list[str]) -> bool:
            rows = [line.split() for line in text_of(path).splitlines() if line.strip()]
            assert [scan.path.stem for scan in task.pool.scans] == [row[0] for row in rows]
            assert task.pool.labels_N.tolist() == [int(row[1]) - 1 for row in rows]
            return True

        return judged(partial(oxford_pet, Machine(CPU, root), Recipe(), size=8), check, root)


def text_of(path: Path) -> str:
    """Reads a text in the encoding that its first bytes show."""
    content = path.read_bytes()
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def tiny_judged(data: st.DataObject) -> str:
    """Tries one random list of Tiny ImageNet."""
    with folder() as root:
        home = root / "tiny-imagenet-200"
        for number in range(2):
            picture(home / "train" / f"n{number + 1}" / "images" / "0.JPEG", number)
            picture(home / "val" / "images" / f"{number}.JPEG", 5 + number)
        path = home / "val" / "val_annotations.txt"
        write_list(data, path, [f"{number}.JPEG\tn{number + 1}\t0\t0\t1\t1" for number in range(2)])
        if data.draw(st.integers(0, 4)) == 0:
            befall(data, home)

        def check(task: StandInTask, log_lines: list[str]) -> bool:
            rows = [line.split("\t") for line in text_of(path).splitlines() if line.strip()]
            assert [scan.path.name for scan in task.test.scans] == [row[0] for row in rows]
            assert task.test.labels_N.tolist() == [int(row[1][1:]) - 1 for row in rows]
            return True

        return judged(partial(tiny_imagenet, Machine(CPU, root), Recipe()), check, root)


@SIZES
def test_lists_of_labels_are_right_or_refused(number: int) -> None:
    corpus("lists of labels (Oxford-IIIT Pet)", number, pets_judged)
    corpus("lists of labels (Tiny ImageNet)", number, tiny_judged)


# --- folders of any layout --------------------------------------------------------------------
PATHS = [
    "train/0.jpg", "train/0.xml", "val/1.jpg", "val/1.xml", "images/0.jpg", "images/1.jpg", "labels/0.txt",
    "a/b/c/d/e/0.jpg",
    "annotations/train.json", "annotations/val.json", "Annotations/0.xml", "Annotations/1.xml", "lists/train.txt",
    "x.json",
    "lists/val.txt", "train/_annotations.coco.json", "val/_annotations.coco.json", "a\nb/0.jpg", "\udcff/0.xml",
    "data.csv",
]  # fmt: skip
CONTENTS = [
    b"", b"0\n", b"1\n", b"0\n1\n", b"{}", b"[]", b"[" * 5000, b"<a/>", b"\0", b'{"images": [], "annotations": []}',
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    b"</object></annotation>",
    b'{"images": [{"id": 0, "file_name": "0.jpg"}, {"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": '
    b'"cat"}], "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 3, 3]}]}',
    b'{"images": [{"id": 0, "file_name": "a\\u0000b"}], "categories": [{"id": 1, "name": "x"}], "annotations": []}',
]  # fmt: skip


def layout_judged(data: st.DataObject) -> str:
    """Tries the suggestion for one random folder."""
    with folder() as root:
        for name in data.draw(st.lists(st.sampled_from(PATHS), max_size=8, unique=True)):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("jpg"):
                picture(path, len(name))
            else:
                likely = CONTENTS[-3] if name.endswith("xml") else CONTENTS[-2] if name.endswith("json") else b"0\n"
                path.write_bytes(data.draw(st.sampled_from([likely, likely, *CONTENTS])))
        if data.draw(st.booleans()):
            befall(data, root, 2)
        if data.draw(st.integers(0, 3)) == 0:
            (root / "up").symlink_to(data.draw(st.sampled_from([".", "up"])))

        def check(advice: str, lines: list[str]) -> bool:
            assert advice.strip()
            assert "\n" not in advice, advice
            assert len(advice) < 3000
            suggested = advice.rpartition(" Try ")[2] if " Try " in advice else ""
            assert not suggested or Spec.read("task", suggested).plugin
            return bool(suggested)

        return judged(partial(layouts.suggest_parameters, root, str(root), "do something else"), check, root)


@SIZES
def test_what_lies_in_a_folder_is_said_in_one_line(number: int) -> None:
    corpus("folders of any layout", number, layout_judged)
