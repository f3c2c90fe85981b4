"""Image files: EXIF orientation, broken files, the cache of scans, and duplicate images."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from benchmark.api import FromFiles, Machine
from benchmark.tasks.cityscapes import cityscapes
from benchmark.tasks.coco import coco
from benchmark.tasks.digits import digits
from benchmark.tasks.image_folder import image_folder
from benchmark.tasks.scenes import scenes
from benchmark.tasks.tiny_imagenet import tiny_imagenet
from benchmark.tasks.voc import voc
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.data import image_checks
from benchmark.vision.data.annotations import ImageFiles
from benchmark.vision.data.duplicates import MAX_NEAR_DISTANCE, MIN_CONTRAST, Sources
from benchmark.vision.data.image_checks import THUMBNAIL_SIDE, BadImagesError, ImageScan, read_all, scan_images
from benchmark.vision.data.image_files import UNKNOWN_SIZE, Exif, decode_image, is_hidden_name, is_image
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.segmentation.recipe import SegmenterRecipe

CPU = torch.device("cpu")
QUICK = Recipe(model="small_cnn", epochs=1)
SMALL = DetectorRecipe(backbone="small", channels=32, min_size=0, epochs=1, precision="float32")


@pytest.fixture(autouse=True)
def remembers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test an empty cache folder, and forgets which warnings were logged before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_checks.warn_once.cache_clear()


def noise(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A noise image that differs from all its turned versions."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_photograph(path: Path, image: Image.Image, orientation: int = 1) -> Image.Image:
    """Saves an image with an EXIF orientation and returns it as viewers show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def array(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("RGB"))


# --- EXIF --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_they_are_shown(ending: str, orientation: int, tmp_path: Path) -> None:
    path, raw = tmp_path / f"a.{ending}", noise(0)
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    raw.save(path, exif=exif, **options)
    upright = array(ImageOps.exif_transpose(Image.open(path)))
    image, turn = decode_image(path)
    assert np.array_equal(array(image), upright)
    assert turn == ("" if orientation == 1 else "turned")
    assert np.array_equal(upright, array(raw)) == (orientation == 1)
    image, turn = decode_image(path, exif="ignore")
    assert np.array_equal(array(image), array(raw))
    assert turn == ("" if orientation == 1 else "stored")


@pytest.mark.parametrize(
    ("size", "orientation", "stated", "turn"),
    [
        ((40, 30), 6, UNKNOWN_SIZE, "turned"),
        ((40, 30), 6, (30, 40), "turned"),
        ((40, 30), 6, (40, 30), "stored"),
        ((40, 30), 3, (40, 30), "turned"),  # half a turn leaves the size: in doubt
        ((40, 40), 6, (40, 40), "turned"),
        ((40, 30), 6, (0, 30), "turned"),
        ((40, 30), 1, (40, 30), ""),
        ((40, 30), 9, (40, 30), ""),  # no orientation
    ],
)
def test_stated_sizes_decide_in_doubt(
    size: tuple[int, int], orientation: int, stated: tuple[int, int], turn: str, tmp_path: Path
) -> None:
    raw = noise(0, *size)
    upright = save_photograph(tmp_path / "a.png", raw, orientation)
    image, actual_turn = decode_image(tmp_path / "a.png", stated)
    assert actual_turn == turn
    assert np.array_equal(array(image), array(raw if turn == "stored" else upright))


def test_a_size_that_fits_neither_way_is_refused(tmp_path: Path) -> None:
    save_photograph(tmp_path / "a.png", noise(0), 6)
    with pytest.raises(ValueError, match=r"a.png has 30 x 40 pixels, but its annotation is of an image of 41 x 30"):
        decode_image(tmp_path / "a.png", (41, 30))
    with pytest.raises(ValueError, match=r"a.png has 40 x 30 pixels, but its annotation is of an image of 30 x 40"):
        decode_image(tmp_path / "a.png", (30, 40), "ignore")


