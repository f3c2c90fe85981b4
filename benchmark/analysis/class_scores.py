"""Scores of single classes, and how far each strategy is from the reference strategy in each class.

Shapes: S runs (seeds), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmark.analysis import stats
from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import Experiment, Floats
from benchmark.analysis.savings import finite_or_none
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import format_seeds, to_csv
from benchmark.system import files
from benchmark.text.words import slug

UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class ClassScore:
    """The score of a strategy in one class and round, and the difference to the reference in the same seeds."""

    strategy: str
    against: str  # the reference
    score: str  # accuracy, iou, ap, ap50: the task's name for it
    class_name: str
    round: int
    mean: Interval
    num_runs: int
    difference: Interval  # to the reference, seed by seed; NaN for the reference itself, and where no runs pair
    differences: tuple[float, ...] = ()  # of single seeds


def compare_classes(
    experiment: Experiment, number: int, score: str, level: float, against: str = ""
) -> list[ClassScore]:
    """Returns the scores of every strategy in every class, in one round.

    Args:
        experiment: the experiment.
        number: the round.
        score: the task's name of the score.
        level: the confidence level of intervals: Student's, over runs and over pairs of runs.
        against: the strategy that others are compared with; "": the experiment's own reference.
    """
    against = against or experiment.reference or ""
    values = {name: seed_values(experiment, name, number, score) for name in experiment.curves}
    classes = list(dict.fromkeys(name for by_seed in values.values() for own in by_seed.values() for name in own))
    reference_SC = class_matrix(values.get(against, {}), classes)
    rows = []
    for strategy, by_seed in values.items():
        values_SC = class_matrix(by_seed, classes)
        pairs = paired_rows(experiment, strategy, against, list(by_seed), list(values.get(against, {})))
        gaps_SC = values_SC[[own for own, _ in pairs]] - reference_SC[[other for _, other in pairs]]
        for column, name in enumerate(classes if by_seed else []):
            own_S, gap_S = (matrix[np.isfinite(matrix[:, column]), column] for matrix in (values_SC, gaps_SC))
            mean, gap = (stats.student_interval(some_S, level) if len(some_S) else UNKNOWN for some_S in (own_S, gap_S))
            rows.append(
                ClassScore(strategy, against, score, name, number, mean, len(own_S), gap, tuple(gap_S.tolist()))
            )
    return rows


def seed_values(experiment: Experiment, strategy: str, number: int, score: str) -> dict[int, Mapping[str, float]]:
    """Returns the scores of a strategy's classes in one round, by seed and class, of runs that recorded them."""
    runs = sorted((run for run in experiment.runs if run.strategy == strategy), key=lambda run: run.seed)
    records = {run.seed: record for run in runs for record in run.records if record.round == number}
    return {seed: record.class_scores[score] for seed, record in records.items() if score in record.class_scores}


def class_matrix(by_seed: Mapping[int, Mapping[str, float]], classes: Sequence[str]) -> Floats:
    """(S, C): the scores by seed and class; NaN where a run has no such class."""
    rows = [[values.get(name, math.nan) for name in classes] for values in by_seed.values()]
    return np.array(rows, np.float64).reshape(len(by_seed), len(classes))


def paired_rows(
    experiment: Experiment, strategy: str, against: str, seeds: Sequence[int], reference_seeds: Sequence[int]
) -> list[tuple[int, int]]:
    """Pairs runs by seed and start, as comparisons do.

    Returns:
        For each pair its places in `seeds` and in `reference_seeds`; nothing for the reference itself.
    """
    if strategy == against:
        return []
    starts = {(run.strategy, run.seed): run.start_fingerprint for run in experiment.runs}
    return [
        (row, reference_seeds.index(seed))
        for row, seed in enumerate(seeds)
        if seed in reference_seeds and starts[strategy, seed] == starts[against, seed]
    ]


def recorded_scores(experiment: Experiment) -> list[str]:
    """Returns the names of the scores of single classes, the one that the metric is the mean of first.

    That is the one whose mean over the classes is nearest to the metric: of a detector judged by its AP at 0.50,
    `ap50` and not `ap`.
    """
    metric, distances = experiment.metric.name, dict[str, list[float]]()
    for record in (record for run in experiment.runs for record in run.records):
        for score, values in record.class_scores.items():
            if values:
                distances.setdefault(score, []).append(abs(fmean(values.values()) - record.scores[metric]))
    return sorted(distances, key=lambda score: fmean(distances[score]))


