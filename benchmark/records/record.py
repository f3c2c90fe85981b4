"""Records as lines of a file: what one round of one cell was, which cell it is, and what it took.

A line is JSON with a checksum. Equal records are equal bytes. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import Struct, structs

from benchmark.contract.metrics import Metric, resolve_metric
from benchmark.system.files import MAX_RECORDS_BYTES, open_file, read_file
from benchmark.system.typed import Amount, Count, Index, Name, Number, convert

SCHEMA = 1
Line = TypeVar("Line", bound=Struct)


class Positions(array):  # type: ignore[type-arg]  # generic at run time from Python 3.12 on
    """Pool positions as they are read from disk, eight bytes each; equal to a list of the same ones."""

    def __eq__(self, other: object) -> bool:
        return self.tolist() == (other.tolist() if isinstance(other, array) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other


class Record(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One round of one cell: facts that an equal run repeats to the byte."""

    round: Count
    num_labelled: Count  # images the model of this round was trained on
    bought: Sequence[Index]  # pool positions bought for it, in the strategy's order; the initial set in round 0
    cost: dict[str, Amount]  # labels paid so far, in images (and boxes); held-out ones too, if the strategy reads them
    scores: dict[str, Number]  # on the test set
    diagnostics: dict[str, Number] = {}  # what the strategy logged when it chose `bought`
    smallest_batch: Count | None = None  # see `api.Batched`; None: no layer depends on it, or it is not known
    batch_size: Count | None = None  # images in a batch as the recipe has them; None as for `smallest_batch`
    class_scores: dict[str, dict[str, Number]] = {}  # by score, then by class; {}: the task tells none

    def __post_init__(self) -> None:
        structs.force_setattr(self, "bought", Positions("q", self.bought))

    def describe_missing(self, metric: str) -> str:
        """What every round must tell and this one does not, in words; "" where it is whole."""
        if metric not in self.scores:
            return f"scores: no {metric}, the metric of its task"
        return "" if "images" in self.cost else "cost: no images"


NEWER_FIELDS = ("smallest_batch", "batch_size", "class_scores")  # what older releases did not tell


def records_agree(first: Record, second: Record) -> bool:
    """Whether two records say the same wherever both tell it."""
    told = {name: getattr(first, name) for name in NEWER_FIELDS if getattr(second, name) in (None, {})}
    untold = {name: getattr(second, name) for name in NEWER_FIELDS if getattr(first, name) in (None, {})}
    return structs.replace(first, **untold) == structs.replace(second, **told)


