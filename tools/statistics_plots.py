"""What the figures of docs/statistics.md share: rows of plots, lines, legends, and columns of the simulations' rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmark.analysis.figures.style import (
    FAINT,
    INK,
    MARKERS,
    PALETTE,
    add_legend,
    add_title,
    blank_figure,
    legend_width,
)

Rows = Sequence[dict[str, Any]]
Points = Sequence[float] | npt.NDArray[Any]
_, BLUE, _, GREEN, RED = PALETTE[:5]
ALPHA = 0.05
VERDICT_COLOURS = {
    "better": BLUE, "worse": RED, "equivalent": GREEN, "undecided": FAINT,
    "reproduced": GREEN, "stronger": BLUE, "weaker": RED, "inconclusive": FAINT,
}  # fmt: skip


def plot_row(
    titles: Sequence[str], labels: Sequence[str] = (), width: float = 3.2, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Plots side by side with their titles, and room for a legend of these labels on the right."""
    figure = blank_figure(max(5.2, width * len(titles)) + (legend_width(labels) if labels else 0), 3.1)
    grid = list(figure.subplots(1, len(titles), squeeze=False, **shared).flat)
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(title)
        axes.grid(True)
    return figure, grid


def dashed_line(axes: Axes, value: float) -> None:
    """Draws a dashed horizontal line at the nominal value."""
    axes.axhline(value, color=INK, linewidth=0.9, linestyle="--")


def draw_series(axes: Axes, x: Points, y: Points, position: int, **arguments: Any) -> Line2D:
    """Draws a line in the colour and with the marker at this position of the palette."""
    style = {"color": PALETTE[position % len(PALETTE)], "marker": MARKERS[position % len(MARKERS)]}
    return axes.plot(x, y, **(style | arguments))[0]


def add_legend_and_title(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str, *notes: str
) -> None:
    """Adds a legend on the right of the plots, and a title that leaves it room."""
    add_legend(figure, handles, labels)
    add_title(figure, title, *notes, free=legend_width(labels))


def column_values(rows: Rows, name: str, **conditions: Any) -> list[Any]:
    """The values of a column in the rows that meet the conditions."""
    return [row[name] for row in rows if all(row[key] == value for key, value in conditions.items())]


def unique_values(rows: Rows, name: str) -> list[Any]:
    """The distinct values of a column, in order."""
    return list(dict.fromkeys(row[name] for row in rows))


def draw_stacked_bars(axes: Axes, rows: Rows, names: Sequence[str], over: str) -> None:
    """Draws shares of verdicts as stacked bars."""
    places, bottoms = np.arange(len(rows)), np.zeros(len(rows))
    for name in names:
        heights = np.array([row[name] for row in rows], np.float64)
        axes.bar(places, heights, 0.7, bottom=bottoms, color=VERDICT_COLOURS[name], edgecolor="white", linewidth=0.5)
        bottoms += heights
    axes.set_xticks(places, [str(row[over]) for row in rows])
    axes.grid(False)


def legend_patches(names: Sequence[str]) -> list[Any]:
    """The legend's patches of these verdicts."""
    return [Patch(color=VERDICT_COLOURS[name]) for name in names]
