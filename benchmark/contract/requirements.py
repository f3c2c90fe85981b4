"""What a task needs from outside: packages and data sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """A package or a data set that a task needs.

    Args:
        name: what it is called, as `mmdet` or `PASCAL VOC 2012`.
        source: where it comes from, as an instruction: `unpack URL in DIR`.
        is_package: whether it is a package to install. Without one the cells of a task cannot run; a run reports that
            before it begins.
    """

    name: str
    source: str
    is_package: bool = False
