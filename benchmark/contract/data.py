"""The data that tasks, strategies and encoders pass to each other.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Indices: TypeAlias = npt.NDArray[np.int64]
How: TypeAlias = Literal["sum", "mean", "max"]  # how the values of an image's predictions become one
Augmentation: TypeAlias = Literal["flip", "cutout", "shrink", "rotate"]  # see View.augmented
Direction: TypeAlias = dict[str, Tensor]  # a direction in weight space: a tensor for each parameter


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image: its labels or pseudo labels.

    Args:
        corners_M4: (M, 4) x1, y1, x2, y2 in pixels of the stored image.
        labels_M: (M,) classes 0..C-1.
    """

    corners_M4: Tensor
    labels_M: Tensor

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.labels_M)


# The labels that losses are computed against. Classifier: (N,) classes, or (N, C) weights of the classes; segmenter:
# (N, h, w) classes; detector: the boxes of each image; pose estimator: these with keypoints.
Targets: TypeAlias = Tensor | list[Boxes]


ImageLabel: TypeAlias = int | Boxes  # the label of one image: its class, or its boxes


@dataclass(frozen=True)
class Annotations:
    """The labels of a whole pool, for figures of a run that is finished; no View gives them out.

    Args:
        classes: the names of the C classes.
        image_L: (L,) the image of each label.
        class_L: (L,) the class of each label, 0..C-1.
        side_L: (L,) the square root of each box's area in pixels; None where labels are of whole images.
        overlap_L: (L,) the largest IoU of each box with another box of its image; None where labels are no boxes.
    """

    classes: Sequence[str]
    image_L: Indices
    class_L: Indices
    side_L: npt.NDArray[np.float32] | None = None
    overlap_L: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Predictions:
    """P predictions on N images: a classifier gives one per image, a detector any number, a segmenter one per location,
    a pose estimator one per keypoint of each person that it detects.

    Args:
        scores_PC: (P, C) class probabilities; rows sum to one. The last column of a detector is background: the
            remainder to one for sigmoid heads. Of a pose estimator: the probabilities of C places inside the person's
            box.
        image_P: (P,) the image of each prediction, 0..N-1.
        num_images: N.
        boxes_P4: (P, 4) x1, y1, x2, y2 in pixels of the stored image; None without boxes.
        proposals_P4: (P, 4) the proposal that each box was refined from; None except for two-stage detectors.
        paper_score_P: (P,) the score of each box as the detector's paper defines it, where `scores_PC` holds another
            score; otherwise None.
        points_P2: (P, 2) the place x, y of each keypoint in pixels of the stored image; None except for pose
            estimators.
    """

    scores_PC: Tensor
    image_P: Tensor
    num_images: int
    boxes_P4: Tensor | None = None
    proposals_P4: Tensor | None = None
    paper_score_P: Tensor | None = None
    points_P2: Tensor | None = None

    @property
    def confidence_P(self) -> Tensor:
        """The probability of the most likely class, (P,), background excluded."""
        return (self.scores_PC if self.boxes_P4 is None else self.scores_PC[:, :-1]).amax(1)

    @property
    def score_P(self) -> Tensor:
        """The score by which the detector's paper ranks boxes, (P,).

        For FCOS that is class probability times centerness, of which its library may take a square root; for all other
        models it is the confidence.
        """
        return self.confidence_P if self.paper_score_P is None else self.paper_score_P

    @property
    def one_each(self) -> bool:
        """Whether there is exactly one prediction per image, in the order of the images, as of a classifier."""
        has_any_number = self.boxes_P4 is not None or self.points_P2 is not None
        return not has_any_number and len(self.scores_PC) == self.num_images

    def per_image(self, values_P: Tensor, how: How = "mean") -> Tensor:
        """Aggregates values of predictions to one value per image.

        Args:
            values_P: (P,) one value for each prediction.
            how: the aggregation: `sum`, `mean` or `max`. It does not apply where there is one prediction per image.

        Returns:
            (N,) values; 0 for an image without predictions: choose `values_P` so that 0 ranks it where it belongs.
        """
        if self.one_each:
            return values_P
        reduce = {"sum": "sum", "mean": "mean", "max": "amax"}[how]
        out_N = values_P.new_zeros(self.num_images)
        return out_N.scatter_reduce(0, self.image_P, values_P, reduce, include_self=False)


@dataclass(frozen=True)
class Encoding:
    """The output of a frozen encoder for N images: features of T patches and of the whole image.

    Args:
        patches_NTD: (N, T, D) features of the patches, by rows of the image.
        attention_NT: (N, T) how much each patch matters; rows sum to one.
        global_NE: (N, E) features of the whole images.
        seconds: seconds that it took to compute the encoding, whenever that was; a cache may have held it.
        seconds_now: the part of `seconds` that was spent in this call, 0 if a cache held the encoding. If a task always
            leaves it at 0, the time counts as time of the selection too.
    """

    patches_NTD: Tensor
    attention_NT: Tensor
    global_NE: Tensor
    seconds: float = 0.0
    seconds_now: float = 0.0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.global_NE)


@dataclass
class EncodingTime:
    """Seconds spent on the encodings that a selection uses; a cache may hold them from earlier.

    Args:
        seconds: seconds that it took to compute them, whenever that was.
        seconds_now: the part of `seconds` that was spent during this selection.
    """

    seconds: float = 0.0
    seconds_now: float = 0.0
