"""SVHN as in ISAL's code: images scrambled by a reshape. Only for comparison with published numbers.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from benchmark.api import Machine, register_task
from benchmark.vision.classification import (
    PUBLISHED,
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.download import load_svhn, missing_svhn

DISTORTED_RECIPE = replace(PUBLISHED, normalise="cifar100")


@register_task(
    version=1,
    default=DISTORTED_RECIPE,
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=lambda machine, recipe: missing_svhn(machine),
)
def svhn_as_published(machine: Machine, recipe: Recipe) -> Classification:
    """SVHN whose bytes, stored as H x W x 3, are read as 3 x H x W.

    Each channel then holds a third of the rows, with the colours interleaved. The script convert_svhn_to_cifar10.py of
    ISAL's code writes the images in this way. ISAL's published accuracies, 37.8 to 72.9 %, are on these images, with
    flips and the channel statistics of CIFAR-100. The default recipe is the published one.

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.

    Raises:
        ValueError: The data are missing and cannot be downloaded.

    References:
        Liu et al., Influence Selection for Active Learning, ICCV 2021.
    """
    pool, test = (Split(distort(part.images_NKHW), part.labels_N) for part in load_svhn(machine))
    return build_task(machine, recipe, pool, test, num_classes=10)


def distort(images_N3HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Flattens images as H x W x 3 and reads them back as 3 x H x W."""
    return np.ascontiguousarray(images_N3HW.transpose(0, 2, 3, 1)).reshape(images_N3HW.shape)
