"""Boxes that were bought: how many, how large, and how many overlap another box of their image."""

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _curves import PLAIN, recorded
from torchvision.ops import box_iou
from typer.testing import CliRunner

import benchmark
from benchmark.analysis import bought_boxes
from benchmark.analysis.figures import selections
from benchmark.analysis.figures.gallery import Gallery, read_gallery
from benchmark.cli.commands import app
from benchmark.vision.detection.overlaps import largest_overlaps


def pool_of_boxes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """(B, 4) corners and (101,) offsets of a hundred images with no box to seven."""
    rng = np.random.default_rng(seed)
    offsets_N1 = np.concatenate([[0], rng.integers(0, 8, 100).cumsum()])
    low_B2 = rng.random((offsets_N1[-1], 2)) * 40
    return np.concatenate([low_B2, low_B2 + 1 + rng.random(low_B2.shape) * 20], 1).astype(np.float32), offsets_N1


def gallery_of_boxes(folder: Path, **changed: object) -> Gallery:
    """Writes the gallery of the experiment `made_up`, and returns it."""
    corners_B4, offsets_N1 = pool_of_boxes()
    none, sides_B = np.zeros(0, np.int64), np.sqrt((corners_B4[:, 2:] - corners_B4[:, :2]).prod(1))
    arrays = {
        "labels_P": none, "box_image_M": np.repeat(np.arange(100), np.diff(offsets_N1)),
        "box_class_M": np.zeros(len(corners_B4), np.int64), "box_side_M": sides_B, "shown_N": none,
        "thumbs_NHW3": np.zeros((0, 4, 4, 3), np.uint8), "features_ND": np.zeros((0, 2), np.float16),
        "drawn_K5": np.zeros((0, 5), np.float32), "classes_C": np.array(["thing"]),
        "box_overlap_M": largest_overlaps(corners_B4, offsets_N1), **changed,
    }  # fmt: skip
    (folder / "gallery").mkdir()
    np.savez(folder / "gallery" / "made_up.npz", **{name: array for name, array in arrays.items() if array is not None})
    return Gallery.read(folder / "gallery" / "made_up.npz")


def test_the_overlap_is_the_largest_iou_with_another_box_of_the_image() -> None:
    corners_B4, offsets_N1 = pool_of_boxes()
    expected = []
    for start, end in itertools.pairwise(offsets_N1.tolist()):
        boxes_M4 = torch.from_numpy(corners_B4[start:end])
        for place, box_4 in enumerate(boxes_M4):
            others = [other_4 for number, other_4 in enumerate(boxes_M4) if number != place]
            expected.append(max((float(box_iou(box_4[None], other_4[None])) for other_4 in others), default=0.0))
    overlap_B = largest_overlaps(corners_B4, offsets_N1)
    np.testing.assert_allclose(overlap_B, expected, atol=1e-6)
    assert 0 < (overlap_B > 0).mean() < 1
    twice = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [4, 0, 8, 4], [9, 9, 9, 9]], np.float32)  # equal, touching, empty
    assert largest_overlaps(twice, np.array([0, 4])).tolist() == [1, 1, 0, 0]
    assert largest_overlaps(twice[:0], np.array([0, 0])).tolist() == []


def test_the_table_counts_what_all_seeds_bought(tmp_path: Path) -> None:
    store, gallery = recorded(tmp_path, PLAIN), gallery_of_boxes(tmp_path)
    assert CliRunner().invoke(app, ["tables", f"out={store.folder}"]).exit_code == 0
    with (tmp_path / "tables" / "bought_boxes" / "made_up.csv").open() as file:
        pool, random, *_ = rows = list(csv.DictReader(file))
    assert [row["strategy"] for row in rows] == [bought_boxes.POOL, "random", "mine", "other"]
    assert float(pool["boxes"]) == len(gallery.box_side_M)
    assert float(pool["overlapping"]) == pytest.approx(100 * (gallery.box_overlap_M > 0).mean())
    purchases = [run[1].bought.tolist() + run[2].bought.tolist() for run in random_records(tmp_path)]
    of_runs = [np.isin(gallery.box_image_M, images) for images in purchases]
    shares = [100 * np.mean(gallery.box_overlap_M[own] > 0) for own in of_runs]
    assert float(random["overlapping"]) == pytest.approx(np.mean(shares))
    assert float(random["iou"]) == pytest.approx(np.mean([gallery.box_overlap_M[own].mean() for own in of_runs]))
    assert float(random["per_image"]) == pytest.approx(np.mean([own.sum() / 4 for own in of_runs]))
    assert float(random["side"]) == pytest.approx(np.mean([np.median(gallery.box_side_M[own]) for own in of_runs]))
    assert random["seeds"] == "3"


def random_records(folder: Path) -> list[list]:  # type: ignore[type-arg]
    [experiment] = benchmark.load(folder).experiments
    return [run.records for run in experiment.runs if run.strategy == "random"]


def test_galleries_of_older_releases_have_sizes_alone(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    gallery = gallery_of_boxes(tmp_path, box_overlap_M=None)
    [experiment] = benchmark.load(store.folder).experiments
    rows = bought_boxes.bought_boxes(experiment, gallery, 0.95)
    assert math.isnan(rows[1].iou.value)
    assert list(bought_boxes.display_rows(rows)[0]) == ["strategy", "seeds", "boxes", "per image", "side"]
    assert selections.bought_overlaps(experiment, gallery) is None
    assert selections.bought_sizes(experiment, gallery) is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (np.zeros(3, np.float32), "box_side_M, box_overlap_M differ in length"),
        (None, ""),
        (np.array(["a"]), "box_overlap_M is <U1"),
    ],
)
def test_wrong_overlaps_are_refused_in_one_line(tmp_path: Path, changed: object, message: str) -> None:
    store = recorded(tmp_path, PLAIN)
    if not message:
        assert gallery_of_boxes(tmp_path, box_overlap_M=changed).fault == ""
        return
    with pytest.raises(ValueError, match=r"made_up\.npz is no gallery: ") as error:
        gallery_of_boxes(tmp_path, box_overlap_M=changed)
    assert message in str(error.value)
    result = CliRunner().invoke(app, ["tables", f"out={store.folder}"])  # tables need no gallery
    assert result.exit_code == 0
    assert message in result.stderr


def test_a_box_without_overlap_has_a_bar_of_its_own(tmp_path: Path) -> None:
    store, gallery = recorded(tmp_path, PLAIN), gallery_of_boxes(tmp_path)
    [experiment] = benchmark.load(store.folder).experiments
    figure = selections.bought_overlaps(experiment, gallery)
    assert figure is not None
    run = random_records(tmp_path)[0]
    overlaps = gallery.box_overlap_M[np.isin(gallery.box_image_M, run[1].bought.tolist() + run[2].bought.tolist())]
    first, *bars = figure.axes[0].patches[: 1 + 20]
    assert first.get_height() == pytest.approx(100 * (overlaps == 0).mean())  # type: ignore[attr-defined]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(100 * (overlaps > 0).mean())  # type: ignore[attr-defined]
    assert figure.axes[0].get_xticklabels()[0].get_text() == "none"
    nothing = replace(gallery, box_overlap_M=np.zeros(0, np.float32))
    assert selections.bought_overlaps(experiment, nothing) is None
    assert read_gallery(replace(experiment, runs=())) is None
