"""Odd files in data sets, one case at a time; tests/test_fuzz_data.py tries many more at random."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmark.experiment.own_data import OwnDataDefaults
from benchmark.plugins import discovery
from benchmark.tasks.image_folder import read_split_folders
from benchmark.vision.data import image_checks
from benchmark.vision.data.annotations import Split
from benchmark.vision.data.coco_json import read_coco_json
from benchmark.vision.data.image_files import decode_image
from benchmark.vision.data.pascal_voc import Layout, read_pascal_voc
from benchmark.vision.weights import load_weights

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>6</xmax><ymax>7</ymax></bndbox>"


@pytest.fixture(autouse=True)
def anew() -> None:
    """Forgets which warnings were logged before."""
    image_checks.warn_once.cache_clear()


def refused(message: str) -> Any:
    """Expects a ValueError whose message is one line that contains `message`."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z")


def picture(path: Path, seed: int = 0) -> None:
    """Saves an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(path)


def voc_files(root: Path) -> Path:
    """Writes four images with one box each."""
    (root / "Annotations").mkdir(parents=True)
    for number in range(4):
        picture(root / "JPEGImages" / f"{number}.png", number)
        page = f"<annotation><object><name>cat</name>{BOX}</object></annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(page)
    return root


def voc(root: Path) -> tuple[Split, Split, list[str]]:
    """Reads all of them, with a share as the test set."""
    return read_pascal_voc(root, "train", "val", difficult=True, layout=Layout(), share=0.5)


def coco(root: Path, text: str) -> tuple[Split, list[str]]:
    """Writes and reads a COCO data set of one image."""
    picture(root / "images" / "0.png")
    (root / "a.json").write_text(text)
    return read_coco_json(root / "a.json", root / "images")


COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "0.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
)


def fifo(path: Path) -> None:
    """Replaces a file by a fifo that has no writer."""
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    """Replaces a file by a link to an endless device."""
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    """Makes a file larger than memory."""
    os.truncate(path, 10**13)


@pytest.mark.parametrize("harm", [fifo, device, sparse])
def test_what_never_ends_is_refused_at_once(harm: Callable[[Path], None], tmp_path: Path) -> None:
    for number, name in enumerate(("Annotations/0.xml", "JPEGImages/0.png")):
        root = voc_files(tmp_path / f"voc{number}")
        harm(root / name)
        if harm is sparse and number:  # an image ends where its pixels do
            continue
        with refused(rf"{name} cannot be read"):
            voc(root)
    coco(tmp_path / "coco", COCO)
    harm(tmp_path / "coco" / "a.json")
    with refused(r"a\.json cannot be read"):
        read_coco_json(tmp_path / "coco" / "a.json", tmp_path / "coco" / "images")
    weights = tmp_path / "w.pth"
    torch.save({}, weights)
    if harm is not sparse:
        harm(weights)
    with refused(r"w\.pth: cannot be read|w\.pth: must hold"):
        load_weights(nn.Linear(1, 1), weights, "x")
    plug_in = tmp_path / "plug" / "mine.py"
    plug_in.parent.mkdir()
    plug_in.write_text("")
    harm(plug_in)
    with refused(r"mine\.py"):
        discovery.load_folder(plug_in.parent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"images"', '"images": [], "images"', "the key images occurs twice"),
        ('"name": "cat"', '"name": null', "the name of a category None is not a valid name"),
        ('"name": "cat"', '"name": "c\\u0000t"', "the name of a category .* is not a valid name"),
        ('"0.png"', '["0.png"]', "the file_name .* is not a valid name"),
        ('"0.png"', '"0\\ud800.png"', "the file_name .* is not a valid name"),
        ('"image_id": 1', '"image_id": [1]', "is not a whole number"),
    ],
)
def test_a_coco_file_with_odd_parts_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with refused(message):
        coco(tmp_path, COCO.replace(old, new))


@pytest.mark.parametrize("old", ['"image_id": 1', '"id": 1, "file_name"'])
def test_keys_of_both_lists_in_one_object_are_told_apart_by_the_list(old: str, tmp_path: Path) -> None:
    new = '"file_name": "x", "image_id": 1' if "image_id" in old else '"id": 1, "image_id": 5, "file_name"'
    assert len(coco(tmp_path, COCO.replace(old, new))[0].truth.labels_B) == 1


def test_one_long_id_costs_no_memory(tmp_path: Path) -> None:
    body = json.loads(COCO)
    body["images"] += [{"id": "x" * 10**6, "file_name": "0.png"}]
    body["images"][0]["id"] = "a"
    body["annotations"][0]["image_id"] = "a"
    with refused("the file_name 0.png occurs twice"):
        coco(tmp_path, json.dumps(body))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (BOX, BOX + BOX, "an object has more than one bndbox"),
        ("<xmin>1</xmin>", "<xmin>1</xmin><xmin>2</xmin>", "an object has more than one bndbox/xmin"),
        ("<name>cat", "<name>dog</name><name>cat", "an object has more than one name"),
        ("object>", "thing>", "1 of its <bndbox> are in no <object>"),
        ("<name>cat", "<name>c&#10;t", "an object's name .* is not a valid name"),
    ],
)
def test_a_box_that_nobody_would_read_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = voc_files(tmp_path) / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace(old, new))
    with refused(rf"0\.xml: {message}"):
        voc(tmp_path)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = voc_files(tmp_path / "voc")
    (root / "Annotations" / "0.xml").rename(root / "Annotations" / "0.XML")
    voc(root)
    assert "images without an annotation are left out: 1 (0.png)" in caplog.text
    assert "files that are not called NAME.xml are left out: 1 (0.XML)" in caplog.text
    for number, name in enumerate(
        ("train/cat/0.png", "train/dog/0.png", "train/9.png", "test/cat/1.png", "test/dog/1.png")
    ):
        picture(tmp_path / name, number)
    read_split_folders(tmp_path, "train", "test", 8, "turn")
    assert "images outside the class folders are left out: 1 (9.png)" in caplog.text


def test_a_list_leads_nowhere_else(tmp_path: Path) -> None:
    root = voc_files(tmp_path / "voc")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in (("train", "0\n../x"), ("val", "1\n")):
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    with refused(r"\.\./x leads out of the folder of the annotations"):
        read_pascal_voc(root, "train", "val", difficult=True)


def test_a_png_with_broken_pixels_is_not_read_by_half(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    picture(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IEND") - 20] ^= 1  # in the pixels, which have a checksum
    path.write_bytes(content)
    with refused(r"0\.png cannot be read as an image"):
        decode_image(path)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_read_and_that_is_said(
    ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"0.{ending}"
    first, *others = (Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 100, 200))
    first.save(path, save_all=True, append_images=others)
    for _ in range(2):  # what is remembered of it is not, so that it is said again
        image_checks.warn_once.cache_clear()
        caplog.clear()
        [scan] = image_checks.scan_images([path], [(0, 0)], "turn")
        assert (scan.width, scan.height) == (8, 8)
        assert "files that hold several images, of which only the first is read: 1" in caplog.text
    assert np.asarray(decode_image(path)[0]).max() < 20


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    for name in ("a\udcff.png", "b.png"):
        picture(tmp_path / name, len(name))
    for _ in range(2):  # anew, and where the other one is remembered
        scans = image_checks.scan_images([tmp_path / "a\udcff.png", tmp_path / "b.png"], [(8, 8)] * 2, "turn")
        assert [scan.path.name for scan in scans] == ["a\udcff.png", "b.png"]


@pytest.mark.parametrize(
    "value",
    [
        torch.full((1, 1), torch.nan),
        torch.full((1, 1), 1e300, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.complex64),
    ],
)
def test_weights_that_are_no_numbers_are_refused(value: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"weight": value, "bias": torch.zeros(1)}, tmp_path / "w.pth")
    with refused(r"w\.pth: weight holds values that are not finite real numbers"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.pth", "x")


@pytest.mark.parametrize(
    "text", ["", "[1]", "seeds: 3", "strategies: 0\nseeds: 3\nrounds: 5\nshare: 1\nleast: 1\nmost: 2"]
)
def test_defaults_that_lack_something_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own_data.yaml").write_text(text)
    with refused(r"own_data\.yaml"):
        OwnDataDefaults.read(tmp_path / "own_data.yaml")
