"""Records survive what can happen to files, and damage is reported."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _curves import identity
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from benchmark.contract.metrics import ACCURACY, Metric, shorten_metric
from benchmark.records.agreement import MixedRecordsError
from benchmark.records.checksummed_lines import encode_line, read_lines, verify_line
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store

HEADER = Header("k1", identity("random"), "data1", 100, "accuracy", [7])
CELL = "digits/5+5x1/random/seed-0"
SCHEDULE = {"initial": 5, "budget": 5, "rounds": 2}


def record(number: int) -> Record:
    return Record(number, 5, [1, 2], {"images": 5.0}, {"accuracy": 0.1 + 0.2})


def measured(number: int) -> Measured:
    return Measured(number, {"fit": 1.0}, False, 10.0, "cpu", {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "run")
    store.start_cell(CELL, HEADER)
    for number in range(3):
        store.append(CELL, record(number), measured(number))
    return store


def test_reads_what_it_wrote_to_the_last_bit(store: Store) -> None:
    header, records = store.records(CELL)
    assert header == HEADER
    assert records == [record(0), record(1), record(2)]
    assert [line.round for line in store.measurements(CELL)] == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_cut_off_and_written_again(store: Store, cut: int) -> None:
    path = store.path(CELL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert len(store.records(CELL)[1]) == 2
    assert len(store.start_cell(CELL, HEADER)) == 2
    store.append(CELL, record(2), measured(2))
    assert path.read_bytes() == whole


def test_a_flipped_bit_is_named_and_not_used(store: Store) -> None:
    path = store.path(CELL)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"num_labelled": 5', b'"num_labelled": 4')
    path.write_bytes(b"".join(lines))
    content = store.read(CELL)
    assert content.records == [record(0)]
    assert "line 3 is damaged" in content.damage
    assert str(path) in content.damage
    assert len(store.start_cell(CELL, HEADER)) == 1  # and a run goes on from there
    assert path.read_bytes() == b"".join(lines[:2])
    assert not store.read(CELL).damage


def in_crlf(path: Path) -> None:
    """Changes line ends as git's autocrlf and FTP's text mode do."""
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def test_lines_that_end_in_crlf_are_read_and_written_on(store: Store) -> None:
    store.update_manifest("quick", [experiment()])
    for path in (store.path(CELL), store.path(CELL, "measured"), store.folder / "grid.json"):
        in_crlf(path)
    before, notices = store.path(CELL).read_bytes(), list[str]()
    again = Store(store.folder, notices.append)
    assert again.read(CELL).damage == ""
    assert again.header(CELL) == HEADER
    assert again.manifest()["experiments"][0]["name"] == "digits"
    assert len(again.start_cell(CELL, HEADER)) == 3
    again.append(CELL, record(3), measured(3))
    assert (
        [line.round for line in again.records(CELL)[1]]
        == [line.round for line in again.measurements(CELL)]
        == [0, 1, 2, 3]
    )
    assert store.path(CELL).read_bytes().startswith(before)
    assert notices == []


def test_git_leaves_the_bytes_of_records_as_they_are() -> None:
    home = Path(__file__).parent.parent
    files = ["results/x/cells/a/b/c/seed-0.jsonl", "results/reference/x/measured/a/seed-0.jsonl", "results/x/grid.json"]
    done = subprocess.run(["git", "check-attr", "text", *files], cwd=home, capture_output=True, encoding="utf-8")
    if done.returncode:
        pytest.skip("not in a git checkout")
    assert done.stdout.count(": text: unset") == len(files)


@pytest.mark.parametrize("kind", ["cells", "measured"])
def test_a_torn_last_line_is_cut_off_and_said(store: Store, kind: str) -> None:
    path, notices = store.path(CELL, kind), list[str]()
    path.write_bytes(path.read_bytes()[:-5])
    Store(store.folder, notices.append).start_cell(CELL, HEADER)
    [said] = notices
    assert said == f"{path}: line {4 if kind == 'cells' else 3} is torn and is cut off"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["cells", "measured"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"round": 1', b'"round": 7', 1),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.decode().encode("utf-16"),
        lambda text: text + b"a note of somebody\n",
        lambda text: text[:-5] + b"\n",
    ],
    ids=["flipped", "old Macintosh", "utf-16", "a line more", "cut and ended"],
)
def test_what_else_is_cut_off_a_file_is_kept_beside_it_and_said(
    store: Store, kind: str, spoil: Callable[[bytes], bytes]
) -> None:
    path, notices = store.path(CELL, kind), list[str]()
    damaged = spoil(path.read_bytes())
    for number in (1, 2):
        path.write_bytes(damaged)
        Store(store.folder, notices.append).start_cell(CELL, HEADER)
        copy = path.with_name(f"{path.name}.damaged-{number}")
        assert notices[number - 1].startswith(f"{path}: line ")
        assert notices[number - 1].endswith(f"the file as it was is kept as {copy.name}")
        assert copy.read_bytes() == damaged
    assert len(notices) == 2
    assert Store(store.folder).read(CELL).damage == ""


def test_another_cells_file_is_neither_cut_nor_copied(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(damaged := path.read_bytes()[:-5])
    with pytest.raises(MixedRecordsError, match="settings or plug-in versions"):
        store.start_cell(CELL, structs.replace(HEADER, key="other"))
    assert path.read_bytes() == damaged


def test_records_of_other_settings_or_data_are_refused(store: Store) -> None:
    weights = {"dino": {"weights": "a hash"}}
    others: list[dict[str, Any]] = [{"key": "other"}, {"data": "other"}, {"weights": weights}]
    words = ("settings or plug-in versions", "other data", "files of an encoder's weights")
    for other, message in zip(others, words, strict=True):
        with pytest.raises(ValueError, match=f"was written with .*{message}"):
            store.start_cell(CELL, structs.replace(HEADER, **other))
    assert len(store.records(CELL)[1]) == 3


def test_an_experiment_is_of_one_file_of_weights_and_of_one_data_set(tmp_path: Path) -> None:
    store, (first, second) = Store(tmp_path), ({"dino": {"weights": digest}} for digest in ("this", "that"))
    store.start_cell("task/plan/geal/seed-0", structs.replace(HEADER, weights=first))
    for cell in ("geal/seed-1", "coreset/seed-0"):
        with pytest.raises(ValueError, match=r"seed-0.jsonl was written with other files of weights of dino"):
            store.start_cell(f"task/plan/{cell}", structs.replace(HEADER, weights=second))
    for weights in (first, {"vit": {"weights": "that"}}, {}):
        with pytest.raises(ValueError, match=r"was written with other data"):
            store.start_cell("task/plan/freesel/seed-0", structs.replace(HEADER, data="other", weights=weights))
        assert not store.start_cell(f"task/plan/{len(str(weights))}/seed-1", structs.replace(HEADER, weights=weights))
    assert not store.start_cell("task/plan/vaal/seed-1", HEADER)
    assert b"weights" not in store.path("task/plan/vaal/seed-1").read_bytes()


def test_another_schema_is_refused(store: Store) -> None:
    store.path(CELL).write_bytes(encode_line(structs.asdict(HEADER) | {"schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        store.records(CELL)


def test_nan_is_no_score(store: Store) -> None:
    before = store.path(CELL).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        store.append(CELL, structs.replace(record(3), scores={"accuracy": float("nan")}), measured(3))
    assert store.path(CELL).read_bytes() == before


def test_a_record_keeps_the_scores_of_single_classes(store: Store) -> None:
    of_class = {"iou": {"cat, or dog": 1 / 3, "ü": 0.0}}
    before = store.path(CELL).read_bytes()
    assert b"class_scores" not in before  # a task that tells none
    store.append(CELL, structs.replace(record(3), class_scores=of_class), measured(3))
    assert store.path(CELL).read_bytes().startswith(before)
    assert [line.class_scores for line in store.records(CELL)[1]] == [{}, {}, {}, of_class]
    with pytest.raises(ValueError, match="JSON"):
        store.append(CELL, structs.replace(record(4), class_scores={"iou": {"cat": float("nan")}}), measured(4))


def test_a_header_tells_of_its_metric_what_the_name_does_not(tmp_path: Path) -> None:
    store, own = Store(tmp_path), Metric("error", "percent", higher_is_better=False, digits=1, margin=0.5)
    for number, metric in enumerate((ACCURACY, own, Metric("nll"))):
        store.start_cell(f"a/b/{number}", structs.replace(HEADER, metric=shorten_metric(metric)))
        header = store.header(f"a/b/{number}")
        assert header is not None
        assert header.task_metric == metric
        text = store.path(f"a/b/{number}").read_text()
        assert (f'"metric": "{metric}"' in text) == (metric is not own)  # as older releases wrote it
    assert '"metric": {"digits": 1, "higher_is_better": false, "margin": 0.5, "name": "error", "unit": "percent"}' in (
        store.path("a/b/1").read_text()
    )


def test_a_record_keeps_the_smallest_batch_which_is_a_number(store: Store) -> None:
    store.append(CELL, structs.replace(record(3), smallest_batch=7), measured(3))
    assert [line.smallest_batch for line in store.records(CELL)[1]] == [None, None, None, 7]
    body = structs.asdict(record(4)) | {"smallest_batch": "seven"}
    with open(store.path(CELL), "ab") as handle:
        handle.write(encode_line(body))
    with pytest.raises(ValueError, match="line 6 is not a Record of schema 1: smallest_batch: expected"):
        store.records(CELL)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path).lock(), pytest.raises(ValueError, match="another run"), Store(tmp_path).lock():
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out="), Store(tmp_path / "file" / "run").lock():
        pass


def experiment(**changes: object) -> dict[str, object]:
    cells = [{"path": CELL, "key": "k1", "strategy": "random", "seed": 0, "dagger": False}]
    return {"name": "digits", "task": "digits", "schedule": SCHEDULE, "cells": cells} | changes


def test_the_manifest_grows_but_never_changes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.update_manifest(
        "quick", [experiment(schedule=SCHEDULE | {"initial": 5000})]
    )  # a typo: nothing was recorded of it
    store.update_manifest("quick", [experiment()])
    store.start_cell(CELL, HEADER)
    more = [{"path": "other", "key": "k2", "strategy": "mine", "seed": 0, "dagger": False}]
    store.update_manifest("quick", [experiment(cells=more)])
    assert [cell["strategy"] for cell in store.manifest()["experiments"][0]["cells"]] == ["random", "mine"]
    with pytest.raises(ValueError, match="out=DIR"):
        store.update_manifest("quick", [experiment(schedule=SCHEDULE | {"initial": 6})])


def test_no_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no results"):
        Store(tmp_path).manifest()


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text()))
def test_any_content_survives_sealing(body: dict[str, object]) -> None:
    sealed = verify_line(encode_line(body))
    assert sealed is not None
    assert json.loads(sealed) == body


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_a_record_by_chance(junk: bytes) -> None:
    body = verify_line(junk)
    assert body is None or encode_line(json.loads(body)) == junk


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_damage_goes_unseen(place: int, flip: int) -> None:
    line = encode_line(structs.asdict(record(0)))
    place %= len(line)
    damaged = line[:place] + bytes([line[place] ^ flip]) + line[place + 1 :]
    assert verify_line(damaged) is None


def test_sound_lines_before_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode_line({"a": 1}) + b'{"body": {"a"')
    assert read_lines(path) == ([{"a": 1}], len(encode_line({"a": 1})), "line 2 is torn")
    assert json.loads(path.read_bytes().splitlines()[0])["body"] == {"a": 1}
