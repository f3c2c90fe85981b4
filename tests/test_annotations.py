"""What the readers of PASCAL VOC and COCO read, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Machine
from benchmark.plugins import registry
from benchmark.tasks.coco import coco
from benchmark.tasks.voc import voc
from benchmark.vision.data.annotations import GroundTruth, ImageFiles, Split, clean_boxes
from benchmark.vision.data.coco_json import read_coco_json
from benchmark.vision.data.pascal_voc import read_pascal_voc
from benchmark.vision.data.splitting import check_has_boxes, drop_empty_images, label_leakage
from benchmark.vision.detection.recipe import DetectorRecipe

CPU = torch.device("cpu")
RECIPE = DetectorRecipe()


def refused(message: str) -> Any:
    """Expects a ValueError whose message is one line that contains `message`."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{re.escape(message)}[^\n]*\Z")


@dataclass
class StandInDetection:
    """Stands in for Detection and keeps what a task has read."""

    machine: Machine
    recipe: DetectorRecipe
    pool: Split
    test: Split
    num_classes: int
    map_at: str
    classes: list[str]
    root: Path


@pytest.fixture
def stand_in_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in ("voc", "coco"):
        monkeypatch.setattr(f"benchmark.tasks.{task}.Detection", StandInDetection)


# --- boxes -----------------------------------------------------------------------------------------
def some_truth(num_images: int = 40) -> GroundTruth:
    """About three boxes per image in random order; a quarter is ignored, some images are empty, the last one too."""
    rng = np.random.default_rng(0)
    image_B = rng.integers(0, num_images - 1, 3 * num_images)
    corners_B4 = rng.random((len(image_B), 4), np.float32)
    labels_B, ignored_B = rng.integers(0, 5, len(image_B)), rng.random(len(image_B)) < 0.25
    truth = GroundTruth.from_boxes(image_B, corners_B4, labels_B, ignored_B, num_images)
    for number in range(num_images):
        is_of_image = (image_B == number) & ~ignored_B
        assert np.array_equal(truth.boxes_of(number).corners_M4, corners_B4[is_of_image])
        assert np.array_equal(truth.boxes_of(number).labels_M, labels_B[is_of_image])
    return truth


def test_boxes_of_images_against_a_plain_loop() -> None:
    truth = some_truth()
    boxes = truth.boxes_of(0)
    assert (len(truth), boxes.corners_M4.dtype, boxes.labels_M.dtype) == (40, torch.float32, torch.int64)
    assert (len(truth.boxes_of(39)), truth.boxes_of(39).corners_M4.shape) == (0, (0, 4))
    for indices in (np.arange(40), np.array([7, 3, 39, 7]), np.array([], np.int64)):
        selection = truth.select(indices)
        assert len(selection) == len(indices)
        assert truth.num_boxes_N[indices].tolist() == [len(truth.boxes_of(i)) for i in indices]
        assert selection.num_boxes_N.tolist() == truth.num_boxes_N[indices].tolist()
        num_annotated = sum(truth.offsets_N1[i + 1] - truth.offsets_N1[i] for i in indices)
        assert (
            truth.num_annotated_boxes(indices)
            == selection.num_annotated_boxes(np.arange(len(indices)))
            == num_annotated
        )
        for place, number in enumerate(indices):
            rows, expected_rows = (
                slice(t.offsets_N1[i], t.offsets_N1[i + 1]) for t, i in ((selection, place), (truth, number))
            )
            assert np.array_equal(selection.corners_B4[rows], truth.corners_B4[expected_rows])
            assert np.array_equal(selection.labels_B[rows], truth.labels_B[expected_rows])
            assert np.array_equal(selection.ignored_B[rows], truth.ignored_B[expected_rows])


def blank(sizes: list[list[int]]) -> ImageFiles:
    """Image files that are never opened."""
    return ImageFiles(Path("there"), [f"{number}.jpg" for number in range(len(sizes))], np.array(sizes))


def truth(corners: list[list[float]]) -> GroundTruth:
    """The boxes of one image."""
    corners_B4 = np.array(corners, np.float32).reshape(-1, 4)
    num = len(corners_B4)
    return GroundTruth(corners_B4, np.arange(num), np.zeros(num, bool), np.array([0, num]))


def test_boxes_are_clipped_to_their_own_image_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    corners_B4 = np.array(
        [[-3, 2, 5, 6], [1, 1, 9, 9], [10, 0, 12, 4], [0, 3, 4, 3], [0, 0, np.inf, 2], [4, 0, 9, 9], [9, 9, 8, 8]],
        np.float32,
    )
    files = blank([[10, 8], [2, 2], [9, 9]])
    boxes = GroundTruth(corners_B4, np.arange(7), np.arange(7) == 1, np.array([0, 3, 3, 7]))
    cleaned = clean_boxes(boxes, files, Path("a.json"))
    assert cleaned.corners_B4.tolist() == [[0, 2, 5, 6], [1, 1, 9, 8], [4, 0, 9, 9]]
    assert (cleaned.labels_B.tolist(), cleaned.ignored_B.tolist()) == ([0, 1, 5], [False, True, False])
    assert cleaned.offsets_N1.tolist() == [0, 2, 2, 3]
    assert caplog.messages == [
        "a.json: of 7 boxes 2 clipped to their image (the first in 0.jpg), 3 without area dropped (the first in 0.jpg),"
        " 1 with exchanged sides dropped (the first in 2.jpg)"
    ]
    assert caplog.records[0].name == "al_benchmark"
    clean_boxes(cleaned, files, Path("a.json"))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("first_pixel", [0, 1])
