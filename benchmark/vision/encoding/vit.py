"""Vision transformers of timm as encoders: their patches, the attention of the class token, and that token.

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

HEAD_PATTERN = r"(head|fc_norm|head_dist)\."  # entries of a classifier's weights that an encoder does not have


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

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Encodes uint8 images of the encoder's size."""
        network, outputs = self.network, dict[str, Tensor]()
        with record_outputs(network, outputs):
            tokens_NLD = network.forward_features((images_N3HW.float() - self.mean_311) / self.deviation_311)
        prefix = network.num_prefix_tokens
        patches_NTD = network.norm(outputs["block"])[:, prefix:]
        attention_NT = class_attention(network.blocks[-1].attn, outputs["input"])[:, prefix:]
        return Encoding(patches_NTD, F.normalize(attention_NT, p=1, dim=1), tokens_NLD[:, 0])


@contextmanager
def record_outputs(network: nn.Module, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Records the output of the last block but one ("block") and the input of the last block's attention ("input")."""
    blocks = network.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)

    def record_block(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs["block"] = output

    def record_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        outputs["input"] = inputs[0]

    attention = blocks[-1].get_submodule("attn")
    handles = [blocks[-2].register_forward_hook(record_block), attention.register_forward_pre_hook(record_input)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def class_attention(attention: Any, input_NLD: Tensor) -> Tensor:
    """(N, L): the attention softmax(q k / sqrt(d)) of the class token to all tokens, averaged over heads."""
    heads = attention.num_heads
    qkv = attention.qkv(input_NLD).unflatten(2, (3, heads, -1))
    query_NLAd, key_NLAd = attention.q_norm(qkv[:, :, 0]), attention.k_norm(qkv[:, :, 1])
    logits_NAL: Tensor = torch.einsum("nad,nlad->nal", query_NLAd[:, 0], key_NLAd) * attention.scale
    return logits_NAL.softmax(2).mean(1)


DINO = "vit_small_patch16_224.dino"


def check_weights(machine: Machine, *, weights: str, model: str = DINO, size: int = 224) -> None:
    """Checks that the weights fit the model, for `register_encoder`. Raises ValueError if they do not."""
    build_network(machine, model, weights, size)


def build_network(machine: Machine, model: str, weights: str, size: int) -> Any:
    """Builds a transformer of timm without its last layer. Raises ValueError if the weights are missing or unfit."""
    try:
        import timm
    except ImportError:
        raise ValueError(f"model={model} needs timm: pip install 'al-benchmark[timm]'") from None
    try:
        with seeded(0):
            network = timm.create_model(model, pretrained=weights == "default", num_classes=0, img_size=size)
    except (OSError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model={model}: {reason}: give a vision transformer of timm, weights=FILE or weights=none"
        ) from error
    blocks = getattr(network, "blocks", None)
    if (
        not isinstance(blocks, nn.Sequential)
        or len(blocks) < 2
        or not hasattr(getattr(blocks[-1], "attn", None), "qkv")
    ):
        raise ValueError(f"model={model}: not a vision transformer with a class token and plain attention")
    if weights not in ("default", "none"):
        load_weights(network, weights_path(machine, weights), HEAD_PATTERN)
    return network


def weights_path(machine: Machine, weights: str) -> Path:
    """Finds the file that `weights` names. Raises ValueError if there is none, or if its extension is another one."""
    path = machine.resolve_path(weights)
    if path.suffix not in WEIGHT_SUFFIXES:  # the cache hashes only files with these extensions
        raise ValueError(f"weights={weights}: must end in {', '.join(WEIGHT_SUFFIXES)}, or be default or none")
    if not path.is_file():
        raise ValueError(f"weights={weights}: no such file: {path}; or weights=default, weights=none")
    return path
