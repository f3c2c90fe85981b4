"""Training and selection may vary separately; where they do not vary, every byte stays the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _cells import bytes_of, cell, run
from msgspec import structs
from typer.testing import CliRunner

from benchmark.analysis import audit, explain, load_experiments
from benchmark.cli.commands import app
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment
from benchmark.experiment.variants import ORDINARY, STAGGERED, Variant
from benchmark.records import manifest
from benchmark.records.checksummed_lines import encode_line
from benchmark.records.record import line_fields
from benchmark.records.store import Store
from benchmark.runner import acquisition, fit_cache
from benchmark.runner.record_checks import partial_header
from benchmark.runner.run_grid import manifest_entry
from benchmark.seeds import seed


def whole(strategy: str, variant: Variant = ORDINARY, number: int = 0) -> Cell:
    return replace(cell(strategy, seed=number), variant=variant)


def recorded(folder: Path, *strategies: str, variants: tuple[Variant, ...] = STAGGERED, seeds: int = 2) -> Store:
    """Returns a results folder of small runs on digits, as a run leaves it."""
    first = cell(strategies[0])
    specs = tuple(cell(name).strategy for name in strategies)
    experiment = Experiment("digits", first.task, first.schedule, specs, tuple(range(seeds)), variants=variants)
    run(list(experiment.cells()), folder)
    store = Store(folder / "run")
    store.update_manifest("quick", [manifest_entry(experiment)])
    return store


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two strategies, two seeds, three variants; only read."""
    return recorded(tmp_path_factory.mktemp("full"), "random", "margin")


def rounds(store: Store, one_cell: Cell) -> list[Any]:
    return store.records(one_cell.path)[1]


@pytest.mark.parametrize(
    ("strategy", "number", "key", "digest"),
    [
        ("random", 0, "d34e6e479598d975", "0d727fa1552b4486"),
        ("coreset[metric=cosine]", 7, "3cf5b9ed8611dfb4", "2742f32598a6e509"),
    ],
)
def test_the_ordinary_cell_is_what_it_was_to_the_byte(strategy: str, number: int, key: str, digest: str) -> None:
    one_cell = whole(strategy, number=number)  # keys and headers as of before there were variants
    header = structs.replace(partial_header(one_cell), metric="accuracy", data="1", num_pool=1)
    assert one_cell.key == key
    assert hashlib.sha256(encode_line(line_fields(header))).hexdigest()[:16] == digest
    assert one_cell.path.endswith(f"/seed-{number}")
    assert one_cell.label.endswith(f" seed {number}")
    assert fit_cache.fit_inputs(one_cell, 2)[0] == seed("fit", "digits", number, 2)
    assert acquisition.selection_seed("select", one_cell, 2) == seed("select", "digits", number, strategy, 2)


def test_a_variant_is_another_cell_whose_seeds_are_its_own() -> None:
    cells = [whole("random", variant) for variant in STAGGERED]
    assert len({each.key for each in cells}) == len({each.path for each in cells}) == 3
    assert cells[2].path.endswith("/seed-0-training-1-selection-2")
    assert cells[1].label.endswith(" seed 0, selection 1")
    fits = [fit_cache.fit_inputs(each, 2)[0] for each in cells]
    choices = [acquisition.selection_seed("select", each, 2) for each in cells]
    assert fits[0] == fits[1] != fits[2] == seed("fit", "digits", 0, 2, "training 1")
    assert len(set(choices)) == 3
    assert choices[2] == seed("select", "digits", 0, "random", 2, "selection 2")


def test_what_a_variant_keeps_and_what_it_changes(full: Store) -> None:
    store = full
    first, other, third = (rounds(store, whole("random", variant)) for variant in STAGGERED)
    assert first[0] == other[0]  # the same images, training and score
    assert third[0].bought == first[0].bought
    assert third[0].scores != first[0].scores
    assert len({tuple(each[1].bought) for each in (first, other, third)}) == 3
    same, again, trained = (rounds(store, whole("margin", variant)) for variant in STAGGERED)
    assert same == again  # margin draws nothing
    assert trained[1].bought != same[1].bought
    headers = [store.header(whole("random", variant).path) for variant in STAGGERED]
    assert all(header is not None and header.held_out == headers[0].held_out for header in headers)  # type: ignore[union-attr]
    assert headers[2] is not None
    assert {name: headers[2].cell[name] for name in ("seed", "training", "selection")} == {
        "seed": 0, "training": 1, "selection": 2,
    }  # fmt: skip


