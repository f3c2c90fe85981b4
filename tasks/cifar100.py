"""CIFAR-100 (Krizhevsky, 2009)."""

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
from benchmark.vision.data.download import load_cifar, missing_cifar


@register_task(
    version=1,
    default=Recipe(),
    published=replace(PUBLISHED, normalise="cifar100"),
    missing_capabilities=missing_capabilities,
    check=check_weights,
    missing_requirements=lambda machine, recipe: missing_cifar(machine, "CIFAR100"),
)
def cifar100(machine: Machine, recipe: Recipe) -> Classification:
    """50,000 + 10,000 colour images of 32x32 pixels, 100 classes; downloaded into the data folder (169 MB).

    Args:
        machine: Has the device and the data folder.
        recipe: How to train.

    Raises:
        ValueError: The data are missing and cannot be downloaded.
    """
    return build_task(machine, recipe, *load_cifar(machine, "CIFAR100"), num_classes=100)
