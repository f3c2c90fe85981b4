"""What tasks, strategies and encoders hand each other.

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
How: TypeAlias = Literal["sum", "mean", "max"]  # from an image's predictions to one number
Augmentation: TypeAlias = Literal["flip", "cutout", "shrink", "rotate"]  # a detector's views of an image, see View
Direction: TypeAlias = dict[str, Tensor]  # a tangent of the weights, by parameter name


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image: its labels, or pseudo labels."""

    corners_M4: Tensor  # x1, y1, x2, y2 in pixels of the stored image
    labels_M: Tensor  # classes 0..C-1

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.labels_M)


# What losses are computed against. Of a classifier: (N,) classes or (N, C) weights of them; of a segmenter: (N, h, w)
# classes; of a detector: the boxes of each image.
Targets: TypeAlias = Tensor | list[Boxes]


@dataclass(frozen=True)
class Annotations:
    """What a pool is labelled with, for pictures of a run that is through. No View hands it out."""

    classes: Sequence[str]
    image_L: Indices  # the image of each label
    class_L: Indices  # its class, 0..C-1
    side_L: npt.NDArray[np.float32] | None = None  # the root of each box's area in pixels; None: labels of images


@dataclass(frozen=True)
class Predictions:
    """P predictions on N images: one an image for a classifier, any number for a detector, one a place for a
    segmenter.

    Rows of `scores_PC` sum to one. For a detector the last column is background: what a sigmoid head leaves over.
    """

    scores_PC: Tensor  # class probabilities
    image_P: Tensor  # the image (0..N-1) of each prediction
    num_images: int
    boxes_P4: Tensor | None = None  # x1, y1, x2, y2 in pixels of the stored image
    proposals_P4: Tensor | None = None  # the proposal that each box was refined from (two-stage detectors)
    paper_score_P: Tensor | None = None  # of each box, as the detector's paper has it, where `scores_PC` are another's

    @property
    def confidence_P(self) -> Tensor:
        """(P,): the probability of the likeliest class; background is none."""
        return (self.scores_PC if self.boxes_P4 is None else self.scores_PC[:, :-1]).amax(1)

    @property
    def score_P(self) -> Tensor:
        """(P,): what the detector's paper ranks boxes by: FCOS's class probability times centerness, of which its
        library may take a root. The confidence of all others."""
        return self.confidence_P if self.paper_score_P is None else self.paper_score_P

    @property
    def one_each(self) -> bool:
        """Whether there is one prediction an image, in the order of the images: a classifier's."""
        return self.boxes_P4 is None and len(self.scores_PC) == self.num_images

    def per_image(self, values_P: Tensor, how: How = "mean") -> Tensor:
        """(N,): one value an image; 0 for an image without predictions, so let 0 mean what such an image deserves."""
        if self.one_each:
            return values_P
        reduce = {"sum": "sum", "mean": "mean", "max": "amax"}[how]
        out_N = values_P.new_zeros(self.num_images)
        return out_N.scatter_reduce(0, self.image_P, values_P, reduce, include_self=False)


@dataclass(frozen=True)
class Encoding:
    """What a frozen encoder tells of N images: T patches of D features each, by rows of the image, and the whole."""

    patches_NTD: Tensor
    attention_NT: Tensor  # how much each patch matters; rows sum to one
    global_NE: Tensor  # E features of the image
    seconds: float = 0.0  # that making it took, whenever that was
    seconds_now: float = (
        0.0  # seconds that went into making encodings when it was asked for; a task that tells none of what
    )
    # it makes has them counted in the selection too

    def __len__(self) -> int:
        """Number of images."""
        return len(self.global_NE)


@dataclass
class EncodingTime:
    """Seconds that went into the encodings of a selection: a cache may have made them sooner."""

    seconds: float = 0.0  # what making them took, whenever that was
    seconds_now: float = 0.0  # what making encodings took in this selection
