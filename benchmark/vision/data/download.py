"""Loads data sets that torchvision downloads into the data folder; torchvision checks md5 sums before reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from benchmark.api import Machine, Requirement
from benchmark.vision.classification.task import Split
from benchmark.vision.data.requirements import missing_data


def load_cifar(machine: Machine, name: Literal["CIFAR10", "CIFAR100"]) -> tuple[Split, Split]:
    """Loads CIFAR-10 or CIFAR-100 and downloads it first if needed.

    Args:
        machine: Has the data folder.
        name: The class of `torchvision.datasets`.

    Returns:
        The pool (the 50,000 training images) and the test set (10,000).

    Raises:
        ValueError: There is no data folder, or the data are neither there nor downloadable.
    """
    from torchvision import datasets  # imported here because it takes a second

    folder, kind = machine.resolve_path("."), getattr(datasets, name)
    parts = [load_or_download(partial(kind, folder, train=train), folder, kind.url) for train in (True, False)]
    pool, test = (Split(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in parts)
    return pool, test


def load_svhn(machine: Machine) -> tuple[Split, Split]:
    """Loads SVHN without its extra set, and downloads it first if needed; the class is the digit.

    Args:
        machine: Has the data folder.

    Returns:
        The pool (the 73,257 training images) and the test set (26,032).

    Raises:
        ValueError: There is no data folder, or the data are neither there nor downloadable.
    """
    from torchvision.datasets import SVHN

    folder = machine.resolve_path("svhn")
    parts = [
        load_or_download(partial(SVHN, folder, split=split), folder, SVHN.split_list[split][0])
        for split in ("train", "test")
    ]
    pool, test = (Split(part.data, part.labels) for part in parts)
    return pool, test


def missing_cifar(machine: Machine, name: Literal["CIFAR10", "CIFAR100"]) -> Iterator[Requirement]:
    """Yields CIFAR-10 or CIFAR-100 if it is not in the data folder.

    Args:
        machine: Has the data folder.
        name: The class of `torchvision.datasets`.
    """
    from torchvision import datasets

    kind: Any = getattr(datasets, name)

    def is_there(folder: Path) -> bool:
        return any((folder / part).exists() for part in (kind.base_folder, kind.filename))

    title = name.replace("CIFAR", "CIFAR-")
    yield from missing_data(machine, title, ".", kind.url, is_there=is_there, downloads=True)


def missing_svhn(machine: Machine) -> Iterator[Requirement]:
    """Yields SVHN if it is not in the data folder.

    Args:
        machine: Has the data folder.
    """
    from torchvision.datasets import SVHN

    urls, files, _ = zip(*(SVHN.split_list[split] for split in ("train", "test")), strict=True)

    def is_there(folder: Path) -> bool:
        return all((folder / file).is_file() for file in files)

    yield from missing_data(machine, "SVHN", "svhn", " and ".join(urls), is_there=is_there, downloads=True)


def load_or_download(dataset: Callable[..., Any], folder: Path, url: str) -> Any:
    """Builds a data set of torchvision and downloads it first if it is not complete, in one process at a time.

    Args:
        dataset: Builds the data set; takes `download`.
        folder: The folder it is stored in.
        url: The address of its archive, for messages.

    Raises:
        ValueError: The data set cannot be downloaded; the message says which file to put where.
    """
    try:
        return dataset(download=False)
    except RuntimeError:  # torchvision raises it for a file that is missing or has another md5
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
