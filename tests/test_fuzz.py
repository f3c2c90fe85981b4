"""Whatever people type and whatever disks do to files: one line that says what is wrong, or the right answer."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from benchmark import grid as grids
from benchmark import plugins
from benchmark.analysis import curves
from benchmark.grid import Spec
from benchmark.records import CLOSING, OPENING, Header, Measured, Record, digest
from benchmark.schedule import Schedule, band
from benchmark.store import Store, Unwritable

QUICK = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, phases=[Phase.explicit, Phase.generate]
)  # no shrinking: it takes minutes; add Phase.shrink to look into a failure
SLOW = settings(QUICK, max_examples=60)  # Hydra composes a configuration each time


@pytest.fixture(autouse=True, scope="module")
def discovered() -> Iterator[None]:
    """Every plug-in; and no waiting for the disk, which would be most of the time."""
    plugins.discover()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of one example: pytest's would be shared by all of them."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(call: Callable[[], object], *kinds: type[Exception]) -> str | None:
    """What `call` says where it refuses; None where it does not. Any exception but ValueError and `kinds` fails."""
    try:
        call()
    except (ValueError, *kinds) as error:
        return str(error)
    return None


def says_one_line(call: Callable[[], object]) -> bool:
    words = refusal(call)
    return words is None or (bool(words.strip()) and "\n" not in words)


# --- words on the command line ----------------------------------------------------------------
KEYS = [field.name for field in dataclasses.fields(grids.Settings)]
PIECES = [
    "digits", "random", "coreset[metric=cosine]", "isal", "k=2", "null", "true", "nan", "inf", "-1", "0", "1e400", "7",
    "[", "]", "{", "}", ",", "=", ":", "'", '"', "\\", "$", "${", "${oc.env:HOME}", "${grid}", "~", "@", "+", "+++",
    "\t", "\0", " ", "é", "../", "/", "1" * 30, "map 0.22 +- 0.003", "<<", "&a", "*a", "!!python/name:os.system",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map(
    lambda parts: "".join(parts).replace("\n", "")
)
WORD = st.builds("{}={}".format, st.sampled_from(KEYS) | TEXT, TEXT) | TEXT


@SLOW
@given(st.lists(WORD, max_size=3))
def test_any_words_make_a_grid_or_one_line(words: list[str]) -> None:
    assert says_one_line(lambda: grids.read(grids.settings(words)).cells())


@SLOW
@example("seeds", "1" * 30)
@example("seeds", "1" * 12)
@given(st.sampled_from(["tasks", "strategies", "seeds", "until", "budget_in", "rounds", "initial", "validation"]), TEXT)
def test_any_value_of_a_setting_makes_a_grid_or_one_line(key: str, value: str) -> None:
    assert says_one_line(lambda: grids.read(grids.settings([f"{key}={value}"])).cells())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.just(10**400) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*grids.ENTRY, "isal", "x"]), inner),
    max_leaves=8,
)
ENTRY = {"task": "digits", "strategies": ["random"], "seeds": 1, "initial": 5, "budget": 5, "rounds": 1}


@QUICK
@example("seeds", 10**12)
@given(st.sampled_from(list(grids.ENTRY)), JSON)
def test_any_value_in_a_grid_file_makes_a_grid_or_one_line(key: str, value: object) -> None:
    chosen = dataclasses.replace(DEFAULTS, experiments={"x": ENTRY | {key: value}})
    assert says_one_line(lambda: grids.read(chosen).cells())


@QUICK
@given(JSON)
def test_any_label_is_parsed_or_refused_in_one_line(value: object) -> None:
    assert says_one_line(lambda: plugins.parse(value))
    assert says_one_line(lambda: Spec.read("strategy", value))


DEFAULTS = grids.settings([])
NAMED = st.text("abcdefghij_", min_size=1, max_size=8).map("a{}".format)
BARE = st.text("abcXYZ0129._-+/é ", max_size=8).map(str.strip)


@QUICK
@given(NAMED, st.dictionaries(NAMED, BARE, max_size=4))
def test_a_label_is_read_back(name: str, values: dict[str, str]) -> None:
    inside = ",".join(f"{key}={value}" for key, value in values.items())
    assert plugins.parse(f" {name}[{inside}] ") == (name, values)


def named(*, root: str = "x", other: str | None = None, free: Any = 0, like: str = "") -> None:
    """Stands for a plug-in with parameters that are text."""


def exact(value: Any) -> Any:
    """Text that is not read as anything else, as `bind` reads what stands in no quotes."""
    return plugins.Verbatim(value) if isinstance(value, str) else value


ODD = (
    st.text("ab,=[]{}'\"\\\\ :~\n")
    | st.sampled_from(["null", "true", "3", "1e-3", "O'Brien", "a,b", "", " ", "é"])
    | st.text()
)


@settings(QUICK, max_examples=400)
@given(ODD, ODD | st.none(), ODD | st.none() | st.integers() | st.booleans())
def test_any_text_has_a_spelling_wherever_a_label_stands(root: str, other: str | None, free: Any) -> None:
    """Alone, in a list on the command line, and as a parameter of another plug-in."""
    plugin = plugins.Plugin("task", "named", named, 1)
    values = {"root": root, "other": other, "free": free, "like": ""}
    label = plugin.label({key: exact(value) for key, value in values.items()})
    assert plugin.bind(plugins.parse(label)[1]) == values
    assert plugin.label(plugins.parse(f" {label}\t")[1]) == label
    assert grids.value_of("tasks", f"[a,{label} , b[c=1]]", list) == ["a", label, "b[c=1]"]
    assert grids.value_of("tasks", label, list) == [label]
    outer = plugin.label({"like": exact(label), "other": exact(root)})
    assert plugin.bind(plugins.parse(outer)[1]) == values | {"free": 0, "root": "x", "like": label, "other": root}


VALUES = {
    "isal": {"k": st.integers(1, 10**6), "reference": st.sampled_from(["file", "test", "held_out", "train"])},
    "coreset": {"metric": st.sampled_from(["euclidean", "cosine"])},
    "discriminative": {"lr": st.floats(), "epochs": st.integers(), "num_queries": st.integers(), "x": st.none()},
    "learning_loss": {name: st.integers() | st.floats() for name in ("weight", "margin")},
}


@settings(QUICK, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_a_spec_read_from_its_label_is_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    given = {key: data.draw(values) for key, values in VALUES[name].items() if data.draw(st.booleans())}
    try:
        spec = Spec.read("strategy", {name: given})
    except ValueError:
        assume(False)
    again = Spec.read("strategy", spec.label)
    assert (again, again.values, again.label) == (spec, spec.values, spec.label)


SIZES = st.integers(-1, 10**9)
UNTIL = st.just("") | st.from_regex(r"\A[A-Za-z_]\w{0,8} {1,2}\d{1,9}(\.\d{1,9})? \+- \d{1,9}(\.\d{1,9})?\Z") | TEXT


@QUICK
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(["images", "boxes", "pints"]), UNTIL)
def test_a_schedule_is_one_line_or_reads_back_and_names_a_folder(
    initial: int, budget: int, rounds: int, validation: int, budget_in: Any, until: str
) -> None:
    def made() -> Schedule:
        return Schedule(initial, budget, rounds, validation, budget_in, until)

    words = refusal(made)
    if words is not None:
        assert "\n" not in words
        return
    schedule = made()
    assert Schedule(**schedule.identity()) == schedule
    assert set(schedule.label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
    assert schedule.label not in ("", ".", "..")


@QUICK
@given(UNTIL)
def test_a_band_is_read_or_refused_in_one_line(until: str) -> None:
    words = refusal(lambda: band(until))
    assert words is None or "\n" not in words
    if words is None:
        metric, value, width = band(until)
        assert band(f"{metric} {value:f} +- {width:f}") == (metric, value, width)


# --- records ----------------------------------------------------------------------------------
CELL, OTHER = "digits/5+5x4/random/seed-0", "digits/5+5x4/random/seed-1"


def header(seed: int) -> Header:
    return Header(f"k{seed}", {"seed": seed}, "data1", 100, "accuracy", [7])


def record(number: int, seed: int = 0) -> Record:
    bought = [10 * seed + number]
    return Record(number, 5 + number, bought, {"images": 5.0}, {"accuracy": 0.1 * number + seed}, {"doubt": 0.5})


def measured(number: int) -> Measured:
    return Measured(number, {"fit": 1.0}, False, 10.0, "cpu", {"numpy": "2"})


def written(home: Path) -> Store:
    """Two cells of four rounds."""
    store = Store(home)
    for seed, cell in enumerate((CELL, OTHER)):
        store.start(cell, header(seed))
        for number in range(4):
            store.append(cell, record(number, seed), measured(number))
    return store


with folder() as scratch:
    LINES = written(scratch).path(CELL).read_bytes().splitlines(keepends=True)
    FOREIGN = Store(scratch).path(OTHER).read_bytes().splitlines(keepends=True)
    TIMES = Store(scratch).path(CELL, "measured").read_bytes().splitlines(keepends=True)
WHOLE = b"".join(LINES)
RECORDS = [record(number) for number in range(4)]


def flipped(content: bytes, place: int, bit: int) -> bytes:
    place %= len(content)
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def placed(home: Path, records: bytes, times: bytes | None = None) -> Store:
    """A results folder in which a cell's files have this content."""
    store = Store(home)
    for kind, content in (("cells", records), ("measured", times)):
        if content is not None:
            store.path(CELL, kind).parent.mkdir(parents=True)
            store.path(CELL, kind).write_bytes(content)
    return store


