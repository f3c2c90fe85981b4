"""Records on disk. A results folder holds

    grid.json                    what was requested: experiments and their cells
    data/TASK.json               the files that its images come from, if any, and remarks on them
    set_aside/N/                 records that `rerun_changed=true` moved away, as a results folder of their own
    cells/TASK/SCHEDULE/STRATEGY/seed-N.jsonl     facts: equal runs write equal bytes
    measured/...the same path    seconds, memory, device, versions: they differ between any two runs
    failures/...                 the traceback of a cell that failed; removed once the cell succeeds

A line is appended whole, with a checksum, and synced; lines may end in CRLF, as git and FTP may change them. Imports no
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
from benchmark.records.anonymous import redact, redact_run
from benchmark.records.checksummed_lines import add_checksum, encode_line, read_lines, read_sound_lines
from benchmark.records.image_file_list import Sources
from benchmark.records.manifest import manifest_json, only_adds_rounds, only_changes_rounds, run_key
from benchmark.records.manifest import read_manifest as read_manifest
from benchmark.records.record import (
    SCHEMA,
    Header,
    Measured,
    Record,
    StoredCell,
    line_fields,
    read_cell,
    read_header,
    read_measurements,
)
from benchmark.system import files, locks
from benchmark.system.files import StoreWriteError
from benchmark.text.escaping import make_lines_visible
from benchmark.text.words import plural, slug

REMEDY = (
    "choose another folder with out=DIR, or add rerun_changed=true, which moves such records aside and runs them again"
)

# Folders below a results folder that are written to, and that must not be links.
WRITTEN_FOLDERS = (
    files.SCRATCH_FOLDER, "cells", "data", "failures", "figures", "gallery", "measured", "set_aside", "tables", "wandb",
)  # fmt: skip


def describe_auto_seeds(auto: Mapping[str, Any] | None) -> str:
    """Returns the rule of `seeds=auto` as it is typed; or that seeds are given."""
    if auto is None:
        return "given seeds"
    return " ".join(["seeds=auto", *(f"{name}={value}" for name, value in auto.items())])


class Store:
    """The results folder of one grid."""

    def __init__(
        self, folder: str | Path, notify: Callable[[str], None] = lambda words: None, anonymous: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.notify = notify  # shows a line to the user, when a damaged file is cut off
        self.anonymous = anonymous  # whether nothing written may identify the author: see `records.anonymous`
        self.saved_sources = set[tuple[str, str]]()  # label and fingerprint of tasks whose sources are written
        self.held_lock: locks.FolderLock | None = None  # while `lock` is entered
        self.first_line_digests = dict[str, bytes]()  # of running cells: the digest of their header line
        self.verified_folders = set[tuple[Path, str, str]]()  # folder, data and weights that its cells agree on

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder for a block, so that one process at a time writes.

        Raises:
            ValueError: another run holds the folder, it cannot be written, or a folder in it is a symbolic link.
        """
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
        """Makes the folder; inside `lock`, raises StoreWriteError where the folder or lock was moved or replaced."""
        if self.held_lock is not None:
            self.held_lock.check()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)

    # --- records ------------------------------------------------------------------------------
    def path(self, cell: str, kind: str = "cells", ending: str = ".jsonl") -> Path:
        """Returns the file of a cell's path."""
        return self.folder / f"{kind}/{cell}{ending}"

    def start_cell(self, cell: str, header: Header) -> list[Record]:
        """Returns the records of a cell; writes the header where there are none.

        A file is cut off before a torn or damaged line, see `truncate_damage`: those rounds are run again. Raises
        MixedRecordsError as `check_header`.
        """
        self.check_folder()
        self.check_header(cell, header)
        path, measured = self.path(cell), self.path(cell, "measured")
        stored_cell = read_cell(path)
        for record in stored_cell.records:
            if max(record.bought, default=0) >= header.num_pool:
                raise ValueError(f"{path}: round {record.round}: bought: an image that is not in the pool")
        self.truncate_damage(path)
        self.truncate_damage(measured, ordered=False)
        files.append(measured, b"", self.folder, create=True)
        if stored_cell.header is None:
            files.append(path, encode_line(line_fields(header)), self.folder, create=True)
        with files.open_file(path) as handle:
            self.first_line_digests[cell] = files.first_line_digest(handle)
        return stored_cell.records

    def check_header(self, cell: str, header: Header) -> None:
        """Checks that the records of this cell and of other cells of its task and schedule agree with a header.

        Raises:
            MixedRecordsError: they have other settings, plug-in versions or data.
        """
        path = self.path(cell)
        old = read_header(path)
        if old is not None:
            self.check_own_records(path, old, header)
        else:
            self.check_sibling_records(path, header)

    def truncate_damage(self, path: Path, *, ordered: bool = True) -> None:
        """Cuts a file off behind its last sound line, and says so.

        If more is cut off than a last line that was not completely written, a copy of the file is kept beside it.
        """
        *_, num_sound_bytes, damage = read_lines(path, ordered=ordered)
        if not damage:
            return
        remark = f"{path}: {damage} and is cut off"
        content = files.read_file(path, files.MAX_RECORDS_BYTES)
        rest = content[num_sound_bytes:].splitlines(keepends=True)
        if len(rest) > 1 or rest[0][-1:] in b"\r\n":
            candidates = (Path(f"{path}.damaged-{number}") for number in itertools.count(1))
            copy = next(candidate for candidate in candidates if not candidate.exists())
            try:
                files.write_atomically(copy, content, self.folder)
            except StoreWriteError as error:
                raise StoreWriteError(f"{error}; {path} stays as it is") from error
            remark += f", with {plural(len(rest) - 1, 'line')} behind it; the file as it was is kept as {copy.name}"
        files.truncate(path, num_sound_bytes, self.folder)
        self.notify(remark)

    def copy_cell(self, old: str, new: str, header: Header) -> None:
        """Copies the records of a cell to another path, with another header. Raises StoreWriteError."""
        _, measurements, _ = read_sound_lines(self.path(old, "measured"))
        _, bodies, _ = read_sound_lines(self.path(old))
        files.write_atomically(self.path(new, "measured"), b"".join(map(add_checksum, measurements)), self.folder)
        records = bodies[1 : 1 + len(self.records(old)[1])]
        content = encode_line(line_fields(header)) + b"".join(map(add_checksum, records))
        files.write_atomically(self.path(new), content, self.folder)

    def check_own_records(self, path: Path, old: Header, new: Header) -> None:
        """Raises MixedRecordsError where a file's records are of another cell, other data or other weight files."""
        agreement = Agreement()
        agreement.add(new, "the strategy", "this run")
        difference = agreement.difference(old, "the strategy", "the file")
        if not difference and not old.belongs_to(new.key, new.cell):
            difference = "settings or plug-in versions"
        if not difference and new.data and old.weights != new.weights:
            difference = "files of an encoder's weights"
        if difference:
            raise MixedRecordsError(f"{path} was written with other {difference}: {REMEDY}")

    def check_sibling_records(self, path: Path, header: Header) -> None:
        """Raises MixedRecordsError where another cell was run on other data or with other weight files of an encoder.

        It compares cells of the same task and schedule, and cells of the same task that the manifest lists.
        """
        experiment, task = path.parents[1], path.parents[2]
        verified_key = (experiment, header.data, json.dumps(header.weights, sort_keys=True))
        if verified_key in self.verified_folders:
            return
        agreement, facts = Agreement(), structs.replace(header, cell={})
        agreement.add(facts, "", "this run")
        listed = {self.path(cell["path"]) for entry in self.experiments() for cell in entry["cells"]}
        for sibling in sorted({*experiment.glob("*/*.jsonl"), *(file for file in listed if task in file.parents)}):
            old = read_header(sibling)
            difference = agreement.difference(structs.replace(old, cell={}), "", "the file") if old else ""
            if difference:
                raise MixedRecordsError(f"{sibling} was written with other {difference}: {REMEDY}")
        self.verified_folders.add(verified_key)

    def append(self, cell: str, record: Record, measured: Measured) -> None:
        """Appends one round; its measurements are written first, so that a record never lacks them."""
        facts, times = encode_line(line_fields(record)), encode_line(line_fields(measured))  # invalid: none is written
        self.check_folder()
        files.append(self.path(cell, "measured"), times, self.folder)
        files.append(self.path(cell), facts, self.folder, first_digest=self.first_line_digests.get(cell, b""))
        files.remove(self.path(cell, "failures", ".txt"), self.folder)

    def read(self, cell: str) -> StoredCell:
        """Returns what is stored of a cell. ValueError where it is of another schema or invalid."""
        path = self.path(cell)
        stored_cell = read_cell(path)
        if not stored_cell.damage:
            return stored_cell
        remark = f"{path}: {stored_cell.damage}: neither it nor what follows is used, and `run` does it again"
        return replace(stored_cell, damage=remark)

    def header(self, cell: str) -> Header | None:
        """Returns the header of a cell without reading its records; None where there is none."""
        return read_header(self.path(cell))

    def records(self, cell: str) -> tuple[Header | None, list[Record]]:
        """Returns the header and the records of a cell, (None, []) where it has none."""
        stored_cell = self.read(cell)
        return stored_cell.header, stored_cell.records

    def measurements(self, cell: str) -> list[Measured]:
        """Returns the measurements of a cell, the last of each round."""
        measurements = read_measurements(self.path(cell, "measured"))
        return list({measured.round: measured for measured in measurements}.values())

    def devices(self, cell: str) -> set[str]:
        """Returns the devices that a cell ran on."""
        return {measured.device for measured in self.measurements(cell)}

    def code_hashes(self, cell: str) -> set[str]:
        """Returns the strategy's code hashes in a cell's rounds, without those of older releases, of a single file."""
        codes = {measured.code for measured in read_measurements(self.path(cell, "measured"))}
        return {code for code in codes if code.startswith("files-")}

    def save_failure(self, cell: str, trace: str) -> None:
        """Stores the traceback of a failed cell, if the disk allows it."""
        path = self.path(cell, "failures", ".txt")
        with contextlib.suppress(StoreWriteError):
            files.write_atomically(path, make_lines_visible(redact(trace) if self.anonymous else trace), self.folder)

    def read_failure(self, cell: str) -> str | None:
        """Returns the traceback of a failed cell; None where it did not fail."""
        path = self.path(cell, "failures", ".txt")
        return files.read_file(path).decode(errors="replace") if path.exists() else None

    def set_aside(self, experiment: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Path:
        """Moves some cells of an experiment into a results folder of their own below this one, and out of the manifest.

        Args:
            experiment: the experiment, as in a manifest.
            cells: the cells to move.

        Raises:
            StoreWriteError: a file cannot be moved.
        """
        folders = (self.folder / "set_aside" / str(number) for number in itertools.count(1))
        aside = Store(next(folder for folder in folders if not folder.exists()))
        empty = {"schema": SCHEMA, "grid": experiment["name"], "runs": [], "experiments": []}
        manifest = self.manifest() if self.has_manifest else empty
        paths = {cell["path"] for cell in cells}
        keys = {cell["path"]: header.key for cell in cells if (header := self.header(cell["path"]))}
        moved = [{**cell, "key": keys.get(cell["path"], cell["key"])} for cell in cells]
        content = {"runs": self.unique_runs(manifest.get("runs", [])), "experiments": [{**experiment, "cells": moved}]}
        files.write_atomically(aside.folder / "grid.json", manifest_json(manifest | content), self.folder)
        if (sources := self.sources(experiment["task"])) is not None:
            aside.save_sources(experiment["task"], sources)
        for kind, ending in (("cells", ".jsonl"), ("measured", ".jsonl"), ("failures", ".txt")):
            for path in sorted(paths):
                files.move(self.path(path, kind, ending), aside.path(path, kind, ending), self.folder)
        for entry in (entry for entry in manifest["experiments"] if entry["name"] == experiment["name"]):
            entry["cells"] = [cell for cell in entry["cells"] if cell["path"] not in paths]
        files.write_atomically(self.folder / "grid.json", manifest_json(manifest), self.folder)
        return aside.folder

    # --- files of images ------------------------------------------------------------------------
    def sources_path(self, task: str) -> Path:
        """Returns the file that lists where the images of a task, given by its label, come from."""
        return self.folder / "data" / f"{slug(task)}.json"

    def sources(self, task: str) -> Sources | None:
        """Returns where a task's images come from; None where that is unknown. ValueError where the file is invalid."""
        path = self.sources_path(task)
        return Sources.read(files.read_file(path).decode(errors="replace"), path) if path.exists() else None

    def save_sources(self, task: str, sources: Sources) -> None:
        """Writes where the images of a task come from. Raises StoreWriteError."""
        written = sources.rename_files(redact) if self.anonymous else sources
        files.write_atomically(self.sources_path(task), written.to_json(), self.folder)

    # --- the manifest ---------------------------------------------------------------------------
    @property
    def has_manifest(self) -> bool:
        """Whether anything was ever requested here."""
        return (self.folder / "grid.json").exists()

    def manifest(self) -> dict[str, Any]:
        """Returns the manifest. ValueError where the folder holds no run."""
        path = self.folder / "grid.json"
        if not path.exists():
            raise ValueError(f"{self.folder} holds no results: run the grid first, or name a folder with out=DIR")
        return read_manifest(files.read_file(path), path)

    def schedules(self) -> dict[str, dict[str, Any]]:
        """Returns the schedules of experiments that are named after their task: those on tasks outside the grid."""
        entries = self.manifest()["experiments"] if (self.folder / "grid.json").exists() else []
        return {entry["name"]: entry["schedule"] for entry in entries if entry["name"] == entry["task"]}

    def experiments(self) -> list[dict[str, Any]]:
        """Returns the experiments of the manifest; [] where there is none. ValueError as `manifest`."""
        return list(self.manifest()["experiments"]) if self.has_manifest else []

    def update_manifest(
        self, grid: str, experiments: Sequence[Mapping[str, Any]], run: Mapping[str, str] | None = None
    ) -> None:
        """Adds experiments to the manifest; an experiment that is there may gain cells and rounds, and nothing else.

        Args:
            grid: the name of the grid.
            experiments: the experiments, as in a manifest.
            run: how they were run: command, version and commit; each is listed once.

        Raises:
            ValueError: an experiment changes otherwise.
        """
        self.check_folder()
        path = self.folder / "grid.json"
        runs = self.manifest().get("runs", []) if self.has_manifest else []
        runs = self.unique_runs([*runs, dict(run)] if run is not None else runs)
        manifest = {"schema": SCHEMA, "grid": grid, "runs": runs, "experiments": self.merge_experiments(experiments)}
        files.write_atomically(path, manifest_json(manifest), self.folder)

    def unique_runs(self, runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns runs as the manifest lists them, each once."""
        runs = list(map(redact_run, runs)) if self.anonymous else list(runs)
        return [run for position, run in enumerate(runs) if run not in runs[:position]]

    def merge_experiments(self, experiments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the manifest's experiments that have records, with these added. ValueError as `update_manifest`."""
        merged: dict[str, Mapping[str, Any]] = {
            entry["name"]: entry
            for entry in self.experiments()
            if any(self.path(cell["path"]).exists() for cell in entry["cells"])
        }
        for new in experiments:
            old = merged.get(new["name"], new)
            for setting in ("task", "schedule"):
                if old[setting] != new[setting] and not (setting == "schedule" and only_adds_rounds(old, new)):
                    rule = "rounds can be raised, not lowered, and not with one_pass=true: "
                    hint = rule * only_changes_rounds(old, new)
                    raise ValueError(
                        f"{self.folder} holds {new['name']} with {setting} {old[setting]}, now {new[setting]}: "
                        f"{hint}choose another folder with out=DIR"
                    )
            if old is not new and "auto" in old and old["auto"] != new.get("auto"):
                was, now = describe_auto_seeds(old["auto"]), describe_auto_seeds(new.get("auto"))
                conflict = f"{self.folder} holds {new['name']} with {was}, now {now}"
                remedy = "the rule cannot change once there are records; choose another folder with out=DIR"
                raise ValueError(f"{conflict}: {remedy}")
            cells = {run_key(cell): cell for cell in [*old["cells"], *new["cells"]]}
            merged[new["name"]] = {**new, "cells": list(cells.values())}
        return list(merged.values())
