"""Data sets with boxes in common layouts: the first error message suggests parameters that can read them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.data.annotations import GroundTruth, ImageFiles, Split
from benchmark.vision.data.splitting import pool_test_split
from benchmark.vision.detection.task import Detection

discovery.discover()
CPU = torch.device("cpu")
SMALL = "backbone=small,channels=32,min_size=64,max_size=128,epochs=1,precision=float32"
CLASSES = ("cat", "dog")


def picture(path: Path) -> None:
    """Saves an image of 40 x 30 pixels with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()) + 1000 * len(str(path)))
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


def page(path: Path, number: int) -> None:
    """Writes an annotation with one box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), (2, 3, 20, 21), strict=True))
    path.write_text(
        f"<annotation><object><name>{CLASSES[number % 2]}</name><bndbox>{box}</bndbox></object></annotation>"
    )


def voc_files(
    images: Path,
    annotations: Path,
    names: Sequence[str],
    ending: str = ".jpg",
    lists: dict[Path, Sequence[str]] | None = None,
) -> None:
    """Writes images with annotations, and lists of some of them."""
    for number, name in enumerate(names):
        picture(images / f"{name}{ending}")
        page(annotations / f"{name}.xml", number)
    for path, list_names in (lists or {}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(list_names) + "\n")


def coco_file(path: Path, images: Path, names: Sequence[str], prefix: str = "") -> None:
    """Writes a JSON file with one box per image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        picture(images / name)
    content = {
        "images": [{"id": number, "file_name": prefix + name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": number % 2, "bbox": [2, 3, 18 + number, 20]}
            for number in range(len(names))
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(content))


NAMES = [f"{number:05d}" for number in range(12)]


def kangaroo(root: Path) -> None:
    """images/ and annots/ without lists, as in experiencor/kangaroo."""
    voc_files(root / "images", root / "annots", NAMES)
    (root / "README.md").write_text("# kangaroo")


def fod(root: Path) -> None:
    """VOC's folders with other names and other lists."""
    lists = {root / "Lists" / f"{name}.txt": part for name, part in (("trainval", NAMES[:9]), ("test", NAMES[9:]))}
    voc_files(root / "Images", root / "Annotations", NAMES, lists=lists)


def bccd(root: Path) -> None:
    """VOC's folders one level down; trainval overlaps with train and val."""
    main, parts = root / "BCCD" / "ImageSets" / "Main", {"train": NAMES[:6], "val": NAMES[6:9], "test": NAMES[9:]}
    lists = {main / f"{name}.txt": part for name, part in (parts | {"trainval": NAMES[:9]}).items()}
    voc_files(root / "BCCD" / "JPEGImages", root / "BCCD" / "Annotations", NAMES, lists=lists)
    (root / "BCCD" / "JPEGImages" / "._00000.jpg").write_bytes(b"\0\5\x16\7")


def trainval_alone(root: Path) -> None:
    """VOC's folders with a single list."""
    voc_files(root / "JPEGImages", root / "Annotations", NAMES, lists={root / "ImageSets/Main/trainval.txt": NAMES})


def side_by_side(root: Path) -> None:
    """Images and annotations in one folder, as labelImg writes them."""
    voc_files(root, root, NAMES, ".png")


def roboflow_voc(root: Path) -> None:
    """A folder per split, with images beside annotations."""
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:9]), ("test", NAMES[9:])):
        voc_files(root / split, root / split, names)


def kaggle_voc(root: Path) -> None:
    """A folder per split, with a folder of images and one of annotations."""
    for split, names in (("train", NAMES[:6]), ("test", NAMES[6:9])):
        voc_files(root / split / "images", root / split / "annotations", names, ".png")


def roboflow_coco(root: Path) -> None:
    """A folder per split, with a JSON file beside the images."""
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:9]), ("test", NAMES[9:])):
        coco_file(root / split / "_annotations.coco.json", root / split, [f"{name}.jpg" for name in names])


def coco_names(root: Path) -> None:
    """COCO's folder of annotations with other split names, all images in images/, and captions."""
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:9])):
        coco_file(root / "annotations" / f"instances_{split}.json", root / "images", [f"{name}.jpg" for name in names])
        (root / "annotations" / f"captions_{split}.json").write_text("{}")


def coco_folders(root: Path) -> None:
    """A JSON file per split, with images in images/SPLIT."""
    for split, names in (("Train", NAMES[:6]), ("Test", NAMES[6:9])):
        coco_file(root / f"{split}.json", root / "images" / split, [f"{name}.jpg" for name in names])


def label_studio(root: Path) -> None:
    """One JSON file whose file names begin with the image folder."""
    coco_file(root / "result.json", root / "images", [f"{name}.jpg" for name in NAMES], "images\\")


def sub_folders(root: Path) -> None:
    """Images and annotations in subfolders with equal names."""
    for part, names in (("a", NAMES[:6]), ("b", NAMES[:6])):
        voc_files(root / "images" / part, root / "annots" / part, names)


