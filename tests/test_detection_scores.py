"""Average precision computed by hand, compared with slow versions in plain Python and with COCO's own code.

Shapes: P predictions, B true boxes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from benchmark.vision.data.annotations import GroundTruth
from benchmark.vision.detection.scores import (
    DetectionArrays,
    Ranking,
    area_ap,
    box_ious,
    coco_scores,
    eleven_point_ap,
    mean_of_classes,
    rank_classes,
    to_coco_dataset,
    to_coco_results,
)

Corners = tuple[float, float, float, float]
NAMES = ("ap", "ap50", "ap75")
SEEDS = range(6)


class TrueBox(NamedTuple):
    """A true box."""

    image: int
    label: int
    corners: Corners
    ignored: bool = False


class FoundBox(NamedTuple):
    """A detection."""

    image: int
    label: int
    confidence: float
    corners: Corners


def truth_of(reals: Sequence[TrueBox], num_images: int) -> GroundTruth:
    image_B, labels_B = (np.array([real[column] for real in reals], np.int64) for column in (0, 1))
    corners_B4 = np.array([real.corners for real in reals], np.float32).reshape(-1, 4)
    return GroundTruth.from_boxes(
        image_B, corners_B4, labels_B, np.array([real.ignored for real in reals], bool), num_images
    )


def detection_arrays(detections: Sequence[FoundBox]) -> DetectionArrays:
    image_P, label_P = (np.array([detection[column] for detection in detections], np.int64) for column in (0, 1))
    corners_P4 = np.array([detection.corners for detection in detections], np.float64).reshape(-1, 4)
    return DetectionArrays(
        image_P, label_P, np.array([detection.confidence for detection in detections], np.float64), corners_P4
    )


def voc(
    reals: Sequence[TrueBox], detections: Sequence[FoundBox], iou: float = 0.5, num_images: int = 14,
    average: Callable[[Ranking], float] = area_ap, num_classes: int = 4,
) -> float:  # fmt: skip
    rankings = rank_classes(truth_of(reals, num_images), detection_arrays(detections), num_classes, iou)
    return mean_of_classes(ranking and average(ranking) for ranking in rankings)


def voc07(reals: Sequence[TrueBox], detections: Sequence[FoundBox], iou: float = 0.5) -> float:
    return voc(reals, detections, iou, average=eleven_point_ap)


def of_ranking(average: Callable[[Ranking], float], ranking: Sequence[bool], num_true: int) -> float:
    return average(Ranking(np.array(ranking, bool), num_true))


def coco(
    reals: Sequence[TrueBox], detections: Sequence[FoundBox], num_images: int = 4, num_classes: int = 3
) -> dict[str, float]:
    return coco_scores(
        truth_of(reals, num_images), detection_arrays(detections), [str(label) for label in range(num_classes)]
    )


def box(x: float, y: float = 0, width: float = 10, height: float = 10) -> Corners:
    return (x, y, x + width, y + height)


# --- slow twins -----------------------------------------------------------------------------------
def overlap_area(a: Corners, b: Corners) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def size(a: Corners) -> float:
    return (a[2] - a[0]) * (a[3] - a[1])


def slow_iou(a: Corners, b: Corners) -> float:
    return overlap_area(a, b) / (size(a) + size(b) - overlap_area(a, b))


def slow_voc(reals: Sequence[TrueBox], detections: Sequence[FoundBox], num_classes: int, iou: float) -> float:
    """The average precision as VOC's development kit computes it: the envelope between sentinels, summed where recall
    changes."""
    values = []
    for label in range(num_classes):
        mine = [real for real in reals if real.label == label]
        total = sum(not real.ignored for real in mine)
        if not total:
            continue
        recall, precision, matched = [0.0], [0.0], set()
        right = wrong = 0
        for detection in sorted(
            (detection for detection in detections if detection.label == label),
            key=lambda detection: -detection.confidence,
        ):
            near = [real for real in mine if real.image == detection.image]
            best = max(near, key=lambda real: slow_iou(detection.corners, real.corners), default=None)
            if best is None or slow_iou(detection.corners, best.corners) < iou or best in matched:
                wrong += 1
            elif best.ignored:
                continue
            else:
                right += 1
                matched.add(best)
            recall.append(right / total)
            precision.append(right / (right + wrong))
        recall, precision = [*recall, 1.0], [*precision, 0.0]
        for i in reversed(range(len(precision) - 1)):
            precision[i] = max(precision[i], precision[i + 1])
        values.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall))))
    return sum(values) / len(values)


def slow_match(reals: Sequence[TrueBox], detections: Sequence[FoundBox], iou: float) -> list[tuple[float, bool]]:
    """(confidence, is correct) for the detections of one class on one image that count, in order of confidence.

    A detection is matched to the unmatched true box that it overlaps most. Otherwise it may belong to a crowd, if at
    least the share `iou` of its own area lies within it.
    """
    free, crowds, judged = [r for r in reals if not r.ignored], [r for r in reals if r.ignored], []
    for detection in sorted(detections, key=lambda detection: -detection.confidence)[:100]:
        best = max(free, key=lambda real: slow_iou(detection.corners, real.corners), default=None)
        if best is not None and slow_iou(detection.corners, best.corners) >= iou:
            free.remove(best)
            judged.append((detection.confidence, True))
        elif not any(
            overlap_area(detection.corners, crowd.corners) / size(detection.corners) >= iou for crowd in crowds
        ):
            judged.append((detection.confidence, False))
    return judged


def slow_class(reals: Sequence[TrueBox], detections: Sequence[FoundBox], num_images: int, iou: float) -> float:
    """The average precision of one class: the mean over 101 recalls of the best precision at that or a higher
    recall."""
    judged: list[tuple[float, bool]] = []
    for image in range(num_images):
        judged += slow_match([r for r in reals if r.image == image], [s for s in detections if s.image == image], iou)
    points, right = [], 0
    for rank, (_, hit) in enumerate(sorted(judged, key=lambda row: -row[0]), start=1):
        right += hit
        points.append((right / sum(not real.ignored for real in reals), right / rank))
    best = [max((p for recall, p in points if recall >= level), default=0.0) for level in np.linspace(0, 1, 101)]
    return sum(best) / 101


def slow_coco(
    reals: Sequence[TrueBox], detections: Sequence[FoundBox], num_classes: int, num_images: int
) -> dict[str, float]:
    labels = sorted({real.label for real in reals if not real.ignored})
    by_iou = {}
    for step in range(10):
        values = [
            slow_class(
                [r for r in reals if r.label == label],
                [s for s in detections if s.label == label],
                num_images,
                0.5 + step / 20,
            )
            for label in labels
        ]
        by_iou[step] = sum(values) / len(values)
    return {"ap": sum(by_iou.values()) / 10, "ap50": by_iou[0], "ap75": by_iou[5]}


def draw_boxes(seed: int, num_images: int = 14, num_classes: int = 4) -> tuple[list[TrueBox], list[FoundBox]]:
    """Random true boxes, and detections near and far from them, in mixed order and with ties in confidence.

    The last class has only ignored true boxes. Image 0 has no true box, image 1 no detection, image 2 neither.
    """
    rng = np.random.default_rng(seed)

    def anywhere() -> Corners:
        x, y, width, height = rng.uniform([0, 0, 15, 15], [70, 70, 60, 60])
        return box(x, y, width, height)

    reals = [
        TrueBox(image, label, round_corners(anywhere()), label == num_classes - 1 or rng.random() < 0.25)
        for image in range(3, num_images)
        for label in rng.integers(num_classes, size=rng.integers(1, 8)).tolist()
    ]
    reals.append(TrueBox(1, 0, round_corners(anywhere())))
    aimed = [
        (real.image, real.label, tuple((np.array(real.corners) + rng.normal(0, spread, 4)).tolist()))
        for real in reals
        for spread in rng.choice([0.3, 1, 2, 4], rng.integers(0, 4))
        if real.image != 1
    ]
    astray = [
        (image, int(rng.integers(num_classes)), anywhere())
        for image in [0, *range(3, num_images)]
        for _ in range(rng.integers(5))
    ]
    detections = [
        FoundBox(image, label, int(rng.integers(1, 20)) / 20, corners) for image, label, corners in aimed + astray
    ]
    return reals, [detections[i] for i in rng.permutation(len(detections))]


def round_corners(corners: Corners) -> Corners:
    """Rounds corners to float32, which `GroundTruth` stores."""
    return tuple(np.array(corners, np.float32).astype(float).tolist())


# --- PASCAL VOC -----------------------------------------------------------------------------------
def test_voc_of_two_true_boxes_and_three_detections_by_hand() -> None:
    """Correct, wrong, correct: recall 1/2 at precision 1, recall 1 at precision 2/3."""
    reals = [TrueBox(0, 0, box(0)), TrueBox(1, 0, box(0))]
    detections = [FoundBox(0, 0, 0.9, box(0)), FoundBox(0, 0, 0.8, box(50)), FoundBox(1, 0, 0.7, box(1))]
    assert voc(reals, detections) == pytest.approx((1 + 2 / 3) / 2)
    assert voc(reals, detections[::-1]) == voc(reals, detections)


def test_precision_is_the_best_at_that_recall_or_more() -> None:
    """Wrong, correct, correct: the precision 1/2 at the first hit is replaced by the 2/3 of the second."""
    assert of_ranking(area_ap, [False, True, True], 2) == pytest.approx(2 / 3)
    assert of_ranking(area_ap, [False, True, True], 4) == pytest.approx(2 / 3 / 2)
    assert of_ranking(area_ap, [True, False, True, False], 2) == pytest.approx((1 + 2 / 3) / 2)
    assert of_ranking(area_ap, [False, False], 1) == 0


def test_a_true_box_found_twice_is_right_once() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50))]
    detections = [FoundBox(0, 0, 0.9, box(1)), FoundBox(0, 0, 0.8, box(0)), FoundBox(0, 0, 0.7, box(50))]
    assert voc(reals, detections) == pytest.approx((1 + 2 / 3) / 2)


def test_voc_lets_a_detection_match_only_the_box_it_overlaps_most_and_coco_the_next_free_one() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(3))]
    detections = [FoundBox(0, 0, 0.9, box(0)), FoundBox(0, 0, 0.8, box(1))]
    assert voc(reals, detections) == pytest.approx(1 / 2)
    assert coco(reals, detections)["ap50"] == pytest.approx(1)


def test_a_detection_whose_best_box_is_ignored_does_not_count() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50), True)]
    ignored = [FoundBox(0, 0, 0.9, box(50)), FoundBox(0, 0, 0.8, box(51))]
    right, wrong = FoundBox(0, 0, 0.7, box(0)), FoundBox(0, 0, 0.75, box(90))
    assert voc(reals, [*ignored, right]) == 1
    assert voc(reals, [*ignored, wrong, right]) == pytest.approx(1 / 2)
    assert voc(reals, ignored) == 0


def test_an_ignored_box_excuses_no_detection_that_overlaps_it_too_little() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50), True)]
    assert voc(reals, [FoundBox(0, 0, 0.9, box(56)), FoundBox(0, 0, 0.7, box(0))]) == pytest.approx(1 / 2)


def test_classes_without_a_true_box_are_left_out() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(1, 2, box(0), True)]
    detections = [FoundBox(0, 0, 0.9, box(0)), FoundBox(0, 1, 0.8, box(0)), FoundBox(1, 2, 0.8, box(50))]
    rankings = rank_classes(truth_of(reals, 4), detection_arrays(detections), 3)
    assert [ranking and area_ap(ranking) for ranking in rankings] == [1, None, None]
    assert voc(reals, detections) == 1
    assert coco(reals, detections) == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1})
    missed = [*reals, TrueBox(1, 1, box(0))]
    assert voc(missed, detections[:1]) == pytest.approx(1 / 2)
    assert coco(missed, detections[:1])["ap"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("reals", [[TrueBox(0, 0, box(0))], [TrueBox(0, 0, box(0), True)], []])
def test_without_detections_and_without_true_boxes_all_is_zero(reals: list[TrueBox]) -> None:
    nothing = dict.fromkeys(NAMES, 0.0)
    assert voc(reals, []) == 0
    assert coco(reals, []) == nothing
    if not reals or reals[0].ignored:
        assert voc(reals, [FoundBox(0, 0, 0.9, box(0))]) == 0
        assert coco(reals, [FoundBox(0, 0, 0.9, box(0))]) == nothing


@pytest.mark.parametrize(("width", "right"), [(5, 1), (20, 1), (4.99, 0), (20.1, 0)])
def test_an_overlap_of_just_the_threshold_is_enough(width: float, right: float) -> None:
    """One box lies within the other: the IoU is the ratio of their widths."""
    reals, detections = [TrueBox(0, 0, box(0))], [FoundBox(0, 0, 0.9, box(0, width=width))]
    assert voc(reals, detections) == right
    assert coco(reals, detections)["ap50"] == pytest.approx(right)
    assert voc(reals, detections, iou=0.6) == 0
    assert voc(reals, detections, iou=0.49) == 1


def test_a_match_is_on_its_own_image_and_of_its_own_class() -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(1, 1, box(0))]
    swapped = [FoundBox(1, 0, 0.9, box(0)), FoundBox(0, 1, 0.9, box(0))]
    assert voc(reals, swapped) == 0
    assert coco(reals, swapped) == pytest.approx(dict.fromkeys(NAMES, 0))


def test_equal_confidences_keep_their_order() -> None:
    reals = [TrueBox(0, 0, box(0))]
    right, wrong = FoundBox(0, 0, 0.5, box(0)), FoundBox(0, 0, 0.5, box(50))
    for score in (voc, lambda *args: coco(*args)["ap"]):
        assert score(reals, [right, *[wrong] * 20]) == pytest.approx(1)
        assert score(reals, [*[wrong] * 20, right]) == pytest.approx(1 / 21)


def test_overlaps_are_shares_of_the_union() -> None:
    others = np.array([box(0), box(5), box(10), box(2, 2, 5, 5), box(3, width=0)], np.float32)
    assert box_ious(np.array(box(0)), others) == pytest.approx([1, 50 / 150, 0, 25 / 100, 0])
    assert box_ious(np.array(box(3, width=0)), others) == pytest.approx([0] * 5)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", SEEDS)
def test_voc_is_its_slow_twin(seed: int, iou: float) -> None:
    reals, detections = draw_boxes(seed)
    expected = slow_voc(reals, detections, 4, iou)
    assert 0.02 < expected < 0.98
    assert voc(reals, detections, iou) == pytest.approx(expected, rel=1e-12)


# --- PASCAL VOC 2007: precision at eleven recalls --------------------------------------------------
def slow_voc07(reals: Sequence[TrueBox], detections: Sequence[FoundBox], num_classes: int, iou: float) -> float:
    """The average precision of 2007 from its definition, with fractions: at each of eleven recalls the best precision
    at that recall or more. A difficult object is neither missed nor wrong."""
    values = []
    for label in range(num_classes):
        mine = [real for real in reals if real.label == label]
        total = sum(not real.ignored for real in mine)
        if not total:
            continue
        right, wrong, free, points = 0, 0, set(mine), list[tuple[Fraction, Fraction]]()
        for detection in sorted(detections, key=lambda detection: -detection.confidence):
            near = [real for real in mine if real.image == detection.image and detection.label == label]
            best = max(near, key=lambda real: slow_iou(detection.corners, real.corners), default=None)
            if detection.label != label or (best and best.ignored and slow_iou(detection.corners, best.corners) >= iou):
                continue
            is_match = best in free and best is not None and slow_iou(detection.corners, best.corners) >= iou
            right, wrong = right + is_match, wrong + (not is_match)
            free -= {best} if is_match else set()
            points.append((Fraction(right, total), Fraction(right, right + wrong)))
        levels = [Fraction(tenth, 10) for tenth in range(11)]
        best_precisions = [max((p for recall, p in points if recall >= level), default=0) for level in levels]
        values.append(float(sum(best_precisions) / Fraction(11)))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("ranking", "num_true", "expected"),
    [
        ([True], 1, 1),  # all eleven points
        ([True], 2, 6 / 11),  # recall 1/2 reaches the points 0 to 0.5
        ([True, False, True], 2, (6 + 5 * 2 / 3) / 11),  # the last five points at precision 2/3
        ([False, True], 1, 1 / 2),
        ([True, True, True, False], 10, 4 / 11),  # recall 3/10 is 0.3: points 0, 0.1, 0.2 and 0.3
        ([True] * 3 + [False] * 5, 5, 7 / 11),  # 3/5 is 0.6
        ([True] * 7, 10, 8 / 11),
        ([False, False], 3, 0),
        ([], 3, 0),
    ],
)
def test_eleven_points_by_hand(ranking: list[bool], num_true: int, expected: float) -> None:
    assert of_ranking(eleven_point_ap, ranking, num_true) == pytest.approx(expected)


def test_difficult_objects_are_neither_missed_nor_wrong_in_2007() -> None:
    easy, difficult = TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50), True)
    right, on_difficult, wrong = (
        FoundBox(0, 0, 0.9, box(0)), FoundBox(0, 0, 0.95, box(50)), FoundBox(0, 0, 0.92, box(90))
    )  # fmt: skip
    assert voc07([easy, difficult], [right]) == 1  # the difficult one need not be found
    assert voc07([easy, difficult], [on_difficult, right]) == 1  # nor does it harm to find it
    assert voc07([easy, difficult], [on_difficult, FoundBox(0, 0, 0.94, box(51)), right]) == 1  # however often
    assert voc07([easy, TrueBox(0, 0, box(50))], [on_difficult, right]) == 1
    assert voc07([easy], [on_difficult, right]) == pytest.approx(1 / 2)
    assert voc07([easy, difficult], [wrong, right]) == pytest.approx(1 / 2)
    assert voc07([difficult], [on_difficult]) == 0  # a class of difficult objects alone has no score
    assert voc07([easy, TrueBox(1, 1, box(0), True)], [right]) == 1  # and is left out of the mean


def test_2007_and_2010_differ_where_the_last_object_is_missed() -> None:
    reals = [TrueBox(image, 0, box(0)) for image in range(4)]
    detections = [FoundBox(image, 0, 0.9, box(0)) for image in range(3)]
    assert voc(reals, detections) == pytest.approx(3 / 4)
    assert voc07(reals, detections) == pytest.approx(8 / 11)  # points 0 to 0.7


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", SEEDS)
def test_2007_is_its_slow_twin(seed: int, iou: float) -> None:
    reals, detections = draw_boxes(seed)
    expected = slow_voc07(reals, detections, 4, iou)
    assert 0.02 < expected < 0.98
    assert abs(expected - voc(reals, detections, iou)) > 1e-4
    assert voc07(reals, detections, iou) == pytest.approx(expected, rel=1e-12)


@pytest.mark.mmdet
@pytest.mark.parametrize("seed", SEEDS)
def test_2007_is_what_mmdet_counts(seed: int) -> None:
    """mmdet rounds recalls, which matters where a share of boxes is 0.3, 0.6 or 0.7: 7, 11 ... true boxes have none."""
    average_precision = pytest.importorskip("mmdet.evaluation.functional.mean_ap").average_precision
    rng = np.random.default_rng(seed)
    for num_true in (7, 11, 13, 23):
        is_correct_P = rng.random(40) < 0.4
        is_correct_P &= is_correct_P.cumsum() <= num_true
        recall_P = is_correct_P.cumsum() / num_true
        precision_P = is_correct_P.cumsum() / np.arange(1, 41)
        theirs = float(average_precision(recall_P[None], precision_P[None], "11points").item())
        assert of_ranking(eleven_point_ap, is_correct_P.tolist(), num_true) == pytest.approx(theirs, rel=1e-6)


# --- COCO -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", SEEDS)
def test_coco_is_its_slow_twin(seed: int) -> None:
    reals, detections = draw_boxes(seed)
    expected = slow_coco(reals, detections, 4, 14)
    assert 0.02 < expected["ap75"] + 0.01 < expected["ap50"] < 0.98
    assert abs(expected["ap"] - expected["ap75"]) > 1e-3
    assert coco(reals, detections, 14, 4) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_coco_is_what_cocos_own_code_counts(seed: int) -> None:
    coco_of = pytest.importorskip("pycocotools.coco", reason="comes with the mmdet extra").COCO
    judge_of = pytest.importorskip("pycocotools.cocoeval").COCOeval
    reals, detections = draw_boxes(seed)
    truth, arrays = truth_of(reals, 14), detection_arrays(detections)
    with contextlib.redirect_stdout(io.StringIO()):
        original = coco_of()
        original.dataset = to_coco_dataset(truth, 4)
        original.createIndex()
        judge = judge_of(original, original.loadRes(to_coco_results(arrays)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    scores = coco_scores(truth, arrays, ["a", "b", "c", "d"])
    assert list(scores.values()) == pytest.approx(judge.stats[:3].tolist(), rel=1e-9)
    assert scores.by_class.keys() == {"ap", "ap50"}
    present = [name for number, name in enumerate("abcd") if number in truth.labels_B[~truth.ignored_B]]
    for name, of_class in scores.by_class.items():
        assert list(of_class) == present
        assert np.mean(list(of_class.values())) == pytest.approx(scores[name])


def test_the_three_scores_are_ap_ap50_and_ap75() -> None:
    """An IoU of 0.8 counts as a match at seven of ten thresholds, an IoU of 0.6 at three."""
    reals = [TrueBox(0, 0, box(0))]
    assert coco(reals, [FoundBox(0, 0, 0.9, box(0, width=8.01))]) == pytest.approx({"ap": 0.7, "ap50": 1, "ap75": 1})
    assert coco(reals, [FoundBox(0, 0, 0.9, box(0, width=6.01))]) == pytest.approx({"ap": 0.3, "ap50": 1, "ap75": 0})


def test_coco_asks_for_precision_at_101_recalls() -> None:
    """One of two boxes is found, with precision 1: recalls 0.00 to 0.50 are reached, which are 51 of 101."""
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50))]
    assert coco(reals, [FoundBox(0, 0, 0.9, box(0))])["ap"] == pytest.approx(51 / 101)


def test_a_crowd_takes_any_number_of_detections_by_their_share_within_it() -> None:
    """Small boxes in a large crowd are wrong for VOC, which uses the IoU; COCO ignores them."""
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 0, box(50, 0, 100, 100), True)]
    inside = [FoundBox(0, 0, 0.9, box(60 + 20 * i, 10)) for i in range(3)]
    right = FoundBox(0, 0, 0.5, box(0))
    assert coco(reals, [*inside, right]) == pytest.approx(dict.fromkeys(NAMES, 1))
    assert voc(reals, [*inside, right]) == pytest.approx(1 / 4)
    part = FoundBox(0, 0, 0.9, box(46.01))  # 0.601 of it lies within: at three thresholds of ten it does not count
    assert coco(reals, [part, right]) == pytest.approx({"ap": (3 + 7 / 2) / 10, "ap50": 1, "ap75": 1 / 2})


def test_a_detection_takes_a_true_box_rather_than_the_crowd_around_it() -> None:
    reals = [TrueBox(0, 0, box(0, 0, 100, 100), True), TrueBox(0, 0, box(20, 20))]
    assert coco(reals, [FoundBox(0, 0, 0.9, box(20, 20.1))]) == pytest.approx(dict.fromkeys(NAMES, 1))
    assert coco(reals, [FoundBox(0, 0, 0.9, box(60, 60))]) == pytest.approx(dict.fromkeys(NAMES, 0))


@pytest.mark.parametrize(("wrong", "expected"), [(99, 1 / 100), (100, 0)])
def test_coco_takes_the_hundred_surest_of_a_class_on_an_image(wrong: int, expected: float) -> None:
    reals = [TrueBox(0, 0, box(0)), TrueBox(0, 1, box(0))]
    astray = [FoundBox(0, 0, 0.9, box(50 + i)) for i in range(wrong)]
    scores = coco(reals, [*astray, FoundBox(0, 0, 0.5, box(0)), FoundBox(0, 1, 0.4, box(0))])
    assert scores["ap"] == pytest.approx((expected + 1) / 2)
