"""torchvision's detectors, their batches, their training, and the detection task.

Shapes: N images, M boxes of one image, A candidates of one image, C classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _batches import read_batch
from _cells import FAULTY
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from benchmark.api import BatchSizes, Boxes, Machine
from benchmark.conformance.checks import run_checks
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.strategies.learning_loss import LossPrediction
from benchmark.tasks import scenes
from benchmark.vision import training as vision_training
from benchmark.vision.data.annotations import GroundTruth, Split
from benchmark.vision.data.reading import Noise, ViewedImages, gaussian_noise, read_groups
from benchmark.vision.detection import training as detection_training
from benchmark.vision.detection.detector import (
    Batch,
    Detector,
    PixelFormat,
    add_background,
)
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.recipe import (
    PUBLISHED_FCOS_COCO,
    PUBLISHED_FCOS_VOC,
    DetectorRecipe,
    missing_capabilities,
)
from benchmark.vision.detection.scores import DetectionArrays
from benchmark.vision.detection.suppression import Detections, Suppression, suppress
from benchmark.vision.detection.task import Detection
from benchmark.vision.detection.torchvision_detectors import FasterRcnn, Fcos, build_detector
from benchmark.vision.detection.training import build_optimiser, learning_rate_schedule, plan_steps
from benchmark.vision.training import uses_batch_statistics

discovery.discover()
CPU = Machine(torch.device("cpu"))
SMALL = dataclasses.replace(scenes.DEFAULT, epochs=2)
MODELS = ("fcos", "faster_rcnn")


def split(number: int, side: int = 64, seed: int = 0) -> Split:
    """Images with digits."""
    rng = np.random.default_rng(seed)
    glyphs, labels = rng.random((20, 8, 8)).astype(np.float32), np.arange(20) % 10
    return scenes.build_split(glyphs, labels, number, rng)


def recipe(model: str, **changed: Any) -> DetectorRecipe:
    return dataclasses.replace(SMALL, model=model, **changed)


def test_a_test_set_without_boxes_is_refused() -> None:
    full = split(4)
    empty = Split(full.images, full.truth.select(np.array([], np.int64)))
    empty = Split(
        full.images, GroundTruth(empty.truth.corners_B4, empty.truth.labels_B, empty.truth.ignored_B, np.zeros(5, int))
    )
    with pytest.raises(
        ValueError, match=r"^none of the 4 images of the test set has a box: there is nothing to score$"
    ):
        Detection(CPU, recipe("fcos"), full, empty, 10, "50")


@pytest.fixture(scope="module", params=MODELS)
def task(request: pytest.FixtureRequest) -> Detection:
    """Forty scenes. Fitted models come from `fitted`."""
    epochs = {"fcos": 6, "faster_rcnn": 25}[request.param]
    return Detection(CPU, recipe(request.param, epochs=epochs), split(40), split(12, seed=1), 10, "50")


@pytest.fixture(scope="module")
def fitted(task: Detection) -> Detector:
    return task.fit(np.arange(24), 0)


def direction(task: Detection, model: Detector) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(weight.shape, generator=generator) for name, weight in task.weights(model).items()}


# --- influence ------------------------------------------------------------------------------------
def through_everything(task: Detection, model: Detector, indices: np.ndarray, targets: list[Boxes]) -> Tensor:
    """(N,) losses whose graph reaches back to the first layer of the backbone.

    All images are in one batch, as in `directional`: another batch would round differently, which can change a tie
    between proposals.
    """
    resized = read_batch(task, indices.tolist())
    maps = model.feature_maps(resized.batch.images_N3HW)
    assert all(level.requires_grad for level in maps)
    return model.image_losses(maps, resized.batch, resized.to_batch_pixels(targets))


def slowly(task: Detection, model: Detector, indices: np.ndarray, targets: list[Boxes]) -> list[float]:
    """Derivatives along `direction`, with one backward pass through the whole network per image."""
    directions, weights, derivatives = direction(task, model), task.weights(model), []
    for loss in through_everything(task, model, indices, targets):
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        derivatives.append(sum((g * directions[name]).sum().item() for name, g in zip(weights, gradients, strict=True)))
    return derivatives


def test_directional_is_the_gradient_through_the_whole_model(task: Detection, fitted: Detector) -> None:
    indices = np.arange(24, 36)
    targets = task.pseudo_labels(fitted, indices, 1, 0.1)
    assert sum(map(len, targets)) > len(indices)
    fast = task.directional(fitted, indices, targets, direction(task, fitted))
    assert fast.tolist() == pytest.approx(slowly(task, fitted, indices, targets), rel=1e-3)


def test_directional_counts_every_layer(task: Detection, fitted: Detector) -> None:
    """The derivative is linear in the direction, so each layer adds its share."""
    indices = np.arange(24, 30)
    targets, directions = task.pseudo_labels(fitted, indices, 1, 0.1), direction(task, fitted)
    parts = []
    for name in directions:
        only = {other: value if other == name else torch.zeros_like(value) for other, value in directions.items()}
        parts.append(task.directional(fitted, indices, targets, only))
        assert parts[-1].abs().max() > 1e-6
    torch.testing.assert_close(torch.stack(parts).sum(0), task.directional(fitted, indices, targets, directions))


def test_the_loss_of_an_image_is_its_own(task: Detection, fitted: Detector) -> None:
    indices = np.arange(24, 32)
    together = task.losses(fitted, indices)
    alone = torch.cat([task.losses(fitted, indices[i : i + 1]) for i in range(len(indices))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        together, task.losses(fitted, indices, [task._pool.truth.boxes_of(int(i)) for i in indices])
    )


def test_losses_differentiate_twice(task: Detection, fitted: Detector) -> None:
    """Compares a Hessian-vector product with finite differences of the gradient, in the last layers' weights.

    The RPN's weights stay fixed: changing them would draw other proposals, which no derivative describes.
    """
    weights, directions = task.weights(fitted), direction(task, fitted)
    directions = {name: value * 0 if "rpn" in name else value for name, value in directions.items()}

    def gradient(again: bool = False) -> tuple[Tensor, ...]:
        loss = task.losses(fitted, np.array([5])).sum()
        return torch.autograd.grad(loss, list(weights.values()), create_graph=again)

    slope = torch.stack([(g * directions[name]).sum() for name, g in zip(weights, gradient(True), strict=True)]).sum()
    product = torch.cat([gradients.flatten() for gradients in torch.autograd.grad(slope, list(weights.values()))])
    ends = []
    for step in (3e-4, -3e-4):
        with torch.no_grad():
            for name, weight in weights.items():
                weight += step * directions[name]
        ends.append(torch.cat([gradients.flatten() for gradients in gradient()]))
        with torch.no_grad():
            for name, weight in weights.items():
                weight -= step * directions[name]
    difference = (ends[0] - ends[1]) / 6e-4
    assert torch.nn.functional.cosine_similarity(product, difference, dim=0) > 0.98
    assert (product.norm() / difference.norm()).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("model", MODELS)
def test_other_backbones_learn_detect_and_direct(backbone: str, model: str) -> None:
    small_recipe = DetectorRecipe(
        model=model, backbone=backbone, weights="none", norm="batch", frozen_stages=-1, channels=32, convs=None,
        min_size=64, max_size=96, epochs=1, batch_size=4, warmup=0.0, precision="float32",
    )  # fmt: skip
    small_task = Detection(CPU, small_recipe, split(10), split(4, seed=1), 10, "50")
    model_ = small_task.fit(np.arange(8), 0)
    classes = {"num_predicted_classes", "num_test_classes"}
    assert set(small_task.score(model_)) == {"map", "ap", "ap50", "ap75", "voc_map", *classes}
    indices = np.arange(8, 10)
    targets = [small_task._pool.truth.boxes_of(int(i)) for i in indices]
    fast = small_task.directional(model_, indices, targets, direction(small_task, model_))
    assert fast.tolist() == pytest.approx(slowly(small_task, model_, indices, targets), rel=1e-3)


def test_the_smallest_batch_is_that_of_the_plan() -> None:
    small_recipe = DetectorRecipe(
        backbone="resnet18", weights="none", norm="batch", frozen_stages=-1, min_size=64, max_size=96, batch_size=8
    )
    small_task = Detection(CPU, small_recipe, split(4), split(2, seed=1), 10, "50")
    assert small_task.batch_sizes(225) == BatchSizes(7, 8)  # 29 batches of 7 or 8
    for num_images in (1, 8, 9, 225):
        steps = plan_steps(num_images, dataclasses.replace(small_recipe, epochs=1), 0)
        assert small_task.batch_sizes(num_images).smallest == min(len(step.positions) for step in steps)


def test_frozen_stages_stay_as_they_were() -> None:
    small_detector = build_detector(recipe("fcos"), 10, None)
    assert all(parameter.requires_grad for parameter in small_detector.parameters())
    for stages, expected in ((-1, 0), (0, 1), (1, 5), (2, 10)):
        resnet_recipe = DetectorRecipe(weights="default", backbone="resnet18", frozen_stages=stages)
        with pytest.MonkeyPatch.context() as patch:
            real = torch.hub.load_state_dict_from_url
            patch.setattr("torchvision.models.get_model", lambda name, weights, **more: untrained(name, **more))
            detector = build_detector(resnet_recipe, 3, None)
        assert real is torch.hub.load_state_dict_from_url
        assert not uses_batch_statistics(detector)
        still = [name for name, p in detector.inner.backbone.body.named_parameters() if not p.requires_grad]
        assert len(still) == expected, still


def untrained(name: str, **more: Any) -> torch.nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(weights=None, **more)


# --- what is found --------------------------------------------------------------------------------
def on_maps(task: Detection, model: Detector, indices: list[int]) -> tuple[list[Tensor], Batch]:
    resized = read_batch(task, indices)
    with torch.no_grad():
        return model.feature_maps(resized.batch.images_N3HW), resized.batch


def test_detections_are_torchvisions(task: Detection, fitted: Detector) -> None:
    """torchvision's FCOS keeps boxes without area, which we drop; there are none here."""
    fitted = copy.deepcopy(fitted)
    if isinstance(fitted, Fcos):
        torch.nn.init.constant_(fitted.inner.head.regression_head.bbox_reg.bias, 2.0)
    maps, batch = on_maps(task, fitted, list(range(24, 32)))
    inner: Any = fitted.inner
    with torch.no_grad():
        ours = fitted.detect(maps, batch)
        if isinstance(fitted, Fcos):
            inner.detections_per_img, inner.score_thresh, inner.nms_thresh = 20, 0.05, 0.5
            inner.topk_candidates = 200
            outputs, anchors, counts = fitted._outputs(maps, batch)
            levels = {name: list(values.split(counts, 1)) for name, values in outputs.items()}
            theirs = inner.postprocess_detections(levels, [list(item.split(counts)) for item in anchors], batch.sizes)
        else:
            inner.roi_heads.detections_per_img = 20
            named = fitted._name_levels(maps)  # type: ignore[attr-defined]
            proposals, _ = inner.rpn(ImageList(batch.images_N3HW, batch.sizes), named)
            theirs, _ = inner.roi_heads(named, proposals, batch.sizes)
            theirs = [{**item, "labels": item["labels"] - 1} for item in theirs]
    assert sum(len(item["labels"]) for item in theirs) > 8
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.corners_M4, other["boxes"])
        torch.testing.assert_close(mine.confidence_M, other["scores"])
        torch.testing.assert_close(mine.labels_M, other["labels"])


