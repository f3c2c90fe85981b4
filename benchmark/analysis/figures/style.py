"""What all figures share: colours, sizes, titles, legends, and how they are written.

They are drawn by matplotlib's objects alone: no window, no state of pyplot's. A figure is None where the data cannot
give it. Names are shown as they are, never read as mathematics.
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
from benchmark.plugins.paths import CONFIGS
from benchmark.system import files
from benchmark.text.escaping import make_lines_visible, make_visible
from benchmark.text.words import wrap_name

PALETTE = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#767676")
# Okabe and Ito's, which colour-blind people tell apart; grey for their yellow, which is lost on white
MARKERS = "osD^vPX<>*hdp"
DASHES = ("-", "--", ":", "-.")
INK, FAINT, BLUE = "#222222", "#c4c4c4", "#0072B2"
ROW_HEIGHT = 0.16  # inches that a line of a name takes

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
}  # fmt: skip
Drawing = ParamSpec("Drawing")


def with_style(draw: Callable[Drawing, Figure | None]) -> Callable[Drawing, Figure | None]:
    """`draw` in the common style, laid out once, so that every file of a figure places things alike; what it writes is
    text in which everything is seen."""

    @wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure | None:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            if figure is not None:
                for text in figure.findobj(Text):
                    text.set_text(make_lines_visible(text.get_text()))
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
        return figure

    return drawn


# --- looks ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class StrategyStyle:
    """How a strategy is drawn in every figure of a report."""

    colour: str
    marker: str
    dashes: str

    @property
    def line_arguments(self) -> dict[str, Any]:
        """As matplotlib's arguments of a line."""
        told = {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}
        return told | {"markeredgecolor": "white", "markeredgewidth": 0.5}


StrategyStyles: TypeAlias = Mapping[str, StrategyStyle]


def strategy_styles(names: Iterable[str]) -> dict[str, StrategyStyle]:
    """The look of each strategy: that of its place in configs/looks.yaml, where parameters do not count unless two
    differ by them alone; others come behind. Colours repeat after 8 with other dashes, markers after 13."""
    known = list(yaml.safe_load((CONFIGS / "looks.yaml").read_text(encoding="utf-8")))
    places, each = dict[str, int](), list(dict.fromkeys(names))
    for name in sorted(each, key=lambda one: "[" in one):  # the plain one first
        base = name.partition("[")[0]
        place = known.index(base) if base in known else len(known)
        free = (other for other in itertools.count(len(known)) if other not in places.values())
        places[name] = place if base in known and place not in places.values() else next(free)
    return {name: style_at(places[name]) for name in each}


def style_at(place: int) -> StrategyStyle:
    """The look of a place."""
    dashes = DASHES[place // len(PALETTE) % len(DASHES)]
    return StrategyStyle(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)], dashes)


def text_extent(labels: Iterable[str]) -> tuple[float, float]:
    """Width and height in inches that these labels take in the legend's size, one below the other."""
    lines = [line for label in labels for line in label.split("\n")]
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(STYLE["legend.fontsize"], 72)
    wide = 0.0
    for line in lines:
        font.set_text(line)
        wide = max(wide, font.get_width_height()[0] / 64 / 72)
    return wide, ROW_HEIGHT * len(lines)


def row_pitch(labels: Iterable[str], least: float) -> float:
    """The height in inches of evenly spaced rows in which each of these labels has room, at least `least`."""
    return max(least, ROW_HEIGHT * max(label.count("\n") + 1 for label in labels) + 0.06)


def legend_width(labels: Iterable[str]) -> float:
    """The width in inches of a legend of these labels."""
    return text_extent(labels)[0] + 0.6


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which places its parts itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_title(figure: Figure, title: str, *notes: str, free: float = 0.0) -> None:
    """A title over the figure, and notes below it, in lines that leave `free` inches on the right; the figure
    grows by what they take."""
    characters = max(24, int((figure.get_figwidth() - free) * 11))
    lines = [wrap_name(title, characters)]
    lines += textwrap.wrap(make_visible("; ".join(filter(None, notes))), characters, break_on_hyphens=False)
    figure.set_figheight(figure.get_figheight() + 0.19 * ("\n".join(lines).count("\n") - 1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", linespacing=1.3)


def single_plot(labels: Sequence[str], width: float = 5.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """One plot of that size in inches, with room for a legend of these labels on its right."""
    figure = blank_figure(width + legend_width(labels), max(height, text_extent(labels)[1] + 1.0))
    axes = figure.add_subplot()
    axes.grid(True)
    return figure, axes


def add_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """A legend right of the plots, never on them."""
    figure.legend(list(handles), list(labels), loc="outside right upper", alignment="left")


def panels(
    titles: Sequence[str], columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Small plots of that size in inches, one a title."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
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
    """A strategy's label: its name, with a dagger where the tables have one."""
    return wrap_name(curve.strategy + "†" * bool(curve.daggers))


def dagger_note(curves: Iterable[Curve]) -> str:
    """What the daggers mean."""
    told = dict.fromkeys(dagger for curve in curves for dagger in curve.daggers)
    return f"† {', '.join(told)}" if told else ""


def limit_y_axis(axes: Axes, values: Floats) -> None:
    """Cuts bands off that reach further than a fifth of the lines' own range beyond them."""
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 5 or max(abs(high) / 10, 1e-3)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))


def numbered_names(names: Sequence[str]) -> list[str]:
    """Names with their number, by which columns are told."""
    return [f"{wrap_name(name)}  {number}" for number, name in enumerate(names, start=1)]


def draw_heat_map(axes: Axes, values: Floats, top: float) -> None:
    """A heat map with its numbers in the cells; empty where there is none."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 * top else INK
            axes.text(
                column, row, f"{value:.2f}" if value else "0", ha="center", va="center", fontsize=6.5, color=colour
            )


def label_heat_map(axes: Axes, rows: Sequence[str], num_columns: int) -> None:
    """Names at the rows of a heat map and numbers at its columns."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(num_columns), [str(number) for number in range(1, num_columns + 1)])
    axes.tick_params(length=0)


def save_figure(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Writes STEM.png (150 dpi), STEM.svg and STEM.pdf, or those kinds of them: the same bytes for the same figure."""
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
