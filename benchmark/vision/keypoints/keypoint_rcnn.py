"""torchvision's Keypoint R-CNN (He et al., Mask R-CNN, 2017, section 5): Faster R-CNN with a heatmap for each keypoint
of each detected person.

Shapes: N images, M persons of one image, R boxes of all images, J keypoints, S x S places of a heatmap, h x w places of
the keypoint layer's input, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.ops import MultiScaleRoIAlign

from benchmark.api import Boxes
from benchmark.vision.data.poses import as_poses
from benchmark.vision.detection.detector import Batch, add_dropout_before
from benchmark.vision.detection.recipe import SMALL, DetectorRecipe
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.detection.torchvision_detectors import FasterRcnn
from benchmark.vision.keypoints.pose_detector import MAX_PERSONS, Persons, PoseDetector, sum_cells


class KeypointRcnn(FasterRcnn, PoseDetector):
    """torchvision's Keypoint R-CNN with its losses; with the small backbone, heads and heatmaps are smaller too."""

    def __init__(self, recipe: DetectorRecipe, num_classes: int, weights: Path | None, *, num_keypoints: int) -> None:
        super().__init__(recipe, num_classes, weights)
        small = recipe.backbone == SMALL
        side, ratio, widths = (7, 1, (64,) * 2) if small else (14, 2, (512,) * 8)
        levels = [str(number) for number in range(len(self.channels) - 1)]
        heads = self.inner.roi_heads
        heads.keypoint_roi_pool = MultiScaleRoIAlign(levels, side, ratio)
        heads.keypoint_head = KeypointRCNNHeads(recipe.channels, widths)
        heads.keypoint_predictor = KeypointRCNNPredictor(widths[-1], num_keypoints)
        self.num_keypoints = num_keypoints
        add_dropout_before(heads.keypoint_predictor.kps_score_lowres, recipe.dropout)
        self.suppression = replace(self.suppression, num_boxes=MAX_PERSONS)

    def library_target(self, target: Boxes) -> dict[str, Tensor]:
        """The persons of one image as torchvision takes them. Keypoints with a visibility above 0 are learned."""
        [poses] = as_poses([target])
        return {**super().library_target(target), "keypoints": poses.keypoints_MJ3}

    def last_layers(self) -> list[nn.Module]:
        """Returns the layers of RPN classes, RPN boxes, classes, boxes and keypoints."""
        return [*super().last_layers(), self.inner.roi_heads.keypoint_predictor.kps_score_lowres]

    def detect_persons(self, maps: Sequence[Tensor], batch: Batch) -> list[Persons]:
        """Returns the persons on each image, in pixels of the batch."""
        detections = self.detect(maps, batch)
        features_RDhw = self._keypoint_features(maps, [in_image.corners_M4 for in_image in detections], batch)
        parts = features_RDhw.split([len(in_image.labels_M) for in_image in detections])
        return [self._find_keypoints(*pair) for pair in zip(detections, parts, strict=True)]

    def _find_keypoints(self, boxes: Detections, features_MDhw: Tensor) -> Persons:
        """The persons of one image, from their boxes and the inputs of the last layer."""
        predictor = self.inner.roi_heads.keypoint_predictor
        logits_MJSS = predictor(features_MDhw)
        keypoints_MJ3, _ = heatmaps_to_keypoints(logits_MJSS, boxes.corners_M4)
        return Persons(
            boxes, keypoints_MJ3[..., :2], sum_cells(logits_MJSS),
            resample=lambda change: sum_cells(predictor(change(features_MDhw))),
        )  # fmt: skip

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the box head's output, averaged over the proposals of each image, and the keypoint head's, averaged
        over the places of the MAX_PERSONS proposals that the RPN ranks first.

        An image has proposals even where no person is detected.
        """
        proposals, features_RD = self._propose(maps, batch)
        first = [boxes_R4[:MAX_PERSONS] for boxes_R4 in proposals]
        keypoint_features_RD = self._keypoint_features(maps, first, batch).mean((2, 3))
        parts = [(features_RD, proposals), (keypoint_features_RD, first)]
        return torch.cat([average_by_image(rows_RD, [len(part) for part in boxes]) for rows_RD, boxes in parts], 1)

    def _keypoint_features(self, maps: Sequence[Tensor], boxes: list[Tensor], batch: Batch) -> Tensor:
        """(R, D, h, w): the inputs of the keypoint layer for the boxes of each image."""
        heads = self.inner.roi_heads
        features_RDhw: Tensor = heads.keypoint_head(
            heads.keypoint_roi_pool(self._name_levels(maps), boxes, batch.sizes)
        )
        return features_RDhw


def average_by_image(rows_RD: Tensor, counts: Sequence[int]) -> Tensor:
    """(N, D): the mean of each image's rows; zeros without rows."""
    return torch.stack([part.sum(0) / max(len(part), 1) for part in rows_RD.split(list(counts))])
