"""The detections that a task collects on many images.

Shapes: N images, P predictions, C classes, K = C + 1 with background last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.api import Boxes, Predictions
from benchmark.vision.detection.scores import DetectionArrays
from benchmark.vision.detection.suppression import Detections


@dataclass(frozen=True)
class DetectionSet:
    """The detections on N images, image by image."""

    image_P: Tensor
    label_P: Tensor
    confidence_P: Tensor
    scores_PK: Tensor
    corners_P4: Tensor  # in pixels of the stored images
    proposals_P4: Tensor | None
    paper_score_P: Tensor | None
    num_images: int

    @classmethod
    def from_images(cls, detections: Sequence[Detections], num_classes: int, device: torch.device) -> DetectionSet:
        """Concatenates the detections of each image."""
        counts = torch.tensor([len(image.labels_M) for image in detections], device=device)
        image_P = torch.arange(len(detections), device=device).repeat_interleave(counts)
        proposals = [image.proposals_M4 for image in detections if image.proposals_M4 is not None]
        scores = [image.paper_scores_M for image in detections if image.paper_scores_M is not None]
        return cls(
            image_P,
            torch.cat([image_P.new_empty(0), *(image.labels_M for image in detections)]),
            torch.cat([torch.empty(0, device=device), *(image.confidence_M for image in detections)]),
            torch.cat([torch.empty(0, num_classes + 1, device=device), *(image.scores_MK for image in detections)]),
            torch.cat([torch.empty(0, 4, device=device), *(image.corners_M4 for image in detections)]),
            torch.cat(proposals) if proposals else None,
            torch.cat(scores) if scores else None,
            len(detections),
        )

    def to_predictions(self, proposals: bool = False) -> Predictions:
        """The detections as strategies see them."""
        proposals_P4 = self.proposals_P4 if proposals else None
        return Predictions(
            self.scores_PK, self.image_P, self.num_images, self.corners_P4, proposals_P4, self.paper_score_P
        )

    def to_arrays(self) -> DetectionArrays:
        """The detections as the metrics read them."""
        parts = (self.image_P, self.label_P, self.confidence_P.double(), self.corners_P4.double())
        return DetectionArrays(*(part.cpu().numpy() for part in parts))

    def boxes_above(self, min_score: float) -> list[Boxes]:
        """The boxes of each image with a score of at least `min_score`."""
        above_P = self.confidence_P >= min_score
        counts = self.image_P[above_P].bincount(minlength=self.num_images).tolist()
        parts = zip(self.corners_P4[above_P].split(counts), self.label_P[above_P].split(counts), strict=True)
        return [Boxes(corners_M4, labels_M) for corners_M4, labels_M in parts]
