"""The segmentation task, its networks and their training, Cityscapes, and strategies on segmentation.

Shapes: N images, C classes, H x W pixels, h x w places of the lattice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_influence import forward_over_reverse
from torch import Tensor

from benchmark.api import BatchSizes, Machine, View
from benchmark.conformance.checks import run_checks
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner import gallery_writer
from benchmark.strategies.learning_loss import LossPrediction
from benchmark.strategies.shared.influence import hessian_product
from benchmark.tasks import cityscapes, scene_masks, scenes
from benchmark.vision import training as vision_training
from benchmark.vision.data.label_maps import DownscaledImages, InMemoryMaps, ScrambledMaps, Split
from benchmark.vision.data.scenes import Canvases, DigitSource
from benchmark.vision.segmentation import task as segmentation_task
from benchmark.vision.segmentation import training as segmentation_training
from benchmark.vision.segmentation.networks import Segmenter
from benchmark.vision.segmentation.recipe import PUBLISHED, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.scores import confusion_matrix, segmentation_scores
from benchmark.vision.segmentation.task import Segmentation, by_size, lattice_stride, pad_maps, take_lattice
from benchmark.vision.segmentation.training import augment_batch, cross_entropy, learning_rate_schedule, plan_steps

discovery.discover()
CPU = Machine(torch.device("cpu"))
QUICK = dataclasses.replace(scene_masks.DEFAULT, epochs=6, batch_size=8, lr=0.1, crop=0)


def split(number: int, seed: int = 0) -> Split:
    """Images with digits; one corner of each is not labelled."""
    rng = np.random.default_rng(seed)
    glyphs = rng.random((20, 8, 8)).astype(np.float32)
    new_split = scene_masks.build_split(DigitSource(glyphs, np.arange(20) % 10, number, rng))
    maps_NHW = new_split.maps.maps_NHW.clone()  # type: ignore[attr-defined]
    maps_NHW[:, :8, :9] = 255
    return Split(new_split.images, InMemoryMaps(maps_NHW))


def segmentation(recipe: SegmenterRecipe = QUICK, **changed: Any) -> Segmentation:
    machine = dataclasses.replace(CPU, **changed)
    return Segmentation(machine, recipe, split(40), split(12, seed=1), scene_masks.CLASSES)


@pytest.fixture(scope="module")
def task() -> Segmentation:
    return segmentation()


@pytest.fixture(scope="module")
def fitted(task: Segmentation) -> Segmenter:
    return task.fit(np.arange(24), 0)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lattice of 11 x 11 places on images of 64 pixels: every sixth pixel."""
    monkeypatch.setattr(segmentation_task, "MAX_PLACES", 130)


