"""The tidy form of records and published curves: a row per round of each run, as `rounds.csv` holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from benchmark.analysis.curves import Curve, Experiment, Run
from benchmark.analysis.savings import finite_or_none
from benchmark.text.frames import build_frame

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, object]
TEXT_COLUMNS = ("experiment", "source", "task", "strategy", "metric")  # columns of text
COLUMNS = (
    "experiment",  # the title of its table
    "source",  # the grid or the paper
    "task",
    "strategy",
    "seed",  # empty for a paper's mean of `num_runs` runs
    "num_runs",  # behind the value: 1 for a run of ours
    "round",
    "images",  # labelled images that the model was trained on
    "boxes",  # paid for so far, where boxes are counted
    "cost_images",  # images paid for so far, including those held out
    "metric",
    "value",
    "std",  # over the runs, as a paper prints it
    "seconds",  # of the round: the sum of the four columns below
    "fit_seconds",  # as if no trained model had been shared
    "select_seconds",  # without computing encodings
    "encode_seconds",
    "score_seconds",
)
CLASS_COLUMNS = (
    "experiment", "source", "task", "strategy", "seed", "round",
    "images",  # labelled images that the model was trained on
    "class",
    "score",  # accuracy, iou, ap ...: the task's name for it
    "value",
)  # fmt: skip
TIMED_STEPS = ("fit", "select", "encode", "score")
COST_COLUMNS = {"boxes": "boxes", "cost_images": "images"}  # kinds of cost by column


def round_rows(experiment: Experiment) -> list[Row]:
    """The rows of an experiment with the columns COLUMNS; None where a value is not known."""
    shared = {"experiment": experiment.title, "source": experiment.source, "task": experiment.task}
    rows = (row for run in experiment.runs for row in run_rows(run, experiment.metric.name))
    if not experiment.runs:
        rows = (row for curve in experiment.curves.values() for row in published_rows(curve, experiment))
    return [{name: {**shared, **row}.get(name) for name in COLUMNS} for row in rows]


def run_rows(run: Run, metric: str) -> Iterator[Row]:
    """The rows of one recorded run."""
    seconds = {measurement.round: measurement.seconds for measurement in run.measurements}
    for record in run.records:
        yield {
            "strategy": run.strategy, "seed": run.seed, "num_runs": 1, "round": record.round,
            "images": record.num_labelled, "boxes": record.cost.get("boxes"), "cost_images": record.cost.get("images"),
            "metric": metric, "value": record.scores[metric], **seconds_columns(seconds.get(record.round)),
        }  # fmt: skip


def class_score_rows(experiment: Experiment) -> Iterator[Row]:
    """The scores of single classes with the columns CLASS_COLUMNS, for recorded runs of tasks that report them."""
    shared = {"experiment": experiment.title, "source": experiment.source, "task": experiment.task}
    for run in experiment.runs:
        for record in run.records:
            position = {"round": record.round, "images": record.num_labelled}
            for score, values in record.class_scores.items():
                for name, value in values.items():
                    row = {"strategy": run.strategy, "seed": run.seed, "class": name, "score": score, "value": value}
                    yield {**shared, **position, **row}


def seconds_columns(seconds_by_step: Mapping[str, float] | None) -> Row:
    """The seconds of a round, in total and by step; {} where the round was not measured."""
    if seconds_by_step is None:
        return {}
    columns = {f"{step}_seconds": seconds_by_step.get(step, 0.0) for step in TIMED_STEPS}
    return {"seconds": sum(columns.values()), **columns}


def published_rows(curve: Curve, experiment: Experiment) -> Iterator[Row]:
    """The rows of a published curve: a mean per round."""
    for column, round_number in enumerate(experiment.rounds):
        if np.isfinite(curve.value_SR[0, column]):
            costs = {name: curve.cost[kind][0, column] for name, kind in COST_COLUMNS.items() if kind in curve.cost}
            yield {
                "strategy": curve.strategy, "num_runs": curve.known_runs, "round": round_number,
                "images": finite_or_none(curve.num_labelled_SR[0, column]),
                "metric": experiment.metric.name, "value": float(curve.value_SR[0, column]),
                "std": None if curve.std_R is None else finite_or_none(curve.std_R[column]),
                **{name: finite_or_none(cost) for name, cost in costs.items()},
            }  # fmt: skip


def to_data_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a pandas DataFrame; NaN where a value is not known."""
    import pandas as pd  # takes a fifth of a second: no run needs it

    table = build_frame(rows, COLUMNS)
    for name in set(COLUMNS) - {*TEXT_COLUMNS}:
        table[name] = pd.to_numeric(table[name])
    return table
