"""Reads the items of a data set in groups, in worker processes if the machine has them. Shapes: H x W pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.vision.data.annotations import Images
from benchmark.vision.fingerprints import derive_seed

Item = TypeVar("Item")
ItemRead = TypeVar("ItemRead", covariant=True)


class Items(Protocol[ItemRead]):
    """Anything with numbered items: images, images with their label maps, several views of each image."""

    def __getitem__(self, index: int, /) -> ItemRead:
        """Reads one item. Raises ValueError for one that cannot be read; the message names it."""


class ImageView(Protocol):
    """Makes another image of a stored one; picklable, because worker processes apply it."""

    def __call__(self, image_3HW: Tensor, index: int) -> Tensor:
        """Returns the changed image.

        Args:
            image_3HW: (3, H, W) uint8, as stored.
            index: the position of the image, for what is random.
        """


@dataclass(frozen=True)
class Noise:
    """Adds Gaussian noise to stored pixels."""

    sigma: float  # standard deviation on the scale 0..255
    seed: int  # together with an image's position it seeds the noise of that image

    def __call__(self, image_3HW: Tensor, index: int) -> Tensor:
        """(3, H, W): float32, not clipped."""
        return image_3HW + gaussian_noise(image_3HW.shape, self.sigma, derive_seed(self.seed, f"noise {index}"))


Views: TypeAlias = Sequence[ImageView]


@dataclass(frozen=True)
class ViewedImages:
    """Images as stored, each with several views of it; an image is read and decoded once for all of them.

    Args:
        images: The stored images.
        views: What is made of each image.
    """

    images: Images
    views: Views

    def __getitem__(self, index: int) -> list[Tensor]:
        """The stored image and its views, (3, H, W) each."""
        image_3HW = self.images[index]
        return [image_3HW, *(view(image_3HW, index) for view in self.views)]


class ItemGroups(Dataset[list[Item] | ValueError], Generic[Item]):
    """Items in groups, as a data set of torch.

    Args:
        items: All items.
        groups: The positions of the items of each group.
    """

    def __init__(self, items: Items[Item], groups: Sequence[list[int]]) -> None:
        self.items, self.groups = items, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, group_index: int) -> list[Item] | ValueError:
        """The items of one group.

        Returns the ValueError of an item that cannot be read, since an error that is raised in a worker process loses
        its message.
        """
        try:
            return [self.items[index] for index in self.groups[group_index]]
        except ValueError as error:
            return error


def read_groups(
    items: Items[Item], groups: Sequence[list[int]], num_workers: int, pin_memory: bool = False
) -> Iterator[list[Item]]:
    """Reads the items of each group, in order.

    Args:
        items: All items.
        groups: The positions of the items of each group.
        num_workers: Most worker processes that read; each reads two groups or more. 0: this process reads.
        pin_memory: Whether workers put the items into pinned memory, for faster copies to a GPU.

    Returns:
        The items of one group after the other.

    Raises:
        ValueError: An item cannot be read.
    """
    dataset = ItemGroups(items, groups)
    results: Iterable[list[Item] | ValueError] = (dataset[number] for number in range(len(dataset)))
    if num_workers := min(num_workers, len(groups) // 2):
        generator = torch.Generator().manual_seed(0)  # unused; without it the loader draws from the global one
        results = DataLoader(
            dataset, batch_size=None, num_workers=num_workers, generator=generator, pin_memory=pin_memory
        )
    for group in results:
        if isinstance(group, ValueError):
            raise group
        yield group


def gaussian_noise(shape: torch.Size, sigma: float, seed: int) -> Tensor:
    """Draws Gaussian noise on the CPU, so that it is the same for every device.

    Args:
        shape: The shape of the noise.
        sigma: Its standard deviation.
        seed: The seed of the generator, which is used for nothing else.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sigma