def every_reader(store: Store) -> None:
    """Calls what reads a cell: only ValueError and Unwritable may come out of each, and only sound records."""
    for reader in (store.read, store.records, store.measured, lambda cell: store.start(cell, header(0))):
        with contextlib.suppress(ValueError, Unwritable):
            reader(CELL)
    with contextlib.suppress(ValueError, Unwritable):
        assert all(math.isfinite(one) for found in store.records(CELL)[1] for one in found.scores.values())


def reads_only_what_was_written(content: bytes) -> int:
    """How many records a file of this content has; they are the first that were written, or nothing is read."""
    with folder() as home:
        try:
            found = placed(home, content).read(CELL)
        except ValueError:
            return 0
        assert found.records == RECORDS[: len(found.records)]
        assert found.header in (None, header(0))
        return len(found.records)


@settings(QUICK, max_examples=300)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_a_flipped_bit_takes_its_line_and_what_follows(place: int, bit: int) -> None:
    ends = list(itertools.accumulate(map(len, LINES)))
    sound = sum(end <= place for end in ends)
    assert reads_only_what_was_written(flipped(WHOLE, place, bit)) == max(0, sound - 1)


@QUICK
@given(st.integers(0, len(WHOLE)), st.binary(max_size=40))
def test_a_run_goes_on_behind_the_sound_lines(size: int, junk: bytes) -> None:
    ends = [0, *itertools.accumulate(map(len, LINES))]
    sound = max(end for end in ends if end <= size)
    junk = junk if size > sound else b"\xff" + junk  # so that it does not end a line
    with folder() as home:
        store = placed(home, WHOLE[:size] + junk)
        path = store.path(CELL)
        kept = store.start(CELL, header(0))
        assert kept == RECORDS[: len(kept)]
        assert path.read_bytes() == (WHOLE[:sound] or LINES[0])
        for number in range(len(kept), 4):
            store.append(CELL, record(number), measured(number))
        assert path.read_bytes() == WHOLE