class Uneven:
    """Images of three sizes, each labelled with one class throughout."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        sizes = [(40, 56), (40, 56), (64, 32), (17, 23), (40, 56)]
        self.images = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in sizes]
        self.maps = [torch.full(size, number % 3, dtype=torch.uint8) for number, size in enumerate(sizes)]
        self.fingerprint = "uneven"

    def split(self) -> Split:
        return Split(Listed(self.images), Listed(self.maps))


@dataclasses.dataclass(frozen=True)
class Listed:
    """Images in a list."""

    those: list[Tensor]
    fingerprint: str = "listed"

    def __len__(self) -> int:
        return len(self.those)

    def __getitem__(self, number: int) -> Tensor:
        return self.those[number]


# --- the score ------------------------------------------------------------------------------------
def slow_miou(predicted: list[int], true: list[int], num_classes: int) -> float:
    """Mean IoU, counted pixel by pixel."""
    ious = []
    for c in range(num_classes):
        pairs = [(f == c, t == c) for f, t in zip(predicted, true, strict=True) if t != 255]
        both, either = sum(f and t for f, t in pairs), sum(f or t for f, t in pairs)
        if any(t for _, t in pairs):
            ious.append(both / either)
    return 100 * sum(ious) / len(ious)


def test_miou_is_what_counting_gives() -> None:
    rng = np.random.default_rng(0)
    true_NHW = torch.from_numpy(rng.choice([0, 1, 3, 255], (4, 9, 7)).astype(np.uint8))  # class 2 is not there
    predicted_NHW = torch.from_numpy(rng.integers(0, 4, (4, 9, 7)))
    scores = segmentation_scores(confusion_matrix(predicted_NHW, true_NHW, 4), "abcd")
    assert scores["miou"] == pytest.approx(slow_miou(predicted_NHW.flatten().tolist(), true_NHW.flatten().tolist(), 4))
    known_NHW = true_NHW != 255
    right = (predicted_NHW == true_NHW)[known_NHW].double().mean().item()
    assert scores["pixel_accuracy"] == pytest.approx(100 * right)


def test_miou_by_hand() -> None:
    """Class 0: 2 correct, 1 missed. Class 1: 1 correct, 1 missed, 1 false. Class 2 does not occur and is predicted
    once."""
    predicted, true = (
        torch.tensor([[[0, 0, 1, 1, 1, 2, 0]]]),
        torch.tensor([[[0, 0, 0, 1, 255, 1, 255]]], dtype=torch.uint8),
    )
    scores = segmentation_scores(confusion_matrix(predicted, true, 3), "abc")
    assert scores["miou"] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(100 * 3 / 5)


def test_the_smallest_batch_is_that_of_the_plan() -> None:
    small_task = segmentation(dataclasses.replace(QUICK, batch_size=16))
    assert small_task.batch_sizes(1043) == BatchSizes(15, 16)  # round 5 of grid=cityscapes: 66 batches of 15 or 16
    for num_images in (1, 3, 16, 17, 33, 1043):
        steps = plan_steps(num_images, dataclasses.replace(QUICK, batch_size=16, epochs=1), 0)
        assert small_task.batch_sizes(num_images).smallest == min(len(step.positions) for step in steps)


def test_the_score_says_how_many_classes_are_predicted_and_how_many_there_are() -> None:
    true_NHW = torch.tensor([[[0, 0, 1, 3, 255]]], dtype=torch.uint8)
    predicted_NHW = torch.tensor([[[0, 0, 0, 0, 3]]])  # 3 where nobody looks
    scores = segmentation_scores(confusion_matrix(predicted_NHW, true_NHW, 4), "abcd")
    assert (scores["num_predicted_classes"], scores["num_test_classes"]) == (1, 3)
    assert scores.by_class == {"iou": {"a": 50.0, "b": 0.0, "d": 0.0}}  # no pixel of the test set is of c
    all_scores = segmentation_scores(confusion_matrix(torch.tensor([[[0, 2, 1, 3, 3]]]), true_NHW, 4), "abcd")
    assert (all_scores["num_predicted_classes"], all_scores["num_test_classes"]) == (4, 3)


def test_a_test_set_without_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pixel of the test set is labelled"):
        segmentation_scores(torch.zeros(3, 3, dtype=torch.int64), "abc")


def test_sets_without_a_labelled_pixel_are_refused_before_anything_is_trained() -> None:
    full = split(3)
    empty = Split(full.images, InMemoryMaps(torch.full_like(full.maps[0], 255).repeat(3, 1, 1)))
    with pytest.raises(ValueError, match=r"^no pixel of the test set is labelled: there is nothing to score$"):
        Segmentation(CPU, QUICK, full, empty, scene_masks.CLASSES)
    with pytest.raises(ValueError, match=r"^no pixel of the pool is labelled: there is nothing to learn from$"):
        Segmentation(CPU, QUICK, empty, full, scene_masks.CLASSES)


def test_score_is_that_of_the_upsampled_maps(task: Segmentation, fitted: Segmenter) -> None:
    predicted, true = [], []
    for number in range(task.num_test()):
        pair_4HW = task._test[number]
        image = (pair_4HW[:3] - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor(
            [58.395, 57.12, 57.375]
        ).view(3, 1, 1)
        with torch.no_grad():
            predicted += fitted(image[None]).argmax(1).flatten().tolist()
        true += pair_4HW[3].flatten().tolist()
    assert task.score(fitted)["miou"] == pytest.approx(slow_miou(predicted, true, 11))
    assert task.score(fitted)["miou"] > 8  # it has learned something: the background alone is 1 / 11 of 90


# --- the lattice ----------------------------------------------------------------------------------
def test_the_lattice_is_the_finest_that_is_small_enough() -> None:
    for size in [(64, 64), (1024, 2048), (1, 1), (1, 5000), (33, 32), (32, 32), (500, 375)]:
        step = lattice_stride(*size)
        nums = [math.prod(len(range(min(s, n) // 2, n, s)) for n in size) for s in range(1, step + 1)]
        assert nums[-1] <= segmentation_task.MAX_PLACES
        assert all(num > segmentation_task.MAX_PLACES for num in nums[:-1])
        assert take_lattice(torch.zeros(2, *size)).shape[1:].numel() == nums[-1] > 0
    assert lattice_stride(32, 32) == 1
    values = torch.arange(64 * 64).view(64, 64)
    assert take_lattice(values)[1, 2] == (1 + 2) * 64 + 1 + 2 * 2


@pytest.mark.usefixtures("coarse")
def test_predictions_are_the_softmax_of_places(task: Segmentation, fitted: Segmenter) -> None:
    indices = np.array([30, 2, 17])
    predictions = task.predict(fitted, indices)
    assert (predictions.num_images, predictions.scores_PC.shape, predictions.boxes_P4) == (3, (3 * 11 * 11, 11), None)
    assert predictions.image_P.tolist() == [i for i in range(3) for _ in range(121)]
    with torch.no_grad():
        logits = fitted(task._normalise_images(torch.stack([task._pool[i] for i in indices.tolist()])))
    slow = [logits[n, :, y, x].softmax(0) for n in range(3) for y in range(3, 64, 6) for x in range(3, 64, 6)]
    torch.testing.assert_close(predictions.scores_PC, torch.stack(slow))
    entropy_P = torch.special.entr(predictions.scores_PC).sum(1)
    assert predictions.per_image(entropy_P, "mean")[1].item() == pytest.approx(entropy_P[121:242].mean().item())


@pytest.mark.usefixtures("coarse")
def test_pseudo_labels_are_the_likeliest_classes_of_the_places(task: Segmentation, fitted: Segmenter) -> None:
    indices = np.array([3, 30])
    maps = task.pseudo_labels(fitted, indices, 1)
    assert (maps.shape, maps.dtype) == ((2, 11, 11), torch.uint8)
    assert torch.equal(maps.flatten().long(), task.predict(fitted, indices).scores_PC.argmax(1))
    with pytest.raises(ValueError, match="k=2: a segmenter's pseudo-labels"):
        task.pseudo_labels(fitted, indices, 2)


@pytest.mark.usefixtures("coarse")
def test_labels_are_those_of_the_places(task: Segmentation, fitted: Segmenter) -> None:
    assert torch.equal(task.labels(fitted, np.array([5]))[0], task._pool[5][3, 3::6, 3::6])


def test_images_may_differ_in_size() -> None:
    pool = Uneven().split()
    small_task = Segmentation(CPU, QUICK, pool, pool, ["a", "b", "c"])
    model, indices = small_task.fit(np.array([0, 2, 3]), 0), np.arange(5)
    together = small_task.predict(model, indices)
    separate = [small_task.predict(model, indices[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together.scores_PC, torch.cat([predictions.scores_PC for predictions in separate]))
    assert together.image_P.bincount().tolist() == [len(predictions.scores_PC) for predictions in separate]
    maps = small_task.pseudo_labels(model, indices, 1)
    height, width = take_lattice(pool[3][3]).shape
    assert maps[3, :height, :width].max() < 3
    assert (maps[3, height:] == 255).all()
    assert (maps[3, :, width:] == 255).all()
    losses = small_task.losses(model, indices, maps)
    alone = torch.cat([small_task.losses(model, indices[i : i + 1], maps[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(losses, alone)
    directions = {"head.weight": torch.randn_like(model.head.weight)}
    slopes = small_task.directional(model, indices, maps, directions)
    torch.testing.assert_close(slopes, by_backpropagation(small_task.losses(model, indices, maps), model, directions))


# --- losses and influence -------------------------------------------------------------------------
def by_backpropagation(losses_N: Tensor, model: Segmenter, directions: dict[str, Tensor]) -> Tensor:
    """The derivative of each loss along a direction, one backward pass each."""
    gradients = [torch.autograd.grad(loss, model.head.weight, retain_graph=True)[0] for loss in losses_N]
    return torch.stack([(gradient * directions["head.weight"]).sum() for gradient in gradients])


def test_the_loss_is_the_mean_over_labelled_pixels(task: Segmentation, fitted: Segmenter) -> None:
    indices = np.array([7, 30])
    with torch.no_grad():
        logits_NCHW = fitted(task._normalise_images(torch.stack([task._pool[i] for i in indices.tolist()])))
    slow = []
    for logits_CHW, index in zip(logits_NCHW, indices.tolist(), strict=True):
        true_HW = task._pool[index][3]
        assert (true_HW == 255).sum() == 72
        each = [
            -logits_CHW[:, y, x].log_softmax(0)[true_HW[y, x].long()] for y, x in (true_HW != 255).nonzero().tolist()
        ]
        slow.append(torch.stack(each).mean())
    torch.testing.assert_close(task.losses(fitted, indices).detach(), torch.stack(slow))


@pytest.mark.usefixtures("coarse")
def test_the_loss_of_places_is_that_of_their_predictions(task: Segmentation, fitted: Segmenter) -> None:
    indices = np.array([30, 7])
    targets = task.labels(fitted, indices)
    assert (targets == 255).sum() == 2 * 1 * 1  # of the corner of 8 x 9 pixels, one place at 3, 3
    predictions = task.predict(fitted, indices)
    log_Nhw = predictions.scores_PC.log().gather(1, targets.flatten().long().clamp(max=10)[:, None]).view(2, 11, 11)
    slow = [-log_hw[target_hw != 255].mean() for log_hw, target_hw in zip(log_Nhw, targets, strict=True)]
    torch.testing.assert_close(task.losses(fitted, indices, targets).detach(), torch.stack(slow))


def test_an_image_without_labels_has_no_loss_and_no_slope() -> None:
    logits_NCHW = torch.randn(2, 3, 4, 5, requires_grad=True)
    maps_NHW = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    maps_NHW[1] = 255
    sum_N, num_N = cross_entropy(logits_NCHW, maps_NHW)
    assert (sum_N[1].item(), num_N.tolist()) == (0.0, [20, 0])
    (slope,) = torch.autograd.grad((sum_N / num_N.clamp(min=1)).sum(), logits_NCHW)
    assert slope[1].abs().max() == 0
    expected = F.cross_entropy(logits_NCHW[:1], maps_NHW[:1].long(), reduction="sum")
    torch.testing.assert_close(sum_N[0], expected)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("batch", [16, 5])
def test_directional_is_what_backpropagation_gives(task: Segmentation, fitted: Segmenter, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = {"head.weight": torch.randn(fitted.head.weight.shape, generator=generator)}
    indices = np.arange(24, 36)
    targets = task.pseudo_labels(fitted, indices, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "batch_size", batch)
        got = task.directional(fitted, indices, targets, directions)
        losses_N = task.losses(fitted, indices, targets)
    want = by_backpropagation(losses_N, fitted, directions)
    assert want.abs().min() > 1e-4
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    ends = []
    for step in (1e-2, -1e-2):
        moved = task.model()
        moved.load_state_dict(
            fitted.state_dict() | {"head.weight": fitted.head.weight + step * directions["head.weight"]}
        )
        ends.append(task.losses(moved, indices, targets).detach().double())
    torch.testing.assert_close(got.double(), (ends[0] - ends[1]) / 2e-2, rtol=2e-2, atol=1e-3)


def test_hessian_products_are_those_of_forward_differentiation(task: Segmentation, fitted: Segmenter) -> None:
    indices = np.array([3, 8, 20])
    unlabelled = np.setdiff1d(np.arange(40), indices)
    needs = {"weights", "losses"}
    view = View(task, fitted, indices, unlabelled, num_initial=3, held_out=np.empty(0, np.int64), needs=needs)  # type: ignore[arg-type]
    h = {"head.weight": torch.randn_like(fitted.head.weight)}
    for index in indices:
        product = hessian_product(view.losses(np.array([index])).sum(), view.weights(), h)["head.weight"]
        assert product.abs().max() > 1e-4
        torch.testing.assert_close(product, forward_over_reverse(view, index, h)["head.weight"], rtol=1e-3, atol=1e-6)


def test_only_the_kernel_of_the_last_layer_is_weighed(task: Segmentation, fitted: Segmenter) -> None:
    weights = task.weights(fitted)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"head.weight": (11, 24, 1, 1)}
    assert weights["head.weight"] is fitted.head.weight


# --- other capabilities ---------------------------------------------------------------------------
def test_embeddings_are_the_last_layers_input_averaged(task: Segmentation, fitted: Segmenter) -> None:
    inputs: list[Tensor] = []
    handle = fitted.head.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    task.predict(fitted, np.arange(3))
    handle.remove()
    torch.testing.assert_close(task.embed(fitted, np.arange(3)), inputs[0].mean((2, 3)))


def test_samples_differ_and_their_mean_is_near_the_prediction() -> None:
    small_task = segmentation(dataclasses.replace(QUICK, dropout=0.3))
    model = small_task.fit(np.arange(24), 0)
    samples = [sample.scores_PC for sample in small_task.sample(model, np.arange(3), 40, 7)]
    again = [sample.scores_PC for sample in small_task.sample(model, np.arange(3), 40, 7)]
    assert all(torch.equal(a, b) for a, b in zip(samples, again, strict=True))
    assert not torch.equal(samples[0], samples[1])
    exact = small_task.predict(model, np.arange(3)).scores_PC
    near, far = ((mean - exact).abs().mean() for mean in (torch.stack(samples).mean(0), samples[0]))
    assert near < 0.5 * far


def test_samples_of_an_image_are_its_own() -> None:
    """Samples of an image do not depend on the other images, on their order or on the batch size."""
    small_task = segmentation(dataclasses.replace(QUICK, dropout=0.3))
    model = small_task.fit(np.arange(24), 0)
    whole = [sample.scores_PC.view(14, -1) for sample in small_task.sample(model, np.arange(14), 3, 7)]
    small_task.batch_size, order = 5, np.array([9, 2, 11, 4, 0, 13])
    for sample, part in zip(whole, small_task.sample(model, order, 3, 7), strict=True):
        torch.testing.assert_close(part.scores_PC.view(6, -1), sample[order])


def test_large_images_behind_a_small_one_come_in_small_batches() -> None:
    small_task = segmentation(QUICK)
    small_task._num_pixels = 3 * 64 * 64
    assert max(len(pairs) for pairs in small_task._read_pairs(small_task._pool, np.arange(10))) == 3


def test_deeplab_says_that_one_image_teaches_it_nothing() -> None:
    recipe = SegmenterRecipe(model="deeplabv3_mobilenet_v3_large", weights="none", epochs=1)
    with pytest.raises(ValueError, match="cannot learn from one image: set initial=2"):
        segmentation(recipe).fit(np.arange(1), 0)


def test_dropout_decides_about_samples() -> None:
    values = dataclasses.asdict(QUICK)
    assert missing_capabilities(**values) == {"sample"}
    assert missing_capabilities(**{**values, "dropout": 0.1}) == set()


def test_a_companion_is_trained_and_read_on_the_stage_maps() -> None:
    task = segmentation(dataclasses.replace(QUICK, epochs=2))
    companion = LossPrediction(detach_after=0.0, weight=1.0, margin=1.0, width=8)
    model = task.fit(np.arange(24), 0, companion)
    assert task.companion(model, np.arange(5)).shape == (5,)
    plain = task.fit(np.arange(24), 0)
    assert torch.equal(model.head.weight, plain.head.weight)  # its gradient never reaches the network
    attached = task.fit(np.arange(24), 0, dataclasses.replace(companion, detach_after=1.0))
    assert not torch.equal(attached.head.weight, plain.head.weight)
    assert not torch.equal(task.companion(model, np.arange(5)), task.companion(task.model(companion), np.arange(5)))


def test_images_are_encoded(task: Segmentation, fitted: Segmenter) -> None:
    [part] = task.encode(fitted, np.array([4, 2]), "patch_pca")  # type: ignore[arg-type]
    assert len(part) == 2
    assert torch.equal(task.images(fitted, np.array([9]), (64, 64))[0], task._pool.images[9])


def test_annotations_and_pictures_make_a_gallery(task: Segmentation) -> None:
    annotations = task.annotations()
    areas = np.zeros((task.num_pool, 11))
    for image, label, side in zip(annotations.image_L, annotations.class_L, annotations.side_L, strict=True):  # type: ignore[arg-type]
        areas[image, label] = side**2
    for number in range(task.num_pool):
        map_HW = task._pool[number][3]
        assert areas[number].round().tolist() == [(map_HW == c).sum().item() for c in range(11)]
    assert gallery_writer.label_arrays(annotations, task.num_pool)["classes_C"].tolist() == list(scene_masks.CLASSES)
    pictures, boxes = task.pictures(np.array([3, 9]), 32)
    assert (pictures.shape, boxes) == ((2, 32, 32, 3), [])
    assert abs(float(pictures[1].mean()) - float(task._pool.images[9].float().mean())) < 2


def test_scrambling_draws_what_is_not_paid() -> None:
    maps = split(6).maps
    other = ScrambledMaps(maps, frozenset({1, 4}), 11, 0)
    for number in range(6):
        same = torch.equal(maps[number], other[number])
        assert same == (number in (1, 4))
    assert torch.equal(other[0], other[0])
    assert other[0].flatten().bincount().tolist() == pytest.approx([64 * 64 / 11] * 11, rel=0.25)
    assert other.fingerprint != ScrambledMaps(maps, frozenset({1, 4}), 11, 1).fingerprint


# --- training -------------------------------------------------------------------------------------
def test_a_batch_is_cropped_mirrored_and_padded_alike() -> None:
    """The red channel of each image equals its label map, and must equal it afterwards."""
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.integers(0, 200, size, dtype=np.uint8)) for size in ((30, 40), (50, 20), (64, 64))]
    pairs = [torch.stack([pair, pair, pair, pair]) for pair in maps]
    recipe = dataclasses.replace(QUICK, crop=32, flip=True)
    draws = torch.tensor([[0.4, 0.0, 0.0, 0.999], [0.6, 0.0, 0.5, 0.0], [0.1, 0.0, 0.999, 0.0]])
    batch = augment_batch(pairs, draws, recipe, torch.device("cpu"))
    assert (batch.images_N3HW.shape, batch.maps_NHW.shape) == ((3, 3, 32, 32), (3, 32, 32))
    padding = batch.maps_NHW == 255
    red = (batch.images_N3HW[:, 0] * 58.395 + 123.675).round()
    assert torch.equal(red[~padding].byte(), batch.maps_NHW[~padding])
    assert batch.images_N3HW[:, 0][padding].abs().max() == 0
    assert padding.sum((1, 2)).tolist() == [2 * 32, 12 * 32, 0]
    assert torch.equal(batch.maps_NHW[0, :30], maps[0][:, 8:].flip(1))
    assert torch.equal(batch.maps_NHW[1, :, :20], maps[1][9:41])
    assert torch.equal(batch.maps_NHW[2], maps[2][32:, :32].flip(1))


def test_whole_images_are_padded_to_the_largest() -> None:
    pairs = [torch.zeros(4, 10, 12, dtype=torch.uint8), torch.zeros(4, 8, 20, dtype=torch.uint8)]
    recipe = dataclasses.replace(QUICK, crop=0)
    batch = augment_batch(pairs, torch.full((2, 4), 0.9), recipe, torch.device("cpu"))
    assert (batch.maps_NHW == 0).sum((1, 2)).tolist() == [120, 160]
    assert batch.maps_NHW.shape == (2, 10, 20)


@pytest.mark.parametrize(("draw", "size"), [(0.0, 20), (0.5, 50), (0.999, 80)])
def test_images_are_resized_with_their_maps(draw: float, size: int) -> None:
    pair = torch.zeros(4, 40, 40, dtype=torch.uint8)
    pair[:, :, 20:] = 200
    recipe = dataclasses.replace(QUICK, crop=0, scale_min=0.5, scale_max=2.0)
    batch = augment_batch([pair], torch.tensor([[0.9, draw, 0.0, 0.0]]), recipe, torch.device("cpu"))
    assert batch.maps_NHW.shape == (1, size, size)
    assert batch.maps_NHW.unique().tolist() == [0, 200]
    light = batch.images_N3HW[0, 0] * 58.395 + 123.675
    assert (light[:, : size // 2 - 3] < 1).all()
    assert (light[:, size // 2 + 3 :] > 199).all()
    assert torch.equal(batch.maps_NHW[0, 0].int(), torch.arange(size).ge(size / 2).int() * 200)


def test_a_map_is_resized_about_the_centres_of_its_pixels() -> None:
    pair = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (4, 24, 36), dtype=np.uint8))
    recipe = dataclasses.replace(QUICK, crop=0, scale_min=1 / 3, scale_max=1 / 3)
    batch = augment_batch([pair], torch.full((1, 4), 0.9), recipe, torch.device("cpu"))
    assert torch.equal(batch.maps_NHW[0], pair[3, 1::3, 1::3])


def test_every_epoch_has_every_image_and_draws_of_its_own() -> None:
    recipe = dataclasses.replace(QUICK, epochs=3, batch_size=4)
    steps = plan_steps(10, recipe, 5)
    assert [step.number for step in steps] == list(range(9))
    assert sorted(len(step.positions) for step in steps[:3]) == [3, 3, 4]
    orders = [[i for step in steps[n : n + 3] for i in step.positions] for n in (0, 3, 6)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert orders[0] != orders[1]
    draws = torch.cat([step.draws_N4 for step in steps])
    assert len(draws.unique(dim=0)) == 30
    assert not torch.equal(plan_steps(10, recipe, 6)[0].draws_N4, steps[0].draws_N4)


def test_the_learning_rate_falls() -> None:
    poly = dataclasses.replace(QUICK, lr=0.2, schedule="poly", power=0.9)
    assert [learning_rate_schedule(poly).rate_at(share) for share in (0, 0.5, 1)] == pytest.approx(
        [0.2, 0.2 * 0.5**0.9, 0]
    )
    cosine = dataclasses.replace(QUICK, lr=0.2, schedule="cosine", power=SegmenterRecipe.power)
    assert [learning_rate_schedule(cosine).rate_at(share) for share in (0, 0.5, 1)] == pytest.approx([0.2, 0.1, 0])


def test_a_fit_that_was_stopped_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_task = segmentation(dataclasses.replace(QUICK, epochs=3, dropout=0.2), scratch=tmp_path)
    whole = small_task.fit(np.arange(20), 0).state_dict()
    monkeypatch.setattr(vision_training, "CHECKPOINT_SECONDS", -1.0)
    step_of, steps = segmentation_training.objective, []

    def stopping(*args: Any) -> Tensor:
        steps.append(args[-1])
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step_of(*args)

    monkeypatch.setattr(segmentation_training, "objective", stopping)
    with pytest.raises(KeyboardInterrupt):
        small_task.fit(np.arange(20), 0)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 1
    again = small_task.fit(np.arange(20), 0).state_dict()
    assert len(steps) == 5 + 9 - 4  # the four that were saved are not done again
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_a_fit_that_diverges_says_so(task: Segmentation) -> None:
    with pytest.raises(ValueError, match=r"the fit on 16 images diverged .*lower lr=1e\+30"):
        segmentation(dataclasses.replace(QUICK, lr=1e30, epochs=3)).fit(np.arange(16), 0)


def test_ignored_pixels_teach_nothing(task: Segmentation, fitted: Segmenter) -> None:
    """The unlabelled corner has no part in the gradient of a step; every other pixel has."""
    batch = augment_batch([task._pool[0]], torch.zeros(1, 4), QUICK, torch.device("cpu"))
    logits = fitted(batch.images_N3HW)
    (slope,) = torch.autograd.grad(cross_entropy(logits, batch.maps_NHW)[0].sum(), logits)
    labelled = slope[0].abs().sum(0) > 0
    assert torch.equal(labelled, batch.maps_NHW[0] != 255)
    assert not labelled[:8, :9].any()


# --- networks -------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("model", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_networks_of_torchvision_learn_and_direct(model: str) -> None:
    recipe = dataclasses.replace(QUICK, model=model, weights="none", epochs=1, batch_size=4, dropout=0.1)
    small_task = segmentation(recipe)
    network = small_task.fit(np.arange(8), 0)
    assert set(small_task.score(network)) == {"miou", "pixel_accuracy", "num_predicted_classes", "num_test_classes"}
    indices = np.arange(8, 11)
    targets, directions = (
        small_task.pseudo_labels(network, indices, 1),
        {"head.weight": torch.randn_like(network.head.weight)},
    )
    want = by_backpropagation(small_task.losses(network, indices, targets), network, directions)
    torch.testing.assert_close(
        small_task.directional(network, indices, targets, directions), want, rtol=1e-3, atol=1e-5
    )
    companion = LossPrediction(detach_after=0.0, weight=1.0, margin=1.0, width=8)
    assert small_task.companion(small_task.model(companion), indices).shape == (3,)


def test_the_network_is_torchvisions() -> None:
    import torchvision

    recipe = dataclasses.replace(QUICK, model="deeplabv3_mobilenet_v3_large", weights="none", batch_size=4)
    ours, images = segmentation(recipe).model(), torch.randn(4, 3, 64, 96)
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # or signals fade on their way through an untrained network
    ours.train()(images)
    ours.eval()
    theirs = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights_backbone=None, num_classes=11).eval()
    state = ours.state_dict()
    names = {"body.backbone.": "backbone.", "body.head.": "classifier.", "head.": "classifier.4."}
    renamed = {}
    for name, value in state.items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        renamed[names[prefix] + name.removeprefix(prefix)] = value
    theirs.load_state_dict(renamed)
    with torch.no_grad():
        got, want = ours(images), theirs(images)["out"]
    assert want.std((2, 3)).min() > 0.01
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "backbone", "first"),
    [
        pytest.param("fcn_resnet50", "resnet50", "conv1.weight", marks=pytest.mark.slow),
        ("deeplabv3_mobilenet_v3_large", "mobilenet_v3_large", "features.0.0.weight"),
    ],
)
def test_weights_of_the_backbone_come_from_a_file(tmp_path: Path, model: str, backbone: str, first: str) -> None:
    import torchvision

    source = torchvision.models.get_model(backbone, weights=None)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    recipe = dataclasses.replace(QUICK, model=model, weights="weights.pth", batch_size=4)
    small_task = segmentation(recipe, data=tmp_path)
    state = small_task.model().state_dict()
    name = first.removeprefix("features.")
    torch.testing.assert_close(state[f"body.backbone.{name}"], source.state_dict()[first])
    torch.save({first: torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"does not fit the model: .* holds") as caught:
        small_task.model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": "unet"}, "model=unet: must be small, or a DeepLabV3 or FCN of torchvision"),
        ({"model": "lraspp_mobilenet_v3_large"}, "model=lraspp_mobilenet_v3_large: must be"),
        ({"model": "deeplabv3_resnet50", "batch_size": 2}, "batch_size=2: must be at least 3 with a DeepLabV3"),
        ({"weights": "none"}, "weights=none has no effect with model=small"),
        ({"schedule": "cosine", "power": 2.0}, "power=2.0 has no effect with schedule=cosine"),
        ({"scale_min": 2.0}, "scale_max=1.0: must be at least scale_min"),
        ({"scale_min": 0.0}, "scale_min=0.0: must be positive"),
        ({"crop": -1}, "crop=-1: must be at least 0"),
        ({"dropout": 1.0}, "dropout=1.0: must be in [0, 1)"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"lr": 0.0}, "lr=0.0: must be positive"),
        ({"power": 0.0}, "power=0.0: must be positive"),
    ],
)
def test_a_faulty_recipe_is_one_line(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        dataclasses.replace(QUICK, **changed)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_published_recipe() -> None:
    assert round(PUBLISHED.epochs * 2975 / PUBLISHED.batch_size, -3) == 90_000
    assert learning_rate_schedule(PUBLISHED).rate_at(0.5) == pytest.approx(0.007 * 0.5**0.9)
    assert (PUBLISHED.crop, PUBLISHED.scale_min, PUBLISHED.scale_max, PUBLISHED.flip) == (769, 0.5, 2.0, True)


# --- scene_masks ----------------------------------------------------------------------------------
def test_scene_masks_are_the_scenes_with_their_ink() -> None:
    """The images are those of `scenes`. A label map has a box's class inside the box, no other class there, and no
    class outside all boxes."""
    for masks, boxes in zip(scene_masks.build_splits(), scenes.build_splits(), strict=True):
        assert masks.images.fingerprint == boxes.images.fingerprint
        for number in range(60):
            map_HW, truth = masks[number][3], boxes.truth.boxes_of(number)
            outside = torch.ones(64, 64, dtype=torch.bool)
            for (x1, y1, x2, y2), label in zip(truth.corners_M4.int().tolist(), truth.labels_M.tolist(), strict=True):
                outside[y1:y2, x1:x2] = False
                assert set(map_HW[y1:y2, x1:x2].unique().tolist()) <= {0, label + 1}
                assert (map_HW[y1:y2, x1:x2] == label + 1).float().mean() > 0.2
            assert map_HW[outside].sum() == 0
            light = masks[number][0].float()
            if len(truth):
                assert light[map_HW > 0].mean() > 5 * light[map_HW == 0].mean()


def test_pool_and_test_set_are_as_large_as_they_say() -> None:
    pool, test = scene_masks.build_splits()
    assert (len(pool), len(test)) == (800, 200)
    counts = torch.stack([pool[number][3] for number in range(800)]).flatten().bincount()
    assert len(counts) == 11
    assert 0.85 < counts[0] / counts.sum() < 0.95


@pytest.mark.slow
def test_scene_masks_conforms() -> None:
    findings = run_checks(Spec.read("task", "scene_masks[epochs=4]"), Spec.read("task", "digits"), CPU)
    assert [f"{finding.check}: {finding.message}" for finding in findings if finding.message] == []


@pytest.mark.slow
def test_more_labels_teach_scene_masks_more() -> None:
    masks_task = scene_masks.scene_masks(CPU, scene_masks.DEFAULT)
    order = np.random.default_rng(0).permutation(masks_task.num_pool)
    few, many = (masks_task.score(masks_task.fit(order[:num], 0))["miou"] for num in (40, 200))
    assert 14 < few < 35
    assert few + 25 < many < 90


@pytest.mark.slow
@pytest.mark.parametrize(
    "label",
    [
        "random", "entropy", "margin", "least_confidence", "coreset", "coreset[metric=cosine]",
        "isal[depth=10,repeats=2]", "gradient_similarity", "learning_loss",
    ],
)  # fmt: skip
def test_strategies_that_know_nothing_of_masks_conform(label: str) -> None:
    findings = run_checks(Spec.read("strategy", label), Spec.read("task", "scene_masks[epochs=2]"), CPU)
    assert [f"{finding.check}: {finding.message}" for finding in findings if finding.message] == []


# --- Cityscapes -----------------------------------------------------------------------------------
def png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three train images in two cities and two val images, 32 x 64 pixels, whose label bytes run through all ids."""
    rng = np.random.default_rng(0)
    for part, names in {"train": ["aachen/a_0", "aachen/a_1", "ulm/u_0"], "val": ["bonn/b_0", "bonn/b_1"]}.items():
        for name in names:
            png(
                tmp_path / f"cityscapes/leftImg8bit/{part}/{name}_leftImg8bit.png",
                rng.integers(0, 256, (32, 64, 3), np.uint8),
            )
            ids = np.arange(32 * 64).reshape(32, 64) % 40
            ids[ids == 39] = 255  # licence plates
            png(tmp_path / f"cityscapes/gtFine/{part}/{name}_gtFine_labelIds.png", ids.astype(np.uint8))
    return tmp_path / "cityscapes"


