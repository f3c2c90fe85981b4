"""SVHN as ISAL's code trained on it: images scrambled by a reshape. For comparison with published numbers alone.

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
from benchmark.vision.data.download import load_svhn

DISTORTED_RECIPE = replace(PUBLISHED, normalise="cifar100")


@register_task(version=1, default=DISTORTED_RECIPE, missing_capabilities=missing_capabilities, check=check_weights)
def svhn_as_published(machine: Machine, recipe: Recipe) -> Classification:
    """SVHN whose bytes, stored as H x W x 3, are read as 3 x H x W: a third of the rows a channel, colours interleaved.

    So convert_svhn_to_cifar10.py of ISAL's code wrote them (Liu et al., 2021), and its accuracies, 37.8 to 72.9 %,
    are on these images, with flips and the statistics of CIFAR-100. The default recipe is the published one.
    """
    pool, test = (Split(distort(part.images_NKHW), part.labels_N) for part in load_svhn(machine))
    return build_task(machine, recipe, pool, test, num_classes=10)


def distort(images_N3HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The images flattened as H x W x 3 and read back as 3 x H x W."""
    return np.ascontiguousarray(images_N3HW.transpose(0, 2, 3, 1)).reshape(images_N3HW.shape)
