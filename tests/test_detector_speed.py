"""Fast paths of detectors beside their plain twins, and how often they read files or wait for the device.

Shapes: N images, A candidates of one image, C classes, K = C + 1 with background last.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import config
from benchmark.api import Augmentation, Boxes, Machine, View
from benchmark.runner import machine
from benchmark.runner.machine import num_reading_processes
from benchmark.strategies.cald import cald
from benchmark.strategies.localization_stability import localization_stability
from benchmark.tasks import scenes
from benchmark.vision.data.annotations import GroundTruth, Split, stored_sizes
from benchmark.vision.data.reading import read_groups
from benchmark.vision.detection.batches import BatchReader
from benchmark.vision.detection.detector import PixelFormat
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.suppression import Suppression, suppress, suppress_together
from benchmark.vision.detection.task import Detection

CPU = Machine(torch.device("cpu"))
SETTINGS = Suppression(min_score=0.3, iou_threshold=0.5, num_boxes=12, num_candidates=25)
SIZES = [(100, 80), (64, 96), (90, 90)]
WAITS = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "torchvision.nms"}  # the CPU waits for a GPU


class Waits(TorchDispatchMode):
    """Counts the operations whose result the CPU must wait for, were the tensors on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).rpartition(".")[0]
        is_masked = name == "aten.index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        self.counts[name] += name in WAITS or is_masked
        return function(*args, **(kwargs or {}))


