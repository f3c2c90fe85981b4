"""The library versions that numbers may depend on: which differ, and what happens to a cell then. Imports no torch.

The versions of torch, torchvision, numpy, scikit-learn, CUDA, cuDNN and Python are compared. Python's is compared
without its patch number: no patch release of Python changed how numbers are computed, and neither does a GPU driver. An
unfinished cell goes on under other versions, with a remark; under another minor version of torch (2.10, 2.11) it starts
again.
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
Versions: TypeAlias = Mapping[str, str]  # by library, as in `Measured.versions`


def installed_versions() -> dict[str, str]:
    """Returns the versions of the libraries installed here, without those that only a GPU has."""
    versions = dict[str, str]()
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions | {"python": sys.version.split()[0]}


def minor_version(number: str) -> str:
    """Returns a version up to its second number."""
    return ".".join(number.split("+")[0].split(".")[:2])


def compared_part(name: str, number: str) -> str:
    """Returns the part of a library's version that must be equal."""
    return minor_version(number) if name == "python" else number


def find_mixed_versions(all_versions: Iterable[Versions]) -> dict[str, list[str]]:
    """Returns the libraries that occur with several versions, with all of them in order of appearance."""
    numbers = defaultdict[str, dict[str, None]](dict)
    for versions in all_versions:
        for name in COMPARED_LIBRARIES:
            if name in versions:
                numbers[name].setdefault(compared_part(name, versions[name]))
    return {name: list(different) for name, different in numbers.items() if len(different) > 1}


def find_changes(old: Iterable[Versions], new: Versions) -> dict[str, list[str]]:
    """Returns the libraries whose version has changed: the old versions, then the new one."""
    changes = dict[str, list[str]]()
    for name, numbers in find_mixed_versions([*old, new]).items():
        if name in new:
            current = compared_part(name, new[name])
            changes[name] = [*(number for number in numbers if number != current), current]
    return changes


def describe_changes(changed: Mapping[str, list[str]]) -> str:
    """Returns `torch 2.10.0 to 2.11.0, numpy 2.1.0 and 2.1.1 to 2.2.0`."""
    text = ", ".join(f"{name} {' and '.join(numbers[:-1])} to {numbers[-1]}" for name, numbers in changed.items())
    return make_visible(text)


def mixed_versions_note(mixture: Mapping[str, list[str]]) -> str:
    """Returns a table's remark that its records were made with several library versions; "" where they were not."""
    parts = [f"{name} {', '.join(numbers[:-1])} and {numbers[-1]}" for name, numbers in mixture.items()]
    text = make_visible(", ".join(parts))
    return f"Made with several versions of libraries ({text}): numbers may differ between them." if text else ""


def needs_restart(changed: Mapping[str, list[str]]) -> bool:
    """Whether a cell cannot go on under these changes: torch has another minor version."""
    return len(set(map(minor_version, changed.get("torch", [])))) > 1
