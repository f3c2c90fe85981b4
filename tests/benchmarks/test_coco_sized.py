"""Times reading annotations of COCO's size, and selecting 1,000 of 118,000 images, without images or a detector.

Each measurement runs this file as a program in a new process, which prints its numbers as JSON. The times of
pytest-benchmark include the start of that process; `seconds` in its extra_info do not. Peak memory is VmHWM, because
ru_maxrss begins at the peak of the parent process.

Shapes: N images, M boxes of one image, P predictions, K = 81 classes with background last, D features.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.func import functional_call, jvp

from benchmark.api import Boxes, Direction, Indices, Predictions, View, find_strategy, seeded
from benchmark.plugins import discovery
from benchmark.vision.data import annotations as data_annotations
from benchmark.vision.data.coco_json import read_coco_json
from benchmark.vision.data.image_checks import ImageScan

N, D, K, NUM_BOXES, PICKS = 118_000, 512, 81, 7, 1_000
PART = 1_000  # images whose views are predicted together
LABELLED, HELD_OUT, UNLABELLED = np.split(np.arange(N), [1_000, 1_500])
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status, which Linux has")


# --- the stand-ins --------------------------------------------------------------------------------
def image_names() -> list[str]:
    return [f"{number:012}.jpg" for number in range(N)]


def outline(x: int, y: int) -> str:
    return f"[{x}.25,{y}.5,{x + 20}.17,{y + 9}.88,{x + 40}.33,{y}.5,{x + 31}.25,{y + 28}.75]"


def instances() -> Iterator[str]:
    """The text of a file like COCO's instances_train2017.json, with shorter outlines."""
    images = (f'{{"id":{n},"file_name":"{name}","width":640,"height":480}}' for n, name in enumerate(image_names()))
    marks = (
        f'{{"id":{n},"image_id":{n % N},"category_id":{n % (K - 1)},"iscrowd":0,"area":{40.5 * (30 + n % 99)},'
        f'"bbox":[{n % 499}.25,{n % 349}.5,40.5,{30 + n % 99}],"segmentation":[{outline(n % 499, n % 349)}]}}'
        for n in range(N * NUM_BOXES)
    )
    categories = (f'{{"id":{n},"name":"class {n}"}}' for n in range(K - 1))
    for head, rows in (('{"images":[', images), ('],"annotations":[', marks), ('],"categories":[', categories)):
        yield head + next(rows)
        yield from (f",{row}" for row in rows)
    yield "]}"