def test_no_box_is_widened_whatever_pixels_count_from(first_pixel: int, caplog: pytest.LogCaptureFixture) -> None:
    boxes = truth([[5, 5, 5, 5], [5, 5, 5, 9], [9, 5, 5, 9], [5.2, 5, 5.6, 9], [2, 3, 4, 5]])
    cleaned = clean_boxes(boxes, blank([[20, 20]]), Path("a"), first_pixel)
    offset = first_pixel
    assert (
        cleaned.corners_B4.tolist()
        == truth([[5.2 - offset, 5 - offset, 5.6, 9], [2 - offset, 3 - offset, 4, 5]]).corners_B4.tolist()
    )
    assert "2 without area dropped (the first in 0.jpg), 1 with exchanged sides dropped" in caplog.text
    assert ("1 thinner than a pixel kept (the first in 0.jpg)" in caplog.text) == (offset == 0)


def test_shares_of_an_image_are_no_pixels() -> None:
    with refused("a.json: all boxes lie between 0 and 1: they must be in pixels, not in fractions of the image"):
        clean_boxes(truth([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]), blank([[20, 20]]), Path("a.json"))


def test_sets_without_a_box_that_counts_are_refused() -> None:
    full, none = truth([[1, 1, 3, 3]]), truth([])
    crowd = GroundTruth(full.corners_B4, full.labels_B, np.array([True]), full.offsets_N1)
    good, empty, ignored = (Split(blank([[9, 9]]), boxes) for boxes in (full, none, crowd))
    check_has_boxes(good, good)
    with refused("none of the 1 images of the test set has a box: there is nothing to score"):
        check_has_boxes(good, empty)
    with refused(
        "none of the 1 images of the test set has a box that counts (1 are ignored): there is nothing to score"
    ):
        check_has_boxes(good, ignored)
    with refused("none of the 1 images of the pool has a box: there is nothing to learn from"):
        check_has_boxes(empty, good)


