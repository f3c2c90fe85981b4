"""Street View House Numbers (Netzer et al., 2011)."""

from __future__ import annotations

from dataclasses import replace

from benchmark.api import Machine, register_task
from benchmark.vision.classification import (
    PUBLISHED,
    Classification,
    Recipe,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.download import load_svhn, missing_svhn


@register_task(
    version=1,
    default=Recipe(flip=False),
    published=replace(PUBLISHED, normalise="cifar100"),
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=lambda machine, recipe: missing_svhn(machine),
)
def svhn(machine: Machine, recipe: Recipe) -> Classification:
    """73,257 + 26,032 colour images of 32x32 pixels, 10 digits; downloaded into the data folder (246 MB).

    Digits are not mirrored. `published=true` mirrors them, as the published code does; the published distortion of the
    images is in `svhn_as_published` alone.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.

    Raises:
        ValueError: The data are missing and cannot be downloaded.
    """
    return build_task(machine, recipe, *load_svhn(machine), num_classes=10)
