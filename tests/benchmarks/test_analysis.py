"""Tables and statistics of a grid of 10,000 records: 20 experiments x 10 strategies x 5 seeds x 10 rounds."""

from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.analysis import comparisons, stats
from benchmark.analysis.curves import read
from benchmark.analysis.savings import Price
from benchmark.analysis.tables import tables, write
from benchmark.store import Header, Measured, Record, Store

EXPERIMENTS, STRATEGIES, SEEDS, ROUNDS = 20, 10, 5, 10
BUDGET = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("large"))
    schedule = {"initial": BUDGET, "budget": BUDGET, "rounds": ROUNDS, "validation": 0}
    store.ask(
        "large", [{"name": f"e{e}", "task": "t", "schedule": schedule, "cells": cells(e)} for e in range(EXPERIMENTS)]
    )
    rng = np.random.default_rng(0)
    for cell in (cell for e in range(EXPERIMENTS) for cell in cells(e)):
        store.start(str(cell["path"]), Header(str(cell["key"]), {}, "data", 5_000, "accuracy", []))
        order = np.concatenate([np.arange(BUDGET), BUDGET + rng.permutation(4_900)])
        for number in range(ROUNDS):
            bought = order[number * BUDGET : (number + 1) * BUDGET].tolist()
            labelled = BUDGET * (number + 1)
            score = 50.0 if number == 0 else 50 + 4 * number + float(rng.normal())
            record = Record(number, labelled, bought, {"images": float(labelled)}, {"accuracy": score})
            store.append(str(cell["path"]), record, Measured(number, {"fit": 1.0}, False, 1.0, "cpu", {}))
    return store.folder


def cells(number: int) -> list[dict[str, object]]:
    return [
        {
            "path": f"e{number}/s{s}/seed-{seed}", "key": f"{number} {s} {seed}", "strategy": f"s{s}", "seed": seed,
            "dagger": [],
        }
        for s in range(STRATEGIES)
        for seed in range(SEEDS)
    ]  # fmt: skip


def test_tables_and_statistics_of_10_000_records(benchmark: BenchmarkFixture, folder: Path, tmp_path: Path) -> None:
    def everything() -> int:
        experiments = read(str(folder))
        write(tables(experiments), tmp_path)
        made = [comparisons.against(one, "s0", Price("images"), 0.95, 0)[0] for one in experiments]
        for one in experiments:
            stats.penalties(list(one.curves.values()))
        return sum(map(len, made))

    assert benchmark.pedantic(everything, rounds=1) == EXPERIMENTS * (STRATEGIES - 1)
    benchmark.extra_info["records"] = EXPERIMENTS * STRATEGIES * SEEDS * ROUNDS