def chosen_round(experiment: Experiment, number: int | None) -> int:
    """Returns the round that is asked for, or the last one that a run with scores of classes has."""
    if number is not None:
        return number
    records = (record for run in experiment.runs for record in run.records if record.class_scores)
    return max((record.round for record in records), default=-1)


def compare_by_metric(experiment: Experiment, number: int | None, level: float, against: str = "") -> list[ClassScore]:
    """Returns `compare_classes` for the score that the metric is the mean of; nothing where no run recorded it.

    Args:
        experiment: the experiment.
        number: the round; None: the last one.
        level: the confidence level.
        against: see `compare_classes`.
    """
    scores = recorded_scores(experiment)
    chosen = chosen_round(experiment, number)
    rows = compare_classes(experiment, chosen, scores[0], level, against) if scores else []
    return [row for row in rows if row.num_runs]


def tidy_rows(experiment: Experiment, level: float) -> list[dict[str, object]]:
    """Returns one row for each strategy, class, score and round, in the columns of `class_scores/NAME.csv`."""
    scores = recorded_scores(experiment)
    rows = (
        row
        for score in scores
        for number in experiment.rounds
        for row in compare_classes(experiment, number, score, level)
    )
    return [tidy_row(experiment, row, level) for row in rows]


def tidy_row(experiment: Experiment, row: ClassScore, level: float) -> dict[str, object]:
    """Returns a score as a row of numbers; None for what is not known."""
    ends = (row.mean.low, row.mean.high, row.difference.value, row.difference.low, row.difference.high)
    low, high, difference, difference_low, difference_high = map(finite_or_none, ends)
    return {
        "task": experiment.title, "strategy": row.strategy, "round": row.round, "score": row.score,
        "class": row.class_name, "seeds": row.num_runs, "mean": finite_or_none(row.mean.value), "low": low,
        "high": high, "against": row.against, "pairs": len(row.differences), "difference": difference,
        "difference_low": difference_low, "difference_high": difference_high, "level": level,
    }  # fmt: skip


def num_digits(experiment: Experiment) -> int:
    """The decimal places of scores of single classes."""
    return 3 if experiment.metric.is_share else 1


def display_rows(rows: Sequence[ClassScore], digits: int) -> list[dict[str, object]]:
    """Returns one row of text for each class: the reference's score, and the difference of each other strategy.

    Args:
        rows: of one experiment, score and round.
        digits: decimal places.
    """
    lines: dict[str, dict[str, object]] = {row.class_name: {"class": row.class_name} for row in rows}
    strategies = [name for name in dict.fromkeys(row.strategy for row in rows) if name != rows[0].against]
    for name in (rows[0].against, *strategies) if rows else ():
        for line in lines.values():
            line[name] = ""
    for row in rows:
        interval, sign = (row.mean, "") if row.strategy == row.against else (row.difference, "+")
        if math.isfinite(interval.value):
            lines[row.class_name][row.strategy] = format_interval(interval, digits, sign)
    return list(lines.values())


def explain_columns(rows: Sequence[ClassScore], level: float) -> str:
    """Returns the note below the `display_rows` of these rows."""
    seeds = sorted({row.num_runs for row in rows if row.num_runs})
    few = f"; there is none for fewer than {stats.MIN_RUNS} seeds" * (seeds[0] < stats.MIN_RUNS)
    count = f"{seeds[0]} to {seeds[-1]} seeds" if seeds[0] < seeds[-1] else format_seeds(seeds[0])
    against = rows[0].against
    return (
        f"{rows[0].score} of single classes in round {rows[0].round}: the mean of {against} over {count}, and of the "
        f"others their difference to it, seed by seed\n"
        f"[ ]: {100 * level:g} % intervals, each class alone: not corrected for their number{few}"
    )


def write_class_scores(rows_by_title: Mapping[str, Sequence[Mapping[str, object]]], folder: Path) -> None:
    """Writes class_scores/NAME.csv for each experiment, and removes the file of one that has no such scores any more.

    Args:
        rows_by_title: the `tidy_rows` of each experiment.
        folder: the folder of the tables.
    """
    for title, rows in rows_by_title.items():
        path = folder / "class_scores" / f"{slug(title)}.csv"
        if rows:
            files.write_atomically(path, to_csv(rows), folder.parent)
        else:
            files.remove(path, folder.parent)