# --- files -----------------------------------------------------------------------------------------
def picture(path: Path, width: int = 40, height: int = 30, value: int = 0) -> None:
    """Saves an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_files_are_decoded_as_they_are_stored(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(tmp_path / "b.png", exif=exif)
        image.convert("L").save(tmp_path / "c.png")
        expected = np.array(image)
    files = ImageFiles(tmp_path, ["c.png", "b.png", "a.png"], np.array([[0, 0], [40, 30], [0, 7]])).with_scans()
    assert files.sizes_N2.tolist() == [[40, 30]] * 3
    assert (files[0].shape, files[0].dtype) == ((3, 30, 40), torch.uint8)
    assert np.array_equal(files[1].permute(1, 2, 0), expected)
    assert torch.equal(files[1], files[2])
    assert torch.equal(files[0][0], files[0][2])
    selection = files.select(np.array([2]))
    assert (len(selection), selection.paths) == (1, [tmp_path / "a.png"])
    assert selection.fingerprint != files.fingerprint == files.with_scans().fingerprint


def test_files_that_will_not_do(tmp_path: Path) -> None:
    for name in ("good.jpg", "half.jpg", "sub/other.jpg"):
        picture(tmp_path / name)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("JFIF?")
    sizes_N2 = np.array([[40, 30], [40, 30], [41, 30]])
    files, messages = (
        ImageFiles(tmp_path, ["half.jpg", "text.jpg", "sub/other.jpg"], sizes_N2),
        [
            f"{tmp_path}/half.jpg cannot be read as an image: image file is truncated",
            f"{tmp_path}/text.jpg cannot be read as an image",
            f"{tmp_path}/sub/other.jpg has 40 x 30 pixels, but its annotation is of an image of 41 x 30",
        ],
    )
    for number, message in enumerate(messages):
        with refused(message):
            files[number]
    with refused("3 of 3 images cannot be used: ") as error:
        files.with_scans()
    assert all(message in str(error.value) for message in messages)
    with refused(f"2 of 3 images cannot be used: {tmp_path}/no.jpg is missing; {tmp_path}/none/good.jpg is missing ("):
        ImageFiles(tmp_path, ["good.jpg", "no.jpg", "none/good.jpg"], sizes_N2).with_scans()
    with refused(f"{tmp_path}/text.jpg cannot be read as an image"):
        ImageFiles(tmp_path, ["good.jpg", "text.jpg", "sub/other.jpg"], 0 * sizes_N2).with_scans()


# --- PASCAL VOC ------------------------------------------------------------------------------------
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def thing(name: str, sides: tuple[object, ...], difficult: int = 0) -> str:
    """The XML of an object, with a part that must not be read."""
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True))
    inner = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object>{inner}<name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


PAGES = {
    "b": SIZE + thing("dog", (1, 1, 40, 30)) + thing("cat", (5.5, 6, 20, 21), difficult=1),
    "a": SIZE.replace("40", "0"),
    "c": thing("cat", (0, 3, 41, 30)) + thing("cow", (12, 3, 11, 9)),
    "d": SIZE + thing("cat", (2, 3, 4, 5)),
}


def voc_folder(root: Path) -> Path:
    """Writes three training images and one test image."""
    for number, (name, inside) in enumerate(PAGES.items()):
        picture(root / "JPEGImages" / f"{name}.{'png' if name == 'c' else 'jpg'}", value=number)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{inside}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("b\na  1\n\nc -1\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("d")
    return root


@pytest.mark.parametrize("difficult", [True, False])
def test_voc_as_it_is_written(difficult: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = voc_folder(tmp_path)
    pool, test, names = read_pascal_voc(root, "train", "val", difficult=difficult, first_pixel=1)
    assert names == ["cat", "cow", "dog"]
    assert isinstance(pool.images, ImageFiles)
    assert pool.images.names == ["b.jpg", "a.jpg", "c.png"]
    assert pool.images.sizes_N2.tolist() == [[40, 30]] * 3
    assert pool.truth.corners_B4.tolist() == [[0, 0, 40, 30], [4.5, 5, 20, 21], [0, 2, 40, 30]]
    assert (pool.truth.labels_B.tolist(), pool.truth.offsets_N1.tolist()) == ([2, 0, 0], [0, 2, 2, 3])
    assert pool.truth.ignored_B.tolist() == [False, not difficult, False]
    assert pool.truth.num_boxes_N[:3].sum() == 2 + difficult
    assert test.truth.boxes_of(0).corners_M4.tolist() == [[1, 2, 4, 5]]
    source = root / "ImageSets" / "Main" / "train.txt"
    assert caplog.messages == [
        f"{source}: of 4 boxes 1 clipped to their image (the first in c.png), 1 with exchanged sides dropped (the first"
        " in c.png)"
    ]


@pytest.mark.parametrize("other", ["b.txt", "b.json", "b.jpg~", "b.jpg.bak", "._b.jpg", "b", "B.png", ".b.png"])
@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".jpeg", ".png", ".tif"])
def test_the_image_is_read_whatever_lies_beside_it(other: str, ending: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "JPEGImages" / "b.jpg").unlink()
    picture(root / "JPEGImages" / f"b{ending}")
    (root / "JPEGImages" / other).write_bytes(b"no image") if other != f"b{ending}" else None
    pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert isinstance(pool.images, ImageFiles)
    assert pool.images.names[0] == f"b{ending}"


@pytest.mark.parametrize("other", ["b.png", "b.bmp", "b.JPG"])
def test_two_images_of_one_annotation_are_refused_unless_it_names_one(other: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    picture(root / "JPEGImages" / other, value=9)
    with refused(f"{root}/Annotations/b.xml does not say which one it belongs to: move the other one away"):
        read_pascal_voc(root, "train", "val", difficult=True)
    for name in (other, "b.jpg"):
        (root / "Annotations" / "b.xml").write_text(f"<annotation><filename>{name}</filename>{PAGES['b']}</annotation>")
        pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
        assert isinstance(pool.images, ImageFiles)
        assert pool.images.names[0] == name


def test_corners_count_from_0_where_a_box_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = voc_folder(tmp_path)
    (root / "Annotations" / "c.xml").write_text("<annotation></annotation>")
    dog = [[1, 1, 40, 30], [5.5, 6, 20, 21]]
    pool, test, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert pool.truth.corners_B4.tolist() == [[x - 1, y - 1, right, low] for x, y, right, low in dog]
    assert caplog.messages == []
    rewrite(
        root / "Annotations" / "d.xml", "<xmin>2<", "<xmin>0.2<"
    )  # one box of the test set tells it of the pool too
    pool, test, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert pool.truth.corners_B4.tolist() == dog
    assert test.truth.corners_B4.tolist() == np.array([[0.2, 3, 4, 5]], np.float32).tolist()
    assert caplog.messages == [
        f"{root}/Annotations/d.xml: a box begins at 0.2, 3 (1 of 3 boxes begin below 1): corners are taken to count"
        " from 0; set first_pixel=1 if they count from 1, as in PASCAL VOC"
    ]
    for first_pixel in (0, 1):
        pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True, first_pixel=first_pixel)
        assert pool.truth.corners_B4[1].tolist() == [5.5 - first_pixel, 6 - first_pixel, 20, 21]
    assert "count from" not in "".join(caplog.messages[1:])
    with refused("first_pixel=2: must be 0, 1 or null"):
        voc(Machine(CPU, root), RECIPE, first_pixel=2)


def test_a_box_beyond_the_edge_does_not_tell_what_corners_count_from(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "Annotations" / "c.xml").write_text("<annotation></annotation>")
    rewrite(root / "Annotations" / "d.xml", "<xmin>2<", "<xmin>-2<")
    pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert pool.truth.corners_B4[0].tolist() == [0, 0, 40, 30]


FLAGS = [("1", True), ("0", False), ("True", True), ("false", False), ("1.0", True), (" 0.0 ", False), ("", False)]


@pytest.mark.parametrize(("flag", "ignored"), FLAGS)
def test_voc_flags_as_tools_write_them(flag: str, ignored: bool, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    rewrite(root / "Annotations" / "b.xml", "<difficult>1<", f"<difficult>{flag}<")
    pool, _, _ = read_pascal_voc(root, "train", "val", difficult=False)
    assert pool.truth.ignored_B.tolist()[:2] == [False, ignored]


def test_a_voc_flag_that_is_none_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    rewrite(root / "Annotations" / "b.xml", "<difficult>1<", "<difficult>a bit<")
    read_pascal_voc(root, "train", "val", difficult=True)
    with refused(f"{root}/Annotations/b.xml: <difficult> of a 'cat' 'a bit' is neither 0 nor 1"):
        read_pascal_voc(root, "train", "val", difficult=False)


LISTS = {
    "plain": b"b\na\nc\n",
    "flags": b"b  1\na -1\nc 0\n",
    "Windows": b"\xef\xbb\xbfb\r\na\r\n\r\nc\r\n",
    "UTF-16": "b\r\na\r\nc".encode("utf-16"),
    "files": b"b.jpg\na.JPG\nc.png",
    "paths": b"/home/me/voc/JPEGImages/b.jpg\n./JPEGImages/a.jpg\nC:\\voc\\JPEGImages\\c.png\n",
    "pairs": b"JPEGImages/b.jpg Annotations/b.xml\na.jpg a.xml\nc.png c.xml\n",
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_as_tools_write_them(form: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(LISTS[form])
    pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert isinstance(pool.images, ImageFiles)
    assert pool.images.names == ["b.jpg", "a.jpg", "c.png"]


def test_a_name_with_spaces_and_a_full_stop(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    for folder, old, new in (("JPEGImages", "b.jpg", "b 0 v1.2 1.jpg"), ("Annotations", "b.xml", "b 0 v1.2 1.xml")):
        (root / folder / old).rename(root / folder / new)
    for line in ("b 0 v1.2 1", "b 0 v1.2 1 -1", "b 0 v1.2 1.jpg"):
        (root / "ImageSets" / "Main" / "train.txt").write_text(f"{line}\na\nc")
        pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
        assert isinstance(pool.images, ImageFiles)
        assert pool.images.names == ["b 0 v1.2 1.jpg", "a.jpg", "c.png"]


def test_lines_that_are_there_twice_are_taken_once_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = voc_folder(tmp_path)
    path = root / "ImageSets" / "Main" / "train.txt"
    path.write_text("b\na\nc\nb\nb.jpg\n")
    pool, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
    assert len(pool.images) == 3
    assert caplog.messages[0] == f"{path}: 2 of 5 lines repeat an image, such as b: each is used once"


XMLS: dict[str, Callable[[str], bytes]] = {
    "with a mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "Windows": lambda text: text.replace("><", ">\r\n<").encode(),
    "UTF-16": lambda text: f'<?xml version="1.0" encoding="utf-16"?>{text}'.encode("utf-16"),
    "latin": lambda text: f'<?xml version="1.0" encoding="iso-8859-1"?><!-- \xe9 -->{text}'.encode("latin-1"),
    "namespace": lambda text: text.replace("<annotation>", '<annotation xmlns="http://a.b/c">').encode(),
    "spaces": lambda text: text.replace(">40<", "> 40.0\n<").encode(),
}


@pytest.mark.parametrize("form", XMLS)
def test_annotations_as_tools_write_them(form: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    expected, _, _ = read_pascal_voc(root, "train", "val", difficult=True)
    for path in (root / "Annotations").iterdir():
        path.write_bytes(XMLS[form](path.read_text()))
    pool, _, names = read_pascal_voc(root, "train", "val", difficult=True)
    assert (names, pool.truth.corners_B4.tolist()) == (["cat", "cow", "dog"], expected.truth.corners_B4.tolist())
    assert isinstance(pool.images, ImageFiles)
    assert pool.images.sizes_N2.tolist() == [[40, 30]] * 3


def rewrite(path: Path, old: str, new: str) -> None:
    """Replaces a text in a file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def bomb(path: Path, encoding: str) -> None:
    """Writes an annotation that defines an entity."""
    head = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation [<!ENTITY e "eeee">]>'
    path.write_bytes(f"{head}<annotation><object><name>&e;</name></object></annotation>".encode(encoding))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda r: (r / "Annotations/b.xml").unlink(), "{r}/Annotations/b.xml cannot be read: No such file"),
        (lambda r: (r / "Annotations/b.xml").write_text("<annotation><obj"), "{r}/Annotations/b.xml is not XML"),
        (lambda r: (r / "Annotations/b.xml").write_bytes(b""), "{r}/Annotations/b.xml is not XML: no element found"),
        (
            lambda r: (r / "Annotations/b.xml").write_text("<html></html>"),
            "b.xml: its root is <html>, not <annotation>",
        ),
        (
            lambda r: bomb(r / "Annotations/b.xml", "utf-8"),
            "b.xml: an annotation must be XML in UTF-8, or UTF-16 with a byte-order mark, without a DOCTYPE",
        ),
        (lambda r: bomb(r / "Annotations/b.xml", "utf-16"), "b.xml: an annotation must be XML in UTF-8, or"),
        (lambda r: bomb(r / "Annotations/b.xml", "utf-16-le"), "b.xml: an annotation must be XML in UTF-8"),
        (
            lambda r: (r / "Annotations/b.xml").write_text("<annotations></annotations>"),
            "b.xml: its root is <annotations>, not <annotation> of the VOC format: a CVAT file? Export it",
        ),
        (
            lambda r: (r / "ImageSets/Main/train.txt").write_bytes(b"b\xff"),
            "{r}/ImageSets/Main/train.txt is not text in UTF-8: invalid start byte in byte 1",
        ),
        (lambda r: rewrite(r / "Annotations/b.xml", ">40</xmax", ">4O</xmax"), "b.xml: a 'dog' has no bndbox of four"),
        (
            lambda r: rewrite(r / "Annotations/b.xml", "ymin", "why"),
            "b.xml: a 'dog' has no bndbox of four numbers (xmin",
        ),
        (lambda r: rewrite(r / "Annotations/b.xml", "bndbox", "box"), "b.xml: a 'dog' has no bndbox of four numbers"),
        (lambda r: rewrite(r / "Annotations/b.xml", ">dog<", "> <"), "{r}/Annotations/b.xml: an object has no name"),
        (lambda r: (r / "ImageSets/Main/val.txt").unlink(), "{r} has no ImageSets/Main/val.txt (lists=, test=)"),
        (lambda r: (r / "ImageSets/Main/val.txt").write_text(" \n"), "{r}/ImageSets/Main/val.txt is empty"),
        (lambda r: (r / "ImageSets/Main/val.txt").write_text("b"), "in train and val together, the image b occurs"),
        (lambda r: (r / "JPEGImages/b.jpg").unlink(), "{r}/JPEGImages/b.jpg is missing ("),
        (lambda r: (r / "JPEGImages").rename(r / "images"), "{r} has no JPEGImages/ (images=)"),
        (
            lambda r: rewrite(r / "Annotations/d.xml", ">cat<", ">Cat<"),
            "Main/train.txt: no image of the pool has a 'Cat', but some of the test set have",
        ),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("a"), "Main/train.txt: no image of the pool has a box"),
    ],
)
def test_voc_that_will_not_do(break_it: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    break_it(root)
    with refused(message.format(r=root)):
        read_pascal_voc(root, "train", "val", difficult=True)


def test_all_annotations_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "Annotations" / "b.xml").unlink()
    for name in "cd":
        (root / "Annotations" / f"{name}.xml").write_text("<annotation>")
    with refused("3 of 4 images cannot be used: ") as error:
        read_pascal_voc(root, "train", "val", difficult=True)
    for text in ("b.xml cannot be read: No such file", "c.xml is not XML: no element", "d.xml is not XML: no el"):
        assert text in str(error.value)


