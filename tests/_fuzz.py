"""What the tests of odd inputs share: odd texts and values, a folder of one example, and what a refusal says."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st

from benchmark import grid as grids

QUICK = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, phases=[Phase.explicit, Phase.generate]
)  # no shrinking: it takes minutes; add Phase.shrink to look into a failure
SLOW = settings(QUICK, max_examples=60)  # Hydra composes a configuration each time


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
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*grids.ENTRY, "isal", "x"]), inner),
    max_leaves=8,
)
