"""SSD as a detector, its square input and its augmentation.

Shapes: N images, A default boxes of one image, M boxes of one image, C classes.
"""

from __future__ import annotations

import copy
import dataclasses
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
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_convert, box_iou

from benchmark.api import Boxes, Machine
from benchmark.conformance.checks import run_checks
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.strategies.learning_loss import LossPrediction
from benchmark.tasks import scenes
from benchmark.vision.data.annotations import GroundTruth, Split
from benchmark.vision.detection.detector import Batch, PixelFormat
from benchmark.vision.detection.detectors import detector_builder
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.recipe import PUBLISHED_SSD300, DetectorRecipe, missing_capabilities
from benchmark.vision.detection.ssd import FULL_SUPPRESSION, Ssd, build_default_boxes, keep_likeliest
from benchmark.vision.detection.ssd_augment import augment_ssd
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.detection.task import Detection
from benchmark.vision.detection.training import learning_rate_schedule

discovery.discover()
CPU = Machine(torch.device("cpu"))
SMALL = dataclasses.replace(scenes.DEFAULT, model="ssd300", epochs=6)


def split(number: int, seed: int = 0) -> Split:
    """Images with glyphs of noise."""
    rng = np.random.default_rng(seed)
    glyphs, labels = rng.random((20, 8, 8)).astype(np.float32), np.arange(20) % 10
    return scenes.build_split(glyphs, labels, number, rng)


def build_task(number: int = 40, recipe: DetectorRecipe = SMALL) -> Detection:
    return Detection(CPU, recipe, split(number), split(6, seed=1), 10, "50")


@pytest.fixture(scope="module")
def task() -> Detection:
    return build_task()


@pytest.fixture(scope="module")
def fitted(task: Detection) -> Ssd:
    model = task.fit(np.arange(24), 0)
    assert isinstance(model, Ssd)
    return model


@pytest.fixture(scope="module")
def large() -> Ssd:
    """An untrained SSD300 on VGG16."""
    torch.manual_seed(0)
    return Ssd(dataclasses.replace(PUBLISHED_SSD300, weights="none"), 20, None).eval()


def direction(task: Detection, model: Ssd) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(weight.shape, generator=generator) for name, weight in task.weights(model).items()}


def maps_of(task: Detection, model: Ssd, indices: list[int]) -> tuple[list[Tensor], Batch]:
    resized = read_batch(task, indices)
    with torch.no_grad():
        return model.feature_maps(resized.batch.images_N3HW), resized.batch


# --- the network ----------------------------------------------------------------------------------
def test_ssd300_is_of_the_published_size(large: Ssd) -> None:
    assert sum(parameter.numel() for parameter in large.parameters()) == 26_285_486  # as mmdet counts it for VOC
    with torch.no_grad():
        maps = large.feature_maps(torch.zeros(1, 3, 300, 300))
        embedded = large.pooled_features(maps, Batch(torch.zeros(1, 3, 300, 300), [(300, 300)], [0]))
    assert [level.shape[1] for level in maps] == large.channels
    assert [level.shape[2:].numel() for level in maps] == [38 * 38, 19 * 19, 100, 25, 9, 1]
    assert embedded.shape == (1, 2816)
    _, [defaults_A4] = large._outputs(maps, Batch(torch.zeros(1, 3, 300, 300), [(300, 300)], [0]))
    assert defaults_A4.shape == (8732, 4)
    assert torch.equal(sort_boxes(defaults_A4), default_boxes("voc"))


SIDES = (38, 19, 10, 5, 3, 1)  # of SSD300's maps


def default_boxes(sizes: str) -> Tensor:
    """(8732, 4): centres and sides of the default boxes in pixels, sorted."""
    maps = [torch.zeros(1, 1, side, side) for side in SIDES]
    [defaults_A4] = build_default_boxes(sizes)(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)
    return sort_boxes(defaults_A4)


def sort_boxes(corners_A4: Tensor) -> Tensor:
    values_A4 = box_convert(corners_A4, "xyxy", "cxcywh").double().round(decimals=3)
    return torch.tensor(sorted(values_A4.tolist()))


