"""Records on disk. A results folder holds

    grid.json                    what was asked for: experiments and their cells
    data/TASK.json               the files that its images are from, where they are from files, and what is odd
    set_aside/N/                 records that `rerun_changed=true` took out, as a results folder of their own
    cells/TASK/SCHEDULE/STRATEGY/seed-N.jsonl     facts: equal runs write equal bytes
    measured/...the same path    seconds, memory, device, versions: what no two runs share
    failures/...                 the traceback of a cell that failed; gone once it succeeds

A line is appended whole, with a checksum, and synced; lines may end in CRLF, which git and FTP make of them. Imports no
torch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmark.records.agreement import Agreement, MixedRecordsError
from benchmark.records.anonymous import redact
from benchmark.records.anonymous import redact_run as anonymous_run
from benchmark.records.manifest import manifest_json, only_adds_rounds, only_changes_rounds, run_key
from benchmark.records.manifest import read_manifest as read_manifest
from benchmark.records.record import (
    SCHEMA,
    Header,
    Measured,
    Record,
    StoredCell,
    add_checksum,
    encode_line,
    line_fields,
    read_cell,
    read_header,
    read_lines,
    read_measurements,
    read_sound_lines,
)
from benchmark.records.sources import Sources
from benchmark.system import files, locks
from benchmark.system.files import StoreWriteError
from benchmark.text.escaping import make_lines_visible
from benchmark.text.words import plural, slug

REMEDY = (
    "choose another folder with out=DIR, or add rerun_changed=true, which moves such records aside and runs them anew"
)

# What is written below a results folder, and must be no link.
WRITTEN_FOLDERS = (
    files.SCRATCH_FOLDER,
    "cells",
    "data",
    "failures",
    "figures",
    "gallery",
    "measured",
    "set_aside",
    "tables",
    "wandb",
)


def describe_auto_seeds(auto: Mapping[str, Any] | None) -> str:
    """How `seeds=auto` decides, as it is typed; or that seeds are told."""
    if auto is None:
        return "seeds that are told"
    return " ".join(["seeds=auto", *(f"{name}={value}" for name, value in auto.items())])


class Store:
    """The results folder of one grid."""

    def __init__(
        self, folder: str | Path, notify: Callable[[str], None] = lambda words: None, anonymous: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.notify = notify  # is told, in a line, what is cut off a damaged file
        self.anonymous = anonymous  # what is written tells of nobody: see `benchmark.records.anonymous`
        self.saved_sources = set[tuple[str, str]]()  # labels and fingerprints of tasks whose files are written down
        self.held_lock: locks.FolderLock | None = None  # while `lock` is entered
        self.first_line_digests = dict[str, bytes]()  # of cells in work: a digest of the first line of their records
        self.verified_folders = set[
            tuple[Path, str, str]
        ]()  # folders of cells that were all run on these data and weights

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One writer at a time; ValueError where another run holds the folder, or it cannot be written or is odd."""
        for name in WRITTEN_FOLDERS:
            if (self.folder / name).is_symlink():
                raise ValueError(
                    f"out={self.folder}: {name} in it is a symbolic link, and nothing is written through links below a "
                    "results folder: put a folder in its place"
                )
        with locks.lock(self.folder, self.notify) as self.held_lock:
            try:
                yield
            finally:
                self.held_lock = None

    def check_folder(self) -> None:
        """Unwritable where `lock` was entered and the folder was moved since, or the lock deleted. Else makes it."""
        if self.held_lock is not None:
            self.held_lock.check()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)

    # --- records ------------------------------------------------------------------------------
    def path(self, cell: str, kind: str = "cells", ending: str = ".jsonl") -> Path:
        """The file of a cell's path."""
        return self.folder / f"{kind}/{cell}{ending}"

    def start_cell(self, cell: str, header: Header) -> list[Record]:
        """The records there are of this cell; writes the header where there are none.

        From a torn or damaged line on the file is cut off, see `repair`: those rounds are run again. Mixture: `check`.
        """
        self.check_folder()
        self.check_header(cell, header)
        path, measured = self.path(cell), self.path(cell, "measured")
        stored = read_cell(path)
        if outside := [one.round for one in stored.records if max(one.bought, default=0) >= header.num_pool]:
            raise ValueError(f"{path}: round {outside[0]}: bought: an image that is not in the pool")
        self.truncate_damage(path)
        self.truncate_damage(measured, ordered=False)
        files.append(measured, b"", self.folder, create=True)
        if stored.header is None:
            files.append(path, encode_line(line_fields(header)), self.folder, create=True)
        with files.open_file(path) as handle:
            self.first_line_digests[cell] = files.first_line_digest(handle)
        return stored.records

    def check_header(self, cell: str, header: Header) -> None:
        """Mixture where records of this cell, or of another one of its task and schedule, are of other settings,
        plug-in versions or data than this header."""
        path = self.path(cell)
        old = read_header(path)
        if old is not None:
            self.check_own_records(path, old, header)
        else:
            self.check_sibling_records(path, header)

    def truncate_damage(self, path: Path, *, ordered: bool = True) -> None:
        """Cuts a file behind its last sound line, and tells. Where that takes more than a last line which was not
        written to its end, the file as it was is kept beside it."""
        *_, sound, damage = read_lines(path, ordered=ordered)
        if not damage:
            return
        told = f"{path}: {damage} and is cut off"
        content = files.read_file(path, files.MAX_RECORDS_BYTES)
        if len(rest := content[sound:].splitlines(keepends=True)) > 1 or rest[0][-1:] in b"\r\n":
            copy = next(one for n in itertools.count(1) if not (one := Path(f"{path}.damaged-{n}")).exists())
            try:
                files.write_atomically(copy, content, self.folder)
            except StoreWriteError as error:
                raise StoreWriteError(f"{error}; {path} stays as it is") from error
            told += f", with {plural(len(rest) - 1, 'line')} behind it; the file as it was is kept as {copy.name}"
        files.truncate(path, sound, self.folder)
        self.notify(told)

    def copy_cell(self, old: str, new: str, header: Header) -> None:
        """Copies what is recorded of a cell to another place, under another header. Raises Unwritable."""
        (_, measured, _), (_, bodies, _) = (
            read_sound_lines(self.path(old, "measured")),
            read_sound_lines(self.path(old)),
        )
        files.write_atomically(self.path(new, "measured"), b"".join(map(add_checksum, measured)), self.folder)
        records = bodies[1 : 1 + len(self.records(old)[1])]
        files.write_atomically(
            self.path(new), encode_line(line_fields(header)) + b"".join(map(add_checksum, records)), self.folder
        )

    def check_own_records(self, path: Path, old: Header, new: Header) -> None:
        """Mixture where the records of a file were not made by this cell, or on other data or files of weights."""
        agreement = Agreement()
        agreement.add(new, "the strategy", "this run")
        words = agreement.difference(old, "the strategy", "the file")
        if not words and not old.belongs_to(new.key, new.cell):
            words = "settings or plug-in versions"
        if not words and new.data and old.weights != new.weights:
            words = "files of an encoder's weights"
        if words:
            raise MixedRecordsError(f"{path} was written with other {words}: {REMEDY}")

    def check_sibling_records(self, path: Path, header: Header) -> None:
        """Mixture where another cell of the same task and schedule, or of the same task and in the manifest, was run on
        other data or with another file of an encoder's weights."""
        experiment, task = path.parents[1], path.parents[2]
        verified = (experiment, header.data, json.dumps(header.weights, sort_keys=True))
        if verified in self.verified_folders:
            return
        agreement, wanted = Agreement(), structs.replace(header, cell={})
        agreement.add(wanted, "", "this run")
        listed = {self.path(cell["path"]) for one in self.experiments() for cell in one["cells"]}
        for sibling in sorted({*experiment.glob("*/*.jsonl"), *(one for one in listed if task in one.parents)}):
            old = read_header(sibling)
            words = agreement.difference(structs.replace(old, cell={}), "", "the file") if old else ""
            if words:
                raise MixedRecordsError(f"{sibling} was written with other {words}: {REMEDY}")
        self.verified_folders.add(verified)

    def append(self, cell: str, record: Record, measured: Measured) -> None:
        """Appends one round; measurements first, so that a record is never without them."""
        facts, took = (
            encode_line(line_fields(record)),
            encode_line(line_fields(measured)),
        )  # what could not be read again is not written
        self.check_folder()
        files.append(self.path(cell, "measured"), took, self.folder)
        files.append(self.path(cell), facts, self.folder, first_digest=self.first_line_digests.get(cell, b""))
        files.remove(self.path(cell, "failures", ".txt"), self.folder)

    def read(self, cell: str) -> StoredCell:
        """What is stored of a cell. ValueError where it is another schema's, or odd."""
        stored = read_cell(path := self.path(cell))
        if not stored.damage:
            return stored
        told = f"{path}: {stored.damage}: neither it nor what follows is used, and `run` does it again"
        return replace(stored, damage=told)

    def header(self, cell: str) -> Header | None:
        """The header of a cell, without reading its records; None where there is none."""
        return read_header(self.path(cell))

    def records(self, cell: str) -> tuple[Header | None, list[Record]]:
        """Header and records of a cell, (None, []) where it has none."""
        found = self.read(cell)
        return found.header, found.records

    def measurements(self, cell: str) -> list[Measured]:
        """Measurements of a cell, the last of each round."""
        return list({one.round: one for one in read_measurements(self.path(cell, "measured"))}.values())

    def devices(self, cell: str) -> set[str]:
        """What a cell ran on."""
        return {one.device for one in self.measurements(cell)}

    def codes(self, cell: str) -> set[str]:
        """The codes of a strategy that its rounds ran with; older ones, without a kind, are of its file alone."""
        return {one.code for one in read_measurements(self.path(cell, "measured")) if one.code.startswith("files-")}

    def save_failure(self, cell: str, trace: str) -> None:
        """Keeps the traceback of a failed cell, as far as the disk lets it."""
        path = self.path(cell, "failures", ".txt")
        with contextlib.suppress(StoreWriteError):
            files.write_atomically(path, make_lines_visible(redact(trace) if self.anonymous else trace), self.folder)

    def read_failure(self, cell: str) -> str | None:
        """The traceback of a failed cell."""
        path = self.path(cell, "failures", ".txt")
        return files.read_file(path).decode(errors="replace") if path.exists() else None

    def set_aside(self, experiment: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Path:
        """Moves what is stored of some cells of an experiment into a results folder of their own, below this one, and
        takes them out of the manifest. Raises Unwritable.

        Args:
            experiment: as a manifest holds it.
            cells: of it.
        """
        homes = (self.folder / "set_aside" / str(number) for number in itertools.count(1))
        aside = Store(next(home for home in homes if not home.exists()))
        none = {"schema": SCHEMA, "grid": experiment["name"], "runs": [], "experiments": []}
        manifest = self.manifest() if self.has_manifest else none
        paths = {cell["path"] for cell in cells}
        keys = {cell["path"]: header.key for cell in cells if (header := self.header(cell["path"]))}
        moved = [{**cell, "key": keys.get(cell["path"], cell["key"])} for cell in cells]
        taken = {"runs": self.unique_runs(manifest.get("runs", [])), "experiments": [{**experiment, "cells": moved}]}
        files.write_atomically(aside.folder / "grid.json", manifest_json(manifest | taken), self.folder)
        if (sources := self.sources(experiment["task"])) is not None:
            aside.save_sources(experiment["task"], sources)
        for kind, ending in (("cells", ".jsonl"), ("measured", ".jsonl"), ("failures", ".txt")):
            for path in sorted(paths):
                files.move(self.path(path, kind, ending), aside.path(path, kind, ending), self.folder)
        for one in (one for one in manifest["experiments"] if one["name"] == experiment["name"]):
            one["cells"] = [cell for cell in one["cells"] if cell["path"] not in paths]
        files.write_atomically(self.folder / "grid.json", manifest_json(manifest), self.folder)
        return aside.folder

    # --- files of images ------------------------------------------------------------------------
    def sources_path(self, task: str) -> Path:
        """The file that tells which files the images of a task, named by its label, are from."""
        return self.folder / "data" / f"{slug(task)}.json"

    def sources(self, task: str) -> Sources | None:
        """Which files the images of a task are from; None where it is not known. ValueError where it is not told."""
        path = self.sources_path(task)
        return Sources.read(files.read_file(path).decode(errors="replace"), path) if path.exists() else None

    def save_sources(self, task: str, sources: Sources) -> None:
        """Writes down which files the images of a task are from. Raises Unwritable."""
        shown = sources.rename_files(redact) if self.anonymous else sources
        files.write_atomically(self.sources_path(task), shown.to_json(), self.folder)

    # --- what was asked for ---------------------------------------------------------------------
    @property
    def has_manifest(self) -> bool:
        """Whether anything was ever asked for here."""
        return (self.folder / "grid.json").exists()

    def manifest(self) -> dict[str, Any]:
        """Experiments and their cells. ValueError where the folder holds no run."""
        path = self.folder / "grid.json"
        if not path.exists():
            raise ValueError(f"{self.folder} holds no results: run the grid first, or name a folder with out=DIR")
        return read_manifest(files.read_file(path), path)

    def schedules(self) -> dict[str, dict[str, Any]]:
        """The schedule of each experiment of the manifest that is called as its task is: no grid's, the user's own."""
        known = self.manifest()["experiments"] if (self.folder / "grid.json").exists() else []
        return {one["name"]: one["schedule"] for one in known if one["name"] == one["task"]}

    def experiments(self) -> list[dict[str, Any]]:
        """The experiments of the manifest; [] where nothing was ever asked for here. ValueError as `manifest`."""
        return list(self.manifest()["experiments"]) if self.has_manifest else []

    def update_manifest(
        self, grid: str, experiments: Sequence[Mapping[str, Any]], run: Mapping[str, str] | None = None
    ) -> None:
        """Adds experiments to the manifest: cells may join one and its rounds may grow, else it may not change.

        run: what tells how they were run, kept once.
        """
        self.check_folder()
        path = self.folder / "grid.json"
        runs = self.manifest().get("runs", []) if self.has_manifest else []
        runs = self.unique_runs([*runs, dict(run)] if run is not None else runs)
        manifest = {"schema": SCHEMA, "grid": grid, "runs": runs, "experiments": self.merge_experiments(experiments)}
        files.write_atomically(path, manifest_json(manifest), self.folder)

    def unique_runs(self, runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Runs as the manifest tells them, each once."""
        runs = list(map(anonymous_run, runs)) if self.anonymous else list(runs)
        return [one for place, one in enumerate(runs) if one not in runs[:place]]

    def merge_experiments(self, experiments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The experiments of the manifest that have records, and these. ValueError as `ask`."""
        asked: dict[str, Mapping[str, Any]] = {
            e["name"]: e for e in self.experiments() if any(self.path(cell["path"]).exists() for cell in e["cells"])
        }
        for new in experiments:
            old = asked.get(new["name"], new)
            for setting in ("task", "schedule"):
                if old[setting] != new[setting] and not (setting == "schedule" and only_adds_rounds(old, new)):
                    hint = "rounds can be raised, not lowered, and not of one pass: " * only_changes_rounds(old, new)
                    raise ValueError(
                        f"{self.folder} holds {new['name']} with {setting} {old[setting]}, now {new[setting]}: "
                        f"{hint}choose another folder with out=DIR"
                    )
            if old is not new and "auto" in old and old["auto"] != new.get("auto"):
                was, now = describe_auto_seeds(old["auto"]), describe_auto_seeds(new.get("auto"))
                looked = f"{self.folder} holds {new['name']} with {was}, whose looks count, now {now}"
                raise ValueError(f"{looked}: choose another folder with out=DIR")
            cells = {run_key(cell): cell for cell in [*old["cells"], *new["cells"]]}
            asked[new["name"]] = {**new, "cells": list(cells.values())}
        return list(asked.values())
