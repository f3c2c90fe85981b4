"""Patches of an encoder: the positions of a network's feature map, or the tokens of a transformer, and their attention.

Shapes: N images, K channels, T patches, L = T + prefix tokens, A heads, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_shares(patches_NTD: Tensor) -> Tensor:
    """(N, T): the norm of each patch's features as a share of the sum over the image; equal if all norms are zero."""
    norm_NT = patches_NTD.norm(dim=2)
    is_zero_N1 = (norm_NT.sum(1, keepdim=True) == 0).float()
    return F.normalize(norm_NT + is_zero_N1, p=1, dim=1)


def class_attention(attention: Any, input_NLD: Tensor) -> Tensor:
    """(N, L): the attention softmax(q k / sqrt(d)) of the class token to all tokens, averaged over heads."""
    heads = attention.num_heads
    qkv = attention.qkv(input_NLD).unflatten(2, (3, heads, -1))
    query_NLAd, key_NLAd = attention.q_norm(qkv[:, :, 0]), attention.k_norm(qkv[:, :, 1])
    logits_NAL: Tensor = torch.einsum("nad,nlad->nal", query_NLAd[:, 0], key_NLAd) * attention.scale
    return logits_NAL.softmax(2).mean(1)


@contextmanager
def record_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Records the first input of a module in a `with` block, call after call."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def record_outputs(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Records the outputs of these modules in a `with` block, in order."""
    outputs: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for module in modules
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def find_last_map(backbone: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The last module whose output is a feature map (N, K, h, w) with the images' aspect and at least 2 x 2 positions.

    Raises ValueError if there is none.
    """
    map_layers: list[nn.Module] = []

    def note_map(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            height, width = output.shape[2:]
            if min(height, width) > 1 and abs(height * size[1] - width * size[0]) < max(size):
                map_layers.append(module)

    handles = [module.register_forward_hook(note_map) for module in backbone.modules()]
    backbone.eval()(torch.zeros(1, 3, *size))
    for handle in handles:
        handle.remove()
    if not map_layers:
        raise ValueError(
            f"this model has no feature map of 2x2 positions or more for images of {size[0]}x{size[1]} pixels"
        )
    return map_layers[-1]
