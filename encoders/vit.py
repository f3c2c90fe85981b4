"""Any vision transformer of timm (Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.vit import Vit, check_weights


@register_encoder(version=1, check=check_weights)
def vit(machine: Machine, pool: Pool, *, model: str, weights: str = "default", size: int = 224) -> Vit:
    """A frozen transformer: its patches, what its class token attends to, and that token.

    Patches are those of the last block but one, through the final normalisation, as GEAL's code takes them; attention
    is the last block's, the mean over heads; the global feature is the class token at the end.
    model: a name of timm (`vit_base_patch14_dinov2.lvd142m`); one with a class token and plain attention.
    weights: default (timm's, downloaded when first used), none (random ones, to try a grid), or a file of them
        (.safetensors, .pth), absolute or inside the data folder.
    size: pixels a side that images are squashed to (ours: 224).
    Deviations: none in the network, which is timm's; pixels are normalised by ImageNet's moments, whatever the weights.
    """
    return Vit(machine, model, weights, size)
