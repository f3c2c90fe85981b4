"""The keypoint task: Keypoint R-CNN, its score, what strategies get from it, and the strategies themselves.

Shapes: N images, M persons of one image, J keypoints of a person, S x S places of a heatmap, Q cells.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_detection import FAULTY
from torch import Tensor

import benchmark
from benchmark.api import Boxes, Indices, Machine, View
from benchmark.conformance.checks import run_checks
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.strategies.entropy import entropy
from benchmark.strategies.learning_loss import LossPrediction
from benchmark.tasks import stick_figures
from benchmark.vision.data.annotations import Split
from benchmark.vision.data.poses import Poses, PoseTruth, Skeleton, mirror_name
from benchmark.vision.data.stick_figures import CANVAS_SIDE, JOINTS, SKELETON, draw_split
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.torchvision_detectors import IMAGENET
from benchmark.vision.keypoints.keypoint_rcnn import KeypointRcnn
from benchmark.vision.keypoints.pose_detector import CELLS, PoseDetector, sum_cells
from benchmark.vision.keypoints.recipe import PUBLISHED_KEYPOINT_RCNN, PoseRecipe, missing_capabilities
from benchmark.vision.keypoints.scores import PersonArrays, oks_scores
from benchmark.vision.keypoints.task import PoseEstimation

discovery.discover()
CPU = Machine(torch.device("cpu"))
J = len(JOINTS)


def pose_task(**changed: Any) -> PoseEstimation:
    recipe = dataclasses.replace(stick_figures.DEFAULT, epochs=12, batch_size=4, **changed)
    pool, test = (draw_split(number, np.random.default_rng(seed)) for number, seed in ((48, 0), (16, 1)))
    return PoseEstimation(CPU, recipe, pool, test)


@pytest.fixture(scope="module")
def task() -> PoseEstimation:
    return pose_task(dropout=0.1)


@pytest.fixture(scope="module")
def fitted(task: PoseEstimation) -> KeypointRcnn:
    network = task.fit(np.arange(24), 0, LossPrediction(0.6, 1.0, 1.0, 8))
    assert isinstance(network, KeypointRcnn)
    return network


# --- the score ------------------------------------------------------------------------------------
def persons_of(keypoints_BJ3: Any, ignored: Any = None, area: float = 400.0) -> PoseTruth:
    """One person per image, with a box of 20 x 20 pixels."""
    keypoints_BJ3 = np.array(keypoints_BJ3, np.float32)
    number = len(keypoints_BJ3)
    corners_B4 = np.tile(np.array([10, 10, 30, 30], np.float32), (number, 1))
    ignored_B = np.zeros(number, bool) if ignored is None else np.array(ignored)
    skeleton = Skeleton(("left_a", "right_a"), (0.05, 0.1))
    areas_B = np.full(number, area, np.float32)
    return PoseTruth(
        corners_B4, np.zeros(number, np.int64), ignored_B, np.arange(number + 1), keypoints_BJ3, areas_B, skeleton
    )


def detections(image: Any, confidence: Any, keypoints: Any) -> PersonArrays:
    return PersonArrays(np.array(image), np.array(confidence, float), np.array(keypoints, float))


def test_oks_is_the_mean_over_labelled_keypoints() -> None:
    """Right at the thresholds up to the OKS of a shifted pose, by the formula."""
    truth = persons_of([[[12, 12, 2], [20, 20, 1]]])
    for shift in (1.0, 2.0, 3.0, 4.0):
        first, second = (math.exp(-(shift**2) / (2 * 400 * (2 * sigma) ** 2)) for sigma in (0.05, 0.1))
        oks = (first + second) / 2
        passed = sum(oks >= 0.5 + 0.05 * step for step in range(10))
        scores = oks_scores(truth, detections([0], [0.9], [[[12 + shift, 12], [20, 20 - shift]]]))
        assert scores["oks_ap"] == pytest.approx(passed / 10)
        assert scores["oks_ap50"] == float(oks >= 0.5)
    hidden = persons_of([[[12, 12, 2], [0, 0, 0]]])
    assert oks_scores(hidden, detections([0], [0.9], [[[12, 12], [500, 500]]]))["oks_ap"] == pytest.approx(1)


def test_the_area_of_a_person_sets_the_tolerance() -> None:
    persons = detections([0], [0.9], [[[15, 12], [23, 20]]])
    small, large = (
        oks_scores(persons_of([[[12, 12, 2], [20, 20, 2]]], area=a), persons)["oks_ap"] for a in (100, 4000)
    )
    assert small < 0.5 < large


def test_persons_without_labelled_keypoints_and_crowds_count_neither_way() -> None:
    pose = [[12, 12, 2], [20, 20, 2]]
    persons = detections([0, 1, 1], [0.5, 0.9, 0.8], [[[12, 12], [20, 20]]] * 3)
    nowhere = [[0, 0, 0], [0, 0, 0]]
    on_both = detections([0, 1], [0.5, 0.9], [[[12, 12], [20, 20]]] * 2)
    assert oks_scores(persons_of([pose, nowhere]), on_both)["oks_ap"] == pytest.approx(1)  # the surer one is no error
    missed = detections([0], [0.5], [[[12, 12], [20, 20]]])
    assert oks_scores(persons_of([pose, nowhere]), missed)["oks_ap"] == pytest.approx(1)
    crowd = persons_of([pose, pose], ignored=[False, True])
    assert oks_scores(crowd, persons)["oks_ap"] == pytest.approx(1)
    both = oks_scores(persons_of([pose, pose]), persons)["oks_ap"]  # the second on image 1 is an error above the last
    assert both == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert oks_scores(crowd, detections([], [], np.empty((0, 2, 2)))) == dict.fromkeys(
        ("oks_ap", "oks_ap50", "oks_ap75"), 0.0
    )


def test_the_task_scores_true_poses_with_one(task: PoseEstimation, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pixels of the stored image, although the network sees it at twice the size."""
    doubled = pose_task(min_size=2 * CANVAS_SIDE)
    network = doubled.model()
    truth = [doubled._test.truth.boxes_of(index) for index in range(16)]
    images = iter(truth)

    def see(maps: Any, batch: Any) -> list[Any]:
        [template] = pose_network.detect_persons([level[:1] for level in maps], batch.select_image(0))[:1]
        return [as_persons(next(images), template) for _ in batch.sizes]

    def as_persons(poses: Boxes, template: Any) -> Any:
        assert isinstance(poses, Poses)
        num = len(poses)
        boxes = dataclasses.replace(
            template.boxes, corners_M4=2 * poses.corners_M4, labels_M=poses.labels_M,
            confidence_M=torch.ones(num), scores_MK=torch.ones(num, 2) / 2, proposals_M4=None, candidates_M=None,
        )  # fmt: skip
        return dataclasses.replace(template, boxes=boxes, keypoints_MJ2=2 * poses.keypoints_MJ3[..., :2])

    pose_network = pose_task().model()
    assert isinstance(pose_network, PoseDetector)
    monkeypatch.setattr(network, "detect_persons", see)
    assert doubled.score(network)["oks_ap"] == pytest.approx(1)