def test_sides_that_are_not_finite_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = voc_folder(tmp_path)
    rewrite(root / "Annotations" / "d.xml", ">4</xmax", ">nan</xmax")
    rewrite(root / "Annotations" / "b.xml", ">30</ymax", ">1e99</ymax")
    pool, test, _ = read_pascal_voc(root, "train", "val", difficult=True, first_pixel=1)
    assert (len(pool.truth.labels_B), len(test.truth.labels_B)) == (2, 0)
    assert (
        "train.txt: of 4 boxes 1 clipped to their image (the first in c.png), 1 without area dr" in caplog.messages[0]
    )
    assert caplog.messages[1].endswith("val.txt: of 1 boxes 1 without area dropped (the first in d.jpg)")


@pytest.mark.usefixtures("stand_in_detection")
@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "VOC2012", "."])
def test_voc_is_found(place: str, tmp_path: Path) -> None:
    voc_folder(tmp_path / "data" / place)
    task: Any = voc(Machine(CPU, tmp_path / "data"), RECIPE)
    assert (len(task.pool.images), len(task.test.images), task.num_classes, task.map_at) == (3, 1, 3, "50")
    other: Any = voc(Machine(CPU, tmp_path), RECIPE, root="data")
    bare: Any = voc(Machine(CPU), RECIPE, root=str(tmp_path / "data" / place), year=None)
    assert task.pool.images.paths == other.pool.images.paths
    assert [path.resolve() for path in bare.pool.images.paths] == [path.resolve() for path in task.pool.images.paths]


