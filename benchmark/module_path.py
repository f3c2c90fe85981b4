"""Which folders modules are imported from: nobody's `tasks.py` may stand in for the packages beside this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from importlib.machinery import PathFinder
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]  # the checkout, or site-packages


def put_home_first(packages: Collection[str]) -> None:
    """Moves the entries of `sys.path` that hold modules of these names behind HOME. Processes that are started from
    here take the path over.

    Args:
        packages: top-level packages that lie in HOME.

    Raises:
        ValueError: another module of such a name is imported already.
    """
    if not any(map(is_home, sys.path)):
        sys.path.append(str(HOME))
    place = next(number for number, entry in enumerate(sys.path) if is_home(entry))
    others = [entry for entry in sys.path[:place] if any(holds(entry, name) for name in packages)]
    sys.path[: place + 1] = [*(entry for entry in sys.path[: place + 1] if entry not in others), *others]
    for name in packages:
        module = sys.modules.get(name)
        if module is not None and not any(is_home(os.path.dirname(part)) for part in getattr(module, "__path__", ())):
            file = getattr(module, "__file__", None) or name
            raise ValueError(f"{file} was imported as {name!r}, which is the name of a package of al-benchmark")


def is_home(entry: str) -> bool:
    """Whether an entry of `sys.path` is HOME."""
    return os.path.realpath(entry) == str(HOME)


def holds(entry: str, name: str) -> bool:
    """Whether an entry of `sys.path` has a module of that name; a folder without __init__.py is none."""
    spec = PathFinder.find_spec(name, [entry])
    return spec is not None and spec.loader is not None
