"""The settings of the commands that read records: their meanings and defaults, and which command takes which."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from benchmark.plugins.key_value import Setting
from benchmark.text import notation

RECORD_SETTINGS = ("grid", "out", "records", "task")  # settings of every command: the records to read
PRICE_SETTINGS = ("cost", "seconds_per_image", "seconds_per_box")
COMMAND_SETTINGS = {  # settings of each command besides RECORD_SETTINGS
    "status": ("format",),
    "classes": ("strategy", "against", "round", "level", "format"),
    "tables": ("against", "level", "seed", "to", "format", "anonymous"),
    "savings": ("strategy", "against", "at", *PRICE_SETTINGS, "level", "seed", "format"),
    "compare": (*PRICE_SETTINGS, "level", "seed", "format"),
    "explain": (),
    "verify": ("against", "level", "format"),
    "verify devices": ("reference", "level", "format"),
    "report": ("against", "round", "level", "seed", "to", "anonymous"),
    "seconds": ("format",),
    "variance": ("reference", "level", "seed", "to", "format", "anonymous"),
}


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """The settings of the commands that read records, with their meanings and defaults."""

    grid: Annotated[str, "the grid whose results folder is read: results/GRID"] = "quick"
    out: Annotated[str, "the results folder, if it is not results/GRID"] = ""
    records: Annotated[
        str,
        "results folders, CSV files of curves and folders of such files, separated by commas; "
        "`published`: the published curves that come with this package",
    ] = ""
    task: Annotated[str, "only this experiment or task"] = ""
    strategy: Annotated[str, "strategies, separated by commas; all if empty"] = ""
    against: Annotated[
        str, "for savings and classes: strategies to compare with; for other commands: published curves"
    ] = ""
    round: Annotated[
        int | None,
        "the round of the scores of classes, null: the last one; and of the map of the pool, null: 0 (see embed_round)",
    ] = None
    reference: Annotated[str, "the strategy that others are compared with; the experiment's own if empty"] = ""
    at: Annotated[str, "the score at which curves are compared: final, curve, SCORE or band:LOW,HIGH"] = ""
    cost: Annotated[
        Literal["", "images", "boxes", "time"],
        "the cost to compare; if empty, boxes where they are counted, else images",
    ] = ""
    seconds_per_image: Annotated[float, "cost=time: seconds to look through an image (Su et al., 2012, median)"] = 7.8
    seconds_per_box: Annotated[float, "cost=time: seconds to draw and check a box (Su et al.: 25.5 + 9.0)"] = 34.5
    level: Annotated[float, "confidence level of intervals and tests"] = 0.95
    seed: Annotated[int, "seed of the bootstrap and of random sign flips"] = 0
    to: Annotated[str, "the folder to write to; with records= nothing is written without it"] = ""
    format: Annotated[Literal["text", "json"], "format of the printed answer"] = "text"
    anonymous: Annotated[bool, "true: output names no folder, user, host or commit: docs/privacy.md"] = False

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: must be between 0 and 1")
        for name in ("seconds_per_image", "seconds_per_box"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        if self.cost == "time" and not self.seconds_per_image + self.seconds_per_box:
            raise ValueError("cost=time: seconds_per_image and seconds_per_box are both 0")
        if self.round is not None and self.round < 0:
            raise ValueError(f"round={self.round}: must be at least 0")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be at least 0")
        if self.records and self.out:
            raise ValueError("records= and out= name the same thing: type only one of them")


def setting_types(verb: str) -> dict[str, Any]:
    """Returns the annotated types of the settings that a command takes, by name."""
    kinds = typing.get_type_hints(AnalysisSettings)
    return {name: kinds[name] for name in (*RECORD_SETTINGS, *COMMAND_SETTINGS[verb])}


def known_settings(verb: str) -> list[Setting]:
    """Returns the settings that a command takes, with types, defaults and meanings."""
    kinds = typing.get_type_hints(AnalysisSettings, include_extras=True)
    settings = {
        field.name: Setting(field.name, *describe_field(kinds[field.name], field.default))
        for field in fields(AnalysisSettings)
    }
    return [settings[name] for name in setting_types(verb)]


def describe_field(annotation: Any, default: object) -> tuple[Any, str, str]:
    """Returns the type, the default as a user types it, and the meaning of a field."""
    kind, meaning = typing.get_args(annotation)
    return kind, notation.format_value(default), meaning
