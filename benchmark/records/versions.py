"""Versions of the libraries that decide numbers: which differ, and what becomes of a cell then. Imports no torch.

Compared are torch, torchvision, numpy, scikit-learn, CUDA and cuDNN, and Python without its last part: no patch release
of Python changed how numbers are computed, and no driver of a GPU does. A cell that is not finished goes on under other
versions, which is told; under another minor version of torch (2.10, 2.11) it begins anew.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

from benchmark.text.escaping import make_visible

LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn")
COMPARED_LIBRARIES = (*LIBRARIES, "cuda", "cudnn", "python")
Versions: TypeAlias = Mapping[str, str]  # by library, as `Measured` has them


def installed_versions() -> dict[str, str]:
    """The versions of what is installed here, but for what only a GPU tells."""
    found = dict[str, str]()
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": sys.version.split()[0]}


def minor_version(number: str) -> str:
    """A version without what follows its second number."""
    return ".".join(number.split("+")[0].split(".")[:2])


def compared_part(name: str, number: str) -> str:
    """The part of a library's version that must be the same."""
    return minor_version(number) if name == "python" else number


def find_mixed_versions(found: Iterable[Versions]) -> dict[str, list[str]]:
    """The deciding libraries that have several versions among these, each with all of them, in order of appearance."""
    numbers = defaultdict[str, dict[str, None]](dict)
    for versions in found:
        for name in COMPARED_LIBRARIES:
            if name in versions:
                numbers[name].setdefault(compared_part(name, versions[name]))
    return {name: list(all_of) for name, all_of in numbers.items() if len(all_of) > 1}


def find_changes(old: Iterable[Versions], new: Versions) -> dict[str, list[str]]:
    """The deciding libraries whose version is another one now: what it was, and last what it is."""
    mixture = find_mixed_versions([*old, new])
    return {name: [one for one in all_of if one != compared_part(name, new[name])] + [compared_part(name, new[name])]
            for name, all_of in mixture.items() if name in new}  # fmt: skip


def describe_changes(changed: Mapping[str, list[str]]) -> str:
    """`torch 2.10.0 to 2.11.0, numpy 2.1.0 and 2.1.1 to 2.2.0`."""
    told = ", ".join(f"{name} {' and '.join(numbers[:-1])} to {numbers[-1]}" for name, numbers in changed.items())
    return make_visible(told)


def mixed_versions_note(mixture: Mapping[str, list[str]]) -> str:
    """What a caption says of a table whose records were made with several versions; "" where they were not."""
    told = make_visible(
        ", ".join(f"{name} {', '.join(all_of[:-1])} and {all_of[-1]}" for name, all_of in mixture.items())
    )
    return f"Made with several versions of libraries ({told}): numbers may differ between them." if told else ""


def needs_restart(changed: Mapping[str, list[str]]) -> bool:
    """Whether a cell cannot go on under these changes: torch has another minor version."""
    return len(set(map(minor_version, changed.get("torch", [])))) > 1