def read_cityscapes(root: Path, **options: Any) -> Segmentation:
    machine = dataclasses.replace(CPU, data=root.parent)
    return cityscapes.cityscapes(machine, dataclasses.replace(QUICK, epochs=1), **options)


def test_cityscapes_are_read(root: Path) -> None:
    cityscapes_task = read_cityscapes(root)
    assert (cityscapes_task.num_pool, cityscapes_task.num_test()) == (3, 2)
    expected = np.full(256, 255)
    for number, label in enumerate([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]):
        expected[label] = number
    pair_4HW = cityscapes_task._pool[2]
    with Image.open(root / "leftImg8bit/train/ulm/u_0_leftImg8bit.png") as image:
        assert np.array_equal(pair_4HW[:3].permute(1, 2, 0).numpy(), np.array(image))
    with Image.open(root / "gtFine/train/ulm/u_0_gtFine_labelIds.png") as image:
        assert np.array_equal(pair_4HW[3].numpy(), expected[np.array(image)])
    assert cityscapes_task.classes[13] == "car"
    assert np.isfinite(cityscapes_task.score(cityscapes_task.fit(np.arange(3), 0))["miou"])


def test_a_corrected_mask_is_other_data_though_its_file_is_as_long(root: Path) -> None:
    path, fingerprints = root / "gtFine/train/ulm/u_0_gtFine_labelIds.png", []
    for label in (24, 26):
        png(path, np.full((32, 64), label, np.uint8))
        path.write_bytes(path.read_bytes().ljust(1000, b"\0"))  # what follows a PNG's end is no part of it
        fingerprints.append(read_cityscapes(root).fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_cityscapes_are_read_by_workers_too(root: Path) -> None:
    first, second = read_cityscapes(root), read_cityscapes(root)
    second._machine = dataclasses.replace(second._machine, workers=1)
    first.batch_size = second.batch_size = 1
    model = first.model()
    assert first.score(model) == second.score(model)
    assert torch.equal(first.predict(model, np.arange(3)).scores_PC, second.predict(model, np.arange(3)).scores_PC)


def test_train_ids_are_read_where_there_are_no_label_ids(root: Path) -> None:
    before = read_cityscapes(root)
    pairs = [before._pool[number] for number in range(3)]
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        with Image.open(path) as image:
            ids = before._pool.maps.class_256[torch.from_numpy(np.array(image)).long()].numpy()  # type: ignore[attr-defined]
        png(Path(str(path).replace("labelIds", "labelTrainIds")), ids)
    both = read_cityscapes(root)
    assert both.fingerprint == before.fingerprint  # label ids come first
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        path.unlink()
    after = read_cityscapes(root)
    assert all(torch.equal(pair, after._pool[number]) for number, pair in enumerate(pairs))
    assert after.fingerprint != before.fingerprint


def test_cityscapes_are_shrunk(root: Path) -> None:
    whole, small = read_cityscapes(root), read_cityscapes(root, size=8)
    pair_4HW = small._pool[1]
    assert pair_4HW.shape == (4, 8, 16)
    assert torch.equal(pair_4HW[3], whole._pool[1][3, 2::4, 2::4])
    mean = whole._pool[1][:3].float().mean((1, 2))
    torch.testing.assert_close(pair_4HW[:3].float().mean((1, 2)), mean, rtol=0, atol=2)
    assert small.fingerprint != whole.fingerprint
    images = Canvases(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert DownscaledImages(images, 64)[0] is images.images_N3HW[0] or torch.equal(
        DownscaledImages(images, 64)[0], images[0]
    )
    assert DownscaledImages(images, 100)[0].shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda root: remove(root, "leftImg8bit/val/*/*"), r"leftImg8bit/val has no CITY/\*_leftImg8bit.png: unpack"),
        (lambda root: remove(root, "gtFine/train/*/*"), r"gtFine/train has no CITY/\*_gtFine_labelIds.png: unpack"),
        (
            lambda root: remove(root, "gtFine/train/ulm/u_0*"),
            r"gtFine/train/ulm/u_0_gtFine_labelIds.png is missing",
        ),
        (
            lambda root: png(root / "gtFine/val/bonn/b_1_gtFine_labelIds.png", np.zeros((32, 60), np.uint8)),
            r"b_1_leftImg8bit.png has 64 x 32 pixels, but its annotation is of an image of 60 x 32",
        ),
        (
            lambda root: (root / "gtFine/val/bonn/b_1_gtFine_labelIds.png").write_bytes(b"no image"),
            r"b_1_gtFine_labelIds.png cannot be read as an image",
        ),
    ],
)
def test_what_is_wrong_with_cityscapes_is_said_in_one_line(
    root: Path, harm: Callable[[Path], object], named: str
) -> None:
    harm(root)
    with pytest.raises(ValueError, match=named) as caught:
        read_cityscapes(root)
    assert "\n" not in str(caught.value)


