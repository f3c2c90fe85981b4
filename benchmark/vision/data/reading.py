"""Images of a data set in groups, read by other processes where the machine has them. Shapes: H x W pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.vision.data.annotations import Images


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on stored pixels."""

    sigma: float  # its deviation, on the scale 0..255
    seeds: Mapping[int, int]  # by image


class ImageGroups(Dataset[list[Tensor] | ValueError]):
    """Images in groups."""

    def __init__(self, images: Images, groups: Sequence[list[int]], noise: Noise | None = None) -> None:
        self.images, self.groups, self.noise = images, groups, noise

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, group_index: int) -> list[Tensor] | ValueError:
        """The images of one group, (3, H, W) each: uint8, or float32 with noise. Or what is wrong with one of them: an
        error that is raised in another process loses its words."""
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
    """The images of each group, in order, read by `num_workers` processes, or by this one where that is 0."""
    wanted = ImageGroups(images, groups, noise)
    read: Iterable[list[Tensor] | ValueError] = (wanted[number] for number in range(len(wanted)))
    if num_workers and len(groups) >= 2 * num_workers:
        generator = torch.Generator().manual_seed(0)  # nothing is drawn; without it the loader draws a global number
        read = DataLoader(wanted, batch_size=None, num_workers=num_workers, generator=generator, pin_memory=pin_memory)
    for group in read:
        if isinstance(group, ValueError):
            raise group
        yield group


def gaussian_noise(shape: torch.Size, sigma: float, seed: int) -> Tensor:
    """Noise of deviation `sigma`, drawn on the CPU: the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sigma