class Measured(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What one round took. No two runs share it."""

    round: Count
    seconds: dict[str, Amount]  # fit, score, select (0 for round 0); fit is the training's own, shared or not
    shared_fit: bool  # the fit came from the cache
    peak_mb: Amount  # the most memory in the round, of the process or on the GPU; see `loop.forget_peak`
    device: str
    versions: dict[str, str]
    code: str = ""  # `Spec.code` of the strategy


class PlugIn(TypedDict):
    """A task or a strategy as a header names it; keys besides these name the plug-ins that it reads."""

    name: Name
    version: int
    parameters: dict[str, Any]


class Identity(TypedDict):
    """What `grid.Cell.identity` tells, as far as it is read again."""

    task: PlugIn
    strategy: PlugIn
    schedule: NotRequired[dict[str, Any]]
    seed: NotRequired[Index]
    training: NotRequired[Index]  # see `variants.Variant`
    selection: NotRequired[Index]


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a cell's records: which cell on which data."""

    key: str
    cell: dict[str, Any]  # an Identity and what else its plug-ins are told apart by
    data: str  # fingerprint
    num_pool: Count
    metric: Name | Metric  # its name, where that says everything: see `scores.brief`
    held_out: list[Index]  # the validation draw
    schema: int = SCHEMA
    weights: dict[str, dict[str, str]] = {}  # of encoders: parameter -> sha256 of its file

    @property
    def task_metric(self) -> Metric:
        """The metric of its task."""
        return resolve_metric(self.metric)

    def belongs_to(self, key: str, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of this key and identity wrote it: parameters that both know have one value.

        They may differ under one key where somebody moved a default and forgot the version.
        """
        pairs = [(plugin_parameters(self.cell, part), plugin_parameters(cell, part)) for part in ("task", "strategy")]
        agree = all(old.get(name, value) == value for old, new in pairs for name, value in new.items())
        return self.key == key and agree


@dataclass(frozen=True)
class StoredCell:
    """What is stored of one cell."""

    header: Header | None  # None: nothing
    records: list[Record]
    damage: str  # what of the file is not used, and why; "" where all of it is sound


RECORDS_DECODER, MEASURED_DECODER = msgspec.json.Decoder(list[Record]), msgspec.json.Decoder(list[Measured])


def read_header(path: Path) -> Header | None:
    """The header in the first line of a file of records; None where there is none, or it is damaged. ValueError where
    it is another schema's or none of a cell."""
    try:
        with open_file(path, MAX_RECORDS_BYTES) as handle:
            text = verify_line(handle.readline())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if text is None else parse_header(text, path)


def parse_header(text: bytes, path: Path) -> Header | None:
    """The body of a first line as a Header; None where it is a round's. ValueError as `first_header`."""
    [line] = parse_bodies([text], path)
    if "round" in line:
        return None
    if line.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {line.get('schema')}, this version reads {SCHEMA}")
    try:
        header = convert(line, Header)
        convert(header.cell, Identity)
        json.dumps(header.cell, allow_nan=False)  # parameters are anything, but no infinite numbers
    except ValueError as error:
        raise ValueError(f"{path}: line 1 is no header of a cell: {error}") from error
    return header


def read_cell(path: Path) -> StoredCell:
    """What a file of records holds, up to the first line that is torn, damaged or not the next round.

    Raises:
        ValueError: a sound line is another schema's, or odd; the line and the field are named.
    """
    _, texts, damage = read_sound_lines(path)
    header = parse_header(texts[0], path) if texts else None
    if header is None:
        return StoredCell(None, [], "line 1 is out of place" if texts else damage)
    records = decode_bodies(texts[1:], RECORDS_DECODER)
    if records is None:  # the odd line may be behind one that is out of place
        lines, _, damage = read_lines(path)
        records = [parse_line(line, Record, path, number) for number, line in enumerate(lines[1:], 2)]
    num_sound = next((n for n, record in enumerate(records) if record.round != n), len(records))
    if num_sound < len(records):
        records, damage = records[:num_sound], f"line {num_sound + 2} is out of place"
    for record in records:
        if words := record.describe_missing(header.task_metric.name):
            raise ValueError(f"{path}: round {record.round}: {words}")
    return StoredCell(header, records, damage)


def read_measurements(path: Path) -> list[Measured]:
    """The measurements in a file up to the first line that is torn or damaged. ValueError as `read_cell`."""
    _, texts, _ = read_sound_lines(path)
    lines = decode_bodies(texts, MEASURED_DECODER)
    if lines is None:
        lines = [parse_line(line, Measured, path, number) for number, line in enumerate(parse_bodies(texts, path), 1)]
    return lines


def decode_bodies(texts: Sequence[bytes], decoder: msgspec.json.Decoder[list[Line]]) -> list[Line] | None:
    """The bodies of lines as what they hold, in one go; None where one does not fit."""
    try:
        lines = decoder.decode(b"[%s]" % b",".join(texts))
    except (ValueError, RecursionError):
        return None
    return lines if len(lines) == len(texts) else None


def parse_line(body: dict[str, Any], kind: type[Line], path: Path, number: int) -> Line:
    """A parsed line as a Record or as Measured. ValueError names the line and the field."""
    try:
        return convert(body, kind)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is no {kind.__name__} of schema {SCHEMA}: {error}") from error


def line_fields(line: Struct) -> dict[str, Any]:
    """A line as its body. ValueError where it could not be read again."""
    named = structs.asdict(line)
    for name in (*NEWER_FIELDS, "weights"):  # older lines have none of them
        if named.get(name, True) in (None, {}):
            del named[name]
    convert(json.loads(json.dumps(named, allow_nan=False, default=to_json_value)), type(line))
    return named


def to_json_value(value: object) -> object:
    """What JSON has for a value that it does not know: positions, a metric."""
    return value.tolist() if isinstance(value, array) else msgspec.to_builtins(value)


LINE_START, LINE_END = b'{"body": ', b', "sha256": "%s"}\n'  # around a body and its checksum


def checksum(text: bytes) -> bytes:
    """The checksum of a line's body."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def encode_line(body: Mapping[str, Any]) -> bytes:
    """A JSON line with its checksum, the same bytes for the same content. ValueError on NaN and infinity."""
    return add_checksum(json.dumps(body, sort_keys=True, allow_nan=False, default=to_json_value).encode())


def add_checksum(text: bytes) -> bytes:
    """A body as a line, with its checksum."""
    return LINE_START + text + LINE_END % checksum(text)


LINE_END_LENGTH = len(LINE_END % checksum(b""))


def verify_line(line: bytes) -> bytes | None:
    """The body of a line, None where it is torn or its checksum does not fit. It may end in CRLF."""
    line = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
    text = line[len(LINE_START) : -LINE_END_LENGTH]
    return text if line == LINE_START + text + LINE_END % checksum(text) else None


def read_lines(path: Path, *, ordered: bool = True) -> tuple[list[dict[str, Any]], int, str]:
    """The sound lines of a file before the first that is torn, damaged or, in a file of records (`ordered`), not the
    next round, how many bytes they take, and which line that is: "" where there is none.
    ValueError where a sound line holds no mapping."""
    lines, texts, damage = read_sound_lines(path)
    found = parse_bodies(texts, path)
    if ordered and (num_sound := num_in_order(found)) < len(found):
        found, damage = found[:num_sound], f"line {num_sound + 1} is out of place"
    return found, sum(map(len, lines[: len(found)])), damage


def parse_bodies(texts: Sequence[bytes], path: Path) -> list[dict[str, Any]]:
    """Bodies of lines, parsed. ValueError where one is no mapping."""
    try:
        found = json.loads(b"[%s]" % b",".join(texts))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of records: {error}") from error
    if len(found) != len(texts) or not all(isinstance(body, dict) for body in found):
        raise ValueError(f"{path} is no file of records: a line is no mapping")
    return list(found)


def read_sound_lines(path: Path) -> tuple[list[bytes], list[bytes], str]:
    """The lines of a file, the bodies of those before the first that is torn or damaged, and which line that is."""
    try:
        lines = read_file(path, MAX_RECORDS_BYTES).splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return [], [], ""
    texts = list[bytes]()
    for line in lines:
        text = verify_line(line)
        if text is None:
            whole = line.endswith(LINE_END[-1:])
            return lines, texts, f"line {len(texts) + 1} is {'damaged' if whole else 'torn'}"
        texts.append(text)
    return lines, texts, ""


def num_in_order(bodies: Sequence[Mapping[str, Any]]) -> int:
    """How many lines are a header, round 0, round 1 ...: where another process wrote too, some are there twice."""
    return next((n for n, body in enumerate(bodies) if body.get("round", -1) != n - 1), len(bodies))


def plugin_parameters(cell: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The parameters of a cell's task or strategy; none where they are not told."""
    plugin = cell.get(part)
    values = plugin.get("parameters") if isinstance(plugin, dict) else None
    return values if isinstance(values, dict) else {}
