"""What the tests of odd inputs share: odd values, ways to break structures, bytes and files, and how they are judged.

A corpus is a number of inputs for one reader. Each starts from a small valid input, is broken in a few ways, and ends
in one of OUTCOMES; everything else fails: another exception, a message of several lines or one that names no file, a
hang, a change of the process's state, a box or an image that is gone without a word.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark import config

QUICK = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, phases=[Phase.explicit, Phase.generate]
)  # no shrinking: it takes minutes; add Phase.shrink to look into a failure
SLOW = settings(QUICK, max_examples=60)  # Hydra composes a configuration each time
SIZES = pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.slow)])  # inputs of a corpus
OUTCOMES = ("right", "refused", "named")
SECONDS = 20  # that one input may take


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of one example: pytest's would be shared by all of them."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(call: Callable[[], object], *kinds: type[Exception]) -> str | None:
    """What `call` says where it refuses; None where it does not. Any exception but ValueError and `kinds` fails."""
    try:
        call()
    except (ValueError, *kinds) as error:
        return str(error)
    return None


def says_one_line(call: Callable[[], object]) -> bool:
    words = refusal(call)
    return words is None or (bool(words.strip()) and "\n" not in words)


# --- odd values -------------------------------------------------------------------------------
PIECES = [
    "digits", "random", "coreset[metric=cosine]", "isal", "k=2", "null", "true", "nan", "inf", "-1", "0", "1e400", "7",
    "[", "]", "{", "}", ",", "=", ":", "'", '"', "\\", "$", "${", "${oc.env:HOME}", "${grid}", "~", "@", "+", "+++",
    "\t", "\0", " ", "é", "../", "/", "1" * 30, "map 0.22 +- 0.003", "<<", "&a", "*a", "!!python/name:os.system",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map(
    lambda parts: "".join(parts).replace("\n", "")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.just(10**400) | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*config.EXPERIMENT_FIELDS, "isal", "x"]), inner)
    ),
    max_leaves=8,
)
ODD_TEXTS = [
    "", " ", "\0", "a\0", "\n", "a\nb", "\r\n", "\t", "\x1b]0;x\a", "\ud800", "\udcff", "é" * 300, "x" * 100_000, "..",
    "../../x", "/etc/passwd", "a/b", "a\\b", "C:\\a.png", "1e400", "nan", "-0", "١", "½", "1_000", "null", "true", "[]",
    "<b>", "&", "=1+1", "${oc.env:HOME}", "%s", "{0}",
]  # fmt: skip
ODD_NUMBERS = [
    0, -1, 1, 7.5, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 10**30, -(10**30), 2**63, 2**63 - 1, 2**31,
    10**400,
]  # fmt: skip


def nested(depth: int, inner: Any = 0) -> Any:
    """A list in a list in a list ..."""
    return nested(depth - 1, [inner]) if depth else inner


USUAL = [0, 1, 2, 3, 5, 7, 8, 9, 1.5, 0.25, "1", "2", "3.5", "cat", "dog", "0.png"]  # values that a file may well have
ODD = st.sampled_from([*USUAL, None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [None], nested(60), {"x": 1}])
KINDS = st.sampled_from(
    [*[["body"]] * 3, ["bytes"], ["files"], ["body", "bytes", "files"]]
)  # what is odd of a data set
CHANGES = ["odd", "number", "number", "drop", "twice", "rename", "swap", "wrap"]


def places(body: Any, before: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """Every place in a JSON value."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, inner in pairs:
        yield [*before, key]
        yield from places(inner, (*before, key))


def at(body: Any, path: list[Any]) -> Any:
    """What is at a place."""
    for step in path:
        body = body[step]
    return body


def is_number(value: Any) -> bool:
    """Whether this is a number, or the text of one."""
    return type(value) in (int, float) or (isinstance(value, str) and value.replace(".", "").isdigit())


def mutated(data: st.DataObject, body: Any, most: int = 3) -> Any:
    """A JSON value with up to so many changes: dropped, doubled, renamed, exchanged or odd parts."""
    body = {"": copy.deepcopy(body)}
    for _ in range(data.draw(st.sampled_from([0, *[1] * 4, *range(2, most + 1)]))):
        every = [path for path in places(body) if len(path) > 1]
        if not every:
            break
        path, change = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(CHANGES))
        inner, key = at(body, path[:-1]), path[-1]
        if change == "odd":
            inner[key] = copy.deepcopy(data.draw(ODD))
        elif change == "number":  # another number in the place of one, as a number or a text
            numbers = [path for path in every if is_number(at(body, path))] or [path]
            path = data.draw(st.sampled_from(numbers))
            value = data.draw(st.sampled_from([0, 1, 2, 3, 5, 7, 8, 9, -3, 40, 1.5, 0.25, 5.001]))
            at(body, path[:-1])[path[-1]] = str(value) if isinstance(at(body, path), str) else value
        elif change == "drop":
            del inner[key]
        elif change == "wrap":
            inner[key] = data.draw(st.sampled_from([[inner[key]], {"x": inner[key]}, str(inner[key])]))
        elif change == "swap":
            inner[key] = copy.deepcopy(at(body, data.draw(st.sampled_from(every))))
        elif isinstance(inner, list):
            inner.insert(key, copy.deepcopy(inner[key]))
        else:
            name = data.draw(st.sampled_from([f"{key}2", *ODD_TEXTS]))
            inner[name] = inner.pop(key) if change == "rename" else copy.deepcopy(inner[key])
    return body[""]


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file's bytes, as they are, cut, flipped, or in another encoding."""
    how = data.draw(st.sampled_from(["whole", "cut", "flip", "flip", "junk", "bom", "crlf", "utf-16", "utf-32", "nul"]))
    place = data.draw(st.integers(0, max(0, len(content) - 1))) if how in ("cut", "flip", "junk", "nul") else 0
    if how == "flip" and content:
        return content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
    junk = {"junk": data.draw(st.binary(max_size=8)), "nul": b"\0"}.get(how, b"")
    if how in ("cut", "junk", "nul"):
        return content[:place] + junk + (b"" if how == "cut" else content[place:])
    if how in ("utf-16", "utf-32"):
        return content.decode("utf-8", "replace").encode(how, "replace")
    return b"\xef\xbb\xbf" * (how == "bom") + (content.replace(b"\n", b"\r\n") if how == "crlf" else content)


