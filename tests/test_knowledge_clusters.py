"""The picture of knowledge clusters: what it draws is what GEAL selects by, and bad arguments are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.api import Encoding
from benchmark.plugins import discovery
from benchmark.strategies.shared.patterns import extract_patterns
from tools.knowledge_clusters import cluster_rows, clustered_images, main

discovery.discover()


def test_clusters_are_those_whose_centres_are_geals_patterns() -> None:
    generator = torch.Generator().manual_seed(0)
    patches_NTD = torch.randn(3, 16, 4, generator=generator)
    attention_NT = torch.rand(3, 16, generator=generator)
    attention_NT /= attention_NT.sum(1, keepdim=True)
    encoding = Encoding(patches_NTD, attention_NT, patches_NTD.mean(1))
    patterns = extract_patterns([encoding], 0.6, 4, "euclidean")
    for image, (attention_T, cluster_T) in enumerate(cluster_rows(encoding, 0.6, 4)):
        assert attention_T[cluster_T >= 0].sum() >= 0.6
        means = [patches_NTD[image, torch.from_numpy(cluster_T == cluster)].mean(0) for cluster in range(4)]
        torch.testing.assert_close(torch.stack(means), patterns.features_PD[patterns.image_P == image])


def test_it_draws_images_of_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = main(["scenes", "--encoder", "patch_pca", "--k", "3", "--images", "0", "5", "--to", str(tmp_path / "c")])
    assert {path.suffix for path in paths} == {".png", ".svg", ".pdf"}
    assert all(path.stat().st_size > 1000 for path in paths)
    images = clustered_images("scenes", [5], "patch_pca", 0.5, 3, None)
    assert [image.name for image in images] == ["image 5"]
    assert set(np.unique(images[0].cluster_T)) == {-1, 0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([800], "patch_pca", 0.5, 3), r"images=800: the pool of scenes has 800 images"),
        (([0], "patch_pca", 1.5, 3), r"tau=1.5, k=3: tau must be above 0"),
        (([0], "patch_pca", 0.5, 0), r"k 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: tuple[list[int], str, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clustered_images("scenes", *arguments, None)
