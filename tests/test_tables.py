"""Tables show what was recorded, what failed and what is missing, and torch is not needed to make them."""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from _curves import identity

from benchmark.analysis import tables as tabling
from benchmark.analysis.load_experiments import read_stores
from benchmark.cli.terminal import print_table
from benchmark.contract.metrics import ACCURACY
from benchmark.experiment.schedule import Schedule
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store

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
    store.update_manifest("made", [{"name": "made_up", "task": "digits", "schedule": schedule, "cells": cells}])
    for cell in cells:
        for number, value in enumerate(SCORES[str(cell["strategy"])].get(int(str(cell["seed"])), [])):
            if number == 0:
                store.start_cell(str(cell["path"]), Header("k", identity("random"), "data", 100, "accuracy", []))
            record = Record(number, 10 + 5 * number, [], {"images": 10.0}, {"accuracy": value})
            store.append(str(cell["path"]), record, Measured(number, {}, False, 0, "cpu", {}))
    store.save_failure("broken_one/seed-0", "Traceback")
    return store


def test_methods_by_rounds_with_spread_and_what_lacks(store: Store) -> None:
    [table] = tabling.build_tables(read_stores([store]))
    assert tabling.text_rows(table) == [
        ["strategy", "10", "15"],
        ["random", "51.00 ± 1.41", "62.00 ± 2.83"],
        ["isal[reference=test]†", "51.00 ± 1.41", "70.00 (1/2)"],
        ["broken_one", "failed (0/2)", "failed (0/2)"],
        ["coreset", "missing (0/2)", "missing (0/2)"],
    ]
    assert "† selection saw evaluation labels." in table.note


def test_csv_reads_back_in_the_columns_of_published_curves(store: Store, tmp_path: Path) -> None:
    [table] = tabling.build_tables(read_stores([store]))
    paths = tabling.write_tables([table], tmp_path)
    assert [path.name for path in paths] == ["made_up.csv", "made_up.md", "made_up.tex"]
    assert paths[0].read_text() == tabling.tidy_frame(table).to_csv(index=False)  # the usual writer of such files
    frame = pd.read_csv(paths[0])
    columns = ["source", "task", "strategy", "num_runs", "round", "num_labelled", "boxes", "metric", "value", "std"]
    assert list(frame.columns[:10]) == columns
    row = frame[(frame.strategy == "random") & (frame["round"] == 1)].iloc[0]
    assert (row["value"], row["num_runs"], row["num_labelled"]) == (62.0, 2, 15)
    assert row["std"] == pytest.approx(8**0.5)


