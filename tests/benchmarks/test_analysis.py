"""Times tables and statistics of 10,000 records (20 experiments x 10 strategies x 5 seeds x 10 rounds), and whole
commands on 10,000 cells (10 experiments x 20 strategies x 50 seeds, 10 rounds each)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.analysis import comparisons, stats
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.savings import Price
from benchmark.analysis.tables import build_tables, write_tables
from benchmark.records.checksummed_lines import encode_line
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store

EXPERIMENTS, STRATEGIES, SEEDS, ROUNDS = 20, 10, 5, 10
BUDGET = 100
PLUG_IN = {"name": "x", "version": 1, "parameters": {}}
IDENTITY = {"task": PLUG_IN, "strategy": PLUG_IN}
SIZES = (10, 20, 50)  # of the large folder: experiments, strategies, seeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("large"))
    schedule = {"initial": BUDGET, "budget": BUDGET, "rounds": ROUNDS, "validation": 0}
    store.update_manifest(
        "large", [{"name": f"e{e}", "task": "t", "schedule": schedule, "cells": cells(e)} for e in range(EXPERIMENTS)]
    )
    rng = np.random.default_rng(0)
    for cell in (cell for e in range(EXPERIMENTS) for cell in cells(e)):
        store.start_cell(str(cell["path"]), Header(str(cell["key"]), IDENTITY, "data", 5_000, "accuracy", []))
        order = np.concatenate([np.arange(BUDGET), BUDGET + rng.permutation(4_900)])
        for number in range(ROUNDS):
            bought = order[number * BUDGET : (number + 1) * BUDGET].tolist()
            labelled = BUDGET * (number + 1)
            score = 50.0 if number == 0 else 50 + 4 * number + float(rng.normal())
            record = Record(number, labelled, bought, {"images": float(labelled)}, {"accuracy": score})
            store.append(str(cell["path"]), record, Measured(number, {"fit": 1.0}, False, 1.0, "cpu", {}))
    return store.folder


def cells(number: int, strategies: int = STRATEGIES, seeds: int = SEEDS) -> list[dict[str, object]]:
    return [
        {
            "path": f"e{number}/s{s}/seed-{seed}", "key": f"{number} {s} {seed}", "strategy": f"s{s}", "seed": seed,
            "dagger": [],
        }
        for s in range(strategies)
        for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.benchmark(group="tables, comparisons and penalties of 10,000 records")
def test_tables_and_statistics_of_10_000_records(benchmark: BenchmarkFixture, folder: Path, tmp_path: Path) -> None:
    def analyse() -> int:
        experiments = read_experiments(str(folder))
        write_tables(build_tables(experiments), tmp_path)
        comparison_lists = [
            comparisons.compare_all(experiment, "s0", Price("images"), 0.95, 0)[0] for experiment in experiments
        ]
        for experiment in experiments:
            stats.penalty_matrix(list(experiment.curves.values()))
        return sum(map(len, comparison_lists))

    assert benchmark.pedantic(analyse, rounds=1) == EXPERIMENTS * (STRATEGIES - 1)
    benchmark.extra_info["records"] = EXPERIMENTS * STRATEGIES * SEEDS * ROUNDS


@pytest.fixture(scope="session")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("thousands"))
    schedule = {"initial": BUDGET, "budget": BUDGET, "rounds": ROUNDS, "validation": BUDGET}
    experiments = {f"e{e}": cells(e, *SIZES[1:]) for e in range(SIZES[0])}
    store.update_manifest(
        "large", [{"name": e, "task": e, "schedule": schedule, "cells": inside} for e, inside in experiments.items()]
    )
    for cell in (cell for inside in experiments.values() for cell in inside):
        fill(store, str(cell["path"]), str(cell["key"]), int(str(cell["seed"])))
    return store.folder


def fill(store: Store, cell: str, key: str, seed: int) -> None:
    """Writes a cell as `Store.append` does, without syncing every line; one seed is incomplete and has failed."""
    start, rng = np.random.default_rng(seed), np.random.default_rng(list(cell.encode()))
    initial, held_out, first = *np.split(start.permutation(2 * BUDGET), 2), float(start.normal(50, 3))
    order = np.concatenate([initial, 2 * BUDGET + rng.permutation(50_000)[: BUDGET * (ROUNDS - 1)]]).tolist()
    records, measurements = (
        [structs.asdict(Header(key, IDENTITY | {"seed": seed}, "data", 60_000, "accuracy", held_out.tolist()))],
        [],
    )
    for number in range(4 if seed == 7 else ROUNDS):
        labelled = BUDGET * (number + 1)
        bought, score = order[labelled - BUDGET : labelled], first + number * float(rng.normal(4, 0.1))
        records.append(
            structs.asdict(Record(number, labelled, bought, {"images": float(labelled)}, {"accuracy": score}))
        )
        seconds = {"fit": float(rng.random()), "score": 0.1, "select": 0.1}
        measurements.append(structs.asdict(Measured(number, seconds, False, 1.0, "cpu", {"numpy": "2", "torch": "2"})))
    for kind, lines in {"cells": records, "measured": measurements}.items():
        path = store.path(cell, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(map(encode_line, lines)))
    if seed == 7:
        store.save_failure(cell, "Traceback")


@pytest.mark.benchmark(group="commands on 10,000 cells of 10 rounds")
@pytest.mark.parametrize("command", ["status", "tables"])
def test_commands_on_10_000_cells(benchmark: BenchmarkFixture, thousands: Path, command: str) -> None:
    words = [sys.executable, "-m", "benchmark", command, f"out={thousands}"]
    result = benchmark.pedantic(lambda: subprocess.run(words, check=True, capture_output=True, text=True), rounds=1)
    benchmark.extra_info["cells"] = SIZES[0] * SIZES[1] * SIZES[2]
    assert "e4" in result.stdout
    assert "AUDIT FAILED" not in result.stdout
