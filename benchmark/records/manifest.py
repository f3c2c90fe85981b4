"""The manifest of a results folder: the experiments that were requested and their cells. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.cell import SAW_EVALUATION_LABELS
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import Variant
from benchmark.records.record import SCHEMA
from benchmark.system.validation import Index, Name, convert, first_duplicate


def only_adds_rounds(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an experiment differs from its entry in the manifest only in having more rounds.

    False for a one-pass schedule, whose selection depends on the number of rounds.
    """
    before, now = old["schedule"].get("rounds"), new["schedule"].get("rounds")
    has_more = isinstance(before, int) and isinstance(now, int) and before < now
    return has_more and only_changes_rounds(old, new) and not old["schedule"].get("one_pass")


def only_changes_rounds(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the schedule of an experiment differs only in its rounds."""
    before, now = old["schedule"], new["schedule"]
    return before != now and {**before, "rounds": 0} == {**now, "rounds": 0}


PATH_PART = r"(?!\.{1,2}(?:/|\Z))[ -.0-~]{1,200}"  # a folder, or a file without its ending
CELL_PATH = re.compile(rf"{PATH_PART}(?:/{PATH_PART}){{0,9}}")


class CellEntry(TypedDict):
    """A cell as the manifest lists it; see `experiment.cell.Cell`."""

    path: str
    key: str
    strategy: Name
    seed: Index
    dagger: bool | list[str]  # see `dagger_sentences`
    companion: NotRequired[bool]
    training: NotRequired[Index]  # see `variants.Variant`
    selection: NotRequired[Index]


class AutoEntry(TypedDict):
    """The rule of `seeds=auto`; see `auto_seeds.AutoSeeds`."""

    reference: Name
    level: float
    max_seeds: int


class ExperimentEntry(TypedDict):
    """An experiment as the manifest lists it; see `grid.Experiment`."""

    name: Name
    task: Name
    schedule: dict[str, Any]
    cells: list[CellEntry]
    auto: NotRequired[AutoEntry]  # of seeds=auto


class Command(TypedDict):
    """How experiments were run."""

    command: str
    version: str
    commit: str


class Manifest(TypedDict):
    """Everything that was requested."""

    schema: Literal[1]
    grid: Name
    runs: NotRequired[list[Command]]
    experiments: list[ExperimentEntry]


def read_manifest(content: bytes, path: object) -> dict[str, Any]:
    """Parses and checks a manifest; daggers become sentences, and unknown fields are kept.

    Args:
        content: the content of the file.
        path: the file, for the message.

    Raises:
        ValueError: it is not a manifest; the one-line message names the field.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(manifest, dict) and manifest.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {manifest.get('schema')}, this version reads {SCHEMA}")
    try:
        convert(manifest, Manifest)
        if name := first_duplicate(entry["name"] for entry in manifest["experiments"]):
            raise ValueError(f"experiments: {name} is listed twice")
        for number, experiment in enumerate(manifest["experiments"]):
            check_experiment(experiment, f"experiments[{number}]")
    except ValueError as error:
        raise ValueError(f"{path} is not a valid manifest: {error}") from error
    return dict(manifest)


def check_experiment(experiment: ExperimentEntry, field: str) -> None:
    """Checks an experiment of a manifest, and turns daggers into sentences.

    Raises:
        ValueError: the schedule is invalid, a cell is listed twice, or a cell's path leads out of the folder.
    """
    Schedule.read(experiment["schedule"], f"{field}.schedule")
    AutoSeeds.read(experiment.get("auto"))
    cells = experiment["cells"]
    if duplicate := first_duplicate(cell["path"] for cell in cells) or first_duplicate(map(run_key, cells)):
        raise ValueError(f"{field}.cells: {duplicate} is listed twice")
    for number, cell in enumerate(cells):
        if not CELL_PATH.fullmatch(path := cell["path"]):
            leads_out = not set(path.split("/")).isdisjoint(("", ".", "..")) or "\0" in path
            problem = "leads out of the folder" if leads_out else "is not the path of a cell"
            raise ValueError(f"{field}.cells[{number}]: path={path[:200]!r} {problem}")
        cell["dagger"] = dagger_sentences(cell["dagger"])


def cell_variant(cell: Mapping[str, Any]) -> Variant:
    """Returns the variant of a cell of a manifest."""
    return Variant(cell.get("training", 0), cell.get("selection", 0))


def run_key(cell: Mapping[str, Any]) -> tuple[object, ...]:
    """Returns what identifies a cell of a manifest within its experiment: strategy, seed and variant."""
    return cell["strategy"], cell["seed"], *cell_variant(cell).non_defaults.items()


def dagger_sentences(dagger: bool | list[str]) -> list[str]:
    """Returns a cell's daggers as sentences; older manifests state only whether the selection saw evaluation labels."""
    return dagger if isinstance(dagger, list) else [SAW_EVALUATION_LABELS] * dagger


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """Returns the content of a manifest's file."""
    return json.dumps(manifest, indent=1) + "\n"