def cvat(root: Path) -> None:
    """One list, default.txt, of images in a subfolder."""
    names = [f"street/frame {number}" for number in range(12)]
    voc_files(root / "JPEGImages", root / "Annotations", names, lists={root / "ImageSets/Main/default.txt": names})


def odd_name(root: Path) -> None:
    """Folder names with commas and brackets."""
    voc_files(root / "my images, all [2]", root / "my annots", NAMES)


CASES: dict[Callable[[Path], None], str] = {
    kangaroo: "voc[root=mine,annotations=annots,images=images,split=0.2]",
    fod: "voc[root=mine,images=Images,lists=Lists,train=trainval,test=test]",
    bccd: "voc[root=mine/BCCD]",
    trainval_alone: "voc[root=mine,train=trainval,split=0.2]",
    side_by_side: "voc[root=mine,annotations=.,images=.,split=0.2]",
    roboflow_voc: "voc[root=mine,annotations=SPLIT,images=SPLIT,test=valid]",
    kaggle_voc: "voc[root=mine,annotations=SPLIT/annotations,images=SPLIT/images,test=test]",
    roboflow_coco: "coco[root=mine,annotations=SPLIT/_annotations.coco.json,train=train,test=valid]",
    coco_names: "coco[root=mine,images=images,train=train,test=val]",
    coco_folders: "coco[root=mine,annotations=SPLIT.json,images=images/SPLIT,train=Train,test=Test]",
    label_studio: "coco[root=mine,annotations=result.json,images=.,split=0.2]",
    sub_folders: "voc[root=mine,annotations=annots,images=images,split=0.2]",
    cvat: "voc[root=mine,train=default,split=0.2]",
    odd_name: 'voc[root=mine,annotations=my annots,images="my images, all [2]",split=0.2]',
}


def build(text: str, data: Path) -> Any:
    """Builds the task as `run` does, with a small detector."""
    spec = Spec.read("task", f"{text[:-1]},{SMALL}]")
    return spec.plugin.build(Machine(CPU, data), spec.values)


@pytest.mark.parametrize("task_name", ["voc", "coco"])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_first_suggestion_runs(make: Callable[[Path], None], task_name: str, tmp_path: Path) -> None:
    make(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"\A[^\n]* has no [^\n]* \([^\n]*=\)[^\n]*\. It holds [^\n]*\. Try ") as error:
        build(f"{task_name}[root=mine]", tmp_path)
    assert "http" not in str(error.value)
    suggested = re.search(r"Try (\w+\[.*\])\Z", str(error.value))
    assert suggested is not None, str(error.value)
    assert suggested[1] == CASES[make]
    task = build(suggested[1], tmp_path)
    assert isinstance(task, Detection)
    sizes = (task.num_pool, task.num_test())
    whole = {roboflow_voc: (6, 3), roboflow_coco: (6, 3), kaggle_voc: (6, 3), coco_names: (6, 3), coco_folders: (6, 3)}
    if "split" in suggested[1]:
        assert sum(sizes) == 12
        assert 1 <= sizes[1] <= 5
    else:
        assert sizes == ({bccd: (6, 3), fod: (9, 3)} | whole)[make]
    assert list(task.classes) == list(CLASSES)


def test_a_suggestion_is_found_from_the_folder_above(tmp_path: Path) -> None:
    kangaroo(tmp_path / "kangaroo" / "data")
    with pytest.raises(ValueError, match=r"Try voc\[root=kangaroo/data,annotations=annots,images=images,split=0.2\]\Z"):
        build("voc[year=2012]", tmp_path)


def test_all_that_is_missing_is_named_at_once_and_what_is_there(tmp_path: Path) -> None:
    kangaroo(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"\A") as error:
        build("voc[root=mine,train=a,test=b]", tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/mine has no ImageSets/Main/a.txt (lists=, train=), no Annotations/ (annotations=), no JPEGImages/ "
        "(images=), no ImageSets/Main/b.txt (lists=, test=). It holds annots/ (12 XML files), images/ (12 images). "
        "Try voc[root=mine,annotations=annots,images=images,split=0.2]"
    )


def test_what_cannot_be_read_is_not_suggested(tmp_path: Path) -> None:
    """YOLO's text files, files in other tools' own formats, and annotations without images."""
    root = tmp_path / "mine"
    picture(root / "images" / "a.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(ValueError, match=r"images/ \(1 images\), labels/ \(a.txt\); boxes are read from Pascal"):
        build("voc[root=mine]", tmp_path)
    page(root / "xml" / "b.xml", 0)
    with pytest.raises(ValueError, match=r"xml/ \(1 XML files\); not every annotation has its image there; set root="):
        build("voc[root=mine]", tmp_path)
    (root / "xml" / "b.xml").write_text("<annotations/>")
    with pytest.raises(ValueError, match=r"; [^;]*/xml/b.xml: its root is <annotations>, .*: a CVAT file\? Expo"):
        build("voc[root=mine]", tmp_path)


OTHERS: dict[str, Any] = {
    "Label Studio": [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}],
    "VIA": {"_via_settings": {}, "_via_img_metadata": {"a.jpg100": {"filename": "a.jpg", "regions": []}}},
    "CreateML": [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}],
    "labelme": {"version": "5", "shapes": [], "imagePath": "a.jpg", "imageHeight": 30},
}


