"""What all tests share. Imports no torch itself: tests of torch-free imports are collected from here too."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmark.api import Machine

START = time.monotonic()
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it in its workers: output would be wrapped
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' networks are too small for more, and so are busy machines
CACHE = tempfile.TemporaryDirectory()  # for what is remembered of image files: nobody's own cache folder
os.environ["XDG_CACHE_HOME"] = CACHE.name


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """The CPU, with operations that repeat themselves to the bit; data sets where the environment has them."""
    import torch

    from benchmark.api import Machine

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    data = os.environ.get("AL_BENCHMARK_DATA")
    yield Machine(torch.device("cpu"), Path(data) if data else None)
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Types a command here; exit code and what was said on standard error."""

    def typed(*words: object) -> tuple[int, str]:
        from benchmark.cli.commands import main

        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return typed


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what cannot run here, and what AL_BENCHMARK_TEST_SECONDS leaves no time to start (.ci/run)."""
    limit = os.environ.get("AL_BENCHMARK_TEST_SECONDS")
    if limit is not None and time.monotonic() - START > float(limit):
        pytest.skip(f"not started: {limit} seconds are over")
    if item.get_closest_marker("mmdet") and importlib.util.find_spec("mmdet") is None:
        pytest.skip("needs the mmdet extra")
    if item.get_closest_marker("gpu") and not has_gpu():
        pytest.skip("needs a GPU")


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()
