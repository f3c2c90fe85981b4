"""Backbones of timm and torchvision as encoders, each with its library's own preprocessing.

Shapes: N images, H x W pixels, T patches, D and E features.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import WEIGHT_SUFFIXES, Encoding, Machine, seeded
from benchmark.vision.encoding.feature_maps import (
    class_attention,
    find_last_map,
    norm_shares,
    record_inputs,
    record_outputs,
)
from benchmark.vision.encoding.preprocessing import Preprocessing, timm_preprocessing, torchvision_preprocessing
from benchmark.vision.networks import build_backbone
from benchmark.vision.weights import load_weights

TORCHVISION = "torchvision:"  # prefix of its models; timm's have none
Describe = Callable[[Tensor], Encoding]  # of normalised images


@dataclass(frozen=True)
class Backbone:
    """An encoder: a frozen network in eval mode.

    Args:
        preprocessing: The library's own.
        describe: Computes the encoding of normalised images.
    """

    preprocessing: Preprocessing
    describe: Describe

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that the network takes."""
        return self.preprocessing.size

    def prepare(self, images: Iterable[Tensor]) -> Tensor:
        """(N, 3, *size) uint8: images of any sizes, resized and cropped by the library's own transform."""
        return self.preprocessing.prepare(images)

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Encodes uint8 images of the encoder's size."""
        return self.describe(self.preprocessing.normalise(images_N3HW))