# --- the network ----------------------------------------------------------------------------------
def test_it_is_torchvisions_keypoint_rcnn() -> None:
    """The same weights fit, and give the same persons on the same image."""
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    torch.manual_seed(0)
    size = {"min_size": 96, "max_size": 128, "box_detections_per_img": 3, "rpn_post_nms_top_n_test": 20}
    theirs = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_keypoints=17, **size).eval()
    recipe = PoseRecipe(weights="none", norm="batch", frozen_stages=-1, min_size=0, precision="float32")
    ours = KeypointRcnn(recipe, 1, None, num_keypoints=17).eval()
    theirs.roi_heads.box_predictor.cls_score.weight.data.mul_(0.1)  # no score near 0 or 1
    ours.inner.load_state_dict(theirs.state_dict(), strict=True)
    ours.suppression = dataclasses.replace(ours.suppression, num_boxes=3)
    ours.inner.rpn._post_nms_top_n["testing"] = 20
    image_3HW = torch.randint(256, (3, 96, 128), dtype=torch.uint8)
    resized = BatchBuilder(recipe, IMAGENET, CPU.device)([image_3HW], [0])
    with torch.no_grad():
        [expected] = theirs([image_3HW / 255])
        [persons] = ours.detect_persons(ours.feature_maps(resized.batch.images_N3HW), resized.batch)
    assert len(expected["boxes"]) == 3
    torch.testing.assert_close(persons.boxes.corners_M4, expected["boxes"], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(persons.boxes.confidence_M, expected["scores"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(persons.keypoints_MJ2, expected["keypoints"][..., :2], rtol=1e-3, atol=1e-2)


def test_cells_sum_the_probabilities_of_their_places() -> None:
    logits_MJSS = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    cells_MJQ = sum_cells(logits_MJSS)
    assert cells_MJQ.shape == (2, 3, CELLS**2)
    probabilities_28 = logits_MJSS[1, 2].exp() / logits_MJSS[1, 2].exp().sum()
    for row, column in ((0, 0), (3, 11), (13, 13)):
        expected = sum(probabilities_28[2 * row + y, 2 * column + x] for y in (0, 1) for x in (0, 1))
        torch.testing.assert_close(cells_MJQ[1, 2, CELLS * row + column], expected)


@pytest.mark.parametrize("flip", [False, True])
def test_keypoints_follow_their_pixels(flip: bool) -> None:
    """Each joint has a shade of its own; in a mirrored image the left hand is where the right one was."""
    places = torch.tensor([[10, 8], [20, 40], [30, 20], [5, 25], [33, 44], [12, 50]])
    image_3HW = torch.zeros(3, 60, 40, dtype=torch.uint8)
    for number, (x, y) in enumerate(places.tolist()):
        image_3HW[:, y - 1 : y + 2, x - 1 : x + 2] = 40 * (number + 1)
    keypoints_1J3 = torch.cat([places + 0.5, torch.full((J, 1), 2.0)], 1)[None]
    poses = Poses(torch.tensor([[4.0, 6, 35, 52]]), torch.zeros(1, dtype=torch.int64), keypoints_1J3, SKELETON.mirror)
    recipe = dataclasses.replace(stick_figures.DEFAULT, min_size=80, max_size=120)
    resized = BatchBuilder(recipe, IMAGENET, CPU.device)([image_3HW], [0], [flip])
    [mapped] = resized.to_batch_pixels([poses])
    assert isinstance(mapped, Poses)
    red_HW = resized.batch.images_N3HW[0, 0] * IMAGENET.deviation[0] + IMAGENET.mean[0]
    order = SKELETON.mirror if flip else range(J)
    for number, (x, y, visibility) in zip(order, mapped.keypoints_MJ3[0].tolist(), strict=True):
        assert red_HW[int(y), int(x)].item() == pytest.approx(40 * (number + 1), abs=2)
        assert visibility == 2
    x1, y1, x2, y2 = mapped.corners_M4[0].tolist()
    assert (x1, x2) == ((80 - 70, 80 - 8) if flip else (8, 70))
    assert (y1, y2) == (12, 104)


def test_mirrored_names() -> None:
    assert SKELETON.mirror == (0, 1, 3, 2, 5, 4)
    names = ("nose", "left_eye", "right_eye", "LeftKnee", "RightKnee", "tail", "wing_left")
    skeleton = Skeleton(names, (0.1,) * 7)
    assert skeleton.mirror == (0, 2, 1, 4, 3, 5, 6)
    assert skeleton.without_counterpart == ["wing_left"]
    assert mirror_name("RIGHT_EAR") == "LEFT_EAR"


# --- what strategies get --------------------------------------------------------------------------
def test_predictions_are_heatmaps_of_the_detected_persons(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    indices = np.arange(24, 48)
    predictions = task.predict(fitted, indices)
    poses = task.pseudo_labels(fitted, indices, 1, 0.1)
    assert predictions.points_P2 is not None
    assert predictions.boxes_P4 is None
    assert not predictions.one_each
    assert predictions.image_P.bincount(minlength=24).tolist() == [J * len(image) for image in poses]
    torch.testing.assert_close(predictions.scores_PC.sum(1), torch.ones(len(predictions.scores_PC)))
    places = torch.cat([image.keypoints_MJ3[..., :2].flatten(0, 1) for image in poses if isinstance(image, Poses)])
    torch.testing.assert_close(predictions.points_P2, places)
    boxes = torch.cat([image.corners_M4 for image in poses]).repeat_interleave(J, 0)
    shares_P2 = (places - boxes[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    column, row = (shares_P2 * CELLS).clamp(0, CELLS - 1e-3).floor().long().unbind(1)
    likeliest = predictions.scores_PC.argmax(1)
    near = ((likeliest % CELLS - column).abs() <= 1) & ((likeliest // CELLS - row).abs() <= 1)
    assert near.float().mean() > 0.8  # the likeliest place is in or beside the likeliest cell


def test_predictions_are_found_where_the_figures_are(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    assert task.score(fitted)["oks_ap50"] > 0.1
    assert task.score(task.model())["num_test_classes"] == 1


def test_an_image_without_persons_has_no_predictions_and_is_certain() -> None:
    none = pose_task()
    network = none.model()
    assert isinstance(network, KeypointRcnn)
    with torch.no_grad():
        network.inner.roi_heads.box_predictor.cls_score.bias[0] = 50.0  # all is background
    predictions = none.predict(network, np.arange(5))
    assert predictions.scores_PC.shape == (0, CELLS**2)
    assert predictions.per_image(predictions.scores_PC.sum(1)).tolist() == [0.0] * 5
    assert none.score(network)["oks_ap"] == 0
    assert none.score(network)["num_predicted_classes"] == 0
    assert none.pseudo_labels(network, np.arange(5), 1, 0.1)[0].corners_M4.shape == (0, 4)
    assert none.losses(network, np.arange(5), none.pseudo_labels(network, np.arange(5), 1, 0.1)).isfinite().all()


def test_entropy_ranks_by_the_entropy_of_heatmaps(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    """As counted number by number, one image at a time."""
    none: Indices = np.empty(0, np.int64)
    view = View(
        task, fitted, np.arange(24), np.arange(24, 48), num_initial=24, held_out=none, needs=frozenset({"predict"})
    )
    picks = entropy(view, 5, np.random.default_rng(0))
    values = []
    for index in range(24, 48):
        predictions = task.predict(fitted, np.array([index]))
        rows = [-sum(p * math.log(p) for p in row if p > 0) for row in predictions.scores_PC.tolist()]
        values.append(sum(rows) / len(rows) if rows else 0.0)
    assert set(picks.tolist()) == {24 + number for number in np.argsort(values)[-5:].tolist()}


def test_dropout_samples_heatmaps_of_the_same_persons(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    indices, predictions = np.arange(24, 40), task.predict(fitted, np.arange(24, 40))
    samples = list(task.sample(fitted, indices, 3, 5))
    alone = list(task.sample(fitted, indices[7:8], 3, 5))
    for sample, single in zip(samples, alone, strict=True):
        assert torch.equal(sample.image_P, predictions.image_P)
        assert not torch.equal(sample.scores_PC, predictions.scores_PC)
        torch.testing.assert_close(sample.scores_PC.sum(1), torch.ones(len(sample.scores_PC)))
        torch.testing.assert_close(single.scores_PC, sample.scores_PC[sample.image_P == 7])
    assert not torch.equal(samples[0].scores_PC, samples[1].scores_PC)
    assert missing_capabilities(**vars(stick_figures.DEFAULT)) == {"sample"}
    assert missing_capabilities(**vars(dataclasses.replace(stick_figures.DEFAULT, dropout=0.1))) == set()


def test_influence_runs_over_the_keypoint_layer_too(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    """`directional` is the gradient through the transposed convolution of the heatmaps."""
    weights, indices = task.weights(fitted), np.arange(24, 30)
    assert [name.rpartition("roi_heads.")[2] for name in weights][-1] == "keypoint_predictor.kps_score_lowres.weight"
    assert len(weights) == 5
    targets = task.pseudo_labels(fitted, indices, 1, 0.1)
    assert sum(map(len, targets)) > 3
    direction = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    name = list(weights)[-1]
    direction[name] = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    fast = task.directional(fitted, indices, targets, direction)
    for number, loss in enumerate(task.losses(fitted, indices, targets)):
        [gradient] = torch.autograd.grad(loss, [weights[name]], retain_graph=True, materialize_grads=True)
        assert fast[number].item() == pytest.approx((gradient * direction[name]).sum().item(), rel=1e-3, abs=1e-4)
    assert fast.abs().max() > 0.01


def test_features_are_of_boxes_and_keypoints(task: PoseEstimation, fitted: KeypointRcnn) -> None:
    features_ND = task.embed(fitted, np.arange(24, 40))
    assert features_ND.shape == (16, 128 + 64)
    assert (features_ND[:, 128:].abs().sum(1) > 0).all()
    torch.testing.assert_close(task.embed(fitted, np.arange(30, 31)), features_ND[6:7], rtol=1e-4, atol=1e-4)
    assert task.companion(fitted, np.arange(24, 40)).shape == (16,)


def test_labels_are_paid_for_by_image_person_and_keypoint(task: PoseEstimation) -> None:
    truth = task._pool.truth
    assert isinstance(truth, PoseTruth)
    indices = np.array([3, 7, 20])
    poses = [truth.boxes_of(index) for index in indices.tolist()]
    labelled = sum(int((image.keypoints_MJ3[..., 2] > 0).sum()) for image in poses)
    assert task.cost(indices) == {"images": 3.0, "boxes": float(sum(map(len, poses))), "keypoints": float(labelled)}
    labels = task.labels(task.model(), indices)
    assert all(torch.equal(a.keypoints_MJ3, b.keypoints_MJ3) for a, b in zip(labels, poses, strict=True))  # type: ignore[attr-defined]


def test_scrambling_moves_keypoints_with_their_persons(task: PoseEstimation) -> None:
    other, paid = task.scrambled(np.arange(10), 3), np.arange(10)
    before, after = task._pool.truth, other._pool.truth
    assert isinstance(before, PoseTruth)
    assert isinstance(after, PoseTruth)
    assert np.array_equal(before.select(paid).keypoints_BJ3, after.select(paid).keypoints_BJ3)
    moved: Indices = np.arange(10, 48)
    assert not np.array_equal(before.select(moved).keypoints_BJ3, after.select(moved).keypoints_BJ3)
    first, second = (sorted(truth.keypoints_BJ3.reshape(-1, 3 * J).tolist()) for truth in (before, after))
    assert first == second


# --- bad input ------------------------------------------------------------------------------------
def test_a_mirror_needs_both_sides(task: PoseEstimation) -> None:
    truth = task._pool.truth
    lopsided = dataclasses.replace(truth, skeleton=Skeleton(("left_wing", *JOINTS[1:]), SKELETON.sigmas))
    pool = Split(task._pool.images, lopsided)
    with pytest.raises(ValueError, match=r"flip=true: keypoint left_wing has no counterpart .* set flip=false"):
        PoseEstimation(CPU, stick_figures.DEFAULT, pool, task._test)
    PoseEstimation(CPU, dataclasses.replace(stick_figures.DEFAULT, flip=False), pool, task._test)


def test_a_set_without_labelled_keypoints_is_one_line(task: PoseEstimation) -> None:
    truth = task._test.truth
    assert isinstance(truth, PoseTruth)
    blind = dataclasses.replace(truth, keypoints_BJ3=truth.keypoints_BJ3 * 0)
    with pytest.raises(ValueError, match=r"of the test set has a labelled keypoint: there is nothing to score"):
        PoseEstimation(CPU, stick_figures.DEFAULT, task._pool, Split(task._test.images, blind))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "fcos"}, "model=fcos: must be keypoint_rcnn"),
        ({"augment": "ssd"}, "augment=ssd: must be none"),
        ({"center_sampling": 0.0}, "center_sampling=0.0 has no effect with model=keypoint_rcnn"),
        ({"convs": 2}, "convs=2 has no effect"),
        ({"weights": "none"}, "weights=none: the backbone starts from random weights"),
    ],
)
def test_recipes_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PUBLISHED_KEYPOINT_RCNN, **changed)


def test_persons_without_keypoints_train(task: PoseEstimation) -> None:
    """Their boxes are learned; a batch of them alone has no keypoint loss."""
    truth = task._pool.truth
    assert isinstance(truth, PoseTruth)
    keypoints_BJ3 = truth.keypoints_BJ3.copy()
    keypoints_BJ3[: truth.offsets_N1[9]] = 0
    pool = Split(task._pool.images, dataclasses.replace(truth, keypoints_BJ3=keypoints_BJ3))
    quick = PoseEstimation(CPU, dataclasses.replace(stick_figures.DEFAULT, epochs=2), pool, task._test)
    network = quick.fit(np.arange(9), 0)
    assert quick.losses(network, np.arange(9)).isfinite().all()


# --- all of it ------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_keypoint_task_conforms() -> None:
    discovery.discover(FAULTY)
    findings = run_checks(Spec.read("task", "few_figures"), Spec.read("task", "digits"), CPU)
    assert [f"{finding.check}: {finding.message}" for finding in findings if finding.message] == []


STRATEGIES = [
    "random", "entropy", "coreset", "learning_loss[detach_after=0.0]", "isal[depth=10,repeats=2]",
    "geal[encoder=patch_pca]", "discriminative[batch_size=128,epochs=20,num_queries=2]",
]  # fmt: skip


@pytest.mark.slow
def test_strategies_that_need_no_class_run_three_rounds(tmp_path: Path) -> None:
    results = benchmark.run(
        tasks=["stick_figures[epochs=4]"], strategies=STRATEGIES, initial=24, budget=8, rounds=3, validation=16,
        seeds=1, threads=1, out=str(tmp_path / "out"),
    )  # fmt: skip
    rows = results.frame()
    assert rows.groupby("strategy").size().to_dict() == dict.fromkeys(STRATEGIES, 3)
    assert set(rows["metric"]) == {"oks_ap"}


@pytest.mark.slow
def test_stick_figures_are_learned_in_a_minute() -> None:
    """With a third of the default epochs on all of the pool; see the page on recipes for the default."""
    pool, test = stick_figures.build_splits()
    task = PoseEstimation(CPU, dataclasses.replace(stick_figures.DEFAULT, epochs=7), pool, test)
    assert task.score(task.fit(np.arange(task.num_pool), 0))["oks_ap"] > 0.5


def test_figures_fit_into_their_boxes_and_canvases() -> None:
    pool, test = stick_figures.build_splits()
    for split in (pool, test):
        truth = split.truth
        assert isinstance(truth, PoseTruth)
        assert truth.corners_B4.min() >= 0
        assert truth.corners_B4.max() <= CANVAS_SIDE
        places_BJ2, labelled_BJ = truth.keypoints_BJ3[..., :2], truth.keypoints_BJ3[..., 2] > 0
        low_B12, high_B12 = truth.corners_B4[:, None, :2], truth.corners_B4[:, None, 2:]
        assert ((places_BJ2 >= low_B12) & (places_BJ2 <= high_B12)).all(2)[labelled_BJ].all()
        assert 0.02 < 1 - labelled_BJ.mean() < 0.05  # two of six joints of one figure in ten
        lefts, rights = (places_BJ2[labelled_BJ.all(1)][:, [2, 4]], places_BJ2[labelled_BJ.all(1)][:, [3, 5]])
        assert (lefts[..., 0] > rights[..., 0]).mean() > 0.95  # they face the viewer
    shades: Tensor = pool.images[0]
    assert shades.shape == (3, CANVAS_SIDE, CANVAS_SIDE)
