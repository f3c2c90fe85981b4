"""The manifest of a results folder: what was asked for, experiments and their cells. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

SAW_EVALUATION = "selection saw evaluation labels"  # the dagger of a strategy that reads the test set's labels


def extends(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an experiment of a manifest has more rounds than it had, and else the same schedule; one pass never."""
    fewer, more = old["schedule"].get("rounds"), new["schedule"].get("rounds")
    counted = isinstance(fewer, int) and isinstance(more, int) and fewer < more
    return counted and changes_rounds(old, new) and not old["schedule"].get("one_pass")


def changes_rounds(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the schedule of an experiment differs in nothing but its rounds."""
    before, now = old["schedule"], new["schedule"]
    return before != now and {**before, "rounds": 0} == {**now, "rounds": 0}


def slug(label: str) -> str:
    """A label as the name of a folder: never a path, and never another label's name."""
    if len(label) <= 100 and (match := re.fullmatch(r"(\w+)(?:\[([\w.=,+-]+)\])?", label, re.ASCII)):
        return "-".join(filter(None, match.groups()))
    plain = re.sub(r"[^A-Za-z0-9_=,+]", "_", label)[:80]
    hexes = hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()
    return f"{plain}-{hexes[:8]}"


ASKED: dict[str, Any] = {"path": str, "key": str, "strategy": str, "seed": int, "dagger": bool | list}  # of a cell


def check_asked(experiment: dict[str, Any]) -> None:
    """ValueError, TypeError or KeyError where an experiment of a manifest lacks something, or where a cell's path leads
    out of its folder; daggers become sentences."""
    for name, kind in {"name": str, "task": str, "schedule": dict, "cells": list}.items():
        if not isinstance(experiment[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    for cell in experiment["cells"]:
        for name, kind in ASKED.items():
            if not isinstance(cell[name], kind):
                raise TypeError(f"{name} of a cell is {cell[name]!r}")
        if not set(cell["path"].split("/")).isdisjoint(("", ".", "..")) or "\0" in cell["path"]:
            raise ValueError(f"path={cell['path']!r} leads out of the folder")
        cell["dagger"] = sentences(cell["dagger"])


def sentences(dagger: bool | list[str]) -> list[str]:
    """A cell's daggers, a sentence each; older manifests say only whether the selection saw evaluation labels."""
    told = dagger if isinstance(dagger, list) else [SAW_EVALUATION] * dagger
    if not all(isinstance(one, str) for one in told):
        raise TypeError("a dagger is no sentence")
    return told


def as_json(manifest: Mapping[str, Any]) -> str:
    """A manifest as its file holds it."""
    return json.dumps(manifest, indent=1) + "\n"
