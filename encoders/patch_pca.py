"""Whitened principal components of patches: features without weights, so that they are there offline.

Shapes: N images, H x W pixels, T patches, V values a patch, D components, E = 16 D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Encoding, Machine, Pool, register_encoder

MAX_SIDE = 64  # pixels a side, where images are not of one small size
PATCHES_PER_SIDE = 8  # patches a side, where their size is not given
MAX_PATCHES = 100_000  # patches that the components are computed from
GRID_SIDE = 4  # a side, of the grid that the global feature is averaged over
MIN_RELATIVE_VARIANCE = 1e-6  # variance of a component, relative to the first, that is more than rounding


@dataclass(frozen=True)
class PatchPca:
    """The encoder."""

    size: tuple[int, int]
    patch: int
    mean_V: Tensor
    whiten_VD: Tensor

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """The components of each patch, divided by their deviation; attention is the variance of its pixels."""
        pixels_NTV = extract_patches(images_N3HW, self.patch)
        features_NTD = (pixels_NTV - self.mean_V) @ self.whiten_VD
        variance_NT = pixels_NTV.var(2, correction=0)
        flat_N1 = (variance_NT.sum(1, keepdim=True) == 0).float()
        attention_NT = F.normalize(variance_NT + flat_N1, p=1, dim=1)
        rows, columns = (length // self.patch for length in self.size)
        maps_NDHW = features_NTD.transpose(1, 2).unflatten(2, (rows, columns))
        return Encoding(features_NTD, attention_NT, F.adaptive_avg_pool2d(maps_NDHW, GRID_SIDE).flatten(1))


@register_encoder(version=1)
def patch_pca(machine: Machine, pool: Pool, *, patch: int | None = None, dims: int = 16) -> PatchPca:
    """Principal components of the pool's patches, whitened; no network and no weights. Not a paper's.

    A patch's attention is the variance of its pixels over all channels, as a share of the image's; of an image of one
    colour all are equal. The global feature: patches averaged in each cell of a 4 x 4 grid, one cell after the other.
    Images of at most 64 pixels a side are taken as they are, others squashed to 64 x 64. The components are those of at
    most 100,000 patches, of images drawn with a fixed seed; their signs are fixed: the largest entry is positive.
    patch: pixels a side of a patch; null: an eighth of the image's shorter side, 2 at least (ours). Patches do not
        overlap, and what is left over at the right and at the bottom is cut off.
    dims: components at most (ours: 16); those without variance are left out (grey images have a third).
    Deviations: none, as there is no paper to deviate from.
    """
    size = pool.size if max(pool.size) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)
    side = max(2, min(size) // PATCHES_PER_SIDE) if patch is None else patch
    if not 1 <= side <= min(size) or dims < 1:
        raise ValueError(f"patch_pca[patch={side},dims={dims}]: patches of 1..{min(size)} pixels, dims 1 or more")
    a_patch = (size[0] // side) * (size[1] // side)
    drawn = np.random.default_rng(0).permutation(pool.num_images)[: -(-MAX_PATCHES // a_patch)]
    parts = np.array_split(np.sort(drawn), -(-len(drawn) // 256))
    rows_PV = torch.cat([extract_patches(pool.images(part, size), side).flatten(0, 1).cpu() for part in parts])
    mean_V, whiten_VD = fit_whitening(rows_PV, dims)
    return PatchPca(size, side, mean_V.to(machine.device), whiten_VD.to(machine.device))


def extract_patches(images_N3HW: Tensor, side: int) -> Tensor:
    """(N, T, V): patches by rows of the image, on the scale 0..1."""
    height, width = (length // side * side for length in images_N3HW.shape[2:])
    cut = images_N3HW[:, :, :height, :width].float() / 255
    return F.unfold(cut, side, stride=side).transpose(1, 2)


def fit_whitening(rows_PV: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """(V,) mean and (V, D) principal directions, each divided by the deviation along it; computed in float64."""
    mean_V = rows_PV.mean(0, dtype=torch.float64)
    centred_PV = rows_PV.double() - mean_V
    values_V, vectors_VV = torch.linalg.eigh(centred_PV.T @ centred_PV / len(rows_PV))
    values_D, vectors_VD = values_V.flip(0)[:dims], vectors_VV.flip(1)[:, :dims]
    kept = max(
        1, int((values_D > MIN_RELATIVE_VARIANCE * values_D[0]).sum())
    )  # of a pool of one colour one component, which is 0
    values_D, vectors_VD = values_D[:kept].clamp(min=torch.finfo().tiny), vectors_VD[:, :kept]
    largest_D = vectors_VD.gather(0, vectors_VD.abs().argmax(0, keepdim=True))
    return mean_V.float(), (vectors_VD * largest_D.sign() / values_D.sqrt()).float()
