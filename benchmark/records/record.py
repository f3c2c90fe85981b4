"""The types of records: a round of a cell, the header of its file, and measurements; and how files of them are read.

Imports no torch.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import Struct, structs

from benchmark.contract.metrics import Metric, resolve_metric
from benchmark.records.checksummed_lines import parse_bodies, read_lines, read_sound_lines, to_json_value, verify_line
from benchmark.system.files import MAX_RECORDS_BYTES, open_file
from benchmark.system.validation import Amount, Count, Index, Name, Number, convert

SCHEMA = 1
Line = TypeVar("Line", bound=Struct)


class Positions(array):  # type: ignore[type-arg]  # generic at run time from Python 3.12 on
    """Pool positions read from disk, eight bytes each; equal to a list of the same positions."""

    def __eq__(self, other: object) -> bool:
        return self.tolist() == (other.tolist() if isinstance(other, array) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other


class Record(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One round of one cell: facts that an equal run repeats byte for byte."""

    round: Count
    num_labelled: Count  # images the model of this round was trained on
    bought: Sequence[Index]  # pool positions bought for it, in the strategy's order; the initial set in round 0
    cost: dict[str, Amount]  # labels paid so far, in images (and boxes); held-out ones too, if the strategy reads them
    scores: dict[str, Number]  # on the test set
    diagnostics: dict[str, Number] = {}  # what the strategy logged when it chose `bought`
    smallest_batch: Count | None = None  # see `api.ReportsBatchSizes`; None: no layer depends on it, or unknown
    batch_size: Count | None = None  # images in a batch, by the recipe; None as for `smallest_batch`
    class_scores: dict[str, dict[str, Number]] = {}  # by score, then by class; {}: the task reports none

    def __post_init__(self) -> None:
        structs.force_setattr(self, "bought", Positions("q", self.bought))

    def describe_missing(self, metric: str) -> str:
        """Returns what every round must state and this one does not, as a message; "" where it is complete."""
        if metric not in self.scores:
            return f"scores: no {metric}, the metric of its task"
        return "" if "images" in self.cost else "cost: no images"


NEWER_FIELDS = ("smallest_batch", "batch_size", "class_scores")  # older releases did not record them


def records_agree(first: Record, second: Record) -> bool:
    """Whether two records agree in all fields that both have."""
    missing_in_second = {name: getattr(first, name) for name in NEWER_FIELDS if getattr(second, name) in (None, {})}
    missing_in_first = {name: getattr(second, name) for name in NEWER_FIELDS if getattr(first, name) in (None, {})}
    return structs.replace(first, **missing_in_first) == structs.replace(second, **missing_in_second)


