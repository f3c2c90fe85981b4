"""The figure of the variance components: estimates as dots, their intervals as lines."""

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

PANEL_WIDTH = 2.1  # inches


@with_style
def variance_components(components: Sequence[VarianceComponents], styles: StrategyStyles) -> Figure | None:
    """Draws each component of each strategy, and of its differences from another: a panel per component, on one scale.

    Args:
        components: of one experiment and one measure. If there are none, the figure is None.
        styles: of the strategies.
    """
    if not components:
        return None
    labels = [
        wrap_name(component.strategy + f" minus {component.against}" * bool(component.against))
        for component in components
    ]
    height = row_pitch(labels, 0.24) * len(labels) + 1.5
    figure = blank_figure(text_extent(labels)[0] + len(COMPONENTS) * PANEL_WIDTH + 0.3, height)
    grid = figure.subplots(1, len(COMPONENTS), sharex=True, sharey=True)
    for part, (axes, name) in enumerate(zip(grid, COMPONENTS, strict=True)):
        draw_component(axes, components, part, [styles[component.strategy] for component in components])
        axes.set_title(name)
    first, unit = components[0], "hundredths" if components[0].metric.is_share else "points"
    grid[0].set_yticks(range(len(labels)), labels)
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    grid[1].set_xlabel(f"variance, in squared {unit} of {first.metric}")
    measure = {"area": "the mean score on the way", "final": "the last score"}[first.measure]
    fewest, most = (end(component.num_sets for component in components) for end in (min, max))
    sets = plural(most, "initial set") if fewest == most else f"{fewest} to {most} initial sets"
    has_intervals = any(math.isfinite(estimate.low) for estimate in first.estimates)
    lines = f"lines: {100 * first.level:g} % intervals" * has_intervals
    add_title(figure, f"{first.experiment}: what makes runs differ", f"variance of {measure}", sets, lines)
    return figure


def draw_component(
    axes: Axes, components: Sequence[VarianceComponents], part: int, styles: Sequence[StrategyStyle]
) -> None:
    """Draws one component of all rows; `part` is its position in COMPONENTS."""
    scale = 1e4 if components[0].metric.is_share else 1.0
    for row, (component, style) in enumerate(zip(components, styles, strict=True)):
        estimate = component.estimates[part]
        axes.plot(scale * np.array([estimate.low, estimate.high]), [row, row], color=style.colour, linewidth=1.4)
        face = {"markerfacecolor": "white"} if component.against else {}
        marker = style.line_arguments | {"linestyle": "", "markeredgecolor": style.colour} | face
        axes.plot([scale * estimate.value], [row], **marker)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
