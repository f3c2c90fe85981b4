"""Oxford-IIIT Pet and Tiny ImageNet, read from small folders of the same layout."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from benchmark.api import Machine
from benchmark.plugins import discovery, registry
from benchmark.tasks.oxford_pet import oxford_pet
from benchmark.tasks.tiny_imagenet import tiny_imagenet
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.data.annotations import ImageFiles
from benchmark.vision.data.image_files import decode_image

CPU = torch.device("cpu")
QUICK = Recipe(model="small_cnn", epochs=1)
PET, TINY = "oxford-iiit-pet", "tiny-imagenet-200"


def picture(path: Path, grey: int, size: tuple[int, int] = (12, 9)) -> None:
    """Saves an image of one grey value; `size` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path, "JPEG")


def greys(images_NKHW: torch.Tensor) -> list[int]:
    return images_NKHW.float().mean((1, 2, 3)).round().int().tolist()


# --- Oxford-IIIT Pet ----------------------------------------------------------------------------
LISTS = {
    "trainval": ["saint_bernard_7 2 2 1", "Abyssinian_100 1 1 1", "Abyssinian_2 1 1 1", "Sphynx_12 3 1 2"],
    "test": ["Sphynx_1 3 1 2", "Abyssinian_1 1 1 1", "saint_bernard_70 2 2 1"],
}


def pets(data: Path) -> Path:
    """Writes four training images and three test images of different greys, and one that is in no list."""
    folder = data / PET
    (folder / "annotations").mkdir(parents=True)
    for part, lines in LISTS.items():
        (folder / "annotations" / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
        for number, line in enumerate(lines):
            picture(folder / "images" / f"{line.split()[0]}.jpg", 20 * number + 100 * (part == "test"))
    picture(folder / "images" / "Sphynx_99.jpg", 255)
    return folder


def test_pets_come_in_the_order_of_their_lists(tmp_path: Path) -> None:
    pets(tmp_path)
    task = oxford_pet(Machine(CPU, tmp_path), QUICK, size=16)
    assert task._images.shape == (4, 3, 16, 16)
    assert greys(task._images) == [0, 20, 40, 60]
    assert greys(task._test_inputs) == [100, 120, 140]
    assert task._labels.tolist() == [1, 0, 0, 2]
    assert task._test_labels.tolist() == [2, 0, 1]
    assert (task.num_classes, list(task.classes)) == (3, ["Abyssinian", "saint_bernard", "Sphynx"])
    assert task.fit(np.arange(4), 0) is not None
    assert task.fingerprint != oxford_pet(Machine(CPU, tmp_path), QUICK, size=8).fingerprint


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda at: (at / "annotations/test.txt").unlink(), "no such file: {at}/annotations/test.txt: delete {at}/ann"),
        (
            lambda at: (at / "images/Sphynx_1.jpg").unlink(),
            "no such file: {at}/images/Sphynx_1.jpg, which test.txt lists: delete {at}/images to download it again",
        ),
        (
            lambda at: (at / "images/Sphynx_12.jpg").write_bytes(b"JFIF?"),
            "{at}/images/Sphynx_12.jpg cannot be read as an image",
        ),
        (
            lambda at: rewrite(at / "annotations/trainval.txt", "Sphynx_12 3 1 2", "Sphynx_12 3"),
            "{at}/annotations/trainval.txt:4: 'Sphynx_12 3' is not BREED_NUMBER CLASS SPECIES NUMBER",
        ),
        (
            lambda at: rewrite(at / "annotations/trainval.txt", "Sphynx_12 3", "../../Sphynx_12 3"),
            "{at}/annotations/trainval.txt:4: '../../Sphynx_12 3 1 2' is not",
        ),
        (
            lambda at: rewrite(at / "annotations/test.txt", "Sphynx_1 3 1 2\n", ""),
            "{at}/annotations: trainval.txt and test.txt must have the same classes",
        ),
        (
            lambda at: [rewrite(at / f"annotations/{part}.txt", " 3 1 2", " 4 1 2") for part in LISTS],
            "{at}/annotations: trainval.txt and test.txt must have the same classes, 1, 2, ...",
        ),
    ],
)
def test_pets_that_will_not_do(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = pets(tmp_path)
    spoil(folder)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(at=folder))}") as error:
        oxford_pet(Machine(CPU, tmp_path), QUICK, size=8)
    assert "\n" not in str(error.value)


