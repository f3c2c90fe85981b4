"""Vision transformers of timm as encoders: patches, the class token's attention and the class token.

Shapes: N images, H x W pixels, T patches, L = T + prefix tokens, A heads, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import WEIGHT_SUFFIXES, Encoding, Machine, seeded
from benchmark.vision.pixels import CHANNEL_STATISTICS
from benchmark.vision.weights import load_weights

HEAD_PATTERN = r"(head|fc_norm|head_dist)\."  # what a classifier's weights have and an encoder has not


class Vit:
    """The encoder (its network is in eval mode and does not change)."""

    def __init__(self, machine: Machine, model: str, weights: str, size: int) -> None:
        self.size = (size, size)
        self.network = build_network(machine, model, weights, size).to(machine.device).eval().requires_grad_(False)
        self.mean_311, self.deviation_311 = (
            torch.tensor(values, device=machine.device).view(3, 1, 1) for values in CHANNEL_STATISTICS["imagenet"]
        )
        try:  # what does not fit is said now
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=machine.device))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"model={model},size={size}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Patches: the last block but one, through the final normalisation. Attention: the last block's, from the class
        token to the patches, the mean over heads, scaled to a sum of one. Global: the class token at the end."""
        network, kept = self.network, dict[str, Tensor]()
        with record_outputs(network, kept):
            tokens_NLD = network.forward_features((images_N3HW.float() - self.mean_311) / self.deviation_311)
        prefix = network.num_prefix_tokens
        patches_NTD = network.norm(kept["block"])[:, prefix:]
        attention_NT = class_attention(network.blocks[-1].attn, kept["input"])[:, prefix:]
        return Encoding(patches_NTD, F.normalize(attention_NT, p=1, dim=1), tokens_NLD[:, 0])


@contextmanager
def record_outputs(network: nn.Module, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Keeps the output of the last block but one (`block`) and the input of the last block's attention (`input`)."""
    blocks = network.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)

    def block(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs["block"] = output

    def entering(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        outputs["input"] = inputs[0]

    attention = blocks[-1].get_submodule("attn")
    handles = [blocks[-2].register_forward_hook(block), attention.register_forward_pre_hook(entering)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def class_attention(attention: Any, input_NLD: Tensor) -> Tensor:
    """(N, L): softmax(q k / sqrt(d)) of the class token, averaged over heads; from the attention's own projection."""
    heads = attention.num_heads
    qkv = attention.qkv(input_NLD).unflatten(2, (3, heads, -1))
    query_NLAd, key_NLAd = attention.q_norm(qkv[:, :, 0]), attention.k_norm(qkv[:, :, 1])
    logits_NAL: Tensor = torch.einsum("nad,nlad->nal", query_NLAd[:, 0], key_NLAd) * attention.scale
    return logits_NAL.softmax(2).mean(1)


DINO = "vit_small_patch16_224.dino"


def check_weights(machine: Machine, *, weights: str, model: str = DINO, size: int = 224) -> None:
    """Raises ValueError where the weights do not fit."""
    build_network(machine, model, weights, size)


def build_network(machine: Machine, model: str, weights: str, size: int) -> Any:
    """A transformer of timm without its last layer. ValueError where its weights cannot be had or do not fit."""
    try:
        import timm
    except ImportError:
        raise ValueError(f"model={model} needs timm: pip install 'al-benchmark[timm]'") from None
    try:
        with seeded(0):
            network = timm.create_model(model, pretrained=weights == "default", num_classes=0, img_size=size)
    except (OSError, RuntimeError, TypeError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(
            f"model={model}: {told}: give a vision transformer of timm, weights=FILE or weights=none"
        ) from error
    blocks = getattr(network, "blocks", None)
    if (
        not isinstance(blocks, nn.Sequential)
        or len(blocks) < 2
        or not hasattr(getattr(blocks[-1], "attn", None), "qkv")
    ):
        raise ValueError(f"model={model}: not a vision transformer with a class token that can be looked into")
    if weights not in ("default", "none"):
        load_weights(network, weights_path(machine, weights), HEAD_PATTERN)
    return network


def weights_path(machine: Machine, weights: str) -> Path:
    """The file of weights."""
    path = machine.resolve_path(weights)
    if path.suffix not in WEIGHT_SUFFIXES:  # others would be kept by their name alone
        raise ValueError(f"weights={weights}: must end in {', '.join(WEIGHT_SUFFIXES)}, or be default or none")
    if not path.is_file():
        raise ValueError(f"weights={weights}: no such file: {path}; or weights=default, weights=none")
    return path
