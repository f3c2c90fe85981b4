"""Any vision transformer of timm (Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021)."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.backbones import Backbone
from benchmark.vision.encoding.preprocessing import timm_preprocessing
from benchmark.vision.encoding.vit import Vit, check_weights


@register_encoder(version=2, check=check_weights)
def vit(machine: Machine, pool: Pool, *, model: str, weights: str = "default", size: int = 224) -> Backbone:
    """A frozen transformer: its patches, the attention of its class token, and that token as the global feature.

    As in GEAL's code, patches are those of the last block but one, after the final normalisation. The attention is that
    of the last block, the mean over heads. The global feature is the class token at the end.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        model: A model of timm with a class token and plain attention, such as `vit_base_patch14_dinov2.lvd142m`.
        weights: "default" (timm's, downloaded on first use), "none" (random ones, to try a grid) or a file
            (.safetensors, .pth): absolute, or inside the data folder.
        size: Height and width in pixels of the images that the network takes (224: this project's).

    Raises:
        ValueError: timm is missing, the model is unsuitable, or the weights are missing or do not fit.

    Deviations: None in the network and its preprocessing, which are timm's: resizing, crop and channel statistics
        belong to the model's weights.
    """
    network = Vit(machine, model, weights, size)
    return Backbone(timm_preprocessing(network.network, size), network.describe)