def test_fcos_tells_the_score_of_its_paper_beside_the_root(task: Detection, fitted: Detector) -> None:
    """The paper's score is class probability times centerness, for the most likely class at the place of each box."""
    predictions, indices = task.predict(fitted, np.arange(6)), np.arange(6)
    if not isinstance(fitted, Fcos):
        assert predictions.paper_score_P is None
        return
    expected = []
    for index in indices:
        maps, batch = on_maps(task, fitted, [index])
        outputs, _, _ = fitted._outputs(maps, batch)
        products_AC = outputs["cls_logits"][0].sigmoid() * outputs["bbox_ctrness"][0].sigmoid()
        [detections] = fitted.detect(maps, batch)
        expected.append(add_background(products_AC)[detections.candidates_M, :-1].amax(1))
    assert len(torch.cat(expected)) > 20
    torch.testing.assert_close(predictions.score_P, torch.cat(expected))
    assert (predictions.score_P <= predictions.confidence_P + 1e-6).all()


def test_rows_sum_to_one_and_hold_the_score(task: Detection, fitted: Detector) -> None:
    predictions = task.predict(fitted, np.arange(24, 40))
    torch.testing.assert_close(predictions.scores_PC.sum(1), torch.ones(len(predictions.image_P)))
    assert predictions.scores_PC.shape[1] == 11
    everything = task._cached_detections(fitted, np.arange(24, 40))
    own = everything.scores_PK.gather(1, everything.label_P[:, None])[:, 0]
    assert (own <= everything.confidence_P + 1e-5).all()
    if fitted.is_two_stage:
        torch.testing.assert_close(own, everything.confidence_P)


