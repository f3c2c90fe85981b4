"""Detectors of torchvision: FCOS (Tian et al., 2019) and Faster R-CNN (Ren et al., 2015), on any of its backbones.

Shapes: N images, H x W pixels of the padded batch, A anchors, R proposals, C classes, K = C + 1 with background,
D features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from benchmark.api import Boxes
from benchmark.vision.detection.detector import (
    Batch,
    Detections,
    DetectionsWithFeatures,
    Detector,
    PixelFormat,
    Suppression,
    add_background,
    add_dropout_before,
    record_calls,
    suppress,
    training_mode,
)
from benchmark.vision.detection.recipe import SMALL, VGG, DetectorRecipe, is_known_backbone
from benchmark.vision.pixels import CHANNEL_STATISTICS
from benchmark.vision.weights import load_weights

UNUSED_WEIGHTS = r"(fc|classifier)\.|.*\.num_batches_tracked$"  # names in a classifier's weights that no backbone needs
IMAGENET = PixelFormat(*CHANNEL_STATISTICS["imagenet"])


class Fcos(Detector):
    """torchvision's FCOS with its targets and losses: focal, generalised IoU, and centerness on the box tower."""

    is_two_stage, pixel_format = False, IMAGENET

    def __init__(self, recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> None:
        super().__init__()
        small = recipe.backbone == SMALL
        extra = LastLevelMaxPool() if small else LastLevelP6P7(recipe.channels, recipe.channels)
        backbone = build_pyramid(recipe, weights, lowest=1 if small else 2, extra=extra)
        sizes = (2, 4, 8, 16) if small else (8, 16, 32, 64, 128)
        points = AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * len(sizes))
        radius = recipe.center_sampling or float("inf")
        self.inner = FCOS(backbone, num_classes, anchor_generator=points, center_sampling_radius=radius)
        self.inner.head = build_fcos_head(recipe, num_classes)
        add_dropout_before(self.inner.head.classification_head.cls_logits, recipe.dropout)
        self.suppression, self.channels = SMALL_SUPPRESSION if small else Suppression(), [recipe.channels] * len(sizes)

    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """P3 to P7, or four levels of the small backbone."""
        return list(self.inner.backbone(images_N3HW).values())

    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """The three losses, each divided by the positives of the batch."""
        outputs, anchors, counts = self._outputs(maps, batch)
        boxes = [{"boxes": one.corners_M4, "labels": one.labels_M} for one in targets]
        return sum_losses(self.inner.compute_loss(boxes, outputs, anchors, counts))

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """A score is the root of class probability times centerness; the paper's is the product."""
        outputs, anchors, counts = self._outputs(maps, batch)
        scores_NAC = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
        corners_NA4 = self.inner.box_coder.decode(outputs["bbox_regression"], torch.stack(anchors))
        found = []
        for scores_AC, corners_A4, size in zip(scores_NAC, corners_NA4, batch.sizes, strict=True):
            one = suppress(scores_AC, corners_A4, size, self.suppression, add_background(scores_AC), levels=counts)
            products_MK = add_background(scores_AC[one.candidates_M].square())
            found.append(replace(one, paper_scores_M=products_MK[:, :-1].amax(1)))
        return found

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """The class tower's output around each box's place, as the class layer's kernel covers it, and centerness."""
        classes, _, centerness = self.last_layers()
        with record_calls([classes, centerness]) as calls:
            found = self.detect(maps, batch)
        towers = [call.input for call in calls if call.layer is classes]
        sure_NA1 = torch.cat([call.output.flatten(2).mT for call in calls if call.layer is centerness], 1).sigmoid()
        seen = []
        for number, one in enumerate(found):
            assert one.candidates_M is not None
            inputs_MDSS = windows_around([level[number] for level in towers], one.candidates_M)
            seen.append(
                DetectionsWithFeatures(one, inputs_MDSS, partial(self._rows, sure_NA1[number, one.candidates_M]))
            )
        return seen

    def _rows(self, sure_M1: Tensor, inputs_MDSS: Tensor) -> Tensor:
        """As `detect` has them, from centerness and the class layer's inputs."""
        layer = self.inner.head.classification_head.cls_logits
        logits_MC = F.conv2d(inputs_MDSS, layer.weight, layer.bias).flatten(1)
        return add_background((logits_MC.sigmoid() * sure_M1).sqrt())

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """Both towers' outputs, averaged over places and then over levels: D = 2 channels."""
        kinds = (self.inner.head.classification_head.conv, self.inner.head.regression_head.conv)
        levels = [torch.cat([tower(level).mean((2, 3)) for tower in kinds], 1) for level in maps]
        return torch.stack(levels).mean(0)

    def last_layers(self) -> list[nn.Module]:
        """Classes, boxes, centerness."""
        boxes = self.inner.head.regression_head
        return [self.inner.head.classification_head.cls_logits, boxes.bbox_reg, boxes.bbox_ctrness]

    def _outputs(self, maps: Sequence[Tensor], batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The head's outputs, (N, A, ...) each, the anchors of each image and how many each level has."""
        levels = list(maps)
        outputs = self.inner.head(levels)
        anchors = self.inner.anchor_generator(ImageList(batch.images_N3HW, batch.sizes), levels)
        return outputs, anchors, [level.shape[2] * level.shape[3] for level in levels]


class FasterRcnn(Detector):
    """torchvision's Faster R-CNN with its samplers and losses; the small one proposes and samples less."""

    is_two_stage, pixel_format = True, IMAGENET

    def __init__(self, recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> None:
        super().__init__()
        backbone = build_pyramid(recipe, weights, lowest=1, extra=LastLevelMaxPool())
        small = recipe.backbone == SMALL
        sizes = (8, 16, 32, 64) if small else (32, 64, 128, 256, 512)
        boxes = AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
        side, ratio, size = (5, 1, 128) if small else (7, 2, 1024)
        pool = MultiScaleRoIAlign([str(level) for level in range(len(sizes) - 1)], side, ratio)
        self.inner = FasterRCNN(
            backbone, rpn_anchor_generator=boxes, box_roi_pool=pool,
            box_head=TwoMLPHead(recipe.channels * side**2, size),
            box_predictor=FastRCNNPredictor(size, num_classes + 1),
            **(SMALL_FASTER_RCNN if small else {}),
        )  # fmt: skip
        add_dropout_before(self.inner.roi_heads.box_predictor.cls_score, recipe.dropout)
        self.suppression, self.channels = SMALL_SUPPRESSION if small else Suppression(), [recipe.channels] * len(sizes)

    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """P2 to P6, or four levels of the small backbone."""
        return list(self.inner.backbone(images_N3HW).values())

    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """Objectness and boxes of the RPN, classes and boxes of the head, on sampled anchors and proposals."""
        boxes = [{"boxes": one.corners_M4, "labels": one.labels_M + 1} for one in targets]  # 0 is background here
        named = self._named(maps)
        with training_mode(self.inner.rpn, self.inner.roi_heads):
            proposals, first = self.inner.rpn(ImageList(batch.images_N3HW, batch.sizes), named, boxes)
            _, second = self.inner.roi_heads(named, proposals, batch.sizes, boxes)
        return sum_losses(first) + sum_losses(second)

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """A score is the class probability; the box is the class's own."""
        return self._classified(*self._proposed(maps, batch), batch)

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """The box head's output of each box's proposal."""
        proposals, features_RD = self._proposed(maps, batch)
        found = self._classified(proposals, features_RD, batch)
        parts = zip(found, features_RD.split([len(one) for one in proposals]), strict=True)
        return [
            DetectionsWithFeatures(one, part_AD[one.candidates_M, :, None, None], self._rows) for one, part_AD in parts
        ]

    def _rows(self, inputs_MDSS: Tensor) -> Tensor:
        """As `detect` has them, from the class layer's inputs: a softmax, background last."""
        logits_MK: Tensor = self.inner.roi_heads.box_predictor.cls_score(inputs_MDSS.flatten(1))
        return logits_MK.softmax(1).roll(-1, 1)

    def _classified(self, proposals: list[Tensor], features_RD: Tensor, batch: Batch) -> list[Detections]:
        """What becomes of proposals whose outputs of the box head are these."""
        logits_RK, deltas_R4K = self.inner.roi_heads.box_predictor(features_RD)
        corners_RK4 = self.inner.roi_heads.box_coder.decode(deltas_R4K, proposals)
        rows_RK = logits_RK.softmax(1).roll(-1, 1)  # background last
        counts = [len(one) for one in proposals]
        parts = zip(rows_RK.split(counts), corners_RK4[:, 1:].split(counts), batch.sizes, proposals, strict=True)
        return [
            suppress(rows_AK[:, :-1], corners_AC4, size, self.suppression, rows_AK, proposals_A4=proposals_A4)
            for rows_AK, corners_AC4, size, proposals_A4 in parts
        ]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """The box head's output, averaged over the proposals of each image."""
        proposals, features_RD = self._proposed(maps, batch)
        means = [part.mean(0) if len(part) else part.sum(0) for part in features_RD.split([len(p) for p in proposals])]
        return torch.stack(means)

    def last_layers(self) -> list[nn.Module]:
        """RPN classes, RPN boxes, classes, boxes."""
        first, second = self.inner.rpn.head, self.inner.roi_heads.box_predictor
        return [first.cls_logits, first.bbox_pred, second.cls_score, second.bbox_pred]

    def _named(self, maps: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(number), level) for number, level in enumerate(maps))

    def _proposed(self, maps: Sequence[Tensor], batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The proposals of each image, (R, 4) each, and the box head's outputs of all of them."""
        named, heads = self._named(maps), self.inner.roi_heads
        proposals, _ = self.inner.rpn(ImageList(batch.images_N3HW, batch.sizes), named)
        return proposals, heads.box_head(heads.box_roi_pool(named, proposals, batch.sizes))


SMALL_SUPPRESSION = Suppression(num_boxes=20, num_candidates=200)  # of the small detectors
SMALL_FASTER_RCNN = {  # proposals and samples an image of the small Faster R-CNN
    "rpn_pre_nms_top_n_train": 200, "rpn_post_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 40,
    "rpn_batch_size_per_image": 64, "box_batch_size_per_image": 32,
}  # fmt: skip


def sum_losses(losses: dict[str, Tensor]) -> Tensor:
    """The sum of a library's losses."""
    return torch.stack(list(losses.values())).sum()


def build_fcos_head(recipe: DetectorRecipe, num_classes: int) -> FCOSHead:
    """FCOS's head with so many convolutions a tower, normalised or not.

    Distances start at one stride, as exp(0) has them in the paper: torchvision's ReLU starts at zero and may die.
    """
    head = FCOSHead(recipe.channels, 1, num_classes, num_convs=1)
    norm: Callable[[int], nn.Module] = partial(nn.GroupNorm, recipe.channels // 8) if recipe.has_group_norm else no_norm
    head.classification_head = FCOSClassificationHead(
        recipe.channels, 1, num_classes, recipe.num_convs, norm_layer=norm
    )
    head.regression_head = FCOSRegressionHead(recipe.channels, 1, recipe.num_convs, norm_layer=norm)
    nn.init.ones_(head.regression_head.bbox_reg.bias)
    return head


def windows_around(levels: Sequence[Tensor], place_M: Tensor) -> Tensor:
    """(M, D, 3, 3): the maps, (D, H_i, W_i) each, around places that are counted row by row and map by map; zeros
    beyond the edges."""
    out_MD33, begin = levels[0].new_empty(len(place_M), len(levels[0]), 3, 3), 0
    for level in levels:
        _, height, width = level.shape
        here_M = (place_M >= begin) & (place_M < begin + height * width)
        place = place_M[here_M] - begin
        windows_DHW33 = F.pad(level, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        out_MD33[here_M] = windows_DHW33[:, place // width, place % width].transpose(0, 1)
        begin += height * width
    return out_MD33


def no_norm(channels: int) -> nn.Module:
    """No normalisation."""
    return nn.Identity()


# --- backbones ------------------------------------------------------------------------------------
class SmallBackbone(nn.Module):
    """Seven convolutions for canvases of 64 pixels; stages of stride 4, 8 and 16, of WIDTHS channels."""

    WIDTHS = (48, 96, 128)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_block(3, 24, 2)
        self.layer1 = nn.Sequential(conv_block(24, 48, 2), conv_block(48, 48, 1))
        self.layer2 = nn.Sequential(conv_block(48, 96, 2), conv_block(96, 96, 1))
        self.layer3 = nn.Sequential(conv_block(96, 128, 2), conv_block(128, 128, 1))


def conv_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def build_pyramid(recipe: DetectorRecipe, weights: Path | None, *, lowest: int, extra: ExtraFPNBlock) -> nn.Module:
    """A backbone under a pyramid of its stages from `lowest` (1: stride 4) on, early ones frozen as the recipe says."""
    if recipe.backbone == SMALL:
        names = {f"layer{stage}": str(stage - lowest) for stage in range(lowest, 4)}
        return add_pyramid(SmallBackbone(), names, SmallBackbone.WIDTHS[lowest - 1 :], recipe.channels, extra)
    network = load_backbone(recipe, weights)
    body, stages = find_stages(network)
    for name, layer in body.named_children():
        layer.requires_grad_(recipe.frozen_stages < 0)
        if recipe.frozen_stages >= 0 and name == stages[recipe.frozen_stages]:
            break
    used = stages[lowest:]
    names = {name: str(number) for number, name in enumerate(used)}
    return add_pyramid(body, names, [num_channels_after(body, name) for name in used], recipe.channels, extra)


def add_pyramid(
    body: nn.Module, names: dict[str, str], widths: Sequence[int], channels: int, extra: ExtraFPNBlock
) -> nn.Module:
    """The layers `names` of a backbone, of these widths, under a feature pyramid."""
    network: nn.Module = BackboneWithFPN(body, names, list(widths), channels, extra)
    return network


def load_backbone(recipe: DetectorRecipe, weights: Path | None) -> nn.Module:
    """A classifier of torchvision whose layers become a backbone, with its weights. ValueError where they lack."""
    plain = recipe.backbone == VGG  # without normalisation; its weights are of pixels of deviation 1
    pretrained = ("IMAGENET1K_FEATURES" if plain else "IMAGENET1K_V1") if recipe.weights == "default" else None
    norm = FrozenBatchNorm2d if recipe.norm == "frozen" else nn.BatchNorm2d
    more = {} if plain else {"norm_layer": norm}
    try:
        network: nn.Module = torchvision.models.get_model(recipe.backbone, weights=pretrained, **more)
    except OSError as error:
        raise ValueError(
            f"backbone={recipe.backbone}: its ImageNet weights cannot be fetched ({error}): give weights=FILE or "
            "weights=none"
        ) from error
    if weights is not None:
        load_weights(
            network,
            weights,
            UNUSED_WEIGHTS,
            lambda other: f"backbone={other}" if is_known_backbone(other) and not plain else "",
        )
    return network


def find_stages(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """The layers of a backbone, and the names of the last of its stem and of its stages of stride 4, 8, 16 and 32."""
    if hasattr(network, "layer4"):
        return network, ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    body = network.get_submodule("features")
    layers = list(body.children())
    strided = [number for number, layer in enumerate(layers) if getattr(layer, "_is_cn", False)]
    return body, [str(number) for number in (0, *strided[:-1], len(layers) - 1)]


@torch.no_grad()
def num_channels_after(body: nn.Module, last: str) -> int:
    """Channels after the layer `last`."""
    values = torch.zeros(1, 3, 64, 64)
    before = body.training
    body.eval()
    for name, layer in body.named_children():
        values = layer(values)
        if name == last:
            break
    body.train(before)
    return values.shape[1]


def build_detector(recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> Detector:
    """The detector of that name."""
    return {"fcos": Fcos, "faster_rcnn": FasterRcnn}[recipe.model](recipe, num_classes, weights)
