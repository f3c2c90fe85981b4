"""The networks of the classification tasks, by name.

Shapes: N images, C classes, D features, H x W pixels; K channels of a stage map.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Companion
from benchmark.vision.weights import load_weights

LINEAR_PROBE, SVM_PROBE, MLP_PROBE, KNN_PROBE = PROBES = ("linear_probe", "svm_probe", "mlp_probe", "knn_probe")
DEFAULT_NETWORK = "resnet50"  # torchvision's, default of a task: accepted without importing torchvision (a second)
MISSING = "model={model} needs {package}: pip install 'al-benchmark[{package}]'"
NUM_STAGES = 4  # number of stage maps that a companion reads


class ClassificationNetwork(nn.Module):
    """A network that ends in dropout and a linear layer. A subclass defines what comes before them."""

    dropout: nn.Dropout
    head: nn.Linear
    companion: nn.Module | None

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Computes the input of the last layers.

        Args:
            inputs: (N, ...) what the network takes.

        Returns:
            (N, D) input of the last layers, and the stage maps that a companion reads, (N, K, H, W) each.
        """
        raise NotImplementedError

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, C): applies dropout and the linear layer to features."""
        logits_NC: Tensor = self.head(self.dropout(features_ND))
        return logits_NC

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C): the logits of inputs."""
        return self.logits(self.features(inputs)[0])


class Network(ClassificationNetwork):
    """A backbone, dropout and a linear layer. The companion, if there is one, reads the backbone's stage maps.

    A stage map is the 4-D output at a given spatial size that has the aspect ratio of the images; a map with channels
    last does not count. Of several modules with an output of that size, the least nested ones count, and of these the
    last: a bottleneck's first convolution has the size of the stage before it, but is no stage. The last four sizes
    above 1x1 count. In a ResNet these are the outputs of layer1 to layer4.

    Args:
        backbone: maps images to (N, num_features).
        num_features: D.
        num_classes: C.
        dropout: rate of dropout before the linear layer.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_classes)
        self.companion = None
        self._maps: dict[tuple[int, int], tuple[int, Tensor]] = {}  # by size: the nesting of its module, the map

    def attach_companion(self, companion: Companion, image_size: tuple[int, int]) -> None:
        """Gives the network a fresh companion module.

        Args:
            companion: builds the module from the channels of the stage maps.
            image_size: height and width of the images.

        Raises:
            ValueError: the backbone has no stage maps.
        """
        for name, module in self.backbone.named_modules():
            module.register_forward_hook(partial(self._keep_stage_map, image_size, name.count(".")))
        with torch.no_grad():
            _, maps = self.features(torch.zeros(1, 3, *image_size))
        if not maps:
            raise ValueError("this model has no stage maps (4-D outputs larger than 1x1) for the strategy to read")
        self.companion = companion.module([stage.shape[1] for stage in maps])

    def features(self, images_N3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Computes the backbone's output, (N, D), and the stage maps, (N, K, H, W) each, in float32 even under
        autocast."""
        features_ND = at_least_float32(self.backbone(images_N3HW))
        maps = [at_least_float32(stage_map) for _, stage_map in list(self._maps.values())[-NUM_STAGES:]]
        self._maps.clear()
        return features_ND, maps

    def _keep_stage_map(
        self, image_size: tuple[int, int], nesting: int, module: nn.Module, inputs: Any, output: Any
    ) -> None:
        """Forward hook that records a module's output if it is a stage map."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        height, width = size = (output.shape[2], output.shape[3])
        if height * width == 1 or abs(height * image_size[1] - width * image_size[0]) >= max(image_size):
            return
        if size not in self._maps or nesting <= self._maps[size][0]:
            self._maps.pop(size, None)  # keeps sizes in the order of their last output
            self._maps[size] = (nesting, output)


def suits_channels_last(network: nn.Module, device: torch.device) -> bool:
    """Whether a network may be trained with channels last on a device. The choice changes results only by rounding.

    On CPUs, oneDNN writes beyond its memory in the weight gradient of a strided 1x1 convolution with fewer than 16
    input channels (github.com/uxlfoundation/oneDNN/issues/6035): the gradient is wrong or the process crashes.
    """
    convolutions = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    strided = (layer for layer in convolutions if layer.kernel_size == (1, 1) and max(layer.stride) > 1)
    return device.type != "cpu" or not any(layer.in_channels < 16 for layer in strided)


def at_least_float32(values: Tensor) -> Tensor:
    """Converts values of lower precision to float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def build_network(
    model: str, num_classes: int, image_size: tuple[int, int], width: int, weights: str | Path, dropout: float
) -> Network:
    """Builds a network with a new last layer, in eval mode.

    Args:
        model: name of the network, such as `resnet18` or `timm:resnet18`.
        num_classes: C.
        image_size: height and width of the images.
        width: channels of resnet18's first stage.
        weights: `none`, `default` (the library's pretrained weights), or a file.
        dropout: rate of dropout before the last layer.

    Raises:
        ValueError: the name is unknown, the weights do not fit, or the network does not take such images.
    """
    backbone, num_features = build_backbone(model, width, weights)
    network = Network(backbone, num_features, num_classes, dropout).eval()
    if resolve_network(model)[0] == "pycls":
        initialise_as_pycls(network.head)
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, *image_size))
    except (RuntimeError, ValueError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model={model} does not take {image_size[0]}x{image_size[1]} images: {reason}") from error
    return network


def build_backbone(model: str, width: int, weights: str | Path) -> tuple[nn.Module, int]:
    """Builds a network without its last layer and loads its weights; see `build_network`.

    Returns:
        The backbone, and the number of the last layer's inputs.

    Raises:
        ValueError: the name is unknown, or the weights cannot be loaded or do not fit.
    """
    check_installed(model)
    source, name = resolve_network(model)
    try:
        network = BUILDERS[source](name, width, weights == "default")
    except (OSError, RuntimeError) as error:
        raise ValueError(f"model={model}: its weights cannot be fetched ({error}): give weights=FILE") from error
    return remove_last_layer(network, model, weights if isinstance(weights, Path) else None)


def remove_last_layer(network: nn.Module, model: str, weights: Path | None) -> tuple[nn.Module, int]:
    """Loads a network's weights and replaces its last linear layer by the identity; also returns the layer's number of
    inputs."""
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"model={model}: has no linear layer to replace")
    name, last = linear[-1]
    if weights is not None:
        load_weights(network, weights, rf"{re.escape(name)}\.", lambda other: f"model=torchvision:{other}")
    network.set_submodule(name, nn.Identity())
    return network, last.in_features