def test_proposals_lie_behind_their_boxes() -> None:
    small_task = Detection(CPU, recipe("faster_rcnn", epochs=8), split(60), split(4, seed=1), 10, "50")
    model = small_task.fit(np.arange(50), 0)
    predictions = small_task.proposals(model, np.arange(50, 60))
    assert predictions.boxes_P4 is not None
    assert predictions.proposals_P4 is not None
    assert len(predictions.image_P) > 10
    from torchvision.ops import box_iou

    paired = box_iou(predictions.boxes_P4, predictions.proposals_P4).diagonal()
    shuffled = box_iou(predictions.boxes_P4, predictions.proposals_P4.roll(1, 0)).diagonal()
    assert paired.mean() > shuffled.mean() + 0.1
    assert paired.min() > 0
    other = Detection(CPU, recipe("fcos", epochs=1), split(6), split(4, seed=1), 10, "50")
    with pytest.raises(ValueError, match="no proposals"):
        other.proposals(other.model(), np.arange(2))


def test_suppression_by_hand() -> None:
    """Two boxes of a class overlap by more than half: the one with the higher score stays. Boxes of other classes are
    not affected."""
    corners_A4 = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [20, 20, 20, 30], [5, 5, 40, 40]])
    scores_AC = torch.tensor([[0.9, 0.0], [0.6, 0.04], [0.0, 0.5], [0.8, 0.8], [0.0, 0.3]])
    rows_AK = add_background(scores_AC)
    detections = suppress(scores_AC, corners_A4, (32, 30), Suppression(), rows_AK, proposals_A4=corners_A4 + 1)
    assert detections.labels_M.tolist() == [0, 1, 1]
    assert detections.corners_M4.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9], [5, 5, 30, 32]]  # clipped to 30 x 32
    assert detections.confidence_M.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert detections.proposals_M4 is not None
    assert detections.proposals_M4.tolist() == (corners_A4 + 1)[[0, 2, 4]].tolist()
    torch.testing.assert_close(detections.scores_MK, rows_AK[[0, 2, 4]])
    few = suppress(scores_AC, corners_A4, (32, 30), Suppression(num_boxes=2), rows_AK)
    assert few.labels_M.tolist() == [0, 1]
    thin = suppress(scores_AC, corners_A4, (32, 30), Suppression(num_candidates=1), rows_AK, levels=[2, 3])
    assert thin.confidence_M.tolist() == pytest.approx([0.9])  # of the second level only the box without area is left


