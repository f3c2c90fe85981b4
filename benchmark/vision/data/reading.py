"""Reads the images of a data set in groups, in worker processes if the machine has them. Shapes: H x W pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.vision.data.annotations import Images


@dataclass(frozen=True)
class Noise:
    """Gaussian noise that is added to stored pixels."""

    sigma: float  # standard deviation on the scale 0..255
    seeds: Mapping[int, int]  # by position of the image


class ImageGroups(Dataset[list[Tensor] | ValueError]):
    """Images in groups, as a data set of torch.

    Args:
        images: All images.
        groups: The positions of the images of each group.
        noise: Noise to add; None for none.
    """

    def __init__(self, images: Images, groups: Sequence[list[int]], noise: Noise | None = None) -> None:
        self.images, self.groups, self.noise = images, groups, noise

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, group_index: int) -> list[Tensor] | ValueError:
        """The images of one group, (3, H, W) each: uint8, or float32 with noise.

        Returns the ValueError of an image that cannot be read, since an error that is raised in a worker process loses
        its message.
        """
        try:
            images = [self.images[index] for index in self.groups[group_index]]
        except ValueError as error:
            return error
        if self.noise is None:
            return images
        seeds = [self.noise.seeds[index] for index in self.groups[group_index]]
        return [
            image + gaussian_noise(image.shape, self.noise.sigma, seed)
            for image, seed in zip(images, seeds, strict=True)
        ]


def read_groups(
    images: Images, groups: Sequence[list[int]], num_workers: int, noise: Noise | None = None, pin_memory: bool = False
) -> Iterator[list[Tensor]]:
    """Reads the images of each group, in order.

    Args:
        images: All images.
        groups: The positions of the images of each group.
        num_workers: Worker processes that read; 0: this process reads. Few groups are read by this process, too.
        noise: Noise to add; None for none.
        pin_memory: Whether workers put the images into pinned memory, for faster copies to a GPU.

    Returns:
        The images of one group after the other, (3, H, W) each: uint8, or float32 with noise.

    Raises:
        ValueError: An image cannot be read.
    """
    dataset = ImageGroups(images, groups, noise)
    results: Iterable[list[Tensor] | ValueError] = (dataset[number] for number in range(len(dataset)))
    if num_workers and len(groups) >= 2 * num_workers:
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
