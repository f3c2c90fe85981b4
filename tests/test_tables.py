"""Tables show what was recorded, what failed and what is missing, and torch is not needed to make them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmark.analysis import tables as tabling
from benchmark.store import Header, Measured, Record, Store

STRATEGIES = {"random": False, "isal[reference=test]": True, "broken_one": False, "coreset": False}
SCORES = {  # strategy -> seed -> score a round
    "random": {0: [50.0, 60.0], 1: [52.0, 64.0]},
    "isal[reference=test]": {0: [50.0, 70.0], 1: [52.0]},
    "broken_one": {},
    "coreset": {},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "run")
    cells = [
        {"path": f"{name.partition('[')[0]}/seed-{seed}", "key": "k", "strategy": name, "seed": seed, "dagger": dagger}
        for name, dagger in STRATEGIES.items()
        for seed in (0, 1)
    ]
    schedule = {"initial": 10, "budget": 5, "rounds": 2, "validation": 0}
    store.ask("made", [{"name": "made_up", "task": "digits", "schedule": schedule, "cells": cells}])
    for cell in cells:
        for number, value in enumerate(SCORES[str(cell["strategy"])].get(int(str(cell["seed"])), [])):
            if number == 0:
                store.start(str(cell["path"]), Header("k", {}, "data", 100, "accuracy", []))
            record = Record(number, 10 + 5 * number, [], {"images": 10.0}, {"accuracy": value})
            store.append(str(cell["path"]), record, Measured(number, {}, False, 0, "cpu", {}))
    store.fail("broken_one/seed-0", "Traceback")
    return store


def test_methods_by_rounds_with_spread_and_what_lacks(store: Store) -> None:
    [made] = tabling.tables(store)
    assert tabling.grid_of(made) == [
        ["strategy", "10", "15"],
        ["random", "51.00 ± 1.41", "62.00 ± 2.83"],
        ["isal[reference=test]†", "51.00 ± 1.41", "70.00 (1/2)"],
        ["broken_one", "failed (0/2)", "failed (0/2)"],
        ["coreset", "missing (0/2)", "missing (0/2)"],
    ]
    assert "† selection saw evaluation labels." in made.note


def test_csv_reads_back_in_the_columns_of_published_curves(store: Store, tmp_path: Path) -> None:
    paths = tabling.write(tabling.tables(store), tmp_path, "made")
    assert [path.name for path in paths] == ["made_up.csv", "made_up.md", "made_up.tex"]
    frame = pd.read_csv(paths[0])
    columns = ["source", "task", "strategy", "num_runs", "round", "num_labelled", "boxes", "metric", "value", "std"]
    assert list(frame.columns[:10]) == columns
    row = frame[(frame.strategy == "random") & (frame["round"] == 1)].iloc[0]
    assert (row["value"], row["num_runs"], row["num_labelled"]) == (62.0, 2, 15)
    assert row["std"] == pytest.approx(8**0.5)


def test_latex_is_balanced_and_escaped(store: Store) -> None:
    [made] = tabling.tables(store)
    text = tabling.latex(made)
    assert r"broken\_one & failed (0/2) & failed (0/2) \\" in text
    assert r"isal[reference=test]$^\dagger$ & 51.00 $\pm$ 1.41" in text
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_json_holds_every_entry(store: Store) -> None:
    rows = json.loads(tabling.as_json(tabling.tables(store), "made"))
    assert len(rows) == 8
    assert [row["value"] for row in rows if row["strategy"] == "coreset"] == [None, None]


def test_csv_quotes_names_with_commas() -> None:
    entry = tabling.Entry(1.0, None, 1, 1, 0)
    name = "isal[k=2,order=file]"
    made = tabling.Table("t", "digits", "accuracy", [1], {name: [entry]}, {name: [{"images": 3.0}]}, [])
    assert "Paid for held-out labels besides: isal[k=2,order=file] (2)." in made.note
    [row] = list(csv.DictReader(io.StringIO(tabling.tidy(made, "x").to_csv(index=False))))
    assert row["strategy"] == "isal[k=2,order=file]"


def test_needs_no_torch(store: Store) -> None:
    code = f"""
import sys; sys.modules["torch"] = None
from benchmark.cli import main
sys.argv = ["benchmark", "tables", "out={store.folder}"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "62.00 ± 2.83" in done.stdout
