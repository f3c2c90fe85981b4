"""Records of other versions, parameters, data or weights never get into one table, and none of them is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _cells import bytes_of
from _curves import recorded
from msgspec import structs

from benchmark.analysis.load_experiments import read_experiments
from benchmark.plugins import registry
from benchmark.records.agreement import Agreement, MixedRecordsError
from benchmark.records.checksummed_lines import encode_line, read_lines
from benchmark.records.record import Header
from benchmark.records.store import Store

Command = Callable[..., tuple[int, str]]
CODE = """from benchmark.api import Indices, View, register
import numpy as np


@register(version={version})
def mine(view: View, budget: int, rng: np.random.Generator) -> Indices:
    \"\"\"The first ones, or others.\"\"\"
    return view.unlabelled[{version}:][:budget]
"""
GRID = ["tasks=[digits[epochs=1]]", "strategies=[random,mine]", "initial=20", "budget=5", "rounds=2", "validation=0"]


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    """Runs GRID with a version of `mine`."""

    def ran(version: int, *words: str) -> tuple[int, str]:
        (tmp_path / "mine.py").write_text(CODE.format(version=version))
        registry.REGISTRY["strategy"].pop("mine", None)
        return command("run", *GRID, "device=cpu", f"plugins={tmp_path}", f"out={tmp_path / 'run'}", *words)

    yield ran  # type: ignore[misc]
    registry.REGISTRY["strategy"].pop("mine", None)


# --- runs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [[], ["dry_run=true"]])
def test_a_run_refuses_other_seeds_of_another_version(run: Command, tmp_path: Path, more: list[str]) -> None:
    assert run(1, "seeds=[0]")[0] == 0
    before = bytes_of(tmp_path / "run")
    code, said = run(2, "seeds=[1]", *more)
    assert code == 2
    assert "/mine/seed-0.jsonl was written with other versions of mine: 1 in the file, 2 in this run" in said
    assert "rerun_changed=true" in said
    assert bytes_of(tmp_path / "run") == before


def test_changed_records_move_aside_and_the_baselines_stay(run: Command, command: Command, tmp_path: Path) -> None:
    assert run(1, "seeds=2")[0] == 0
    before = bytes_of(tmp_path / "run")
    code, said = run(2, "seeds=1", "rerun_changed=true")
    assert code == 0
    assert "2 cells of other versions, data or weights, now in" in said
    assert "2 cells, 1 to do, 2 rounds" in said
    after, aside = bytes_of(tmp_path / "run"), bytes_of(tmp_path / "run" / "set_aside" / "1")
    assert {name: before[name] for name in before if "/mine/" in name} == aside
    assert {name: before[name] for name in before if "/random/" in name}.items() < after.items()
    assert [len(read_experiments(str(tmp_path / "run" / part))[0].runs) for part in (".", "set_aside/1")] == [3, 2]
    assert command("tables", f"out={tmp_path / 'run' / 'set_aside' / '1'}")[0] == 0
    both = f"records={tmp_path / 'run'},{tmp_path / 'run' / 'set_aside' / '1'}"
    code, said = command("tables", both)
    assert code == 2
    assert "made with other versions of mine: 1 in " in said
    assert run(2, "seeds=1", "rerun_changed=true") == run(2, "seeds=1")  # nothing is left to move


def test_changed_records_and_a_dry_run_do_not_go_together(run: Command) -> None:
    assert run(1, "rerun_changed=true", "dry_run=true")[0] == 2


# --- analysis -------------------------------------------------------------------------------------
RANDOM = {"name": "random", "version": 1, "parameters": {}}


def identity(**changes: Any) -> Header:
    """Returns a header of `geal`, which reads an encoder, with changes of task, strategy, data or weights."""
    task = {"name": "digits", "version": 1, "parameters": {"lr": 0.1}} | changes.get("task", {})
    strategy = {"name": "geal", "version": 1, "parameters": {}, "encoders": {"dino": 1}} | changes.get("strategy", {})
    weights = {"dino": {"weights": changes.get("weights", "a" * 64)}}
    cell = {"task": task, "strategy": strategy, "seed": 0}
    return Header("key", cell, changes.get("data", "d" * 64), 100, "accuracy", [98, 99], weights=weights)


DIFFERENT: dict[str, dict[str, Any]] = {
    "versions of geal": {"strategy": {"version": 2}},
    "versions of the task": {"task": {"version": 2}},
    "versions of dino": {"strategy": {"encoders": {"dino": 2}}},
    "values of lr of the task": {"task": {"parameters": {"lr": 0.2}}},
    "data": {"data": "e" * 64},
    "files of weights of dino": {"weights": "b" * 64},
}


VERBS = ("tables", "savings", "report", "verify", "seconds", "compare random geal")


@pytest.mark.parametrize(
    ("what", "verb"), [*((what, "tables") for what in DIFFERENT), *(("versions of geal", verb) for verb in VERBS[1:])]
)
@pytest.mark.parametrize("two_folders", [False, True])
def test_every_command_refuses_a_mixture_by_name(
    tmp_path: Path, command: Command, what: str, verb: str, two_folders: bool
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"] if two_folders else [tmp_path / "a"]
    scores = {"random": {0: [50.0, 60.0], 1: [50.0, 61.0]}, "geal": {0: [50.0, 64.0], 1: [51.0, 65.0]}}
    for number, folder in enumerate(folders):
        part = {name: {number: seeds[number]} for name, seeds in scores.items()} if two_folders else scores
        store = recorded(folder, part)
        for path in folder.glob("cells/made/*/*.jsonl"):
            is_new = path.parent.name == "geal" and path.stem == "seed-1"
            header = identity(**(DIFFERENT[what] if is_new else {}))
            first = structs.replace(header, key=f"{path.parent.name} {path.stem[-1]}")
            cell = header.cell if path.parent.name == "geal" else header.cell | {"strategy": RANDOM}
            rewrite(path, structs.replace(first, cell=cell))
        assert store.manifest()
    places = ",".join(map(str, folders))
    code, said = command(*verb.split(), f"records={places}", *([f"to={tmp_path / 'to'}"] * (verb == "report")))
    assert code == 2
    assert f"made_up holds records that were made with other {what}: " in said
    assert "geal/seed-1.jsonl" in said


def rewrite(path: Path, header: Header) -> None:
    """Gives a file of records another header."""
    lines, *_ = read_lines(path)
    path.write_bytes(b"".join(map(encode_line, (structs.asdict(header), *lines[1:]))))


def test_what_only_one_of_two_records_tells_is_no_difference() -> None:
    old, agreement = identity(), Agreement()
    assert agreement.add(old, "geal", "here") == ""
    new = identity(task={"parameters": {"lr": 0.1, "flip": False}})
    assert agreement.add(new, "geal", "there") == ""
    bare = Header("key", {"seed": 0}, old.data, 100, "accuracy", [])
    assert agreement.add(bare, "random", "elsewhere") == ""
    assert agreement.difference(identity(data="e"), "geal", "there") == "data: e in there, dddddddddddd in here"


def test_the_papers_curves_and_the_committed_records_are_whole() -> None:
    home = Path(__file__).parent.parent / "results"
    for folder in ["published", *(f"reference/{path.parent.name}" for path in home.glob("reference/*/grid.json"))]:
        assert read_experiments(str(home / folder))


def test_two_folders_with_the_same_cell_of_other_data_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        recorded(tmp_path / name, {"random": {0: [50.0, 60.0]}})
    path = Store(tmp_path / "b").path("made/random/seed-0")
    rewrite(path, Header("random 0", identity().cell, "other", 100, "accuracy", [98, 99]))
    with pytest.raises(MixedRecordsError, match=r"other data: other in .*b/cells.*, data in .*a/cells"):
        read_experiments(f"{tmp_path}/a,{tmp_path}/b")
