"""The commands that read records, and the gallery that a run leaves for figures."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell, run
from _curves import PLAIN, identity, recorded
from typer.testing import CliRunner

from benchmark import config
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.load_experiments import read_stores
from benchmark.api import Machine
from benchmark.cli.commands import app
from benchmark.cli.progress import TerminalWatcher
from benchmark.cli.terminal import err
from benchmark.experiment.grid import Experiment
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.records.checksummed_lines import encode_line
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.runner import events, gallery_writer, record_checks, task_loading
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launchers import local_launch
from benchmark.runner.run_grid import Job, LazyTasks, manifest_entry, run_missing_rounds
from benchmark.seeds import seed


def output_of(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.stdout


# --- compare and explain ----------------------------------------------------------------------
def test_compare_answers_in_five_lines(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    lines = output_of("compare", "mine", "random", f"out={store.folder}").splitlines()
    assert len(lines) == 5
    assert lines[0] == "mine minus random on made_up: 3 seeds, paired"
    assert lines[1].startswith("accuracy at 8 images: +4.00 [")
    assert lines[4] == (
        "mine against random is undecided: 3 seeds can decide nothing: it takes 6 seeds, "
        "and about 7 would find a difference of 1 in 4 of 5 cases"
    )
    words = ("strategy=mine", "against=random", f"out={store.folder}")
    [saving] = json.loads(output_of("savings", *words, "format=json"))
    assert f"saves {saving['saved']:.0f} [{saving['low']:.0f}, {saving['high']:.0f}] images" in lines[3]
    [row] = json.loads(output_of("compare", "mine", "random", f"out={store.folder}", "format=json"))
    assert (row["strategy"], row["against"], row["verdict"], row["final"]) == ("mine", "random", "undecided", 4.0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["compare", "mien", "random"], "'mien' (did you mean 'mine'?)"),
        (["compare", "mine", "random", "task=digitz"], "did you mean 'digits'?"),
        (["compare", "mine", "mine"], "compare takes two strategies, as in `compare A B`, not mine and mine"),
        (["compare", "mine", "out=x"], "compare takes two strategies"),
        (["savings", "cost=time", "seconds_per_image=0", "seconds_per_box=0"], "are both 0"),
        (["verify", "against=results/reference/quick"], "is a run, not a published curve"),
        (["status", "task=digitz"], "no experiment is called 'digitz'"),
        (["explain", "made/mine/seed-9"], "did you mean"),
        (["explain", "seed-0"], "several cells end in this"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    store = recorded(tmp_path, PLAIN)
    done = CliRunner().invoke(app, [*words, f"out={store.folder}"])
    assert line in str(done.exception)


def test_explain_tells_command_seeds_indices_cost_and_versions(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN, parameters={"epochs": 3})
    text = output_of("explain", "made_up/mine/seed-1", f"out={store.folder}")
    assert text == output_of("explain", "made/mine/seed-1", f"out={store.folder}")
    command = (
        "run grid=made 'tasks=[made_up]' 'strategies=[mine]' 'seeds=[1]' initial=4 budget=2 rounds=3 validation=2 "
    )
    command += f"out={store.folder}"
    for part in (command, "digits version 1 epochs=3", "numpy 2; on cpu", "6 labelled, paid 6 images; accuracy 63"):
        assert part in text
    assert "bought 53 54" in text
    assert text == output_of("explain", str(store.path("made/mine/seed-1")), f"out={store.folder}")
    assert f"seeds fit {seed('fit', 'digits', 1, 1)}, select {seed('select', 'digits', 1, 'mine', 1)}" in text
    assert "select 0.01 s" in text


def test_explain_repeats_what_the_machine_was_told(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    manifest = json.loads((tmp_path / "grid.json").read_text())
    lines = ("run threads=9", "run grid=made 'plugins=my plug' data=/d rounds=3 deterministic=true out=x")
    manifest["runs"] = [{"command": f"python -m benchmark {line}", "version": "1", "commit": ""} for line in lines]
    (store.folder / "grid.json").write_text(json.dumps(manifest))
    line = output_of("explain", "made/mine/seed-1", f"out={store.folder}").splitlines()[1]
    assert line.endswith(f"validation=2 out={store.folder} 'plugins=my plug' data=/d deterministic=true")
    for runs in ([{"command": "run 'data=x", "version": "1", "commit": ""}], []):  # as from somebody else's folder
        (store.folder / "grid.json").write_text(json.dumps(manifest | {"runs": runs}))
        line = output_of("explain", "made/mine/seed-1", f"out={store.folder}").splitlines()[1]
        assert line.endswith(f"validation=2 out={store.folder}")


def test_compare_says_what_was_paid_and_when_nothing_differs(tmp_path: Path) -> None:
    store = recorded(tmp_path, {**PLAIN, "twin": PLAIN["mine"]})
    lines = output_of("compare", "twin", "mine", f"out={store.folder}").splitlines()
    assert "paid" not in lines[1]
    assert lines[4] == "twin against mine is undecided: no difference in any of 3 seeds"
    for number in range(3):
        path = store.path(f"made/twin/seed-{number}")
        header, *rounds = [json.loads(line)["body"] for line in path.read_bytes().splitlines()]
        dearer = [line | {"cost": {"images": line["cost"]["images"] + 2}} for line in rounds]
        path.write_bytes(b"".join(encode_line(line) for line in (header, *dearer)))
    lines = output_of("compare", "twin", "mine", f"out={store.folder}").splitlines()
    assert lines[1].startswith("accuracy at 8 images (paid: 10 and 8 images): +0.00")


def test_statistics_refuse_what_does_not_pair_and_go_on(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    path = store.path("made/mine/seed-1")
    path.unlink()
    store.path("made/mine/seed-2").unlink()
    store.path("made/mine/seed-0").unlink()
    done = CliRunner().invoke(app, ["tables", f"out={store.folder}"])
    assert done.exit_code == 0
    assert "missing (0/3)" in done.stdout  # no record, no comparison
    alone = recorded(tmp_path / "two", {**PLAIN, "mine": {7: [50.0, 60.0, 70.0]}})
    done = CliRunner().invoke(app, ["tables", f"out={alone.folder}"])
    assert "made_up: not compared: mine and random do not pair: no common seed" in done.stderr
    assert (alone.folder / "tables" / "comparisons" / "made_up.csv").read_text().count("\n") == 2
    assert (alone.folder / "tables" / "comparisons" / "made_up-rounds.csv").read_text().count("\n") == 4


# --- damage -----------------------------------------------------------------------------------
def test_a_flipped_record_is_named_not_used_and_run_again(tmp_path: Path) -> None:
    margin_cell = cell("margin", rounds=3)
    run([margin_cell], tmp_path)
    whole = bytes_of(tmp_path / "run")
    store = Store(tmp_path / "run")
    path = store.path(margin_cell.path)
    path.write_bytes(path.read_bytes().replace(b'"round": 1', b'"round": 3'))
    store.update_manifest("made", [manifest_entry(experiment(margin_cell.strategy.label))])
    text = output_of("verify", f"out={store.folder}", code=1)
    assert "line 3 is damaged" in re.sub(r"\s+", " ", re.sub("[│┃]", " ", text))
    assert read_stores([store])[0].curves["margin"].value_SR.shape == (1, 3)
    assert np.isfinite(read_stores([store])[0].curves["margin"].value_SR).sum() == 1
    assert record_checks.count_rounds_left([margin_cell], store) == {margin_cell: 2}
    run([margin_cell], tmp_path)
    assert bytes_of(tmp_path / "run") == whole


# --- the gallery ------------------------------------------------------------------------------
def experiment(*strategies: str, task: str = "digits[epochs=2]") -> Experiment:
    specs = tuple(Spec.read("strategy", text) for text in strategies)
    return Experiment("small", Spec.read("task", task), Schedule(20, 5, 3, 10), specs, (0,))


def test_a_run_leaves_pictures_labels_and_features(tmp_path: Path) -> None:
    cells = [cell("margin", rounds=3), cell("random", rounds=3)]
    run(cells, tmp_path)
    store, machine = Store(tmp_path / "run"), Machine(torch.device("cpu"))
    fits = FitCache(tmp_path / "fits", 1.0, "cpu")
    experiments = [experiment("margin", "random")]
    assert list(gallery_writer.update_galleries(experiments, store, fits, task_loading.TaskLoader(machine))) == []
    path = store.folder / "gallery" / "small.npz"
    stored_gallery = Gallery.read(path)
    bought = {index for each in cells for record in store.records(each.path)[1] for index in record.bought[:8]}
    assert bought <= set(stored_gallery.shown_N.tolist())
    assert stored_gallery.thumbs_NHW3.shape == (len(stored_gallery.shown_N), 8, 8, 3)
    assert stored_gallery.features_ND.shape[0] == len(stored_gallery.shown_N)
    assert stored_gallery.features_ND.shape[1] > 1
    task = task_loading.build_task(experiments[0].task, machine)
    np.testing.assert_array_equal(stored_gallery.labels_P, task._labels.numpy())  # type: ignore[union-attr]
    before = path.stat()
    for file in store.folder.rglob("*.jsonl"):
        os.utime(file)  # newer than the gallery, with the same content
    assert list(gallery_writer.update_galleries(experiments, store, fits, task_loading.TaskLoader(machine))) == []
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("age", [-1000, 1000])
def test_pictures_are_made_anew_of_other_records_whatever_their_time(age: int, tmp_path: Path) -> None:
    run([cell("random")], tmp_path)
    store, fits = Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1.0, "cpu")
    experiments, tasks = [experiment("random")], task_loading.TaskLoader(Machine(torch.device("cpu")))
    path, records = store.folder / "gallery" / "small.npz", store.path(cell("random").path)
    whole = records.read_bytes()
    records.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert list(gallery_writer.update_galleries(experiments, store, fits, tasks)) == []
    before = path.stat()
    records.write_bytes(whole)  # restored from a backup, or of a clock that jumped
    os.utime(records, (before.st_mtime + age, before.st_mtime + age))
    assert list(gallery_writer.update_galleries(experiments, store, fits, tasks)) == []
    assert path.stat().st_ino != before.st_ino
    assert set(store.records(cell("random").path)[1][-1].bought[:8]) <= set(Gallery.read(path).shown_N.tolist())


def test_pictures_are_made_when_an_experiment_ends_from_the_task_that_is_built(tmp_path: Path) -> None:
    store, fits = Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1.0, "cpu")
    tasks = task_loading.TaskLoader(Machine(torch.device("cpu"), scratch=tmp_path))
    second = replace(experiment("random"), name="second", seeds=(1,))
    experiments = [replace(experiment("random", "margin"), name="first"), second]
    cells = [cell for each in experiments for cell in each.cells()]
    calls = list[tuple[str, int, int]]()  # experiment, events so far, the built task

    def ended(each: Experiment) -> None:
        calls.append((each.name, len(events_so_far), id(tasks.by_label[each.task.label])))
        assert list(gallery_writer.update_galleries([each], store, fits, tasks)) == []

    events_so_far = list[events.Event]()
    for event in gallery_writer.call_when_finished(
        local_launch.run_locally(cells, store, fits, tasks), experiments, cells, ended
    ):
        events_so_far.append(event)
    assert [type(event).__name__ for event in events_so_far] == ["CellStarted", *["Round"] * 3] * 3
    [built] = tasks.by_label.values()
    assert calls == [("first", 8, id(built)), ("second", 12, id(built))]
    assert {path.stem for path in (store.folder / "gallery").iterdir()} == {"first", "second"}
    assert list(gallery_writer.call_when_finished([], experiments, [], ended)) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_builds_a_task_once_and_says_once_that_it_has_no_pictures(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built, build, arrays = list[str](), task_loading.build_task, gallery_writer.gallery_arrays

    def counted(spec: Spec, machine: Machine) -> Any:
        built.append(spec.label)
        return build(spec, machine)

    def faulty(*args: Any) -> Any:
        if fails:
            raise MemoryError("no room")
        return arrays(*args)

    monkeypatch.setattr(task_loading, "build_task", counted)
    monkeypatch.setattr(gallery_writer, "gallery_arrays", faulty)
    discovery.discover(None)
    tasks = "tasks=[digits[epochs=1],digits[epochs=2]]"
    settings = config.compose_settings([tasks, "strategies=[random]", "seeds=1", "rounds=2", f"out={tmp_path}"])
    grid = config.build_grid(settings)
    rounds_left = record_checks.count_rounds_left(grid.cells(), Store(tmp_path))
    watcher = TerminalWatcher(err)
    job = Job(settings, grid, grid.cells(), Store(tmp_path), LazyTasks(settings, watcher), watcher, [])
    assert not run_missing_rounds(job, rounds_left)
    assert built == ["digits[epochs=1]", "digits[epochs=2]"]
    assert capsys.readouterr().err.count("no room (MemoryError)") == 2 * fails


def test_boxes_are_drawn_in_the_pixels_of_the_picture(tmp_path: Path) -> None:
    task = task_loading.build_task(Spec.read("task", "scenes"), Machine(torch.device("cpu")))
    indices = np.array([3, 0, 700])
    pictures_NHW3, boxes = task.pictures(indices, 32)  # type: ignore[union-attr]
    assert pictures_NHW3.shape == (3, 32, 32, 3)
    for index, corners_K4 in zip(indices, boxes, strict=True):
        truth = task._pool.truth.boxes_of(int(index))  # type: ignore[union-attr]
        np.testing.assert_allclose(corners_K4, truth.corners_M4.numpy() / 2)
    whole, _ = task.pictures(indices, 64)  # type: ignore[union-attr]
    np.testing.assert_array_equal(whole[0].transpose(2, 0, 1), task._pool.images[3].numpy())  # type: ignore[union-attr]
    notes = task.annotations()  # type: ignore[union-attr]
    assert len(notes.image_L) == int(task.cost(np.arange(task.num_pool))["boxes"])  # type: ignore[union-attr]
    first = task._pool.truth.boxes_of(int(notes.image_L[0])).corners_M4[0].numpy()  # type: ignore[union-attr]
    assert notes.side_L[0] == pytest.approx(np.sqrt((first[2] - first[0]) * (first[3] - first[1])))


def test_a_gallery_that_cannot_be_made_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([cell("random", rounds=2)], tmp_path)
    monkeypatch.setattr(gallery_writer, "gallery_arrays", lambda *_: 1 / 0)
    store, fits = Store(tmp_path / "run"), FitCache(tmp_path / "fits", 1.0, "cpu")
    empty = Experiment(
        "small", Spec.read("task", "digits[epochs=2]"), Schedule(20, 5, 2, 10), (Spec.read("strategy", "random"),), (0,)
    )
    [line] = gallery_writer.update_galleries(
        [empty], store, fits, task_loading.TaskLoader(Machine(torch.device("cpu")))
    )
    assert line == "small: no images in the report: division by zero (ZeroDivisionError)"
    assert not (store.folder / "gallery").exists()


def test_features_come_from_the_cache_alone(tmp_path: Path) -> None:
    run([cell("random", rounds=2)], tmp_path, cache_gb=0)
    one_cell = cell("random", rounds=2)
    task = task_loading.build_task(one_cell.task, Machine(torch.device("cpu")))
    features = gallery_writer.gallery_features(task, [one_cell], FitCache(tmp_path / "fits", 0, "cpu"), np.arange(4))  # type: ignore[arg-type]
    assert features.shape == (4, 0)


def test_the_first_of_each_purchase_are_shown_whatever_the_pool() -> None:
    bought = [np.arange(5_000, 5_400), np.arange(60_000, 60_030)]
    shown = gallery_writer.choose_images(bought, 100_000, 0)
    assert set(range(5_000, 5_000 + gallery_writer.NUM_FIRST)) | set(
        range(60_000, 60_000 + gallery_writer.NUM_FIRST)
    ) <= set(shown.tolist())
    assert len(np.unique(shown)) == len(shown) <= gallery_writer.NUM_SHOWN + 2 * gallery_writer.NUM_FIRST
    assert (np.diff(shown) > 0).all()
    np.testing.assert_array_equal(shown, gallery_writer.choose_images(bought, 100_000, 0))


# --- seconds ----------------------------------------------------------------------------------
def test_seconds_are_summed_over_rounds_and_an_encoder_counts_once(tmp_path: Path) -> None:
    """By hand: two runs of two rounds; shared fits count as if not shared, encodings by the longest."""
    store, schedule = Store(tmp_path), {"initial": 4, "budget": 2, "rounds": 2, "validation": 0}
    cells = [
        {"path": f"made/slow/seed-{n}", "key": str(n), "strategy": "slow", "seed": n, "dagger": [], "companion": False}
        for n in (0, 1)
    ]
    store.update_manifest("made", [{"name": "made", "task": "digits", "schedule": schedule, "cells": cells}])
    for number, each in enumerate(cells):
        path = str(each["path"])
        store.start_cell(path, Header(str(number), identity("random"), "data", 100, "accuracy", []))
        for place in (0, 1):
            record = Record(
                place,
                4 + 2 * place,
                [10 * place + n for n in range(4 - 2 * place)],
                {"images": 4.0},
                {"accuracy": 50.0},
            )
            seconds_of_round = {"fit": 2.0 + number, "score": 0.5, "select": 1.0 * place} | (
                {"encode": 7.0 - number} if place else {}
            )
            store.append(path, record, Measured(place, seconds_of_round, place == 0, 10.0, "cpu", {}))
    [row] = json.loads(output_of("seconds", f"out={tmp_path}", "format=json"))
    assert row == {
        "experiment": "made", "strategy": "slow", "runs": 2,
        "fit": 5.0, "select": 1.0, "encode, once": 7.0, "score": 1.0,
    }  # fmt: skip
    assert "slow" in output_of("seconds", f"out={tmp_path}")


def test_published_curves_have_no_seconds() -> None:
    done = CliRunner().invoke(app, ["seconds", "records=published", "task=isal_2021_cifar10"])
    assert "no seconds are recorded there" in str(done.exception)
