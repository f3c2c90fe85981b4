"""DINO's ViT-S/16 (Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.vit import DINO, Vit, check_weights


@register_encoder(version=1, check=check_weights)
def dino(machine: Machine, pool: Pool, *, weights: str = "default") -> Vit:
    """The encoder of GEAL and FreeSel: 196 patches of 384 features, attention of 6 heads, images of 224 x 224 pixels.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        weights: "default" (timm's copy of the authors' weights, downloaded on first use), "none" (random ones, to try a
            grid) or a file such as the authors' `dino_deitsmall16_pretrain.pth`: absolute, or inside the data folder.

    Raises:
        ValueError: timm is missing, or the weights are missing or do not fit.

    Deviations: Images are resized bilinearly; GEAL's code does so bicubically.
    """
    return Vit(machine, DINO, weights, 224)
