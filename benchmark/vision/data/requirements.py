"""Tells which data sets a machine does not have, without reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.api import Machine, Requirement


def missing_data(
    machine: Machine, name: str, path: str, urls: str, *,
    is_there: Callable[[Path], object] = Path.is_dir, downloads: bool = False,
) -> Iterator[Requirement]:  # fmt: skip
    """Yields a data set that is not there, with where it comes from.

    Args:
        machine: has the data folder.
        name: what the data set is called.
        path: its folder: absolute, or inside the data folder.
        urls: where its files come from; "" for a data set of the user's own.
        is_there: whether a folder holds the data set.
        downloads: whether a run downloads it; otherwise the user does.
    """
    try:
        folder = machine.resolve_path(path)
    except ValueError:
        folder = None
    if folder is None or not is_there(folder):
        place = folder or ("DIR" if path == "." else f"DIR/{path}")
        verb = f"a run downloads {urls} to" if downloads else f"unpack {urls} in" if urls else "put it into"
        yield Requirement(name, f"{verb} {place}" + "; set data=DIR" * (folder is None))
