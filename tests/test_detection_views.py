"""What a detection task offers besides boxes: augmented images, features of the classification layer, dropout.

Shapes: N images, H x W pixels, M boxes of one image, P boxes of all, A candidates of one image, C classes, D features.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from _batches import read_batch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Augmentation, Machine, Predictions
from benchmark.tasks import scenes
from benchmark.vision.data.annotations import Split
from benchmark.vision.detection.augmented_views import (
    CUTOUT_SHARES,
    AugmentedView,
    cut_out,
    map_back,
    rotate_boxes_back,
)
from benchmark.vision.detection.batches import ReadBatch
from benchmark.vision.detection.detector import (
    Batch,
    DetectionsWithFeatures,
    Detector,
    add_background,
    add_dropout_before,
    apply_dropout,
)
from benchmark.vision.detection.recipe import DetectorRecipe, missing_capabilities
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.detection.task import Detection
from benchmark.vision.detection.torchvision_detectors import IMAGENET, FasterRcnn, Fcos, windows_around

CPU = Machine(torch.device("cpu"))
MODELS = ("fcos", "faster_rcnn")
INDICES = np.arange(20, 30)


def split(number: int, seed: int = 0) -> Split:
    """Images with digits."""
    glyphs = np.random.default_rng(seed).random((20, 8, 8)).astype(np.float32)
    return scenes.build_split(glyphs, np.arange(20) % 10, number, np.random.default_rng(seed))


def build_task(model: str, **changed: Any) -> Detection:
    recipe = dataclasses.replace(scenes.DEFAULT, **{"model": model, "epochs": 4, **changed})
    return Detection(CPU, recipe, split(30), split(4, seed=1), 10, "50")


@pytest.fixture(scope="module", params=MODELS)
def task(request: pytest.FixtureRequest) -> Detection:
    """Thirty scenes, with dropout before the classification layer."""
    return build_task(request.param, dropout=0.4, epochs={"fcos": 4, "faster_rcnn": 16}[request.param])


@pytest.fixture(scope="module")
def fitted(task: Detection) -> Detector:
    model = task.fit(np.arange(20), 0)
    if isinstance(model, Fcos):  # unsure of all classes: its scores must not sum to more than one, see `completed`
        model.inner.head.classification_head.cls_logits.bias.data.sub_(2.0)
    return model


# --- the way back -----------------------------------------------------------------------------------
def detections_of(*corners: tuple[float, ...]) -> Detections:
    """Boxes in the given order, with their numbers as labels and with proposals."""
    number = len(corners)
    values = torch.tensor(corners).reshape(number, 4)
    return Detections(values, torch.arange(number), torch.ones(number), torch.ones(number, 2), values, None)


def back(how: Augmentation, *corners: tuple[float, ...]) -> list[list[float]]:
    """Maps boxes back on an image 100 pixels wide and 50 high."""
    return map_back(how, detections_of(*corners), (50, 100)).corners_M4.tolist()


def test_a_mirrored_box_comes_back_exactly() -> None:
    box = (12.3, 4.5, 67.8, 49.9)
    mirrored = (100 - 67.8, 4.5, 100 - 12.3, 49.9)
    torch.testing.assert_close(torch.tensor(back("flip", mirrored)), torch.tensor([box]), rtol=0, atol=1e-5)
    assert back("flip", (25.0, 4.0, 60.5, 9.0)) == [[39.5, 4.0, 75.0, 9.0]]
    assert back("cutout", (25.0, 4.0, 60.5, 9.0)) == [[25.0, 4.0, 60.5, 9.0]]


def test_a_shrunk_box_grows_and_is_clipped() -> None:
    """A canvas 50 high and 100 wide holds an image of 40 x 80; boxes to the right of it or below lie outside the
    image."""
    assert back("shrink", (8.0, 4.0, 40.0, 36.0)) == [[10.0, 5.0, 50.0, 45.0]]
    assert back("shrink", (8.0, 4.0, 96.0, 48.0), (81.0, 0.0, 99.0, 9.0)) == [[10.0, 5.0, 100.0, 50.0]]
    remaining = map_back("shrink", detections_of((81.0, 0.0, 99.0, 9.0), (0.0, 0.0, 8.0, 8.0)), (50, 100))
    assert (remaining.labels_M.tolist(), len(remaining.scores_MK), remaining.proposals_M4) == ([1], 1, None)


def test_a_turned_box_becomes_the_upright_one_around_it() -> None:
    """A square of side 2a about the centre becomes one of side 2a (cos + sin)."""
    grown = 5 * (math.cos(math.radians(5)) + math.sin(math.radians(5)))
    expected = [50 - grown, 25 - grown, 50 + grown, 25 + grown]
    assert back("rotate", (45.0, 20.0, 55.0, 30.0))[0] == pytest.approx(expected, abs=1e-4)
    point = rotate_boxes_back(torch.tensor([[90.0, 25.0, 90.0, 25.0]]), (50, 100))[0]  # 40 right of the centre
    expected = [50 + 40 * math.cos(math.radians(5)), 25 - 40 * math.sin(math.radians(5))] * 2
    assert point.tolist() == pytest.approx(expected, abs=1e-4)
    upper, lower = back("rotate", (0.0, 0.0, 20.0, 20.0), (0.0, 30.0, 20.0, 50.0))
    assert (upper[0], lower[3]) == (0, 50)  # clipped


# --- the way there ----------------------------------------------------------------------------------
class Stored(list[Tensor]):
    """Images in a list."""

    fingerprint = "stored"


class Bright(Detector):
    """Detects the one rectangle that is brighter than half."""

    pixel_format, channels, is_two_stage = IMAGENET, [3], False

    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        return [images_N3HW]

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        return [
            self.detect_one(image_3HW[0, :height, :width])
            for image_3HW, (height, width) in zip(maps[0], batch.sizes, strict=True)
        ]

    def detect_one(self, image_HW: Tensor) -> Detections:
        bright_HW = image_HW > (127 - 123.675) / 58.395
        ys, xs = (bright_HW.any(axis).nonzero()[:, 0] for axis in (1, 0))
        corners = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]).float()
        return Detections(
            corners, torch.zeros(1, dtype=torch.int64), torch.ones(1), add_background(torch.full((1, 10), 0.05))
        )


BOX = (20, 10, 50, 34)


def lit() -> Tensor:
    """An image 48 high and 96 wide with a bright rectangle at BOX."""
    image = torch.zeros(3, 48, 96, dtype=torch.uint8)
    image[:, BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return image


def views(model: Detector, **changed: Any) -> dict[str, Tensor]:
    """The boxes that the model finds on two such images, by augmentation."""
    recipe = dataclasses.replace(scenes.DEFAULT, **changed)
    images = Split(Stored([lit(), lit()]), split(2).truth)
    task = Detection(CPU, recipe, images, split(2), 10, "50")
    hows = get_args(Augmentation)
    [(_, *views)] = task.augmented(model, np.array([1, 0]), hows, [0] * 4)
    predictions = dict(zip(hows, views, strict=True))
    assert all(prediction.image_P.tolist() == [0, 1] for prediction in predictions.values())
    return {how: prediction.boxes_P4 for how, prediction in predictions.items() if prediction.boxes_P4 is not None}


@pytest.mark.parametrize("changed", [{}, {"min_size": 96, "max_size": 400}], ids=["stored", "resized"])
def test_what_is_found_in_a_changed_image_lies_where_it_was(changed: dict[str, Any]) -> None:
    """Mirrored boxes return exactly, shrunk ones up to a pixel. A rotated box returns as the box around it, twice:
    wider by h sin and higher by w sin each time, about the same centre."""
    boxes_by_view, size = views(Bright().eval(), **changed), torch.tensor(BOX)
    assert boxes_by_view["flip"].tolist() == [list(BOX)] * 2
    assert ((boxes_by_view["shrink"] - size).abs() <= 1.25).all()
    cos, sin, width, height = math.cos(math.radians(5)), math.sin(math.radians(5)), BOX[2] - BOX[0], BOX[3] - BOX[1]
    once = (width * cos + height * sin, height * cos + width * sin)
    wide, high = once[0] * cos + once[1] * sin, once[1] * cos + once[0] * sin
    expected = torch.tensor([35 - wide / 2, 22 - high / 2, 35 + wide / 2, 22 + high / 2])
    assert ((boxes_by_view["rotate"] - expected).abs() <= 1.6).all()


def test_pixels_of_changed_images() -> None:
    image = torch.arange(48 * 96, dtype=torch.float32).remainder(200).to(torch.uint8).view(1, 48, 96).repeat(3, 1, 1)
    images = {how: AugmentedView(how, 0)(image, 0) for how in get_args(Augmentation)}
    assert all(view.shape == image.shape for view in images.values())
    assert torch.equal(images["flip"][:, :, 0], image[:, :, -1])
    colour = image.float().mean((1, 2))
    torch.testing.assert_close(images["shrink"][:, 38:, 77:], colour[:, None, None].expand(3, 10, 19))
    assert images["shrink"][:, :38, :77].std() > 5
    torch.testing.assert_close(images["rotate"][:, 0, -1], colour)
    middle = images["rotate"][0, 23:25, 47:49].mean()
    torch.testing.assert_close(middle, image[0, 23:25, 47:49].float().mean(), rtol=0, atol=1.0)


def test_turning_is_clockwise() -> None:
    """A dot right of the centre moves down."""
    image = torch.zeros(3, 51, 101, dtype=torch.uint8)
    image[:, 25, 90] = 255
    turned = AugmentedView("rotate", 0)(image, 0)[0]
    y, x = divmod(int(turned.argmax()), 101)
    assert (y, x) == (25 + round(40 * math.sin(math.radians(5))), 50 + round(40 * math.cos(math.radians(5))))


def test_two_patches_are_cut_out_by_seed_and_image() -> None:
    image = torch.arange(200 * 100).remainder(251).to(torch.uint8).view(1, 200, 100).repeat(3, 1, 1)
    corner = cut_out(image, torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    colour = image.float().mean().round()
    changed = (corner != image).any(0)
    assert (corner[:, :10, :5] == colour).all()  # 0.05 of each side, at the upper left
    assert (corner[:, 160:, 80:] == colour).all()  # 0.2 of each side, at the lower right
    assert not changed[10:160].any()
    assert not changed[:160, 5:].any()

    def cut(seed: int, number: int) -> Tensor:
        return AugmentedView("cutout", seed)(image, number)

    assert torch.equal(cut(1, 2), cut(1, 2))
    assert not torch.equal(cut(1, 2), cut(2, 2))
    assert not torch.equal(cut(1, 2), cut(1, 1))
    shares = [(cut(seed, 0) != image).any(0).double().mean().item() for seed in range(50)]
    assert 0.9 * CUTOUT_SHARES[0] ** 2 < min(shares) < max(shares) < 2 * CUTOUT_SHARES[1] ** 2
    assert image.equal(torch.arange(200 * 100).remainder(251).to(torch.uint8).view(1, 200, 100).repeat(3, 1, 1))


def test_an_unknown_view_is_named() -> None:
    with pytest.raises(ValueError, match=r"^augmentation 'zoom' is unknown: use flip, cutout, shrink, rotate$"):
        AugmentedView("zoom", 0)  # type: ignore[arg-type]


def test_a_detector_finds_other_boxes_in_every_view(task: Detection, fitted: Detector) -> None:
    [predictions] = task.augmented(fitted, INDICES, get_args(Augmentation), [3] * 4)
    assert len({prediction.confidence_P.sum().item() for prediction in predictions}) == 5
    for prediction in predictions:
        assert prediction.boxes_P4 is not None
        assert ((prediction.boxes_P4[:, 2:] - prediction.boxes_P4[:, :2]) > 0).all()
        assert ((prediction.boxes_P4 >= 0) & (prediction.boxes_P4 <= 64)).all()
        assert (prediction.scores_PC.shape[1], prediction.num_images) == (11, len(INDICES))


# --- what the class layer saw ------------------------------------------------------------------------
def test_windows_around_places_by_unfolding() -> None:
    levels = [torch.randn(5, height, width) for height, width in ((4, 7), (2, 3), (1, 1))]
    unfolded = torch.cat([F.unfold(level[None], 3, padding=1)[0].T.view(-1, 5, 3, 3) for level in levels])
    place_M = torch.tensor([34, 3, 0, 27, 28, 3, 33, 13])
    assert torch.equal(windows_around(levels, place_M), unfolded[place_M])
    assert windows_around(levels, place_M[:0]).shape == (0, 5, 3, 3)


def by_hand(task: Detection, model: Detector, index: int) -> Tensor:
    """(M, D) features of an image's boxes: each candidate is decoded by itself, and a box is matched to the candidate
    whose clipped box it equals."""
    resized = read_batch(task, [index])
    with torch.no_grad():
        maps = model.feature_maps(resized.batch.images_N3HW)
        [detections] = model.detect(maps, resized.batch)
        inner: Any = model.inner
        if isinstance(model, Fcos):
            outputs, anchors, _ = model._outputs(maps, resized.batch)
            boxes_AC4 = inner.box_coder.decode(outputs["bbox_regression"][0], anchors[0])[:, None].expand(-1, 10, 4)
            features_AD = torch.cat([inner.head.classification_head.conv(level)[0].flatten(1).T for level in maps])
        else:
            assert isinstance(model, FasterRcnn)
            [proposals], features_AD = model._propose(maps, resized.batch)
            _, deltas = inner.roi_heads.box_predictor(features_AD)
            boxes_AC4 = inner.roi_heads.box_coder.decode(deltas, [proposals])[:, 1:]
    mine_MA4 = boxes_AC4.clamp(0, 64)[:, detections.labels_M].transpose(0, 1)
    which_M = (mine_MA4 - detections.corners_M4[:, None]).abs().amax(2).argmin(1)
    assert torch.equal(which_M, detections.candidates_M)
    return features_AD[which_M]


@torch.no_grad()
def detect_with_features(task: Detection, model: Detector) -> list[DetectionsWithFeatures]:
    def work(batch: ReadBatch) -> list[DetectionsWithFeatures]:
        inputs = batch.resized.batch
        return model.detect_with_features(model.feature_maps(inputs.images_N3HW), inputs)

    return task.pool_reader.map_images(INDICES, work)


def test_box_features_are_those_of_predicted_boxes(task: Detection, fitted: Detector) -> None:
    features_PD = task.box_features(fitted, INDICES)
    predicted = task.predict(fitted, INDICES)
    assert len(features_PD) == len(predicted.image_P) > len(INDICES)
    assert predicted.image_P.unique().numel() > 5
    expected = torch.cat([by_hand(task, fitted, index) for index in INDICES])
    torch.testing.assert_close(features_PD, expected, rtol=1e-4, atol=1e-5)
    each = [part.features_MD for part in detect_with_features(task, fitted)]
    assert all(part.untyped_storage().nbytes() == part.numel() * 4 for part in each)  # no windows kept alive


def test_what_the_class_layer_saw_gives_the_scores(task: Detection, fitted: Detector) -> None:
    predicted, parts = task.predict(fitted, INDICES), detect_with_features(task, fitted)
    with torch.no_grad():
        rows_PK = torch.cat([part.classify(part.inputs_MDSS) for part in parts])
    torch.testing.assert_close(rows_PK, predicted.scores_PC, rtol=1e-4, atol=1e-5)
    corners_P4 = torch.cat([part.detections.corners_M4 for part in parts])
    assert predicted.boxes_P4 is not None
    torch.testing.assert_close(corners_P4, predicted.boxes_P4)
    assert (predicted.scores_PC[:, -1] > 0.05).double().mean() > 0.5
    assert parts[0].inputs_MDSS.shape[2:] == ((1, 1) if fitted.is_two_stage else (3, 3))


def test_detectors_without_a_view_of_their_class_layer_say_so() -> None:
    with pytest.raises(ValueError, match="Bright does not provide the classification layer's inputs for its boxes"):
        Bright().detect_with_features([], Batch(torch.zeros(0, 3, 8, 8), [], []))


# --- dropout ----------------------------------------------------------------------------------------
def samples(task: Detection, model: Detector, indices: np.ndarray, number: int, seed: int = 5) -> list[Predictions]:
    return list(task.sample(model, indices, number, seed))


def busiest(task: Detection, model: Detector) -> np.int64:
    """The image with the most boxes."""
    return INDICES[int(task.predict(model, INDICES).image_P.mode().values)]


def test_samples_are_of_the_predicted_boxes(task: Detection, fitted: Detector) -> None:
    clean, drawn_samples = task.predict(fitted, INDICES), samples(task, fitted, INDICES, 3)
    for sample in drawn_samples:
        assert sample.boxes_P4 is not None
        assert clean.boxes_P4 is not None
        assert torch.equal(sample.boxes_P4, clean.boxes_P4)
        assert torch.equal(sample.image_P, clean.image_P)
        torch.testing.assert_close(sample.scores_PC.sum(1), torch.ones(len(clean.image_P)))
        assert (sample.scores_PC - clean.scores_PC).abs().amax() > 0.01
    assert (drawn_samples[0].scores_PC - drawn_samples[1].scores_PC).abs().amax() > 0.01
    again, other = samples(task, fitted, INDICES, 2), samples(task, fitted, INDICES, 2, seed=6)
    assert torch.equal(again[1].scores_PC, drawn_samples[1].scores_PC)
    assert not torch.equal(other[1].scores_PC, drawn_samples[1].scores_PC)


def test_samples_of_an_image_are_its_own(task: Detection, fitted: Detector) -> None:
    """Samples of an image do not depend on the other images or on their order."""
    together, alone = samples(task, fitted, INDICES, 2), samples(task, fitted, INDICES[[4, 1]], 2)
    for both, single in zip(together, alone, strict=True):
        for number, image in enumerate((4, 1)):
            expected = both.scores_PC[both.image_P == image]
            torch.testing.assert_close(single.scores_PC[single.image_P == number], expected, rtol=1e-3, atol=1e-4)
    images = Stored([task._pool.images[int(busiest(task, fitted))]] * 2)
    twins = Detection(CPU, task._recipe, Split(images, split(2).truth), split(2), 10, "50")
    first, second = samples(twins, fitted, np.arange(2), 1)[0].scores_PC.tensor_split(2)
    assert first.shape == second.shape
    assert (first - second).abs().max() > 0.01


def test_samples_are_dropout_before_the_class_layer(task: Detection, fitted: Detector) -> None:
    """Compares mean and deviation of each score over many samples with the whole network whose classification layer is
    in training mode.

    There the masks cover the whole map, but the boxes stay, so its scores can be read at the places of our boxes.
    """
    noisy, index = copy.deepcopy(fitted), busiest(task, fitted)[None]
    layer = noisy.last_layers()[0 if isinstance(noisy, Fcos) else 2]
    ours_TPK = torch.stack([sample.scores_PC for sample in samples(task, fitted, index, 400)])
    resized = read_batch(task, index.tolist())
    theirs = []
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        maps = noisy.feature_maps(resized.batch.images_N3HW)
        [clean] = noisy.detect(maps, resized.batch)
        layer.training = True
        for _ in range(400):
            theirs.append(all_rows(noisy, maps, resized.batch)[clean.candidates_M])
    theirs_TPK = torch.stack(theirs)
    scale = theirs_TPK.std(0).amax().item()
    assert scale > 0.01
    torch.testing.assert_close(ours_TPK.mean(0), theirs_TPK.mean(0), rtol=0, atol=0.3 * scale)
    torch.testing.assert_close(ours_TPK.std(0), theirs_TPK.std(0), rtol=0, atol=0.25 * scale)


def all_rows(model: Detector, maps: list[Tensor], batch: Batch) -> Tensor:
    """(A, K) scores of all candidates."""
    inner: Any = model.inner
    if isinstance(model, Fcos):
        outputs, _, _ = model._outputs(maps, batch)
        return add_background((outputs["cls_logits"][0].sigmoid() * outputs["bbox_ctrness"][0].sigmoid()).sqrt())
    assert isinstance(model, FasterRcnn)
    _, features = model._propose(maps, batch)
    return inner.roi_heads.box_predictor(features)[0].softmax(1).roll(-1, 1)


def test_dropped_values_keep_their_mean() -> None:
    for whole_channels in (False, True):
        generator = torch.Generator().manual_seed(0)
        values = apply_dropout(torch.full((100, 200, 2, 2), 3.0), 0.25, generator, whole_channels)
        assert values.unique().tolist() == [0.0, 4.0]
        assert values.mean().item() == pytest.approx(3.0, rel=0.02)
        assert bool((values == values[..., :1, :1]).all()) == whole_channels


@pytest.mark.parametrize("model", MODELS)
def test_dropout_is_trained_with_and_off_in_prediction(model: str) -> None:
    none, some = (build_task(model, epochs=1, dropout=share) for share in (0.0, 0.5))
    first, second = none.model(), some.model()
    second.load_state_dict(first.state_dict())
    assert torch.equal(none.predict(first, INDICES).scores_PC, some.predict(second, INDICES).scores_PC)
    assert torch.equal(none.losses(first, INDICES[:3]), some.losses(second, INDICES[:3]))
    hooks = [sum(len(module._forward_pre_hooks) for module in version.modules()) for version in (first, second)]
    assert hooks == [0, 1]
    trained = [version.fit(np.arange(8), 0).state_dict() for version in (none, some)]
    assert any(not torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    again = build_task(model, epochs=1, dropout=0.5).fit(np.arange(8), 0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained[1].items())


def test_dropout_before_a_layer_by_hand() -> None:
    layer = torch.nn.Linear(1001, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    add_dropout_before(layer, 0.5)
    values = torch.ones(1, 1001)
    assert layer.eval()(values).item() == 1001
    with torch.random.fork_rng():
        torch.manual_seed(0)
        total = layer.train()(values).item()
    assert 900 < total < 1100
    assert total % 2 == 0


def test_recipes_say_where_dropout_is_and_what_is_lacking() -> None:
    plain = dataclasses.asdict(DetectorRecipe())
    assert missing_capabilities(**plain) == {"proposals", "sample"}
    assert missing_capabilities(**{**plain, "dropout": 0.2}) == {"proposals"}
    assert missing_capabilities(**{**plain, "dropout": 0.2, "model": "faster_rcnn"}) == set()
    assert missing_capabilities(**{**plain, "model": "mmdet:fcos"}) == {"proposals", "sample", "box_features"}
    with pytest.raises(ValueError, match=r"dropout=1.0: must be in \[0, 1\)"):
        DetectorRecipe(dropout=1.0)
    with pytest.raises(ValueError, match=r"dropout=0.2 has no effect with model=mmdet:fcos"):
        DetectorRecipe(dropout=0.2, model="mmdet:fcos")