def test_completed_rows() -> None:
    rows = add_background(torch.tensor([[0.2, 0.3], [0.9, 0.6], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]]))


def test_embeddings_are_the_inputs_of_the_last_layers(task: Detection, fitted: Detector) -> None:
    embedded = task.embed(fitted, np.arange(6))
    assert embedded.shape == (6, 128 if fitted.is_two_stage else 64)
    maps, batch = on_maps(task, fitted, [3])
    layers = fitted.last_layers()
    heard: dict[Any, list[Tensor]] = {layer: [] for layer in layers}
    handles = [layer.register_forward_hook(lambda layer, inputs, _: heard[layer].append(inputs[0])) for layer in layers]
    with torch.no_grad():
        fitted.detect(maps, batch)
    [handle.remove() for handle in handles]
    if isinstance(fitted, FasterRcnn):
        expected = heard[layers[2]][0].mean(0)
    else:
        towers = [torch.stack([level.mean((0, 2, 3)) for level in heard[layer]]).mean(0) for layer in layers[:2]]
        expected = torch.cat(towers)
    torch.testing.assert_close(embedded[3], expected, rtol=1e-4, atol=1e-5)


class Stored(list[Tensor]):
    """Images in a list."""

    fingerprint = "stored"


# --- input ----------------------------------------------------------------------------------------
PIXELS = PixelFormat((10.0, 20.0, 30.0), (1.0, 2.0, 4.0))


def placing(bgr: bool = False, **changed: Any) -> BatchBuilder:
    return BatchBuilder(recipe("fcos", **changed), dataclasses.replace(PIXELS, bgr=bgr), torch.device("cpu"))


def test_images_are_resized_normalised_and_padded() -> None:
    wide, tall = torch.full((3, 50, 100), 30, dtype=torch.uint8), torch.full((3, 90, 45), 30, dtype=torch.uint8)
    resized = placing(min_size=100, max_size=150)([wide, tall], [0, 0])
    assert resized.batch.sizes == [(75, 150), (150, 75)]  # the longer side at 150 first
    assert resized.batch.images_N3HW.shape == (2, 3, 160, 160)
    assert resized.batch.images_N3HW[0, :, 0, 0].tolist() == [20.0, 5.0, 0.0]
    assert not resized.batch.images_N3HW[0, :, 75:].any()
    assert not resized.batch.images_N3HW[1, :, :, 75:].any()
    flipped = placing(bgr=True)([wide], [0]).batch.images_N3HW
    assert flipped.shape == (1, 3, 64, 128)


