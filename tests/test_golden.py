"""The golden table: a change leaves it byte-identical, or raises a `version` and says so in CHANGELOG.md.

`AL_BENCHMARK_GOLDEN=write make test` writes it anew. Floating-point sums differ between processors and releases of
torch, so it is compared on the processor it names only.
"""

import os
import re
from pathlib import Path

import pytest
import torch
from _cells import cell, run

from benchmark.analysis import tables as tabling
from benchmark.analysis.reading import read_stores
from benchmark.records.store import Store

GOLDEN = Path(__file__).parent / "golden.md"
STRATEGIES = [
    "random",
    "entropy",
    "bald",
    "coreset",
    "badge",
    "isal[depth=25]",
    "learning_loss",
    "discriminative[epochs=20]",
    "coreset[encoder=patch_pca]",
    "geal[encoder=patch_pca,k=4]",
    "freesel[encoder=patch_pca,k=4]",
]


def processor() -> str:
    """What the bytes of a float depend on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return f"{names[0] if names else 'unknown'}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def table(folder: Path) -> str:
    """The table of a small cell of every kind of strategy, with each round's first picks below."""
    cells = [cell(name, task="digits", budget=10) for name in STRATEGIES]
    events = run(cells, folder)
    store = Store(folder / "run")
    rows = [
        {
            "path": c.path, "key": c.key, "strategy": c.strategy.label, "seed": 0, "dagger": list(c.daggers),
            "companion": c.has_companion,
        }
        for c in cells
    ]  # fmt: skip
    schedule = {"initial": 20, "budget": 10, "rounds": 3, "validation": 10}
    store.update_manifest("golden", [{"name": "golden", "task": "digits", "schedule": schedule, "cells": rows}])
    [table] = tabling.build_tables(read_stores([store]))
    picks = [f"{e.cell.strategy.label} {e.record.round}: {list(e.record.bought[:5])}" for e in events]  # type: ignore[union-attr]
    return "\n".join([tabling.to_markdown(table), *picks, ""])


def test_the_golden_table_is_byte_identical(tmp_path: Path) -> None:
    if os.environ.get("AL_BENCHMARK_GOLDEN") == "write":
        GOLDEN.write_text(f"{processor()}\n\n{table(tmp_path / 'written')}")
    written_on, golden = GOLDEN.read_text().split("\n\n", 1)
    if written_on != processor():
        pytest.skip(f"written on {written_on}, this is {processor()}")
    assert table(tmp_path / "again") == golden