# --- by name --------------------------------------------------------------------------------------
def resnet18(width: int) -> nn.Module:
    """ResNet-18 for 32x32 images: 3x3 stem of stride 1, no max-pooling (11,173,962 parameters for width 64 and 10
    classes).

    Layers keep PyTorch's own initialisation, as in ISAL's code.
    """
    from torchvision.models.resnet import BasicBlock, ResNet  # importing torchvision takes a second

    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1)
    network.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.maxpool = nn.Identity()
    network.inplanes = width
    for stage in range(4):
        layer = network._make_layer(BasicBlock, width << stage, 2, stride=1 if stage == 0 else 2)
        setattr(network, f"layer{stage + 1}", layer)
    network.fc = nn.Linear(width << 3, 1)
    typed_network: nn.Module = network
    return typed_network


class QuarterMeans(nn.AdaptiveAvgPool2d):
    """Averages each quarter of a map.

    The gradient of PyTorch's adaptive pooling is not deterministic on a GPU. So maps of 4x4, those of 8x8 images, are
    pooled by 2x2, which gives the same bytes.
    """

    def forward(self, maps_NKHW: Tensor) -> Tensor:
        """(N, K, 2, 2): the means of the quarters."""
        return F.avg_pool2d(maps_NKHW, 2) if maps_NKHW.shape[2:] == (4, 4) else super().forward(maps_NKHW)


def small_cnn() -> nn.Module:
    """Two convolutions and a hidden layer, for images of 8x8 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), QuarterMeans(2),
        nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1),
    )  # fmt: skip


def from_this_module(name: str, width: int, pretrained: bool) -> nn.Module:
    """Builds a network of this module."""
    return resnet18(width) if name == "resnet18" else small_cnn()


def from_torchvision(name: str, width: int, pretrained: bool) -> nn.Module:
    """Builds a network of torchvision.models."""
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    return network


def from_timm(name: str, width: int, pretrained: bool) -> nn.Module:
    """Builds a network of timm."""
    import timm

    network: nn.Module = timm.create_model(name, pretrained=pretrained)
    return network


def from_pycls(name: str, width: int, pretrained: bool) -> nn.Module:
    """Builds a RegNet or a ResNet for CIFAR of pycls with its own initialisation.

    REGNETS replaces the YAML files that pycls would download.
    """
    from pycls.core.config import cfg, reset_cfg
    from pycls.models.regnet import RegNet
    from pycls.models.resnet import ResNet

    reset_cfg()
    if name in CIFAR_RESNETS:
        cfg.MODEL.DEPTH, cfg.TRAIN.DATASET, cfg.TEST.DATASET = CIFAR_RESNETS[name], "cifar10", "cifar10"
        network: nn.Module = ResNet()
    else:
        depth, w_0, w_a, w_m, group_width = REGNETS[name.removesuffix(CIFAR_STEM)]
        cfg.REGNET.DEPTH, cfg.REGNET.W0, cfg.REGNET.WA, cfg.REGNET.WM = depth, w_0, w_a, w_m
        cfg.REGNET.GROUP_W, cfg.REGNET.SE_ON = group_width, name.startswith("RegNetY")
        cfg.REGNET.STEM_TYPE = "res_stem_cifar" if name.endswith(CIFAR_STEM) else "simple_stem_in"
        network = RegNet()
    reset_cfg()
    return network


def initialise_as_pycls(layer: nn.Module) -> None:
    """Draws a layer's weights as pycls does: those of a linear layer from a normal distribution of deviation 0.01."""
    from pycls.core.net import init_weights

    init_weights(layer)


