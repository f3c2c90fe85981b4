"""The seconds that selections took."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.style import StrategyStyles, add_title, blank_figure, row_pitch, text_extent, with_style
from benchmark.text.words import wrap_name


def mean_selection_seconds(experiment: Experiment) -> dict[str, list[float]]:
    """Seconds that a selection took by strategy, the mean over its rounds of each run."""
    found: dict[str, list[float]] = {name: [] for name in experiment.curves}
    for run in experiment.runs:
        taken = [one.seconds["select"] for one in run.measurements if one.round > 0 and "select" in one.seconds]
        if taken:
            found[run.strategy].append(max(float(np.mean(taken)), 1e-6))  # a logarithm has no zero
    return {name: taken for name, taken in found.items() if taken}


@with_style
def selection_seconds(experiment: Experiment, styles: StrategyStyles) -> Figure | None:
    """What a selection takes, in seconds: the mean over its rounds of each run as a dot, their mean as a bar.

    None: no selection was measured.
    """
    found = mean_selection_seconds(experiment)
    if not found:
        return None
    labels = [wrap_name(name) for name in found]
    figure = blank_figure(text_extent(labels)[0] + 4.2, row_pitch(labels, 0.24) * len(labels) + 1.2)
    axes = figure.add_subplot()
    for place, (name, taken) in enumerate(found.items()):
        axes.plot(taken, [place] * len(taken), **styles[name].line_arguments | {"linestyle": "", "alpha": 0.8})
        axes.plot([np.mean(taken)], [place], color=styles[name].colour, marker="|", markersize=13, markeredgewidth=2)
    axes.set_yticks(range(len(labels)), labels)
    decades = [math.floor(math.log10(end(map(end, found.values())))) for end in (min, max)]
    encoded = any("encode" in one.seconds for run in experiment.runs for one in run.measurements)
    axes.set(
        xscale="log",
        xlim=(10 ** decades[0], 10 ** (decades[1] + 1)),
        xlabel="seconds a selection" + ", encodings aside" * encoded,
        ylim=(len(labels) - 0.5, -0.5),
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="x")
    add_title(figure, f"{experiment.title}: seconds of one selection", "a mark for each run", "bar: their mean")
    return figure
