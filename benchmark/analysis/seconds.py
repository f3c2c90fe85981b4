"""What training and choosing took: GEAL's claim, for one, is of minutes of choosing beside days."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.analysis.curves import Experiment, Run


@dataclass(frozen=True)
class MeanSeconds:
    """Seconds of one run of a strategy, all its rounds together: the mean over its seeds."""

    strategy: str
    num_runs: int
    fit: float  # as if nobody had shared a fit with it
    select: float  # without what making encodings took
    encode: float  # of a frozen encoder and its training: once, however many rounds and runs use it
    score: float


NOTE = """\
seconds of all rounds of a run together, mean over the runs (one with each seed)
fit: training, as if no trained model had been shared
select: choosing, without what computing encodings took
encode, once: a frozen encoder's training and features, once however many rounds and runs use them
score: evaluating on the test set"""


def mean_seconds(experiment: Experiment) -> list[MeanSeconds]:
    """Of every strategy that has measured runs."""
    rows = []
    for name in experiment.curves:
        runs = [run for run in experiment.runs if run.strategy == name and run.measurements]
        if runs:
            fit, select, score = (sum(map(total_seconds, runs, [kind] * len(runs))) / len(runs) for kind in TIMED_STEPS)
            made = [one.seconds.get("encode", 0.0) for run in runs for one in run.measurements]
            rows.append(MeanSeconds(name, len(runs), fit, select, max(made), score))
    return rows


TIMED_STEPS = ("fit", "select", "score")


def total_seconds(run: Run, step: str) -> float:
    """Seconds of one kind over the rounds of a run."""
    return sum(one.seconds.get(step, 0.0) for one in run.measurements)


def rows(experiment: Experiment) -> list[dict[str, object]]:
    """For a table."""
    return [
        {
            "experiment": experiment.title, "strategy": one.strategy, "runs": one.num_runs,
            "fit": round(one.fit, 2), "select": round(one.select, 3), "encode, once": round(one.encode, 2),
            "score": round(one.score, 2),
        }
        for one in mean_seconds(experiment)
    ]  # fmt: skip