# --- suppression ----------------------------------------------------------------------------------
def candidates(num: int, seed: int, own_boxes: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, boxes (some without area, some outside the image), class distributions and proposals of one image."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 4) if own_boxes else (num,)
    first = 110 * torch.rand(*shape, 2, generator=generator) - 10
    sides = 40 * torch.rand(*shape, 2, generator=generator) * (torch.rand(*shape, 1, generator=generator) > 0.1)
    scores_AK = (3 * torch.randn(num, 5, generator=generator)).softmax(1)
    return scores_AK[:, :4], torch.cat([first, first + sides], -1), scores_AK, torch.rand(num, 4, generator=generator)


@pytest.mark.parametrize("kind", ["levels", "own boxes", "proposals"])
def test_all_images_at_once_are_suppressed_as_one_by_one(kind: str) -> None:
    """An image in the middle has no candidate with a high score, and with proposals one has no candidate at all."""
    counts = [70, 70, 70] if kind == "levels" else [80, 0, 50]
    levels = [50, 16, 4] if kind == "levels" else []
    each = [candidates(num, seed, kind == "own boxes") for seed, num in enumerate(counts)]
    scores, corners, distributions, proposals = map(list, zip(*each, strict=True))
    scores[1] = scores[1] * 0.2
    given: Any = {"proposals": proposals} if kind == "proposals" else {}
    together = suppress_together(scores, corners, SIZES, SETTINGS, distributions, levels=levels, **given)
    lengths = []
    for number, ours in enumerate(together):
        own = {"proposals_A4": proposals[number]} if given else {}
        parts = (scores[number], corners[number], SIZES[number], SETTINGS, distributions[number])
        theirs = suppress(*parts, levels=levels, **own)
        for name, values in vars(theirs).items():
            other = getattr(ours, name)
            assert (other is None) == (values is None)
            assert values is None or torch.equal(other, values), name
        lengths.append(len(theirs.labels_M))
    assert lengths[1] == 0
    assert lengths[0] == SETTINGS.num_boxes  # the limit is reached


def test_suppression_waits_for_the_device_a_few_times_a_batch() -> None:
    each = [candidates(70, seed, False) for seed in range(8)]
    scores, corners, distributions, _ = map(list, zip(*each, strict=True))
    with Waits() as waits:
        suppress_together(scores, corners, [SIZES[0]] * 8, SETTINGS, distributions, levels=[50, 16, 4])
    assert 0 < waits.counts.total() <= 4
    with Waits() as by_image:
        for parts in zip(scores, corners, distributions, strict=True):
            suppress(parts[0], parts[1], SIZES[0], SETTINGS, parts[2], levels=[50, 16, 4])
    assert by_image.counts.total() > 8 * 4


# --- reading --------------------------------------------------------------------------------------
class CountedImages:
    """Images at known sizes that count how often each is read."""

    def __init__(self, images: list[Tensor]) -> None:
        self.images, self.reads = images, Counter[int]()
        self.sizes_N2 = np.array([(image.shape[2], image.shape[1]) for image in images])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        self.reads[index] += 1
        return self.images[index]

    @property
    def fingerprint(self) -> str:
        return "counted"


def small_split(number: int, seed: int = 0) -> Split:
    glyphs = np.random.default_rng(seed).random((20, 8, 8)).astype(np.float32)
    return scenes.build_split(glyphs, np.arange(20) % 10, number, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def task() -> Detection:
    pool, recipe = small_split(30), dataclasses.replace(scenes.DEFAULT, epochs=4)
    images = CountedImages([pool.images[number] for number in range(30)])
    return Detection(CPU, recipe, Split(images, pool.truth), small_split(4, 1), 10, "50")


@pytest.mark.parametrize("strategy", [localization_stability, cald])
def test_strategies_that_predict_several_views_read_each_image_once(task: Detection, strategy: Any) -> None:
    model, unlabelled = task.fit(np.arange(10), 0), np.arange(10, 30)
    images: Any = task._pool.images
    needs = {"perturbed", "augmented", "labels"}
    view = View(task, model, np.arange(10), unlabelled, num_initial=10, held_out=np.arange(0), needs=needs)
    images.reads.clear()
    assert len(strategy(view, 5, np.random.default_rng(0))) == 5
    assert images.reads == dict.fromkeys(unlabelled.tolist(), 1)


def test_views_in_parts_are_those_of_all_images_together(task: Detection, monkeypatch: pytest.MonkeyPatch) -> None:
    model, hows = task.fit(np.arange(10), 0), get_args(Augmentation)
    [whole] = task.augmented(model, np.arange(30), hows, [1] * 4)
    monkeypatch.setattr(task.pool_reader, "batch_size", 2)
    monkeypatch.setattr("benchmark.vision.detection.batches.BATCHES_PER_PART", 4)
    parts = list(task.augmented(model, np.arange(30), hows, [1] * 4))
    assert [part[0].num_images for part in parts] == [8, 8, 8, 6]
    for number, view in enumerate(whole):
        scores = torch.cat([part[number].scores_PC for part in parts])
        torch.testing.assert_close(scores, view.scores_PC, rtol=1e-3, atol=1e-4)


def reader_on(device: str, images: Any) -> BatchReader:
    """A reader as it would be on a device; the batches are built on the CPU."""
    recipe = DetectorRecipe(min_size=0, channels_last=False)
    builder = BatchBuilder(recipe, PixelFormat((0.0,) * 3, (1.0,) * 3), torch.device("cpu"))
    return BatchReader(images, "pool", builder, Machine(torch.device(device)))


def test_images_of_one_size_share_a_batch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide and tall images in turn: on a GPU two full batches of each, on a CPU a batch for each image."""
    shapes = [(3, 32, 64), (3, 64, 32)] * 6
    images = CountedImages([torch.full(shape, number, dtype=torch.uint8) for number, shape in enumerate(shapes)])
    monkeypatch.setattr("benchmark.vision.detection.batches.PIXELS_PER_BATCH", {"cpu": 2**13, "cuda": 2**13})
    batches = {}
    for device in ("cpu", "cuda"):
        reader, sizes = reader_on(device, images), list[int]()
        monkeypatch.setattr(reader, "_is_on_gpu", device == "cuda")
        monkeypatch.setattr("benchmark.vision.detection.batches.read_groups", lambda *args: read_groups(*args[:2], 0))

        def first_pixels(batch: Any, sizes: list[int] = sizes) -> list[float]:
            sizes.append(len(batch.places))
            return batch.resized.batch.images_N3HW[:, 0, 0, 0].tolist()

        order = np.array([3, 0, 11, 5, 2, 7, 1, 4, 9, 6, 8, 10])
        assert reader.map_images(order, first_pixels) == order.tolist()
        batches[device] = sizes
    assert batches["cuda"] == [4, 2, 4, 2]
    assert len(batches["cpu"]) > 6


def test_sizes_are_known_only_where_all_are() -> None:
    images = CountedImages([torch.zeros(3, 4, 6, dtype=torch.uint8)] * 2)
    assert stored_sizes(images).tolist() == [[6, 4], [6, 4]]  # type: ignore[union-attr]
    images.sizes_N2[1] = 0
    assert stored_sizes(images) is None
    assert stored_sizes(small_split(2).images) is None


def test_boxes_of_a_batch_are_moved_at_once() -> None:
    """From pixels of the stored images, mirrored ones too, on any device."""
    builder = BatchBuilder(
        DetectorRecipe(squash=32, channels_last=False), PixelFormat((0.0,) * 3, (1.0,) * 3), torch.device("cpu")
    )
    resized = builder([torch.zeros(3, 64, 16, dtype=torch.uint8)] * 2, [0, 0], [False, True])
    boxes = [Boxes(torch.tensor([[1.0, 2.0, 3.0, 8.0]]), torch.tensor([5])), Boxes(torch.zeros(0, 4), torch.zeros(0))]
    first, second = resized.to_batch_pixels([boxes[0], boxes[0]])
    assert first.corners_M4.tolist() == [[2, 1, 6, 4]]
    assert second.corners_M4.tolist() == [[26, 1, 30, 4]]
    meta = BatchBuilder(
        DetectorRecipe(squash=32, channels_last=False), PixelFormat((0.0,) * 3, (1.0,) * 3), torch.device("meta")
    )
    on_device = meta([torch.zeros(3, 64, 16, dtype=torch.uint8)] * 2, [0, 0]).to_batch_pixels(boxes)
    assert [tuple(image.corners_M4.shape) for image in on_device] == [(1, 4), (0, 4)]
    assert {image.corners_M4.device.type for image in on_device} == {"meta"}


def test_ground_truth_without_boxes_is_moved() -> None:
    empty = GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(3, np.int64))
    builder = BatchBuilder(
        DetectorRecipe(squash=32, channels_last=False), PixelFormat((0.0,) * 3, (1.0,) * 3), torch.device("meta")
    )
    images = [torch.zeros(3, 64, 16, dtype=torch.uint8)] * 2
    moved = builder(images, [0, 0]).to_batch_pixels([empty.boxes_of(0), empty.boxes_of(1)])
    assert [len(image) for image in moved] == [0, 0]


# --- reading processes ----------------------------------------------------------------------------
def test_a_gpu_is_fed_by_the_cores_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_cores", lambda: 5)
    assert num_reading_processes(torch.device("cpu")) == 0
    assert num_reading_processes(torch.device("cuda")) == 5
    assert num_reading_processes(torch.device("cuda"), 3) == 3
    assert num_reading_processes(torch.device("cuda"), 64) == 8


def test_the_user_may_set_the_reading_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_device", torch.device)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    monkeypatch.setattr(machine, "count_cores", lambda: 5)
    for words, expected in (
        (["device=cuda"], 5), (["device=cuda", "workers=0"], 0), (["device=cpu", "workers=3"], 3),
        (["device=cuda", "launcher=ray"], 1), (["device=cuda", "launcher=ray", "cpus_per_cell=4"], 4),
    ):  # fmt: skip
        assert machine.prepare_machine(config.compose_settings(words)).workers == expected


def test_reading_processes_are_no_more_than_their_work() -> None:
    """Each reads two groups or more; a loader with fewer groups would wait for its processes to start."""
    items = [torch.tensor(number) for number in range(7)]
    with mock.patch("benchmark.vision.data.reading.DataLoader") as loader:
        loader.side_effect = lambda dataset, **options: iter([dataset[number] for number in range(len(dataset))])
        groups = [[0, 1], [2], [3], [4], [5, 6]]
        assert [len(group) for group in read_groups(items, groups, 8)] == [2, 1, 1, 1, 2]
        assert loader.call_args.kwargs["num_workers"] == 2
        assert len(list(read_groups(items, groups[:1], 8))) == 1
        assert loader.call_count == 1