def test_voc_that_is_not_there(tmp_path: Path) -> None:
    site = "http://host.robots.ox.ac.uk/pascal/VOC"
    missing = "ImageSets/Main/train.txt (lists=, train=), no Annotations/ (annotations=), no JPEGImages/ (images=), no "
    with refused(f"{tmp_path} has no {missing}ImageSets/Main/val.txt (lists=, test=). It holds neither"):
        voc(Machine(CPU, tmp_path), RECIPE)
    with refused(f"; for PASCAL VOC itself, unpack {site}/voc2012/VOCtrainval_11-May-2012.tar in {tmp_path}"):
        voc(Machine(CPU, tmp_path), RECIPE)
    with refused(f"06-Nov-2007.tar and {site}/voc2007/VOCtest_06-Nov-2007.tar in {tmp_path}"):
        voc(Machine(CPU, tmp_path), RECIPE, year=2007)
    (tmp_path / "mine").mkdir()
    with refused("; set root=, images=, annotations=, lists=, train= and test= to what there is, and split="):
        voc(Machine(CPU, tmp_path), RECIPE, root="mine", year=None)
    with refused(f"no such folder: {tmp_path}/mime (root=). In {tmp_path} there are: mine; set root="):
        voc(Machine(CPU, tmp_path), RECIPE, root="mime")
    with refused(f"set data=DIR or $AL_BENCHMARK_DATA, and unpack {site}/voc2012/VOCtrainval_11-May-2012.tar there"):
        voc(Machine(CPU), RECIPE)


# --- COCO ------------------------------------------------------------------------------------------
def coco_content() -> dict[str, Any]:
    """Three images and three categories, out of order and with gaps; one image has no boxes, one box is a crowd."""

    def image(number: int, **size: int) -> dict[str, Any]:
        return {"license": 1, "id": number, "file_name": f"{number:06d}.png", **size}

    def mark(image_id: int, category_id: int, bbox: list[float], iscrowd: int = 0) -> dict[str, Any]:
        outline = {"counts": [5, 9], "size": [30, 40]} if iscrowd else [[1.5, 2, 3, 4, 5, 6]]
        about = {"segmentation": outline, "area": 3.5, "iscrowd": iscrowd, "bbox": bbox}
        return {"id": 7, "image_id": image_id, "category_id": category_id, **about}

    return {
        "info": {"year": 2017},
        "images": [image(900, width=40, height=30), image(20), image(139, width=40, height=30)],
        "annotations": [
            mark(900, 90, [1, 2, 10.5, 20]),
            mark(20, 3, [30, 20, 20, 20]),
            mark(900, 1, [0, 0, 40, 30], iscrowd=1),
            mark(20, 90, [3, 3, 0, 4]),
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }


def coco_folder(root: Path, split: str, content: Any) -> tuple[Path, Path]:
    """Writes the JSON file and the image folder and returns their paths."""
    for number in (900, 20, 139):
        picture(root / split / f"{number:06d}.png", value=number)
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content))
    return path, root / split


