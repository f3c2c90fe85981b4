"""What goes on under other versions of libraries than it began with: it is told, or begins anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.experiment.cell import Cell
from benchmark.records import versions
from benchmark.records.store import Store
from benchmark.runner import loop
from benchmark.runner.launch import find_shorter_cells

NUM_LISTED_CELLS = 3  # cells that a line names
VersionChanges = Mapping[Cell, Mapping[str, list[str]]]


def find_version_changes(
    rounds_left: Mapping[Cell, int], store: Store, current_versions: versions.Versions
) -> VersionChanges:
    """The libraries whose versions are others now than those that the records of cells were made with, by cell.

    Args:
        left: Rounds that unfinished cells lack.
        store: Where their records are; rounds whose measurements are lost tell no version.
        now: The versions of this run.
    """
    begun = [cell for cell, rounds in rounds_left.items() if rounds < cell.schedule.rounds]
    shorter, found = find_shorter_cells(begun, store), dict[Cell, Mapping[str, list[str]]]()
    for cell in begun:
        num_recorded = cell.schedule.rounds - rounds_left[cell]
        measured = store.measurements(shorter.get(cell, cell).path)
        if changes := versions.find_changes(
            (one.versions for one in measured if one.round < num_recorded), current_versions
        ):
            found[cell] = changes
    return found


def restart_changed_cells(
    rounds_left: dict[Cell, int],
    experiments: Sequence[Mapping[str, Any]],
    store: Store,
    *,
    mix: bool,
    move: bool = True,
) -> Iterator[str]:
    """Yields a line a task and change of versions: which cells go on, and which begin anew, since torch has another
    minor version. What is recorded of the latter moves into a results folder of its own.

    Args:
        left: Rounds that unfinished cells lack; of those that begin anew, all of them afterwards.
        experiments: Of the grid, as a manifest holds them.
        store: Where the records are.
        mix: Whether all go on.
        move: Whether records are moved; otherwise it is only told.
    """
    changes = find_version_changes(rounds_left, store, loop.library_versions())
    anew = [] if mix else [cell for cell, libraries in changes.items() if versions.needs_restart(libraries)]
    folders = set_aside(anew, experiments, store) if move else []
    moved = f"their records are now in {', '.join(folders)}; " if folders else ""
    yield from describe_changes(
        changes, anew, "so cells begin anew", f"{moved}mix_versions=true goes on from such records"
    )
    rest = [cell for cell in changes if cell not in anew]
    yield from describe_changes(changes, rest, "and cells go on from older ones", "tables and `verify` tell so")
    rounds_left |= {cell: cell.schedule.rounds for cell in anew}


def describe_changes(changes: VersionChanges, cells: Sequence[Cell], outcome: str, remark: str) -> Iterator[str]:
    """What becomes of these cells."""
    groups = defaultdict[tuple[str, str], list[Cell]](list)
    for cell in cells:
        groups[cell.task.label, versions.describe_changes(changes[cell])].append(cell)
    for (task, words), members in groups.items():
        named = ", ".join(cell.name for cell in members[:NUM_LISTED_CELLS])
        more = f" and {len(members) - NUM_LISTED_CELLS} more" if len(members) > NUM_LISTED_CELLS else ""
        yield f"{task}: versions of libraries changed, {words}, {outcome}: {named}{more} ({remark})"


def set_aside(cells: Sequence[Cell], experiments: Sequence[Mapping[str, Any]], store: Store) -> list[str]:
    """Moves what is recorded of cells into results folders of their own; these folders."""
    paths, folders = {cell.path for cell in cells}, list[str]()
    for experiment in experiments:
        there = [one for one in experiment["cells"] if one["path"] in paths and store.path(one["path"]).exists()]
        folders += [str(store.set_aside(experiment, there))] if there else []
    return folders