# --- odd files --------------------------------------------------------------------------------
FATES = ["gone", "empty", "folder", "fifo", "loop", "device", "sparse", "renamed", "copied", "linked", "outside"]
ENDINGS = [".XML", ".png", ".PNG", ".jpg", ".xml~", ".txt", ".json.bak", "", ".gif", ".\udcff", ".pgm"]
SPARSE = 10**13  # bytes, more than any machine has


def befall(data: st.DataObject, root: Path, most: int = 1) -> list[str]:
    """Does something odd to up to so many files of a folder, and says what."""
    done = list[str]()
    for _ in range(data.draw(st.integers(1, most))):
        files = sorted(
            path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**6
        )
        if not files:
            break
        path, fate = data.draw(st.sampled_from(files)), data.draw(st.sampled_from(FATES))
        content = path.read_bytes()
        if fate in ("renamed", "copied"):
            name = data.draw(
                st.sampled_from(
                    [path.stem + ending for ending in ENDINGS] + ["a\nb" + path.suffix, "\udcfe" + path.suffix]
                )
            )
            with contextlib.suppress(OSError):
                path.with_name(name).write_bytes(content)
                if fate == "renamed" and name != path.name:
                    path.unlink()
        else:
            path.unlink()
            put(path, fate, content)
        done.append(f"{path.relative_to(root)} {fate}")
    return done


def put(path: Path, fate: str, content: bytes) -> None:
    """Something else in the place of a file."""
    if fate == "folder":
        path.mkdir()
    elif fate == "fifo":
        os.mkfifo(path)
    elif fate in ("loop", "device", "outside"):
        path.symlink_to({"loop": path.name, "device": "/dev/zero", "outside": "/etc"}[fate])
    elif fate == "linked":
        original = path.with_name(f".{path.name}")
        original.write_bytes(content)
        path.symlink_to(original.name)
    elif fate in ("empty", "sparse"):
        path.touch()
        with contextlib.suppress(OSError):
            os.truncate(path, SPARSE if fate == "sparse" else 0)


def picture(path: Path, seed: int, mode: str = "RGB", side: int = 8) -> None:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of an image of 8 bits a channel that can be read whole; None for all else."""
    if not path.is_file() or path.stat().st_size > 10**6:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                return None if image.mode[0] in "IF" else image.size
    except Exception:  # Pillow raises anything
        return None


# --- how an input is judged -------------------------------------------------------------------
class Hang(BaseException):
    """A reader did not end in time."""


class Lines(logging.Handler):
    """What is said in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def state() -> list[Any]:
    """What of the process no reader may change."""
    return [
        os.getcwd(), dict(os.environ), list(sys.path), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.get_num_threads(), torch.random.get_rng_state().tolist()[:64], logging.root.level,
        logging.root.handlers[:], Image.MAX_IMAGE_PIXELS, sys.getrecursionlimit(), signal.getsignal(signal.SIGINT),
        sys.stdout, sys.stderr,
    ]  # fmt: skip


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """The lines that are logged in the block. Fails where it hangs, warns or changes the process's state."""

    def late(*_: object) -> None:
        raise Hang(f"no end after {SECONDS} s")

    from benchmark.vision.data.image_checks import warn_once

    warn_once.cache_clear()
    handler, log, before = Lines(), logging.getLogger("al_benchmark"), state()
    log.addHandler(handler)
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield handler.lines
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        log.removeHandler(handler)
    assert not warned, [str(warning.message) for warning in warned]
    after = state()
    assert before == after, [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert not any("\n" in line for line in handler.lines), handler.lines


def judged(build: Callable[[], Any], check: Callable[[Any, list[str]], bool], *names: object) -> str:
    """The outcome of one input.

    Args:
        build: reads it.
        check: whether what was read is right, from it and the lines that were said: True where all that was there is
            in it; False where something is left out, which the lines say. Fails where that is not so.
        names: of which a refusal has one: the file, or the folder that it is in.
    """
    with watched() as lines:
        refused: ValueError | None = None
        try:
            built = build()
        except ValueError as error:
            refused = error
    if refused is not None:
        assert not isinstance(refused, UnicodeError), refused
        words = str(refused)
        assert words.strip()
        assert "\n" not in words, words
        assert len(words) < 3000, words
        assert any(str(name) in words for name in names), words
        return "refused"
    return "right" if check(built, lines) else "named"


def corpus(reader: str, number: int, judge: Callable[[st.DataObject], str]) -> None:
    """So many odd inputs for a reader; their outcomes are printed."""
    counts = Counter[str]()

    @settings(QUICK, max_examples=number, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def every(data: st.DataObject) -> None:
        counts[judge(data)] += 1

    every()
    print(f"{reader}: {counts.total()} inputs,", ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
    assert set(counts) <= set(OUTCOMES)
    assert counts.total() >= number