def load_backbone(machine: Machine, model: str, weights: str, size: int | None) -> Backbone:
    """Builds an encoder from a network of timm or torchvision.

    Args:
        machine: Has the device and the data folder.
        model: A name in timm, or torchvision:NAME.
        weights: "default" (the library's), "none" (random) or a file.
        size: Height and width in pixels; None for the library's.

    Raises:
        ValueError: The model is unknown or takes no such images, or the weights are missing or do not fit.
    """
    build = build_torchvision if model.startswith(TORCHVISION) else build_timm
    preprocessing, describe = build(machine, model, weights, size)
    encoder = Backbone(preprocessing, describe)
    try:  # one image now, so that errors come early
        encoder(torch.zeros(1, 3, *encoder.size, dtype=torch.uint8, device=machine.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"model={model},size={size}: {str(error).splitlines()[0]}") from error
    return encoder


def check_weights(machine: Machine, *, model: str, weights: str = "default", size: int | None = None) -> None:
    """Checks that the weights fit the model, for `register_encoder`. Raises ValueError if they do not."""
    load_backbone(machine, model, weights, size)


# --- timm -----------------------------------------------------------------------------------------
def build_timm(machine: Machine, model: str, weights: str, size: int | None) -> tuple[Preprocessing, Describe]:
    """The preprocessing and the features of a network of timm."""
    network = create_timm(machine, model, weights, size)
    network = network.to(machine.device).eval().requires_grad_(False)
    return timm_preprocessing(network, size), partial(describe_timm, network)


def describe_timm(network: Any, images_N3HW: Tensor) -> Encoding:
    """Patches are the network's last tokens or feature map, the global feature is what its own pooling yields.

    Attention is that of the class token in the last block, the mean over heads, or else the norm of patches.

    Args:
        network: A network of timm without its last layer.
        images_N3HW: Normalised images.
    """
    attention = network.blocks[-1].attn if has_class_attention(network) else nn.Identity()
    with record_inputs(attention) as inputs:
        features = network.forward_features(images_N3HW)
    pooled_NE = network.forward_head(features, pre_logits=True).flatten(1)
    if features.ndim == 4:
        is_channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        patches_NTD = features.flatten(1, 2) if is_channels_last else features.flatten(2).transpose(1, 2)
        return Encoding(patches_NTD, norm_shares(patches_NTD), pooled_NE)
    prefix = getattr(network, "num_prefix_tokens", 0)
    patches_NTD = features[:, prefix:]
    if not inputs:
        return Encoding(patches_NTD, norm_shares(patches_NTD), pooled_NE)
    attention_NT = F.normalize(class_attention(attention, inputs[0])[:, prefix:], p=1, dim=1)
    return Encoding(patches_NTD, attention_NT, pooled_NE)


def create_timm(machine: Machine, model: str, weights: str, size: int | None) -> Any:
    """Builds a network of timm without its last layer.

    Args:
        machine: Has the data folder.
        model: The name in timm.
        weights: "default" (timm's), "none" (random) or a file, in timm's format or in one that timm converts.
        size: Height and width in pixels; None for the network's own.

    Raises:
        ValueError: timm is missing, the model is unknown, or the weights are missing or do not fit.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(f"model={model} needs timm: pip install 'al-benchmark[timm]'") from None
    try:
        build = partial(timm.create_model, model, pretrained=weights == "default", num_classes=0)
        with seeded(0):
            try:
                network = build() if size is None else build(img_size=size)
            except TypeError:  # such as a convolutional network, which takes images of any size
                network = build()
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model={model}: its weights cannot be fetched ({reason}): give weights=FILE") from error
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model={model}: {reason}: give a model of timm, weights=FILE or weights=none") from error
    if weights not in ("default", "none"):
        load_weights(network, weights_path(machine, weights), last_layer(network), convert=timm_conversion(network))
    return network


def has_class_attention(network: Any) -> bool:
    """Whether a network of timm is a transformer with a class token and plain attention."""
    from timm.layers.attention import Attention

    blocks = getattr(network, "blocks", None)
    is_plain = isinstance(blocks, nn.Sequential) and isinstance(getattr(blocks[-1], "attn", None), Attention)
    return is_plain and getattr(network, "cls_token", None) is not None


def last_layer(network: Any) -> str:
    """A regular expression for the entries of a file that belong to the classifier, which an encoder does not have."""
    names = network.pretrained_cfg.get("classifier") or "head"
    names = [names] if isinstance(names, str) else names
    return "|".join(rf"{re.escape(name)}\." for name in (*names, "head_dist"))


def timm_conversion(network: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The function by which timm converts files of a network's authors, and positions to another size of image."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return (lambda state: state) if convert is None else lambda state: dict(convert(state, network))


def weights_path(machine: Machine, weights: str) -> Path:
    """Finds the file that `weights` names. Raises ValueError if there is none, or if its extension is another one."""
    path = machine.resolve_path(weights)
    if path.suffix not in WEIGHT_SUFFIXES:  # the cache hashes only files with these extensions
        raise ValueError(f"weights={weights}: must end in {', '.join(WEIGHT_SUFFIXES)}, or be default or none")
    if not path.is_file():
        raise ValueError(f"weights={weights}: no such file: {path}; or weights=default, weights=none")
    return path


# --- torchvision ----------------------------------------------------------------------------------
def build_torchvision(machine: Machine, model: str, weights: str, size: int | None) -> tuple[Preprocessing, Describe]:
    """The preprocessing and the features of a network of torchvision."""
    from torchvision.models import SwinTransformer, VisionTransformer

    source = weights if weights in ("default", "none") else weights_path(machine, weights)
    with seeded(0):
        network, _ = build_backbone(model, 64, source)
    preprocessing = torchvision_preprocessing(model.removeprefix(TORCHVISION), size)
    is_transformer = isinstance(network, (VisionTransformer, SwinTransformer))  # the whole image is its one patch
    map_layer = None if is_transformer else find_last_map(network, preprocessing.size)
    network = network.to(machine.device).eval().requires_grad_(False)
    return preprocessing, partial(describe_torchvision, network, map_layer)


def describe_torchvision(network: nn.Module, map_layer: nn.Module | None, images_N3HW: Tensor) -> Encoding:
    """Patches are the last feature map, their attention its norm, the global feature is the input of the last layer.

    Args:
        network: A network without its last layer.
        map_layer: Its output is the feature map; None for one patch, the global feature.
        images_N3HW: Normalised images.
    """
    with record_outputs(nn.Identity() if map_layer is None else map_layer) as maps:
        features_NE = network(images_N3HW)
    patches_NTD = maps[-1].flatten(2).transpose(1, 2) if maps else features_NE[:, None]
    return Encoding(patches_NTD, norm_shares(patches_NTD), features_NE)