def remove(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        path.unlink()


def test_a_mask_in_colours_is_none(root: Path) -> None:
    png(root / "gtFine/val/bonn/b_0_gtFine_labelIds.png", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b_0_gtFine_labelIds.png .* it is of mode RGB: a mask must have one byte"):
        read_cityscapes(root)


def test_cityscapes_without_a_folder_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set data=DIR .*, and unpack leftImg8bit_trainvaltest.zip"):
        cityscapes.cityscapes(CPU, QUICK)
    with pytest.raises(ValueError, match=r"has no CITY"):
        cityscapes.cityscapes(dataclasses.replace(CPU, data=tmp_path), QUICK)
    with pytest.raises(ValueError, match=r"cityscapes\[size=0\]: must be at least 1"):
        cityscapes.cityscapes(dataclasses.replace(CPU, data=tmp_path), QUICK, size=0)


def test_padding_is_ignored() -> None:
    padded = pad_maps([torch.zeros(2, 3, 4, dtype=torch.uint8), torch.ones(1, 5, 2, dtype=torch.uint8)])
    assert padded.shape == (3, 5, 4)
    assert [(padded[n] == 255).sum().item() for n in range(3)] == [8, 8, 10]


def test_a_gpu_scores_images_of_one_size_together() -> None:
    """The confusion matrix does not depend on the order."""

    class Sized(list[torch.Tensor]):
        sizes_N2 = np.array([[6, 4], [4, 6], [6, 4], [4, 6]])

    assert by_size(Sized([torch.zeros(1)] * 4), torch.device("cuda")).tolist() == [0, 2, 1, 3]  # type: ignore[arg-type]
    assert by_size(Sized([torch.zeros(1)] * 4), torch.device("cpu")).tolist() == [0, 1, 2, 3]  # type: ignore[arg-type]
    assert by_size([torch.zeros(1)] * 3, torch.device("cuda")).tolist() == [0, 1, 2]  # type: ignore[arg-type]