def test_screens_explain_what_files_leave_out(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [table] = tabling.build_tables(read_stores([store]))
    counts, spread = table.legend
    assert (
        spread
        == "±: how far single runs differ; the 95 % interval of their mean, in each round alone, is ± 8.98 times that "
        "with 2 seeds"
    )
    assert counts.startswith("(1/3): seeds that have the round")
    boxes = detection(tmp_path / "boxes").legend
    assert boxes[:2] == [
        "boxes: labels paid so far, the mean over the runs",
        "10k x map / boxes: ten thousand times the score, divided by the boxes",
    ]
    print_table(table)
    assert counts.split(":")[0] in capsys.readouterr().out
    assert counts not in tabling.to_markdown(table) + tabling.to_latex(table)
    uneven = dataclasses.replace(table, rows={"a": [tabling.Entry(1.0, None, 3, 3, 0, 1, {})]})
    assert uneven.legend == []
    uneven.rows["b"] = [tabling.Entry(1.0, None, 5, 5, 0, 1, {})]
    assert uneven.legend == ["runs: a 3, b 5"]


def test_latex_is_balanced_and_escaped(store: Store) -> None:
    [table] = tabling.build_tables(read_stores([store]))
    text = tabling.to_latex(table)
    assert r"broken\_one & failed (0/2) & failed (0/2) \\" in text
    assert r"isal[reference=test]$^\dagger$ & 51.00 $\pm$ 1.41" in text
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_json_holds_every_entry(store: Store) -> None:
    rows = json.loads(tabling.to_json(tabling.build_tables(read_stores([store]))))
    assert len(rows) == 8
    assert [row["value"] for row in rows if row["strategy"] == "coreset"] == [None, None]


def test_csv_quotes_names_with_commas() -> None:
    entry = tabling.Entry(1.0, None, 1, 1, 0, 1, {"images": 3.0})
    name = "isal[k=2,order=file]"
    rows = {name: [entry]}
    table = tabling.Table("t", "x", "digits", ACCURACY, ["1"], (0,), rows, {name: []}, Schedule(1, 1, 1))
    assert "Paid for held-out labels besides: isal[k=2,order=file] (2)." in table.note
    [row] = list(csv.DictReader(io.StringIO(tabling.tidy_frame(table).to_csv(index=False))))
    assert row["strategy"] == "isal[k=2,order=file]"


WITHOUT_TORCH = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from benchmark.cli.commands import main
main()
"""


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("tables", "62.00 ± 2.83"),
        ("savings strategy=isal[reference=test] against=random", "made_up"),
        ("verify", "selection saw evaluation labels"),
        ("status", "made_up"),
        ("report", "report.html"),
    ],
    ids=lambda text: text.split()[0],
)
def test_needs_no_torch(store: Store, command: str, text: str) -> None:
    arguments = [*command.split(), f"out={store.folder}"]
    environment = os.environ | {"COLUMNS": "160"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, encoding="utf-8", env=environment
    )
    assert result.returncode == (1 if command == "verify" else 0), result.stderr
    assert text in result.stdout


def test_daggers_are_told_in_words_and_the_csv_tells_of_evaluation_labels_alone(tmp_path: Path) -> None:
    saw, cut = "selection saw evaluation labels", "the pool was cut by its boxes"
    daggers = {"honest": [], "tested": [saw], "cut": [cut], "old": True, "older": False, "both": [saw, cut]}
    cells = [
        {"path": name, "key": "k", "strategy": name, "seed": 0, "dagger": sentences}
        for name, sentences in daggers.items()
    ]
    store = Store(tmp_path)
    schedule = {"initial": 10, "budget": 5, "rounds": 1, "validation": 0}
    store.update_manifest("made", [{"name": "e", "task": "t", "schedule": schedule, "cells": cells}])
    [table] = tabling.build_tables(read_stores([store]))
    assert table.daggers == daggers | {"old": [saw], "older": []}
    assert [row[0] for row in tabling.text_rows(table)[1:]] == ["honest", "tested†", "cut†", "old†", "older", "both†"]
    assert table.note.endswith(
        "columns: labelled images. † selection saw evaluation labels; the pool was cut by its boxes."
    )
    frame = tabling.tidy_frame(table)
    assert dict(zip(frame.strategy, frame.saw_evaluation_labels, strict=True)) == {
        "honest": False, "tested": True, "cut": False, "old": True, "older": False, "both": True
    }  # fmt: skip


# --- detection: three seeds, and boxes that are paid for ------------------------------------
DETECTION = {  # strategy -> seed -> (images, boxes, map) a round
    "random": {
        0: [(500, 1300, 0.02), (1000, 2600, 0.21), (1500, 4000, 0.25)],
        1: [(500, 1340, 0.03), (1000, 2700, 0.23)],
    },
    "isal[k=2]": {0: [(500, 1300, 0.02), (700, 2500, 0.22)], 1: [(500, 1340, 0.03), (800, 2500, 0.24)]},
    "lost": {0: []},
}  # fmt: skip


def detection(folder: Path, **more: object) -> tabling.Table:
    store = Store(folder / "run")
    schedule = {"initial": 500, "budget": 500, "rounds": 3, "validation": 0} | more
    cells = [
        {"path": f"{number}/seed-{seed}", "key": "k", "strategy": name, "seed": seed, "dagger": []}
        for number, name in enumerate(DETECTION)
        for seed in (0, 1)
    ]
    store.update_manifest("made", [{"name": "voc", "task": "voc2012", "schedule": schedule, "cells": cells}])
    for cell in cells:
        records = DETECTION[str(cell["strategy"])].get(int(str(cell["seed"])), [])
        for number, (images, boxes, score) in enumerate(records):
            if number == 0:
                store.start_cell(str(cell["path"]), Header("k", identity("random"), "data", 9000, "map", []))
            cost = {"images": float(images), "boxes": float(boxes)}
            record = Record(number, images, [], cost, {"map": score, "ap50": 2 * score})
            store.append(str(cell["path"]), record, Measured(number, {}, False, 0, "cpu", {}))
    [table] = tabling.build_tables(read_stores([store]))
    assert "AUDIT FAILED" in table.note  # nothing was bought: these records are of tables alone
    return dataclasses.replace(table, faults=[])


def test_detection_has_three_lines_a_strategy(tmp_path: Path) -> None:
    expected = """\
### voc: map

| strategy | 500 | 1,000 | 1,500 |
| --- | ---: | ---: | ---: |
| random | 0.025 ± 0.007 | 0.220 ± 0.014 | 0.250 (1/2) |
|   boxes | 1,320 | 2,650 | 4,000 |
|   10k x map / boxes | 0.189 | 0.830 | 0.625 |
| isal[k=2] | 0.025 ± 0.007 | 0.230 ± 0.014 | missing (0/2) |
|   boxes | 1,320 | 2,500 |  |
|   10k x map / boxes | 0.189 | 0.920 |  |
| lost | missing (0/2) | missing (0/2) | missing (0/2) |
|   boxes |  |  |  |
|   10k x map / boxes |  |  |  |

Mean ± sample standard deviation over 2 seeds; columns: labelled images.
"""
    assert tabling.to_markdown(detection(tmp_path)) == expected


def test_rounds_that_no_seed_needs_are_dashes_and_means_over_fewer_seeds_say_so(tmp_path: Path) -> None:
    table = detection(tmp_path, until="map 0.22 +- 0.003")
    assert [row for row in tabling.text_rows(table) if not row[0].startswith(" ")] == [
        ["strategy", "500", "1,000", "1,500"],
        ["random", "0.025 ± 0.007", "0.220 ± 0.014", "0.250 (1/2)"],
        ["isal[k=2]", "0.025 ± 0.007", "0.230 ± 0.014", "–"],
        ["lost", "missing (0/2)", "missing (0/2)", "missing (0/2)"],
    ]
    assert table.note.endswith(" A seed ends with its first round in or past map 0.22 +- 0.003 (–: all have ended).")
    assert [[entry.num_ended for entry in row] for row in table.rows.values()] == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    assert "missing (0/2)" in detection(tmp_path / "other", until="map 0.23 +- 0.003").rows["isal[k=2]"][2].format()


def test_latex_indents_the_lines_below_a_strategy(tmp_path: Path) -> None:
    expected = r"""\begin{table}
\centering
\caption{voc: map. Mean $\pm$ sample standard deviation over 2 seeds; columns: labelled images, then boxes bought on \
top (the images they are on differ). \
A seed ends with its first round in or past map 0.22 +- 0.003 (--: all have ended).}
\begin{tabular}{lrrr}
\toprule
strategy & 500 & +1,000 boxes & +2,000 boxes \\
\midrule
random & 0.025 $\pm$ 0.007 & 0.220 $\pm$ 0.014 & 0.250 (1/2) \\
\quad boxes & 1,320 & 2,650 & 4,000 \\
\quad 10k x map / boxes & 0.189 & 0.830 & 0.625 \\
isal[k=2] & 0.025 $\pm$ 0.007 & 0.230 $\pm$ 0.014 & -- \\
\quad boxes & 1,320 & 2,500 &  \\
\quad 10k x map / boxes & 0.189 & 0.920 &  \\
lost & missing (0/2) & missing (0/2) & missing (0/2) \\
\quad boxes &  &  &  \\
\quad 10k x map / boxes &  &  &  \\
\bottomrule
\end{tabular}
\end{table}
""".replace(" \\\n", " ")
    table = detection(tmp_path, budget=1000, budget_in="boxes", until="map 0.22 +- 0.003")
    assert tabling.to_latex(table) == expected


def test_csv_of_detection_has_boxes_and_the_images_that_were_bought(tmp_path: Path) -> None:
    columns = ["strategy", "round", "num_runs", "num_labelled", "boxes", "metric", "value", "per_10k_boxes"]
    frames = [detection(tmp_path / "images"), detection(tmp_path / "boxes", budget=1000, budget_in="boxes")]
    by_image, by_box = (
        tabling.tidy_frame(table)[columns].round(6).to_csv(index=False).splitlines() for table in frames
    )
    assert by_image[2] == "random,1,2,1000,2650.0,map,0.22,0.830189"
    assert by_image[5] == "isal[k=2],1,2,1000,2500.0,map,0.23,0.92"
    assert by_image[6] == "isal[k=2],2,0,1500,,map,,"
    assert by_box[5] == "isal[k=2],1,2,750.0,2500.0,map,0.23,0.92"
    assert by_box[6] == "isal[k=2],2,0,,,map,,"
    rows = json.loads(tabling.to_json(frames))
    assert [row["boxes"] for row in rows[:3]] == [1320, 2650, 4000]


def test_the_terminal_shows_all_lines_of_detection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(detection(tmp_path))
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [line[1].rstrip() for line in lines[:3]] == [" random", "   boxes", "   10k x map / boxes"]
    assert [text.strip() for text in lines[1][2:5]] == ["1,320", "2,650", "4,000"]
