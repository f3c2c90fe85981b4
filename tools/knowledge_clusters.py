"""Draws the patterns that GEAL and FreeSel describe images by, its "knowledge clusters" (Figure 4 of GEAL).

    python -m tools.knowledge_clusters 'scenes' --encoder patch_pca --k 5 --images 0 7 9 --to clusters
    python -m tools.knowledge_clusters 'voc0712' --data DIR --images 0 100 --to clusters

For each image a row: the image, the attention of its patches, and the patches that hold the share `tau` of it, coloured
by cluster. Writes TO.png, TO.svg and TO.pdf.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.analysis.figures.patch_clusters import ClusteredImage, patch_clusters
from benchmark.analysis.figures.style import save_figure
from benchmark.api import Encoding, Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.strategies.shared.patterns import (  # type: ignore[import-untyped]  # mypy sees it as `strategies`
    cluster_patches,
    most_attended,
    patch_distances,
)

SIDE = 224  # pixels of the pictures, squashed to a square as encoders see them


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Draws the clusters of the images that the arguments name, and returns the files that it wrote.

    Raises:
        ValueError: an argument does not fit.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a task with its parameters, as voc0712 or image_folder[root=birds]")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="positions in the pool")
    parser.add_argument("--encoder", default="dino", help="the frozen encoder")
    parser.add_argument("--tau", type=float, default=0.5, help="the share of the attention that kept patches hold")
    parser.add_argument("--k", type=int, default=25, help="the largest number of clusters")
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--to", type=Path, default=Path("clusters"), help="the files without their endings")
    options = parser.parse_args(arguments)
    images = clustered_images(options.task, options.images, options.encoder, options.tau, options.k, options.data)
    figure = patch_clusters(images, options.task, f"encoder {options.encoder}, tau {options.tau:g}, k {options.k}")
    assert figure is not None
    return save_figure(figure, options.to)


def clustered_images(
    task_label: str, positions: Sequence[int], encoder: str, tau: float, k: int, data: Path | None
) -> list[ClusteredImage]:
    """Encodes images of a task and clusters their patches.

    Args:
        task_label: the task with its parameters.
        positions: of the images in the pool.
        encoder: the label of the frozen encoder.
        tau: the share of the attention that kept patches hold.
        k: the largest number of clusters.
        data: the folder of the data sets.

    Raises:
        ValueError: the pool has no such image, or `tau` or `k` is out of range.
    """
    if not 0 < tau <= 1 or k < 1:
        raise ValueError(f"tau={tau:g}, k={k}: tau must be above 0 and at most 1, and k 1 or more")
    spec = Spec.read("task", task_label)
    task: Any = spec.plugin.build(Machine(torch.device("cpu"), data), spec.values)
    if outside := [position for position in positions if not 0 <= position < task.num_pool]:
        raise ValueError(f"images={outside[0]}: the pool of {spec.label} has {task.num_pool:,} images, from 0")
    indices = np.array(positions, np.int64)
    pictures = task.images(None, indices, (SIDE, SIDE)).permute(0, 2, 3, 1).cpu().numpy()
    rows = [row for encoding in task.encode(None, indices, encoder) for row in cluster_rows(encoding, tau, k)]
    return [
        ClusteredImage(f"image {position}", pixels_HW3, *row)
        for position, pixels_HW3, row in zip(positions, pictures, rows, strict=True)
    ]


def cluster_rows(encoding: Encoding, tau: float, k: int) -> list[tuple[Any, Any]]:
    """Returns the attention and the cluster of each patch, for each image: -1 for patches that are not kept."""
    kept_NT = most_attended(encoding.attention_NT, tau)
    centres_NKD, exists_NK = cluster_patches(encoding.patches_NTD, kept_NT, encoding.attention_NT, k)
    nearest_NT = patch_distances(encoding.patches_NTD, centres_NKD, exists_NK).argmin(2).masked_fill(~kept_NT, -1)
    return list(zip(encoding.attention_NT.cpu().double().numpy(), nearest_NT.cpu().numpy(), strict=True))


if __name__ == "__main__":
    discovery.discover()
    main()
