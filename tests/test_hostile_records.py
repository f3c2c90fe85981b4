"""Records, measurements, manifests, sources, published curves and galleries that are intact but have odd content.

Every command gives the right answer, refuses in one line that names file and field, or names the damage.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _cells import cell, run
from _fuzz import refusal
from _hostile import (
    ABSENT,
    ANY,
    CELL,
    NUMBERS,
    QUICK,
    TEXTS,
    Counts,
    Raw,
    base,
    bodies,
    command,
    near,
    outcome,
    places,
    planted,
    put,
    text_of,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmark import config
from benchmark.analysis.figures import all_figures
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.load_experiments import read_experiments
from benchmark.api import Machine
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.records.checksummed_lines import to_json_value
from benchmark.records.record import Measured, Record, line_fields
from benchmark.records.store import Store
from benchmark.runner import events, task_loading

HUGE = 10**400


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with correct content, only read."""
    return base(tmp_path_factory.mktemp("sound") / "run").folder


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Store:
    """A copy of the correct folder."""
    return Store(shutil.copytree(sound, tmp_path / "run"))


# --- records ------------------------------------------------------------------------------------
ODD_ROUNDS: list[tuple[str, object, str]] = [  # field, value, what is said of it
    *(("round", value, "round: expected a whole number") for value in (True, 1.0)),
    *(("num_labelled", value, "num_labelled: expected a whole number") for value in (-1, 10**30, HUGE, 1.5, True, "6")),
    *(("scores", value, "scores: no accuracy") for value in ({}, {"nll": 1.0}, {"Accuracy": 1.0})),
    *(("scores", {"accuracy": value}, "scores[...]: ") for value in (HUGE, -1e308, True, None, "1", [1.0])),
    *(("scores", value, "scores: expected a mapping") for value in ([], None, 1.0)),
    *(("cost", value, "cost: no images") for value in ({}, {"boxes": 5.0})),
    *(("cost", {"images": value}, "cost[...]: ") for value in (HUGE, -5.0, 1e308, True, None)),
    *(("bought", [value], "bought[0]: expected a whole number") for value in (-1, 2**63, HUGE, True, 1.0, None, "1")),
    *(("bought", value, "bought: expected a list") for value in ({}, None, "1 2")),
    *(("diagnostics", {"doubt": value}, "diagnostics[...]: ") for value in (HUGE, True, None, [])),
    *((size, value, f"{size}: ") for size in ("smallest_batch", "batch_size") for value in (-1, 1.0, True, HUGE)),
    *(("class_scores", value, "class_scores: expected a mapping") for value in ([], None, 1.0)),
    *(("class_scores", {"iou": value}, "class_scores[...]: ") for value in ([], None, 1.0)),
    *(("class_scores", {"iou": {"cat": value}}, "class_scores[...][...]: ") for value in (HUGE, True, None, "1")),
    *(("scores", {"accuracy": Raw(text)}, "scores[...]: ") for text in ("NaN", "-Infinity", "1e400")),
    ("colour", "red", "object contains unknown field `colour`"),
    ("num_labelled", ABSENT, "object missing required field `num_labelled`"),
]


def spoil(store: Store, field: str, value: object, kind: str = "cells", number: int = 2) -> Path:
    """Writes another value into a line of a cell's file, with the right checksum."""
    path = store.path(CELL, kind)
    lines = bodies(path)
    lines[number] = {key: inner for key, inner in (lines[number] | {field: value}).items() if inner is not ABSENT}
    put(path, lines)
    return path


def refused(store: Store, *verbs: str) -> str:
    """Returns the common error of all commands, or of these, on a folder that each must refuse."""
    errors = [command(store.folder, verb) for verb in verbs or QUICK]
    assert {word for word, _ in errors} == {"refused"}, errors
    assert all("\n" not in words for _, words in errors)
    return errors[0][1]


