"""Times the overhead of the harness: all time of the quick grid except fitting, scoring and selecting."""

import importlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.records.record import Measured
from benchmark.records.store import Store

Command = Callable[..., tuple[int, str]]
START = (
    "from benchmark.cli import commands, progress; "
    "from benchmark.runner import gallery_writer, tracking; from benchmark.runner.launchers import local_launch; "
    "from benchmark.plugins import discovery; discovery.discover(None)"
)


@pytest.mark.benchmark(group="overhead of the quick grid")
def test_overhead_of_the_quick_grid(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """`start`: starting the interpreter and importing PyTorch, torchvision and scikit-learn, once per command."""

    def run_seconds(*words: str) -> float:
        begin_time = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        return time.perf_counter() - begin_time

    start = min(run_seconds("-c", START) for _ in range(3))
    wall = benchmark.pedantic(run_seconds, ("-m", "benchmark", "run", f"out={tmp_path}"), rounds=1)
    spent = seconds(Store(tmp_path))
    rest = wall - sum(spent.values())
    parts = {**spent, "start": start, "rest": rest - start}
    benchmark.extra_info.update({f"{name}, s": round(value, 1) for name, value in parts.items()})
    benchmark.extra_info["rest, %"] = round(100 * (rest - start) / wall, 1)
    benchmark.extra_info["start and rest, %"] = round(100 * rest / wall, 1)
    assert set(spent) == {"fit", "score", "select"}
    assert 0 < rest < wall


def seconds(store: Store) -> dict[str, float]:
    """The seconds of fit, score and select over all cells; a shared fit counts for the cell that trained it."""
    cells = [cell["path"] for experiment in store.manifest()["experiments"] for cell in experiment["cells"]]
    total = Counter[str]()
    for experiment in (experiment for cell in cells for experiment in store.measurements(cell)):
        total.update(own_seconds(experiment))
    return dict(total)


def own_seconds(measurement: Measured) -> dict[str, float]:
    """The seconds that a round took itself, without encodings: every round that uses them lists them again."""
    return {
        name: seconds
        for name, seconds in measurement.seconds.items()
        if name != "encode" and not (name == "fit" and measurement.shared_fit)
    }


DIGESTS = (
    "benchmark.system.tensor_files.tensor_digest",
    "benchmark.runner.gallery_writer.digest",
    "benchmark.vision.training.checkpoint_digest",
)


@pytest.mark.benchmark(group="digests of the quick grid")
def test_digests_of_the_quick_grid(
    benchmark: BenchmarkFixture, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for computing and comparing digests, as a share of the fits and of the whole run."""
    seconds_by_name, calls = Counter[str](), Counter[str]()

    def time_calls(name: str) -> None:
        module, _, function = name.rpartition(".")
        plain = getattr(importlib.import_module(module), function)

        def timed_call(*arguments: object) -> object:
            start = time.perf_counter()
            result = plain(*arguments)
            seconds_by_name[name] += time.perf_counter() - start
            calls[name] += 1
            return result

        monkeypatch.setattr(name, timed_call)

    for name in DIGESTS:
        time_calls(name)
    start = time.perf_counter()
    code, output = benchmark.pedantic(command, ("run", f"out={tmp_path}"), rounds=1)
    wall, fits = time.perf_counter() - start, seconds(Store(tmp_path))["fit"]
    assert code == 0, output
    total = sum(seconds_by_name.values())
    benchmark.extra_info.update({
        "digests": sum(calls.values()), "digests, s": round(total, 3),
        "of fits, %": round(100 * total / fits, 2), "of the run, %": round(100 * total / wall, 2),
    })  # fmt: skip
    assert calls["benchmark.system.tensor_files.tensor_digest"] > 0
    assert total < 0.02 * fits
    assert total < 0.02 * wall