def test_broken_tags_leave_the_pixels_alone(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\1nonsense")
    image, turn = decode_image(tmp_path / "a.png")
    assert (np.array_equal(array(image), array(noise(0))), turn) == (True, "")


# --- tasks of every kind, of files that code made ------------------------------------------------------
def save_object(path: Path, orientation: int = 1, seed: int = 0) -> None:
    """Saves a dark photograph of 60 x 40 stored pixels with a bright object that is shown at (4, 6) to (16, 24)."""
    rng = np.random.default_rng(seed)
    width, height = (40, 60) if orientation >= 5 else (60, 40)
    pixels = rng.integers(0, 40, (height // 10, width // 10, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    pixels[6:24, 4:16] = 250
    back = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}
    image = Image.fromarray(pixels)
    save_photograph(path, image.transpose(back[orientation]) if orientation in back else image, orientation)


def voc_page(path: Path, size: tuple[int, int] | None) -> None:
    stated = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    sides = "<xmin>5</xmin><ymin>7</ymin><xmax>16</xmax><ymax>24</ymax>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{stated}<object><name>cat</name><bndbox>{sides}</bndbox></object></annotation>")


def voc_folder(root: Path, orientation: int = 6, size: tuple[int, int] | None = None) -> Path:
    """Writes a VOC data set with four training images and two test images."""
    for part, names in (("train", "abcd"), ("val", "ef")):
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names))
        for name in names:
            save_object(root / "JPEGImages" / f"{name}.png", orientation, ord(name))
            voc_page(root / "Annotations" / f"{name}.xml", size)
    return root


def coco_folder(root: Path) -> Path:
    """Writes the same data set in COCO format, without image sizes."""
    (root / "annotations").mkdir(parents=True)
    for part, names in (("train2017", "abcd"), ("val2017", "ef")):
        for name in names:
            save_object(root / part / f"{name}.png", 6, ord(name))
        images = ", ".join(f'{{"id": {i}, "file_name": "{name}.png"}}' for i, name in enumerate(names))
        boxes = ", ".join(f'{{"image_id": {i}, "category_id": 1, "bbox": [4, 6, 12, 18]}}' for i, _ in enumerate(names))
        content = f'{{"images": [{images}], "annotations": [{boxes}], "categories": [{{"id": 1, "name": "cat"}}]}}'
        (root / "annotations" / f"instances_{part}.json").write_text(content)
    return root


def class_folder(root: Path, orientation: int = 6) -> Path:
    """Writes two classes with three training images and one test image each."""
    for place, (part, name) in enumerate([("train", "a"), ("train", "b"), ("train", "c"), ("test", "d")]):
        for number, kind in enumerate(("cat", "dog")):
            save_object(root / part / kind / f"{name}.png", orientation, 10 * place + number)
    return root


def street_folder(root: Path, masks_orientation: int = 1) -> Path:
    """Writes two training scenes and one test scene like Cityscapes, with label maps of the upright images."""
    for seed, (part, name) in enumerate([("train", "ulm/u_0"), ("train", "ulm/u_1"), ("val", "bonn/b_0")]):
        save_object(root / "leftImg8bit" / part / f"{name}_leftImg8bit.png", 6, seed)
        labels = np.full((60, 40), 7, np.uint8)
        labels[6:24, 4:16] = 26
        path = root / "gtFine" / part / f"{name}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    return root


Build = Callable[[Path, Exif], Any]
TASKS: dict[str, tuple[Callable[[Path], Path], Build]] = {
    "voc": (voc_folder, lambda at, exif: voc(Machine(CPU, at), SMALL, root="data", exif=exif)),
    "coco": (coco_folder, lambda at, exif: coco(Machine(CPU, at), SMALL, root="data", exif=exif)),
    "image_folder": (
        class_folder,
        lambda at, exif: image_folder(Machine(CPU, at), QUICK, root="data", size=64, exif=exif),
    ),
    "cityscapes": (
        street_folder,
        lambda at, exif: cityscapes(Machine(CPU, at), SegmenterRecipe(model="small", epochs=1), root="data", exif=exif),
    ),
}


