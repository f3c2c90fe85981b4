"""The common style of all figures: colours, sizes, titles, legends and files.

Figures are drawn through matplotlib's objects, without pyplot: there is no window and no global state. A function that
draws a figure returns None where the data do not suffice. Names are shown as they are, never as mathematics.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias

import matplotlib
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text

from benchmark.analysis.curves import Curve, Floats
from benchmark.contract.metrics import PERCENT, SHARE, Metric
from benchmark.plugins.paths import CONFIGS
from benchmark.system import files
from benchmark.text.escaping import make_lines_visible, make_visible
from benchmark.text.words import wrap_name

PALETTE = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#767676")
# Okabe and Ito's palette for colour-blind readers; grey replaces their yellow, which is hard to see on white
MARKERS = "osD^vPX<>*hdp"
DASHES = ("-", "--", ":", "-.")
INK, FAINT, BLUE = "#222222", "#c4c4c4", "#0072B2"
BETTER, UNDECIDED, WORSE = BLUE, "#8a8a8a", PALETTE[4]  # than the reference strategy
ROW_HEIGHT = 0.16  # inches per line of a name

STYLE: dict[Any, Any] = {
    "text.parse_math": False, "text.usetex": False, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": "#888888", "xtick.color": INK, "ytick.color": INK, "font.family": "DejaVu Sans", "font.size": 9,
    "axes.titlesize": 8, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": False, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.dpi": 100,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "savefig.bbox": None,
    "lines.linewidth": 1.4, "lines.markersize": 5, "legend.handlelength": 3.2, "axes.unicode_minus": True,
    "svg.fonttype": "none", "svg.hashsalt": "figures", "pdf.fonttype": 42, "axes.formatter.use_mathtext": False,
    "text.hinting": "none",  # so that text is as wide at 150 dpi as in the layout, which is computed at 100 dpi
}  # fmt: skip
METRIC_WORDS = {"map": "mean average precision", "ap": "average precision", "miou": "mean IoU"}
Drawing = ParamSpec("Drawing")


def with_style(draw: Callable[Drawing, Figure | None]) -> Callable[Drawing, Figure | None]:
    """Decorates a function that draws a figure.

    The figure has the common style, and is laid out once, so that all its files place things alike. Unprintable
    characters in its text are made visible.
    """

    @wraps(draw)
    def draw_with_style(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure | None:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            if figure is not None:
                for text in figure.findobj(Text):
                    text.set_text(make_lines_visible(text.get_text()))
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
        return figure

    return draw_with_style


# --- strategies -----------------------------------------------------------------------------
@dataclass(frozen=True)
class StrategyStyle:
    """The colour, marker and dashes of a strategy in every figure of a report."""

    colour: str
    marker: str
    dashes: str

    @property
    def line_arguments(self) -> dict[str, Any]:
        """The keyword arguments of a line for matplotlib."""
        arguments = {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}
        return arguments | {"markeredgecolor": "white", "markeredgewidth": 0.5}


StrategyStyles: TypeAlias = Mapping[str, StrategyStyle]


def strategy_styles(names: Iterable[str]) -> dict[str, StrategyStyle]:
    """The style of each strategy, the same in all reports.

    It follows from the position of the strategy's name in configs/strategy_styles.yaml. Labels that differ by their
    parameters alone get different styles; strategies that are not listed come after the list. Colours repeat after 8
    with other dashes, markers after 13.
    """
    known_names = list(yaml.safe_load((CONFIGS / "strategy_styles.yaml").read_text(encoding="utf-8")))
    positions, labels = dict[str, int](), list(dict.fromkeys(names))
    for label in sorted(labels, key=lambda label: "[" in label):  # labels without parameters first
        name = label.partition("[")[0]
        position = known_names.index(name) if name in known_names else len(known_names)
        free = (number for number in itertools.count(len(known_names)) if number not in positions.values())
        positions[label] = position if name in known_names and position not in positions.values() else next(free)
    return {label: style_at(positions[label]) for label in labels}


def style_at(position: int) -> StrategyStyle:
    """The style at a position of the list."""
    dashes = DASHES[position // len(PALETTE) % len(DASHES)]
    return StrategyStyle(PALETTE[position % len(PALETTE)], MARKERS[position % len(MARKERS)], dashes)


def name_axis(metric: Metric) -> str:
    """The name of a score in words, with its unit: `accuracy (%)`, `mean average precision (0 to 1)`."""
    words = METRIC_WORDS.get(metric.name, metric.name)
    unit = {PERCENT: "%", SHARE: "0 to 1"}.get(metric.unit, metric.unit)
    return make_visible(f"{words} ({unit})" if unit else words)


def text_extent(labels: Iterable[str]) -> tuple[float, float]:
    """Width and height in inches of these labels, one below the other, in the font size of the legend."""
    lines = [line for label in labels for line in label.split("\n")]
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(STYLE["legend.fontsize"], 72)
    width = 0.0
    for line in lines:
        font.set_text(line)
        width = max(width, font.get_width_height()[0] / 64 / 72)
    return width, ROW_HEIGHT * len(lines)


def row_pitch(labels: Iterable[str], least: float) -> float:
    """The height in inches of evenly spaced rows that fit each of these labels, at least `least`."""
    return max(least, ROW_HEIGHT * max(label.count("\n") + 1 for label in labels) + 0.06)


def legend_width(labels: Iterable[str]) -> float:
    """The width in inches of a legend of these labels."""
    return text_extent(labels)[0] + 0.6


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, with automatic layout."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_title(figure: Figure, title: str, *notes: str, free: float = 0.0) -> None:
    """Adds a title over the figure and notes below the title; the figure grows by their height.

    Args:
        figure: without a title so far.
        title: may be long; it is broken into lines.
        notes: are joined by semicolons; empty ones are left out.
        free: inches on the right that the lines leave free.
    """
    characters = max(24, int((figure.get_figwidth() - free) * 11))
    lines = [wrap_name(title, characters)]
    lines += textwrap.wrap(make_visible("; ".join(filter(None, notes))), characters, break_on_hyphens=False)
    figure.set_figheight(figure.get_figheight() + 0.19 * ("\n".join(lines).count("\n") - 1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", linespacing=1.3)


def single_plot(labels: Sequence[str], width: float = 5.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """One plot of this size in inches, with room for a legend of these labels on its right."""
    figure = blank_figure(width + legend_width(labels), max(height, text_extent(labels)[1] + 1.0))
    axes = figure.add_subplot()
    axes.grid(True)
    return figure, axes


def add_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """Adds a legend on the right of the plots."""
    figure.legend(list(handles), list(labels), loc="outside right upper", alignment="left")


def panels(
    titles: Sequence[str], columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Small plots of this size in inches, one for each title, in as few rows as `columns` permit, of like length."""
    rows = math.ceil(len(titles) / columns)
    columns = math.ceil(len(titles) / rows)
    titles = [wrap_name(title, max(12, int(width * 14))) for title in titles]
    lines = max(title.count("\n") for title in titles)
    figure = blank_figure(max(columns * width, 3.6), rows * (height + 0.15 * lines) + 0.8)
    grid = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title)
    for axes in grid[len(titles) :]:
        axes.remove()
    for axes in grid[max(0, len(titles) - columns) : len(titles)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return figure, grid[: len(titles)]


def strategy_label(curve: Curve) -> str:
    """The label of a strategy, with a dagger where the tables have one."""
    return wrap_name(curve.strategy + "†" * bool(curve.daggers))


def dagger_note(curves: Iterable[Curve]) -> str:
    """The meaning of the daggers; "" if there are none."""
    reasons = dict.fromkeys(dagger for curve in curves for dagger in curve.daggers)
    return f"† {', '.join(reasons)}" if reasons else ""


def limit_y_axis(axes: Axes, values: Floats) -> None:
    """Limits the y axis to the range of these values and a fifth of it on both sides: wide bands are cut off."""
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 5 or max(abs(high) / 10, 1e-3)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))


def numbered_names(names: Sequence[str]) -> list[str]:
    """Names with their numbers, which label the columns of a heat map."""
    return [f"{wrap_name(name)}  {number}" for number, name in enumerate(names, start=1)]


def draw_heat_map(axes: Axes, values: Floats, top: float) -> None:
    """Draws a heat map with the values in its cells; a cell without a value is empty."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 * top else INK
            axes.text(
                column, row, f"{value:.2f}" if value else "0", ha="center", va="center", fontsize=6.5, color=colour
            )


def label_heat_map(axes: Axes, rows: Sequence[str], num_columns: int) -> None:
    """Labels the rows of a heat map with names and its columns with numbers."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(num_columns), [str(number) for number in range(1, num_columns + 1)])
    axes.tick_params(length=0)


def save_figure(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Writes STEM.png (150 dpi), STEM.svg and STEM.pdf, or the given kinds: the same bytes for the same figure."""
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None},
    }  # fmt: skip
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    with matplotlib.rc_context(STYLE):
        for path, kind in zip(paths, kinds, strict=True):
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150, metadata=metadata[kind])
            files.write_atomically(path, content.getvalue(), stem.parents[1])
    return paths