@pytest.mark.parametrize(("field", "value", "words"), ODD_ROUNDS, ids=range(len(ODD_ROUNDS)))
def test_an_odd_round_is_refused_by_file_line_and_field(store: Store, field: str, value: object, words: str) -> None:
    path = spoil(store, field, value)
    before = path.read_bytes()
    error = refused(store, "tables", "verify")
    assert error.startswith(f"{path}: ")
    assert words in error
    assert "line 3 " in error or "round 1: " in error
    with pytest.raises(ValueError, match=r"line 3 |round 1: "):  # a run neither goes on behind it nor cuts it off
        store.start_cell(CELL, store.header(CELL) or pytest.fail("no header"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [1.5, "1", None, -1, 2, 10**30])
def test_a_round_of_another_number_is_out_of_place(store: Store, value: object) -> None:
    spoil(store, "round", value)
    assert "line 3 is out of place" in command(store.folder, "tables")[1]
    assert command(store.folder, "verify")[0] == "named"
    assert len(store.read(CELL).records) == 1


def test_an_odd_line_behind_one_out_of_place_is_not_read(store: Store) -> None:
    spoil(store, "round", 7)
    spoil(store, "scores", {}, number=3)
    assert "line 3 is out of place" in store.read(CELL).damage


def test_images_outside_the_pool_are_named_by_the_audit_and_nothing_goes_on_from_them(store: Store) -> None:
    spoil(store, "bought", [53, 100])
    assert command(store.folder, "verify")[0] == "named"
    assert "1 image not in the pool" in command(store.folder, "tables")[1]
    assert command(store.folder, "explain")[0] == "right"
    with pytest.raises(ValueError, match="round 1: bought: an image that is not in the pool"):
        store.start_cell(CELL, store.header(CELL) or pytest.fail("no header"))


PLUG_IN = {"name": "x", "version": 1, "parameters": {}}
ODD_HEADERS: list[tuple[str, object, str]] = [
    *(("held_out", value, "held_out") for value in ([-1], ["x"], [2**70], [None], [1.5], [True], None, {})),
    *(("num_pool", value, "num_pool: ") for value in (-1, 10**30, HUGE, True, 1.5, "100", None)),
    *(("metric", value, "metric: ") for value in ("", None, 1, [])),
    ("metric", "nope", "scores: no nope"),
    ("metric", {"name": "nope"}, "scores: no nope"),
    *(("metric", {"name": "accuracy", "digits": value}, "metric.digits: ") for value in (-1, 10, 1.5, None, True)),
    *(("metric", {"name": "accuracy", "margin": value}, "metric.margin: ") for value in (-1.0, HUGE, "1")),
    *(("cell", value, "object missing required field") for value in ({}, {"task": PLUG_IN})),
    *(("cell", value, "task: expected a mapping") for value in ({"task": 1}, {"task": None, "strategy": PLUG_IN})),
    ("cell", {"task": {"name": 1, "parameters": {}}, "strategy": PLUG_IN}, "task.name: expected text"),
    ("cell", {"task": {"name": "x", "version": 1}, "strategy": PLUG_IN}, "missing required field `parameters`"),
    *(
        ("cell", {"task": PLUG_IN | {"parameters": {"lr": Raw(text)}}, "strategy": PLUG_IN}, "line 1")
        for text in ("NaN", "1e400", "-Infinity")
    ),
    ("cell", {"task": PLUG_IN, "strategy": PLUG_IN, "seed": -1}, "seed: "),
    *(("cell", value, "cell: expected a mapping") for value in ([], None, "x", 1)),
    *(("weights", value, "weights[...]") for value in ({"a": 1}, {"a": {"b": 1}}, {"a": None})),
    *(("schema", value, "schema") for value in (0, 2, HUGE, "1", None, True, ABSENT)),
    *(("key", value, "key: expected text") for value in (None, 1)),
    ("data", None, "data: expected text"),
    ("colour", "red", "unknown field `colour`"),
]


@pytest.mark.parametrize(("field", "value", "words"), ODD_HEADERS, ids=range(len(ODD_HEADERS)))
def test_an_odd_header_is_refused_by_file_and_field(store: Store, field: str, value: object, words: str) -> None:
    path = spoil(store, field, value, number=0)
    error = refused(store, "tables", "explain")
    assert error.startswith(f"{path}: ")
    assert words in error


ODD_TIMES: list[tuple[str, object, str]] = [
    *(("seconds", {"fit": value}, "seconds[...]: ") for value in (-1e308, -1.0, HUGE, "x", None, True)),
    *(("seconds", value, "seconds: expected a mapping") for value in ([], None)),
    *(("versions", {"a": value}, "versions[...]: expected text") for value in (1, None, [])),
    *(("peak_mb", value, "peak_mb: ") for value in (HUGE, -1.0, "1", True)),
    *(("round", value, "round: ") for value in (10**30, -1, True, None)),
    *(("device", value, "device: expected text") for value in (1, None)),
    *(("shared_fit", value, "shared_fit: expected true or false") for value in (1, None, "no")),
    ("colour", "red", "unknown field `colour`"),
]


@pytest.mark.parametrize(("field", "value", "words"), ODD_TIMES, ids=range(len(ODD_TIMES)))
def test_odd_measurements_are_refused_by_file_line_and_field(
    store: Store, field: str, value: object, words: str
) -> None:
    path = spoil(store, field, value, "measured", 1)
    error = refused(store, "status", "tables", "explain", "seconds")
    assert error.startswith(f"{path}: line 2 is not a Measured of schema 1: ")
    assert words in error


@pytest.mark.parametrize("text", ["1", "null", '"x"', "[]", "{} , {}", "{", "[" * 5000, "9" * 5000])
@pytest.mark.parametrize("kind", ["cells", "measured"])
def test_a_sealed_line_that_is_no_mapping_is_refused(store: Store, kind: str, text: str) -> None:
    path = store.path(CELL, kind)
    put(path, [*bodies(path)[:2], Raw(text)])
    assert str(path) in refused(store, "status", "explain")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", {"accuracy": 1e200}),
        ("cost", {"images": -1.0}),
        ("bought", [-1]),
        ("num_labelled", -1),
    ],
)
def test_what_could_not_be_read_again_is_not_written(store: Store, field: str, value: object) -> None:
    path = store.path(CELL)
    before = path.read_bytes(), store.path(CELL, "measured").read_bytes()
    facts = bodies(path)[3] | {"round": 3, field: value}
    with pytest.raises(ValueError, match=rf"{field}|accuracy"):
        store.append(CELL, Record(**facts), Measured(3, {"fit": 1.0}, False, 1.0, "cpu", {}))
    assert before == (path.read_bytes(), store.path(CELL, "measured").read_bytes())


