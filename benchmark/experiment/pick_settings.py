"""The settings of `pick`, with their meanings and defaults; those of the machine are those of a run."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from benchmark.experiment import run_settings
from benchmark.plugins.key_value import Setting
from benchmark.text import notation


@dataclass(frozen=True, kw_only=True)
class PickSettings:
    """What to choose from, by which strategy, and where to write it."""

    strategy: Annotated[str, "the strategy, as coreset or isal[k=2]"] = ""
    budget: Annotated[int, "number of images to choose"] = 0
    task: Annotated[
        str,
        "the task whose pool is labelled, as image_folder[root=birds]; empty: no labels, for strategies without model",
    ] = ""
    unlabelled: Annotated[
        str,
        "what to choose from: a folder of images (searched recursively), a list of paths (.txt, .csv), a COCO file "
        "(.json), a folder in VOC's layout, or a video",
    ] = ""
    images: Annotated[str, "the folder of the images that a COCO file lists; empty: the folder of the file"] = ""
    labelled: Annotated[
        str,
        "labels of images in `unlabelled`, separated by commas: CSV files with the columns path and label; for boxes "
        "COCO files, or folders of VOC's XML files",
    ] = ""
    picked: Annotated[str, "files that earlier picks were written to, separated by commas: not picked again"] = ""
    to: Annotated[str, "the file to write; empty: CSV on standard output"] = ""
    format: Annotated[
        str, "csv, coco, labelstudio, cvat or superannotate; empty: csv for .csv, cvat (a manifest) for .jsonl"
    ] = ""
    url_prefix: Annotated[str, "format=labelstudio: what goes before each path to make the URL of its image"] = (
        "/data/local-files/?d="
    )
    min_score: Annotated[float, "predicted boxes below this confidence are left out of the file"] = 0.3
    sheet: Annotated[str, "an HTML file with a thumbnail of each pick, to look at; empty: none"] = ""
    shards: Annotated[
        str,
        "a folder for what is known of each unlabelled image, for pools that do not fit into memory; a call that was "
        "killed goes on from there. Empty: none",
    ] = ""
    seed: Annotated[int, "seed of training and selection"] = 0
    validation: Annotated[int, "number of labelled images that are held out, for strategies that read such labels"] = 0
    on_error: Annotated[
        Literal["refuse", "skip"], "what to do with files that cannot be read, and with labels or picks of other images"
    ] = "refuse"
    fps: Annotated[
        float, "frames per second: of a folder of frames, or to take from a video; 0: the images are no frames"
    ] = 0.0
    frames: Annotated[
        str, "the folder into which the frames of a video are written; empty: VIDEO.frames in this folder"
    ] = ""
    min_seconds_apart: Annotated[float, "least distance in time between two picks of one video; needs fps"] = 0.0

    def __post_init__(self) -> None:
        for name in ("strategy", "unlabelled"):
            if not getattr(self, name):
                raise ValueError(f"{name}= must be given: `pick --help` says what it may be")
        if self.budget < 1:
            raise ValueError(f"budget={self.budget}: must be at least 1, the number of images to choose")
        for name in ("seed", "validation", "fps", "min_seconds_apart"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score={self.min_score}: must be between 0 and 1")
        for name in ("fps", "min_seconds_apart"):
            if self.shards and getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name):g}: has no effect with shards=: leave out one of them")
        if self.labelled and not self.task:
            raise ValueError("labelled= has no effect without a task: set task=, as task=image_folder[root=birds]")


def own_types() -> dict[str, Any]:
    """Returns the types of the settings that `pick` alone has, by name."""
    return typing.get_type_hints(PickSettings)


def setting_types() -> Mapping[str, Any]:
    """Returns the types of all settings that `pick` takes, by name."""
    return {**own_types(), **run_settings.setting_types("pick")}


def known_settings() -> list[Setting]:
    """Returns all settings that `pick` takes, with types, defaults and meanings."""
    kinds = typing.get_type_hints(PickSettings, include_extras=True)
    own = list[Setting]()
    for field in fields(PickSettings):
        kind, meaning = typing.get_args(kinds[field.name])
        default = "" if field.name == "budget" else notation.format_value(field.default)
        own.append(Setting(field.name, kind, default, meaning))
    return [*own, *run_settings.known_settings("pick")]
