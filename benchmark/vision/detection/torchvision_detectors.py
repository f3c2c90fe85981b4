"""torchvision's FCOS (Tian et al., 2019) and Faster R-CNN (Ren et al., 2015), on any of its backbones.

Shapes: N images, H x W pixels of the padded batch, A anchors, R proposals, C classes, K = C + 1 with background, D
features.
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
    DetectionsWithFeatures,
    Detector,
    PixelFormat,
    add_background,
    add_dropout_before,
    record_calls,
    training_mode,
)
from benchmark.vision.detection.recipe import SMALL, VGG, DetectorRecipe, is_known_backbone
from benchmark.vision.detection.suppression import Detections, Suppression, suppress_batch
from benchmark.vision.pixels import CHANNEL_STATISTICS
from benchmark.vision.weights import load_weights

UNUSED_WEIGHTS = r"(fc|classifier)\.|.*\.num_batches_tracked$"  # entries of a classifier's file that no backbone has
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
        """Returns levels P3 to P7, or four levels of the small backbone."""
        return list(self.inner.backbone(images_N3HW).values())

    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """The losses of classes, boxes and centerness, each divided by the number of positives in the batch."""
        outputs, anchors, counts = self._outputs(maps, batch)
        boxes = [{"boxes": target.corners_M4, "labels": target.labels_M} for target in targets]
        terms: dict[str, Tensor] = self.inner.compute_loss(boxes, outputs, anchors, counts)
        return terms

    def loss_divisor(self, targets: Sequence[Boxes]) -> Tensor:
        """The number of positives."""
        is_positive_NA: Tensor = self.inner.head.is_positive_NA
        return is_positive_NA.sum()

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores a box by the square root of class probability times centerness, as torchvision does; the paper's score
        is the product itself."""
        outputs, anchors, counts = self._outputs(maps, batch)
        scores_NAC = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
        corners_NA4 = self.inner.box_coder.decode(outputs["bbox_regression"], torch.stack(anchors))
        distributions = [add_background(scores_AC) for scores_AC in scores_NAC]
        detections = suppress_batch(
            list(scores_NAC), list(corners_NA4), batch.sizes, self.suppression, distributions, levels=counts
        )
        return [
            replace(in_image, paper_scores_M=add_background(scores_AC[in_image.candidates_M].square())[:, :-1].amax(1))
            for in_image, scores_AC in zip(detections, scores_NAC, strict=True)
        ]

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """Adds the class tower's output around the place of each box, in the window of the classification layer's
        kernel."""
        class_layer, _, centerness_layer = self.last_layers()
        with record_calls([class_layer, centerness_layer]) as calls:
            detections = self.detect(maps, batch)
        towers = [call.input for call in calls if call.layer is class_layer]
        outputs = [call.output.flatten(2).mT for call in calls if call.layer is centerness_layer]
        centerness_NA1 = torch.cat(outputs, 1).sigmoid()
        with_features = []
        for number, in_image in enumerate(detections):
            assert in_image.candidates_M is not None
            inputs_MDSS = windows_around([level[number] for level in towers], in_image.candidates_M)
            classify = partial(self._class_scores, centerness_NA1[number, in_image.candidates_M])
            with_features.append(DetectionsWithFeatures(in_image, inputs_MDSS, classify))
        return with_features

    def _class_scores(self, centerness_M1: Tensor, inputs_MDSS: Tensor) -> Tensor:
        """The class distributions that `detect` computes, from the centerness and the classification layer's inputs."""
        layer = self.inner.head.classification_head.cls_logits
        logits_MC = F.conv2d(inputs_MDSS, layer.weight, layer.bias).flatten(1)
        return add_background((logits_MC.sigmoid() * centerness_M1).sqrt())

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): both towers' outputs, averaged over places and then over levels; D is twice the number of
        channels."""
        towers = (self.inner.head.classification_head.conv, self.inner.head.regression_head.conv)
        levels = [torch.cat([tower(level).mean((2, 3)) for tower in towers], 1) for level in maps]
        return torch.stack(levels).mean(0)

    def last_layers(self) -> list[nn.Module]:
        """Returns the layers of classes, boxes and centerness."""
        boxes = self.inner.head.regression_head
        return [self.inner.head.classification_head.cls_logits, boxes.bbox_reg, boxes.bbox_ctrness]

    def _outputs(self, maps: Sequence[Tensor], batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The head's outputs, (N, A, ...) each, the anchors of each image, and the number of anchors on each level."""
        levels = list(maps)
        outputs = self.inner.head(levels)
        anchors = self.inner.anchor_generator(ImageList(batch.images_N3HW, batch.sizes), levels)
        return outputs, anchors, [level.shape[2] * level.shape[3] for level in levels]


