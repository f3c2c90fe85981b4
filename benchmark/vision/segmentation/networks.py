"""The networks of the segmentation tasks, by name.

Shapes: N images, H x W pixels, h x w places of the last layer, C classes, D features, K channels of a stage map.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Companion, Machine, seeded
from benchmark.vision.networks import at_least_float32
from benchmark.vision.segmentation.recipe import SMALL, SegmenterRecipe, is_known_network
from benchmark.vision.training import in_precision
from benchmark.vision.weights import load_weights, weights_file


class Segmenter(nn.Module):
    """A segmentation network: a body, dropout, a 1x1 convolution and bilinear upsampling.

    The companion, if there is one, reads the body's stage maps.
    """

    companion: nn.Module | None

    def __init__(self, body: nn.Module, num_features: int, num_classes: int, recipe: SegmenterRecipe) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Conv2d(num_features, num_classes, 1)
        self.companion = None
        self.precision = recipe.precision

    @torch.no_grad()
    def attach_companion(self, companion: Companion) -> None:
        """Gives the network a fresh companion module that reads its stage maps."""
        _, maps = self.features(torch.zeros(1, 3, 64, 64))
        self.companion = companion.module([stage.shape[1] for stage in maps])

    def features(self, images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Computes the input of the last layer, (N, D, h, w), and the stage maps, (N, K, ...) each, in float32 even
        under autocast."""
        with in_precision(self.precision, images_N3HW.device):
            features_NDhw, maps = self.body(images_N3HW)
        return at_least_float32(features_NDhw), [at_least_float32(stage) for stage in maps]

    def logits(self, features_NDhw: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, H, W): the logits of features. They are linear in the last layer's weights, because bilinear
        upsampling is linear."""
        return F.interpolate(self.head(self.dropout(features_NDhw)), size, mode="bilinear", align_corners=False)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """(N, C, H, W): the logits of images."""
        height, width = images_N3HW.shape[2:]
        return self.logits(self.features(images_N3HW)[0], (height, width))


def build_segmenter(recipe: SegmenterRecipe, num_classes: int, weights: Path | None) -> Segmenter:
    """Builds the network that the recipe names, with a new last layer, in eval mode.

    Args:
        recipe: names the network and its dropout.
        num_classes: C.
        weights: file of the backbone's weights; None for none or the default weights.

    Raises:
        ValueError: the weights cannot be downloaded, or do not fit the backbone.
    """
    if recipe.model == SMALL:
        return Segmenter(SmallNetwork(), SmallNetwork.WIDTH, num_classes, recipe).eval()
    body = from_torchvision(recipe, weights)
    return Segmenter(body, body.num_features, num_classes, recipe).eval()


def check_weights(machine: Machine, recipe: SegmenterRecipe) -> None:
    """Checks the backbone's weights before any data are read; every segmentation task registers it as its `check`.

    Args:
        machine: where the task runs.
        recipe: the recipe, which names the network and its weights.

    Raises:
        ValueError: the weights cannot be loaded, or do not fit the backbone.
    """
    path = weights_file(machine, recipe.weights)
    if recipe.weights != "none" and recipe.model != SMALL:
        with seeded(0):
            from_torchvision(recipe, path)


# --- by name --------------------------------------------------------------------------------------
class SmallNetwork(nn.Module):
    """Five convolutions down to stride 8, and back up to stride 2 with lateral connections."""

    WIDTHS = (16, 32, 96)
    WIDTH = 24  # channels on the way up

    def __init__(self) -> None:
        super().__init__()
        first, second, third = self.WIDTHS
        self.layer1 = conv_block(3, first, 2)
        self.layer2 = nn.Sequential(conv_block(first, second, 2), conv_block(second, second))
        self.layer3 = nn.Sequential(conv_block(second, third, 2), conv_block(third, third))
        self.laterals = nn.ModuleList([nn.Conv2d(width, self.WIDTH, 1) for width in self.WIDTHS])
        self.middle = conv_block(self.WIDTH, self.WIDTH)
        self.last = nn.Sequential(nn.BatchNorm2d(self.WIDTH), nn.ReLU(inplace=True))

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, 24, H / 2, W / 2): the features, and the stage maps."""
        first = self.layer1(images_N3HW)
        second = self.layer2(first)
        third = self.layer3(second)
        fine, coarse, coarsest = (
            lateral(stage) for lateral, stage in zip(self.laterals, (first, second, third), strict=True)
        )
        middle = self.middle(coarse + enlarge(coarsest, coarse))
        return self.last(fine + enlarge(middle, fine)), [first, second, third]


def enlarge(maps: Tensor, like: Tensor) -> Tensor:
    """Resizes maps to the size of others, bilinear."""
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class TorchvisionBody(nn.Module):
    """A backbone and a head of torchvision, without the head's last layer.

    The stage maps are those of a ResNet's stages, or of the layers of a MobileNet that halve a map and of its last
    layer.
    """

    def __init__(self, layers: nn.ModuleDict, head: nn.Sequential) -> None:
        super().__init__()
        from torchvision.models._utils import IntermediateLayerGetter  # importing it takes a second

        last = head[-1]
        assert isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1)
        self.num_features = last.in_channels
        head[-1] = nn.Identity()
        stages = [n for n, layer in layers.items() if n.startswith("layer") or getattr(layer, "_is_cn", False)]
        names = dict.fromkeys([*stages, list(layers)[-1]])
        self.backbone, self.head = IntermediateLayerGetter(layers, {name: name for name in names}), head

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the last layer, and the stage maps."""
        maps = list(self.backbone(images_N3HW).values())
        return self.head(maps[-1]), maps


def from_torchvision(recipe: SegmenterRecipe, weights: Path | None) -> TorchvisionBody:
    """Builds the body of a torchvision network and loads its backbone's weights.

    Raises:
        ValueError: the weights cannot be downloaded, or the file does not fit.
    """
    import torchvision  # importing it takes a second

    from benchmark.vision.detection.torchvision_detectors import UNUSED_WEIGHTS

    pretrained = "IMAGENET1K_V1" if recipe.weights == "default" else None
    try:
        network = torchvision.models.get_model(recipe.model, weights=None, weights_backbone=pretrained, aux_loss=False)
    except OSError as error:
        raise ValueError(
            f"model={recipe.model}: its ImageNet weights cannot be fetched ({error}): give weights=FILE or weights=none"
        ) from error

    def matching_setting(backbone: str) -> str:
        name = f"{recipe.model.partition('_')[0]}_{backbone}"
        return f"model={name}" if is_known_network(name) else ""

    if weights is not None:
        is_resnet = hasattr(network.backbone, "layer4")
        named_backbone = network.backbone if is_resnet else nn.ModuleDict({"features": network.backbone})
        load_weights(named_backbone, weights, UNUSED_WEIGHTS, matching_setting)
    return TorchvisionBody(network.backbone, network.classifier)
