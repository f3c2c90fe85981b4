"""The tidy form of records and published curves: a row for each round of each run, as `rounds.csv` holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from benchmark.analysis.curves import Curve, Experiment, Run
from benchmark.analysis.savings import finite_or_none

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, object]
TEXT_COLUMNS = ("experiment", "source", "task", "strategy", "metric")  # columns of text
COLUMNS = (
    "experiment",  # the title of its table
    "source",  # the grid or the paper
    "task",
    "strategy",
    "seed",  # nothing: a paper tells the mean of `num_runs` runs
    "num_runs",  # behind the value: 1 of our own
    "round",
    "images",  # labelled images that the model was trained on
    "boxes",  # paid for so far, where boxes are counted
    "cost_images",  # images paid for so far, those that were set aside among them
    "metric",
    "value",
    "std",  # over the runs, as a paper tells it
    "seconds",  # of the round: the four below together
    "fit_seconds",  # as if no trained model had been shared
    "select_seconds",  # without what computing encodings took
    "encode_seconds",
    "score_seconds",
)
CLASS_COLUMNS = (
    "experiment", "source", "task", "strategy", "seed", "round",
    "images",  # labelled images that the model was trained on
    "class",
    "score",  # accuracy, iou, ap ...: what the task calls it
    "value",
)  # fmt: skip
TIMED_STEPS = ("fit", "select", "encode", "score")


def round_rows(experiment: Experiment) -> list[Row]:
    """The rows of an experiment, in the columns of COLUMNS; None for what is not known."""
    told = {"experiment": experiment.title, "source": experiment.source, "task": experiment.task}
    rows = (row for run in experiment.runs for row in run_rows(run, experiment.metric.name))
    if not experiment.runs:
        rows = (row for curve in experiment.curves.values() for row in published_rows(curve, experiment))
    return [{name: {**told, **row}.get(name) for name in COLUMNS} for row in rows]


def run_rows(run: Run, metric: str) -> Iterator[Row]:
    """The rounds of one of our runs."""
    measured = {one.round: one.seconds for one in run.measurements}
    for record in run.records:
        yield {
            "strategy": run.strategy, "seed": run.seed, "num_runs": 1, "round": record.round,
            "images": record.num_labelled, "boxes": record.cost.get("boxes"), "cost_images": record.cost.get("images"),
            "metric": metric, "value": record.scores[metric], **seconds_columns(measured.get(record.round)),
        }  # fmt: skip


def class_score_rows(experiment: Experiment) -> Iterator[Row]:
    """The scores of single classes, in the columns of CLASS_COLUMNS: of our runs, as far as their tasks tell them."""
    told = {"experiment": experiment.title, "source": experiment.source, "task": experiment.task}
    for run in experiment.runs:
        for record in run.records:
            of_round = {"round": record.round, "images": record.num_labelled}
            for score, values in record.class_scores.items():
                for name, value in values.items():
                    row = {"strategy": run.strategy, "seed": run.seed, "class": name, "score": score, "value": value}
                    yield {**told, **of_round, **row}


def seconds_columns(seconds_by_step: Mapping[str, float] | None) -> Row:
    """What a round took, together and by kind; {} where nobody measured it."""
    if seconds_by_step is None:
        return {}
    kinds = {f"{kind}_seconds": seconds_by_step.get(kind, 0.0) for kind in TIMED_STEPS}
    return {"seconds": sum(kinds.values()), **kinds}


def published_rows(curve: Curve, experiment: Experiment) -> Iterator[Row]:
    """The rounds of a published curve: its means."""
    for number, last in enumerate(experiment.rounds):
        if np.isfinite(curve.value_SR[0, number]):
            std = None if curve.std_R is None else finite_or_none(curve.std_R[number])
            yield {
                "strategy": curve.strategy, "num_runs": curve.num_runs, "round": last,
                "images": finite_or_none(curve.num_labelled_SR[0, number]),
                "metric": experiment.metric.name, "value": float(curve.value_SR[0, number]), "std": std,
                **{column: finite_or_none(curve.cost[kind][0, number]) for column, kind in COST_COLUMNS.items() if kind in curve.cost},
            }  # fmt: skip


COST_COLUMNS = {"boxes": "boxes", "cost_images": "images"}


def to_data_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table of pandas, NaN for what is not known."""
    import pandas as pd  # takes a fifth of a second: no run needs it

    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    for name in set(COLUMNS) - {*TEXT_COLUMNS}:
        table[name] = pd.to_numeric(table[name])
    return table