@QUICK
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 60), st.binary(max_size=60))
def test_bytes_written_over_are_never_read(place: int, length: int, junk: bytes) -> None:
    reads_only_what_was_written(WHOLE[:place] + junk + WHOLE[place + length :])


@QUICK
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=7))
def test_a_run_goes_on_from_the_lines_in_their_order(order: list[int]) -> None:
    sound = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], enumerate(order)))
    with folder() as home:
        store = placed(home, b"".join(LINES[number] for number in order))
        if not order or sound:
            assert store.start(CELL, header(0)) == RECORDS[: max(0, sound - 1)]
            assert store.path(CELL).read_bytes() == (b"".join(LINES[:sound]) or LINES[0])
        else:
            assert says_one_line(lambda: store.start(CELL, header(0)))


@QUICK
@given(st.sampled_from(range(1, 5)), st.integers(0, 4))
def test_another_cells_file_is_refused(copied: int, own: int) -> None:
    with folder() as home:
        store = placed(home, b"".join(FOREIGN[:copied] + LINES[1 : 1 + own]))
        with pytest.raises(ValueError, match="written with other settings"):
            store.start(CELL, header(0))


JUNK = st.binary(max_size=300) | st.sampled_from([*LINES, *FOREIGN, *TIMES]) | JSON.map(lambda body: sealed(body))
FILES = st.lists(JUNK, max_size=6).map(b"".join)


