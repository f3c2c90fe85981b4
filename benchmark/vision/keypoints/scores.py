"""Average precision of keypoints, as COCO computes it.

Shapes: N images, P detected persons, B true persons, J keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.vision.data.poses import PoseTruth
from benchmark.vision.detection.scores import to_coco_dataset

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PersonArrays:
    """All persons that are detected on a test set.

    Args:
        image_P: image of each person, 0..N-1.
        confidence_P: score that ranks the persons.
        keypoints_PJ2: place x, y of each keypoint in pixels of the stored image.
    """

    image_P: npt.NDArray[np.int64]
    confidence_P: Floats
    keypoints_PJ2: Floats


def oks_scores(truth: PoseTruth, persons: PersonArrays) -> dict[str, float]:
    """Computes COCO's average precision of keypoints with faster-coco-eval, in 0..1, from at most 20 persons per image.

    A detected person is right if the object keypoint similarity (OKS) to a true one is at least a threshold: the mean
    over labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)), where d is the distance in pixels. Ignored persons and
    those without a labelled keypoint count neither way.

    Args:
        truth: the true persons.
        persons: the detected persons on the same images.

    Returns:
        `oks_ap` (mean over OKS 0.50:0.95), `oks_ap50` and `oks_ap75`.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # imports OpenCV too: only when persons are scored

    names = ("oks_ap", "oks_ap50", "oks_ap75")
    if not len(persons.image_P):
        return dict.fromkeys(names, 0.0)
    dataset = COCO(to_keypoint_dataset(truth))
    results = dataset.loadRes(to_keypoint_results(persons))
    evaluator = COCOeval_faster(dataset, results, iouType="keypoints", kpt_oks_sigmas=list(truth.skeleton.sigmas))
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return {name: max(0.0, float(value)) for name, value in zip(names, evaluator.stats[:3], strict=True)}


def to_keypoint_dataset(truth: PoseTruth) -> dict[str, object]:
    """The true persons as a COCO data set."""
    dataset = to_coco_dataset(truth, 1)
    rows = zip(truth.areas_B.tolist(), truth.num_keypoints_B.tolist(), flat_keypoints(truth.keypoints_BJ3), strict=True)
    annotations = dataset["annotations"]
    assert isinstance(annotations, list)
    for annotation, (area, number, keypoints) in zip(annotations, rows, strict=True):
        annotation.update(area=area, num_keypoints=number, keypoints=keypoints)
    return dataset


def to_keypoint_results(persons: PersonArrays) -> list[dict[str, object]]:
    """Detected persons in COCO's results format."""
    visible_PJ3 = np.concatenate([persons.keypoints_PJ2, np.ones_like(persons.keypoints_PJ2[..., :1])], 2)
    rows = zip(persons.image_P.tolist(), persons.confidence_P.tolist(), flat_keypoints(visible_PJ3), strict=True)
    return [
        {"image_id": image, "score": score, "category_id": 0, "keypoints": keypoints}
        for image, score, keypoints in rows
    ]


def flat_keypoints(keypoints_PJ3: npt.NDArray[np.floating]) -> list[list[float]]:
    """The keypoints of each person as COCO writes them: x, y and visibility of one after the other."""
    rows: list[list[float]] = keypoints_PJ3.astype(float).reshape(len(keypoints_PJ3), -1).tolist()
    return rows