def test_variants_change_no_byte_beside_them_and_no_answer(full: Store, tmp_path: Path) -> None:
    plain = recorded(tmp_path, "random", "margin", variants=(ORDINARY,))
    before, after = bytes_of(plain.folder), bytes_of(full.folder)
    assert len(after) == 3 * len(before)
    assert {path: after[path] for path in before} == before
    [ordinary], [other] = load_experiments.read_stores([plain]), load_experiments.read_stores([full])
    assert [run.path for run in ordinary.runs] == [run.path for run in other.runs]
    for name, curve in ordinary.curves.items():
        np.testing.assert_array_equal(curve.value_SR, other.curves[name].value_SR)
    assert len(other.variant_runs) == 8
    entries = {cell["path"]: cell for cell in full.manifest()["experiments"][0]["cells"]}
    assert all(entries[cell["path"]] == cell for cell in plain.manifest()["experiments"][0]["cells"])
    words = "8 runs that vary training or selection alone: left out here, used by `variance`"
    for verb in (["tables"], ["status"], ["verify"], ["savings"], ["compare", "margin", "random"], ["seconds"]):
        said = CliRunner().invoke(app, [*verb, f"out={full.folder}"])
        assert words in said.output, (verb, said.output)
        assert "variance" not in CliRunner().invoke(app, [*verb, f"out={plain.folder}"]).output
    status = json.loads(CliRunner().invoke(app, ["status", f"out={full.folder}", "format=json"]).stdout)
    assert status[0]["cells"] == 4


def test_a_manifest_takes_each_variant_once(full: Store, tmp_path: Path) -> None:
    store = Store(shutil.copytree(full.folder, tmp_path / "copy"))
    path, content = store.folder / "grid.json", (store.folder / "grid.json").read_text()
    parsed = json.loads(content)
    [entry] = parsed["experiments"]
    assert [manifest.cell_variant(each) for each in entry["cells"][:6:2]] == list(STAGGERED)
    store.update_manifest(
        "quick", [{**entry, "cells": entry["cells"][:1]}]
    )  # as a later `run` of the ordinary cells asks
    assert len(store.manifest()["experiments"][0]["cells"]) == 12
    entry["cells"][4] |= {"training": 0, "selection": 1}
    path.write_text(json.dumps(parsed))
    with pytest.raises(ValueError, match=r"\('random', 0, \('selection', 1\)\) is listed twice"):
        store.manifest()


def test_the_audit_looks_at_variants_too(full: Store) -> None:
    [sound] = load_experiments.read_stores([full])
    assert not any(fault.check in ("round 0 agrees", "within budget") for fault in audit.find_faults(sound))
    [broken, *rest] = [run for run in sound.variant_runs if run.strategy == "random"]
    twice = structs.replace(broken.records[1], bought=[*broken.records[1].bought[:4], broken.records[1].bought[0]])
    start = structs.replace(rest[0].records[0], scores={"accuracy": 99.0})
    changed = replace(broken, records=[broken.records[0], twice, *broken.records[2:]])
    odd = replace(rest[0], records=[start, *rest[0].records[1:]])
    faults = [str(fault) for fault in audit.find_faults(replace(sound, variant_runs=(changed, odd, *rest[1:])))]
    assert "random seed 0, selection 1: round 1 buys 1 image twice" in faults
    assert not any("where others score" in fault for fault in faults)  # training 1 has no other of its seed beside it
    same = replace(rest[0], variant=Variant(selection=2), records=[start, *rest[0].records[1:]])
    faults = [str(fault) for fault in audit.find_faults(replace(sound, variant_runs=(broken, same, *rest[1:])))]
    assert any(fault.startswith("random seed 0, selection 2: 99 in round 0, where others score") for fault in faults)


def test_one_cell_is_explained_by_its_own_seeds(full: Store) -> None:
    experiment, cell_run = explain.find_run(
        load_experiments.read_stores([full]), "digits/random/seed-1-training-1-selection-2"
    )
    text = "\n".join(explain.describe_run(experiment, cell_run))
    assert "seed 1, training 1, selection 2" in text
    assert "python -m benchmark variance grid=quick 'tasks=[digits]' 'strategies=[random]' sets=2" in text
    assert str(seed("fit", "digits", 1, 0, "training 1")) in text
    assert str(seed("select", "digits", 1, "random", 1, "selection 2")) in text
    ordinary = explain.find_run(load_experiments.read_stores([full]), "digits/random/seed-1")[1]
    assert "python -m benchmark run grid=quick" in "\n".join(explain.describe_run(experiment, ordinary))
