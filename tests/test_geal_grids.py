"""GEAL's grids run on small sets in the layout of the real ones, and their records meet the published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _curves import curve, experiment
from test_voc0712 import Thing, write_year
from typer.testing import CliRunner

import benchmark
from benchmark import config
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.options import PUBLISHED_FOLDER
from benchmark.analysis.verify import counterparts, judge_curve
from benchmark.cli.commands import app
from benchmark.plugins import discovery

discovery.discover()
SMALL = "voc0712[backbone=small,channels=32,epochs=2,min_size=0,model=ssd300,precision=float32,squash=64,warmup=0.0]"
GEAL = [
    "geal[encoder=patch_pca,k=5]", "geal[encoder=patch_pca,k=5,tau=0.4]", "geal[encoder=patch_pca,k=3]",
    "geal[encoder=patch_pca,k=5,metric=euclidean]",
]  # fmt: skip


def write_small_voc(folder: Path) -> None:
    """Twelve images of each year and six to test on, with one to three boxes each, some of them difficult."""
    rng = np.random.default_rng(0)

    def draw(prefix: str, number: int) -> dict[str, list[Thing]]:
        images = {}
        for image in range(number):
            corner_M2 = rng.integers(1, 20, (rng.integers(1, 4), 2)).tolist()
            things: list[Thing] = [
                (("cat", "dog")[(image + m) % 2], (x, y, x + 12, y + 12), int(m == 2))
                for m, (x, y) in enumerate(corner_M2)
            ]
            images[f"{prefix}{image}"] = things
        return images

    write_year(folder / "VOC2007", 1, trainval=draw("a", 12), test=draw("t", 6))
    write_year(folder / "VOC2012", 2, trainval=draw("b", 12))


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_ablation_runs_on_a_small_set(tmp_path: Path) -> None:
    write_small_voc(tmp_path / "data")
    out = f"out={tmp_path / 'runs'}"
    invoke(
        "run", "grid=geal_ablation", f"data={tmp_path / 'data'}", f"tasks=[{SMALL}]", f"strategies=[{','.join(GEAL)}]",
        "first_budget=8", "budget=4", "seeds=1", "device=cpu", "workers=0", "threads=1", "cache_gb=0", out,
    )  # fmt: skip
    [recorded] = benchmark.load(str(tmp_path / "runs")).experiments
    assert recorded.num_labelled_R.tolist() == [8, 12, 16]
    assert str(recorded.metric) == "voc07_map"
    assert [curve.num_runs for curve in recorded.curves.values()] == [1] * 4
    assert all(0 <= value <= 100 for curve in recorded.curves.values() for value in curve.value_SR.flat)
    assert "voc07_map" in invoke("tables", out)


@pytest.mark.parametrize("grid", ["geal", "geal_ablation"])
def test_the_published_curves_belong_to_the_grids_that_repeat_them(grid: str) -> None:
    published = read_experiments(str(PUBLISHED_FOLDER))
    [theirs] = [paper for paper in published if paper.source == "geal-2021"]
    experiments = config.build_grid(config.compose_settings([f"grid={grid}"])).experiments
    ours = next(one_pass for one_pass in experiments if one_pass.schedule.one_pass)
    mine = experiment(
        curve("geal", [[64.8, 69.0, 71.5], [64.9, 69.3, 71.8], [64.8, 69.1, 71.7]], [3000, 5000, 7000]),
        title=ours.name, task=ours.task.label, metric="voc07_map",
    )  # fmt: skip
    assert counterparts(mine, published) == [theirs]
    verdict = judge_curve(mine, theirs, "geal", 0.95)
    assert (verdict.verdict, len(verdict.gaps)) == ("reproduced", 3)
    assert verdict.why.endswith("the paper's number of runs, which is not published, is taken as 1")
    assert ours.task.label == theirs.source_info["recipes"][theirs.task]
    counts = {ours.schedule.num_images(number) for number in range(ours.schedule.rounds)}
    assert counts >= {3000, 5000, 7000}
    labels = {strategy.label for strategy in ours.strategies}
    assert (labels == theirs.curves.keys()) == (grid == "geal_ablation")
