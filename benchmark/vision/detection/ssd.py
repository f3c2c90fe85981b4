"""torchvision's SSD (Liu et al., 2016): one forward pass, with default boxes on maps of decreasing size.

Shapes: N images, A default boxes of one image, C classes, K = C + 1 with background, D features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDHead, _vgg_extractor
from torchvision.ops import box_iou

from benchmark.api import Boxes
from benchmark.vision.detection.detector import Batch, Detector, PixelFormat, add_dropout_before, apply_dropout
from benchmark.vision.detection.recipe import SMALL, SSD_SIDE, DetectorRecipe
from benchmark.vision.detection.suppression import Detections, Suppression, suppress_batch
from benchmark.vision.detection.torchvision_detectors import SmallBackbone, conv_block, load_backbone

MAP_CHANNELS = [512, 1024, 512, 256, 256, 256]  # channels of the six source maps, conv4_3 to conv11_2
# Sides of the default boxes of each map, as shares of the image's; the last is for the larger square of the last map.
DEFAULT_BOX_SCALES = {
    "voc": [0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05],
    "coco": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
}


class Ssd(Detector):
    """torchvision's SSD300 on VGG16, with its matching, hard negative mining (3:1) and losses.

    Pixels are 0..255 minus the mean, as in the paper and for torchvision's weights of VGG16; weights from a file must
    expect such pixels too. An image without boxes has no positives, so no negatives are mined for it and its loss is 0,
    as in the paper. Default boxes are those of the paper for VOC or for COCO, as the recipe says; torchvision's are
    COCO's. The small variant has four maps and fewer default boxes. Dropout drops whole channels of a map, because the
    neighbouring values that a 3 x 3 kernel covers are much alike.
    """

    is_two_stage, pixel_format = False, PixelFormat((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
    is_positive_NA: Tensor  # the default boxes of the last loss that were matched

    def __init__(self, recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> None:
        super().__init__()
        small = recipe.backbone == SMALL
        body: nn.Module
        if small:
            body, self.channels = SmallSsdBackbone(recipe.channels), [*SmallBackbone.WIDTHS, recipe.channels]
            boxes = DefaultBoxGenerator([[2]] * len(self.channels), scales=[0.18, 0.26, 0.36, 0.5, 0.7])
        else:
            num_trained = 4 - recipe.frozen_stages  # of five stages; torchvision counts them from the last
            body, self.channels = _vgg_extractor(load_backbone(recipe, weights), False, num_trained), MAP_CHANNELS
            boxes = build_default_boxes(recipe.default_boxes)
        head = SSDHead(self.channels, boxes.num_anchors_per_location(), num_classes + 1)
        for layer in head.classification_head.module_list:
            add_dropout_before(layer, recipe.dropout, whole_channels=True)
        self.inner = SSD(body, boxes, (SSD_SIDE, SSD_SIDE), num_classes + 1, head=head)
        self.suppression = SMALL_SUPPRESSION if small else FULL_SUPPRESSION

    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """Returns the source maps, with 38, 19, 10, 5, 3 and 1 places per side, or four maps of the small backbone."""
        return list(self.inner.backbone(images_N3HW).values())

    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """Smooth L1 of the boxes and cross-entropy of the classes, each divided by the number of positives in the
        batch."""
        outputs, defaults = self._outputs(maps, batch)
        boxes = [{"boxes": target.corners_M4, "labels": target.labels_M + 1} for target in targets]  # 0: background
        pairs = zip(targets, defaults, strict=True)
        matches = [self._match_targets(target, defaults_A4) for target, defaults_A4 in pairs]
        self.is_positive_NA = torch.stack(matches) >= 0
        terms: dict[str, Tensor] = self.inner.compute_loss(boxes, outputs, defaults, matches)
        return terms

    def loss_divisor(self, targets: Sequence[Boxes]) -> Tensor:
        """The number of positives."""
        return self.is_positive_NA.sum()

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores a box by its class probability; the best candidates of each class enter suppression."""
        outputs, defaults = self._outputs(maps, batch)
        scores_NAK = outputs["cls_logits"].softmax(2).roll(-1, 2)  # background last
        scores = [keep_likeliest(scores_AK[:, :-1], self.suppression.num_candidates) for scores_AK in scores_NAK]
        pairs = zip(outputs["bbox_regression"], defaults, strict=True)
        corners = [self.inner.box_coder.decode_single(deltas_A4, defaults_A4) for deltas_A4, defaults_A4 in pairs]
        return suppress_batch(scores, corners, batch.sizes, self.suppression, list(scores_NAK))

    def detect_with_samples(
        self, maps: Sequence[Tensor], batch: Batch, rate: float, seeds: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Detections, list[Tensor]]]:
        """Samples with masks that all boxes of an image share."""
        for number, (in_image, image_seeds) in enumerate(zip(self.detect(maps, batch), seeds, strict=True)):
            levels = [level[number : number + 1] for level in maps]
            generators = [torch.Generator().manual_seed(seed) for seed in image_seeds]
            dropped = ([apply_dropout(level, rate, generator, True) for level in levels] for generator in generators)
            heads = [self.inner.head.classification_head(sample)[0] for sample in dropped]
            yield in_image, [logits_AK[in_image.candidates_M].softmax(1).roll(-1, 1) for logits_AK in heads]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the source maps, averaged over places and concatenated, because their widths differ; D = 2816 on
        VGG16."""
        return torch.cat([level.mean((2, 3)) for level in maps], 1)

    def last_layers(self) -> list[nn.Module]:
        """Returns the class layers of every map from the finest on, then their box layers."""
        head = self.inner.head
        return [*head.classification_head.module_list, *head.regression_head.module_list]

    def _outputs(self, maps: Sequence[Tensor], batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The head's outputs, (N, A, ...) each, and the default boxes of each image, (A, 4)."""
        levels = list(maps)
        return self.inner.head(levels), self.inner.anchor_generator(ImageList(batch.images_N3HW, batch.sizes), levels)

    def _match_targets(self, target: Boxes, defaults_A4: Tensor) -> Tensor:
        """(A,): the true box of each default box; -1 for background."""
        if not len(target):
            return torch.full((len(defaults_A4),), -1, device=defaults_A4.device)
        box_A: Tensor = self.inner.proposal_matcher(box_iou(target.corners_M4, defaults_A4))
        return box_A