def test_coco_as_it_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, folder = coco_folder(tmp_path, "val2017", coco_content())
    split, names = read_coco_json(path, folder)
    assert names == ["person", "car", "brush"]
    assert isinstance(split.images, ImageFiles)
    assert split.images.names == ["000020.png", "000139.png", "000900.png"]
    assert split.images.sizes_N2.tolist() == [[40, 30]] * 3
    assert split.truth.corners_B4.tolist() == [[30, 20, 40, 30], [1, 2, 11.5, 22], [0, 0, 40, 30]]
    assert (split.truth.labels_B.tolist(), split.truth.offsets_N1.tolist()) == ([1, 2, 0], [0, 1, 1, 3])
    assert split.truth.ignored_B.tolist() == [False, False, True]
    assert caplog.messages == [
        f"{path}: of 4 boxes 1 clipped to their image (the first in 000020.png), 1 without area dropped (the first in"
        " 000020.png)"
    ]
    content = coco_content()
    content["images"].reverse()
    content["categories"].reverse()
    again, others = read_coco_json(*coco_folder(tmp_path, "val2017", content))
    assert others == names
    assert again.images.fingerprint == split.images.fingerprint
    assert np.array_equal(again.truth.corners_B4, split.truth.corners_B4)


def test_coco_without_any_box(tmp_path: Path) -> None:
    split, _ = read_coco_json(*coco_folder(tmp_path, "val2017", coco_content() | {"annotations": []}))
    assert (len(split.truth), split.truth.num_boxes_N[:3].sum(), split.truth.corners_B4.shape) == (3, 0, (0, 4))


def changed(key: str, place: int, **values: Any) -> dict[str, Any]:
    """The content with one entry changed; fields with the value None are removed."""
    content = coco_content()
    entry = content[key][place] | values
    content[key][place] = {name: value for name, value in entry.items() if value is not None}
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"image_id": 20, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
            "{path} is no COCO instances file: it must",
        ),
        (
            {"images": [], "annotations": []},
            "{path} is no COCO instances file: it must have the lists images, annotations",
        ),
        (coco_content() | {"annotations": {}}, "{path} is no COCO instances file"),
        (coco_content() | {"images": []}, "{path} has 0 images and 3 categories: it needs at least one of each"),
        (coco_content() | {"categories": []}, "{path} has 3 images and 0 categories"),
        (changed("images", 0, file_name=None), "{path}: every image must have a file_name, and every category"),
        (changed("images", 0, id=None), "{path}: the image id None is not a whole number"),
        (changed("images", 0, id=[1]), "{path}: the image id [1] is not a whole number"),
        (changed("images", 0, id=2**70), "is not a whole number"),
        (changed("images", 0, id=20), "{path}: the image id 20 occurs twice"),
        (changed("images", 0, file_name="./000020.png"), "{path}: the file_name 000020.png occurs twice"),
        (changed("images", 0, file_name="a/../../x.png"), "{path}: the file_name ../x.png leads out of {folder}"),
        (changed("images", 0, file_name="/etc/x.png"), "{path}: the file_name /etc/x.png leads out of {folder}"),
        (changed("images", 0, file_name="no.png"), "{folder}/no.png is missing ("),
        (changed("categories", 0, id=3), "{path}: the category id 3 occurs twice"),
        (changed("categories", 0, name=None), "{path}: every image must have a file_name, and every category an id"),
        (changed("annotations", 0, image_id=None), "{path}: every annotation must have an image_id"),
        (changed("annotations", 0, image_id=21), "{path}: an annotation's image_id 21 is the id of no image"),
        (changed("annotations", 0, image_id=10**6), "{path}: an annotation's image_id 1000000 is the id of no image"),
        (changed("annotations", 0, image_id="2O"), "{path}: an annotation's image_id '2O' is not a whole number"),
        (changed("annotations", 0, image_id=20.5), "{path}: an annotation's image_id 20.5 is not a whole number"),
        (changed("annotations", 0, iscrowd="some"), "{path}: an annotation's iscrowd 'some' is neither 0 nor 1"),
        (changed("annotations", 0, iscrowd=[1]), "{path}: an annotation's iscrowd [1] is neither 0 nor 1"),
        (changed("annotations", 0, category_id=2), "{path}: an annotation's category_id 2 is the id of no category"),
        (changed("annotations", 0, category_id=None), "{path}: an annotation's category_id None is not a whole number"),
        (changed("annotations", 0, bbox=None), "{path}: an annotation's bbox None is not four finite numbers"),
        (
            changed("annotations", 0, bbox=[1, 2, 3]),
            "{path}: an annotation's bbox [1, 2, 3] is not four finite numbers",
        ),
        (changed("annotations", 0, bbox=[1, 2, 3, "4"]), "is not four finite numbers (x, y, width, height)"),
        (changed("annotations", 0, bbox=[1, 2, 3, float("nan")]), "bbox [1, 2, 3, nan] is not four finite numbers"),
        (changed("annotations", 0, bbox=[1, 2, 3, 10**400]), "is not four finite numbers"),
    ],
)
def test_coco_that_will_not_do(content: Any, message: str, tmp_path: Path) -> None:
    path, folder = coco_folder(tmp_path, "val2017", content)
    with refused(message.format(path=path, folder=folder)):
        read_coco_json(path, folder)


def test_coco_flags_as_tools_write_them(tmp_path: Path) -> None:
    for flag, ignored in (*FLAGS, (1, True), (0, False), (True, True), (False, False), (1.0, True), (None, False)):
        split, _ = read_coco_json(*coco_folder(tmp_path, "val2017", changed("annotations", 1, iscrowd=flag)))
        assert split.truth.ignored_B.tolist() == [ignored, False, True], flag


def everywhere(change: Callable[[Any], Any]) -> dict[str, Any]:
    """The content with all ids changed."""
    content = coco_content()
    for key, names in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
        for entry in content[key]:
            entry.update({name: change(entry[name]) for name in names})
    return content