def offline(*args: object, **kwargs: object) -> None:
    raise URLError("Name or service not known")


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    words = r"Name or service not known.*: put https://.*/images\.tar\.gz and annotations\.tar\.gz there$"
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / PET))} has no images.*{words}"):
        oxford_pet(Machine(CPU, tmp_path), QUICK)
    with pytest.raises(ValueError, match=r"set data=DIR or \$AL_BENCHMARK_DATA"):
        oxford_pet(Machine(CPU), QUICK)
    with pytest.raises(ValueError, match=r"^oxford_pet\[size=0\]: must be at least 1$"):
        oxford_pet(Machine(CPU, tmp_path), QUICK, size=0)


def archives(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the data set's two archives where torchvision expects them, and gives torchvision their md5 sums."""
    source, folder = pets(data / "made"), data / PET
    folder.mkdir()
    resources = []
    for part in ("images", "annotations"):
        with tarfile.open(folder / f"{part}.tar.gz", "w:gz") as tar:
            tar.add(source / part, part)
        md5 = hashlib.md5((folder / f"{part}.tar.gz").read_bytes()).hexdigest()
        resources.append((f"https://nowhere/{part}.tar.gz", md5))
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    return folder


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")
def test_the_archives_of_pets_are_unpacked_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = archives(tmp_path, monkeypatch)
    task = oxford_pet(Machine(CPU, tmp_path), QUICK, size=16)
    assert task.fingerprint == oxford_pet(Machine(CPU, tmp_path / "made"), QUICK, size=16).fingerprint
    assert {path.name for path in folder.iterdir()} > {"images", "annotations"}


@pytest.mark.parametrize("name", ["../outside/x", "ABSOLUTE/x", "images/../../../outside/x"])
def test_an_archive_of_another_is_not_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its md5 sum differs from the one that torchvision knows."""
    folder, outside = archives(tmp_path, monkeypatch), tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(folder / "images.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo(name.replace("ABSOLUTE", str(outside)))
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match="with the right md5"):
        oxford_pet(Machine(CPU, tmp_path), QUICK, size=16)
    assert list(outside.iterdir()) == []
    assert {path.name for path in folder.iterdir()} <= {"images.tar.gz", "annotations.tar.gz", ".download.lock"}


# --- Tiny ImageNet ------------------------------------------------------------------------------
def tiny(data: Path) -> Path:
    """Writes two classes of three images and four test images, all of different greys."""
    folder = data / TINY
    for number, name in enumerate(("n02", "n01")):  # the second comes first
        for place, file in enumerate((f"{name}_0", f"{name}_10", f"{name}_2")):
            picture(folder / "train" / name / "images" / f"{file}.JPEG", 40 * place + 100 * number, (64, 64))
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    lines = ["val_0.JPEG\tn02\t0\t1\t62\t60", "val_3.JPEG\tn01\t0\t0\t63\t63", "val_1.JPEG\tn01\t5\t0\t9\t9"]
    for number, line in enumerate(lines):
        picture(folder / "val" / "images" / line.partition("\t")[0], 60 * number, (32, 64))
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    picture(folder / "test" / "images" / "test_0.JPEG", 255)
    return folder


def test_tiny_imagenet_in_the_order_of_its_names_and_of_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order does not depend on the order in which the disk lists files."""
    tiny(tmp_path)
    as_told = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(as_told(folder), reverse=True)))
    task = tiny_imagenet(Machine(CPU, tmp_path), QUICK)
    assert task._images.shape == (6, 3, 64, 64)
    assert greys(task._images) == [100, 140, 180, 0, 40, 80]
    assert greys(task._test_inputs) == [0, 60, 120]
    assert task._labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert task._test_labels.tolist() == [1, 0, 0]
    assert list(task.classes) == ["n01", "n02"]


