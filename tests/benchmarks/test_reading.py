"""Times reading a folder of JPEGs into memory: the usual way, a pool of threads, a first start and a second one.

All rows read the same files: those of AL_BENCHMARK_DATA/cifar10_jpeg (60,000) where they are, else generated ones. What
is not read from a JPEG, such as the construction of the network, is not timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.tasks.image_folder import read_split_folders
from benchmark.vision.classification import Split
from benchmark.vision.data.decoded_images import DecodedImages
from benchmark.vision.data.duplicates import report_sources
from benchmark.vision.data.forked_processes import num_cores

NUM_GENERATED, SIZE, CLASSES = 12_000, 32, 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data set."""
    given = Path(os.environ.get("AL_BENCHMARK_DATA") or "nowhere") / "cifar10_jpeg"
    return given if given.is_dir() else write_jpegs(tmp_path_factory.mktemp("jpegs"))


def write_jpegs(root: Path) -> Path:
    """Writes smooth random images; a sixth of them is the test set."""
    rng = np.random.default_rng(0)
    for number in range(NUM_GENERATED):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        folder = root / ("train", "test")[number % 6 == 0] / f"class{number // 6 % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return root


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache folder, which is removed again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for file in (tmp_path / "cache").rglob("*.*"):
        file.unlink()


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_as_usual(root: Path) -> int:
    """Reads with torchvision's ImageFolder in the processes of a DataLoader, without a search for duplicates."""
    from torchvision.datasets import ImageFolder

    count = 0
    for part in ("train", "test"):
        files = ImageFolder(root / part, to_tensor)
        batches = DataLoader(files, 256, num_workers=num_cores())
        count += len(torch.cat([images for images, _ in batches]))
    return count


def read_in_threads(root: Path) -> int:
    """Reads in threads, which wait for one another's Python."""
    count = 0
    for part in ("train", "test"):
        paths = sorted((root / part).rglob("*.jpg"))
        images = DecodedImages.allocate(len(paths), SIZE)
        with ThreadPoolExecutor(num_cores()) as threads:
            list(threads.map(lambda row: images.decode_file(row, paths[row], "turn"), range(len(paths))))  # noqa: B023
        count += len(images.scans(paths))
    return count


def start(root: Path) -> int:
    """Reads as `image_folder` does, and searches for duplicates."""
    pool, test, _ = read_split_folders(root, "train", "test", SIZE, "turn")
    assert isinstance(pool, Split)
    report_sources(pool.scans, test.scans, root)
    return len(pool.labels_N) + len(test.labels_N)


READERS: dict[str, Callable[[Path], int]] = {
    "ImageFolder in a DataLoader": read_as_usual,
    "threads": read_in_threads,
    "first start": start,
    "second start": start,
}


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.benchmark(group="JPEGs of 32x32 pixels into memory")
@pytest.mark.parametrize("reader", READERS)
def test_reading(benchmark: BenchmarkFixture, reader: str, root: Path) -> None:
    if reader == "second start":
        start(root)
    benchmark.extra_info["images"] = benchmark.pedantic(READERS[reader], (root,), rounds=1)
