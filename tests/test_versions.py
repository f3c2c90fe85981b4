"""Library versions: mixed versions are reported at the start and in every table; another torch restarts a cell."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from _cells import bytes_of, cell, run
from _curves import recorded
from msgspec.structs import asdict, replace

from benchmark.analysis.audit import find_faults
from benchmark.analysis.curves import Experiment
from benchmark.analysis.explain import describe_run
from benchmark.analysis.reading import read_experiments
from benchmark.analysis.tables import build_tables, to_markdown
from benchmark.cli.status_command import experiment_status
from benchmark.records import versions
from benchmark.records.json_lines import encode_line
from benchmark.records.store import Store
from benchmark.runner import launch, measuring, resume

Command = Callable[..., tuple[int, str]]
GRID = [
    "tasks=[digits[epochs=1]]", "strategies=[random,margin]", "seeds=1", "initial=20", "budget=5", "rounds=3",
    "validation=0", "device=cpu",
]  # fmt: skip


def rewritten(
    folder: Path, old: Mapping[str, str], *, rounds: int = 2, path: str = "*/*/*/*", lost: bool = False
) -> None:
    """Leaves the first rounds of cells, as if made with other versions; `lost` removes their measurements."""
    for records in folder.glob(f"cells/{path}.jsonl"):
        records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[: rounds + 1]))
    for measured in folder.glob(f"measured/{path}.jsonl"):
        bodies = [json.loads(line)["body"] for line in measured.read_bytes().splitlines()][:rounds]
        for body in bodies:
            body["versions"] |= old
        measured.write_bytes(b"" if lost else b"".join(map(encode_line, bodies)))


@pytest.fixture
def begun(command: Command, tmp_path: Path) -> Path:
    """A results folder whose cells are complete."""
    assert command("run", *GRID, f"out={tmp_path / 'whole'}")[0] == 0
    shutil.rmtree(tmp_path / "whole" / "tables")
    return tmp_path / "whole"


def caption(out: Path) -> str:
    """Returns the caption of the written tables."""
    return " ".join(path.read_text() for path in (out / "tables").glob("*.md"))


def copy(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def test_another_minor_version_of_torch_begins_cells_anew(command: Command, begun: Path) -> None:
    out, here = copy(begun, "old"), measuring.library_versions()["torch"]
    rewritten(out, {"torch": "1.0"})
    old = bytes_of(out)
    [experiment] = Store(out).experiments()
    assert experiment_status((Store(out), experiment))["note"] == (
        "`run` restarts 2 cells: the minor version of torch has changed"
    )
    _, said = command("run", *GRID, f"out={out}", "dry_run=true")
    assert f"torch 1.0 to {here}, so cells start again: random seed 0, margin seed 0" in said
    assert "2 cells, 6 rounds" in said
    assert bytes_of(out) == old
    _, said = command("run", *GRID, f"out={out}")
    remarks = [line for line in said.splitlines() if "versions of libraries" in line]
    assert remarks == [
        f"digits[epochs=1]: versions of libraries changed, torch 1.0 to {here}, so cells start again: random seed 0, "
        f"margin seed 0 (their records are now in {out / 'set_aside' / '1'}; mix_versions=true goes on from such "
        "records)"
    ]
    assert "2 cells, 2 to do, 6 rounds" in said
    assert bytes_of(out) == bytes_of(begun)
    assert bytes_of(out / "set_aside" / "1") == old
    assert "several versions" not in command("verify", f"out={out}")[1]
    assert command("tables", f"out={out / 'set_aside' / '1'}")[0] == 0


def test_with_mix_versions_they_go_on_and_every_table_says_so(command: Command, begun: Path) -> None:
    out, here = copy(begun, "old"), measuring.library_versions()["torch"]
    rewritten(out, {"torch": "1.0"})
    _, said = command("run", *GRID, f"out={out}", "mix_versions=true")
    assert f"changed, torch 1.0 to {here}, and cells go on from older ones: random seed 0, margin seed 0" in said
    assert "2 cells, 2 to do, 2 rounds" in said
    note = f"Made with several versions of libraries (torch 1.0 and {here}): numbers may differ between them."
    assert note in caption(out)
    assert not (out / "set_aside").exists()
    code, said = command("verify", f"out={out}")
    assert code == 1
    assert note in " ".join(said.split())
    assert f"random seed 0: made with torch 1.0, then {here}; the second from round 2 on" in [
        str(fault) for fault in find_faults(read_experiments(str(out))[0])
    ]
    assert note in to_markdown(build_tables(read_experiments(str(out)))[0])


def test_other_libraries_go_on_and_are_told(command: Command, begun: Path) -> None:
    library = "numpy"
    out, here = copy(begun, "old"), measuring.library_versions()[library]
    rewritten(out, {library: "0.1"})
    _, said = command("run", *GRID, f"out={out}")
    assert f"changed, {library} 0.1 to {here}, and cells go on" in said
    assert bytes_of(out) == bytes_of(begun), "it goes on"
    assert f"({library} 0.1 and {here})" in caption(out)
    assert command("verify", f"out={out}")[0] == 1


def test_what_decides_no_number_is_not_told(command: Command, begun: Path) -> None:
    out, python = copy(begun, "old"), versions.minor_version(versions.installed_versions()["python"])
    rewritten(out, {"python": f"{python}.99", "driver": "1"})
    _, said = command("run", *GRID, f"out={out}")
    assert "versions" not in said
    assert "several versions" not in command("verify", f"out={out}")[1]


def test_rounds_whose_measurements_are_lost_tell_no_version(command: Command, begun: Path) -> None:
    out = copy(begun, "old")
    rewritten(out, {"torch": "1.0"}, lost=True)
    _, said = command("run", *GRID, f"out={out}")
    assert "versions" not in said
    assert bytes_of(out) == bytes_of(begun)


def test_finished_cells_stay_and_the_caption_tells(command: Command, begun: Path) -> None:
    out, here = copy(begun, "old"), measuring.library_versions()["torch"]
    rewritten(out, {"torch": "1.0"}, rounds=3, path="*/*/random/*")
    _, said = command("run", *GRID, f"out={out}")
    assert "versions of libraries changed" not in said
    assert "2 cells, 0 to do" in said
    assert f"(torch 1.0 and {here})" in caption(out)
    [fault] = [fault for fault in find_faults(read_experiments(str(out))[0]) if fault.check == "one set of versions"]
    assert str(fault) == (
        "torch: cells were made with several minor versions: "
        f"1.0 for 1 cell, as random seed 0, {versions.minor_version(here)} for 1 cell, as margin seed 0"
    )


def test_more_rounds_are_no_way_around_it(command: Command, begun: Path) -> None:
    out, words = copy(begun, "old"), [word for word in GRID if "rounds" not in word]
    rewritten(out, {"torch": "1.0"}, rounds=3)
    _, said = command("run", *words, "rounds=4", f"out={out}")
    assert "so cells start again: random seed 0, margin seed 0 (mix_versions" in said
    assert "go on from their records" not in said
    assert "2 cells, 2 to do, 8 rounds" in said
    _, said = command("run", *words, "rounds=5", f"out={out}")
    assert "go on from their records of" in said
    assert "versions of libraries" not in said


def test_a_mixture_that_was_begun_before_is_no_other_torch_once_it_is_allowed(tmp_path: Path) -> None:
    one_cell = cell("random", rounds=4)
    run([cell("random", rounds=2)], tmp_path)
    run([one_cell], tmp_path)
    store, now = Store(tmp_path / "run"), measuring.library_versions()
    rounds_left = launch.count_rounds_left([one_cell], store)
    assert resume.find_version_changes(rounds_left, store, now) == {}
    assert resume.find_version_changes({one_cell: 0}, store, {**now, "cuda": "13.0"}) == {}, (
        "a driver without a GPU tells no CUDA"
    )
    assert [*resume.find_version_changes({one_cell: 0}, store, {**now, "numpy": "9.9"}).values()] == [
        {"numpy": [now["numpy"], "9.9"]}
    ]


# --- in words ---------------------------------------------------------------------------------------
def test_versions_that_differ() -> None:
    old, new = {"torch": "2.10.0", "numpy": "2.2.6", "python": "3.11.7"}, {"torch": "2.11.0", "numpy": "2.2.6"}
    assert versions.find_changes([old, {"torch": "2.9.1"}], new) == {"torch": ["2.10.0", "2.9.1", "2.11.0"]}
    assert versions.describe_changes({"torch": ["2.10.0", "2.9.1", "2.11.0"]}) == "torch 2.10.0 and 2.9.1 to 2.11.0"
    assert versions.find_mixed_versions([old, new, {}]) == {"torch": ["2.10.0", "2.11.0"]}
    assert versions.mixed_versions_note({}) == ""
    assert "\n" not in versions.mixed_versions_note({"torch": ["1\n2", "3"]}) + versions.describe_changes(
        {"torch": ["1\n2", "3"]}
    )


@pytest.mark.parametrize(
    ("old", "new", "anew"),
    [
        ("2.10.0", "2.11.0", True), ("2.11.0", "2.11.1", False), ("2.11.0+cu128", "2.11.0+cpu", False),
        ("1.11.0", "2.11.0", True), ("2.12.0a0+git1", "2.11.0", True), ("", "2.11.0", True),
    ],
)  # fmt: skip
def test_torchs_minor_version_decides(old: str, new: str, anew: bool) -> None:
    assert versions.needs_restart(versions.find_changes([{"torch": old}], {"torch": new})) == anew
    assert not versions.needs_restart(versions.find_changes([{"numpy": "1.0"}], {"numpy": "2.0", "torch": new}))


# --- tables and audit -------------------------------------------------------------------------------
def recorded_experiment(tmp_path: Path, by_cell: Mapping[str, Mapping[str, str]]) -> Experiment:
    """Returns an experiment whose cells were made with these versions, given by a part of their path."""
    scores = {"random": {0: [0.5, 0.6, 0.7], 1: [0.5, 0.6, 0.7]}, "mine": {0: [0.5, 0.6, 0.7]}}
    store = recorded(tmp_path, scores)
    for path in (tmp_path / "measured").rglob("*.jsonl"):
        cell_path = str(path.relative_to(tmp_path / "measured").with_suffix(""))
        measurements = [
            replace(measured, versions=dict(versions_of_cell))
            for part, versions_of_cell in by_cell.items()
            if part in str(path)
            for measured in store.measurements(cell_path)
        ]
        path.write_bytes(b"".join(encode_line(asdict(measured)) for measured in measurements))
    return read_experiments(str(tmp_path))[0]


def test_other_versions_between_cells_are_told_and_are_no_fault(tmp_path: Path) -> None:
    first, second = {"torch": "2.11.0", "numpy": "2.1.0"}, {"torch": "2.11.1", "numpy": "2.2.0"}
    experiment = recorded_experiment(tmp_path, {"seed-0": first, "seed-1": second})
    assert find_faults(experiment) == []
    assert "libraries (torch 2.11.0 and 2.11.1, numpy 2.1.0 and 2.2.0)" in build_tables([experiment])[0].note


def test_cells_of_two_minor_versions_of_torch_are_a_fault(tmp_path: Path) -> None:
    experiment = recorded_experiment(tmp_path, {"random": {"torch": "2.10.0"}, "mine": {"torch": "2.11.0"}})
    assert [str(fault) for fault in find_faults(experiment)] == [
        "torch: cells were made with several minor versions: 2.10 for 2 cells, as random seed 0, 2.11 for 1 cell, as "
        "mine seed 0"
    ]


def test_one_set_of_versions_is_not_told(tmp_path: Path) -> None:
    experiment = recorded_experiment(
        tmp_path, {"seed-0": {"torch": "2.11.0", "python": "3.11.7"}, "seed-1": {"python": "3.11.9"}}
    )
    assert find_faults(experiment) == []
    assert "versions" not in build_tables([experiment])[0].note


def test_explain_tells_all_versions_of_a_cell(tmp_path: Path) -> None:
    run([cell("random")], tmp_path)
    folder = tmp_path / "run"
    (folder / "grid.json").unlink(missing_ok=True)
    store = recorded(tmp_path / "other", {"random": {0: [0.5, 0.6, 0.7]}})
    [path] = (tmp_path / "other" / "measured").rglob("*.jsonl")
    bodies = [json.loads(line)["body"] for line in path.read_bytes().splitlines()]
    bodies[0]["versions"] = {"torch": "2.10.0"}
    path.write_bytes(b"".join(map(encode_line, bodies)))
    [experiment] = read_experiments(str(store.folder))
    lines = [line for line in describe_run(experiment, experiment.runs[0]) if line.startswith("versions")]
    assert lines == ["versions  torch 2.10.0; on cpu", "versions  numpy 2; on cpu"]
