"""The figure of the seconds that selections take."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.style import StrategyStyles, add_title, blank_figure, row_pitch, text_extent, with_style
from benchmark.text.words import wrap_name


def mean_selection_seconds(experiment: Experiment) -> dict[str, list[float]]:
    """The seconds of a selection by strategy: for each run the mean over its rounds."""
    means: dict[str, list[float]] = {name: [] for name in experiment.curves}
    for run in experiment.runs:
        selections = [measurement.seconds for measurement in run.measurements if measurement.round > 0]
        seconds = [by_step["select"] for by_step in selections if "select" in by_step]
        if seconds:
            means[run.strategy].append(max(float(np.mean(seconds)), 1e-6))  # a logarithm has no zero
    return {name: run_means for name, run_means in means.items() if run_means}


@with_style
def selection_seconds(experiment: Experiment, styles: StrategyStyles) -> Figure | None:
    """Draws the seconds of a selection: a dot per run, the mean over its rounds, and a bar at the mean of the runs.

    Returns:
        The figure; None if no selection was measured.
    """
    means = mean_selection_seconds(experiment)
    if not means:
        return None
    labels = [wrap_name(name) for name in means]
    figure = blank_figure(text_extent(labels)[0] + 4.2, row_pitch(labels, 0.24) * len(labels) + 1.2)
    axes = figure.add_subplot()
    for row, (name, run_means) in enumerate(means.items()):
        axes.plot(run_means, [row] * len(run_means), **styles[name].line_arguments | {"linestyle": "", "alpha": 0.8})
        axes.plot([np.mean(run_means)], [row], color=styles[name].colour, marker="|", markersize=13, markeredgewidth=2)
    axes.set_yticks(range(len(labels)), labels)
    decades = [math.floor(math.log10(end(map(end, means.values())))) for end in (min, max)]
    has_encodings = any("encode" in measurement.seconds for run in experiment.runs for measurement in run.measurements)
    axes.set(
        xscale="log",
        xlim=(10 ** decades[0], 10 ** (decades[1] + 1)),
        xlabel="seconds per selection" + ", without encodings" * has_encodings,
        ylim=(len(labels) - 0.5, -0.5),
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="x")
    add_title(figure, f"{experiment.title}: seconds of one selection", "a mark for each run", "bar: their mean")
    return figure
