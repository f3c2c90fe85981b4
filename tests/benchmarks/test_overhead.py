"""What the harness itself takes: all of the quick grid's time but that of fitting, scoring and selecting."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.store import Measured, Store


def test_overhead_of_the_quick_grid(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    def grid() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmark", "run", f"out={tmp_path}"], check=True, capture_output=True)
        return time.perf_counter() - began

    wall = benchmark.pedantic(grid, rounds=1)
    spent = seconds(Store(tmp_path))
    benchmark.extra_info.update(spent, wall=wall, overhead_share=1 - sum(spent.values()) / wall)
    assert set(spent) == {"fit", "score", "select"}
    assert sum(spent.values()) < wall


def seconds(store: Store) -> dict[str, float]:
    """Seconds of fit, score and select over all cells; a shared fit took none here."""
    cells = [cell["path"] for one in store.manifest()["experiments"] for cell in one["cells"]]
    total = Counter[str]()
    for one in (one for cell in cells for one in store.measured(cell)):
        total.update(own(one))
    return dict(total)


def own(one: Measured) -> dict[str, float]:
    return {name: took for name, took in one.seconds.items() if name != "fit" or not one.shared_fit}
