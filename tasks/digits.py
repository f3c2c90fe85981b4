"""The handwritten digits of scikit-learn: runs anywhere, with fits of about half a second."""

from __future__ import annotations

import numpy as np

from benchmark.api import Machine, register_task
from benchmark.vision.classification import (
    Classification,
    Recipe,
    Split,
    build_task,
    check_weights,
    missing_capabilities,
)
from benchmark.vision.data.digits import read_digits

NUM_TEST = 500
DEFAULT = Recipe(
    model="small_cnn",
    dropout=0.25,
    epochs=30,
    batch_size=32,
    lr=0.05,
    flip=False,
    pad=0,
    precision="float32",
    channels_last=False,
)


@register_task(version=1, default=DEFAULT, missing_capabilities=missing_capabilities, check=check_weights)
def digits(machine: Machine, recipe: Recipe) -> Classification:
    """1,797 grey images of 8x8 pixels, 10 classes: a pool of 1,297 and a test set of 500 (50 per class).

    Args:
        machine: Has the device.
        recipe: How to train.
    """
    values_NHW, labels_N = read_digits()
    images_N1HW = np.round(values_NHW[:, None] * (255 / 16)).astype(np.uint8)
    order_N = np.random.default_rng(0).permutation(len(labels_N))
    rank_N = np.zeros_like(order_N)  # of each image within its class, in a fixed random order
    for label in range(10):
        members = order_N[labels_N[order_N] == label]
        rank_N[members] = np.arange(len(members))
    is_test_N = rank_N < NUM_TEST // 10
    pool, test = (Split(images_N1HW[part_N], labels_N[part_N]) for part_N in (~is_test_N, is_test_N))
    return build_task(machine, recipe, pool, test, num_classes=10)
