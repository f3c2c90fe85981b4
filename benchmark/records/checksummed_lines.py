"""Lines of JSON, each with a checksum: how files of records and measurements are written and read.

Equal content gives equal bytes. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmark.system.files import MAX_RECORDS_BYTES, read_file

LINE_START, LINE_END = b'{"body": ', b', "sha256": "%s"}\n'  # around a body and its checksum


def encode_line(body: Mapping[str, Any]) -> bytes:
    """Returns a JSON line with its checksum, the same bytes for the same content. ValueError on NaN and infinity."""
    return add_checksum(json.dumps(body, sort_keys=True, allow_nan=False, default=to_json_value).encode())


def add_checksum(text: bytes) -> bytes:
    """Returns a body as a line with its checksum."""
    return LINE_START + text + LINE_END % checksum(text)


def checksum(text: bytes) -> bytes:
    """Returns the checksum of a line's body."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def to_json_value(value: object) -> object:
    """Converts a value that JSON does not know, positions or a metric, to one that it does."""
    return value.tolist() if isinstance(value, array) else msgspec.to_builtins(value)


LINE_END_LENGTH = len(LINE_END % checksum(b""))


def verify_line(line: bytes) -> bytes | None:
    """Returns the body of a line; None where it is torn or its checksum does not fit. The line may end in CRLF."""
    line = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
    text = line[len(LINE_START) : -LINE_END_LENGTH]
    return text if line == LINE_START + text + LINE_END % checksum(text) else None


def read_lines(path: Path, *, ordered: bool = True) -> tuple[list[dict[str, Any]], int, str]:
    """Reads the sound lines of a file, up to the first that is torn or damaged.

    Args:
        path: the file.
        ordered: whether it is a file of records, which also ends before a line that is not the next round.

    Returns:
        The bodies, the number of bytes that their lines take, and what is wrong with the next line; "" for nothing.

    Raises:
        ValueError: a sound line holds no mapping.
    """
    lines, texts, damage = read_sound_lines(path)
    bodies = parse_bodies(texts, path)
    if ordered and (num_sound := num_in_order(bodies)) < len(bodies):
        bodies, damage = bodies[:num_sound], f"line {num_sound + 1} is out of place"
    return bodies, sum(map(len, lines[: len(bodies)])), damage


def read_sound_lines(path: Path) -> tuple[list[bytes], list[bytes], str]:
    """Returns a file's lines, the bodies of the lines before the first torn or damaged one, and what is wrong there."""
    try:
        lines = read_file(path, MAX_RECORDS_BYTES).splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return [], [], ""
    texts = list[bytes]()
    for line in lines:
        text = verify_line(line)
        if text is None:
            is_whole = line.endswith(LINE_END[-1:])
            return lines, texts, f"line {len(texts) + 1} is {'damaged' if is_whole else 'torn'}"
        texts.append(text)
    return lines, texts, ""


def parse_bodies(texts: Sequence[bytes], path: Path) -> list[dict[str, Any]]:
    """Parses the bodies of lines. ValueError where one is not a mapping."""
    try:
        bodies = json.loads(b"[%s]" % b",".join(texts))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of records: {error}") from error
    if len(bodies) != len(texts) or not all(isinstance(body, dict) for body in bodies):
        raise ValueError(f"{path} is not a file of records: a line is not a mapping")
    return list(bodies)


def num_in_order(bodies: Sequence[Mapping[str, Any]]) -> int:
    """Returns how many lines are in order: header, round 0, round 1, ...; two processes would write rounds twice."""
    return next((n for n, body in enumerate(bodies) if body.get("round", -1) != n - 1), len(bodies))
