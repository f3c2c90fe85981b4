"""Any backbone of timm or torchvision."""

from __future__ import annotations

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.backbones import Backbone, check_weights, load_backbone


@register_encoder(version=1, check=check_weights)
def backbone(
    machine: Machine,
    pool: Pool,
    *,
    model: str,
    weights: str = "default",
    size: int | None = None,
) -> Backbone:
    """A frozen network with its library's own preprocessing: patches of its last layer and its pooled features.

    Patches are the last tokens or the last feature map. Their attention is that of the class token in the last block,
    the mean over heads, where there is a class token with plain attention, and else the norm of their features as a
    share of the image's. The global feature is the input of the last layer, after the network's own pooling.

    Args:
        machine: Has the device and the data folder.
        pool: Not used.
        model: A name in timm, such as `convnext_tiny.fb_in22k`, or one of torchvision, such as `torchvision:resnet50`.
        weights: "default" (the library's, downloaded on first use), "none" (random ones, to try a
            grid) or a file (.safetensors, .pth): absolute, or inside the data folder.
        size: Height and width in pixels of the images that the network takes; null for the weights' own.

    Raises:
        ValueError: timm is missing, the model is unknown or takes no such images, or the weights are missing or do not
            fit.

    Deviations: None: network and preprocessing are the library's. A transformer of torchvision has one patch, the
        global feature.
    """
    return load_backbone(machine, model, weights, size)
