"""What the tests of odd files in results folders share: a small folder, functions that put odd values into its files,
and the judgement of what every command makes of it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _curves import recorded
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmark.cli.commands import app
from benchmark.records.checksummed_lines import add_checksum
from benchmark.records.store import Store, StoreWriteError

SCORES = {
    "random": {0: [50.0, 60.0, 65.0], 1: [52.0, 61.0, 67.0]},
    "mine": {0: [50.0, 64.0, 70.0], 1: [52.0, 63.0, 71.0]},
}
CELL = "made/mine/seed-0"
VERBS: dict[str, list[str]] = {
    "status": [], "tables": [], "verify": [], "savings": ["strategy=mine", "against=random"],
    "compare": ["mine", "random"], "explain": [CELL], "seconds": [], "report": [],
}  # fmt: skip
QUICK = tuple(verb for verb in VERBS if verb != "report")
PATIENCE = 20.0  # seconds that a command may take on a busy machine


def base(folder: Path) -> Store:
    """Returns a folder with two strategies, two seeds of three rounds each, and the sources of their images."""
    store = recorded(folder, SCORES)
    names = {part: [[f"{part}/{n}.png", f"{n:016x}"] for n in range(100)] for part in ("pool", "test")}
    path = store.sources_path("digits")
    path.parent.mkdir()
    path.write_text(json.dumps({"data": "data", "files": names, "remarks": ["an odd thing"]}))
    return store


def bodies(path: Path) -> list[Any]:
    """Returns the bodies of a file's lines."""
    return [json.loads(line)["body"] for line in path.read_bytes().splitlines()]


def put(path: Path, lines: list[Any]) -> None:
    """Writes lines with right checksums around anything."""
    path.write_bytes(b"".join(add_checksum(text_of(line).encode()) for line in lines))


class Raw(str):
    """A text that stands in a file as it is, whether it is JSON or not."""


def text_of(value: Any) -> str:
    """Returns a value as JSON, with each Raw in it as it is."""
    raws = list[str]()

    def mark(part: Any) -> Any:
        if isinstance(part, Raw):
            raws.append(part)
            return f"raw{len(raws) - 1}raw"
        if isinstance(part, dict):
            return {key: mark(inner) for key, inner in part.items()}
        return [mark(inner) for inner in part] if isinstance(part, list) else part

    return re.sub(r'"raw(\d+)raw"', lambda match: raws[int(match[1])], json.dumps(mark(value)))


ABSENT = Raw("absent")  # stands for a key, or an item of a list, that is not there


def planted(body: Any, place: tuple[Any, ...], value: object) -> Any:
    """Returns a copy of a JSON value with another value at a place.

    Without the place where the new value is ABSENT; unchanged where an earlier change removed the place.
    """
    copy = inner = copied(body)
    for step in place[:-1]:
        inner = inner[step] if has(inner, step) else None
    if has(inner, place[-1]):
        if value is ABSENT:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
    return copy


def copied(body: Any) -> Any:
    """Returns a copy of a JSON value, with each Raw as it is."""
    if isinstance(body, dict):
        return {key: copied(inner) for key, inner in body.items()}
    return [copied(inner) for inner in body] if isinstance(body, list) else body


def has(body: Any, step: Any) -> bool:
    """Whether a JSON value has this key or item."""
    return step in body if isinstance(body, dict) else isinstance(body, list) and step in range(len(body))


def places(body: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields every place in a JSON value."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, inner in pairs:
        yield (*before, key)
        yield from places(inner, (*before, key))


NUMBERS = [
    0, 1, -1, 2, 5, True, False, 1.5, -0.0, 1e-320, 1e30, -1e308, 1e308, 10**4, 10**8, 10**12, 10**30, 10**400, 2**31,
    2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63),
]  # fmt: skip
TEXTS = [
    "", " ", "x", "3", "a\nb", "\x1b[31mred", "\x00", "\ud800", "é", "..", "../x", "/x", "a/b", "x" * 300, "x" * 5000,
    "[red]x[/red]", "[/red]", "$x^2_$", "=cmd|'/C calc'!A0", "<script>alert(1)</script>", "a|b", "\\input{x}", "random",
    "random[", "mine[k=2]", "accuracy 50 +- 1", "acc 1 +- 2", "run 'x", "accuracy 9" + "9" * 400 + " +- 1", "\u202e",
]  # fmt: skip
RAW = [Raw(text) for text in ("NaN", "-Infinity", "1e400", "-1e-400", "1" * 5000, "[" * 500 + "]" * 500, '"\\ud800"')]
ODD = st.sampled_from([*NUMBERS, *TEXTS, *RAW, None, [], {}, [None], [[]], [{}], {"a": 1}, {"a": None}, ABSENT, ABSENT])
ANY = (
    ODD | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12) | st.lists(st.integers(-3, 99), max_size=4)
)


def near(body: Any, place: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Returns values of the kind that stands at a place, most of which a reader accepts."""
    for step in place:
        body = body[step]
    if isinstance(body, bool):
        return st.booleans()
    if isinstance(body, int):
        return st.integers(0, 99)
    if isinstance(body, float):
        return st.floats(0, 100)
    if isinstance(body, str):
        return st.sampled_from(TEXTS)
    return st.just(body[:-1]) if isinstance(body, list) else st.just(dict(reversed(body.items())) if body else {})


def command(folder: Path, verb: str, *words: str) -> tuple[str, str]:
    """Runs a command on a results folder, or on what its arguments name.

    Returns:
        `right`, `named` (a fault, exit 1) or `refused`, and the output or the one line of the refusal.

    Raises:
        AssertionError: anything else: a traceback, no output, or too long a wait.
    """
    start_time = time.monotonic()
    done = CliRunner().invoke(app, [verb, *VERBS[verb], *(words or [f"out={folder}"])])
    seconds, error = time.monotonic() - start_time, done.exception
    assert seconds < PATIENCE, f"{verb} seconds {seconds:.0f} s"
    if done.exit_code == 0:
        return "right", done.output
    if isinstance(error, SystemExit):
        assert (verb, done.exit_code) == ("verify", 1), done.output
        return "named", done.output
    assert isinstance(error, ValueError | OSError | StoreWriteError), f"{verb}: {error!r}"
    assert not isinstance(error, UnicodeError), f"{verb}: {error!r}"
    words = " ".join(str(error).split())
    assert words, f"{verb}: {error!r} says nothing"
    return "refused", words


def outcome(folder: Path, verbs: tuple[str, ...] = QUICK) -> tuple[str, str]:
    """Returns the worst outcome of the commands on a folder, and its output."""
    outcomes = dict(sorted((command(folder, verb) for verb in verbs), reverse=True))
    word = next(name for name in ("refused", "named", "right") if name in outcomes)
    return word, outcomes[word]


class Counts:
    """Outcomes of one reader."""

    def __init__(self, reader: str) -> None:
        self.reader, self.counted = reader, Counter[str]()

    def add(self, word: str) -> None:
        """Counts an input."""
        self.counted[word] += 1

    def show(self) -> None:
        """Prints a line, which `pytest -s` shows."""
        summary = ", ".join(f"{number} {word}" for word, number in sorted(self.counted.items()))
        print(f"\n{self.reader}: {self.counted.total()} odd inputs: {summary}")
