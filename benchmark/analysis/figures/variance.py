"""The figure of the variance components: a dot an estimate, a line its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.analysis.figures.style import (
    INK,
    StrategyStyle,
    StrategyStyles,
    add_title,
    blank_figure,
    row_pitch,
    text_extent,
    with_style,
)
from benchmark.analysis.variance import COMPONENTS, VarianceComponents
from benchmark.text.words import plural, wrap_name

PANEL_WIDTH = 2.1  # inches that a component takes


@with_style
def variance_components(components: Sequence[VarianceComponents], styles: StrategyStyles) -> Figure | None:
    """Each component of each strategy, and of its differences from another: a panel a component, all on one scale.

    Args:
        found: of one experiment and measure. None is drawn of none.
        looks: of the strategies.
    """
    if not components:
        return None
    labels = [wrap_name(one.strategy + f" minus {one.against}" * bool(one.against)) for one in components]
    height = row_pitch(labels, 0.24) * len(labels) + 1.5
    figure = blank_figure(text_extent(labels)[0] + len(COMPONENTS) * PANEL_WIDTH + 0.3, height)
    grid = figure.subplots(1, len(COMPONENTS), sharex=True, sharey=True)
    for part, (axes, name) in enumerate(zip(grid, COMPONENTS, strict=True)):
        draw_component(axes, components, part, [styles[one.strategy] for one in components])
        axes.set_title(name)
    first, unit = components[0], "hundredths" if components[0].metric.is_share else "points"
    grid[0].set_yticks(range(len(labels)), labels)
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    grid[1].set_xlabel(f"variance, in squared {unit} of {first.metric}")
    kind = {"area": "the mean score on the way", "final": "the last score"}[first.measure]
    fewest, most = (end(one.num_sets for one in components) for end in (min, max))
    sets = plural(most, "initial set") if fewest == most else f"{fewest} to {most} initial sets"
    told = f"lines: {100 * first.level:g} % intervals" * any(math.isfinite(part.low) for part in first.estimates)
    add_title(figure, f"{first.experiment}: what makes runs differ", f"variance of {kind}", sets, told)
    return figure


def draw_component(
    axes: Axes, components: Sequence[VarianceComponents], part: int, styles: Sequence[StrategyStyle]
) -> None:
    """One component of all rows."""
    scale = 1e4 if components[0].metric.is_share else 1.0
    for place, (one, look) in enumerate(zip(components, styles, strict=True)):
        ends = scale * np.array([one.estimates[part].low, one.estimates[part].high])
        axes.plot(ends, [place, place], color=look.colour, linewidth=1.4)
        style = look.line_arguments | {"linestyle": ""} | ({"markerfacecolor": "white"} if one.against else {})
        axes.plot([scale * one.estimates[part].value], [place], **style | {"markeredgecolor": look.colour})
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
