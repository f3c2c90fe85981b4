"""Persons with keypoints, the data of a keypoint task. "Person" stands for whatever the keypoints belong to.

Shapes: N images, B persons of a split, M persons of one image, J keypoints of a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Boxes, Indices
from benchmark.vision.data.annotations import GroundTruth

SIDES = {"left": "right", "right": "left"}  # parts of keypoint names that a mirror exchanges


@dataclass(frozen=True)
class Skeleton:
    """The keypoints that every person has.

    Args:
        names: J names. A mirror exchanges `left_knee` and `right_knee`.
        sigmas: how far annotators place each keypoint from one another, as a share of the square root of a person's
            area: k / 2 in COCO's object keypoint similarity (OKS).
    """

    names: tuple[str, ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """For each keypoint the number of the one that takes its place in a mirrored image, which may be its own."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return tuple(numbers.get(mirror_name(name), number) for name, number in numbers.items())

    @property
    def without_counterpart(self) -> list[str]:
        """The keypoints on one side that have none on the other, so that no mirrored image can be labelled."""
        return [name for name in self.names if mirror_name(name) not in self.names]


def mirror_name(name: str) -> str:
    """The name of a keypoint's counterpart: `left_knee` for `right_knee`; of others the name itself."""
    for side, other in SIDES.items():
        for spelling in (str.lower, str.capitalize, str.upper):
            if spelling(side) in name:
                return name.replace(spelling(side), spelling(other))
    return name


@dataclass(frozen=True)
class Poses(Boxes):
    """The persons of one image, their labels or pseudo labels: boxes with keypoints.

    Args:
        keypoints_MJ3: (M, J, 3) x and y in pixels of the stored image, and the visibility as in COCO: 0 not labelled, 1
            labelled but hidden, 2 visible.
        mirror: the keypoint that takes the place of each in a mirrored image; see `Skeleton`.
    """

    keypoints_MJ3: Tensor
    mirror: tuple[int, ...]

    def rescale_keypoints(self, factor_2: Tensor, mirror_width: float | None) -> Poses:
        """Maps the keypoints, but not the boxes, to another size of the image.

        Args:
            factor_2: the factors of x and y.
            mirror_width: the width of the image in the new pixels if it is mirrored, too; otherwise None.
        """
        places_MJ2, visibility_MJ1 = self.keypoints_MJ3.split([2, 1], 2)
        keypoints_MJ3 = torch.cat([places_MJ2 * factor_2, visibility_MJ1], 2)
        if mirror_width is not None:
            x_MJ, y_MJ, visibility_MJ = keypoints_MJ3[:, list(self.mirror)].unbind(2)
            keypoints_MJ3 = torch.stack([mirror_width - x_MJ, y_MJ, visibility_MJ], 2)
        return replace(self, keypoints_MJ3=keypoints_MJ3)


@dataclass(frozen=True)
class PoseTruth(GroundTruth):
    """The persons of N images, image by image: boxes with keypoints.

    As in COCO, a person without a labelled keypoint is an instance like any other, but scores ignore it: its box is
    trained on, and a prediction there counts as neither right nor wrong.
    """

    keypoints_BJ3: npt.NDArray[np.float32]  # x, y in pixels of the stored image; visibility 0, 1, 2
    areas_B: npt.NDArray[np.float32]  # of each person in square pixels, for OKS
    skeleton: Skeleton

    def boxes_of(self, index: int) -> Poses:
        """The persons of one image that are not ignored.

        Args:
            index: The position of the image.
        """
        rows = slice(self.offsets_N1[index], self.offsets_N1[index + 1])
        boxes, counts_M = super().boxes_of(index), ~self.ignored_B[rows]
        keypoints_MJ3 = torch.from_numpy(self.keypoints_BJ3[rows][counts_M])
        return Poses(boxes.corners_M4, boxes.labels_M, keypoints_MJ3, self.skeleton.mirror)

    @property
    def num_keypoints_B(self) -> Indices:
        """(B,): the number of labelled keypoints of each person."""
        counts_B: Indices = (self.keypoints_BJ3[..., 2] > 0).sum(1)
        return counts_B

    def num_labelled_keypoints(self, indices: Indices) -> int:
        """The number of labelled keypoints on some images, those of ignored persons included.

        Args:
            indices: The positions of the images.
        """
        return int(self.select(indices).num_keypoints_B.sum())


def as_poses(boxes: Sequence[Boxes]) -> list[Poses]:
    """The same boxes, which must be persons with keypoints."""
    poses = [image for image in boxes if isinstance(image, Poses)]
    assert len(poses) == len(boxes), "boxes without keypoints"
    return poses
