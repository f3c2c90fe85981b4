"""The figure of an image's patches: how much attention each holds, which are kept, and the clusters of these.

Shapes: H x W pixels, T patches in rows of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from benchmark.analysis.curves import Floats
from benchmark.analysis.figures.style import add_title, blank_figure, with_style
from benchmark.text.escaping import make_visible

SIDE = 1.9  # inches of a picture
FADED = 0.25  # how much of a patch that is not kept remains visible


@dataclass(frozen=True, eq=False)
class ClusteredImage:
    """An image and its patches.

    Args:
        name: stands beside the image.
        pixels_HW3: as the encoder sees it, uint8.
        attention_T: the share of the attention of each patch.
        cluster_T: the cluster of each patch, from 0; -1 for patches that are not kept.
    """

    name: str
    pixels_HW3: npt.NDArray[np.uint8]
    attention_T: Floats
    cluster_T: npt.NDArray[np.int64]


@with_style
def patch_clusters(images: Sequence[ClusteredImage], title: str, *notes: str) -> Figure | None:
    """Draws each image, the attention of its patches, and the kept patches coloured by cluster (Figure 4 of GEAL).

    Returns:
        The figure; None without images.

    Raises:
        ValueError: the patches do not form a grid of the image's shape.
    """
    if not images:
        return None
    figure = blank_figure(3 * SIDE + 1.2, len(images) * (SIDE + 0.25) + 0.6)
    for row, axes_of_row in zip(images, figure.subplots(len(images), 3, squeeze=False), strict=True):
        grid = grid_shape(row)
        is_kept_T = row.cluster_T >= 0
        height, width = row.pixels_HW3.shape[:2]
        extent = (0, width, height, 0)
        for axes in axes_of_row:
            axes.imshow(row.pixels_HW3, extent=extent)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_of_row[0].set_ylabel(make_visible(row.name))
        axes_of_row[1].imshow(row.attention_T.reshape(grid), cmap="magma", extent=extent, alpha=0.75)
        axes_of_row[2].imshow(colours_of(row.cluster_T).reshape(*grid, 4), extent=extent, interpolation="nearest")
        num_clusters = len(np.unique(row.cluster_T[is_kept_T]))
        share = 100 * row.attention_T[is_kept_T].sum() / row.attention_T.sum()
        titles = (
            "image",
            f"attention of {len(is_kept_T)} patches",
            f"{is_kept_T.sum()} hold {share:.0f} %: {num_clusters} clusters",
        )
        for axes, text in zip(axes_of_row, titles, strict=True):
            axes.set_title(text, fontsize=8)
    add_title(figure, title, *notes)
    return figure


def grid_shape(image: ClusteredImage) -> tuple[int, int]:
    """The rows and columns of an image's patches, which are about square."""
    height, width = image.pixels_HW3.shape[:2]
    rows = max(1, round(math.sqrt(len(image.cluster_T) * height / width)))
    if len(image.cluster_T) % rows:
        raise ValueError(f"{image.name}: {len(image.cluster_T)} patches form no grid of {height} x {width} pixels")
    return rows, len(image.cluster_T) // rows


def colours_of(cluster_T: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """(T, 4): a colour for each patch; white where it is not kept."""
    num_clusters = int(cluster_T.max(initial=0)) + 1
    palette: npt.NDArray[Any] = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, num_clusters))
    order = np.argsort(np.arange(num_clusters) * 7 % max(num_clusters, 1), kind="stable")  # neighbours in number differ
    colours_T4: npt.NDArray[Any] = palette[order][cluster_T.clip(min=0)]
    colours_T4[:, 3] = 0.7
    colours_T4[cluster_T < 0] = (1, 1, 1, 1 - FADED)
    return colours_T4