@pytest.mark.parametrize(
    ("lacking", "words"),
    [("score", "scores: no accuracy, the metric of its task"), ("cost", "cost: no images")],
)
def test_a_round_without_its_metric_or_its_cost_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, words: str
) -> None:
    def build(spec: Spec, machine: Machine) -> Any:
        task = spec.plugin.build(machine, spec.values)
        monkeypatch.setattr(task, lacking, lambda args: {"other": 1.0})
        return task

    monkeypatch.setattr(task_loading, "build_task", build)
    [failure] = run([cell("random")], tmp_path)
    assert isinstance(failure, events.Failure)
    assert words in failure.line
    assert not Store(tmp_path / "run").records(cell("random").path)[1]


# --- the manifest -------------------------------------------------------------------------------
def entry(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the experiment of a manifest."""
    experiment: dict[str, Any] = manifest["experiments"][0]
    return experiment


def setting(*steps: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    """Returns a function that sets a value in a manifest."""

    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for step in steps[:-1]:
            inner = inner[step]
        inner[steps[-1]] = to

    return change


SCHEDULE, CELLS = ("experiments", 0, "schedule"), ("experiments", 0, "cells")
RUN = {"command": "python -m benchmark run", "version": "1", "commit": ""}
ODD_MANIFESTS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    *((setting("runs", to=value), "runs: expected a list") for value in (0, 1, "x", {"a": 1}, None)),
    *((setting("runs", to=value), "runs[0]: ") for value in ([1], [{}], [None], [{"command": "x", "version": "1"}])),
    *((setting("runs", to=[RUN | {"command": value}]), "runs[0].command: expected text") for value in (1, None, [])),
    *(
        (setting(*SCHEDULE, key, to=value), f"schedule: {key}")
        for value in (-1, 10**12, 10**30, 1.5, "3", True, None)
        for key in ("rounds", "initial", "budget", "validation")
    ),
    (setting(*SCHEDULE, "rounds", to=10_001), "rounds=10001: must be at most 10,000"),
    *(
        (setting(*SCHEDULE, "until", to=value), "until")
        for value in ("accuracy 9", 5, None, "a 9" + "9" * 99 + " +- 1")
    ),
    *((setting(*SCHEDULE, "one_pass", to=value), "one_pass") for value in (1, "x", None)),
    (setting(*SCHEDULE, "budget_in", to="pints"), "budget_in"),
    (setting(*SCHEDULE, "colour", to=1), "no setting of a schedule is called colour"),
    *((setting(*SCHEDULE, to=value), "schedule: ") for value in ({}, {"initial": 5}, None, [])),
    *((setting(*CELLS, 0, "seed", to=value), "cells[0].seed: ") for value in (-1, 10**30, True, 1.0, "0", None)),
    *(
        (setting(*CELLS, 0, "path", to=value), "is not the path of a cell")
        for value in ("x" * 300, "\ud800", "a\nb", "é")
    ),
    *(
        (setting(*CELLS, 0, "path", to=value), "leads out of")
        for value in ("", ".", "..", "a//b", "/a", "a\0", "a/../b")
    ),
    (setting(*CELLS, 0, "path", to="a/" * 20 + "a"), "is not the path of a cell"),
    *((setting(*CELLS, 0, "dagger", to=value), "cells[0].dagger") for value in (1, "x", [1], None, {})),
    *((setting(*CELLS, 0, "companion", to=value), "cells[0].companion: ") for value in (1, "x", None)),
    *((setting(*CELLS, 0, name, to=value), f"{name}: ") for name in ("strategy", "key") for value in (1, None)),
    *((setting(*CELLS, to=value), "cells") for value in ({}, [1], [None], "x", None)),
    *((setting("experiments", 0, name, to=value), f"{name}: ") for name in ("name", "task") for value in (1, "", None)),
    *((setting("experiments", to=value), "experiments") for value in ({}, [1], 1, "x", None)),
    *((setting("grid", to=value), "grid: ") for value in (1, None, [])),
    *((setting("schema", to=value), "schema") for value in (0, 2, "1", None, HUGE)),
    (lambda m: m["experiments"].append(copy.deepcopy(entry(m))), "experiments: made_up is listed twice"),
    (lambda m: entry(m)["cells"].append(entry(m)["cells"][0]), "cells: made/random/seed-0 is listed twice"),
    (lambda m: entry(m)["cells"].append(entry(m)["cells"][0] | {"path": "x"}), "is listed twice"),
]


@pytest.mark.parametrize(("change", "words"), ODD_MANIFESTS, ids=range(len(ODD_MANIFESTS)))
def test_an_odd_manifest_is_refused_by_field(
    store: Store, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    path = store.folder / "grid.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    error = refused(store, "status", "tables", "explain")
    assert error.startswith(f"{path}")
    assert words in error


ODD_NAMES = [
    "\x1b[31mred",
    "a\nb",
    "=cmd|'/C calc'!A0",
    "<script>",
    "[red]x[/red]",
    "[/red]",
    "$x^2_$",
    "x" * 500,
    "é",
    "*",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
@pytest.mark.parametrize("field", ["name", "task", "strategy", "grid"])
def test_odd_but_harmless_names_are_read(store: Store, field: str, name: str) -> None:
    path = store.folder / "grid.json"
    manifest = json.loads(path.read_text())
    parts = {"strategy": entry(manifest)["cells"][2:], "grid": [manifest]}.get(field, [entry(manifest)])
    for part in parts:
        part[field] = name
    path.write_text(json.dumps(manifest))
    assert command(store.folder, "status")[0] == "right"
    assert outcome(store.folder, ("tables", "explain", "seconds"))[0] == "right"


def test_what_else_a_manifest_tells_stays_in_it(store: Store) -> None:
    path = store.folder / "grid.json"
    manifest = json.loads(path.read_text())
    manifest["colour"] = entry(manifest)["colour"] = "red"
    path.write_text(json.dumps(manifest))
    store.update_manifest("made", [])
    again = json.loads(path.read_text())
    assert entry(again)["colour"] == "red"


@pytest.mark.parametrize("words", ["seeds=[9223372036854775808]", "rounds=10001", "budget=1000000001", "initial=true"])
def test_what_a_manifest_could_not_hold_is_refused_when_it_is_typed(words: str) -> None:
    discovery.discover()
    with pytest.raises(ValueError, match=words.partition("=")[0]):
        config.build_grid(config.compose_settings([words]))


@pytest.mark.parametrize("rounds", [10_000, 3])
def test_a_schedule_of_many_rounds_is_read(store: Store, rounds: int) -> None:
    assert Schedule.read({"initial": 1, "budget": 1, "rounds": rounds}).rounds == rounds


# --- what the images are from, and published curves ---------------------------------------------------
PAIRS = {"pool": [["a", "b"]], "test": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"files": PAIRS, "remarks": []}, "object missing required field `data`"),
        ({"data": 1, "files": PAIRS, "remarks": []}, "data: expected text"),
        ({"data": "", "files": {"pool": [["a", 1]]}, "remarks": []}, "files[...][0][1]: expected text"),
        ({"data": "", "files": {"pool": [["a"]]}, "remarks": []}, "files[...][0]: "),
        ({"data": "", "files": {"pool": "ab"}, "remarks": []}, "files[...]: expected a list"),
        ({"data": "", "files": [], "remarks": []}, "files: expected a mapping"),
        ({"data": "", "files": PAIRS, "remarks": [None]}, "remarks[0]: expected text"),
        ({"data": "", "files": PAIRS, "remarks": "x"}, "remarks: expected a list"),
        ([], "expected a mapping"),
        (Raw("[" * 5000), ""),
        (Raw("{"), ""),
    ],
)
def test_odd_files_of_images_are_refused_by_field(store: Store, content: object, words: str) -> None:
    path = store.sources_path("digits")
    path.write_text(content if isinstance(content, Raw) else json.dumps(content))
    error = refused(store, "tables", "verify", "explain")
    assert error.startswith(f"{path} does not list the files that the images come from (")
    assert words in error


HEAD = "source,task,strategy,num_runs,round,num_labelled,boxes,metric,value,std"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,t,a,3,0,100,,map,1e308,", "a: value 1e308 is too large"),
        ("x,t,a,3,0,100,,map,1e400,", "a: value 1e400 is not finite"),
        ("x,t,a,3,0,1e200,,map,0.5,", "a: images 1e200 is too large"),
        ("x,t,a,3,0,100,-1e308,map,0.5,", "a: boxes -1e308 is too large"),
        (f"x,t,a,{10**30},0,100,,map,0.5,", "num_runs must be at least 1 and at most"),
        (f"x,t,a,3,{10**30},100,,map,0.5,", "round must be at least 0 and at most"),
        ("x,t,a,3,-1,100,,map,0.5,", "round must be at least 0"),
        ("x,t,a,1.5,0,100,,map,0.5,", "num_runs '1.5' is no whole number"),
        ("x,t,a,3,,100,,map,0.5,", "round '' is no whole number"),
        ("x,t,a,3,0,100,,map,0.5,\nx,t,a,3,00,100,,map,0.5,", "x t a has a round twice"),
    ],
)
def test_odd_numbers_of_a_published_curve_are_refused_by_column(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(f"{HEAD}\n{row}\n")
    with pytest.raises(ValueError, match=f"{path}: ") as caught:
        read_experiments(str(path))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: {strategies: [a]}", "[...].strategies: expected a mapping"),
        ("x: {strategies: {a: 1}}", "[...].strategies[...]: expected text"),
        ("x: {experiments: [a]}", "[...].experiments: expected a mapping"),
        ("x: {recipes: 1}", "[...].recipes: expected a mapping"),
        ("x: {saw_evaluation_labels: [1]}", "[...].saw_evaluation_labels[0]: expected text"),
        ("x: {saw_evaluation_labels: a}", "[...].saw_evaluation_labels: expected a list"),
        ("x: {reference: 1}", "[...].reference: expected text"),
        ("x: {cite: 2021}", "[...].cite: expected text"),
        ("x: {one_pass: [1]}", "[...].one_pass[0]: expected text"),
        ("x: {all_labels: {t: -1}}", "[...].all_labels[...]: expected"),
        ("x: {seconds: {t: 648}}", "[...].seconds[...]: expected a mapping"),
        ("1: {}", "expected text"),
        ("x: 1", "[...]: expected a mapping"),
    ],
)
def test_odd_sources_of_published_curves_are_refused_by_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "curves.csv").write_text(f"{HEAD}\nx,t,a,3,0,100,,map,0.5,\n")
    (tmp_path / "sources.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"sources\.yaml: ") as caught:
        read_experiments(str(tmp_path))
    assert words in str(caught.value)


# --- galleries ----------------------------------------------------------------------------------
def arrays(num: int = 4) -> dict[str, Any]:
    """Returns the arrays of a gallery of a pool of 100 images in two classes."""
    none = np.empty(0, np.int64)
    return {
        "labels_P": np.arange(100) % 2, "box_image_M": none, "box_class_M": none, "box_side_M": none.astype(np.float32),
        "shown_N": np.arange(num), "thumbs_NHW3": np.zeros((num, 8, 8, 3), np.uint8),
        "features_ND": np.arange(2 * num, dtype=np.float16).reshape(num, 2), "drawn_K5": np.zeros((0, 5), np.float32),
        "classes_C": np.array(["cat", "dog"]),
    }  # fmt: skip


def write(path: Path, content: dict[str, Any], headers: dict[str, dict[str, Any]] | None = None) -> Path:
    """Writes a gallery in which some arrays are one byte whose header claims another shape."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                if form := (headers or {}).get(name):
                    header = {"descr": "|u1", "fortran_order": False} | form
                    np.lib.format.write_array_header_1_0(handle, header)
                    handle.write(b"0")
                else:
                    np.lib.format.write_array(handle, array)
    return path


ODD_FORMS: list[tuple[str, dict[str, Any]]] = [
    ("thumbs_NHW3", {"shape": (10**13, 64, 64, 3)}),
    ("thumbs_NHW3", {"shape": (10**30, 64, 64, 3)}),
    ("thumbs_NHW3", {"shape": (1, 10**13, 1, 3)}),
    ("thumbs_NHW3", {"shape": (-1, 8, 8, 3)}),
    ("features_ND", {"shape": (4, 10**13), "descr": "<f2"}),
    ("labels_P", {"shape": (10**13,), "descr": "<i8"}),
    ("labels_P", {"shape": (1,), "descr": "<U1000"}),
    ("classes_C", {"shape": (1,), "descr": "<U2000"}),
    ("classes_C", {"shape": (10**13,), "descr": "<U1"}),
    ("classes_C", {"shape": (1,), "descr": "|O"}),
    ("drawn_K5", {"shape": (10**13, 5), "descr": "<f4"}),
    ("shown_N", {"shape": (), "descr": "<i8"}),
]


@pytest.mark.parametrize(("name", "form"), ODD_FORMS, ids=range(len(ODD_FORMS)))
def test_a_gallery_of_an_absurd_form_is_refused_before_it_takes_memory(
    tmp_path: Path, name: str, form: dict[str, Any]
) -> None:
    path = write(tmp_path / "x" / "gallery.npz", arrays(), {name: form})
    with pytest.raises(ValueError, match=f"{path} is no gallery: ") as caught:
        Gallery.read(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("thumbs_NHW3", np.zeros((4, 8, 8, 4), np.uint8)),
        ("thumbs_NHW3", np.zeros((4, 600, 1, 3), np.uint8)),
        ("labels_P", np.array([], np.str_)),
        ("box_side_M", np.array([np.inf], np.float32)),
        ("drawn_K5", np.array([[0, 0, 0, np.nan, 1]], np.float32)),
        ("features_ND", np.full((4, 2), 1e300)),
        ("classes_C", np.array(["c"] * (2**16 + 1))),
    ],
)
def test_a_gallery_of_odd_values_is_refused(tmp_path: Path, name: str, array: Any) -> None:
    lengths = {"box_image_M": np.zeros(1, int), "box_class_M": np.zeros(1, int)} if name == "box_side_M" else {}
    with pytest.raises(ValueError, match=f"is no gallery: .*{name}"):
        Gallery.read(write(tmp_path / "x" / "gallery.npz", arrays() | lengths | {name: array}))


