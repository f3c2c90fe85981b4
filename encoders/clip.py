"""CLIP (Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.backbones import Backbone, check_weights, load_backbone


@register_encoder(version=1, check=check_weights)
def clip(
    machine: Machine,
    pool: Pool,
    *,
    model: str = "vit_base_patch16_clip_224.openai",
    weights: str = "default",
    size: int | None = None,
) -> Backbone:
    """The image encoder of CLIP; the global feature is the class token, before the projection to the space of texts.

    Patches, attention and global feature are those of `backbone`; preprocessing is timm's for these weights.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        model: An image encoder of CLIP in timm, such as `vit_large_patch14_clip_224.openai`.
        weights: "default" (timm's copy of the authors', downloaded on first use), "none" (random ones, to try a
            grid) or a file (.safetensors, .pth) of timm or of the authors: absolute, or inside the data folder.
        size: Height and width in pixels of the images that the network takes; null for timm's, 224.

    Raises:
        ValueError: timm is missing, the model is unknown or takes no such images, or the weights are missing or do not
            fit.

    Deviations: timm crops the centre after it has resized images to 248 pixels; CLIP's own code resizes to 224.
    """
    return load_backbone(machine, model, weights, size)