class Measured(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What one round took; it differs between any two runs."""

    round: Count
    seconds: dict[str, Amount]  # fit, score, select (0 in round 0), and encode; `fit` is also that of a shared fit
    shared_fit: bool  # the fit came from the cache
    peak_mb: Amount  # peak memory of the round, of the process or on the GPU; see `measuring.peak_memory_mb`
    device: str
    versions: dict[str, str]
    code: str = ""  # `Spec.code_hash` of the strategy


class PlugIn(TypedDict):
    """A task or a strategy as a header names it; further keys name the plug-ins that it uses."""

    name: Name
    version: int
    parameters: dict[str, Any]


class Identity(TypedDict):
    """The part of `Cell.identity` that is read again."""

    task: PlugIn
    strategy: PlugIn
    schedule: NotRequired[dict[str, Any]]
    seed: NotRequired[Index]
    training: NotRequired[Index]  # see `variants.Variant`
    selection: NotRequired[Index]


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a cell's records: which cell, and on which data."""

    key: str
    cell: dict[str, Any]  # an Identity, with everything else that identifies its plug-ins
    data: str  # the task's fingerprint of its data
    num_pool: Count
    metric: Name | Metric  # the name alone where it identifies the metric: see `shorten_metric`
    held_out: list[Index]  # the validation set
    schema: int = SCHEMA
    weights: dict[str, dict[str, str]] = {}  # encoder -> parameter -> SHA-256 of the weight file

    @property
    def task_metric(self) -> Metric:
        """The metric of the task."""
        return resolve_metric(self.metric)

    def belongs_to(self, key: str, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of this key and identity wrote the records: parameters that both have must be equal.

        They may differ under one key where a default was changed without raising the version.
        """
        pairs = [(plugin_parameters(self.cell, part), plugin_parameters(cell, part)) for part in ("task", "strategy")]
        are_equal = all(old.get(name, value) == value for old, new in pairs for name, value in new.items())
        return self.key == key and are_equal


@dataclass(frozen=True)
class StoredCell:
    """What is stored of one cell."""

    header: Header | None  # None: nothing is stored
    records: list[Record]
    damage: str  # which part of the file is not used, and why; "" where the whole file is sound


RECORDS_DECODER, MEASURED_DECODER = msgspec.json.Decoder(list[Record]), msgspec.json.Decoder(list[Measured])


def read_header(path: Path) -> Header | None:
    """Returns the header in the first line of a file of records; None where there is none, or it is damaged.

    Raises:
        ValueError: the line is of another schema, or not the header of a cell.
    """
    try:
        with open_file(path, MAX_RECORDS_BYTES) as handle:
            text = verify_line(handle.readline())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if text is None else parse_header(text, path)


def parse_header(text: bytes, path: Path) -> Header | None:
    """Returns the body of a first line as a header; None where the line is a round. ValueError as `read_header`."""
    [line] = parse_bodies([text], path)
    if "round" in line:
        return None
    if line.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {line.get('schema')}, this version reads {SCHEMA}")
    try:
        header = convert(line, Header)
        convert(header.cell, Identity)
        json.dumps(header.cell, allow_nan=False)  # parameters may be anything but infinite numbers
    except ValueError as error:
        raise ValueError(f"{path}: line 1 is not the header of a cell: {error}") from error
    return header


def read_cell(path: Path) -> StoredCell:
    """Reads a file of records up to the first line that is torn, damaged or not the next round.

    Raises:
        ValueError: a sound line is of another schema or invalid; the message names the line and the field.
    """
    _, texts, damage = read_sound_lines(path)
    header = parse_header(texts[0], path) if texts else None
    if header is None:
        return StoredCell(None, [], "line 1 is out of place" if texts else damage)
    records = decode_bodies(texts[1:], RECORDS_DECODER)
    if records is None:  # the invalid line may follow one that is out of place
        lines, _, damage = read_lines(path)
        records = [parse_line(line, Record, path, number) for number, line in enumerate(lines[1:], 2)]
    num_sound = next((n for n, record in enumerate(records) if record.round != n), len(records))
    if num_sound < len(records):
        records, damage = records[:num_sound], f"line {num_sound + 2} is out of place"
    for record in records:
        if missing := record.describe_missing(header.task_metric.name):
            raise ValueError(f"{path}: round {record.round}: {missing}")
    return StoredCell(header, records, damage)


def read_measurements(path: Path) -> list[Measured]:
    """Reads a file of measurements up to the first line that is torn or damaged. ValueError as `read_cell`."""
    _, texts, _ = read_sound_lines(path)
    lines = decode_bodies(texts, MEASURED_DECODER)
    if lines is None:
        lines = [parse_line(line, Measured, path, number) for number, line in enumerate(parse_bodies(texts, path), 1)]
    return lines


def decode_bodies(texts: Sequence[bytes], decoder: msgspec.json.Decoder[list[Line]]) -> list[Line] | None:
    """Decodes the bodies of lines at once; None where one does not fit."""
    try:
        lines = decoder.decode(b"[%s]" % b",".join(texts))
    except (ValueError, RecursionError):
        return None
    return lines if len(lines) == len(texts) else None


def parse_line(body: dict[str, Any], kind: type[Line], path: Path, number: int) -> Line:
    """Converts a parsed line to a Record or a Measured. ValueError names the line and the field."""
    try:
        return convert(body, kind)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is not a {kind.__name__} of schema {SCHEMA}: {error}") from error


def line_fields(line: Struct) -> dict[str, Any]:
    """Returns a record, header or measurement as the body of its line. ValueError where it could not be read again."""
    body = structs.asdict(line)
    for name in (*NEWER_FIELDS, "weights"):  # left out where empty, as older releases write lines
        if body.get(name, True) in (None, {}):
            del body[name]
    convert(json.loads(json.dumps(body, allow_nan=False, default=to_json_value)), type(line))
    return body


def plugin_parameters(cell: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Returns the parameters of a cell's task or strategy; none where they are not stated."""
    plugin = cell.get(part)
    values = plugin.get("parameters") if isinstance(plugin, dict) else None
    return values if isinstance(values, dict) else {}
