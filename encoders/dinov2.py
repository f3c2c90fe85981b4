"""DINOv2 (Oquab et al., Learning Robust Visual Features without Supervision, TMLR 2024)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.backbones import Backbone, check_weights, load_backbone


@register_encoder(version=1, check=check_weights)
def dinov2(
    machine: Machine,
    pool: Pool,
    *,
    model: str = "vit_small_patch14_dinov2.lvd142m",
    weights: str = "default",
    size: int | None = 224,
) -> Backbone:
    """A self-supervised transformer with patches of 14 x 14 pixels; the global feature is the class token.

    Patches, attention and global feature are those of `backbone`; preprocessing is timm's for these weights.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        model: A DINOv2 of timm: `vit_small_`, `vit_base_`, `vit_large_` or `vit_giant_patch14_dinov2.lvd142m`.
        weights: "default" (timm's copy of the authors', downloaded on first use), "none" (random ones, to try a
            grid) or a file (.safetensors, .pth) of timm or of the authors: absolute, or inside the data folder.
        size: Height and width in pixels of the images that the network takes; null for the weights' own, 518.

    Raises:
        ValueError: timm is missing, the model is unknown or takes no such images, or the weights are missing or do not
            fit.

    Deviations: None in the network. Images have 224 pixels by default, as in the paper's evaluation of linear probes.
    """
    return load_backbone(machine, model, weights, size)