def test_blue_first_where_the_detector_wants_it() -> None:
    image = torch.tensor([10, 20, 70], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    batch = placing(bgr=True)([image], [0]).batch
    assert batch.images_N3HW[0, :, 0, 0].tolist() == [60.0, 0.0, -5.0]


def test_boxes_follow_their_image_and_come_back() -> None:
    image = torch.zeros(3, 50, 100, dtype=torch.uint8)
    image[:, 10:20, 20:60] = 255
    boxes = Boxes(torch.tensor([[20.0, 10.0, 60.0, 20.0]]), torch.tensor([3]))
    resized = placing(min_size=100, max_size=400)([image, image], [0, 0], [False, True])
    plain, mirrored = resized.to_batch_pixels([boxes, boxes])
    assert plain.corners_M4.tolist() == [[40, 20, 120, 40]]
    assert mirrored.corners_M4.tolist() == [[80, 20, 160, 40]]
    for number, boxes_M in enumerate((plain, mirrored)):
        x1, y1, x2, y2 = boxes_M.corners_M4[0].int().tolist()
        bright = resized.batch.images_N3HW[number, 0] > 100
        assert bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
        assert bright.sum() <= (y2 - y1) * (x2 - x1)
    detections = Detections(plain.corners_M4, plain.labels_M, torch.ones(1), torch.ones(1, 2), plain.corners_M4)
    back = resized.to_image_pixels(0, detections)
    assert back.corners_M4.tolist() == boxes.corners_M4.tolist()
    assert back.proposals_M4 is not None
    assert back.proposals_M4.tolist() == boxes.corners_M4.tolist()


def test_noise_belongs_to_the_image_and_the_level() -> None:
    images = [torch.full((3, 64, 64), 128, dtype=torch.uint8)] * 3
    views = ViewedImages(Stored(images), [Noise(8.0, 5), Noise(48.0, 5)])
    [[(stored, first, louder), (_, second, _)], [(_, again, _)]] = read_groups(views, [[0, 1], [0]], 0)
    assert torch.equal(stored, images[0])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert (second - 128).std().item() == pytest.approx(8.0, rel=0.1)
    assert abs((second - 128).mean().item()) < 0.5
    torch.testing.assert_close((louder - 128) / 48, (first - 128) / 8)
    assert not torch.equal(Noise(8.0, 6)(images[0], 0), first)
    assert gaussian_noise(torch.Size([2, 3]), 0.0, 1).abs().sum() == 0


def test_noise_moves_predictions_and_repeats(task: Detection, fitted: Detector) -> None:
    indices = np.arange(24, 30)
    [(clean, again)] = task.perturbed(fitted, indices, [1e-9], [0])
    assert clean.boxes_P4 is not None
    assert again.boxes_P4 is not None
    assert torch.equal(clean.boxes_P4, task.predict(fitted, indices).boxes_P4)  # type: ignore[arg-type]
    torch.testing.assert_close(clean.boxes_P4, again.boxes_P4)
    [(_, *views)] = task.perturbed(fitted, indices, [48.0] * 3, [1, 1, 2])
    first, second, other = (view.boxes_P4 for view in views)
    assert first is not None
    assert second is not None
    assert other is not None
    torch.testing.assert_close(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_workers_change_nothing() -> None:
    images, groups = split(12).images, [[0, 1], [5], [3, 4], [7, 2], [11]]
    state = torch.get_rng_state()
    plain, read = (list(read_groups(images, groups, workers)) for workers in (0, 2))
    assert torch.equal(state, torch.get_rng_state())
    for expected, other in zip(plain, read, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


class Broken(Stored):
    def __getitem__(self, number: Any) -> Any:
        if number == 3:
            raise ValueError("3.jpg cannot be read")
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_line_whoever_reads_it(workers: int) -> None:
    images = Broken([torch.zeros(3, 8, 8, dtype=torch.uint8)] * 6)
    with pytest.raises(ValueError, match=r"^3\.jpg cannot be read$"):
        list(read_groups(images, [[0], [1], [2], [3], [4], [5]], workers))


def test_images_of_one_padded_size_make_a_run() -> None:
    sizes = [(60, 50), (64, 33), (64, 70), (64, 64), (10, 10), (20, 20), (32, 1)]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    parts = placing().split_by_size(images, 64 * 64 * 8)
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 3), (3, 4), (4, 7)]
    assert [part.stop - part.start for part in placing().split_by_size(images, 1)] == [1] * 7
    assert [part.stop - part.start for part in placing().split_by_size(images[4:], 2 * 32 * 32)] == [2, 1]


@pytest.mark.parametrize("model", MODELS)
def test_an_image_is_the_same_beside_larger_ones(model: str) -> None:
    """A detector's output depends on the padding, so each image is padded as it would be alone."""
    scenes_, rng = split(8), np.random.default_rng(0)
    images = Stored(
        [F.pad(image, (0, int(rng.integers(0, 60)), 0, int(rng.integers(0, 60)))) for image in scenes_.images]
    )  # type: ignore[attr-defined]
    assert len({tuple(image.shape) for image in images}) == 8
    small_task = Detection(CPU, recipe(model, epochs=3), Split(images, scenes_.truth), split(4, seed=1), 10, "50")
    fitted, indices = small_task.fit(np.arange(8), 0), np.arange(8)
    truth, directions = [scenes_.truth.boxes_of(i) for i in range(8)], None
    directions = direction(small_task, fitted)
    for what in (
        lambda part: small_task.losses(fitted, part),
        lambda part: small_task.embed(fitted, part),
        lambda part: small_task.directional(fitted, part, [truth[i] for i in part], directions),
        lambda part: small_task.predict(fitted, part).confidence_P,
    ):
        together, alone = what(indices), torch.cat([what(indices[i : i + 1]) for i in range(8)])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


# --- training -------------------------------------------------------------------------------------
def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Killed(Exception):
    """Stands in for SIGKILL."""


@pytest.mark.parametrize(
    ("model", "companion"),
    [("fcos", LossPrediction(0.5, 1.0, 1.0, 8)), ("faster_rcnn", None)],
    ids=["fcos with a companion", "faster_rcnn"],
)
def test_a_killed_fit_ends_in_the_same_bytes(
    model: str, companion: LossPrediction | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = dataclasses.replace(CPU, scratch=tmp_path)
    small_task = Detection(machine, recipe(model), split(20), split(4, seed=1), 10, "50")
    whole = small_task.fit(np.arange(16), 0, companion)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(vision_training, "CHECKPOINT_SECONDS", 0.0)
    step, count = vision_training.save_checkpoint, []

    def dying(*args: Any) -> None:
        step(*args)
        count.append(args[-1])
        if len(count) == 3:
            raise Killed

    monkeypatch.setattr(vision_training, "save_checkpoint", dying)
    with pytest.raises(Killed):
        small_task.fit(np.arange(16), 0, companion)
    [checkpoint] = tmp_path.glob("*.checkpoint")
    monkeypatch.setattr(vision_training, "save_checkpoint", step)
    steps_run: list[int] = []
    objective = detection_training.objective
    monkeypatch.setattr(detection_training, "objective", lambda *args: steps_run.append(1) or objective(*args))
    resumed = small_task.fit(np.arange(16), 0, companion)
    assert len(steps_run) == 1  # of four steps
    assert same(whole, resumed)
    assert not checkpoint.exists()


def test_a_damaged_checkpoint_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(CPU, scratch=tmp_path)
    small_task = Detection(machine, recipe("fcos"), split(12), split(4, seed=1), 10, "50")
    whole = small_task.fit(np.arange(8), 0)
    monkeypatch.setattr(vision_training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Path, "unlink", lambda *args, **more: None)  # so that the last one stays
    small_task.fit(np.arange(8), 0)
    monkeypatch.undo()
    [checkpoint] = tmp_path.glob("*.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert same(whole, small_task.fit(np.arange(8), 0))


def test_a_fit_depends_on_set_and_seed(task: Detection) -> None:
    first, other = task.fit(np.array([3, 1, 2]), 0), task.fit(np.array([1, 2, 3]), 0)
    assert same(first, other)
    assert not same(first, task.fit(np.array([1, 2, 3]), 1))


def test_the_companion_learns_and_leaves_the_model_alone_where_detached(task: Detection) -> None:
    companion = LossPrediction(detach_after=0.0, weight=50.0, margin=1.0, width=8)
    plain, beside = task.fit(np.arange(8), 0), task.fit(np.arange(8), 0, companion)
    fresh = task.model(companion)
    assert beside.companion is not None
    assert fresh.companion is not None
    assert not same(beside.companion, fresh.companion)
    shared = {name: value for name, value in beside.state_dict().items() if not name.startswith("companion.")}
    assert shared.keys() == plain.state_dict().keys()
    assert all(torch.equal(shared[name], value) for name, value in plain.state_dict().items())
    joint = task.fit(np.arange(8), 0, dataclasses.replace(companion, detach_after=1.0))
    moved = [name for name in plain.state_dict() if not torch.equal(joint.state_dict()[name], shared[name])]
    assert moved
    assert task.companion(beside, np.arange(5)).shape == (5,)


def test_the_plan_covers_each_epoch_once() -> None:
    steps = plan_steps(21, recipe("fcos", epochs=2, batch_size=8, flip=True), seed=3)
    assert [step.number for step in steps] == list(range(6))
    assert [len(step.positions) for step in steps] == [7] * 6
    first, second = ([position for step in steps[i : i + 3] for position in step.positions] for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second
    assert 0 < sum(flip for step in steps for flip in step.flips) < 42
    assert not any(flip for step in plan_steps(21, recipe("fcos", flip=False), 3) for flip in step.flips)


def test_learning_rates_of_the_published_schedule() -> None:
    steps = 12 * 1000
    at = [
        learning_rate_schedule(PUBLISHED_FCOS_COCO, steps).rate_at(step, steps)
        for step in (0, 499, 500, 7999, 8000, 10999, 11000, 11999)
    ]
    assert at == pytest.approx([0.01 / 3, 0.01 / 3, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    share = DetectorRecipe(warmup=0.25)
    assert [learning_rate_schedule(share, 100).rate_at(step, 100) for step in (0, 24, 25)] == pytest.approx(
        [0.001, 0.01 * (0.1 + 0.9 * 24 / 25) * (1 + np.cos(0.24 * np.pi)) / 2, 0.01 * (1 + np.cos(0.25 * np.pi)) / 2]
    )
    linear = dataclasses.replace(PUBLISHED_FCOS_COCO, warmup_kind="linear", warmup_ratio=0.001)
    assert learning_rate_schedule(linear, steps).rate_at(0, steps) == pytest.approx(0.00001)
    assert learning_rate_schedule(linear, steps).rate_at(250, steps) == pytest.approx(0.01 * (0.001 + 0.999 / 2))
    cosine = DetectorRecipe(warmup=0.0)
    assert [learning_rate_schedule(cosine, 10).rate_at(step, 10) for step in (0, 5)] == pytest.approx([0.01, 0.005])


def test_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    detector = build_detector(recipe("fcos", bias_lr=2.0, weight_decay=1e-4), 10, None)
    sgd = build_optimiser(detector, recipe("fcos", bias_lr=2.0, weight_decay=1e-4))
    rest, biases = sgd.param_groups
    assert (rest["factor"], biases["factor"], biases["weight_decay"]) == (1.0, 2.0, 0.0)
    names = {id(p): name for name, p in detector.named_parameters()}
    bias_names = {names[id(p)] for p in biases["params"]}
    assert "inner.head.regression_head.bbox_reg.bias" in bias_names
    assert not any("conv.1.bias" in name or "body" in name for name in bias_names)  # of norms
    assert len(rest["params"]) + len(biases["params"]) == len(list(detector.parameters()))


def test_the_gradient_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noting(parameters: Iterator[torch.nn.Parameter], most: float) -> Tensor:
        clipped = list(parameters)
        total = clip(clipped, most)
        norms.append(sum(p.grad.square().sum().item() for p in clipped if p.grad is not None) ** 0.5)
        return total

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", noting)
    small_task = Detection(CPU, recipe("fcos", clip=0.01), split(10), split(4, seed=1), 10, "50")
    small_task.fit(np.arange(8), 0)
    assert norms
    assert max(norms) <= 0.01 * 1.001


def test_divergence_is_one_line() -> None:
    small_task = Detection(CPU, recipe("fcos", lr=1e9, clip=0.0), split(10), split(4, seed=1), 10, "50")
    with pytest.raises(ValueError, match="diverged") as caught:
        small_task.fit(np.arange(8), 0)
    assert "\n" not in str(caught.value)


def test_a_warm_up_without_end_is_one_line() -> None:
    small_task = Detection(CPU, recipe("fcos", warmup=500.0), split(10), split(4, seed=1), 10, "50")
    with pytest.raises(ValueError, match=r"warmup=500 steps, but training takes 2"):
        small_task.fit(np.arange(8), 0)


def test_images_without_boxes_train() -> None:
    last = np.array([[4, 4, 30, 30]], np.float32)
    sparse = GroundTruth(last, np.zeros(1, np.int64), np.zeros(1, bool), np.array([0] * 7 + [1]))
    for model in MODELS:
        small_task = Detection(CPU, recipe(model), Split(split(7).images, sparse), split(4, seed=1), 10, "50")
        fitted = small_task.fit(np.arange(6), 0)
        assert small_task.losses(fitted, np.arange(6)).isfinite().all()
        assert small_task.cost(np.arange(6)) == {"images": 6.0, "boxes": 0.0}
        assert small_task.score(fitted)["map"] >= 0


# --- the task -------------------------------------------------------------------------------------
@pytest.mark.parametrize("label", ["few_scenes", pytest.param("few_scenes[model=faster_rcnn]", marks=pytest.mark.slow)])
def test_a_detection_task_conforms(label: str) -> None:
    discovery.discover(FAULTY)
    findings = run_checks(Spec.read("task", label), Spec.read("task", "digits"), CPU)
    assert [f"{finding.check}: {finding.message}" for finding in findings if finding.message] == []


def test_ignored_boxes_are_paid_for_but_not_learnt(task: Detection) -> None:
    pool = split(10)
    ignored_B = np.arange(len(pool.truth.labels_B)) % 2 == 0
    truth = dataclasses.replace(pool.truth, ignored_B=ignored_B)
    small_task = Detection(CPU, recipe("fcos"), Split(pool.images, truth), split(4, seed=1), 10, "50")
    assert small_task.cost(np.arange(10))["boxes"] == len(ignored_B)
    assert sum(len(truth.boxes_of(i)) for i in range(10)) == (~ignored_B).sum()


def test_map_is_counted_where_the_task_says(task: Detection, fitted: Detector) -> None:
    scores = task.score(fitted)
    assert scores["map"] == scores["ap50"]
    other = Detection(CPU, task._recipe, task._pool, task._test, 10, "50:95")
    assert other.score(fitted)["map"] == other.score(fitted)["ap"]


def test_the_score_says_how_many_classes_are_found_and_how_many_there_are(
    task: Detection, fitted: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_there = len(np.unique(task._test.truth.labels_B))
    assert 1 < task.score(fitted)["num_predicted_classes"] <= 10
    for labels, num in (([], 0), ([4], 1), ([4, 4], 1), ([4, 7], 2)):
        boxes_P4 = np.tile([1.0, 1.0, 9.0, 9.0], (len(labels), 1))
        detections = DetectionArrays(
            np.zeros(len(labels), np.int64), np.array(labels, np.int64), np.ones(len(labels)), boxes_P4
        )
        monkeypatch.setattr(
            "benchmark.vision.detection.detection_set.DetectionSet.to_arrays",
            lambda _, detections=detections: detections,
        )
        scores = task.score(fitted)
        assert (scores["num_predicted_classes"], scores["num_test_classes"]) == (num, num_there)


def test_pseudo_labels_are_the_sure_boxes(task: Detection, fitted: Detector) -> None:
    indices = np.arange(24, 40)
    everything = task._cached_detections(fitted, indices)
    for least in (0.1, 0.3):
        boxes = task.pseudo_labels(fitted, indices, 1, least)
        assert len(boxes) == 16
        for number, image_boxes in enumerate(boxes):
            mine = (everything.image_P == number) & (everything.confidence_P >= least)
            torch.testing.assert_close(image_boxes.corners_M4, everything.corners_P4[mine])
            assert image_boxes.labels_M.tolist() == everything.label_P[mine].tolist()
    with pytest.raises(ValueError, match="k=2"):
        task.pseudo_labels(fitted, indices, 2, 0.1)


def test_scrambling_exchanges_the_boxes_of_unpaid_images(task: Detection) -> None:
    paid = np.array([1, 5, 6])
    other = task.scrambled(paid, 3)
    counts = [[len(version._pool.truth.boxes_of(i)) for i in range(40)] for version in (task, other)]
    assert [counts[0][i] for i in paid] == [counts[1][i] for i in paid]
    assert counts[0] != counts[1]
    assert sorted(counts[0]) == sorted(counts[1])
    assert other.fingerprint != task.fingerprint


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": "yolo"}, "model=yolo: must be fcos, faster_rcnn"),
        ({"backbone": "vgg16"}, "backbone=vgg16: must be small, or a ResNet"),
        ({"frozen_stages": 5}, "frozen_stages=5"),
        ({"channels": 40}, "channels=40: must be a positive multiple of 32"),
        ({"epochs": 0}, "epochs=0"),
        ({"milestones": "8,11", "schedule": "step"}, "milestones=8,11: must be epochs, as in 8/11"),
        ({"weights": "none"}, "weights=none has no effect with backbone=small"),
        ({"model": "faster_rcnn", "convs": 2}, "convs=2 has no effect with model=faster_rcnn"),
        ({"max_size": 100}, "max_size=100: must be at least min_size"),
        ({"warmup": 0.0, "warmup_ratio": 0.5}, "warmup_ratio=0.5 has no effect with warmup=0"),
        ({"schedule": "step", "milestones": "8/20"}, "milestones=8/20: must come before the end, epochs=20"),
        ({"schedule": "cosine", "milestones": "3"}, "milestones=3 has no effect with schedule=cosine"),
        ({"model": "mmdet:fcos"}, "backbone=small has no effect with model=mmdet:fcos"),
        ({"momentum": 1.0}, "momentum=1.0"),
    ],
)
def test_a_faulty_recipe_is_one_line(changed: dict[str, Any], named: str) -> None:
    base = scenes.DEFAULT if "max_size" not in changed else DetectorRecipe()
    with pytest.raises(ValueError, match=r".") as caught:
        dataclasses.replace(base, **changed)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_untrained_backbone_keeps_nothing() -> None:
    with pytest.raises(ValueError, match=r"norm=batch,frozen_stages=-1"):
        DetectorRecipe(weights="none")


def test_published_recipes() -> None:
    assert (PUBLISHED_FCOS_COCO.clip, PUBLISHED_FCOS_VOC.clip) == (10.0, 8.0)
    assert dataclasses.replace(PUBLISHED_FCOS_VOC, clip=10.0) == PUBLISHED_FCOS_COCO
    assert learning_rate_schedule(PUBLISHED_FCOS_VOC, 756).rate_at(0, 756) == pytest.approx(0.01 / 3)
    settings = (PUBLISHED_FCOS_COCO.min_size, PUBLISHED_FCOS_COCO.max_size, PUBLISHED_FCOS_COCO.epochs)
    assert settings == (800, 1333, 12)


def test_one_stage_detectors_lack_proposals() -> None:
    values = dataclasses.asdict(DetectorRecipe())
    assert missing_capabilities(**values) == {"proposals", "sample"}
    assert missing_capabilities(**{**values, "dropout": 0.1}) == {"proposals"}
    assert missing_capabilities(**{**values, "model": "faster_rcnn", "convs": None}) == {"sample"}
    for model in ("mmdet:faster_rcnn", "mmdet:cascade-rcnn_r50_fpn_1x_coco"):
        assert missing_capabilities(**{**values, "model": model, "convs": None}) == {"box_features", "sample"}


def test_backbone_weights_come_from_a_file(tmp_path: Path) -> None:
    source = untrained("resnet18")
    path = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), path)
    resnet_recipe = DetectorRecipe(backbone="resnet18", weights="resnet18.pth", channels=32)
    machine = dataclasses.replace(CPU, data=tmp_path)
    small_task = Detection(
        machine, dataclasses.replace(resnet_recipe, min_size=64, max_size=64), split(4), split(4, seed=1), 10, "50"
    )
    inner: Any = small_task.model().inner
    torch.testing.assert_close(inner.backbone.body.conv1.weight, source.conv1.weight, check_stride=False)
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds") as caught:
        Detection(machine, resnet_recipe, split(4), split(4, seed=1), 10, "50")
    assert "\n" not in str(caught.value)


# --- scenes ---------------------------------------------------------------------------------------
def test_scenes_are_what_they_say() -> None:
    pool, test = scenes.build_splits()
    assert (len(pool.truth), len(test.truth)) == (scenes.NUM_POOL, scenes.NUM_TEST)
    for part in (pool, test):
        counts = np.diff(part.truth.offsets_N1)
        assert counts.max() == scenes.MAX_DIGITS
        assert 0.05 < (counts == 0).mean() < 0.2
        corners = part.truth.corners_B4
        assert corners.min() >= 0
        assert corners.max() <= scenes.CANVAS_SIDE
        sides = corners[:, 2:] - corners[:, :2]
        assert sides.min() >= 3
        assert sides.max() <= scenes.DIGIT_SIZES[1]
        assert len(np.unique(part.truth.labels_B)) == 10
    assert pool.images[0].shape == (3, 64, 64)
    assert pool.images[0].dtype == torch.uint8


def test_scenes_boxes_hold_the_ink() -> None:
    pool, _ = scenes.build_splits()
    for number in range(50):
        image, boxes = pool.images[number][0].float(), pool.truth.boxes_of(number)
        outside = torch.ones(64, 64, dtype=torch.bool)
        for x1, y1, x2, y2 in boxes.corners_M4.int().tolist():
            outside[y1:y2, x1:x2] = False
            assert image[y1:y2, x1:x2].max() > 100
        assert image[outside].max() < 100


def test_scenes_draw_pool_and_test_from_different_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    digits: list[set[bytes]] = []
    draw = scenes.build_split

    def noting(glyphs: Any, *rest: Any) -> Split:
        digits.append({glyph.tobytes() for glyph in glyphs})
        return draw(glyphs, *rest)

    monkeypatch.setattr(scenes, "build_split", noting)
    scenes.build_splits.__wrapped__()
    assert len(digits) == 2
    assert len(digits[0] & digits[1]) <= 1  # scikit-learn's digits hold a few copies


@pytest.mark.slow
@pytest.mark.parametrize("label", ["scenes", "scenes[model=faster_rcnn]"])
def test_all_of_scenes_teaches_both_detectors(label: str) -> None:
    spec = Spec.read("task", label)
    whole: Any = spec.plugin.build(CPU, spec.values)
    assert whole.score(whole.fit(np.arange(whole.num_pool), 0))["ap50"] >= 0.9
