"""The interface of keypoint detectors, and what they detect.

Shapes: N images, M persons of one image, J keypoints, S x S places of a heatmap, Q cells that heatmaps are summed over,
D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.suppression import Detections

MAX_PERSONS = 20  # per image; COCO's evaluator of keypoints reads no more
CELLS = 14  # a heatmap is summed over 14 x 14 cells for strategies: a sixteenth of its memory, a quarter if it is small


@dataclass(frozen=True)
class Persons:
    """The persons that are detected on one image, sorted by confidence, in pixels of the batch or of the stored image.

    Args:
        boxes: their boxes.
        keypoints_MJ2: the most likely place x, y of each keypoint.
        heatmaps_MJQ: the probability of each cell of the person's box, row by row; sums to one over cells.
        resample: maps a change of the inputs of the keypoint layer, which are (M, D, h, w), to the heatmaps under it.
    """

    boxes: Detections
    keypoints_MJ2: Tensor
    heatmaps_MJQ: Tensor
    resample: Callable[[Callable[[Tensor], Tensor]], Tensor]

    def rescale(self, boxes: Detections, factor_2: Tensor) -> Persons:
        """The same persons in other pixels.

        Args:
            boxes: their boxes there.
            factor_2: the number of new pixels per old pixel, for x and y.
        """
        return replace(self, boxes=boxes, keypoints_MJ2=self.keypoints_MJ2 * factor_2)


class PoseDetector(Detector):
    """Base class of detectors whose boxes have keypoints."""

    @abstractmethod
    def detect_persons(self, maps: Sequence[Tensor], batch: Batch) -> list[Persons]:
        """Returns the persons on each image, in pixels of the batch, at most MAX_PERSONS."""


def sum_cells(logits_MJSS: Tensor) -> Tensor:
    """(M, J, Q): the probabilities of heatmaps, summed over CELLS x CELLS cells."""
    probabilities_MJSS = logits_MJSS.flatten(2).softmax(2).view_as(logits_MJSS)
    factor = logits_MJSS.shape[-1] // CELLS
    return F.avg_pool2d(probabilities_MJSS, factor).flatten(2) * factor**2
