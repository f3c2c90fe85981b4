"""Vision transformers of timm as encoders: their patches, the attention of the class token, and that token.

Shapes: N images, H x W pixels, T patches, L = T + prefix tokens, A heads, D features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Encoding, Machine
from benchmark.vision.encoding.backbones import create_timm, has_class_attention
from benchmark.vision.encoding.feature_maps import class_attention, record_inputs, record_outputs
from benchmark.vision.pixels import CHANNEL_STATISTICS


class Vit:
    """An encoder: a frozen transformer in eval mode.

    The patches are those of the last block but one, after the final normalisation. The attention is that of the last
    block from the class token to the patches, the mean over heads, scaled to a sum of one. The global feature is the
    class token at the end.

    Args:
        machine: Has the device and the data folder.
        model: The name of a vision transformer in timm.
        weights: "default" (timm's), "none" (random) or a file.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: timm is missing, the model is unsuitable, or the weights are missing or do not fit.
    """

    def __init__(self, machine: Machine, model: str, weights: str, size: int) -> None:
        self.size = (size, size)
        self.network = build_network(machine, model, weights, size).to(machine.device).eval().requires_grad_(False)
        self.mean_311, self.deviation_311 = (
            torch.tensor(values, device=machine.device).view(3, 1, 1) for values in CHANNEL_STATISTICS["imagenet"]
        )
        try:  # one image now, so that errors come early
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=machine.device))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"model={model},size={size}: {str(error).splitlines()[0]}") from error

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Encodes uint8 images of the encoder's size, normalised by ImageNet's channel statistics."""
        return self.describe((images_N3HW.float() - self.mean_311) / self.deviation_311)

    @torch.no_grad()
    def describe(self, images_N3HW: Tensor) -> Encoding:
        """Encodes normalised images."""
        network = self.network
        with record_outputs(network.blocks[-2]) as outputs, record_inputs(network.blocks[-1].attn) as inputs:
            tokens_NLD = network.forward_features(images_N3HW)
        prefix = network.num_prefix_tokens
        patches_NTD = network.norm(outputs[0])[:, prefix:]
        attention_NT = class_attention(network.blocks[-1].attn, inputs[0])[:, prefix:]
        return Encoding(patches_NTD, F.normalize(attention_NT, p=1, dim=1), tokens_NLD[:, 0])


DINO = "vit_small_patch16_224.dino"


def check_weights(machine: Machine, *, weights: str, model: str = DINO, size: int = 224) -> None:
    """Checks that the weights fit the model, for `register_encoder`. Raises ValueError if they do not."""
    build_network(machine, model, weights, size)


def build_network(machine: Machine, model: str, weights: str, size: int) -> Any:
    """Builds a transformer of timm without its last layer. Raises ValueError if the weights are missing or unfit."""
    network = create_timm(machine, model, weights, size)
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or len(blocks) < 2 or not has_class_attention(network):
        raise ValueError(f"model={model}: not a vision transformer with a class token and plain attention")
    return network
