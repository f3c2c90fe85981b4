"""The seconds that training, selecting and scoring take, by strategy."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.analysis.curves import Experiment, Run


@dataclass(frozen=True)
class MeanSeconds:
    """Seconds of one run of a strategy, summed over its rounds: the mean over the strategy's seeds."""

    strategy: str
    num_runs: int
    fit: float  # as if each run had trained all its models itself
    select: float  # without computing encodings
    encode: float  # a frozen encoder's training and features: once, however many rounds and runs use them
    score: float


NOTE = """\
seconds of all rounds of a run together, mean over the runs (one for each seed)
fit: training, as if no trained model had been shared
select: selecting, without the time for computing encodings
encode, once: a frozen encoder's training and features, once however many rounds and runs use them
score: evaluating on the test set"""
TIMED_STEPS = ("fit", "select", "score")


def mean_seconds(experiment: Experiment) -> list[MeanSeconds]:
    """The mean seconds of every strategy that has measured runs."""
    means = []
    for strategy in experiment.curves:
        runs = [run for run in experiment.runs if run.strategy == strategy and run.measurements]
        if runs:
            fit, select, score = (sum(total_seconds(run, step) for run in runs) / len(runs) for step in TIMED_STEPS)
            encode = max(measurement.seconds.get("encode", 0.0) for run in runs for measurement in run.measurements)
            means.append(MeanSeconds(strategy, len(runs), fit, select, encode, score))
    return means


def total_seconds(run: Run, step: str) -> float:
    """The seconds of one step, summed over the rounds of a run."""
    return sum(measurement.seconds.get(step, 0.0) for measurement in run.measurements)


def rows(experiment: Experiment) -> list[dict[str, object]]:
    """The rows of the table that `seconds` prints; NOTE explains the columns."""
    return [
        {
            "experiment": experiment.title, "strategy": mean.strategy, "runs": mean.num_runs,
            "fit": round(mean.fit, 2), "select": round(mean.select, 3), "encode, once": round(mean.encode, 2),
            "score": round(mean.score, 2),
        }
        for mean in mean_seconds(experiment)
    ]  # fmt: skip
