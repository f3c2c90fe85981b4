"""The classification tasks: what they read, what they refuse, and a quick check that digits are learned."""

from __future__ import annotations

import hashlib
import pickle
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, SVHN

from benchmark.api import Machine
from benchmark.plugins import registry
from benchmark.tasks.cifar10 import cifar10
from benchmark.tasks.cifar100 import cifar100
from benchmark.tasks.digits import DEFAULT, digits
from benchmark.tasks.image_folder import image_folder
from benchmark.tasks.svhn import svhn
from benchmark.tasks.svhn_as_published import distort, svhn_as_published
from benchmark.vision.classification.recipe import PUBLISHED, Recipe
from benchmark.vision.data.digits import read_digits

CPU = torch.device("cpu")
QUICK = Recipe(model="small_cnn", epochs=1)


# --- digits ----------------------------------------------------------------------------------------
def test_digits_are_learned_quickly(machine: Machine) -> None:
    task = digits(machine, DEFAULT)
    assert (task.num_pool, task.num_test(), task.num_classes) == (1297, 500, 10)
    assert torch.bincount(task._test_labels).tolist() == [50] * 10
    order = np.random.default_rng(0).permutation(task.num_pool)
    few, many = (task.score(task.fit(order[:num], 0))["accuracy"] for num in (50, 300))
    assert 70 < few < 92
    assert 95 < many < 100
    assert task.fingerprint == digits(machine, DEFAULT).fingerprint


def test_the_handwritten_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data, (values_NHW, labels_N) = load_digits(), read_digits()
    assert np.array_equal(values_NHW, data.images)
    assert np.array_equal(labels_N, data.target)
    assert (values_NHW.dtype, labels_N.dtype) == (np.int64, np.int64)


def test_digits_pool_and_test_are_disjoint_parts_of_the_whole(machine: Machine) -> None:
    from sklearn.datasets import load_digits

    task = digits(machine, DEFAULT)
    images = torch.cat([task._images, task._test_inputs]).flatten(1).numpy()
    whole = np.round(load_digits().data * (255 / 16)).astype(np.uint8)
    assert sorted(map(bytes, images)) == sorted(map(bytes, whole))


# --- every task as a plug-in -------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "svhn", "svhn_as_published", "image_folder"])
def test_tasks_are_registered_with_checked_parameters(name: str) -> None:
    plugin = registry.get("task", name)
    parameters = {"root": "photos"} if name == "image_folder" else {}
    values = plugin.bind(parameters)
    capabilities = {"predict", "embed", "losses", "directional", "weights", "pseudo_labels", "companion"}
    assert capabilities <= plugin.capabilities(values)
    assert ("sample" in plugin.capabilities(values)) == (name == "digits")
    assert "sample" in plugin.capabilities(plugin.bind({**parameters, "dropout": 0.1}))
    with pytest.raises(ValueError, match="has no effect with"):
        plugin.capabilities(plugin.bind({**parameters, "model": "small_cnn", "width": 16}))


def test_published_recipes() -> None:
    def published(name: str, **parameters: object) -> dict[str, Any]:
        return registry.get("task", name).bind({"published": True, **parameters})

    assert published("cifar10")["normalise"] == "cifar10"
    assert published("cifar100")["normalise"] == published("svhn")["normalise"] == "cifar100"
    assert published("image_folder", root="x")["normalise"] == "pool"
    assert published("svhn")["flip"]
    assert not registry.get("task", "svhn").bind({})["flip"]
    expected = replace(PUBLISHED, normalise="cifar100")
    assert registry.get("task", "svhn_as_published").bind({}) == vars(expected)


# --- downloads ---------------------------------------------------------------------------------------
def offline(*args: object, **kwargs: object) -> None:
    raise URLError("Name or service not known")