def test_a_stored_image_of_the_right_size_is_not_touched(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    path = folder / "train" / "n01" / "images" / "n01_10.JPEG"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path, "JPEG")
    task = tiny_imagenet(Machine(CPU, tmp_path), QUICK)
    with Image.open(path) as image:
        assert np.array_equal(task._images[1].permute(1, 2, 0).numpy(), np.asarray(image))


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (move_away, "no such folder: {at}/train: unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {data}"),
        (lambda at: move_away(at / "val" / "images"), "no such folder: {at}/val/images: unpack http://cs231n"),
        (lambda at: move_away(at / "train" / "n01" / "images"), "no such folder: {at}/train/n01/images"),
        (lambda at: move_away(at / "train" / "n01"), "{at}/train: 1 class folders; a task needs two"),
        (
            lambda at: [path.unlink() for path in (at / "train/n02/images").iterdir()],
            "{at}/train/n02/images: no images (.bmp",
        ),
        (
            lambda at: (at / "val/val_annotations.txt").unlink(),
            "no such file: {at}/val/val_annotations.txt: it is in h",
        ),
        (
            lambda at: rewrite(at / "val/val_annotations.txt", "n02", "n03"),
            "{at}/val/val_annotations.txt:1: 'val_0.JPEG\\tn03\\t0\\t1\\t62\\t60' is not a file, a folder of train/",
        ),
        (
            lambda at: rewrite(at / "val/val_annotations.txt", "val_3", "../x"),
            "{at}/val/val_annotations.txt:2: '../x.JPEG\\tn01",
        ),
        (lambda at: rewrite(at / "val/val_annotations.txt", "\t9\t9", "\t9"), "{at}/val/val_annotations.txt:3: 'val_1"),
        (lambda at: (at / "val/images/val_1.JPEG").unlink(), "{at}/val/images/val_1.JPEG is missing"),
        (
            lambda at: (at / "train/n02/images/n02_2.JPEG").write_bytes(b"\xff\xd8\xff"),
            "{at}/train/n02/images/n02_2.JPEG cannot be read as an image",
        ),
    ],
)
def test_a_tiny_imagenet_that_will_not_do(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    spoil(folder)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(at=folder, data=tmp_path))}") as error:
        tiny_imagenet(Machine(CPU, tmp_path), QUICK)
    assert "\n" not in str(error.value)


def test_tiny_imagenet_needs_a_data_folder() -> None:
    with pytest.raises(ValueError, match=r"set data=DIR or \$AL_BENCHMARK_DATA"):
        tiny_imagenet(Machine(CPU), QUICK)


# --- as plug-ins --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("oxford_pet", {"model": "torchvision:resnet50", "weights": "default", "normalise": "imagenet", "size": 224}),
        ("tiny_imagenet", {"model": "resnet18", "weights": "none", "normalise": "pool", "pad": 8}),
    ],
)
def test_their_default_recipes_are_sound_and_no_paper_s(name: str, defaults: dict[str, Any]) -> None:
    discovery.discover()
    plugin = registry.get("task", name)
    values = plugin.bind({})
    assert {key: values[key] for key in defaults} == defaults
    assert {"predict", "embed", "encode", "losses"} <= plugin.capabilities(values)
    assert "published" not in values
    with pytest.raises(ValueError, match="has no effect with"):
        plugin.capabilities(plugin.bind({"model": "small_cnn", "width": 16, "weights": "none"}))


def test_resnet18_keeps_a_map_of_8_by_8_for_images_of_64_pixels(tmp_path: Path) -> None:
    """As the docstring says: a stem of stride 1 and no pooling before the stages."""
    tiny(tmp_path)
    task = tiny_imagenet(Machine(CPU, tmp_path), Recipe(width=2, pad=8, epochs=1))
    backbone, sizes = task.model().backbone, []
    backbone.layer4.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    backbone(torch.zeros(1, 3, 64, 64))
    assert sizes == [(8, 8)]


def test_more_than_eight_bits_are_refused_rather_than_lost(tmp_path: Path) -> None:
    """Pillow would turn all but the darkest 255 of 65,536 grey values into white."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)).save(path)
    words = "deep.png cannot be read as an image: it is of mode I;16, more than 8 bits"
    with pytest.raises(ValueError, match=words):
        decode_image(path)
    with pytest.raises(ValueError, match=words):
        ImageFiles(tmp_path, ["deep.png"], np.array([[16, 16]]))[0]
