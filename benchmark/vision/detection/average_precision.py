"""Average precision of detections, as COCO and as PASCAL VOC count it.

Shapes: N images, P predictions, B true boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.api import Scores, scores_by_class
from benchmark.vision.data.annotations import GroundTruth

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DetectionArrays:
    """Every detection on a test set."""

    image_P: Integers
    label_P: Integers
    confidence_P: Floats
    corners_P4: Floats


def coco_scores(truth: GroundTruth, detections: DetectionArrays, classes: Sequence[str]) -> Scores:
    """`ap` over IoU 0.50:0.95, `ap50` and `ap75`, in 0..1, by faster-coco-eval; of a class, 100 detections an image.
    `ap` and `ap50` are known of each class too, and are the means of that.

    Boxes that are ignored are crowds to it. Classes without a true box do not count; with none at all, all are 0.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # and with it OpenCV: only where boxes are scored

    names = ("ap", "ap50", "ap75")
    if not len(detections.image_P) or truth.ignored_B.all():
        there = set(truth.labels_B[~truth.ignored_B].tolist())
        none = scores_by_class(classes, (0.0 if number in there else None for number in range(len(classes))))
        return Scores(dict.fromkeys(names, 0.0), {"ap": none, "ap50": none})
    counted = COCO(to_coco_dataset(truth, len(classes)))
    judge = COCOeval_faster(counted, counted.loadRes(to_coco_results(detections)), iouType="bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    scores = {name: max(0.0, float(value)) for name, value in zip(names, judge.stats[:3], strict=True)}
    precision_TRC = judge.eval["precision"][..., 0, -1]  # T IoUs, R recalls; of boxes of any size, 100 an image
    parts = {"ap": precision_TRC, "ap50": precision_TRC[:1]}
    return Scores(scores, {name: scores_by_class(classes, mean_precisions(part)) for name, part in parts.items()})


def mean_precisions(precision_TRC: Floats) -> Iterator[float | None]:
    """The mean precision of each class; None where it has no true box, which is told by -1."""
    for precision_TR in np.moveaxis(precision_TRC, -1, 0):
        yield float(precision_TR.mean()) if (precision_TR > -1).any() else None


def to_coco_dataset(truth: GroundTruth, num_classes: int) -> dict[str, object]:
    """The true boxes as a COCO data set; ids count from 1, which its matching relies on."""
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
    """Detections as COCO writes them."""
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


def voc_map(truth: GroundTruth, detections: DetectionArrays, num_classes: int, iou: float = 0.5) -> float:
    """Mean over classes of PASCAL VOC's average precision (from 2010 on): the area under precision made monotone.

    In 0..1. A detection matches the true box it overlaps most, by at least `iou`, and a second match is wrong;
    detections whose best box is ignored do not count. Classes without a true box are left out. (VOC's own development
    kit overlaps inclusive pixels; here corners are continuous.)
    """
    values = [class_ap(truth, detections, label, iou) for label in range(num_classes)]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0


def class_ap(truth: GroundTruth, detections: DetectionArrays, label: int, iou: float) -> float | None:
    """The average precision of one class, None where it has no true box."""
    image_B = np.repeat(np.arange(len(truth)), np.diff(truth.offsets_N1))
    mine_B = np.flatnonzero(truth.labels_B == label)
    total = int((~truth.ignored_B[mine_B]).sum())
    if not total:
        return None
    by_image = {image: mine_B[image_B[mine_B] == image] for image in np.unique(image_B[mine_B]).tolist()}
    mine_P = np.flatnonzero(detections.label_P == label)
    taken, right = set[int](), []
    for p in mine_P[np.argsort(-detections.confidence_P[mine_P], kind="stable")]:
        boxes = by_image.get(int(detections.image_P[p]), np.empty(0, np.int64))
        overlap = box_ious(detections.corners_P4[p], truth.corners_B4[boxes])
        best = int(boxes[overlap.argmax()]) if len(boxes) and overlap.max() >= iou else -1
        if best >= 0 and truth.ignored_B[best]:
            continue
        right.append(best >= 0 and best not in taken)
        taken.add(best)
    return precision_recall_area(np.array(right, bool), total)


def box_ious(corners_4: Floats, corners_M4: npt.NDArray[np.float32]) -> Floats:
    """(M,): IoU of one box with others."""
    low, high = np.maximum(corners_4[:2], corners_M4[:, :2]), np.minimum(corners_4[2:], corners_M4[:, 2:])
    inner = (high - low).clip(min=0).prod(1)
    outer = (corners_4[2:] - corners_4[:2]).prod() + (corners_M4[:, 2:] - corners_M4[:, :2]).prod(1) - inner
    shares: Floats = inner / np.maximum(outer, 1e-12)
    return shares


def precision_recall_area(is_correct: npt.NDArray[np.bool_], num_true: int) -> float:
    """The area under a ranking's precision-recall curve, precision being the best at that recall or more."""
    hits = is_correct.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(is_correct) + 1))[::-1])[::-1]
    return float(precision[is_correct].sum() / num_true)
