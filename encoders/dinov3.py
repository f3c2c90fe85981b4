"""DINOv3 (Siméoni et al., 2025)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.backbones import Backbone, check_weights, load_backbone


@register_encoder(version=1, check=check_weights)
def dinov3(
    machine: Machine,
    pool: Pool,
    *,
    model: str = "vit_small_patch16_dinov3.lvd1689m",
    weights: str = "default",
    size: int | None = None,
) -> Backbone:
    """A self-supervised transformer with patches of 16 x 16 pixels; the global feature is the class token.

    Patches, attention and global feature are those of `backbone`; preprocessing is timm's for these weights.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        model: A DINOv3 of timm, such as `vit_base_patch16_dinov3.lvd1689m` or `convnext_tiny.dinov3_lvd1689m`.
        weights: "default" (timm's copy of the authors', downloaded on first use), "none" (random ones, to try a
            grid) or a file (.safetensors, .pth) of timm or of the authors: absolute, or inside the data folder.
        size: Height and width in pixels of the images that the network takes; null for timm's, 256.

    Raises:
        ValueError: timm is missing, the model is unknown or takes no such images, or the weights are missing or do not
            fit.

    Deviations: Attention is the norm of patches, because the attention of this transformer depends on positions.
    """
    return load_backbone(machine, model, weights, size)