@pytest.mark.parametrize("ids", [str, float, "{}.png".format, "{:03d}".format], ids=["text", "float", "names", "zeros"])
def test_coco_ids_as_tools_write_them(ids: Callable[[Any], Any], tmp_path: Path) -> None:
    expected, _ = read_coco_json(*coco_folder(tmp_path, "val2017", coco_content()))
    split, names = read_coco_json(*coco_folder(tmp_path, "val2017", everywhere(ids)))
    assert isinstance(split.images, ImageFiles)
    assert isinstance(expected.images, ImageFiles)
    assert set(names) == {"person", "car", "brush"}
    for number, name in enumerate(split.images.names):
        boxes, expected_boxes = split.truth.boxes_of(number), expected.truth.boxes_of(expected.images.names.index(name))
        assert torch.equal(boxes.corners_M4, expected_boxes.corners_M4)
    if ids(1) != "1.png":
        assert split.images.names == expected.images.names


def test_a_coco_id_of_text_that_is_none(tmp_path: Path) -> None:
    content = everywhere(lambda number: f"{number}.png")
    content["annotations"][1]["image_id"] = "5.png"
    with refused("an annotation's image_id 5.png is the id of no image"):
        read_coco_json(*coco_folder(tmp_path, "val2017", content))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_coco_encodings(encoding: str, tmp_path: Path) -> None:
    path, folder = coco_folder(tmp_path, "val2017", {})
    content = changed("categories", 0, name="Bürste")
    path.write_bytes(json.dumps(content, ensure_ascii=False, indent=1).replace("\n", "\r\n").encode(encoding))
    assert read_coco_json(path, folder)[1] == ["person", "car", "Bürste"]


def test_coco_with_little_in_it(tmp_path: Path) -> None:
    """File names with Windows separators, sizes as text, and optional fields missing or of any type."""
    content = coco_content()
    del content["info"]
    content["images"][0] |= {"file_name": "sub\\000900.png", "width": "40", "height": 30.0}
    content["annotations"][0] |= {"segmentation": None, "area": "?", "iscrowd": None, "attributes": {"occluded": False}}
    for mark in content["annotations"][1:]:
        for key in ("segmentation", "area", "id"):
            del mark[key]
    del content["annotations"][1]["iscrowd"]
    path, folder = coco_folder(tmp_path, "val2017", content)
    picture(folder / "sub" / "000900.png")
    split, _ = read_coco_json(path, folder)
    assert isinstance(split.images, ImageFiles)
    assert split.images.names == ["000020.png", "000139.png", "sub/000900.png"]
    assert split.truth.ignored_B.tolist() == [False, False, True]


def test_files_that_are_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with refused(f"{path} cannot be read: No such file"):
        read_coco_json(path, tmp_path)
    for content in (b"", b'{"images": [', b"\xff\xfe\x00", b"[" * 200_000):
        path.write_bytes(content)
        with refused(f"{path} is not JSON"):
            read_coco_json(path, tmp_path)


def coco_sets(root: Path) -> None:
    """Writes a pool and a test set with different boxes."""
    coco_folder(root, "train2017", coco_content())
    coco_folder(root, "val2017", changed("annotations", 1, bbox=[3, 3, 9, 9]))


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values inside a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, inside in pairs for way in ((*before, key), *places(inside, (*before, key)))]


