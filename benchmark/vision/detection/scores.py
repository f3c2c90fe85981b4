"""Average precision of detections, as COCO and as PASCAL VOC compute it.

Shapes: N images, P predictions, B true boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.api import Scores, scores_by_class
from benchmark.vision.data.annotations import GroundTruth

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DetectionArrays:
    """All detections on a test set.

    Args:
        image_P: image of each detection, 0..N-1.
        label_P: class of each detection, 0..C-1.
        confidence_P: score that ranks the detections.
        corners_P4: x1, y1, x2, y2 in pixels of the stored image.
    """

    image_P: Integers
    label_P: Integers
    confidence_P: Floats
    corners_P4: Floats


def coco_scores(truth: GroundTruth, detections: DetectionArrays, classes: Sequence[str]) -> Scores:
    """Computes COCO's average precision with faster-coco-eval, in 0..1, from at most 100 detections per image and
    class.

    Ignored boxes count as crowds. Classes without a true box are left out of the means; with no true box at all, every
    score is 0.

    Args:
        truth: the true boxes.
        detections: the detections on the same images.
        classes: C names.

    Returns:
        `ap` (mean over IoU 0.50:0.95), `ap50` and `ap75`, with `ap` and `ap50` of each class. The overall scores are
        the means over the classes.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # imports OpenCV too: only when boxes are scored

    names = ("ap", "ap50", "ap75")
    if not len(detections.image_P) or truth.ignored_B.all():
        present = set(truth.labels_B[~truth.ignored_B].tolist())
        zeros = scores_by_class(classes, (0.0 if number in present else None for number in range(len(classes))))
        return Scores(dict.fromkeys(names, 0.0), {"ap": zeros, "ap50": zeros})
    dataset = COCO(to_coco_dataset(truth, len(classes)))
    evaluator = COCOeval_faster(dataset, dataset.loadRes(to_coco_results(detections)), iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    scores = {name: max(0.0, float(value)) for name, value in zip(names, evaluator.stats[:3], strict=True)}
    precision_TRC = evaluator.eval["precision"][..., 0, -1]  # T IoUs, R recalls; any size, at most 100 per image
    parts = {"ap": precision_TRC, "ap50": precision_TRC[:1]}
    return Scores(scores, {name: scores_by_class(classes, mean_precisions(part)) for name, part in parts.items()})


def mean_precisions(precision_TRC: Floats) -> Iterator[float | None]:
    """The mean precision of each class; None for a class without a true box, which the evaluator marks with -1."""
    for precision_TR in np.moveaxis(precision_TRC, -1, 0):
        yield float(precision_TR.mean()) if (precision_TR > -1).any() else None


def to_coco_dataset(truth: GroundTruth, num_classes: int) -> dict[str, object]:
    """The true boxes as a COCO data set. Annotation ids start at 1, because the evaluator's matching requires it."""
    image_B = np.repeat(np.arange(len(truth)), np.diff(truth.offsets_N1))
    sides_B2 = truth.corners_B4[:, 2:] - truth.corners_B4[:, :2]
    boxes = np.concatenate([truth.corners_B4[:, :2], sides_B2], 1).astype(float).tolist()
    areas = sides_B2.astype(float).prod(1).tolist()
    rows = zip(boxes, areas, image_B.tolist(), truth.labels_B.tolist(), truth.ignored_B.tolist(), strict=True)
    return {
        "images": [{"id": number} for number in range(len(truth))],
        "categories": [{"id": number, "name": str(number)} for number in range(num_classes)],
        "annotations": [
            {"id": n, "bbox": box, "area": area, "image_id": image, "category_id": label, "iscrowd": int(ignored)}
            for n, (box, area, image, label, ignored) in enumerate(rows, start=1)
        ],
    }


def to_coco_results(detections: DetectionArrays) -> list[dict[str, object]]:
    """Detections in COCO's results format."""
    boxes_P4 = np.concatenate(
        [detections.corners_P4[:, :2], detections.corners_P4[:, 2:] - detections.corners_P4[:, :2]], 1
    )
    rows = zip(
        boxes_P4.tolist(),
        detections.confidence_P.tolist(),
        detections.image_P.tolist(),
        detections.label_P.tolist(),
        strict=True,
    )
    return [{"bbox": box, "score": score, "image_id": i, "category_id": label} for box, score, i, label in rows]


@dataclass(frozen=True)
class Ranking:
    """The detections of one class on the test set, from the surest on, without those whose best box is ignored.

    Args:
        is_correct_P: whether each is the first to match its true box.
        num_true: number of true boxes of the class that are not ignored; at least 1.
    """

    is_correct_P: npt.NDArray[np.bool_]
    num_true: int

    @property
    def best_precision_P(self) -> Floats:
        """The highest precision at the recall of each detection or at a higher one."""
        precision_P = self.is_correct_P.cumsum() / np.arange(1, len(self.is_correct_P) + 1)
        return np.maximum.accumulate(precision_P[::-1])[::-1]


def rank_classes(
    truth: GroundTruth, detections: DetectionArrays, num_classes: int, iou: float = 0.5
) -> list[Ranking | None]:
    """Matches the detections of each class to true boxes, as PASCAL VOC does.

    A detection is matched to the true box with which it overlaps most, if the IoU is at least `iou`. A second match of
    the same box is an error. A detection whose best box is ignored does not count.

    Args:
        truth: the true boxes.
        detections: the detections on the same images.
        num_classes: C.
        iou: smallest IoU of a match.

    Returns:
        One ranking for each class; None for a class without a true box.

    Deviations:
        VOC's development kit treats pixels as inclusive when it computes overlaps; here corners are continuous
        coordinates, which comes to the same for boxes of whole pixels.
    """
    return [rank_class(truth, detections, label, iou) for label in range(num_classes)]


def rank_class(truth: GroundTruth, detections: DetectionArrays, label: int, iou: float) -> Ranking | None:
    """The ranking of one class; None when the class has no true box."""
    image_B = np.repeat(np.arange(len(truth)), np.diff(truth.offsets_N1))
    class_B = np.flatnonzero(truth.labels_B == label)
    num_true = int((~truth.ignored_B[class_B]).sum())
    if not num_true:
        return None
    by_image = {image: class_B[image_B[class_B] == image] for image in np.unique(image_B[class_B]).tolist()}
    class_P = np.flatnonzero(detections.label_P == label)
    matched, is_correct = set[int](), []
    for p in class_P[np.argsort(-detections.confidence_P[class_P], kind="stable")]:
        boxes = by_image.get(int(detections.image_P[p]), np.empty(0, np.int64))
        overlap = box_ious(detections.corners_P4[p], truth.corners_B4[boxes])
        best = int(boxes[overlap.argmax()]) if len(boxes) and overlap.max() >= iou else -1
        if best >= 0 and truth.ignored_B[best]:
            continue
        is_correct.append(best >= 0 and best not in matched)
        matched.add(best)
    return Ranking(np.array(is_correct, bool), num_true)


def area_ap(ranking: Ranking) -> float:
    """The average precision of VOC 2010 and later, in 0..1: the area under the precision-recall curve after precision
    is made monotone."""
    return float(ranking.best_precision_P[ranking.is_correct_P].sum() / ranking.num_true)


def eleven_point_ap(ranking: Ranking) -> float:
    """The average precision of VOC 2007, in 0..1: the mean of the highest precisions at a recall of at least 0, 0.1 ...
    1; 0 where no detection has that recall.

    References:
        Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010, section 4.2.

    Deviations:
        Recalls are compared exactly, in whole numbers. In the development kit and in mmdet, 0.3 is rounded up to more
        than 3 of 10 boxes.
    """
    hits_P = ranking.is_correct_P.cumsum()
    first_11 = np.searchsorted(10 * hits_P, np.arange(11) * ranking.num_true)  # the surest with that recall
    return float(ranking.best_precision_P[first_11[first_11 < len(hits_P)]].sum() / 11)


def mean_of_classes(aps: Iterable[float | None]) -> float:
    """The mean over the classes that have an average precision; 0 if none has."""
    present = [ap for ap in aps if ap is not None]
    return float(np.mean(present)) if present else 0.0


def box_ious(corners_4: Floats, corners_M4: npt.NDArray[np.float32]) -> Floats:
    """(M,): the IoU of one box with each of M others."""
    low, high = np.maximum(corners_4[:2], corners_M4[:, :2]), np.minimum(corners_4[2:], corners_M4[:, 2:])
    intersection_M = (high - low).clip(min=0).prod(1)
    areas_M = (corners_M4[:, 2:] - corners_M4[:, :2]).prod(1)
    union_M = (corners_4[2:] - corners_4[:2]).prod() + areas_M - intersection_M
    ious_M: Floats = intersection_M / np.maximum(union_M, 1e-12)
    return ious_M