def test_default_boxes_for_voc_are_those_of_ssds_authors() -> None:
    """Shortest sides 30 to 264 of 300 pixels, with the square of the next size and ratios of 2 or 2 and 3."""
    least, most = [30, 60, 111, 162, 213, 264], [60, 111, 162, 213, 264, 315]
    strides, ratios = [8, 16, 32, 64, 100, 300], [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    rows = list[list[float]]()
    for side, low, high, stride, map_ratios in zip(SIDES, least, most, strides, ratios, strict=True):
        sides = [(low, low), ((low * high) ** 0.5,) * 2]
        for ratio in map_ratios:
            long, short = low * ratio**0.5, low / ratio**0.5
            sides += [(long, short), (short, long)]
        places = [((x + 0.5) * stride, (y + 0.5) * stride) for y in range(side) for x in range(side)]
        rows += [[*place, *size] for place in places for size in sides]
    voc, coco = default_boxes("voc"), default_boxes("coco")
    torch.testing.assert_close(voc, torch.tensor(sorted([round(v, 3) for v in row] for row in rows)), rtol=0, atol=5e-3)
    assert voc[:, 2:].min().item() == pytest.approx(30 / 2**0.5, abs=5e-3)
    assert coco[:, 2:].min().item() == pytest.approx(21 / 2**0.5, abs=5e-3)
    assert PUBLISHED_SSD300.default_boxes == "voc"
    assert DetectorRecipe().default_boxes == "coco"


@pytest.mark.mmdet
def test_default_boxes_are_mmdets() -> None:
    generators = pytest.importorskip("mmdet.models.task_modules.prior_generators")
    for sizes, ratios in (("voc", (0.2, 0.9)), ("coco", (0.15, 0.9))):
        theirs = generators.SSDAnchorGenerator(
            strides=[8, 16, 32, 64, 100, 300], ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]], scale_major=False,
            basesize_ratio_range=ratios, input_size=300,
        ).grid_priors([(side, side) for side in SIDES], device="cpu")  # fmt: skip
        ours, expected = default_boxes(sizes), sort_boxes(torch.cat(theirs))
        if sizes == "coco":  # torchvision clips sides to the image's
            expected = torch.tensor(
                sorted([*row[:2], *(min(side, 300.0) for side in row[2:])] for row in expected.tolist())
            )
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3)