def brightness(task: Any) -> float:
    """The mean brightness of the upper left quarter of the first pool image, where the object is shown."""
    pictures_NHW3, _ = task.pictures(np.array([0]), 64)
    height, width = (pictures_NHW3[0] < 255).any(2).nonzero()
    return float(pictures_NHW3[0][: (height.max() + 1) // 2, : (width.max() + 1) // 2].mean())


@pytest.mark.parametrize("name", ["voc", "coco", "image_folder"])
def test_every_task_turns_photographs_and_says_so(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, build = TASKS[name]
    make(tmp_path / "data")
    turned = build(tmp_path, "turn")
    assert brightness(turned) > 70
    assert sum("images turned as their EXIF tags say" in line for line in caplog.messages) >= 1
    build(tmp_path, "turn")
    assert len(caplog.messages) == len(set(caplog.messages)), "said once, however often it is built"
    ignored = build(tmp_path, "ignore")
    assert brightness(ignored) < 70
    assert turned.fingerprint != ignored.fingerprint
    assert any(": 0 of" in line and "left as stored (exif=ignore" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("orientation", "size", "exif", "inside"),
    [
        (6, None, "turn", 250),
        (6, (40, 60), "turn", 250),
        (3, (60, 40), "turn", 250),
        (6, (60, 40), "turn", 20),  # annotated unturned, as its stated size says: then the box is of stored pixels
        (6, (60, 40), "ignore", 20),
    ],
)
def test_boxes_lie_on_what_was_annotated(
    orientation: int, size: tuple[int, int] | None, exif: Exif, inside: float, tmp_path: Path
) -> None:
    voc_folder(tmp_path, orientation, size)
    split = voc(Machine(CPU), SMALL, root=str(tmp_path), exif=exif)._pool
    for number in range(4):
        x1, y1, x2, y2 = map(int, split.truth.boxes_of(number).corners_M4[0])
        assert (x1, y1, x2, y2) == (4, 6, 16, 24)
        assert abs(split.images[number][:, y1:y2, x1:x2].float().mean() - inside) < 15


def test_label_maps_and_their_photographs_are_turned_alike(tmp_path: Path) -> None:
    street_folder(tmp_path / "data")
    task = TASKS["cityscapes"][1](tmp_path, "turn")
    image_4HW = task._pool[0]
    assert image_4HW.shape == (4, 60, 40)
    assert image_4HW[:3, image_4HW[3] == 13].float().mean() > 240  # where the map says car
    assert brightness(task) > 70
    with pytest.raises(ValueError, match=r"3 of 3 .*u_0_left.* has 60 x 40 pixels, but .* of an image of 40 x 60"):
        TASKS["cityscapes"][1](tmp_path, "ignore")


# --- bad images ----------------------------------------------------------------------------------------
def truncate(path: Path, share: float = 0.7) -> None:
    """Cuts off the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("name", list(TASKS))
def test_all_bad_images_of_pool_and_test_set_are_named_at_once(name: str, tmp_path: Path) -> None:
    make, build = TASKS[name]
    root = make(tmp_path / "data")
    files = sorted(path for path in root.rglob("*.png") if "gtFine" not in path.parts)
    first, last = files[0], files[-1]
    truncate(first)
    last.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as error:
        build(tmp_path, "turn")
    text = str(error.value)
    assert f"2 of {len(files)} images cannot be used: " in text
    assert f"{first} cannot be read as an image: " in text
    assert f"{last} cannot be read as an image: " in text


def test_tiny_imagenet_names_them_likewise(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    for kind in ("n01", "n02"):
        for number in range(2):
            save_photograph(folder / "train" / kind / "images" / f"{kind}_{number}.JPEG", noise(number, 64, 64))
            noise(9).save(folder / "train" / kind / "images" / f"._{kind}_{number}.JPEG")
    lines = [f"val_{number}.JPEG\tn0{number + 1}\t0\t0\t9\t9\n" for number in range(2)]
    for number in range(2):
        save_photograph(folder / "val" / "images" / f"val_{number}.JPEG", noise(5 + number, 64, 64))
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    task = tiny_imagenet(Machine(CPU, tmp_path), QUICK)
    assert (task.num_pool, task.num_test()) == (4, 2)
    assert task.source_files()["test"][1][0] == "val/images/val_1.JPEG"
    truncate(folder / "train" / "n02" / "images" / "n02_1.JPEG")
    truncate(folder / "val" / "images" / "val_0.JPEG")
    with pytest.raises(ValueError, match=r"^2 of 6 images cannot be used: .*n02_1.JPEG .*truncated.*val_0.JPEG "):
        tiny_imagenet(Machine(CPU, tmp_path), QUICK)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif", "ppm", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_no_half_image_is_read(ending: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    noise(0).save(path)
    truncate(path, share)
    with pytest.raises(ValueError, match=r"^.*a\.\w+ cannot be read as an image"):
        decode_image(path)


def test_many_bad_images_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(1200)]
    for path in paths[:3]:
        noise(0).save(path)
    with pytest.raises(BadImagesError) as error:
        scan_images(paths, [UNKNOWN_SIZE] * len(paths), "turn")
    start, end = f"1,197 of 1,200 images cannot be used: {paths[3]} is missing; ", "; and 1,194 more (repair or replace"
    assert str(error.value).startswith(start)
    assert end in str(error.value)


def test_readers_are_asked_all_before_one_error_is_raised() -> None:
    def bad(names: str) -> None:
        raise BadImagesError([f"{name} is bad" for name in names], 5)

    with pytest.raises(BadImagesError, match=r"^3 of 10 images cannot be used: a is bad; b is bad; c is bad \("):
        read_all(lambda: bad("ab"), lambda: None, lambda: bad("c"))
    assert read_all(lambda: 1, lambda: 2) == [1, 2]


# --- what is remembered --------------------------------------------------------------------------------
@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Records the names of the files that are decoded."""
    names: list[str] = []

    def counted(path: Path, *rest: Any, **more: Any) -> Any:
        names.append(path.name)
        return decode_image(path, *rest, **more)

    monkeypatch.setattr(image_checks, "decode_image", counted)
    return names


def some_files(folder: Path, number: int = 4) -> ImageFiles:
    folder.mkdir(exist_ok=True)
    for place in range(number):
        noise(place).save(folder / f"{place}.png")
    return ImageFiles(folder, [f"{place}.png" for place in range(number)], np.zeros((number, 2), np.int64))


def test_files_are_read_again_when_they_have_changed(tmp_path: Path, reads: list[str]) -> None:
    files = some_files(tmp_path / "a")
    first = files.with_scans()
    assert sorted(reads) == files.names
    assert (files.with_scans().cached_scans, len(reads)) == (first.cached_scans, 4)
    noise(9).save(tmp_path / "a" / "2.png")
    os.utime(tmp_path / "a" / "2.png", ns=(1, 1))
    assert files.with_scans().fingerprint != first.fingerprint
    assert reads[4:] == ["2.png"]
    changed = ImageFiles(files.folder, files.names, files.sizes_N2, exif="ignore")
    assert len(changed.with_scans().cached_scans) == len(reads[5:]) == 4, "another way of reading is another scan"


def test_files_of_the_same_size_and_time_are_read_again(tmp_path: Path, reads: list[str]) -> None:
    for place in range(2):
        noise(place).save(tmp_path / f"{place}.bmp")
    files = ImageFiles(tmp_path, ["0.bmp", "1.bmp"], np.zeros((2, 2), np.int64))
    first, before = files.with_scans(), (tmp_path / "1.bmp").stat()
    noise(9).save(tmp_path / "1.bmp")
    os.utime(tmp_path / "1.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and rsync do
    assert (tmp_path / "1.bmp").stat().st_size == before.st_size
    assert files.with_scans().fingerprint != first.fingerprint
    assert reads[2:] == ["1.bmp"]


def test_bad_images_are_not_remembered_but_good_ones_are(tmp_path: Path, reads: list[str]) -> None:
    files = some_files(tmp_path / "a")
    whole = (files.folder / "1.png").read_bytes()
    truncate(files.folder / "1.png")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1.png cannot be read"):
            files.with_scans()
    assert reads[4:] == ["1.png"]
    (files.folder / "1.png").write_bytes(whole)
    assert files.with_scans().fingerprint == some_files(tmp_path / "b").with_scans().fingerprint


@pytest.mark.parametrize("harm", ["unwritable", "file", "damaged", "locked"])
def test_a_cache_folder_that_cannot_be_used_is_no_error(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    files = some_files(tmp_path / "a")
    if harm == "unwritable":
        monkeypatch.setattr(Path, "mkdir", denied)
    elif harm == "file":
        (home / "al-benchmark").write_text("no folder")
    else:
        files.with_scans()
        [table] = (home / "al-benchmark").iterdir()
        if harm == "damaged":
            table.write_bytes(b"no table" * 1000)
        else:
            monkeypatch.setattr(sqlite3, "connect", denied)
        reads.clear()
    for _ in range(2):
        assert len(files.with_scans().cached_scans) == 4
    assert len(reads) == (4 if harm == "damaged" else 8), "a damaged one is begun anew"


def denied(*args: object, **more: object) -> None:
    raise PermissionError("not yours")


@pytest.mark.parametrize(
    "change",
    ["pixels = 'f00'", "width = width + 1", "turn = 'turned'", "thumb = x'00'", "pixels = NULL", "digest = ''"],
)
def test_a_row_that_was_changed_is_not_believed(change: str, tmp_path: Path, reads: list[str]) -> None:
    files = some_files(tmp_path / "a")
    fingerprint = files.with_scans().fingerprint
    reads.clear()
    [table] = (tmp_path / "cache" / "al-benchmark").iterdir()
    with contextlib.closing(sqlite3.connect(table)) as rows, rows:
        rows.execute(f"UPDATE scans SET {change} WHERE path LIKE '%2.png'")
    assert files.with_scans().fingerprint == fingerprint
    assert files.with_scans().fingerprint == fingerprint
    assert reads == ["2.png"]


def test_the_cache_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    some_files(tmp_path / "a").with_scans()
    assert [path.name for path in (tmp_path / ".cache" / "al-benchmark").iterdir()] == [image_checks.CACHE_FILE]
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody's home is known
    monkeypatch.chdir(tmp_path / "a")
    files = some_files(tmp_path / "a").with_scans()
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == files.names


# --- fingerprints --------------------------------------------------------------------------------------
def test_a_fingerprint_is_of_pixels_alone(tmp_path: Path) -> None:
    first, second = some_files(tmp_path / "a"), some_files(tmp_path / "b")
    for place in range(4):
        path = second.folder / f"{place}.png"
        noise(place).save(path, compress_level=0)
        path.rename(second.folder / f"photograph-{place}.png")
    second = ImageFiles(second.folder, [f"photograph-{place}.png" for place in range(4)], np.full((4, 2), (40, 30)))
    assert first.fingerprint == second.fingerprint == second.with_scans().fingerprint
    pixels = array(noise(3)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(first.folder / "3.png")
    assert first.with_scans().fingerprint != second.fingerprint
    assert first.select(np.array([0, 1])).fingerprint == second.select(np.array([0, 1])).fingerprint


def test_shapes_are_part_of_it(tmp_path: Path) -> None:
    for name, size in (("a.png", (20, 10)), ("b.png", (10, 20))):
        Image.new("RGB", size).save(tmp_path / name)
    first, second = scan_images([tmp_path / "a.png", tmp_path / "b.png"], [UNKNOWN_SIZE] * 2, "turn")
    assert first.pixel_hash != second.pixel_hash


# --- what tasks tell -----------------------------------------------------------------------------------
def test_tasks_name_their_files(tmp_path: Path) -> None:
    names = {
        "voc": ("JPEGImages/a.png", "JPEGImages/f.png"),
        "coco": ("train2017/a.png", "val2017/f.png"),
        "image_folder": ("train/cat/a.png", "test/dog/d.png"),
        "cityscapes": ("leftImg8bit/train/ulm/u_0_leftImg8bit.png", "leftImg8bit/val/bonn/b_0_leftImg8bit.png"),
    }
    for name, (make, build) in TASKS.items():
        make(tmp_path / name / "data")
        task = build(tmp_path / name, "turn")
        assert isinstance(task, FromFiles)
        files = task.source_files()
        assert (len(files["pool"]), len(files["test"])) == (task.num_pool, task.num_test())
        assert (files["pool"][0][0], files["test"][-1][0]) == names[name]
        assert all(re.fullmatch(r"[0-9a-f]{32}", pixels) for _, pixels in files["pool"] + files["test"])
        assert task.data_remarks() == []


def test_tasks_without_files_name_none(machine: Machine) -> None:
    for task in (digits(machine, QUICK), scenes(machine, SMALL)):
        assert (task.source_files(), task.data_remarks()) == ({}, [])


def test_images_that_are_twice_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = class_folder(tmp_path / "data", orientation=1)
    for part, name in (("test", "e"), ("test", "f")):
        noise(50 + ord(name), 80, 60).save(root / part / "cat" / f"{name}.bmp")
        noise(50 + ord(name), 80, 60).save(root / "train" / "dog" / f"{name}.png")  # another format, another class
    noise(77, 80, 60).save(root / "train" / "cat" / "g.png")
    noise(77, 80, 60).save(root / "train" / "cat" / "h.png")
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8)
    remarks = [
        "FAULT: test images that are in the pool too, equal to the pixel: 2 of 4 (test/cat/e.bmp is train/dog/e.png); "
        "scores are not of new images",
        "images of the pool that equal an earlier one of it to the pixel: 1 of 10 (train/cat/h.png is train/cat/g.png)",
    ]
    assert task.data_remarks() == remarks
    assert caplog.messages == remarks


def smooth(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A smooth random image."""
    return noise(seed, 12, 9).resize((width, height), Image.Resampling.BICUBIC)


def test_images_that_are_nearly_equal_are_said(tmp_path: Path) -> None:
    for name, image in {
        "a": smooth(0),
        "b": smooth(1),
        "a_smaller": smooth(0).resize((120, 90)),
        "b_mirrored": smooth(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "c": smooth(2),
        "flat": Image.new("RGB", (160, 120), (90, 90, 90)),
        "flat_too": Image.new("RGB", (160, 120), (91, 90, 90)),
    }.items():
        image.save(tmp_path / f"{name}.png")
    smooth(1).save(tmp_path / "test_b.jpg", quality=60)
    smooth(3).save(tmp_path / "test_d.jpg")
    pool, test = (sorted(tmp_path.glob(pattern)) for pattern in ("[!t]*.png", "test_*.jpg"))
    sources = Sources(*(scan_images(paths, [UNKNOWN_SIZE] * len(paths), "turn") for paths in (pool, test)))
    assert sources.remarks == [
        "test images that nearly equal one of the pool: 1 (test_b.jpg and b.png)",
        "images of the pool that nearly equal another: 2 (a_smaller.png and a.png)",
    ]


def test_near_duplicates_of_many_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    thumbs_ND = rng.integers(0, 256, (24_000, THUMBNAIL_SIDE**2)).astype(np.int64)
    thumbs_ND[20_000:20_100] = (thumbs_ND[:100] + rng.integers(-1, 2, (100, THUMBNAIL_SIDE**2))).clip(0, 255)
    thumbs_ND[5_000:9_000] = thumbs_ND[5_000]  # the frames of a film
    scans = [
        ImageScan(Path(f"{number}.png"), 64, 64, "", f"{number:032x}", bytes(row))
        for number, row in enumerate(thumbs_ND.astype(np.uint8))
    ]
    start = time.process_time()
    remarks = Sources(scans[:20_000], scans[20_000:]).remarks
    assert time.process_time() - start < 10
    assert [line.partition(" (")[0] for line in remarks] == [
        "test images that nearly equal one of the pool: 100",
        "images of the pool that nearly equal another: 4,000",
    ]
    assert MAX_NEAR_DISTANCE < MIN_CONTRAST


# --- image folders -------------------------------------------------------------------------------------
def test_folders_inside_a_class_are_the_classes_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torchvision.datasets import ImageFolder

    root = class_folder(tmp_path / "data", 1)
    for number, name in enumerate(["b/x.png", "a-2/x.png", "a/deep/y.jpg", "A/z.PGM", ".hidden/x.png", "a/._y.jpg"]):
        save_photograph(root / "train" / "cat" / name, noise(70 + number).convert("L"))
    (root / "train" / "cat" / "a" / "notes.heic").write_text("no image")
    (root / "train" / "cat" / "a" / "Thumbs.db").write_text("no image")
    (root / "train" / "cat" / "b" / "around").symlink_to(root / "train" / "cat")
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8)
    names = [name.removeprefix("train/") for name, _ in task.source_files()["pool"]]
    (root / "train" / "cat" / "b" / "around").unlink()
    theirs = [os.path.relpath(path, root / "train") for path, _ in ImageFolder(root / "train").samples]
    assert names == [name for name in theirs if "/." not in name]
    assert (len(names), task._labels.bincount().tolist()) == (10, [7, 3])
    assert caplog.messages == [f"{root}/train: files that are no images are left out: 1 (notes.heic)"]


def test_what_systems_leave_in_folders_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = class_folder(tmp_path / "data", 1)
    expected = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8).source_files()
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", ".git/a.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\0\5\26\7")
    assert image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8).source_files() == expected
    streets = street_folder(tmp_path / "streets" / "data")
    for path in list(streets.rglob("*.png")):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert TASKS["cityscapes"][1](tmp_path / "streets", "turn").num_pool == 2
    assert not any("left out" in line for line in caplog.messages)
    noise(0).save(streets / "leftImg8bit" / "train" / "ulm" / "u_9.png")
    assert TASKS["cityscapes"][1](tmp_path / "streets", "turn").num_pool == 2
    assert any("do not end in _leftImg8bit.png: 1 (ulm/u_9.png)" in line for line in caplog.messages)
    boxes = voc_folder(tmp_path / "boxes" / "data")
    for path in list((boxes / "JPEGImages").iterdir()):
        (path.parent / f"._{path.stem}.jpg").write_bytes(b"\0\5\26\7")
    (boxes / "ImageSets" / "Main" / "._train.txt").write_bytes(b"\0\5\26\7")
    assert TASKS["voc"][1](tmp_path / "boxes", "turn").num_pool == 4


@pytest.mark.parametrize(("name", "is_hidden"), [(".DS_Store", 1), ("._a.png", 1), ("Thumbs.db", 1), ("a.png", 0)])
def test_hidden_names(name: str, is_hidden: bool) -> None:
    assert is_hidden_name(name) == is_hidden
    assert is_image(name) == (not is_hidden)


def rename_folders(root: Path, *pairs: str) -> None:
    """Renames folders, given as old, new, old, new."""
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: rename_folders(root, "train", "Training", "test", "Testing"),
            "{root} has no train/ and no test/ (wanted: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg), but "
            "Testing/, Training/: set train=Training test=Testing, or split=0.2 to test on a fifth of each class",
        ),
        (
            lambda root: rename_folders(root, "test", "valid"),
            "has no test/ (wanted: {w}), but train/, valid/: set test=valid, or",
        ),
        (lambda root: rename_folders(root, "test", "val"), "set test=val, or split=0.2"),
        (
            lambda root: rename_folders(root, "train/cat", "cat", "train/dog", "dog", "train", "notes", "test", "more"),
            "but cat/, dog/, more/, notes/: set train= and test= to the names of their folders, or split=0.2",
        ),
        (lambda root: [rename_folders(root, "test", "t"), (root / "a.csv").touch()], "but t/, train/, a.csv: set"),
    ],
)
def test_a_folder_of_another_layout_is_told_what_to_type(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    root = class_folder(tmp_path / "data", 1)
    change(root)
    expected = message.format(root=root, w="ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg")
    with pytest.raises(ValueError, match=re.escape(expected)):
        image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8)


def test_a_folder_around_the_data_set_is_told_which_it_is(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "archive" / "data", 1)
    with pytest.raises(ValueError, match=re.escape(f"but data/: set root={root}, or split=0.2")):
        image_folder(Machine(CPU, tmp_path), QUICK, root="archive", size=8)


def test_other_names_of_the_folders(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "data", 1)
    expected = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8).fingerprint
    rename_folders(root, "train", "Training", "test", "Testing")
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, train="Training", test="Testing")
    assert (task.fingerprint, task.source_files()["test"][0][0]) == (expected, "Testing/cat/d.png")


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_share_of_each_class_is_drawn(inside: str, tmp_path: Path) -> None:
    for kind, number in (("cat", 10), ("dog", 25), ("emu", 2)):
        for place in range(number):
            save_photograph(tmp_path / "data" / inside / kind / f"{place}.png", noise(1000 + 100 * number + place))
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, split=0.2)
    files = task.source_files()
    assert [sum(f"/{kind}/" in f"/{name}" for name, _ in files["test"]) for kind in ("cat", "dog", "emu")] == [2, 5, 1]
    assert (task.num_pool, task._labels.bincount().tolist()) == (29, [8, 20, 1])
    assert task._test_labels.bincount().tolist() == [2, 5, 1]
    assert not {pixels for _, pixels in files["test"]} & {pixels for _, pixels in files["pool"]}
    again = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, split=0.2)
    assert again.source_files() == files
    assert task.data_remarks() == []
    for share in (0.0, 1.0, -0.2):
        with pytest.raises(ValueError, match=r"split=.*: must be between 0 and 1, the share of test images"):
            image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, split=share)
    for path in (tmp_path / "data" / inside / "emu").glob("1.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"emu has one image: split=0.2 needs two, one of them a test image"):
        image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, split=0.2)


def test_a_test_folder_that_a_share_leaves_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = class_folder(tmp_path / "data", 1)
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8, split=0.4)
    assert (task.num_pool, task.num_test()) == (4, 2)
    assert caplog.messages == [f"split=0.4: the test set is drawn from {root}/train; {root}/test is not used"]