def build_default_boxes(sizes: str) -> DefaultBoxGenerator:
    """Builds the generator of SSD300's default boxes.

    For COCO their sides are clipped to the image's, as in torchvision; for VOC they are not, as in the authors' code.
    """
    ratios, steps = [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [8, 16, 32, 64, 100, 300]
    return DefaultBoxGenerator(ratios, scales=DEFAULT_BOX_SCALES[sizes], steps=steps, clip=sizes == "coco")


# Here num_candidates is per class.
FULL_SUPPRESSION = Suppression(min_score=0.01, iou_threshold=0.45, num_boxes=200, num_candidates=400)
SMALL_SUPPRESSION = replace(FULL_SUPPRESSION, num_boxes=20, num_candidates=50)  # for the small backbone


class SmallSsdBackbone(nn.Module):
    """The small backbone's stages of stride 4, 8 and 16, and one more of stride 32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = SmallBackbone()
        self.extra = conv_block(SmallBackbone.WIDTHS[-1], channels, 2)

    def forward(self, images_N3HW: Tensor) -> OrderedDict[str, Tensor]:
        """The four maps, by number."""
        maps, values = OrderedDict[str, Tensor](), self.body.stem(images_N3HW)
        for number, stage in enumerate((self.body.layer1, self.body.layer2, self.body.layer3, self.extra)):
            values = maps[str(number)] = stage(values)
        return maps


def keep_likeliest(scores_AC: Tensor, num_candidates: int) -> Tensor:
    """(A, C): the `num_candidates` best scores of each class, and 0 elsewhere."""
    best_SC = scores_AC.topk(min(num_candidates, len(scores_AC)), dim=0).indices
    return torch.zeros_like(scores_AC).scatter(0, best_SC, scores_AC.gather(0, best_SC))