def sealed(body: object) -> bytes:
    """A line with the right checksum around any JSON: only who means it writes one."""
    text = json.dumps(body).encode()
    return OPENING + text + CLOSING % digest(text)


@QUICK
@given(FILES, FILES)
def test_any_files_are_read_or_refused(records: bytes, times: bytes) -> None:
    with folder() as home:
        every_reader(placed(home, records, times))


@QUICK
@given(st.sampled_from([*dataclasses.asdict(header(0))]), JSON)
def test_any_header_is_read_or_refused(field: str, value: object) -> None:
    with folder() as home:
        every_reader(placed(home, sealed(dataclasses.asdict(header(0)) | {field: value})))


@QUICK
@given(st.sampled_from([*dataclasses.asdict(record(0))]), JSON)
def test_any_record_is_read_or_refused(field: str, value: object) -> None:
    with folder() as home:
        every_reader(placed(home, LINES[0] + sealed(dataclasses.asdict(record(0)) | {field: value})))


# --- the manifest -----------------------------------------------------------------------------
DEEP = b"[" * 10_000
CELLS = [{"path": CELL, "key": "k0", "strategy": "random", "seed": 0, "dagger": [], "companion": False}]
EXPERIMENT = {"name": "digits", "task": "digits", "schedule": {"initial": 5, "budget": 5, "rounds": 4}, "cells": CELLS}
MANIFEST: dict[str, Any] = {"schema": 1, "grid": "quick", "runs": [], "experiments": [EXPERIMENT]}


def planted(body: Any, path: list[Any], value: object) -> Any:
    """`body` with `value` at that place."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


def places(body: Any, before: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """Every place in a JSON value."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, inner in pairs:
        yield [*before, key]
        yield from places(inner, (*before, key))


@QUICK
@given(st.sampled_from(list(places(MANIFEST))), JSON)
def test_any_manifest_is_read_or_refused(path: list[Any], value: object) -> None:
    with folder() as home:
        store = written(home)
        (home / "grid.json").write_text(json.dumps(planted(MANIFEST, path, value)))
        refusal(store.manifest)
        assert says_one_line(lambda: curves.read(str(home)))


@QUICK
@example(DEEP)
@given(st.binary(max_size=200) | JSON.map(lambda body: json.dumps(body).encode()))
def test_any_bytes_for_a_manifest_are_refused(content: bytes) -> None:
    with folder() as home:
        (home / "grid.json").write_bytes(content)
        assert refusal(Store(home).manifest)


# --- published curves -------------------------------------------------------------------------
ROWS = [["paper", "task", "random", "3", str(number), str(100 * number), "map", f"0.{number}"] for number in (1, 2)]
NUMBERS = st.sampled_from(["", "0", "-1", "1e400", "nan", "inf", "1" * 30, "1.5", "½", "１", "0x1", "1_000", " 1", "x"])
FIELD = NUMBERS | TEXT.filter(lambda text: "\0" not in text)


def csv(rows: list[list[str]]) -> str:
    return "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)


@QUICK
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 7), FIELD), min_size=1, max_size=3))
def test_any_cells_of_a_csv_file_are_curves_or_one_line(changes: list[tuple[int, int, str]]) -> None:
    rows = [list(row) for row in ROWS]
    for row, column, text in changes:
        rows[row][column] = text
    with folder() as home:
        (home / "a.csv").write_text(csv([list(curves.COLUMNS), *rows]))
        assert says_one_line(lambda: curves.read(str(home)))


@QUICK
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_for_a_csv_file_are_curves_or_one_line(junk: bytes, headed: bool) -> None:
    with folder() as home:
        (home / "a.csv").write_bytes((",".join(curves.COLUMNS).encode() + b"\n" if headed else b"") + junk)
        assert says_one_line(lambda: curves.read(str(home)))


YAML = JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60) | TEXT.map(str.encode)


@QUICK
@given(YAML | JSON.map(lambda told: json.dumps({"paper": told}).encode()) | JSON.map(
    lambda told: json.dumps({"paper": {"saw_evaluation_labels": told, "reference": told}}).encode()
))  # fmt: skip
def test_any_sources_are_read_or_refused_in_one_line(content: bytes) -> None:
    with folder() as home:
        (home / "a.csv").write_text(csv([list(curves.COLUMNS), *ROWS]))
        (home / "sources.yaml").write_bytes(content)
        assert says_one_line(lambda: [one.reference for one in curves.read(str(home))])