class FasterRcnn(Detector):
    """torchvision's Faster R-CNN with its samplers and losses; the small one uses fewer proposals and samples."""

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
        """Returns levels P2 to P6, or four levels of the small backbone."""
        return list(self.inner.backbone(images_N3HW).values())

    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """The RPN's losses (objectness, boxes) and the head's (classes, boxes), on sampled anchors and proposals."""
        boxes, named = [self.library_target(target) for target in targets], self._name_levels(maps)
        with training_mode(self.inner.rpn, self.inner.roi_heads):
            proposals, rpn_losses = self.inner.rpn(ImageList(batch.images_N3HW, batch.sizes), named, boxes)
            _, head_losses = self.inner.roi_heads(named, proposals, batch.sizes, boxes)
        return {**rpn_losses, **head_losses}

    def library_target(self, target: Boxes) -> dict[str, Tensor]:
        """The boxes of one image as torchvision takes them; class 0 is background there."""
        return {"boxes": target.corners_M4, "labels": target.labels_M + 1}

    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """The sum of `loss_terms`: of the RPN's, plus of the head's, since another order would round differently."""
        terms = list(self.loss_terms(maps, batch, targets).values())
        return torch.stack(terms[:2]).sum() + torch.stack(terms[2:]).sum()

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores a box by its class probability; each class has its own box."""
        return self._classify_proposals(*self._propose(maps, batch), batch)

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """Adds the box head's output for the proposal of each box."""
        proposals, features_RD = self._propose(maps, batch)
        detections = self._classify_proposals(proposals, features_RD, batch)
        parts = zip(detections, features_RD.split([len(boxes_R4) for boxes_R4 in proposals]), strict=True)
        return [
            DetectionsWithFeatures(in_image, features_AD[in_image.candidates_M, :, None, None], self._class_scores)
            for in_image, features_AD in parts
        ]

    def _class_scores(self, inputs_MDSS: Tensor) -> Tensor:
        """The class distributions that `detect` computes, from the classification layer's inputs: a softmax, background
        last."""
        logits_MK: Tensor = self.inner.roi_heads.box_predictor.cls_score(inputs_MDSS.flatten(1))
        return logits_MK.softmax(1).roll(-1, 1)

    def _classify_proposals(self, proposals: list[Tensor], features_RD: Tensor, batch: Batch) -> list[Detections]:
        """The detections on each image, from its proposals and the box head's outputs for them."""
        logits_RK, deltas_R4K = self.inner.roi_heads.box_predictor(features_RD)
        corners_RK4 = self.inner.roi_heads.box_coder.decode(deltas_R4K, proposals)
        scores_RK = logits_RK.softmax(1).roll(-1, 1)  # background last
        counts = [len(boxes_R4) for boxes_R4 in proposals]
        distributions, corners = scores_RK.split(counts), corners_RK4[:, 1:].split(counts)
        scores = [scores_AK[:, :-1] for scores_AK in distributions]
        return suppress_batch(scores, corners, batch.sizes, self.suppression, distributions, proposals=proposals)

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the box head's output, averaged over the proposals of each image."""
        proposals, features_RD = self._propose(maps, batch)
        means = [part.mean(0) if len(part) else part.sum(0) for part in features_RD.split([len(p) for p in proposals])]
        return torch.stack(means)

    def last_layers(self) -> list[nn.Module]:
        """Returns the layers of RPN classes, RPN boxes, classes and boxes."""
        rpn_head, box_predictor = self.inner.rpn.head, self.inner.roi_heads.box_predictor
        return [rpn_head.cls_logits, rpn_head.bbox_pred, box_predictor.cls_score, box_predictor.bbox_pred]

    def _name_levels(self, maps: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        """The feature maps by name, as torchvision takes them."""
        return OrderedDict((str(number), level) for number, level in enumerate(maps))

    def _propose(self, maps: Sequence[Tensor], batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The proposals of each image, (R, 4), and the box head's outputs for all of them."""
        named, heads = self._name_levels(maps), self.inner.roi_heads
        proposals, _ = self.inner.rpn(ImageList(batch.images_N3HW, batch.sizes), named)
        return proposals, heads.box_head(heads.box_roi_pool(named, proposals, batch.sizes))


SMALL_SUPPRESSION = Suppression(num_boxes=20, num_candidates=200)  # for the small backbone
SMALL_FASTER_RCNN = {  # proposals and samples per image with the small backbone
    "rpn_pre_nms_top_n_train": 200, "rpn_post_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 40,
    "rpn_batch_size_per_image": 64, "box_batch_size_per_image": 32,
}  # fmt: skip


class CountingFcosHead(FCOSHead):  # type: ignore[misc]
    """A head that knows which locations of the last loss were positives."""

    is_positive_NA: Tensor

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The losses of classes, boxes and centerness."""
        self.is_positive_NA = torch.stack(matched_idxs) >= 0
        terms: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        return terms


def build_fcos_head(recipe: DetectorRecipe, num_classes: int) -> FCOSHead:
    """Builds FCOS's head with the recipe's number of convolutions and normalisation.

    Predicted distances start at one stride, as exp(0) gives in the paper. torchvision's ReLU would start at zero, where
    its gradient can vanish for good.
    """
    head = CountingFcosHead(recipe.channels, 1, num_classes, num_convs=1)
    norm: Callable[[int], nn.Module] = partial(nn.GroupNorm, recipe.channels // 8) if recipe.has_group_norm else no_norm
    head.classification_head = FCOSClassificationHead(
        recipe.channels, 1, num_classes, recipe.num_convs, norm_layer=norm
    )
    head.regression_head = FCOSRegressionHead(recipe.channels, 1, recipe.num_convs, norm_layer=norm)
    nn.init.ones_(head.regression_head.bbox_reg.bias)
    return head


def windows_around(levels: Sequence[Tensor], place_M: Tensor) -> Tensor:
    """(M, D, 3, 3): 3 x 3 windows of the maps, (D, H_i, W_i) each, with zeros beyond the edges.

    Places are numbered row by row and map by map.
    """
    out_MD33, start = levels[0].new_empty(len(place_M), len(levels[0]), 3, 3), 0
    for level in levels:
        _, height, width = level.shape
        on_level_M = (place_M >= start) & (place_M < start + height * width)
        place = place_M[on_level_M] - start
        windows_DHW33 = F.pad(level, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        out_MD33[on_level_M] = windows_DHW33[:, place // width, place % width].transpose(0, 1)
        start += height * width
    return out_MD33


def no_norm(channels: int) -> nn.Module:
    """Stands in for a normalisation layer where there is none."""
    return nn.Identity()


# --- backbones ------------------------------------------------------------------------------------
class SmallBackbone(nn.Module):
    """Seven convolutions for images of 64 x 64 pixels, with stages of stride 4, 8 and 16 and WIDTHS channels."""

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
    """Builds a backbone with a feature pyramid on its stages from `lowest` on (1 has stride 4), and freezes the
    recipe's early stages."""
    if recipe.backbone == SMALL:
        names = {f"layer{stage}": str(stage - lowest) for stage in range(lowest, 4)}
        return add_pyramid(SmallBackbone(), names, SmallBackbone.WIDTHS[lowest - 1 :], recipe.channels, extra)
    network = load_backbone(recipe, weights)
    body, stages = find_stages(network)
    for name, layer in body.named_children():
        layer.requires_grad_(recipe.frozen_stages < 0)
        if recipe.frozen_stages >= 0 and name == stages[recipe.frozen_stages]:
            break
    used_stages = stages[lowest:]
    names = {name: str(number) for number, name in enumerate(used_stages)}
    return add_pyramid(body, names, [num_channels_after(body, name) for name in used_stages], recipe.channels, extra)


def add_pyramid(
    body: nn.Module, names: dict[str, str], widths: Sequence[int], channels: int, extra: ExtraFPNBlock
) -> nn.Module:
    """Puts a feature pyramid on the layers `names` of a backbone, which have these widths."""
    network: nn.Module = BackboneWithFPN(body, names, list(widths), channels, extra)
    return network


def load_backbone(recipe: DetectorRecipe, weights: Path | None) -> nn.Module:
    """Builds a torchvision classifier whose layers become a backbone, and loads its weights.

    Raises:
        ValueError: the weights cannot be downloaded, or the file does not fit.
    """
    has_no_norm = recipe.backbone == VGG  # no normalisation layers; its weights expect pixels of deviation 1
    pretrained = ("IMAGENET1K_FEATURES" if has_no_norm else "IMAGENET1K_V1") if recipe.weights == "default" else None
    norm = FrozenBatchNorm2d if recipe.norm == "frozen" else nn.BatchNorm2d
    norm_options = {} if has_no_norm else {"norm_layer": norm}
    try:
        network: nn.Module = torchvision.models.get_model(recipe.backbone, weights=pretrained, **norm_options)
    except OSError as error:
        raise ValueError(
            f"backbone={recipe.backbone}: its ImageNet weights cannot be fetched ({error}): give weights=FILE or "
            "weights=none"
        ) from error
    if weights is not None:

        def matching_setting(name: str) -> str:
            return f"backbone={name}" if is_known_backbone(name) and not has_no_norm else ""

        load_weights(network, weights, UNUSED_WEIGHTS, matching_setting)
    return network


def find_stages(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """The layers of a backbone, with the names of the last layer of its stem and of its stages of stride 4, 8, 16 and
    32."""
    if hasattr(network, "layer4"):
        return network, ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    body = network.get_submodule("features")
    layers = list(body.children())
    strided = [number for number, layer in enumerate(layers) if getattr(layer, "_is_cn", False)]
    return body, [str(number) for number in (0, *strided[:-1], len(layers) - 1)]


@torch.no_grad()
def num_channels_after(body: nn.Module, last: str) -> int:
    """The number of channels after the layer `last`."""
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
    """Builds the detector that the recipe names."""
    return {"fcos": Fcos, "faster_rcnn": FasterRcnn}[recipe.model](recipe, num_classes, weights)
