"""Whitened principal components of patches: features that need no weights and so work offline.

Shapes: N images, H x W pixels, T patches, V values per patch, D components, E = 16 D, P patches of all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Encoding, Machine, Pool, register_encoder

MAX_SIDE = 64  # pixels per side; larger images are resized
PATCHES_PER_SIDE = 8  # if the size of patches is not set
MAX_PATCHES = 100_000  # from which the components are computed
GRID_SIDE = 4  # cells per side of the grid over which the global feature is averaged
MIN_RELATIVE_VARIANCE = 1e-6  # of a component, relative to the first; less is rounding error


@dataclass(frozen=True)
class PatchPca:
    """The fitted encoder."""

    size: tuple[int, int]  # height and width of the images
    patch: int  # pixels per side of a patch
    mean_V: Tensor
    whiten_VD: Tensor  # principal directions, divided by the standard deviation along them

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Encodes uint8 images of the encoder's size."""
        pixels_NTV = extract_patches(images_N3HW, self.patch)
        features_NTD = (pixels_NTV - self.mean_V) @ self.whiten_VD
        variance_NT = pixels_NTV.var(2, correction=0)
        is_flat_N1 = (variance_NT.sum(1, keepdim=True) == 0).float()
        attention_NT = F.normalize(variance_NT + is_flat_N1, p=1, dim=1)
        rows, columns = (length // self.patch for length in self.size)
        maps_NDHW = features_NTD.transpose(1, 2).unflatten(2, (rows, columns))
        return Encoding(features_NTD, attention_NT, F.adaptive_avg_pool2d(maps_NDHW, GRID_SIDE).flatten(1))


@register_encoder(version=1)
def patch_pca(machine: Machine, pool: Pool, *, patch: int | None = None, dims: int = 16) -> PatchPca:
    """Whitened principal components of the pool's patches; this project's own encoder, without a network or weights.

    The attention of a patch is the variance of its pixels over all channels, as a share of the sum over the image; it
    is equal for all patches of an image of one colour. The global feature is the mean of the patches in each cell of a
    4 x 4 grid, cell after cell. Images of at most 64 pixels per side are used as they are, others are resized to 64 x
    64. The components are computed from at most 100,000 patches, of images drawn with a fixed seed. Their signs are
    fixed: the largest entry is positive.

    Args:
        machine: Has the device.
        pool: The images whose patches define the components.
        patch: Pixels per side of a patch; null for an eighth of the image's shorter side, at least 2 (this project's).
            Patches do not overlap; pixels left over at the right and at the bottom are cut off.
        dims: The largest number of components (16: this project's). Components without variance are left out; grey
            images have only a third as many as colour images.

    Raises:
        ValueError: `patch` or `dims` is out of range.

    Deviations: None, as there is no paper.
    """
    size = pool.size if max(pool.size) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)
    side = max(2, min(size) // PATCHES_PER_SIDE) if patch is None else patch
    if not 1 <= side <= min(size) or dims < 1:
        raise ValueError(f"patch_pca[patch={side},dims={dims}]: patch must be 1..{min(size)} pixels, dims 1 or more")
    patches_per_image = (size[0] // side) * (size[1] // side)
    indices = np.random.default_rng(0).permutation(pool.num_images)[: -(-MAX_PATCHES // patches_per_image)]
    parts = np.array_split(np.sort(indices), -(-len(indices) // 256))
    rows_PV = torch.cat([extract_patches(pool.images(part, size), side).flatten(0, 1).cpu() for part in parts])
    mean_V, whiten_VD = fit_whitening(rows_PV, dims)
    return PatchPca(size, side, mean_V.to(machine.device), whiten_VD.to(machine.device))


def extract_patches(images_N3HW: Tensor, side: int) -> Tensor:
    """(N, T, V): the pixels of each patch on the scale 0..1, patches in rows of the image."""
    height, width = (length // side * side for length in images_N3HW.shape[2:])
    cropped_N3HW = images_N3HW[:, :, :height, :width].float() / 255
    return F.unfold(cropped_N3HW, side, stride=side).transpose(1, 2)


def fit_whitening(rows_PV: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Computes the (V,) mean and the (V, D) principal directions, divided by the standard deviation along them.

    The computation is in float64, the result in float32.
    """
    mean_V = rows_PV.mean(0, dtype=torch.float64)
    centred_PV = rows_PV.double() - mean_V
    values_V, vectors_VV = torch.linalg.eigh(centred_PV.T @ centred_PV / len(rows_PV))
    values_D, vectors_VD = values_V.flip(0)[:dims], vectors_VV.flip(1)[:, :dims]
    num_components = max(1, int((values_D > MIN_RELATIVE_VARIANCE * values_D[0]).sum()))  # at least one, which may be 0
    values_D = values_D[:num_components].clamp(min=torch.finfo().tiny)
    vectors_VD = vectors_VD[:, :num_components]
    largest_D = vectors_VD.gather(0, vectors_VD.abs().argmax(0, keepdim=True))
    return mean_V.float(), (vectors_VD * largest_D.sign() / values_D.sqrt()).float()
