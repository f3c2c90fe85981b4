"""How the seconds of a selection grow with the pool: the fitted power, and the figure on the page of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.stats import linregress

from benchmark.analysis.figures.style import (
    add_legend,
    add_title,
    legend_width,
    save_figure,
    single_plot,
    strategy_styles,
    with_style,
)


def fit_power(points: Mapping[int, float]) -> tuple[float, float]:
    """The power of the number of images that the seconds grow with, and its standard error."""
    fit = linregress(np.log(list(points)), np.log(list(points.values())))
    return float(fit.slope), float(fit.stderr)


@with_style
def draw_scaling(name: str, series: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draws the seconds of each series over the number of images, both on logarithmic axes."""
    styles = strategy_styles(series)
    labels = [f"{label}: power {fit_power(points)[0]:.2f}" for label, points in series.items()]
    figure, axes = single_plot(labels)
    lines = [
        axes.plot(list(points), list(points.values()), **styles[label].line_arguments)[0]
        for label, points in series.items()
    ]
    sizes = sorted({images for points in series.values() for images in points})
    axes.set(xscale="log", yscale="log", xlabel="images in the pool", ylabel="CPU seconds of one selection")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    add_legend(figure, lines, labels)
    add_title(figure, f"{name[:1].upper()}{name[1:]}", free=legend_width(labels))
    return figure


def save_scaling(name: str, series: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draws the figure into an SVG file."""
    figure = draw_scaling(name, series)
    assert figure is not None
    save_figure(figure, path.with_suffix(""), ["svg"])
