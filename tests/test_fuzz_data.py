"""Random data sets with flaws: they are read as they are, or one line says why not."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import resource
import struct
import warnings
import xml.dom.minidom as minidom
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
import torch
from _fuzz import KINDS, SIZES, befall, corpus, damaged, folder, judged, mutated, picture, size_of
from hypothesis import strategies as st
from PIL import Image

from benchmark.api import Machine
from benchmark.tasks.coco import coco
from benchmark.tasks.image_folder import image_folder
from benchmark.tasks.voc import voc
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.data import image_checks
from benchmark.vision.data.annotations import image_scans
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.splitting import check_has_boxes
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.fingerprints import digest

MACHINE = Machine(torch.device("cpu"))
Box = tuple[str, float, float, float, float, int, bool]  # image, corners, class, ignored


@pytest.fixture(autouse=True, scope="module")
def harness() -> Iterator[None]:
    """Replaces the tasks, switches the cache of scans off and limits memory to 3 GB beyond what is in use."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as handle:
        used = int(handle.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, limits[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_checks, "load_scans", lambda keys: {})
        patch.setattr(image_checks, "save_scans", lambda scans: None)
        for task in ("voc", "coco"):
            patch.setattr(f"benchmark.tasks.{task}.Detection", StandInDetection)
        patch.setattr("benchmark.tasks.image_folder.build_task", StandInClassifier)
        yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


class StandInDetection:
    """Stands in for Detection: checks its data as it does and keeps them."""

    def __init__(
        self, machine: Machine, recipe: Any, pool: Any, test: Any, num_classes: int, classes: list[str], root: Path,
        map_at: str = "",
    ) -> None:  # fmt: skip
        check_has_boxes(pool, test)
        self.pool, self.test, self.classes = pool, test, list(classes)
        self.fingerprint = pool.images.fingerprint + test.images.fingerprint
        self.remarks = report_sources(image_scans(pool.images), image_scans(test.images), root).remarks
        assert num_classes == len(classes)

    def boxes(self) -> list[Box]:
        """All boxes of the pool."""
        truth, names = self.pool.truth, self.pool.images.names
        image_B = np.repeat(np.arange(len(names)), np.diff(truth.offsets_N1))
        rows = zip(image_B, truth.corners_B4, truth.labels_B, truth.ignored_B, strict=True)
        return [(names[i], *map(float, box), int(label), bool(ignored)) for i, box, label, ignored in rows]


def clip_box(x1: float, y1: float, x2: float, y2: float, size: tuple[int, int]) -> list[float] | None:
    """The box inside its image; None if it has no area before or after clipping."""
    with np.errstate(over="ignore"):
        sides = [float(np.float32(side)) for side in (x1, y1, x2, y2)]
    if not all(map(math.isfinite, sides)) or not (sides[0] < sides[2] and sides[1] < sides[3]):
        return None
    inside = [min(max(side, 0), size[number % 2]) for number, side in enumerate(sides)]
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else None


def check_boxes(boxes: list[Box], expected: list[Box], lost: int, lines: list[str]) -> bool:
    """Checks that all boxes were read, and that losses were logged; returns whether none was lost."""
    assert Counter((box[0], *box[5:]) for box in boxes) == Counter((box[0], *box[5:]) for box in expected)
    assert np.allclose([box[1:5] for box in sorted(boxes)], [box[1:5] for box in sorted(expected)], atol=1e-3)
    assert not lost or lines, f"{lost} boxes are gone"
    return not lost


# --- COCO -------------------------------------------------------------------------------------
FLAGS = {"": 0, "none": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [{"id": 7 - i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(3)],
    "annotations": [
        {"id": n, "image_id": 5 + n % 3, "category_id": [3, 1][n % 2], "bbox": [n, 1, 3, 2.5], "iscrowd": n == 4}
        for n in range(5)
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
}  # fmt: skip
COCO_TEST = COCO | {"images": [{"id": 5 + i, "file_name": f"t{i}.png"} for i in range(3)]}


def coco_folder(data: st.DataObject, root: Path) -> None:
    """Writes a data set with a random flaw."""
    for number in range(3):
        picture(root / "train2017" / f"{number}.png", number)
        picture(root / "val2017" / f"t{number}.png", 10 + number)
    (root / "annotations").mkdir()
    damage = data.draw(KINDS)
    text = json.dumps(mutated(data, COCO) if "body" in damage else COCO).encode()
    (root / "annotations" / "instances_train2017.json").write_bytes(damaged(data, text) if "bytes" in damage else text)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(COCO_TEST))
    if "files" in damage:
        befall(data, root)


def number_of(value: Any) -> Any:
    """An id as a number, if it is one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() else value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises KeyError if a key occurs twice."""
    if len(dict(pairs)) < len(pairs):
        raise KeyError
    return dict(pairs)


def coco_reference(path: Path, images: Path) -> tuple[list[str], list[str], list[Box], int]:
    """Image names in order, classes, boxes and the number of lost boxes. Any exception: the file is not sound."""
    content = path.read_bytes()
    body = json.loads(content.decode(json.detect_encoding(content)), object_pairs_hook=unique_keys)
    rows, classes = (
        sorted(((number_of(row["id"]), row) for row in body[key]), key=lambda pair: pair[0])
        for key in ("images", "categories")
    )
    by_id, labels = ({key: number for number, (key, _) in enumerate(part)} for part in (rows, classes))
    assert len(by_id) == len(rows)
    assert len(labels) == len(classes)
    names = [row["file_name"].replace("\\", "/") for _, row in rows]
    sizes = {name: size_of(images / name) for name in names}
    boxes, lost = list[Box](), 0
    for mark in body["annotations"]:
        name = names[by_id[number_of(mark["image_id"])]]
        x, y, width, height = mark["bbox"]
        size = sizes[name]
        assert size is not None
        inside = clip_box(x, y, float(x) + width, float(y) + height, size)
        label, crowd = labels[number_of(mark["category_id"])], FLAGS[str(mark.get("iscrowd")).strip().lower()]
        if inside is None:
            lost += 1
        else:
            boxes.append((name, *inside, label, bool(crowd)))  # type: ignore[arg-type]
    return names, [str(row["name"]) for _, row in classes], boxes, lost


def coco_judged(data: st.DataObject) -> str:
    """Tries one random COCO data set."""
    with folder() as root:
        coco_folder(data, root)

        def check(task: StandInDetection, lines: list[str]) -> bool:
            path = root / "annotations" / "instances_train2017.json"
            names, classes, boxes, lost = coco_reference(path, root / "train2017")
            assert [Path(name) for name in task.pool.images.names] == [Path(name) for name in names]
            assert task.classes == classes
            return check_boxes(task.boxes(), [(str(Path(box[0])), *box[1:]) for box in boxes], lost, lines)  # type: ignore[misc]

        return judged(lambda: coco(MACHINE, DetectorRecipe(), root=str(root)), check, root)


@SIZES
def test_coco_is_right_named_or_refused(number: int) -> None:
    corpus("coco", number, coco_judged)


# --- PASCAL VOC -------------------------------------------------------------------------------
def node(tag: str, *children: Any) -> dict[str, Any]:
    """An element with elements or texts inside."""
    return {"tag": tag, "inside": list(children)}


def page_of(number: int) -> dict[str, Any]:
    """The annotation of an image."""
    things = [
        node(
            "object", node("name", ["cat", "dog"][label]), node("difficult", str(label)),
            node("bndbox", node("xmin", str(1 + label)), node("ymin", "2"), node("xmax", "6"), node("ymax", "7.5")),
        )
        for label in range(2)
    ]  # fmt: skip
    size = node("size", node("width", "8"), node("height", "8"), node("depth", "3"))
    return node("annotation", node("filename", f"{number}.png"), size, *things)


def render_xml(element: Any) -> str:
    """The XML of an element, or the text of anything else."""
    if not isinstance(element, dict) or "tag" not in element:
        return escape(str(element))[:2000]
    inside = element.get("inside", "")
    text = "".join(map(render_xml, inside)) if isinstance(inside, list) else escape(str(inside))
    return f"<{element['tag']}>{text}</{element['tag']}>"


HEADS = [
    *[""] * 12, '<?xml version="1.0" encoding="UTF-8"?>\n',
    '<?xml version="1.0" encoding="latin-1"?>', '<?xml encoding="x"?>',
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>', "<!-- x -->",
    '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">', '<?xml version="1.0" encoding="utf-7"?>', "<!doctype x>",
    '<?xml version="1.0" encoding="utf-16"?>', "\ufeff", " ",
]  # fmt: skip


def voc_folder(data: st.DataObject, root: Path, lists: bool) -> None:
    """Writes a data set with a random flaw."""
    damage = data.draw(KINDS)
    (root / "Annotations").mkdir()
    for number in range(4):
        picture(root / "JPEGImages" / f"{number}.png", number)
        (root / "Annotations" / f"{number}.xml").write_text(render_xml(page_of(number)))
    page = mutated(data, page_of(0)) if "body" in damage else page_of(0)
    head = data.draw(st.sampled_from(HEADS)) if "bytes" in damage else ""
    text = (head + render_xml(page)).encode("utf-8", "surrogatepass")
    (root / "Annotations" / "0.xml").write_bytes(damaged(data, text) if "bytes" in damage else text)
    if lists:
        (root / "ImageSets" / "Main").mkdir(parents=True)
        for name, text in (("train", "0\n1\n"), ("val", "2\n3\n")):
            (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    if "files" in damage:
        befall(data, root)


def texts(element: Any, tag: str) -> list[str]:
    """The texts of the children with a tag."""
    children = [child for child in element.childNodes if getattr(child, "localName", None) == tag]
    return ["".join(part.data for part in child.childNodes if part.nodeType in (3, 4)) for child in children]


def voc_page(path: Path) -> tuple[list[tuple[str, list[float], str]], int]:
    """The objects of an annotation (name, corners, difficult) and the number of boxes outside objects."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):  # whatever encoding its first line states
        content = re.sub(r"^<\?.*?\?>", "", content.decode("utf-16")).encode()
    root = minidom.parseString(content).documentElement
    assert root is not None
    assert root.localName == "annotation"
    things = []
    for element in (child for child in root.childNodes if getattr(child, "localName", None) == "object"):
        [box] = [child for child in element.childNodes if getattr(child, "localName", None) == "bndbox"]
        [name] = texts(element, "name")
        sides = [float(text) for side in ("xmin", "ymin", "xmax", "ymax") for [text] in [texts(box, side)]]
        things.append((name.strip(), sides, (texts(element, "difficult") or [""])[0]))
    return things, len(root.getElementsByTagNameNS("*", "bndbox")) - len(things)


def voc_reference(root: Path, ids: list[str], suffix: dict[str, str], every: list[str]) -> tuple[list[Box], int]:
    """The boxes of images and the number of lost ones; `every` are all images read. Any exception: not sound."""
    pages = {name: voc_page(root / "Annotations" / f"{name}.xml") for name in every}
    sides = [side for things, _ in pages.values() for _, sides, _ in things for side in sides[:2]]
    first = 0 if any(0 <= side < 1 for side in sides) else 1
    classes = sorted({name for things, _ in pages.values() for name, *_ in things})
    boxes, lost = list[Box](), sum(pages[name][1] for name in ids)
    for image in ids:
        size = size_of(root / "JPEGImages" / suffix[image])
        assert size is not None
        for name, (x1, y1, x2, y2), difficult in pages[image][0]:
            inside = clip_box(x1 - first, y1 - first, x2, y2, size) if x1 < x2 and y1 < y2 else None
            lost += inside is None
            if inside is not None:
                ignored = bool(FLAGS[difficult.strip().lower()])
                boxes.append((suffix[image], *inside, classes.index(name), ignored))  # type: ignore[arg-type]
    return boxes, lost


def is_annotation(path: Path) -> bool:
    """Whether a file is an annotation, whatever its name."""
    return path.is_file() and path.stat().st_size < 10**6 and b"<object>" in path.read_bytes()


def voc_judged(data: st.DataObject) -> str:
    """Tries one random VOC data set, with lists or divided by a share."""
    with folder() as root:
        lists = data.draw(st.booleans())
        voc_folder(data, root, lists)

        def check(task: StandInDetection, lines: list[str]) -> bool:
            names = [*task.pool.images.names, *task.test.images.names]
            suffix = {name.rpartition(".")[0]: name for name in names}
            ids = [name.rpartition(".")[0] for name in task.pool.images.names]
            boxes, lost = voc_reference(root, ids, suffix, list(suffix))
            if lists:
                assert ids == ["0", "1"]
            else:
                paths = [
                    path for path in (root / "Annotations").rglob("*") if is_annotation(path) and path.name[0] != "."
                ]
                lost += len({path.name.partition(".")[0] for path in paths} - set(suffix))  # copies are no loss
            return check_boxes(task.boxes(), boxes, lost, lines)

        share = {} if lists else {"split": 0.4}
        build = partial(voc, MACHINE, DetectorRecipe(), root=str(root), year=None, difficult=False, **share)
        return judged(build, check, root)


@SIZES
def test_voc_is_right_named_or_refused(number: int) -> None:
    corpus("voc", number, voc_judged)


# --- lists ------------------------------------------------------------------------------------
LINES = [
    "0", "1", "1 1", "0 -1", "0.png", "/data/x/JPEGImages/1.png", "C:\\x\\1.png", "", " ", "# 0", "0 1", "../0", "9",
    "a\x0bb", "\ud800", "é", "0\0", "1  -1", "x" * 5000, "/etc/passwd", "0,1", "0;1", "\ufeff0",
]  # fmt: skip


def list_judged(data: st.DataObject) -> str:
    """Tries one random list of images of a VOC data set."""
    with folder() as root:
        for number in range(4):
            picture(root / "JPEGImages" / f"{number}.png", number)
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{number}.xml").write_text(render_xml(page_of(number)))
        (root / "ImageSets" / "Main").mkdir(parents=True)
        path = root / "ImageSets" / "Main" / "train.txt"
        lines = data.draw(st.lists(st.sampled_from([*LINES[:8] * 3, *LINES]), min_size=1, max_size=4))
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        path.write_bytes(damaged(data, text) if data.draw(st.booleans()) else text)
        (path.parent / "val.txt").write_text("2\n3\n")
        if data.draw(st.integers(0, 5)) == 0:
            befall(data, root / "ImageSets")

        def check(task: StandInDetection, log_lines: list[str]) -> bool:
            content = path.read_bytes()
            text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
            entries = [line.strip() for line in text.splitlines() if line.strip()]
            names = [re.sub(r"^.*[/\\]", "", re.sub(r"\s+-?[01]$", "", line)) for line in entries]
            names = [re.sub(r"\.png$", "", name, flags=re.IGNORECASE) for name in names]
            names = [name if name in "0123" else name.split()[0] for name in names]
            assert task.pool.images.names == [f"{name}.png" for name in dict.fromkeys(names)]
            assert len(set(names)) == len(names) or log_lines
            return len(set(names)) == len(names)

        return judged(lambda: voc(MACHINE, DetectorRecipe(), root=str(root), year=None), check, root)


@SIZES
def test_lists_are_right_named_or_refused(number: int) -> None:
    corpus("lists of images", number, list_judged)


# --- folders of classes -----------------------------------------------------------------------
class StandInClassifier:
    """Stands in for a classification task and keeps the data."""

    def __init__(
        self, machine: Machine, recipe: Any, pool: Any, test: Any, num_classes: int, classes: list[str], root: Path
    ) -> None:  # fmt: skip
        self.pool, self.test, self.classes = pool, test, list(classes)
        self.fingerprint = digest(pool.images_NKHW, pool.labels_N, *classes)
        self.remarks = report_sources(pool.scans, test.scans, root).remarks

    def images(self) -> Counter[tuple[str, str]]:
        """Class and file of every image of the pool and the test set."""
        return Counter(
            (self.classes[label], scan.path.name)
            for split in (self.pool, self.test)
            for label, scan in zip(split.labels_N, split.scans, strict=True)
        )


ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
EXTRAS = ["loose", "class", "inside", "hidden", "loop", "twice", "odd class", "note", "upper", "broken link"]


def add(data: st.DataObject, train: Path) -> None:
    """Adds something unusual to a folder of classes."""
    extra = data.draw(st.sampled_from(EXTRAS))
    if extra in ("loose", "class", "inside", "hidden", "odd class", "upper"):
        inside = {
            "class": "eel/",
            "inside": "cat/more/",
            "hidden": "cat/.x/",
            "odd class": "a\n\udcff/",
            "upper": "cat/",
        }
        picture(train / inside.get(extra, "") / "9.PNG", 9)
    elif extra == "loop":
        (train / data.draw(st.sampled_from(["cat/up", "up", "loop"]))).symlink_to(
            data.draw(st.sampled_from(["..", "loop", "."]))
        )
    elif extra == "twice":
        (train / "dog" / "again.png").write_bytes((train / "cat" / "0.png").read_bytes())
    else:
        (train / "cat" / ("readme.md" if extra == "note" else "link.png")).symlink_to("nowhere")


def classes_reference(home: Path) -> tuple[Counter[tuple[str, str]], int]:
    """Class and file of each image, and the number of files that are no images or in no class."""
    files, lost = Counter[tuple[str, str]](), 0
    for entry in sorted(os.listdir(home)):
        if not entry.startswith(".") and os.path.isdir(home / entry):
            visited = set[str]()
            for place, inside, names in os.walk(home / entry, followlinks=True):
                inside[:] = [] if os.path.realpath(place) in visited else [file for file in inside if file[0] != "."]
                names = [] if os.path.realpath(place) in visited else [file for file in names if file[0] != "."]
                visited.add(os.path.realpath(place))
                images = [file for file in names if os.path.splitext(file)[1].lower() in ENDINGS]
                files.update((entry, file) for file in images)
                lost += len(names) - len(images)
        elif not entry.startswith("."):
            lost += os.path.splitext(entry)[1].lower() in ENDINGS
    return files, lost


def classes_judged(data: st.DataObject) -> str:
    """Tries one random folder of classes."""
    with folder() as root:
        for number, name in enumerate(("cat", "dog")):
            for image in range(2):
                picture(root / "train" / name / f"{image}.png", 2 * number + image)
            picture(root / "test" / name / "t.png", 10 + number)
        split = data.draw(st.sampled_from([None, 0.5]))
        for _ in range(data.draw(st.integers(0, 2))):
            with contextlib.suppress(FileExistsError):
                add(data, root / "train")
        if data.draw(st.booleans()):
            befall(data, root / "train", 2)

        def check(task: StandInClassifier, lines: list[str]) -> bool:
            expected, lost = classes_reference(root / "train")
            if split is None:
                expected.update({("cat", "t.png"): 1, ("dog", "t.png"): 1})
            assert task.images() == expected
            assert not lost or lines, f"{lost} files are gone"
            return not lost

        return judged(lambda: image_folder(MACHINE, Recipe(), root=str(root), size=8, split=split), check, root)


@SIZES
def test_folders_of_classes_are_right_named_or_refused(number: int) -> None:
    corpus("folders of classes", number, classes_judged)


# --- images -----------------------------------------------------------------------------------
KINDS_OF_IMAGES = {  # ending: modes that it can hold
    "png": ["RGB", "L", "LA", "P", "RGBA", "1", "I;16", "I", "PA"], "jpg": ["RGB", "L", "CMYK", "YCbCr"],
    "gif": ["P", "L", "RGB"], "tif": ["RGB", "L", "CMYK", "I;16", "F", "I", "LAB", "1", "RGBA"],
    "bmp": ["RGB", "L", "P", "1"], "webp": ["RGB", "RGBA"], "ppm": ["RGB", "L", "I", "1"],
}  # fmt: skip
SIDES = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def absurd_file(data: st.DataObject) -> bytes:
    """A small file that states an absurd size, or unpacks to far more than its size."""
    width, height = data.draw(st.sampled_from(SIDES)), data.draw(st.sampled_from(SIDES))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    small = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**6)))
    files = [
        png + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""),
        small + text + chunk(b"IDAT", zlib.compress(bytes(14))) + chunk(b"IEND", b""),
        small + chunk(b"IDAT", zlib.compress(bytes(2 * 10**6))) + chunk(b"IEND", b""),
        b"GIF89a" + struct.pack("<HHBBB", width & 0xFFFF, height & 0xFFFF, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width - 2**31, height - 2**31, 1, 24, *[0] * 6),
        f"P6 {width} {height} 255\n".encode() + bytes(100), f"P5 {width} {height} 65535\n".encode() + bytes(100),
        b"P3 1 1 255\n" + b"1" * 5000, f"Pf\n{width} {height}\n-1.0\n".encode() + bytes(100), b"II*\0\xff\xff\xff\xff",
    ]  # fmt: skip
    return data.draw(st.sampled_from(files))


def image_of(data: st.DataObject) -> tuple[str, bytes]:
    """The extension and the bytes of a random image."""
    if data.draw(st.integers(0, 3)) == 0:
        return data.draw(st.sampled_from(sorted(KINDS_OF_IMAGES))), absurd_file(data)
    ending = data.draw(st.sampled_from(sorted(KINDS_OF_IMAGES)))
    mode, buffer = data.draw(st.sampled_from(KINDS_OF_IMAGES[ending])), io.BytesIO()
    side = data.draw(st.sampled_from([1, 8, 9, 300]))
    noise = Image.fromarray(np.random.default_rng(side).integers(0, 255, (8, side, 3), np.uint8))
    image = (
        noise.convert("RGBA").convert("LA").convert("PA")
        if mode == "PA"
        else noise.convert("L").convert(mode)
        if mode in ("I;16", "I", "F")
        else noise.convert(mode)
        if mode != "LAB"
        else Image.new("LAB", (8, 8))
    )
    more: dict[str, Any] = {}
    if data.draw(st.booleans()) and ending in ("gif", "tif", "webp", "png") and mode in ("RGB", "L", "P"):
        more |= {"save_all": True, "append_images": [image.rotate(180), image.rotate(90)]}
    if ending in ("jpg", "png", "webp") and data.draw(st.booleans()):
        more["exif"] = data.draw(
            st.sampled_from(
                [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x06\0\0\0\0\0\0", b"x" * 50]
            )
        )
    with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending), **more)
    content = buffer.getvalue()
    return ending, damaged(data, content) if data.draw(st.booleans()) else content


def image_judged(data: st.DataObject) -> str:
    """Tries one random image among others."""
    with folder() as root:
        for number, name in enumerate(("cat", "dog")):
            picture(root / "train" / name / "0.png", number)
            picture(root / "test" / name / "t.png", 10 + number)
        ending, content = image_of(data)
        path = root / "train" / "cat" / f"1.{data.draw(st.sampled_from([ending, ending, 'png', 'JPG']))}"
        path.write_bytes(content)

        def check(task: StandInClassifier, lines: list[str]) -> bool:
            assert size_of(path) is not None, path.read_bytes()
            with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            assert len(task.pool.labels_N) == 3
            assert frames == 1 or lines, "frames are gone"
            return frames == 1

        return judged(lambda: image_folder(MACHINE, Recipe(), root=str(root), size=8), check, root)


@SIZES
def test_images_are_right_named_or_refused(number: int) -> None:
    corpus("images", number, image_judged)