class Detector:
    """A task with random predictions instead of a detector: 30 boxes per image on average, at most 100.

    It has no images. Its losses are a linear model's: the mean cross entropy over an image's boxes.
    """

    metric, batch_size, fingerprint, num_pool = "map", 500, "of COCO's size", N

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.image_P = torch.from_numpy(np.repeat(np.arange(N), rng.exponential(31, N).astype(int).clip(max=100)))
        self.label_P = torch.from_numpy(rng.integers(K - 1, size=len(self.image_P)))
        confidence_P = torch.from_numpy(rng.uniform(0.05, 1, len(self.image_P)).astype(np.float32))
        self.scores_PK = ((1 - confidence_P) / (K - 1))[:, None].repeat(1, K)
        self.scores_PK.scatter_(1, self.label_P[:, None], confidence_P[:, None])
        low_P2, sides_P2 = (torch.from_numpy(rng.random((len(self.image_P), 2), np.float32)) * 300 for _ in range(2))
        self.corners_P4 = torch.cat([low_P2, low_P2 + sides_P2 + 10], 1)
        self.features_ND = torch.from_numpy(rng.standard_normal((N, D), np.float32))

    def model(self) -> nn.Module:
        with seeded(0):
            return nn.Linear(D, K)

    def embed(self, model: nn.Module, indices: Indices) -> Tensor:
        return self.features_ND[indices]

    def rows_of(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The rows of these images' predictions, and the position of each row's image in `indices`."""
        place_N = torch.full((N,), -1)
        place_N[indices] = torch.arange(len(indices))
        rows = (place_N[self.image_P] >= 0).nonzero()[:, 0]
        return rows, place_N[self.image_P[rows]]

    def predict(self, model: nn.Module, indices: Indices) -> Predictions:
        rows, image_P = self.rows_of(indices)
        return Predictions(self.scores_PK[rows], image_P, len(indices), self.corners_P4[rows])

    def perturbed(
        self, model: nn.Module, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        for start in range(0, len(indices), PART):
            clean = self.predict(model, indices[start : start + PART])
            views = [moved(clean, sigma, seed) for sigma, seed in zip(sigmas, seeds, strict=True)]
            yield [clean, *views]

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def pseudo_labels(self, model: nn.Module, indices: Indices, k: int, min_score: float) -> list[Boxes]:
        rows, image_P = self.rows_of(indices)
        sure_P = self.scores_PK[rows, self.label_P[rows]] >= min_score
        counts = image_P[sure_P].bincount(minlength=len(indices)).tolist()
        parts = (values_P[rows[sure_P]].split(counts) for values_P in (self.corners_P4, self.label_P))
        return [Boxes(*each) for each in zip(*parts, strict=True)]

    def truth(self, indices: Indices) -> list[Boxes]:
        classes_NM = (torch.from_numpy(indices)[:, None] + torch.arange(NUM_BOXES)) % (K - 1)
        return [Boxes(torch.zeros(NUM_BOXES, 4), labels_M) for labels_M in classes_NM]

    def losses(
        self, model: Callable[..., Tensor], indices: Indices, targets: list[Boxes] | None = None, *, test: bool = False
    ) -> Tensor:
        targets = self.truth(indices) if targets is None else targets
        counts_N = torch.tensor([len(boxes) for boxes in targets])
        labels_B = torch.cat([boxes.labels_M for boxes in targets])
        image_B = torch.arange(len(targets)).repeat_interleave(counts_N)
        loss_B = -model(self.features_ND[indices]).log_softmax(1)[image_B, labels_B]
        return loss_B.new_zeros(len(targets)).index_add(0, image_B, loss_B) / counts_N.clamp(min=1)

    def directional(self, model: nn.Module, indices: Indices, targets: list[Boxes], direction: Direction) -> Tensor:
        def losses_at(weights: dict[str, Tensor]) -> Tensor:
            return self.losses(lambda features: functional_call(model, weights, features), indices, targets)

        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        return jvp(losses_at, (weights,), (direction,))[1].detach()


def moved(clean: Predictions, sigma: float, seed: int) -> Predictions:
    """The same predictions, with every corner of a box moved at random."""
    assert clean.boxes_P4 is not None
    noise_P4 = torch.randn(clean.boxes_P4.shape, generator=torch.Generator().manual_seed(seed))
    return Predictions(clean.scores_PC, clean.image_P, clean.num_images, clean.boxes_P4 + sigma / 8 * noise_P4)


# --- the program ----------------------------------------------------------------------------------
def memory_mb(which: str) -> float:
    """The memory of this process in MB: now (VmRSS) or at its peak (VmHWM)."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) / 1024


def load_annotations(path: Path) -> dict[str, int]:
    """Reads the annotations as if the images existed, with the sizes that the file states."""

    def scans(paths: Sequence[Path], stated: Sequence[tuple[int, int]], *_: object) -> list[ImageScan]:
        return [ImageScan(path, *size, "", "", b"") for path, size in zip(paths, stated, strict=True)]

    there = mock.patch("os.path.isfile", return_value=True)
    with there, mock.patch.object(data_annotations, "scan_images", scans):
        split, names = read_coco_json(path, path.parent)
    return {"images": len(split.truth), "boxes": len(split.truth.labels_B), "classes": len(names)}


def select(task: Detector, label: str) -> dict[str, int]:
    """Runs the selection of a strategy."""
    plugin, values = find_strategy(label)
    needs = plugin.resolve_needs(values)
    view = View(task, task.model(), LABELLED, UNLABELLED, num_initial=1_000, held_out=HELD_OUT, needs=needs)
    picks = plugin.function(view, PICKS, np.random.default_rng(0), **values)
    assert np.isin(picks, UNLABELLED).all()
    return {"picks": len(set(picks.tolist()))}


def measure(work: Callable[[], dict[str, int]]) -> dict[str, float]:
    """The results of the work, its seconds, and its peak memory: in total, and beyond the memory before it."""
    before, start, start_cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    counts = work()
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
    peak = memory_mb("VmHWM")
    return {**counts, **seconds, "peak_mb": peak, "growth_mb": peak - before}


def main(what: str) -> None:
    if Path(what).is_file():
        figures = measure(lambda: load_annotations(Path(what)))
    else:
        discovery.discover()
        task = Detector()
        figures = measure(lambda: select(task, what))
    print(json.dumps(figures))


# --- the benchmarks -------------------------------------------------------------------------------
def run_in_fresh_process(benchmark: BenchmarkFixture, what: str) -> dict[str, Any]:
    """Runs `main` in a new process and adds its numbers to the benchmark's row."""

    def run() -> str:
        return subprocess.run([sys.executable, __file__, what], check=True, stdout=subprocess.PIPE, text=True).stdout

    figures: dict[str, Any] = json.loads(benchmark.pedantic(run, rounds=1))
    benchmark.extra_info |= {name: round(value, 1) for name, value in figures.items()}
    return figures


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The annotation file, about 140 MB."""
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    with path.open("w") as file:
        file.writelines(instances())
    yield path
    path.unlink()


@pytest.mark.benchmark(group="COCO-sized: 118,000 images")
def test_reading_the_annotations(benchmark: BenchmarkFixture, path: Path) -> None:
    figures = run_in_fresh_process(benchmark, str(path))
    assert (figures["images"], figures["boxes"], figures["classes"]) == (N, N * NUM_BOXES, K - 1)
    assert figures["growth_mb"] < 650  # measured: 430; 820 with outlines in memory, and COCO's are longer


@pytest.mark.benchmark(group="COCO-sized: 118,000 images")
@pytest.mark.parametrize("label", ["coreset", "isal[depth=10,repeats=2]", "localization_stability"])
def test_choosing_a_thousand(benchmark: BenchmarkFixture, label: str) -> None:
    figures = run_in_fresh_process(benchmark, label)
    assert figures["picks"] == PICKS
    assert figures["peak_mb"] < 8_000


if __name__ == "__main__":
    main(sys.argv[1])
