"""The settings of the commands that read records: which there are, what they mean, and which command takes which."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from benchmark.plugins.settings import Setting
from benchmark.text import notation

RECORD_SETTINGS = ("grid", "out", "records", "task")  # settings of every command: whose records are read
PRICE_SETTINGS = ("cost", "seconds_per_image", "seconds_per_box")
COMMAND_SETTINGS = {  # by a command besides RECORDS
    "status": ("format",),
    "tables": ("against", "level", "seed", "to", "format", "anonymous"),
    "savings": ("strategy", "against", "at", *PRICE_SETTINGS, "level", "seed", "format"),
    "compare": (*PRICE_SETTINGS, "level", "seed", "format"),
    "explain": (),
    "verify": ("against", "level", "format"),
    "verify devices": ("reference", "level", "format"),
    "report": ("against", "level", "seed", "to", "anonymous"),
    "seconds": ("format",),
    "variance": ("reference", "level", "seed", "to", "format", "anonymous"),
}


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """The settings of the commands that read records; each takes RECORDS and its part of TAKEN."""

    grid: Annotated[str, "the grid whose results folder is read: results/GRID"] = "quick"
    out: Annotated[str, "the results folder, where it is another than results/GRID"] = ""
    records: Annotated[
        str,
        "in place of a results folder: results folders, CSV files and folders of them, separated by commas; "
        "`published`: the curves of papers that come with this package",
    ] = ""
    task: Annotated[str, "one experiment or task alone"] = ""
    strategy: Annotated[str, "strategies, separated by commas; all where none is named"] = ""
    against: Annotated[str, "savings: strategies; else records to compare with, as `published`"] = ""
    reference: Annotated[str, "the strategy that others are compared with; else the experiment's own"] = ""
    at: Annotated[str, "where two curves are compared: final, curve, SCORE or band:LOW,HIGH"] = ""
    cost: Annotated[Literal["", "images", "boxes", "time"], "what is paid for; boxes where they are counted"] = ""
    seconds_per_image: Annotated[float, "cost=time: to look an image through (Su et al., 2012, median)"] = 7.8
    seconds_per_box: Annotated[float, "cost=time: to draw a box and check it (the same: 25.5 + 9.0)"] = 34.5
    level: Annotated[float, "confidence level of intervals and tests"] = 0.95
    seed: Annotated[int, "of the bootstrap and of drawn sign flips"] = 0
    to: Annotated[str, "the folder that is written to; with records= nothing is written without it"] = ""
    format: Annotated[Literal["text", "json"], "how the answer is printed"] = "text"
    anonymous: Annotated[bool, "true: what is written tells no folder, user, host or commit: docs/privacy.md"] = False

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: must be between 0 and 1")
        for name in ("seconds_per_image", "seconds_per_box"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        if self.cost == "time" and not self.seconds_per_image + self.seconds_per_box:
            raise ValueError("cost=time: seconds_per_image and seconds_per_box are both 0")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be at least 0")
        if self.records and self.out:
            raise ValueError("records= and out= name the same thing: give one of them")


def setting_types(verb: str) -> dict[str, Any]:
    """The annotated types of the settings that a command takes, by name."""
    kinds = typing.get_type_hints(AnalysisSettings)
    return {name: kinds[name] for name in (*RECORD_SETTINGS, *COMMAND_SETTINGS[verb])}


def known_settings(verb: str) -> list[Setting]:
    """The settings that a command takes, with their meanings."""
    kinds = typing.get_type_hints(AnalysisSettings, include_extras=True)
    known = {
        one.name: Setting(one.name, *describe_field(kinds[one.name], one.default)) for one in fields(AnalysisSettings)
    }
    return [known[name] for name in setting_types(verb)]


def describe_field(annotation: Any, default: object) -> tuple[Any, str, str]:
    """Type, default as it is typed, and meaning of a field."""
    kind, meaning = typing.get_args(annotation)
    return kind, notation.format_value(default), meaning
