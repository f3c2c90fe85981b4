"""Records as lines of a file: what one round of one cell was, which cell it is, and what it took.

A line is JSON with a checksum. Equal records are equal bytes. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import types
import typing
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from benchmark.agreement import parameters
from benchmark.files import LARGEST_RECORDS, opened, read

SCHEMA = 1
Line = TypeVar("Line")


class Positions(array):  # type: ignore[type-arg]  # generic at run time from Python 3.12 on
    """Pool positions as they are read from disk, eight bytes each; equal to a list of the same ones."""

    def __eq__(self, other: object) -> bool:
        return self.tolist() == (other.tolist() if isinstance(other, array) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other


@dataclass(frozen=True)
class Record:
    """One round of one cell: facts that an equal run repeats to the byte."""

    round: int
    num_labelled: int  # images the model of this round was trained on
    bought: Sequence[int]  # pool positions bought for this round, in the strategy's order; the initial set in round 0
    cost: dict[
        str, float
    ]  # labels paid so far, in images (and boxes); held-out ones too, where the strategy reads them
    scores: dict[str, float]  # on the test set
    diagnostics: dict[str, float] = field(default_factory=dict)  # what the strategy logged when it chose `bought`
    smallest_batch: int | None = None  # see `api.Batched`; None: no layer depends on it, or it is not known


@dataclass(frozen=True)
class Measured:
    """What one round took. No two runs share it."""

    round: int
    seconds: dict[str, float]  # fit, score, select (0 for round 0); fit is the training's own, also where it was shared
    shared_fit: bool  # the fit came from the cache
    peak_mb: float  # the most memory in the round, of the process or on the GPU; see `loop.forget_peak`
    device: str
    versions: dict[str, str]
    code: str = ""  # `Spec.code` of the strategy


@dataclass(frozen=True)
class Header:
    """The first line of a cell's records: which cell on which data."""

    key: str
    cell: dict[str, Any]
    data: str  # fingerprint
    num_pool: int
    metric: str
    held_out: list[int]  # the validation draw
    schema: int = SCHEMA
    weights: dict[str, dict[str, str]] = field(default_factory=dict)  # of encoders: parameter -> sha256 of its file

    def is_of(self, key: str, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of this key and identity wrote it: parameters that both know have one value.

        They may differ under one key where somebody moved a default and forgot the version.
        """
        pairs = [(parameters(self.cell, part), parameters(cell, part)) for part in ("task", "strategy")]
        agree = all(old.get(name, value) == value for old, new in pairs for name, value in new.items())
        return self.key == key and agree


@dataclass(frozen=True)
class Stored:
    """What is stored of one cell."""

    header: Header | None  # None: nothing
    records: list[Record]
    damage: str  # what of the file is not used, and why; "" where all of it is sound


@cache
def kinds(record: Any) -> dict[str, Any]:
    """What the values of a dataclass's fields must be instances of, by name."""
    hints = typing.get_type_hints(record)
    return {name: tuple(alternatives(hint)) for name, hint in hints.items()}


def alternatives(hint: Any) -> Iterator[type]:
    """The classes of a type; an int is a float too."""
    for one in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        kind = typing.get_origin(one) or one
        yield kind
        if kind is float:
            yield int


def built(kind: type[Line], line: dict[str, Any], path: str | Path) -> Line:
    """A parsed line as a Header or as Measured; ValueError where it is none."""
    wanted = kinds(kind)  # type: ignore[arg-type]  # classes are hashable
    if wanted.keys() >= line.keys() and all(isinstance(value, wanted[name]) for name, value in line.items()):
        with contextlib.suppress(TypeError):
            return kind(**line)
    raise ValueError(f"{path}: a line is no {kind.__name__} of schema {SCHEMA}")


def first_header(path: str | Path) -> Header | None:
    """The header in the first line of a file of records; None where there is none, or it is damaged."""
    try:
        with opened(path, LARGEST_RECORDS) as handle:
            text = body_of(handle.readline())
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        line = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of records: {error}") from error
    return built(Header, line, path) if isinstance(line, dict) and "round" not in line else None


def as_record(line: dict[str, Any], path: str | Path) -> Record:
    """A parsed line as a Record; ValueError where it is another schema's or a number in it is not finite."""
    try:
        record = Record(**line | {"bought": Positions("q", line["bought"])})
        told = record.scores | record.cost | record.diagnostics
        if not isinstance(record.smallest_batch, int | None):
            raise TypeError(f"smallest_batch is {record.smallest_batch!r}")
        wrong = (
            [] if math.isfinite(sum(told.values())) else [n for n, value in told.items() if not math.isfinite(value)]
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a line is no record of schema {SCHEMA}: {error}") from error
    if wrong:
        raise ValueError(f"{path}: round {record.round}: {wrong[0]} is {told[wrong[0]]}")
    return record


# Device and round in a body of Measured, whose keys are sorted.
DEVICE = re.compile(rb'"device": ("(?:[^"\\]|\\.)*").*?"round": (\d+)')
CODE = re.compile(rb'"code": "(files-[0-9a-f]{16})"')  # older ones, without a kind, are of the plug-in's file alone
OPENING, CLOSING = b'{"body": ', b', "sha256": "%s"}\n'  # around a body and its checksum


def header_line(header: Header) -> dict[str, Any]:
    """A header as the body of a line."""
    return {name: value for name, value in asdict(header).items() if name != "weights" or value}


def digest(text: bytes) -> bytes:
    """The checksum of a line's body."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def seal(body: Mapping[str, Any]) -> bytes:
    """A JSON line with its checksum, the same bytes for the same content. ValueError on NaN and infinity."""
    return sealed(json.dumps(body, sort_keys=True, allow_nan=False, default=array.tolist).encode())


def sealed(text: bytes) -> bytes:
    """A body as a line, with its checksum."""
    return OPENING + text + CLOSING % digest(text)


NUM_CLOSING = len(CLOSING % digest(b""))


def body_of(line: bytes) -> bytes | None:
    """The body of a line, None where it is torn or its checksum does not fit. It may end in CRLF."""
    line = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
    text = line[len(OPENING) : -NUM_CLOSING]
    return text if line == OPENING + text + CLOSING % digest(text) else None


def read_lines(path: str | Path, *, ordered: bool = True) -> tuple[list[dict[str, Any]], int, str]:
    """The sound lines of a file before the first that is torn, damaged or, in a file of records (`ordered`), not the
    next round, how many bytes they take, and which line that is: "" where there is none.
    ValueError where a sound line holds no mapping."""
    lines, texts, damage = sound_lines(path)
    try:
        bodies = json.loads(b"[%s]" % b",".join(texts))  # in one go: of 10,000 cells there are 200,000
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of records: {error}") from error
    if len(bodies) != len(texts) or not all(isinstance(body, dict) for body in bodies):
        raise ValueError(f"{path} is no file of records: a line is no mapping")
    if ordered and (num_sound := num_in_order(bodies)) < len(bodies):
        bodies, damage = bodies[:num_sound], f"line {num_sound + 1} is out of place"
    return bodies, sum(map(len, lines[: len(bodies)])), damage


def sound_lines(path: str | Path) -> tuple[list[bytes], list[bytes], str]:
    """The lines of a file, the bodies of those before the first that is torn or damaged, and which line that is."""
    try:
        lines = read(path, LARGEST_RECORDS).splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return [], [], ""
    texts = list[bytes]()
    for line in lines:
        text = body_of(line)
        if text is None:
            whole = line.endswith(CLOSING[-1:])
            return lines, texts, f"line {len(texts) + 1} is {'damaged' if whole else 'torn'}"
        texts.append(text)
    return lines, texts, ""


def num_in_order(bodies: Sequence[Mapping[str, Any]]) -> int:
    """How many lines are a header, round 0, round 1 ...: where another process wrote too, some are there twice."""
    return next((n for n, body in enumerate(bodies) if body.get("round", -1) != n - 1), len(bodies))
