"""Data sets that torchvision downloads into the data folder, and checks against their md5 before reading them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from benchmark.api import Machine
from benchmark.vision.classification.task import Split


def load_cifar(machine: Machine, name: Literal["CIFAR10", "CIFAR100"]) -> tuple[Split, Split]:
    """Pool and test set of torchvision's class of that name. Raises ValueError where they cannot be had."""
    from torchvision import datasets  # torchvision takes a second: only where it is used

    folder, kind = machine.resolve_path("."), getattr(datasets, name)
    parts = [load_or_download(partial(kind, folder, train=train), folder, kind.url) for train in (True, False)]
    pool, test = (Split(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in parts)
    return pool, test


def load_svhn(machine: Machine) -> tuple[Split, Split]:
    """Pool and test set of SVHN (not its extra set), class = digit. Raises ValueError where they cannot be had."""
    from torchvision.datasets import SVHN

    folder = machine.resolve_path("svhn")
    parts = [
        load_or_download(partial(SVHN, folder, split=split), folder, SVHN.split_list[split][0])
        for split in ("train", "test")
    ]
    pool, test = (Split(part.data, part.labels) for part in parts)
    return pool, test


def load_or_download(dataset: Callable[..., Any], folder: Path, url: str) -> Any:
    """The data set, downloaded first where the folder does not hold it whole; one process at a time."""
    try:
        return dataset(download=False)
    except RuntimeError:  # torchvision's word for: not here, or not with its md5
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            return dataset(download=True)
    except (RuntimeError, OSError, EOFError) as error:
        file = url.rpartition("/")[2]
        raise ValueError(
            f"{folder} has no {file} with the right md5, and it cannot be downloaded ({error}): put {url} there"
        ) from error
