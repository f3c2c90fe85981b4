"""The figure of the variance components: a dot an estimate, a line its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.analysis.figures.style import INK, Look, Looks, blank, entitle, extent, pitch, styled
from benchmark.analysis.variance import COMPONENTS, Components
from benchmark.text.words import broken, plural

PANEL = 2.1  # inches that a component takes


@styled
def variance_components(found: Sequence[Components], looks: Looks) -> Figure | None:
    """Each component of each strategy, and of its differences from another: a panel a component, all on one scale.

    Args:
        found: of one experiment and measure. None is drawn of none.
        looks: of the strategies.
    """
    if not found:
        return None
    labels = [broken(one.strategy + f" minus {one.against}" * bool(one.against)) for one in found]
    height = pitch(labels, 0.24) * len(labels) + 1.5
    figure = blank(extent(labels)[0] + len(COMPONENTS) * PANEL + 0.3, height)
    grid = figure.subplots(1, len(COMPONENTS), sharex=True, sharey=True)
    for part, (axes, name) in enumerate(zip(grid, COMPONENTS, strict=True)):
        draw_component(axes, found, part, [looks[one.strategy] for one in found])
        axes.set_title(name)
    first, unit = found[0], "hundredths" if found[0].metric.is_share else "points"
    grid[0].set_yticks(range(len(labels)), labels)
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    grid[1].set_xlabel(f"variance, in squared {unit} of {first.metric}")
    kind = {"area": "the mean score on the way", "final": "the last score"}[first.measure]
    fewest, most = (end(one.num_sets for one in found) for end in (min, max))
    sets = plural(most, "initial set") if fewest == most else f"{fewest} to {most} initial sets"
    told = f"lines: {100 * first.level:g} % intervals" * any(math.isfinite(part.low) for part in first.parts)
    entitle(figure, f"{first.experiment}: what makes runs differ", f"variance of {kind}", sets, told)
    return figure


def draw_component(axes: Axes, found: Sequence[Components], part: int, looks: Sequence[Look]) -> None:
    """One component of all rows."""
    scale = 1e4 if found[0].metric.is_share else 1.0
    for place, (one, look) in enumerate(zip(found, looks, strict=True)):
        ends = scale * np.array([one.parts[part].low, one.parts[part].high])
        axes.plot(ends, [place, place], color=look.colour, linewidth=1.4)
        style = look.line | {"linestyle": ""} | ({"markerfacecolor": "white"} if one.against else {})
        axes.plot([scale * one.parts[part].value], [place], **style | {"markeredgecolor": look.colour})
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