def refusal(read: Callable[[], object]) -> str:
    """The error message of a reader, "" if it raises none."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return ""


def test_any_value_anywhere_in_a_coco_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    odd_values = [
        None,
        -1,
        1.5,
        float("inf"),
        "",
        "a",
        "\u0663",
        "\0",
        "x" * 999,
        [],
        {},
        [1],
        {"id": 1},
        {"image_id": 2},
        True,
        2**70,
    ]
    path, folder = coco_folder(tmp_path, "val2017", coco_content())
    for number, way in enumerate(places(coco_content())):
        for value in odd_values[number % 3 :: 3]:
            content = coco_content()
            inner = content
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = value
            path.write_text(json.dumps(content))
            assert "\n" not in refusal(partial(read_coco_json, path, folder)), (way, value)


def test_any_bytes_in_the_files_of_voc_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    root, rng = voc_folder(tmp_path), np.random.default_rng(0)
    paths = sorted([*(root / "Annotations").iterdir(), *(root / "ImageSets" / "Main").iterdir()])
    junk = [b"\xff\xfe", b"nan", b"-", b"\xef\xbb\xbf", b"\r\n", b"&#0;", b"&x;", b"1e999", b"\0", b"<", b"\x85"]
    for number in range(400):
        path, piece = paths[number % len(paths)], junk[number % len(junk)]
        content = path.read_bytes()
        place, length = int(rng.integers(len(content))), int(rng.integers(4))
        path.write_bytes(content[:place] + piece + content[place + length :])
        assert "\n" not in refusal(partial(read_pascal_voc, root, "train", "val", difficult=False)), (
            path,
            place,
            piece,
        )
        path.write_bytes(content)


@pytest.mark.usefixtures("stand_in_detection")
def test_a_coco_test_set_that_is_the_pool_is_refused(tmp_path: Path) -> None:
    data, root = Machine(CPU, tmp_path), tmp_path / "coco"
    coco_sets(root)
    coco(data, RECIPE)
    coco_folder(root, "val2017", coco_content())
    with refused(
        f"{root}/val2017 holds the same images with the same boxes as {root}/train2017: a test set must be of"
    ):
        coco(data, RECIPE)
    coco_sets(root)
    for path in (root / "val2017").iterdir():
        path.unlink()
    (root / "val2017").rmdir()
    (root / "val2017").symlink_to(root / "train2017")
    with refused(f"{root}/train2017/000020.png is in the pool and in the test set (3 of 3 test images are)"):
        coco(data, RECIPE)


@pytest.mark.usefixtures("stand_in_detection")
def test_coco_is_found(tmp_path: Path) -> None:
    coco_sets(tmp_path / "coco")
    task: Any = coco(Machine(CPU, tmp_path), RECIPE)
    assert (len(task.pool.images), len(task.test.images), task.num_classes, task.map_at) == (3, 3, 3, "50:95")
    assert task.test.images.folder == tmp_path / "coco" / "val2017"
    mine: Any = coco(Machine(CPU), RECIPE, root=str(tmp_path / "coco"), train="val2017", test="train2017")
    assert mine.pool.images.folder == task.test.images.folder

    pool_json = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    test_json, _ = coco_folder(tmp_path / "coco", "val2017", changed("categories", 0, name="comb"))
    with refused(f"{test_json} has other categories than {pool_json}: only one of them has 'brush'"):
        coco(Machine(CPU, tmp_path), RECIPE)
    content = coco_content()
    content["categories"][1]["name"], content["categories"][2]["name"] = "car", "person"
    coco_folder(tmp_path / "coco", "val2017", content)
    with refused(f"{test_json} has other categories than {pool_json}: their order differs"):
        coco(Machine(CPU, tmp_path), RECIPE)


def test_coco_that_is_not_there(tmp_path: Path) -> None:
    urls = "unpack http://images.cocodataset.org/zips/train2017.zip, http://images.cocodataset.org/zips/val2017.zip"
    with refused(f"no such folder: {tmp_path}/coco (root=). In {tmp_path} there are: no files; for COCO itself"):
        coco(Machine(CPU, tmp_path), RECIPE)
    with refused(f"; for COCO itself, {urls}"):
        coco(Machine(CPU, tmp_path), RECIPE)
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    missing = "annotations/instances_train2017.json (annotations=), no train2017 (images=), no annotations/instances"
    with refused(f"{tmp_path}/coco has no {missing}_val2017.json (annotations=). It holds neither images nor"):
        coco(Machine(CPU, tmp_path), RECIPE)
    with refused("annotations/annotations_trainval2017.zip into coco/ there"):
        coco(Machine(CPU), RECIPE)
    coco_sets(tmp_path / "coco")
    with refused(f"{tmp_path}/coco: annotations/instances_val2017.json would be the pool and the test set"):
        coco(Machine(CPU, tmp_path), RECIPE, train="val2017", test="val2017")


# --- images without boxes --------------------------------------------------------------------------
@pytest.mark.usefixtures("stand_in_detection")
def test_images_without_boxes_can_be_taken_out(tmp_path: Path) -> None:
    data = Machine(CPU, tmp_path)
    voc_folder(tmp_path)
    task: Any = voc(data, RECIPE, filter_empty="oracle", difficult=False)
    assert task.pool.images.names == ["b.jpg", "c.png"]
    assert task.pool.truth.offsets_N1.tolist() == [0, 2, 3]
    coco_sets(tmp_path / "coco")
    task = coco(data, RECIPE, filter_empty="oracle")
    assert task.pool.images.names == ["000020.png", "000900.png"]
    assert len(task.test.images) == 3


def test_images_with_ignored_boxes_alone_count_as_empty(tmp_path: Path) -> None:
    truth = GroundTruth(
        np.zeros((2, 4), np.float32), np.zeros(2, np.int64), np.array([True, True]), np.array([0, 1, 2])
    )
    files = ImageFiles(tmp_path, ["a.jpg", "b.jpg"], np.ones((2, 2), np.int64))
    with refused(f"{tmp_path}: filter_empty=oracle leaves no image, because none has a box"):
        drop_empty_images(Split(files, truth))


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_what_the_tasks_tell_of_themselves(name: str) -> None:
    plugin = registry.get("task", name)
    assert plugin.label_leakage is label_leakage
    assert plugin.label_leakage(**plugin.bind({})) == ""
    leakage = plugin.label_leakage(**plugin.bind({"filter_empty": "oracle"}))
    assert leakage == "images without boxes were taken out of the pool by looking at their labels"
    with pytest.raises(ValueError, match="must be one of none, oracle"):
        plugin.bind({"filter_empty": "yes"})


# --- real data -------------------------------------------------------------------------------------
def real(machine: Machine, name: str) -> Path:
    """A folder in $AL_BENCHMARK_DATA; skips the test if it is missing."""
    if machine.data is None or not (machine.data / name).is_dir():
        pytest.skip(f"no {name} in $AL_BENCHMARK_DATA")
    return machine.data / name


@pytest.mark.usefixtures("stand_in_detection")
def test_neu_det_is_read(machine: Machine) -> None:
    real(machine, "neu_det")
    task: Any = voc(machine, RECIPE, root="neu_det")
    strict: Any = voc(machine, RECIPE, root="neu_det", difficult=False)
    splits = [task.pool.truth, task.test.truth]
    assert ([len(truth) for truth in splits], task.num_classes) == ([1500, 300], 6)
    assert sum(truth.num_boxes_N.sum() for truth in splits) == 4189
    assert sum(split.truth.ignored_B.sum() for split in (strict.pool, strict.test)) == 81
    assert task.pool.images[0].shape == (3, 200, 200)


@pytest.mark.usefixtures("stand_in_detection")
def test_coco_sample_is_read(machine: Machine) -> None:
    real(machine, "coco_sample")
    task: Any = coco(machine, RECIPE, root="coco_sample")
    for split, num_boxes in ((task.pool, 705), (task.test, 815)):
        assert (len(split.images), len(split.truth.labels_B), task.num_classes) == (80, num_boxes, 80)
        for number in range(len(split.images)):
            _, height, width = split.images[number].shape
            corners_M4 = split.truth.boxes_of(number).corners_M4
            assert (corners_M4[:, 2:] <= torch.tensor([width, height])).all()