# Depth, w_0, w_a, w_m and group width (Radosavovic et al., 2020, tables of the appendix).
REGNETS = {
    "RegNetX-200MF": (13, 24, 36.44, 2.49, 8),
    "RegNetX-400MF": (22, 24, 24.48, 2.54, 16),
    "RegNetX-600MF": (16, 48, 36.97, 2.24, 24),
    "RegNetX-800MF": (16, 56, 35.73, 2.28, 16),
    "RegNetX-1.6GF": (18, 80, 34.01, 2.25, 24),
    "RegNetX-3.2GF": (25, 88, 26.31, 2.25, 48),
    "RegNetY-200MF": (13, 24, 36.44, 2.49, 8),
    "RegNetY-400MF": (16, 48, 27.89, 2.09, 8),
    "RegNetY-600MF": (15, 48, 32.54, 2.32, 16),
    "RegNetY-800MF": (14, 56, 38.84, 2.4, 16),
    "RegNetY-1.6GF": (27, 48, 20.71, 2.65, 24),
    "RegNetY-3.2GF": (21, 80, 42.63, 2.66, 24),
}
CIFAR_STEM = "-CIFAR"  # ends the names of RegNets with pycls's stem for CIFAR: 3x3 of stride 1
CIFAR_RESNETS = {f"ResNet-{depth}": depth for depth in (20, 32, 44, 56, 110)}  # 6n + 2 layers (He et al., 2016)
PYCLS_NAMES = [*REGNETS, *(name + CIFAR_STEM for name in REGNETS), *CIFAR_RESNETS]
BUILDERS: dict[str, Callable[[str, int, bool], nn.Module]] = {
    "ours": from_this_module, "torchvision": from_torchvision, "timm": from_timm, "pycls": from_pycls,
}  # fmt: skip


def network_names(source: str) -> list[str]:
    """The names of the networks of one source; none of timm's if it is not installed."""
    if source == "ours":
        return ["resnet18", "small_cnn", *PROBES]
    if source == "torchvision":
        import torchvision

        auxiliary = {"googlenet", "inception_v3"}  # they have more than one output in training
        return [name for name in torchvision.models.list_models(module=torchvision.models) if name not in auxiliary]
    if source == "pycls":
        return PYCLS_NAMES
    if find_spec(source) is None:
        return []
    import timm

    return list(timm.list_models())


def resolve_network(model: str) -> tuple[str, str]:
    """Splits the name of a network into source and name: `resnet18` is this project's, `torchvision:resnet18`
    torchvision's.

    Raises:
        ValueError: there is no such network; the message lists the nearest names.
    """
    prefix, _, name = model.rpartition(":")
    if prefix == "torchvision" and name == DEFAULT_NETWORK:
        return prefix, name
    for source in [prefix] if prefix in BUILDERS else BUILDERS:
        if name in network_names(source) and prefix in ("", source):
            return source, name
    if prefix == "timm" and find_spec("timm") is None:  # its names are not known
        raise ValueError(MISSING.format(model=model, package="timm"))
    full_names = {
        n: n if source == "ours" else f"{source}:{n}" for source in reversed(BUILDERS) for n in network_names(source)
    }
    close = [full_names[n] for n in difflib.get_close_matches(name, full_names, n=3)]
    near = f"did you mean {' or '.join(close)}?" if close else "resnet18, small_cnn, torchvision:X, timm:X or pycls:X"
    raise ValueError(f"model={model}: no such network ({near})")


def check_installed(model: str) -> None:
    """Raises ValueError, with the command that installs it, if the package of a network is missing."""
    source, _ = resolve_network(model)
    if source == "pycls" and find_spec("pycls") is None:
        raise ValueError(MISSING.format(model=model, package="pycls"))
