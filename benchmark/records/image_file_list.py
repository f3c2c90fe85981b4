"""The files that a task's images come from, stored beside its records: `data/TASK.json`. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from benchmark.system.validation import convert

NUM_LISTED = 3  # files that a message lists
FAULT = "FAULT: "  # see `api.FromFiles.data_remarks`
Files = Mapping[str, Sequence[Sequence[str]]]


class Content(TypedDict):
    """What the file holds; see Sources."""

    data: str
    files: dict[str, list[tuple[str, str]]]
    remarks: list[str]


@dataclass(frozen=True)
class Sources:
    """What a task reported about its images when its records were written."""

    data: str  # the task's fingerprint of its data
    files: Files  # of "pool" and "test": name and pixel hash of each image, in the order of positions
    remarks: list[str] = field(default_factory=list)  # what is unusual; with FAULT in front: what makes results wrong

    @property
    def faults(self) -> list[str]:
        """The remarks on what makes results wrong."""
        return [remark.removeprefix(FAULT) for remark in self.remarks if remark.startswith(FAULT)]

    def names(self, part: str) -> list[str]:
        """Returns the file names of a part's images, in the order of positions; [] where they come from no files."""
        return [name for name, _ in self.files.get(part, ())]

    def rename_files(self, rename: Callable[[str], str]) -> Sources:
        """Returns the same with `rename` applied to the names of files and to remarks."""
        files = {part: [(rename(name), digest) for name, digest in pairs] for part, pairs in self.files.items()}
        return Sources(self.data, files, list(map(rename, self.remarks)))

    def to_json(self) -> str:
        """Returns the content of the file."""
        content = {"data": self.data, "files": self.files, "remarks": self.remarks}
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def read(cls, text: str, place: object) -> Sources:
        """Parses the content of the file. ValueError, which names the place, where it is invalid."""
        try:
            return cls(**convert(json.loads(text), Content))
        except (RecursionError, ValueError) as error:
            problem = f"{place} does not list the files that the images come from"
            raise ValueError(f"{problem} ({error}): remove it, and `run` writes it again") from error

    def describe_changes(self, new: Sources) -> str:
        """Describes what has changed in the images."""
        changes = [f"{name} {change}" for part in ("pool", "test") for name, change in self.changed_files(new, part)]
        if not changes:
            return "no image changed, but the labels, their order or what is read of them did"
        more = [f"{len(changes) - NUM_LISTED} more"] * (len(changes) > NUM_LISTED)
        return ", ".join([*changes[:NUM_LISTED], *more])

    def changed_files(self, new: Sources, part: str) -> Iterator[tuple[str, str]]:
        """Yields the files of a part that differ, and how."""
        old_hashes, new_hashes = (
            {name: digest for name, digest in sources.files.get(part, ())} for sources in (self, new)
        )
        for name, digest in new_hashes.items():
            if name not in old_hashes:
                yield name, "is new"
            elif old_hashes[name] != digest:
                yield name, "is another image now"
        yield from ((name, "is gone") for name in old_hashes if name not in new_hashes)
