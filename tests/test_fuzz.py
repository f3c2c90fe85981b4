"""Whatever disks do to files: one line that says what is wrong, or the right answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _curves import identity
from _fuzz import JSON, QUICK, TEXT, folder, refusal, says_one_line
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from benchmark.analysis import published, reading
from benchmark.plugins import discovery
from benchmark.records.json_lines import LINE_END, LINE_START, checksum
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store, StoreWriteError


@pytest.fixture(autouse=True, scope="module")
def discovered() -> Iterator[None]:
    """Every plug-in; and no waiting for the disk, which would be most of the time."""
    discovery.discover()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


# --- records ----------------------------------------------------------------------------------
CELL, OTHER = "digits/5+5x4/random/seed-0", "digits/5+5x4/random/seed-1"


def header(seed: int) -> Header:
    return Header(f"k{seed}", identity("random", seed), "data1", 100, "accuracy", [7])


def record(number: int, seed: int = 0) -> Record:
    bought = [10 * seed + number]
    return Record(number, 5 + number, bought, {"images": 5.0}, {"accuracy": 0.1 * number + seed}, {"doubt": 0.5})


def measured(number: int) -> Measured:
    return Measured(number, {"fit": 1.0}, False, 10.0, "cpu", {"numpy": "2"})


def written(home: Path) -> Store:
    """Two cells of four rounds."""
    store = Store(home)
    for seed, cell in enumerate((CELL, OTHER)):
        store.start_cell(cell, header(seed))
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
    for reader in (store.read, store.records, store.measurements, lambda cell: store.start_cell(cell, header(0))):
        with contextlib.suppress(ValueError, StoreWriteError):
            reader(CELL)
    with contextlib.suppress(ValueError, StoreWriteError):
        assert all(math.isfinite(score) for record in store.records(CELL)[1] for score in record.scores.values())


def reads_only_what_was_written(content: bytes) -> int:
    """How many records a file of this content has; they are the first that were written, or nothing is read."""
    with folder() as home:
        try:
            stored = placed(home, content).read(CELL)
        except ValueError:
            return 0
        assert stored.records == RECORDS[: len(stored.records)]
        assert stored.header in (None, header(0))
        return len(stored.records)


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
        records = store.start_cell(CELL, header(0))
        assert records == RECORDS[: len(records)]
        assert path.read_bytes() == (WHOLE[:sound] or LINES[0])
        for number in range(len(records), 4):
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
            assert store.start_cell(CELL, header(0)) == RECORDS[: max(0, sound - 1)]
            assert store.path(CELL).read_bytes() == (b"".join(LINES[:sound]) or LINES[0])
        else:
            assert says_one_line(lambda: store.start_cell(CELL, header(0)))


@QUICK
@given(st.sampled_from(range(1, 5)), st.integers(0, 4))
def test_another_cells_file_is_refused(copied: int, own: int) -> None:
    with folder() as home:
        store = placed(home, b"".join(FOREIGN[:copied] + LINES[1 : 1 + own]))
        with pytest.raises(ValueError, match="written with other settings"):
            store.start_cell(CELL, header(0))


JUNK = st.binary(max_size=300) | st.sampled_from([*LINES, *FOREIGN, *TIMES]) | JSON.map(lambda body: sealed(body))
FILES = st.lists(JUNK, max_size=6).map(b"".join)


def sealed(body: object) -> bytes:
    """A line with the right checksum around any JSON: only who means it writes one."""
    text = json.dumps(body, default=list).encode()
    return LINE_START + text + LINE_END % checksum(text)


@QUICK
@given(FILES, FILES)
def test_any_files_are_read_or_refused(records: bytes, times: bytes) -> None:
    with folder() as home:
        every_reader(placed(home, records, times))


@QUICK
@given(st.sampled_from([*structs.asdict(header(0))]), JSON)
def test_any_header_is_read_or_refused(field: str, value: object) -> None:
    with folder() as home:
        every_reader(placed(home, sealed(structs.asdict(header(0)) | {field: value})))


@QUICK
@given(st.sampled_from([*structs.asdict(record(0))]), JSON)
def test_any_record_is_read_or_refused(field: str, value: object) -> None:
    with folder() as home:
        every_reader(placed(home, LINES[0] + sealed(structs.asdict(record(0)) | {field: value})))


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
        assert says_one_line(lambda: reading.read_experiments(str(home)))


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
        (home / "a.csv").write_text(csv([list(published.REQUIRED_COLUMNS), *rows]))
        assert says_one_line(lambda: reading.read_experiments(str(home)))


@QUICK
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_for_a_csv_file_are_curves_or_one_line(junk: bytes, headed: bool) -> None:
    with folder() as home:
        (home / "a.csv").write_bytes((",".join(published.REQUIRED_COLUMNS).encode() + b"\n" if headed else b"") + junk)
        assert says_one_line(lambda: reading.read_experiments(str(home)))


YAML = JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60) | TEXT.map(str.encode)


@QUICK
@given(YAML | JSON.map(lambda fields: json.dumps({"paper": fields}).encode()) | JSON.map(
    lambda fields: json.dumps({"paper": {"saw_evaluation_labels": fields, "reference": fields}}).encode()
))  # fmt: skip
def test_any_sources_are_read_or_refused_in_one_line(content: bytes) -> None:
    with folder() as home:
        (home / "a.csv").write_text(csv([list(published.REQUIRED_COLUMNS), *ROWS]))
        (home / "sources.yaml").write_bytes(content)
        assert says_one_line(lambda: [experiment.reference for experiment in reading.read_experiments(str(home))])