def test_a_report_refuses_an_absurd_gallery_in_one_line(store: Store) -> None:
    path = write(store.folder / "gallery" / "made_up.npz", arrays(), {"thumbs_NHW3": {"shape": (10**13, 64, 64, 3)}})
    word, words = command(store.folder, "report")
    assert word == "refused"
    assert words.startswith(f"{path} is no gallery: thumbs_NHW3 is uint8 of shape (10000000000000, 64, 64, 3)")


# --- a thousand odd inputs each -----------------------------------------------------------------------
THOUSAND = settings(
    max_examples=1000, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
DRAWN = 100  # of so many inputs that are read, one goes through `report`, too


@pytest.fixture(scope="module")
def home(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the correct folder, which the corpus overwrites again and again without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield shutil.copytree(sound, tmp_path_factory.mktemp("corpus") / "run")


def restored(sound: Path, home: Path) -> Store:
    """Returns the folder of the corpus as it was, without what commands wrote there."""
    shutil.rmtree(home)
    return Store(shutil.copytree(sound, home))


def odd(body: Any) -> st.SearchStrategy[Any]:
    """Returns a JSON value with one or two parts replaced, by values of the same kind or by anything."""
    spots = st.sampled_from(list(places(body)))
    changes = spots.flatmap(lambda place: st.tuples(st.just(place), near(body, place) | near(body, place) | ANY))
    many = st.lists(changes, min_size=1, max_size=2)
    return many.map(lambda pairs: functools.reduce(lambda value, pair: planted(value, *pair), pairs, body))


def judged(counts: Counts, folder: Path) -> bool:
    """Runs four of the commands, different ones each time, on a folder, and counts the outcomes.

    What is read is also drawn now and then. Returns whether no command refuses the folder.
    """
    first = counts.counted.total() % len(QUICK)
    word, _ = outcome(folder, (*QUICK, *QUICK)[first : first + 4])
    counts.add(word)
    if word != "refused" and counts.counted[word] % DRAWN == 1:
        command(folder, "report")
    return word != "refused"


def lines_of(sound: Path, kind: str) -> list[Any]:
    """Returns the bodies of the lines of a cell's file."""
    return bodies(Store(sound).path(CELL, kind))


OPTIONAL = {
    "diagnostics": {},
    "smallest_batch": None,
    "batch_size": None,
    "class_scores": {},
    "weights": {},
    "code": "",
}  # what stands where not told


def read_back(text: str) -> Any:
    """Returns JSON as a reader parses it, with numbers as floats; None where it is not JSON."""
    try:
        return json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cells", "measured"])
def test_a_thousand_odd_files_of_records(sound: Path, home: Path, kind: str) -> None:
    counts, whole = Counts({"cells": "records", "measured": "measurements"}[kind]), lines_of(sound, kind)

    @THOUSAND
    @given(odd(whole))
    def check(lines: Any) -> None:
        store = Store(home)
        put(store.path(CELL, kind), lines)
        if not judged(counts, home) or refusal(lambda: store.measurements(CELL)):
            return
        content, values = store.read(CELL), list[Any](store.measurements(CELL))
        if kind == "cells":
            values = [value for value in (content.header, *content.records) if value]
        else:
            lines = list({line["round"]: line for line in lines}.values())  # the last of each round
        assert len(values) == len(lines) or content.damage, lines  # no line is lost without a word
        for value, line in zip(values, lines, strict=False):
            written = read_back(text_of(line))
            assert OPTIONAL | read_back(json.dumps(line_fields(value), default=to_json_value)) == OPTIONAL | written

    check()
    restored(sound, home)
    counts.show()


@pytest.mark.slow
def test_a_thousand_odd_manifests(sound: Path, home: Path) -> None:
    counts, whole = Counts("manifests"), json.loads((sound / "grid.json").read_text())
    whole["runs"] = [RUN]

    @THOUSAND
    @given(odd(whole))
    def check(manifest: Any) -> None:
        (home / "grid.json").write_text(text_of(manifest))
        if not judged(counts, home):
            return
        read_back = Store(home).manifest()
        assert [len(experiment["cells"]) for experiment in read_back["experiments"]] == [
            len(e["cells"]) for e in manifest["experiments"]
        ]
        assert sum(len(experiment.runs) for experiment in read_experiments(str(home))) == sum(
            len(e["cells"]) for e in manifest["experiments"]
        )

    check()
    restored(sound, home)
    counts.show()


@pytest.mark.slow
def test_a_thousand_odd_files_of_images(sound: Path, home: Path) -> None:
    counts, path = Counts("data/TASK.json"), Store(home).sources_path("digits")
    whole = json.loads(path.read_text())
    whole["files"] = {part: pairs[:3] for part, pairs in whole["files"].items()}

    @THOUSAND
    @given(odd(whole))
    def check(content: Any) -> None:
        path.write_text(text_of(content))
        if judged(counts, home):
            sources = Store(home).sources("digits")
            assert sources is not None
            written = read_back(text_of(content))
            assert read_back(sources.to_json()) == {name: written[name] for name in ("data", "files", "remarks")}

    check()
    restored(sound, home)
    counts.show()


ROWS = [
    ["paper", task, name, "3", str(number), str(100 * number), str(400 * number), "map", f"0.{number + place}", "0.01"]
    for task in ("made_up", "other")
    for place, name in enumerate(("random", "mine"))
    for number in (1, 2, 3)
]
FIELD = st.sampled_from(
    [*map(str, NUMBERS), *TEXTS, *["nan", "inf", "1e400", "½", "１", "0x1", "1_000"], " 1", '"', ",", "\r"]
)
SOURCE = {
    "paper": {
        "cite": "a paper", "reference": "random", "recipes": {"made_up": "digits"}, "strategies": {"mine": "mine"},
        "experiments": {"made_up": "made_up"}, "saw_evaluation_labels": ["mine"],
    }
}  # fmt: skip
ON_PAPERS = ("verify", "savings", "compare", "seconds", "status")


def csv(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows with quotes around every field."""
    return "\n".join(",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows) + "\n"


@pytest.mark.slow
def test_a_thousand_odd_published_curves(home: Path, tmp_path: Path) -> None:
    counts = Counts("published curves and sources.yaml")
    changed = st.tuples(st.integers(0, len(ROWS) - 1), st.integers(0, len(ROWS[0]) - 1), FIELD)

    @THOUSAND
    @given(st.lists(changed, max_size=3), st.just(SOURCE) | odd(SOURCE))
    def check(changes: list[tuple[int, int, str]], source: Any) -> None:
        rows = [list(row) for row in ROWS]
        for row, column, text in changes:
            rows[row][column] = text
        (tmp_path / "curves.csv").write_text(csv([HEAD.split(","), *rows]), errors="surrogatepass")
        (tmp_path / "sources.yaml").write_text(text_of(source))
        word, _ = command(tmp_path, "tables", f"records={tmp_path}")
        counts.add(word)
        place = counts.counted.total() % len(ON_PAPERS)
        command(tmp_path, ON_PAPERS[place], f"records={tmp_path}")
        command(home, ("verify", "tables")[place % 2], f"out={home}", f"against={tmp_path}")
        if word == "refused":
            return
        experiments = read_experiments(str(tmp_path))
        there = sum(
            int(np.isfinite(curve.value_SR).sum()) for experiment in experiments for curve in experiment.curves.values()
        )
        assert there == sum(row[8] != "" for row in rows)  # no row is lost

    check()
    counts.show()


def mangled(whole: dict[str, Any]) -> st.SearchStrategy[tuple[dict[str, Any], dict[str, dict[str, Any]]]]:
    """Returns the arrays of a gallery with odd values, types or shapes, and false headers for some of them."""
    names = st.sampled_from(list(whole))
    sizes = st.sampled_from([0, 1, 2, 4, 5, 8, 100, 2**31, 10**13, 10**30, -1])
    kinds = st.sampled_from(["|u1", "<i8", "<f2", "<f4", "<f8", "<U3", "|O", "<c8", "|V0", "|S1", "<M8[s]", "|b1"])
    forms = st.fixed_dictionaries({"shape": st.lists(sizes, max_size=4).map(tuple), "descr": kinds})
    values = st.sampled_from([np.nan, np.inf, -1, 0, 1, 3, 101, 1e300, 2**62])
    types = st.sampled_from(["u1", "i8", "f2", "f4", "f8", "U3", "b1"])
    others = st.tuples(names, st.lists(st.integers(0, 9), max_size=4), types)

    def built(pairs: list[Any], spots: list[Any], lies: dict[str, Any]) -> tuple[Any, Any]:
        content = {name: array.copy() for name, array in whole.items()}
        for name, shape, kind in pairs:
            content[name] = np.zeros(shape, kind)
        for name, value in spots:
            if content[name].size and content[name].dtype.kind in "iuf":
                with np.errstate(all="ignore"):
                    content[name].flat[0] = np.array(value).astype(content[name].dtype)
        return content, lies

    return st.builds(
        built, st.lists(others, max_size=1), st.lists(st.tuples(names, values), max_size=2),
        st.dictionaries(names, forms, max_size=1),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_thousand_odd_galleries(home: Path) -> None:
    counts, path = Counts("galleries"), home / "gallery" / "made_up.npz"
    [experiment] = read_experiments(str(home))

    @THOUSAND
    @given(mangled(arrays()), st.none() | st.tuples(st.integers(0, 10**6), st.binary(max_size=4)))
    def check(content: tuple[dict[str, Any], dict[str, Any]], junk: tuple[int, bytes] | None) -> None:
        write(path, *content)
        if junk is not None:
            whole = path.read_bytes()
            place = junk[0] % len(whole)
            path.write_bytes(whole[:place] + junk[1] + whole[place + len(junk[1]) + 1 :])
        words = refusal(lambda: Gallery.read(path))
        if words is not None:
            counts.add("refused")
            assert words.startswith(f"{path} is no gallery: ")
            assert "\n" not in words
            return
        gallery = Gallery.read(path)
        counts.add("right")
        if counts.counted["right"] % 20 == 1:
            assert all_figures.draw_gallery_figures(experiment, gallery)
        if counts.counted["right"] % DRAWN == 1:
            command(home, "report")

    check()
    shutil.rmtree(path.parent)
    counts.show()