@pytest.mark.parametrize("tool", OTHERS)
def test_other_tools_own_files_are_named(tool: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    picture(root / "a.jpg")
    (root / "a.json").write_text(json.dumps(OTHERS[tool]))
    with pytest.raises(ValueError, match=rf"categories; it is {tool}'s own format: export it as COCO; set") as error:
        build("coco[root=mine]", tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(
        ValueError, match=rf"\A[^;]*/a.json is no COCO instances file: [^;]*; it is {tool}'s own format"
    ):
        build("coco[root=mine,annotations=a.json,images=.,split=0.5]", tmp_path)


def test_pictures_in_another_folder_than_a_coco_file_says(tmp_path: Path) -> None:
    roboflow_coco(tmp_path / "mine")
    for split in ("train", "valid"):
        (tmp_path / "mine" / "images" / split).mkdir(parents=True)
    text = "coco[root=mine,annotations=SPLIT/_annotations.coco.json,images=images/SPLIT,train=train,test=valid]"
    with pytest.raises(ValueError, match=r"has none of the 6 images of .*, such as 00000.jpg. It holds .* Try coco\["):
        build(text, tmp_path)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("annotations=BCCD/JPEGImages", r"BCCD/JPEGImages \(annotations=\) has no annotations called NAME.xml"),
        ("annotations=other", r"other \(annotations=\) has none of the 6 files of .*/train.txt, such as 00000.xml"),
        ("images=other", r"other \(images=\) has none of the 6 images, such as 00000.jpg"),
    ],
)
def test_folders_of_something_else(parameter: str, message: str, tmp_path: Path) -> None:
    """A folder with other files gets the same message as a missing one."""
    bccd(tmp_path / "mine")
    page(tmp_path / "mine" / "other" / "elsewhere.xml", 0)
    name = parameter.partition("=")[0]
    rest = [f"{key}=BCCD/{folder}" for key, folder in FOLDERS.items() if key != name]
    with pytest.raises(ValueError, match=rf"\A{tmp_path}/mine/{message}\. It holds .*\. Try voc\[root=mine/BCCD\]\Z"):
        build(f"voc[root=mine,{parameter},{','.join(rest)}]", tmp_path)


FOLDERS = {"images": "JPEGImages", "annotations": "Annotations", "lists": "ImageSets/Main"}


# --- a share of the images ---------------------------------------------------------------------------
def whole(num: int, labels: Callable[[int], int] = lambda number: 0, ending: str = ".jpg") -> Split:
    """Images with one box each."""
    names, labels_B = (
        [f"{number}{ending}" for number in range(num)],
        np.array([labels(number) for number in range(num)]),
    )
    corners_B4 = np.tile(np.array([[1, 1, 9, 9]], np.float32), (num, 1))
    truth = GroundTruth(corners_B4, labels_B, np.zeros(num, bool), np.arange(num + 1))
    return Split(ImageFiles(Path("there"), names, np.full((num, 2), 20)), truth)


def names(split: Split) -> list[str]:
    assert isinstance(split.images, ImageFiles)
    return list(split.images.names)


def test_a_share_is_drawn_by_name_and_stays_when_files_are_added() -> None:
    pool, test = pool_test_split(whole(1000), 0.2)
    assert 160 < len(names(test)) < 240
    assert sorted([*names(pool), *names(test)], key=lambda name: int(name[:-4])) == [f"{n}.jpg" for n in range(1000)]
    more, more_tests = pool_test_split(whole(1500), 0.2)
    assert set(names(test)) < set(names(more_tests))
    assert set(names(pool)) < set(names(more))
    assert [name[:-4] for name in names(pool_test_split(whole(1000, ending=".png"), 0.2)[1])] == [
        n[:-4] for n in names(test)
    ]
    assert len(pool.truth) == len(names(pool))


def test_a_class_is_never_in_the_test_set_alone(caplog: pytest.LogCaptureFixture) -> None:
    _, test = pool_test_split(whole(50), 0.2)
    rare = int(names(test)[0][:-4])
    pool, test = pool_test_split(whole(50, lambda number: int(number == rare)), 0.2)
    assert f"{rare}.jpg" in names(pool)
    assert test.truth.labels_B.tolist() == [0] * len(names(test))
    assert caplog.messages == ["split=0.2: 1 images stay in the pool: without them it would lack a class"]


def test_shares_that_will_not_do() -> None:
    assert len(names(pool_test_split(whole(2), 0.01)[1])) == 1
    for share in (0.0, 1.0, -0.5, 2.0):
        with pytest.raises(ValueError, match=rf"\Asplit={share}: must be the share of test images"):
            pool_test_split(whole(9), share)
    with pytest.raises(ValueError, match=r"split=0.5: 1 images are too few for a pool and a test set"):
        pool_test_split(whole(1), 0.5)