def test_ssd300_is_torchvisions_from_stored_pixels_to_the_loss(large: Ssd) -> None:
    """A photograph that is not square passes through both: resized to 300 x 300, minus the mean, with one box."""
    image = torch.randint(0, 256, (3, 20, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = F.interpolate(image[None].float(), (200, 400), mode="bilinear")[0].byte()
    boxes = Boxes(torch.tensor([[40.0, 20, 200, 180], [300, 0, 400, 50]]), torch.tensor([3, 19]))
    resized = BatchBuilder(PUBLISHED_SSD300, large.pixel_format, torch.device("cpu"))([image], [0])
    [ours] = large(resized.batch, resized.to_batch_pixels([boxes]))
    theirs = copy.deepcopy(large.inner).train()
    mean, deviation = [0.48235, 0.45882, 0.40784], [1 / 255] * 3
    theirs.transform = GeneralizedRCNNTransform(300, 300, mean, deviation, size_divisible=1, fixed_size=(300, 300))
    with torch.no_grad():
        parts = theirs([image / 255], [{"boxes": boxes.corners_M4, "labels": boxes.labels_M + 1}])
    assert ours.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-4)


class Light(torch.nn.Module):
    """VGG16 without its classifier, which no detector needs and which takes seconds to build."""

    def __init__(self) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"], False)


def test_stages_of_vgg16_are_frozen_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("torchvision.models.get_model", lambda *args, **more: calls.append((args, more)) or Light())
    for stages, expected in ((-1, 0), (0, 4), (1, 8), (2, 14), (3, 20), (4, 26)):
        model: Any = detector_builder("ssd300")(dataclasses.replace(PUBLISHED_SSD300, frozen_stages=stages), 3, None)
        still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert len(still) == expected, still
        assert all("inner.backbone." in name for name in still)
    assert calls == [(("vgg16",), {"weights": "IMAGENET1K_FEATURES"})] * 6


def test_weights_of_vgg16_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = Light()
    torch.save({**source.state_dict(), "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    monkeypatch.setattr("torchvision.models.get_model", lambda *args, weights: Light() if weights is None else None)
    recipe = dataclasses.replace(PUBLISHED_SSD300, weights="vgg16.pth")
    inner: Any = detector_builder("ssd300")(recipe, 3, tmp_path / "vgg16.pth").inner  # type: ignore[attr-defined]
    torch.testing.assert_close(inner.backbone.features[0].weight, source.features[0].weight)
    torch.testing.assert_close(inner.backbone.extra[0][1].weight, source.features[24].weight)


# --- the loss -------------------------------------------------------------------------------------
def by_hand(model: Ssd, maps: list[Tensor], batch: Batch, targets: list[Boxes]) -> float:
    """The paper's loss (equations 1 to 3), computed by plain loops over default boxes with 3 negatives per positive."""
    outputs, defaults = model._outputs(maps, batch)
    total, num_positive = 0.0, 0
    for number, target in enumerate(targets):
        overlap_MA = box_iou(target.corners_M4, defaults[number])
        own = dict[int, int]()
        for place in range(len(defaults[number])):
            if len(target) and overlap_MA[:, place].max() >= 0.5:
                own[place] = int(overlap_MA[:, place].argmax())
        own |= {int(overlap_MA[box].argmax()): box for box in range(len(target))}  # every box has its best
        negatives = []
        for place, default_4 in enumerate(defaults[number].tolist()):
            log_K = outputs["cls_logits"][number, place].log_softmax(0)
            if place not in own:
                negatives.append(-log_K[0].item())
                continue
            x1, y1, x2, y2 = target.corners_M4[own[place]].tolist()
            a1, b1, a2, b2 = default_4
            goal = [
                10 * ((x1 + x2) - (a1 + a2)) / 2 / (a2 - a1), 10 * ((y1 + y2) - (b1 + b2)) / 2 / (b2 - b1),
                5 * np.log((x2 - x1) / (a2 - a1)), 5 * np.log((y2 - y1) / (b2 - b1)),
            ]  # fmt: skip
            total -= log_K[1 + int(target.labels_M[own[place]])].item()
            for z, want in zip(outputs["bbox_regression"][number, place].tolist(), goal, strict=True):
                total += 0.5 * (z - want) ** 2 if abs(z - want) < 1 else abs(z - want) - 0.5
        total += sum(sorted(negatives)[::-1][: 3 * len(own)])
        num_positive += len(own)
    return total / max(1, num_positive)


def test_the_loss_by_hand(task: Detection, fitted: Ssd) -> None:
    maps, batch = maps_of(task, fitted, [2, 3, 4])
    targets = [task._pool.truth.boxes_of(number) for number in (2, 3, 4)]
    assert sum(map(len, targets)) == 4
    with torch.no_grad():
        together = fitted.loss(maps, batch, targets).item()
        each = fitted.image_losses(maps, batch, targets).tolist()
    assert together == pytest.approx(by_hand(fitted, maps, batch, targets), rel=1e-4)
    for number, alone in enumerate(each):
        image_maps = [level[number : number + 1] for level in maps]
        assert alone == pytest.approx(
            by_hand(fitted, image_maps, batch.select_image(number), [targets[number]]), rel=1e-4
        )


def test_an_image_without_boxes_costs_and_teaches_nothing(task: Detection, fitted: Ssd) -> None:
    none = Boxes(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    some = task._pool.truth.boxes_of(2)
    assert len(some)
    indices, directions = np.array([2, 3]), direction(task, fitted)
    losses = task.losses(fitted, indices, [some, none])
    assert losses[0] > 0.1
    assert losses[1] == 0
    slopes = task.directional(fitted, indices, [some, none], directions)
    assert slopes[0] != 0
    assert slopes[1] == 0
    last = np.array([[4, 4, 30, 30]], np.float32)
    sparse = GroundTruth(last, np.zeros(1, np.int64), np.zeros(1, bool), np.array([0] * 7 + [1]))
    sparse_task = Detection(
        CPU, dataclasses.replace(SMALL, epochs=1), Split(split(7).images, sparse), split(4), 10, "50"
    )
    model = sparse_task.fit(np.arange(6), 0)
    assert sparse_task.losses(model, np.arange(6)).tolist() == [0.0] * 6
    assert sparse_task.score(model)["map"] >= 0


def test_the_loss_of_an_image_is_its_own(task: Detection, fitted: Ssd) -> None:
    indices = np.arange(24, 32)
    together = task.losses(fitted, indices)
    alone = torch.cat([task.losses(fitted, indices[i : i + 1]) for i in range(len(indices))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_directional_is_the_gradient_through_the_whole_model(task: Detection, fitted: Ssd) -> None:
    indices = np.arange(24, 34)
    targets, directions = task.pseudo_labels(fitted, indices, 1, 0.05), direction(task, fitted)
    assert sum(map(len, targets)) > len(indices)
    fast = task.directional(fitted, indices, targets, directions)
    resized = read_batch(task, indices.tolist())
    maps = fitted.feature_maps(resized.batch.images_N3HW)
    assert all(level.requires_grad for level in maps)
    weights, slow = task.weights(fitted), []
    for loss in fitted.image_losses(maps, resized.batch, resized.to_batch_pixels(targets)):
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        slow.append(sum((g * directions[name]).sum().item() for name, g in zip(weights, gradients, strict=True)))
    assert fast.tolist() == pytest.approx(slow, rel=1e-3)


def test_blocks_are_classes_then_boxes_from_the_finest_map_on(task: Detection, fitted: Ssd) -> None:
    assert list(task.weights(fitted)) == [
        f"inner.head.{kind}_head.module_list.{level}.weight"
        for kind in ("classification", "regression")
        for level in range(4)
    ]
    widths = [weight.shape[1] for weight in task.weights(fitted).values()]
    assert widths == [48, 96, 128, 32] * 2 == fitted.channels * 2


# --- what is found --------------------------------------------------------------------------------
def torchvisions(model: Ssd, maps: list[Tensor], batch: Batch) -> list[dict[str, Tensor]]:
    """torchvision's detections on these maps, without boxes of no area, which it keeps."""
    inner: Any = model.inner
    rule = model.suppression
    inner.score_thresh, inner.nms_thresh = rule.min_score, rule.iou_threshold
    inner.topk_candidates, inner.detections_per_img = rule.num_candidates, rule.num_boxes
    outputs, defaults = model._outputs(maps, batch)
    detections = inner.postprocess_detections(outputs, defaults, batch.sizes)
    large = [(item["boxes"][:, 2:] - item["boxes"][:, :2] >= 1e-2).all(1) for item in detections]
    return [{name: rows[some] for name, rows in item.items()} for item, some in zip(detections, large, strict=True)]


def assert_same(ours: list[Detections], theirs: list[dict[str, Tensor]]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.corners_M4, other["boxes"])
        torch.testing.assert_close(mine.confidence_M, other["scores"])
        assert mine.labels_M.tolist() == (other["labels"] - 1).tolist()
        torch.testing.assert_close(mine.scores_MK.gather(1, mine.labels_M[:, None])[:, 0], mine.confidence_M)
        torch.testing.assert_close(mine.scores_MK.sum(1), torch.ones_like(mine.confidence_M))


@torch.no_grad()
def test_detections_are_torchvisions(task: Detection, fitted: Ssd) -> None:
    model = copy.deepcopy(fitted)
    maps, batch = maps_of(task, model, list(range(24, 32)))
    for rule in (model.suppression, FULL_SUPPRESSION, dataclasses.replace(FULL_SUPPRESSION, num_candidates=3)):
        model.suppression = rule
        detections = model.detect(maps, batch)
        assert sum(len(item.labels_M) for item in detections) > 20
        assert_same(detections, torchvisions(model, maps, batch))


@torch.no_grad()
def test_detections_of_ssd300_are_torchvisions(large: Ssd) -> None:
    """In an untrained network nearly every class of every default box is a candidate: 400 of each class enter
    suppression.

    Double precision and unsaturated logits make all scores different.
    """
    images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)) * 255 - 110
    batch = Batch(images, [(300, 300)], [0])
    maps, model = [level.double() for level in large.feature_maps(images)], copy.deepcopy(large).double()
    for layer in model.inner.head.classification_head.module_list:
        layer.weight /= 8
    assert len(model.detect(maps, batch)[0].labels_M) == 200
    model.suppression = dataclasses.replace(FULL_SUPPRESSION, num_boxes=10_000)
    assert len(model.detect(maps, batch)[0].labels_M) > 1000
    assert_same(model.detect(maps, batch), torchvisions(model, maps, batch))


def test_the_likeliest_of_each_class() -> None:
    scores_AC = torch.tensor([[0.1, 0.9], [0.3, 0.2], [0.2, 0.5]])
    assert keep_likeliest(scores_AC, 2).tolist() == torch.tensor([[0, 0.9], [0.3, 0], [0.2, 0.5]]).tolist()
    assert torch.equal(keep_likeliest(scores_AC, 5), scores_AC)


def test_embeddings_are_the_inputs_of_the_last_layers(task: Detection, fitted: Ssd) -> None:
    heard: list[Tensor] = []
    layers = fitted.last_layers()[:4]
    handles = [layer.register_forward_hook(lambda _, inputs, out: heard.append(inputs[0])) for layer in layers]
    maps, batch = maps_of(task, fitted, [3])
    with torch.no_grad():
        fitted.detect(maps, batch)
    [handle.remove() for handle in handles]
    expected = torch.cat([level.mean((0, 2, 3)) for level in heard])
    torch.testing.assert_close(task.embed(fitted, np.arange(6))[3], expected, rtol=1e-4, atol=1e-5)


# --- the square input -----------------------------------------------------------------------------
def square(**changed: Any) -> BatchBuilder:
    recipe = dataclasses.replace(SMALL, squash=50, **changed)
    return BatchBuilder(recipe, PixelFormat((10.0, 20.0, 30.0), (1.0, 2.0, 4.0)), torch.device("cpu"))


def test_squashed_images_are_square_and_not_padded() -> None:
    wide, tall = torch.full((3, 30, 100), 30, dtype=torch.uint8), torch.full((3, 90, 45), 30, dtype=torch.uint8)
    resized = square()([wide, tall], [0, 0])
    assert resized.batch.sizes == [(50, 50)] * 2
    assert resized.batch.images_N3HW.shape == (2, 3, 50, 50)
    expected = torch.tensor([20.0, 5.0, 0.0]).view(3, 1, 1).expand(2, 3, 50, 50)
    torch.testing.assert_close(resized.batch.images_N3HW, expected, rtol=1e-4, atol=1e-4)
    assert square().padded_size((30, 100)) == (50, 50)
    assert square().split_by_size([wide, tall, wide], 2 * 50**2) == [slice(0, 2), slice(2, 3)]


def test_boxes_are_squashed_with_their_image_and_come_back() -> None:
    image = torch.zeros(3, 30, 100, dtype=torch.uint8)
    image[:, 6:12, 20:60] = 255
    boxes = Boxes(torch.tensor([[20.0, 6.0, 60.0, 12.0]]), torch.tensor([3]))
    resized = square()([image, image], [0, 0], [False, True])
    plain, mirrored = resized.to_batch_pixels([boxes, boxes])
    torch.testing.assert_close(plain.corners_M4, torch.tensor([[10.0, 10, 30, 20]]))
    torch.testing.assert_close(mirrored.corners_M4, torch.tensor([[20.0, 10, 40, 20]]))
    for number, (left, right) in enumerate(((10, 30), (20, 40))):
        bright = resized.batch.images_N3HW[number, 0] > 100
        assert bright[11:19, left + 1 : right - 1].all()
        assert bright.sum() <= 12 * 22
    detections = Detections(plain.corners_M4, plain.labels_M, torch.ones(1), torch.ones(1, 2))
    torch.testing.assert_close(resized.to_image_pixels(0, detections).corners_M4, boxes.corners_M4)


# --- augmentations --------------------------------------------------------------------------------
def marked_image() -> tuple[Tensor, Boxes]:
    """A white box and a grey one on black."""
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    image[:, 10:30, 5:25], image[:, 35:50, 50:80] = 255, 120
    return image, Boxes(torch.tensor([[5.0, 10, 25, 30], [50, 35, 80, 50]]), torch.tensor([7, 2]))


def test_boxes_follow_their_image_through_zooming_out_and_crops() -> None:
    image, boxes = marked_image()
    counts, sizes = [], []
    for seed in range(60):
        augmented, remaining = augment_ssd(image, boxes, seed, (0.0, 0.0, 0.0))
        counts.append(len(remaining))
        sizes.append(augmented.shape[1] * augmented.shape[2])
        inside = torch.zeros(augmented.shape[1:], dtype=torch.bool)
        means = {}
        for (x1, y1, x2, y2), label in zip(
            remaining.corners_M4.int().tolist(), remaining.labels_M.tolist(), strict=True
        ):
            inside[y1:y2, x1:x2] = True
            patch = augmented[:, y1:y2, x1:x2].float()
            means[label] = patch.mean()
            assert patch.amax(0).min() > patch.amax(0).max() - 1  # of one colour: none of it is black
        if len(remaining) == 2:
            assert means[7] > means[2]
            assert not (augmented.amax(0)[~inside] > 0.9 * means[2]).any()
    assert set(counts) == {1, 2}
    assert min(sizes) < 60 * 90 < max(sizes)


def test_colours_change_and_the_canvas_is_filled() -> None:
    image, boxes = marked_image()
    corners = [augment_ssd(image, boxes, seed, (200.0, 10.0, 90.0))[0] for seed in range(30)]
    assert any(corner[:, 0, 0].tolist() == [200, 10, 90] for corner in corners)
    assert len({tuple(corner.flatten(1).float().mean(1).tolist()) for corner in corners}) > 20
    tinted = torch.tensor([250, 120, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 40)
    none = Boxes(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    colours = {tuple(augment_ssd(tinted, none, seed, (0.0, 0.0, 0.0))[0].amax((1, 2)).tolist()) for seed in range(20)}
    assert len(colours) > 10


def test_what_is_drawn_is_the_seeds_alone() -> None:
    image, boxes = marked_image()
    before = torch.get_rng_state()
    first, second, third = (augment_ssd(image, boxes, seed, (0.0, 0.0, 0.0)) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].corners_M4, second[1].corners_M4)
    assert first[0].shape != third[0].shape or not torch.equal(first[0], third[0])
    assert type(first[0]) is type(first[1].corners_M4) is Tensor


def test_images_without_boxes_are_not_cropped() -> None:
    image, none = marked_image()[0], Boxes(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    for seed in range(20):
        augmented, remaining = augment_ssd(image, none, seed, (0.0, 0.0, 0.0))
        assert augmented.shape[1] >= 60
        assert augmented.shape[2] >= 90
        assert (len(remaining), remaining.corners_M4.shape) == (0, (0, 4))


def test_fits_are_varied_where_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    real = augment_ssd

    def noting(image: Tensor, boxes: Boxes, seed: int, fill: Any) -> tuple[Tensor, Boxes]:
        assert fill == (123.0, 117.0, 104.0)
        seeds.append(seed)
        return real(image, boxes, seed, fill)

    monkeypatch.setattr("benchmark.vision.detection.ssd_augment.augment_ssd", noting)
    recipe = dataclasses.replace(SMALL, epochs=2, squash=64, batch_size=4)
    plain = build_task(10, recipe).fit(np.arange(8), 0).state_dict()
    assert not seeds
    changed = build_task(10, dataclasses.replace(recipe, augment="ssd"))
    first, second = (changed.fit(np.arange(8), 0).state_dict() for _ in range(2))
    assert len(seeds) == 2 * 2 * 8
    assert len(set(seeds)) == 2 * 8
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], plain[name]) for name in first)


def test_a_fit_learns_the_boxes_that_a_crop_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining, trained_on = Boxes(torch.tensor([[8.0, 8, 32, 20]]), torch.tensor([3])), list[Boxes]()
    monkeypatch.setattr(
        "benchmark.vision.detection.ssd_augment.augment_ssd", lambda image, *_: (image[:, :32], remaining)
    )
    loss = Ssd.loss

    def noting(self: Ssd, maps: list[Tensor], batch: Batch, targets: list[Boxes]) -> Tensor:
        trained_on.extend(targets)
        return loss(self, maps, batch, targets)

    monkeypatch.setattr(Ssd, "loss", noting)
    recipe = dataclasses.replace(SMALL, epochs=1, squash=64, augment="ssd", warmup=0.0)
    build_task(10, recipe).fit(np.arange(8), 0)
    squashed = [[8, 16, 32, 40]]  # from half as high to a square
    assert [boxes.corners_M4.tolist() for boxes in trained_on] == [squashed] * 8
    assert {boxes.labels_M.item() for boxes in trained_on} == {3}


# --- dropout ----------------------------------------------------------------------------------------
INDICES = np.arange(24, 32)


@pytest.fixture(scope="module")
def with_dropout() -> tuple[Detection, Ssd]:
    task = build_task(recipe=dataclasses.replace(SMALL, dropout=0.3))
    model = task.fit(np.arange(24), 0)
    assert isinstance(model, Ssd)
    return task, model


def test_samples_are_of_the_predicted_boxes(with_dropout: tuple[Detection, Ssd]) -> None:
    task, model = with_dropout
    clean, drawn = task.predict(model, INDICES), list(task.sample(model, INDICES, 3, 5))
    assert len(clean.image_P) > 20
    assert clean.boxes_P4 is not None
    for sample in drawn:
        assert sample.boxes_P4 is not None
        assert torch.equal(sample.boxes_P4, clean.boxes_P4)
        assert torch.equal(sample.image_P, clean.image_P)
        torch.testing.assert_close(sample.scores_PC.sum(1), torch.ones(len(clean.image_P)))
        assert (sample.scores_PC - clean.scores_PC).abs().amax() > 0.01
    assert (drawn[0].scores_PC - drawn[1].scores_PC).abs().amax() > 0.01
    again, other = (next(task.sample(model, INDICES, 1, seed)) for seed in (5, 6))
    assert torch.equal(again.scores_PC, drawn[0].scores_PC)
    assert not torch.equal(other.scores_PC, drawn[0].scores_PC)


def test_samples_of_an_image_are_its_own(with_dropout: tuple[Detection, Ssd]) -> None:
    task, model = with_dropout
    together, alone = next(task.sample(model, INDICES, 1, 5)), next(task.sample(model, INDICES[[4, 1]], 1, 5))
    for number, image in enumerate((4, 1)):
        expected = together.scores_PC[together.image_P == image]
        torch.testing.assert_close(alone.scores_PC[alone.image_P == number], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_samples_are_the_class_layers_in_training_mode(with_dropout: tuple[Detection, Ssd]) -> None:
    """Mean and deviation of each score over many samples are those of the network whose class layers drop channels."""
    task, model = with_dropout
    noisy = copy.deepcopy(model)
    ours_TPK = torch.stack([sample.scores_PC for sample in task.sample(model, INDICES[:1], 400, 5)])
    maps, batch = maps_of(task, noisy, INDICES[:1].tolist())
    [clean] = noisy.detect(maps, batch)
    for layer in noisy.inner.head.classification_head.module_list:
        layer.training = True
    theirs = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(400):
            logits_AK = noisy._outputs(maps, batch)[0]["cls_logits"][0]
            theirs.append(logits_AK[clean.candidates_M].softmax(1).roll(-1, 1))
    theirs_TPK = torch.stack(theirs)
    scale = theirs_TPK.std(0).amax().item()
    assert scale > 0.01
    torch.testing.assert_close(ours_TPK.mean(0), theirs_TPK.mean(0), rtol=0, atol=0.3 * scale)
    torch.testing.assert_close(ours_TPK.std(0), theirs_TPK.std(0), rtol=0, atol=0.25 * scale)


def test_dropout_changes_training_and_not_prediction(task: Detection, fitted: Ssd) -> None:
    other = build_task(recipe=dataclasses.replace(SMALL, dropout=0.5))
    model = other.model()
    model.load_state_dict(fitted.state_dict())
    assert torch.equal(other.predict(model, INDICES).scores_PC, task.predict(fitted, INDICES).scores_PC)
    assert [sum(len(module._forward_pre_hooks) for module in net.modules()) for net in (fitted, model)] == [0, 4]
    small = [build_task(10, dataclasses.replace(SMALL, epochs=1, dropout=rate)) for rate in (0.0, 0.5, 0.5)]
    none, first, again = (version.fit(np.arange(8), 0).state_dict() for version in small)
    assert any(not torch.equal(value, first[name]) for name, value in none.items())
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_bald_selects_by_ssds_samples() -> None:
    """The published recipe with dropout gives what `bald` needs, and without dropout the message names what lacks."""
    published = Spec.read("task", "voc0712[dropout=0.5,published=true]")
    assert "sample" in published.plugin.capabilities(published.values)
    assert "box_features" not in published.plugin.capabilities(published.values)
    plain = Spec.read("task", "voc0712[published=true]")
    cell = Cell(plain, Spec.read("strategy", "bald"), Schedule(10, 10, 2), 0)
    with pytest.raises(ValueError, match=r"bald needs .*dropout=0.1 or so.*voc0712\[published=true\] does not"):
        cell.check_needs()
    dataclasses.replace(cell, task=published).check_needs()


# --- the recipe -----------------------------------------------------------------------------------
BARE = DetectorRecipe(model="ssd300", backbone="vgg16", squash=300)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"squash": 0}, "squash=0: must be 300 with model=ssd300,backbone=vgg16"),
        ({"squash": -1}, "squash=-1: must be at least 0"),
        ({"backbone": "resnet50"}, "backbone=resnet50: must be small or vgg16 with model=ssd300"),
        ({"model": "fcos"}, "backbone=vgg16: must be small, or a ResNet"),
        ({"channels": 64}, "channels=64 has no effect with backbone=vgg16"),
        ({"norm": "batch", "frozen_stages": -1}, "norm=batch has no effect with backbone=vgg16"),
        ({"convs": 2}, "convs=2 has no effect with model=ssd300"),
        ({"head_norm": "group"}, "head_norm=group has no effect with model=ssd300"),
        ({"center_sampling": 0.0}, "center_sampling=0.0 has no effect with model=ssd300"),
        ({"backbone": "small", "default_boxes": "voc"}, "default_boxes=voc has no effect with backbone=small"),
        ({"max_size": 900}, "max_size=900 has no effect with squash=300"),
        ({"min_size": 600}, "min_size=600 has no effect with squash=300"),
        ({"weights": "none"}, "all of it must be trained: set frozen_stages=-1"),
        ({"backbone": "small", "squash": 0, "frozen_stages": 1}, "takes images of one size: set squash=PIXELS"),
        ({"backbone": "small", "weights": "none"}, "weights=none has no effect with backbone=small"),
    ],
)
def test_a_faulty_recipe_is_one_line(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        dataclasses.replace(BARE, **changed)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_published_recipe() -> None:
    steps = 300 * 32  # on 1,000 images
    at = [
        learning_rate_schedule(PUBLISHED_SSD300, steps).rate_at(step, steps)
        for step in (0, 150, 300, 240 * 32 - 1, 240 * 32, steps - 1)
    ]
    assert at == pytest.approx([1e-6, 1e-3 * (0.001 + 0.999 / 2), 1e-3, 1e-3, 1e-4, 1e-4])
    settings = (PUBLISHED_SSD300.batch_size, PUBLISHED_SSD300.weight_decay, PUBLISHED_SSD300.squash)
    assert settings == (32, 5e-4, 300)
    assert "proposals" in missing_capabilities(**dataclasses.asdict(PUBLISHED_SSD300))


# --- the task -------------------------------------------------------------------------------------
def test_a_companion_learns_beside_it(task: Detection) -> None:
    companion = LossPrediction(detach_after=0.0, weight=1.0, margin=1.0, width=8)
    recipe = dataclasses.replace(SMALL, epochs=1)
    small = build_task(10, recipe)
    plain, beside = small.fit(np.arange(8), 0), small.fit(np.arange(8), 0, companion)
    assert small.companion(beside, np.arange(5)).shape == (5,)
    state = beside.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


@pytest.mark.slow
def test_a_task_with_ssd_conforms() -> None:
    discovery.discover(FAULTY)
    findings = run_checks(Spec.read("task", "few_scenes[epochs=4,model=ssd300]"), Spec.read("task", "digits"), CPU)
    assert [f"{finding.check}: {finding.message}" for finding in findings if finding.message] == []


@pytest.mark.slow
def test_all_of_scenes_teaches_ssd() -> None:
    spec = Spec.read("task", "scenes[model=ssd300]")
    whole: Any = spec.plugin.build(CPU, spec.values)
    assert whole.score(whole.fit(np.arange(whole.num_pool), 0))["ap50"] >= 0.9