@pytest.mark.parametrize(
    ("task", "file"),
    [(cifar10, "cifar-10-python.tar.gz"), (cifar100, "cifar-100-python.tar.gz"), (svhn, "train_32x32.mat")],
)
def test_no_network_is_one_clear_line(
    task: Callable[..., object], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}.*Name or service not known.*/{file} there$"):
        task(Machine(CPU, tmp_path), Recipe())
    with pytest.raises(ValueError, match=r"set data=DIR or \$AL_BENCHMARK_DATA"):
        task(Machine(CPU), Recipe())


def fake_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes an archive like CIFAR-10's with 20 + 10 images, and gives torchvision its md5 sums."""
    rng, inside = np.random.default_rng(0), folder / CIFAR10.base_folder
    inside.mkdir()

    def put(name: str, content: object) -> list[str]:
        (inside / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((inside / name).read_bytes()).hexdigest()]

    def batch() -> dict[str, object]:
        return {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}

    monkeypatch.setattr(CIFAR10, "train_list", [put("data_batch_1", batch()), put("data_batch_2", batch())])
    monkeypatch.setattr(CIFAR10, "test_list", [put("test_batch", batch())])
    name, md5 = put("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return inside


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")
def test_cifar_is_checked_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = fake_cifar(tmp_path, monkeypatch)
    task = cifar10(Machine(CPU, tmp_path), QUICK)
    assert (task.num_pool, task.num_test(), tuple(task._images.shape)) == (20, 10, (20, 3, 32, 32))
    flat = pickle.loads((inside / "data_batch_1").read_bytes())["data"]
    assert torch.equal(task._images[3].flatten(), torch.from_numpy(flat[3]))

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    evil = b"cos\nmkdir\n(V" + str(tmp_path / "hacked").encode() + b"\ntR."
    (inside / "test_batch").write_bytes(evil)  # the archive is whole, so this is extracted anew
    assert cifar10(Machine(CPU, tmp_path), QUICK).fingerprint == task.fingerprint

    (inside / "test_batch").write_bytes(evil)
    (tmp_path / CIFAR10.filename).write_bytes((tmp_path / CIFAR10.filename).read_bytes()[:500])
    with pytest.raises(ValueError, match="with the right md5"):
        cifar10(Machine(CPU, tmp_path), QUICK)
    assert not (tmp_path / "hacked").exists()


def test_svhn_and_its_published_distortion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    folder, rng, lists = tmp_path / "svhn", np.random.default_rng(0), {}
    folder.mkdir()
    images_HW3N = rng.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    for split in ("train", "test"):
        savemat(folder / f"{split}_32x32.mat", {"X": images_HW3N, "y": np.arange(12)[:, None] % 10 + 1})
        md5 = hashlib.md5((folder / f"{split}_32x32.mat").read_bytes()).hexdigest()
        lists[split] = [f"http://nowhere/{split}_32x32.mat", f"{split}_32x32.mat", md5]
    monkeypatch.setattr(SVHN, "split_list", lists)
    task, scrambled = (make(Machine(CPU, tmp_path), QUICK) for make in (svhn, svhn_as_published))
    assert task._labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert np.array_equal(task._images[5].permute(1, 2, 0).numpy(), images_HW3N[..., 5])
    assert np.array_equal(scrambled._images[5].numpy().ravel(), images_HW3N[..., 5].ravel())


def test_distortion_on_a_tiny_image() -> None:
    red, green, blue = [[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]
    images_N3HW = np.array([[red, green, blue]], np.uint8)
    assert distort(images_N3HW).tolist() == [[[[1, 5], [9, 2]], [[6, 10], [3, 7]], [[11, 4], [8, 12]]]]


# --- image folders -----------------------------------------------------------------------------------
def folder_of_images(root: Path) -> Path:
    """Writes two classes with three training images and one test image each, in several formats, modes and sizes."""
    for part, names in (("train", ["a.png", "b.JPG", "c.bmp"]), ("test", ["d.png"])):
        for number, kind in enumerate(("cat", "dog")):
            (root / part / kind).mkdir(parents=True)
            for place, name in enumerate(names):
                colour = 40 * place + 100 * number
                Image.new("L" if place else "RGB", (9 + place, 7), (colour,) * (1 if place else 3)).save(
                    root / part / kind / name
                )
            (root / part / kind / "notes.txt").write_text("no image")
    return root


def test_a_folder_of_images(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "photos")
    task = image_folder(Machine(CPU, tmp_path), QUICK, root="photos", size=8)
    assert task._images.shape == (6, 3, 8, 8)
    assert task._labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert task._test_labels.tolist() == [0, 1]
    assert (task._images.float().mean((1, 2, 3)) - torch.tensor([0.0, 40, 80, 100, 140, 180])).abs().max() < 2
    again = image_folder(Machine(CPU), QUICK, root=str(tmp_path / "photos"), size=8)
    other = image_folder(Machine(CPU, tmp_path), QUICK, root="photos", size=9)
    assert task.fingerprint == again.fingerprint != other.fingerprint
    assert task.fit(np.arange(6), 0) is not None


def test_images_of_the_right_size_are_not_touched(tmp_path: Path) -> None:
    folder_of_images(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / "cat" / "a.png")
    task = image_folder(Machine(CPU), QUICK, root=str(tmp_path), size=8)
    assert np.array_equal(task._images[0].permute(1, 2, 0).numpy(), pixels)


def remove(path: Path) -> None:
    """Removes a file, or a folder with its files."""
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()


def halve(path: Path) -> None:
    """Writes the first half of a JPEG."""
    Image.effect_noise((40, 40), 50).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: remove(root), "no such folder: {root} (wanted: ROOT/train/CLASS"),
        (lambda root: remove(root / "test"), "{root} has no test/ (wanted: ROOT/train/CLASS"),
        (lambda root: remove(root / "train"), "{root} has no train/ (wanted: ROOT/train/CLASS"),
        (lambda root: (root / "train" / "emu").mkdir(), "the class emu is in train/ but not in test/"),
        (lambda root: remove(root / "test" / "dog"), "{root}/test: 1 class folders; a task needs two"),
        (lambda root: (root / "test" / "emu").mkdir(), "the class emu is in test/ but not in train/"),
        (lambda root: [remove(root / part / "dog") for part in ("train", "test")], "1 class folders; a task needs two"),
        (lambda root: (root / "test" / "dog" / "d.png").unlink(), "{root}/test/dog: no images (.bmp"),
        (
            lambda root: (root / "train" / "dog" / "b.JPG").write_bytes(b"JFIF?"),
            "{root}/train/dog/b.JPG cannot be read",
        ),
        (lambda root: halve(root / "train" / "dog" / "a.png"), "{root}/train/dog/a.png cannot be read as an image"),
    ],
)
def test_folders_that_will_not_do(break_it: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "photos")
    break_it(root)
    with pytest.raises(ValueError, match=f"^.*{re.escape(message.format(root=root))}.*$"):
        image_folder(Machine(CPU, tmp_path), QUICK, root="photos", size=8)


def test_a_relative_root_needs_a_data_folder() -> None:
    with pytest.raises(ValueError, match=r"photos is looked for in the folder of your data sets: set data=DIR"):
        image_folder(Machine(CPU), QUICK, root="photos")


@pytest.mark.slow
def test_cifar10_jpeg_loads(machine: Machine) -> None:
    if machine.data is None or not (machine.data / "cifar10_jpeg").is_dir():
        pytest.skip("no cifar10_jpeg in $AL_BENCHMARK_DATA")
    task = image_folder(machine, Recipe(width=8, epochs=1), root="cifar10_jpeg")
    assert (task.num_pool, task.num_test(), task.num_classes) == (50_000, 10_000, 10)
    assert task._normaliser.mean_K11.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9], abs=0.2)
