"""The boxes that strategies bought, or the regions of a class: how many, how large, and how many overlap another one.

A region is all pixels of one class in an image. Needs the gallery that a run writes beside its records.

Shapes: M boxes of a pool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.analysis import stats
from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import Experiment, Run
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.savings import finite_or_none
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import to_csv
from benchmark.system import files
from benchmark.text.words import slug

POOL = "(the whole pool)"


@dataclass(frozen=True)
class BoughtBoxes:
    """What a strategy bought after round 0: means over its runs. NaN where something is not known."""

    strategy: str
    num_runs: int
    boxes: Interval
    per_image: Interval
    side: Interval  # the median square root of the area, in pixels
    overlapping: Interval  # per cent of the boxes that overlap another box of their image
    iou: Interval  # the mean over the boxes of the largest IoU with another box of the image


def label_unit(experiment: Experiment) -> str:
    """The unit of which an image has several: boxes, or regions, where boxes are not paid for.

    A region is all pixels of one class in an image.
    """
    return "boxes" if experiment.counts_boxes else "regions"


def selected_images(run: Run, last: float = math.inf) -> list[int]:
    """The pool positions that a run bought after round 0, up to round `last`."""
    return [position for record in run.records if 0 < record.round <= last for position in record.bought]


def describe_boxes(gallery: Gallery, is_bought_M: npt.NDArray[np.bool_], num_images: int) -> list[float]:
    """The five numbers of `BoughtBoxes`, of one run."""
    sides_M = gallery.box_side_M[is_bought_M]
    overlaps_M = gallery.box_overlap_M[is_bought_M] if len(gallery.box_overlap_M) else np.zeros(0)
    has_overlaps = len(overlaps_M) > 0
    return [
        float(len(sides_M)),
        len(sides_M) / num_images,
        float(np.median(sides_M)) if len(sides_M) else math.nan,
        100 * float((overlaps_M > 0).mean()) if has_overlaps else math.nan,
        float(overlaps_M.mean()) if has_overlaps else math.nan,
    ]


def bought_boxes(experiment: Experiment, gallery: Gallery, level: float) -> list[BoughtBoxes]:
    """Returns a row for the pool and one for each strategy that bought something; nothing where labels are of images.

    Args:
        experiment: the experiment.
        gallery: of its pool.
        level: the confidence level of Student's intervals over the runs.
    """
    if not len(gallery.box_side_M):
        return []
    everything = np.ones(len(gallery.box_side_M), bool)
    num_pool = max((run.header.num_pool for run in experiment.runs if run.header), default=1)
    pool = [Interval(value, math.nan, math.nan) for value in describe_boxes(gallery, everything, num_pool)]
    rows = [BoughtBoxes(POOL, 0, *pool)]
    for strategy in experiment.curves:
        purchases = [images for run in experiment.runs if run.strategy == strategy and (images := selected_images(run))]
        numbers = [describe_boxes(gallery, np.isin(gallery.box_image_M, images), len(images)) for images in purchases]
        if numbers:
            rows.append(
                BoughtBoxes(
                    strategy, len(numbers), *(mean_interval(column, level) for column in zip(*numbers, strict=True))
                )
            )
    return rows


def mean_interval(values: Sequence[float], level: float) -> Interval:
    """The mean of the known values, with Student's interval; NaN where none is known."""
    known = np.array(values)[np.isfinite(values)]
    return stats.student_interval(known, level) if len(known) else Interval(math.nan, math.nan, math.nan)


def display_rows(rows: Sequence[BoughtBoxes]) -> list[dict[str, object]]:
    """Returns one row of text for each strategy, in the columns that `explain_columns` explains."""
    columns = {
        "boxes": ("boxes", 0), "per image": ("per_image", 2), "side": ("side", 1), "overlapping %": ("overlapping", 1),
        "IoU": ("iou", 3),
    }  # fmt: skip
    known = {
        head: (name, digits)
        for head, (name, digits) in columns.items()
        if any(math.isfinite(getattr(row, name).value) for row in rows)
    }
    names: list[dict[str, object]] = [{"strategy": row.strategy, "seeds": row.num_runs or ""} for row in rows]
    return [
        start | {head: format_known(getattr(row, name), digits) for head, (name, digits) in known.items()}
        for start, row in zip(names, rows, strict=True)
    ]


def format_known(interval: Interval, digits: int) -> str:
    """Formats a mean and its interval; empty where the mean is not known."""
    return format_interval(interval, digits) if math.isfinite(interval.value) else ""


def explain_columns(unit: str, level: float) -> str:
    """Returns the note below the `display_rows`.

    Args:
        unit: boxes or regions.
        level: the confidence level.
    """
    return (
        f"{unit} bought after round 0, means over the seeds with their {100 * level:g} % intervals\n"
        "side: median square root of the area, in pixels\n"
        "overlapping %: those that overlap another one of their image, of any class\n"
        "IoU: the mean of the largest IoU with another one of the image, 0 for those that overlap none"
    )


def tidy_rows(experiment: Experiment, rows: Sequence[BoughtBoxes], level: float) -> list[dict[str, object]]:
    """Returns one row of numbers for each strategy, in the columns of `bought_boxes/NAME.csv`."""
    names = ("boxes", "per_image", "side", "overlapping", "iou")
    return [
        {
            "task": experiment.title, "strategy": row.strategy, "seeds": row.num_runs,
            **{
                f"{name}{ending}": finite_or_none(getattr(getattr(row, name), end))
                for name in names
                for ending, end in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
            "level": level,
        }
        for row in rows
    ]  # fmt: skip


def write_bought_boxes(rows_by_title: Mapping[str, Sequence[Mapping[str, object]]], folder: Path) -> None:
    """Writes bought_boxes/NAME.csv for each experiment that has rows.

    Args:
        rows_by_title: the `tidy_rows` of each experiment.
        folder: the folder of the tables.
    """
    for title, rows in rows_by_title.items():
        if rows:
            files.write_atomically(folder / "bought_boxes" / f"{slug(title)}.csv", to_csv(rows), folder.parent)
