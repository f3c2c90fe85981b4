"""What happens to unfinished cells when library versions have changed: they go on with a remark, or start again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.experiment.cell import Cell
from benchmark.records import versions
from benchmark.records.store import Store
from benchmark.runner import measuring
from benchmark.runner.record_checks import find_shorter_cells

NUM_LISTED_CELLS = 3  # by name in a line
VersionChanges = Mapping[Cell, Mapping[str, list[str]]]


def find_version_changes(
    rounds_left: Mapping[Cell, int], store: Store, current_versions: versions.Versions
) -> VersionChanges:
    """Returns, by cell, the libraries whose versions differ from those that its records were made with.

    Args:
        rounds_left: the rounds that unfinished cells lack.
        store: the results folder; rounds whose measurements are lost tell no version.
        current_versions: the versions of this run.
    """
    recorded_cells = [cell for cell, rounds in rounds_left.items() if rounds < cell.schedule.rounds]
    shorter, changes_by_cell = find_shorter_cells(recorded_cells, store), dict[Cell, Mapping[str, list[str]]]()
    for cell in recorded_cells:
        num_recorded = cell.schedule.rounds - rounds_left[cell]
        measurements = store.measurements(shorter.get(cell, cell).path)
        old_versions = [measured.versions for measured in measurements if measured.round < num_recorded]
        if changes := versions.find_changes(old_versions, current_versions):
            changes_by_cell[cell] = changes
    return changes_by_cell


def restart_changed_cells(
    rounds_left: dict[Cell, int],
    experiments: Sequence[Mapping[str, Any]],
    store: Store,
    *,
    mix: bool,
    move: bool = True,
) -> Iterator[str]:
    """Decides which unfinished cells go on and which start again because torch has another minor version.

    Yields a line for each task and change of versions. The records of cells that start again are moved into a results
    folder of their own.

    Args:
        rounds_left: the rounds that unfinished cells lack; set to all rounds for cells that start again.
        experiments: the grid's experiments, as in a manifest.
        store: the results folder.
        mix: whether all cells go on.
        move: whether records are moved; otherwise the lines are yielded only.
    """
    changes = find_version_changes(rounds_left, store, measuring.library_versions())
    restarts = [] if mix else [cell for cell, libraries in changes.items() if versions.needs_restart(libraries)]
    folders = set_aside(restarts, experiments, store) if move else []
    remark = f"their records are now in {', '.join(folders)}; " if folders else ""
    remark += "mix_versions=true goes on from such records"
    yield from describe_changes(changes, restarts, "so cells start again", remark)
    others = [cell for cell in changes if cell not in restarts]
    yield from describe_changes(changes, others, "and cells go on from older ones", "tables and `verify` say so")
    rounds_left |= {cell: cell.schedule.rounds for cell in restarts}


def describe_changes(changes: VersionChanges, cells: Sequence[Cell], outcome: str, remark: str) -> Iterator[str]:
    """Yields a line for each task and change of versions: what happens to these cells."""
    groups = defaultdict[tuple[str, str], list[Cell]](list)
    for cell in cells:
        groups[cell.task.label, versions.describe_changes(changes[cell])].append(cell)
    for (task, words), members in groups.items():
        names = ", ".join(cell.name for cell in members[:NUM_LISTED_CELLS])
        more = f" and {len(members) - NUM_LISTED_CELLS} more" if len(members) > NUM_LISTED_CELLS else ""
        yield f"{task}: versions of libraries changed, {words}, {outcome}: {names}{more} ({remark})"


def set_aside(cells: Sequence[Cell], experiments: Sequence[Mapping[str, Any]], store: Store) -> list[str]:
    """Moves the records of cells into results folders of their own, and returns these folders."""
    paths, folders = {cell.path for cell in cells}, list[str]()
    for experiment in experiments:
        entries = [entry for entry in experiment["cells"] if entry["path"] in paths]
        recorded = [entry for entry in entries if store.path(entry["path"]).exists()]
        folders += [str(store.set_aside(experiment, recorded))] if recorded else []
    return folders
