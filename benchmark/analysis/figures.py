"""Figures of experiments, drawn by matplotlib's objects alone: no window, no state of pyplot's.

A figure is None where the data cannot give it. Names are shown as they are, never read as mathematics.
Shapes: S runs (seeds), R rounds, A strategies, C classes, P images of a pool, M boxes on them, N images shown.
"""

from __future__ import annotations

import io
import itertools
import lzma
import math
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from sklearn.manifold import TSNE

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats, Run, mean
from benchmark.analysis.savings import Price, Rule, Saving, generator, savings
from benchmark.plugins.places import CONFIGS
from benchmark.seeds import seed
from benchmark.system import files
from benchmark.system.digests import digest
from benchmark.text.escaping import visible, visible_lines
from benchmark.text.words import broken, plural, shorter, slug

PALETTE = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#767676")
# Okabe and Ito's, which colour-blind people tell apart; grey for their yellow, which is lost on white
MARKERS = "osD^vPX<>*hdp"
DASHES = ("-", "--", ":", "-.")
INK, FAINT, BLUE = "#222222", "#c4c4c4", "#0072B2"
ROW = 0.16  # inches that a line of a name takes
HEAT = 4  # rounds that `overlap` shows
FEW = 4  # runs whose intervals would fill a plot and tell little
NAMED = 20  # classes that are named
CLASS_NAME = 24  # characters of a class's name at most

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

Ints: TypeAlias = npt.NDArray[np.int64]
Drawing = ParamSpec("Drawing")


def styled(draw: Callable[Drawing, Figure | None]) -> Callable[Drawing, Figure | None]:
    """`draw` in the common style, laid out once, so that every file of a figure places things alike; what it writes is
    text in which everything is seen."""

    @wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure | None:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            if figure is not None:
                for text in figure.findobj(Text):
                    text.set_text(visible_lines(text.get_text()))
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
        return figure

    return drawn


# --- looks ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Look:
    """How a strategy is drawn in every figure of a report."""

    colour: str
    marker: str
    dashes: str

    @property
    def line(self) -> dict[str, Any]:
        """As matplotlib's arguments of a line."""
        told = {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}
        return told | {"markeredgecolor": "white", "markeredgewidth": 0.5}


Looks: TypeAlias = Mapping[str, Look]


def colours(names: Iterable[str]) -> dict[str, Look]:
    """The look of each strategy: that of its place in configs/looks.yaml, where parameters do not count unless two
    differ by them alone; others come behind. Colours repeat after 8 with other dashes, markers after 13."""
    known = list(yaml.safe_load((CONFIGS / "looks.yaml").read_text(encoding="utf-8")))
    places, each = dict[str, int](), list(dict.fromkeys(names))
    for name in sorted(each, key=lambda one: "[" in one):  # the plain one first
        base = name.partition("[")[0]
        place = known.index(base) if base in known else len(known)
        free = (other for other in itertools.count(len(known)) if other not in places.values())
        places[name] = place if base in known and place not in places.values() else next(free)
    return {name: look(places[name]) for name in each}


def look(place: int) -> Look:
    """The look of a place."""
    dashes = DASHES[place // len(PALETTE) % len(DASHES)]
    return Look(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)], dashes)


def extent(labels: Iterable[str]) -> tuple[float, float]:
    """Width and height in inches that these labels take in the legend's size, one below the other."""
    lines = [line for label in labels for line in label.split("\n")]
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(STYLE["legend.fontsize"], 72)
    wide = 0.0
    for line in lines:
        font.set_text(line)
        wide = max(wide, font.get_width_height()[0] / 64 / 72)
    return wide, ROW * len(lines)


def pitch(labels: Iterable[str], least: float) -> float:
    """The height in inches of evenly spaced rows in which each of these labels has room, at least `least`."""
    return max(least, ROW * max(label.count("\n") + 1 for label in labels) + 0.06)


def beside(labels: Iterable[str]) -> float:
    """The width in inches of a legend of these labels."""
    return extent(labels)[0] + 0.6


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which places its parts itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def entitle(figure: Figure, title: str, *notes: str, free: float = 0.0) -> None:
    """A title over the figure, and notes below it, in lines that leave `free` inches on the right; the figure
    grows by what they take."""
    characters = max(24, int((figure.get_figwidth() - free) * 11))
    lines = [broken(title, characters)]
    lines += textwrap.wrap(visible("; ".join(filter(None, notes))), characters, break_on_hyphens=False)
    figure.set_figheight(figure.get_figheight() + 0.19 * ("\n".join(lines).count("\n") - 1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", linespacing=1.3)


def framed(labels: Sequence[str], width: float = 5.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """One plot of that size in inches, with room for a legend of these labels on its right."""
    figure = blank(width + beside(labels), max(height, extent(labels)[1] + 1.0))
    axes = figure.add_subplot()
    axes.grid(True)
    return figure, axes


def key(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """A legend right of the plots, never on them."""
    figure.legend(list(handles), list(labels), loc="outside right upper", alignment="left")


def panels(
    titles: Sequence[str], columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Small plots of that size in inches, one a title."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    titles = [broken(title, max(12, int(width * 14))) for title in titles]
    lines = max(title.count("\n") for title in titles)
    figure = blank(max(columns * width, 3.6), rows * (height + 0.15 * lines) + 0.8)
    grid = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title)
    for axes in grid[len(titles) :]:
        axes.remove()
    for axes in grid[max(0, len(titles) - columns) : len(titles)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return figure, grid[: len(titles)]


def marked(curve: Curve) -> str:
    """A strategy's label: its name, with a dagger where the tables have one."""
    return broken(curve.strategy + "†" * bool(curve.daggers))


def daggers(curves: Iterable[Curve]) -> str:
    """What the daggers mean."""
    told = dict.fromkeys(dagger for curve in curves for dagger in curve.daggers)
    return f"† {', '.join(told)}" if told else ""


def limits(axes: Axes, values: Floats) -> None:
    """Cuts bands off that reach further than a fifth of the lines' own range beyond them."""
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 5 or max(abs(high) / 10, 1e-3)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))


# --- learning curves ------------------------------------------------------------------------
@styled
def learning_curves(experiment: Experiment, looks: Looks, axis: str = "images") -> Figure | None:
    """The mean score over the mean cost paid, in `axis` (images or boxes): Figures 3, 4, 7 and 8 of ISAL.

    The band is Student's 95 % interval over the runs, where they are FEW dots are single runs, bars are the deviation
    that a paper tells. None: no strategy counts that cost in a round.
    """
    curves = [curve for curve in experiment.curves.values() if drawable(curve, axis).any()]
    if not curves:
        return None
    labels = [marked(curve) for curve in curves]
    figure, axes = framed(labels)
    lines = [draw_curve(axes, curve, looks[curve.strategy], axis, sheer(labels)) for curve in curves]
    drawn = [np.asarray(line.get_ydata()) for line in lines]
    limits(axes, np.concatenate([*drawn, *(curve.value_SR[dotted(curve, axis)] for curve in curves)]))
    axes.set(xlabel=f"{axis} paid for", ylabel=visible(experiment.metric))
    banded = any(np.isfinite(band(curve)).any() for curve in curves)
    barred = any(curve.std_R is not None for curve in curves)
    entitle(
        figure, experiment.title, num_runs(curves),
        "shaded: 95 % interval of the mean, round by round, not corrected" * banded,
        "dots: single runs" * any(dotted(curve, axis).any() for curve in curves),
        "bars: standard deviation as published" * barred, daggers(curves), free=beside(labels),
    )  # fmt: skip
    key(figure, lines, labels)
    return figure


def sheer(bands: Sequence[Any]) -> float:
    """How opaque each of these bands is: less where they are many, so that the lines stay visible."""
    return min(0.15, 0.4 / len(bands))


def num_runs(curves: Iterable[Curve]) -> str:
    """How many runs are behind the curves."""
    counts = sorted({curve.num_runs for curve in curves})
    told = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "1 run" if told == "1" else f"mean of {told} runs"


def drawable(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(R,): rounds that have a score and a cost."""
    if axis not in curve.cost:
        return np.zeros(curve.value_SR.shape[1], bool)
    return np.asarray(np.isfinite(curve.mean_R) & np.isfinite(mean(curve.cost[axis])))


def band(curve: Curve) -> Floats:
    """(2, R): ends of Student's interval over the runs that have the round, NaN where they are FEW."""
    ends_2R = np.full((2, curve.value_SR.shape[1]), np.nan)
    for place, values_S in enumerate(curve.value_SR.T):
        there = values_S[np.isfinite(values_S)]
        if len(there) > FEW:
            found = stats.student(there)
            ends_2R[:, place] = found.low, found.high
    return ends_2R


def dotted(curve: Curve, axis: str) -> npt.NDArray[np.bool_]:
    """(S, R): the scores of single runs that are drawn: of rounds that more than one run has, and no band."""
    there_SR = np.isfinite(curve.value_SR) & np.isfinite(curve.cost.get(axis, np.nan))
    num_R = there_SR.sum(0)
    return np.asarray(there_SR & (num_R > 1) & (num_R <= FEW))


def draw_curve(axes: Axes, curve: Curve, look: Look, axis: str, alpha: float) -> Line2D:
    """Draws a curve with its band, dots or bars, and returns its line."""
    there_R = drawable(curve, axis)
    x, y = mean(curve.cost[axis])[there_R], curve.mean_R[there_R]
    axes.fill_between(x, *band(curve)[:, there_R], color=look.colour, alpha=alpha, linewidth=0)
    dots_SR = dotted(curve, axis)
    axes.plot(curve.cost[axis][dots_SR], curve.value_SR[dots_SR], ".", color=look.colour, markersize=3, alpha=0.6)
    if curve.std_R is not None:
        axes.errorbar(x, y, curve.std_R[there_R], fmt="none", ecolor=look.colour, elinewidth=0.8, capsize=2)
    return axes.plot(x, y, **look.line)[0]


# --- savings --------------------------------------------------------------------------------
@styled
def savings_curve(experiment: Experiment, looks: Looks, against: str) -> Figure | None:
    """Per cent of the boxes (images, where boxes are not counted) saved against `against`, at each of its scores.

    Scores that a strategy has not reached are left out, and so are strategies that do not pair. None: nothing is left.
    """
    found = {name: saved(experiment, name, against) for name in experiment.curves if name != against}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return None
    labels = [marked(experiment.get(name)) for name in found]
    figure, axes = framed(labels)
    axes.axhline(0, color=INK, linewidth=0.8)
    lines = [draw_savings(axes, points, looks[name], sheer(labels)) for name, points in found.items()]
    limits(axes, np.array([0.0, *(one.percent.value for points in found.values() for one in points)]))
    unit = "boxes" if experiment.counts_boxes else "images"
    axes.set(xlabel=visible(f"{experiment.metric} to reach"), ylabel=f"{unit} saved (%)")
    entitle(
        figure, f"{experiment.title}: {unit} saved against {against}", num_runs(map(experiment.get, found)),
        intervals(list(itertools.chain(*found.values()))), rough(found),
        daggers(map(experiment.get, [*found, against])), free=beside(labels),
    )  # fmt: skip
    key(figure, lines, labels)
    return figure


def saved(experiment: Experiment, strategy: str, against: str) -> list[Saving]:
    """The savings that are reached, by score; none where the two cannot be compared."""
    if not (experiment.get(strategy).value_SR.size and experiment.get(against).value_SR.size):
        return []
    price, rng = Price("boxes" if experiment.counts_boxes else "images"), generator(experiment, strategy, against, 0)
    try:
        found = savings(experiment, strategy, against, Rule("curve"), price, rng)
    except ValueError:  # they do not pair, or share no round
        return []
    return sorted((one for one in found if math.isfinite(one.percent.value)), key=lambda one: one.target)


def intervals(points: Sequence[Saving]) -> str:
    """What is said of the intervals of savings, which are drawn of more than FEW pairs."""
    if any(one.num_pairs > FEW and math.isfinite(one.percent.high) for one in points):
        return "shaded: 95 % interval, pointwise, not corrected"
    return "too few runs for intervals" * any(0 < one.num_pairs <= FEW for one in points)


def rough(found: Mapping[str, Sequence[Saving]]) -> str:
    """What is said of savings that rest on few rounds; "" where there are enough."""
    return next((one.few_rounds for points in found.values() for one in points if one.few_rounds), "")


def draw_savings(axes: Axes, points: Sequence[Saving], look: Look, alpha: float) -> Line2D:
    """Draws a line of savings with its band, and returns the line. Where the data set no bound the band has no end."""
    score = [one.target for one in points]
    if points[0].num_pairs > FEW:
        low, high = (np.array([getattr(one.percent, end) for one in points]).clip(-1e4, 1e4) for end in ("low", "high"))
        axes.fill_between(score, low, high, color=look.colour, alpha=alpha, linewidth=0)
    return axes.plot(score, [one.percent.value for one in points], **look.line)[0]


# --- over experiments -----------------------------------------------------------------------
@styled
def penalty_matrix(experiments: Sequence[Experiment]) -> Figure | None:
    """In how many experiments row beats column, rounds after the shared one counting in parts (Ash et al., 2020).

    Of experiments whose runs are told apart, stats.RANKED or more a strategy; strategies that do not pair are left out.
    A pair that no experiment has is empty. Below, the mean of each column. None: no experiment has two such strategies.
    """
    groups = [(group, num_shared(one)) for one in experiments if len(group := pairing(one)) > 1]
    names, wins_AA = added(groups)
    if not np.isfinite(wins_AA[~np.eye(len(names), dtype=bool)]).any():
        return None
    others_AA = np.where(np.eye(len(names), dtype=bool), np.nan, wins_AA)
    rows = np.concatenate([others_AA, [mean(others_AA)]])
    labels = [*numbered(names), "mean: how often it is beaten"]
    figure = blank(extent(labels)[0] + 0.45 * len(names) + 0.5, pitch(labels, 0.32) * len(labels) + 1.3)
    axes = figure.add_subplot()
    heat(axes, rows, max(1.0, float(np.nanmax(rows))))
    axes.axhline(len(names) - 0.5, color="white", linewidth=3)
    ticks(axes, labels, len(names))
    axes.set_xlabel("loses")
    entitle(
        figure, "Row beats column: share of rounds",
        f"paired t-tests at 5 %, summed over {plural(len(groups), 'experiment')}", "by chance 0.025 in each experiment",
        "single rounds, not corrected: the verdicts are in the tables",
    )  # fmt: skip
    return figure


def num_shared(experiment: Experiment) -> int:
    """Rounds before anything is selected: one, or none where a schedule starts from no label."""
    return int(experiment.schedule is None or experiment.schedule.initial > 0)


def pairing(experiment: Experiment) -> list[Curve]:
    """The strategies of stats.RANKED runs or more, less those that do not pair with most others."""
    curves = [curve for curve in experiment.curves.values() if len(curve.seeds) >= stats.RANKED]
    while curves:
        clashes = [sum(not pairs(one, other) for other in curves) for one in curves]
        if not any(clashes):
            break
        curves.pop(max(range(len(curves)), key=lambda place: (clashes[place], place)))
    return curves


def pairs(first: Curve, second: Curve) -> bool:
    """Whether the runs of two strategies pair."""
    try:
        stats.paired(first, second)
    except ValueError:
        return False
    return True


def added(groups: Sequence[tuple[Sequence[Curve], int]]) -> tuple[list[str], Floats]:
    """Names and (A, A) penalties, summed over groups, each with its shared rounds; NaN where no group has the pair."""
    names = list(dict.fromkeys(curve.strategy for group, _ in groups for curve in group))
    total_AA = np.full((len(names), len(names)), np.nan)
    for group, shared in groups:
        places = [names.index(curve.strategy) for curve in group]
        cells, wins_AA = np.ix_(places, places), stats.penalties(group, shared)
        total_AA[cells] = np.where(np.isnan(wins_AA), total_AA[cells], np.nan_to_num(total_AA[cells]) + wins_AA)
    return names, total_AA


def numbered(names: Sequence[str]) -> list[str]:
    """Names with their number, by which columns are told."""
    return [f"{broken(name)}  {number}" for number, name in enumerate(names, start=1)]


def heat(axes: Axes, values: Floats, top: float) -> None:
    """A heat map with its numbers in the cells; empty where there is none."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 * top else INK
            axes.text(
                column, row, f"{value:.2f}" if value else "0", ha="center", va="center", fontsize=6.5, color=colour
            )


def ticks(axes: Axes, rows: Sequence[str], num_columns: int) -> None:
    """Names at the rows of a heat map and numbers at its columns."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(num_columns), [str(number) for number in range(1, num_columns + 1)])
    axes.tick_params(length=0)


@styled
def rank_diagram(experiments: Sequence[Experiment]) -> Figure | None:
    """Mean ranks over data sets by area under the curve, and, from stats.DATA_SETS of them on, Nemenyi's critical
    difference (Demšar, 2006): bars join what is not shown to differ.

    Of the strategies that all experiments share; one in which nothing is recorded is left out. None: fewer than two
    experiments or two such strategies.
    """
    tables = [(areas, one.data_set) for one in experiments if (areas := mean_areas(one))]
    shared = [name for name in tables[0][0] if all(name in areas for areas, _ in tables)] if tables else []
    if len(tables) < 2 or len(shared) < 2:
        return None
    scores_TA = np.array([[areas[name] for name in shared] for areas, _ in tables])
    found = stats.ranks(shared, scores_TA, [data_set for _, data_set in tables])
    wide, long = extent(map(broken, shared))[0] + 0.6, max(3.6, 0.28 * len(shared))
    sides = halves(found)
    deep = max(sum(0.05 + extent([broken(name)])[1] for name in side) for side in sides) + 0.5
    figure = blank(long + 2 * wide, deep + 1.5)
    figure.set_layout_engine("none")  # names stand outside the axes
    width, height = figure.get_size_inches()
    axes = figure.add_axes((wide / width, 0.02, long / width, (deep + 0.75) / height))
    axes.set(xlim=(1, len(shared)), ylim=(-deep, 0.75))
    axes.set_axis_off()
    draw_ranks(axes, found)
    for side, left in zip(sides, (True, False), strict=True):
        draw_names(axes, side, left, -0.2 - 0.07 * len(cliques(found)))
    friedman = "" if math.isnan(found.p) else f"Friedman's p = {found.p:.2g}"
    several = f", {len(tables)} experiments" * (len(tables) > found.num_data_sets)
    over = plural(found.num_data_sets, "data set") + several
    fewer = f"no test: it takes {stats.DATA_SETS} data sets" * (found.num_data_sets < stats.DATA_SETS)
    entitle(figure, f"Mean rank over {over}", "1 is best", friedman or fewer)
    return figure


def halves(found: stats.Ranks) -> tuple[dict[str, float], dict[str, float]]:
    """Strategies with their mean ranks: the better half, best first, and the other, worst first."""
    ordered = [(found.strategies[one], float(found.mean_A[one])) for one in np.argsort(found.mean_A, kind="stable")]
    half = (len(ordered) + 1) // 2
    return dict(ordered[:half]), dict(ordered[half:][::-1])


def mean_areas(experiment: Experiment) -> dict[str, float]:
    """The mean area over the runs by strategy, of those whose runs are all finished and have all rounds. Over the
    rounds, or, as verdicts are, over the range of cost that all have where rounds cost unequally; {}: there is none."""
    whole = {
        name: curve
        for name, curve in experiment.curves.items()
        if curve.num_runs == curve.wanted and not curve.unfinished and np.isfinite(curve.value_SR).all()
    }
    kind = "boxes" if experiment.counts_boxes else "images"
    paid = [mean(curve.cost[kind]) for curve in whole.values() if kind in curve.cost]
    if len(experiment.rounds) < 2 or all(np.array_equal(cost_R, paid[0], equal_nan=True) for cost_R in paid):
        rounds_R = np.array(experiment.rounds, np.float64)
        return {name: stats.area(rounds_R, curve.mean_R) for name, curve in whole.items()}
    try:
        areas_A, *_ = stats.areas_at_equal_cost(np.stack(paid), np.stack([curve.mean_R for curve in whole.values()]))
        return dict(zip(whole, areas_A.tolist(), strict=True))
    except ValueError:  # no range, or one counts no boxes
        return {}


def cliques(found: stats.Ranks) -> list[tuple[float, float]]:
    """First and last rank of every largest group, of two or more, that lies within the critical difference."""
    ordered = sorted(map(float, found.mean_A))
    groups: list[tuple[float, float]] = []
    if math.isnan(found.critical):
        return groups
    for place, low in enumerate(ordered):
        inside = [rank for rank in ordered[place:] if rank - low <= found.critical]
        if len(inside) > 1 and not (groups and inside[-1] <= groups[-1][1]):
            groups.append((low, inside[-1]))
    return groups


def draw_ranks(axes: Axes, found: stats.Ranks) -> None:
    """Demšar's diagram less its names: the axis of ranks, the critical difference above, groups below; y in inches."""
    num = len(found.strategies)
    axes.plot([1, num], [0, 0], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, num + 1):
        axes.plot([rank, rank], [0, 0.05], color=INK, linewidth=1, clip_on=False)
        axes.text(rank, 0.08, str(rank), ha="center", va="bottom", fontsize=8)
    if math.isnan(found.critical):
        return
    axes.plot([1, min(1 + found.critical, num)], [0.4, 0.4], color=PALETTE[4], linewidth=2.5, clip_on=False)
    beyond = ", more than the axis" * (1 + found.critical > num)
    axes.text(1, 0.47, f"critical difference {found.critical:.2f}{beyond}", ha="left", va="bottom", fontsize=8)
    for level, ends in enumerate(cliques(found)):
        axes.plot(ends, [-0.1 - 0.07 * level] * 2, color=INK, linewidth=3, solid_capstyle="round", clip_on=False)


def draw_names(axes: Axes, ranks: Mapping[str, float], left: bool, top: float) -> None:
    """Names on one side, joined to their ranks, from `top` inches down."""
    edge = axes.get_xlim()[not left]
    for name, rank in ranks.items():
        label = broken(name)
        depth = top - ROW * (1 + label.count("\n")) / 2
        top -= ROW * (1 + label.count("\n")) + 0.05
        axes.plot([rank, rank, edge], [0, depth, depth], color="#888888", linewidth=0.8, clip_on=False)
        text = f"{label}  {rank:.2f} " if left else f" {rank:.2f}  {label}"
        axes.text(edge, depth, text, ha="right" if left else "left", va="center", fontsize=8)


# --- what was bought ------------------------------------------------------------------------
def later(run: Run, last: float = math.inf) -> list[int]:
    """Pool positions bought after round 0, up to round `last`."""
    return [place for record in run.records if 0 < record.round <= last for place in record.bought]


def first_runs(experiment: Experiment) -> dict[str, Run]:
    """The run of the lowest seed that bought something after round 0, by strategy."""
    found: dict[str, Run] = {}
    for run in sorted((run for run in experiment.runs if later(run)), key=lambda run: run.seed):
        found.setdefault(run.strategy, run)
    return {name: found[name] for name in experiment.curves if name in found}


def overlaps(experiment: Experiment, names: Sequence[str], last: int) -> Floats:
    """(A, A): Jaccard's overlap of what was bought after round 0 up to round `last`, the mean over the seeds that both
    strategies have so far; NaN where there is none."""
    sets = {
        (run.strategy, run.seed): set(later(run, last))
        for run in experiment.runs
        if any(record.round == last for record in run.records)
    }
    seeds = sorted({one for _, one in sets})
    values_SAA = np.full((len(seeds), len(names), len(names)), np.nan)
    for place in np.ndindex(*values_SAA.shape):
        one, other = (sets.get((names[column], seeds[place[0]]), set()) for column in place[1:])
        if one and other:
            values_SAA[place] = len(one & other) / len(one | other)
    return mean(values_SAA.reshape(len(seeds), len(names) ** 2)).reshape(len(names), len(names))


@styled
def overlap(experiment: Experiment) -> Figure | None:
    """Jaccard's overlap between strategies of all that they bought after round 0, one heat map a round, the last four.

    None: fewer than two strategies bought something.
    """
    names = list(first_runs(experiment))
    if len(names) < 2:
        return None
    rounds = sorted({record.round for run in experiment.runs for record in run.records if record.round})[-HEAT:]
    columns = min(2, len(rounds))
    labels = numbered(names)
    rows = math.ceil(len(rounds) / columns)
    wide, high = max(0.34 * len(names), 1.6), max(pitch(labels, 0.3) * len(names), 1.2)
    figure = blank(extent(labels)[0] + columns * (wide + 0.2) + 0.5, rows * (high + 0.5) + 0.8)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, number in zip(grid, rounds, strict=False):
        values_AA = overlaps(experiment, names, number)
        heat(axes, np.where(np.eye(len(names), dtype=bool), np.nan, values_AA), 1.0)
        axes.set_title(f"up to round {number}")
        ticks(axes, labels, len(names))
    for axes in grid[len(rounds) :]:
        axes.set_axis_off()
    entitle(
        figure,
        f"{experiment.title}: overlap of what was bought",
        "images that both bought, of all that one of them bought (Jaccard)",
        "mean over common seeds",
    )
    return figure


# --- galleries ------------------------------------------------------------------------------
FARTHEST = 1e15  # of features and pixels, whose squares single precision holds
LARGEST_GALLERY, LONGEST_SIDE, MOST_CLASSES = 2 * 2**30, 512, 2**16  # bytes, pixels of a thumbnail, classes
FORMS = {  # kinds of number and dimensions of a gallery's arrays
    "labels_P": ("iu", 1), "box_image_M": ("iu", 1), "box_class_M": ("iu", 1), "box_side_M": ("f", 1),
    "shown_N": ("iu", 1), "thumbs_NHW3": ("u", 4), "features_ND": ("f", 2), "drawn_K5": ("f", 2), "classes_C": ("U", 1),
    "digest": ("U", 0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gallery:
    """What a pool's images look like: labels and boxes of all of it, thumbnails and features of some."""

    labels_P: Ints  # class of each image; empty for detection
    box_image_M: Ints  # pool positions; empty for classification, as the next two
    box_class_M: Ints
    box_side_M: npt.NDArray[np.float32]  # root of the area in pixels
    shown_N: Ints  # pool positions of what follows
    thumbs_NHW3: npt.NDArray[np.uint8]
    features_ND: npt.NDArray[np.float16]
    drawn_K5: npt.NDArray[np.float32]  # boxes on thumbnails: row in N, x1, y1, x2, y2 in their pixels
    classes_C: npt.NDArray[np.str_]

    @classmethod
    def read(cls, path: str | Path) -> Gallery:
        """A gallery of a .npz file; ValueError, in one line, where it is none."""
        try:
            with files.opened(path) as handle:
                if not zipfile.is_zipfile(handle):
                    raise ValueError("no zip file")
                handle.seek(0)
                with np.load(handle, allow_pickle=False) as file:
                    check_forms(file.zip)
                    gallery = cls(**(arrays := {one.name: file[one.name] for one in fields(cls)}))
                    stated = str(file["digest"]) if "digest" in file else None  # None: of an older release
        except UNREADABLE as error:
            raise ValueError(f"{path} is no gallery: {' '.join(str(error).split())}") from error
        if fault := gallery.fault:
            raise ValueError(f"{path} is no gallery: {fault}")
        if stated not in (None, digest(Path(path).stem, arrays)):
            raise ValueError(f"{path} is damaged: its digest does not fit")
        return gallery

    @property
    def fault(self) -> str:
        """What does not fit together; "" where all of it does."""
        same = (("box_image_M", "box_class_M", "box_side_M"), ("shown_N", "thumbs_NHW3", "features_ND"))
        for names in same:
            if len({len(getattr(self, name)) for name in names}) > 1:
                return f"{', '.join(names)} differ in length"
        limits = {"labels_P": len(self.classes_C), "box_class_M": len(self.classes_C)}
        wrong = [name for name, top in limits.items() if not in_range(getattr(self, name), top)]
        if self.drawn_K5.size and (self.drawn_K5.shape[1] != 5 or not in_range(self.drawn_K5[:, 0], len(self.shown_N))):
            wrong.append("drawn_K5")
        for name in ("features_ND", "box_side_M", "drawn_K5"):
            wrong += [name] * (not float(np.abs(getattr(self, name)).max(initial=0)) <= FARTHEST)  # nor where it is NaN
        return f"{', '.join(wrong)} has values that cannot be" if wrong else ""

    @property
    def row(self) -> dict[int, int]:
        """The row of a pool position's thumbnail and features."""
        return {int(place): row for row, place in enumerate(self.shown_N)}

    def classes(self, bought: Sequence[int]) -> Ints:
        """Classes of these images, or of the boxes on them. ValueError where they are not of this pool."""
        if not len(self.labels_P):
            return self.box_class_M[np.isin(self.box_image_M, bought)]
        if max(bought, default=0) >= len(self.labels_P):
            pool = plural(len(self.labels_P), "image")
            raise ValueError(f"these pictures are of another pool: {pool}, without number {max(bought)}")
        return self.labels_P[list(bought)]


UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, RuntimeError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError,
)  # fmt: skip  # RuntimeError: encrypted, or packed in a way that is not known
HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_forms(archive: zipfile.ZipFile) -> None:
    """ValueError, before an array takes memory, where one is of another kind or shape than a gallery's may be, or of
    another size than its shape says."""
    if (total := sum(one.file_size for one in archive.infolist())) > LARGEST_GALLERY:
        raise ValueError(f"it would take {total / 2**30:,.0f} GiB, and {LARGEST_GALLERY / 2**30:.0f} at most")
    for name, (kinds, dimensions) in FORMS.items():
        if name == "digest" and f"{name}.npy" not in archive.namelist():  # of an older release
            continue
        with archive.open(f"{name}.npy") as handle:
            shape, _, dtype = HEADERS[np.lib.format.read_magic(handle)](handle)  # type: ignore[no-untyped-call]
            size = archive.getinfo(f"{name}.npy").file_size - handle.tell()
        told, number = f"{name} is {dtype} of shape {shape}", math.prod(shape)
        sides = dimensions < 4 or (all(0 < side <= LONGEST_SIDE for side in shape[1:3]) and shape[3:] == (3,))
        plain = dtype.kind in kinds or (not number and dtype.kind in "iuf")  # boxes of images that have none
        if len(shape) != dimensions or not plain or (number and not sides):
            raise ValueError(told)
        if min(shape, default=0) < 0 or number * dtype.itemsize != size:
            raise ValueError(f"{told}, but there are {size:,} bytes")
        if name == "classes_C" and number > MOST_CLASSES:
            raise ValueError(f"{told}: at most {MOST_CLASSES:,} classes")


def in_range(values: npt.NDArray[Any], top: int) -> bool:
    """Whether all are at least 0 and below `top`."""
    return bool(((values >= 0) & (values < top)).all())


def shares(counts: npt.NDArray[Any]) -> Floats:
    """In per cent of their sum; zero where that is zero."""
    return np.asarray(100 * counts / max(counts.sum(), 1))


def bars(axes: Axes, edges: Floats, counts: npt.NDArray[Any], pool: npt.NDArray[Any]) -> None:
    """A histogram in per cent, with the whole pool's as an outline."""
    axes.bar(edges[:-1], shares(counts), np.diff(edges), align="edge", color=BLUE, alpha=0.75, linewidth=0)
    axes.stairs(shares(pool), edges, color=INK, linewidth=0.9)


@styled
def bought_classes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Shares of the classes in what each strategy bought after round 0 (lowest seed): of images, boxes or regions.

    None: nothing was bought, or the gallery has no classes.
    """
    num_classes = len(gallery.classes_C)
    pool = gallery.labels_P if len(gallery.labels_P) else gallery.box_class_M
    found = {name: gallery.classes(later(run)) for name, run in first_runs(experiment).items()}
    if not found or not len(pool):
        return None
    unit = "images" if len(gallery.labels_P) else parts(experiment)
    titles = [f"{name} ({len(classes)})" for name, classes in found.items()]
    figure, grid = panels(titles, 3, 2.6, 1.35, sharex=True, sharey=True)
    edges = np.arange(num_classes + 1, dtype=np.float64) - 0.5
    for axes, classes in zip(grid, found.values(), strict=True):
        counts, whole = (np.bincount(one, minlength=num_classes) for one in (classes, pool))
        bars(axes, edges, counts, whole)
    name_classes(figure, grid, gallery)
    figure.supylabel(f"% of {unit}", fontsize=9)
    entitle(
        figure,
        f"{experiment.title}: classes bought after round 0",
        f"runs of the lowest seed; in brackets: how many {unit}",
        "outline: the whole pool",
    )
    return figure


def parts(experiment: Experiment) -> str:
    """What an image has several labels of: boxes, or regions, all pixels of a class in an image, which nobody counts
    when paying."""
    return "boxes" if experiment.counts_boxes else "regions"


def name_classes(figure: Figure, grid: Sequence[Axes], gallery: Gallery) -> None:
    """Names the classes below the plots, shortened in the middle; where they are many they are numbered."""
    num_classes = len(gallery.classes_C)
    if num_classes > NAMED:
        grid[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.supxlabel("number of the class, from 0, in the order of the data set", fontsize=9)
        return
    names = shorter([visible(str(name)) for name in gallery.classes_C], CLASS_NAME)
    grid[0].set_xticks(range(num_classes), names)
    figure.set_figheight(figure.get_figheight() + extent(names)[0] * math.ceil(len(grid) / 3))
    for axes in grid:
        axes.tick_params("x", labelrotation=90, labelsize=7, length=0)


@styled
def bought_sizes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Roots of the areas, in pixels, of the boxes or regions that each strategy bought after round 0 (lowest seed), in
    per cent.

    None: nothing was bought, or images have one label each.
    """
    sides = {
        name: gallery.box_side_M[np.isin(gallery.box_image_M, later(run))]
        for name, run in first_runs(experiment).items()
    }
    if not sides or not len(gallery.box_side_M):
        return None
    figure, grid = panels([f"{name} ({len(side)})" for name, side in sides.items()], 3, 2.6, 1.35, sharex=True,
                          sharey=True)  # fmt: skip
    edges = np.histogram_bin_edges(gallery.box_side_M, 24).astype(np.float64)
    whole = np.histogram(gallery.box_side_M, edges)[0]
    for axes, side in zip(grid, sides.values(), strict=True):
        bars(axes, edges, np.histogram(side, edges)[0], whole)
    figure.supylabel(f"% of {parts(experiment)}", fontsize=9)
    figure.supxlabel("root of the area (pixels)", fontsize=9)
    entitle(
        figure, f"{experiment.title}: sizes of the {parts(experiment)} bought after round 0",
        f"runs of the lowest seed; in brackets: how many {parts(experiment)}", "outline: the whole pool",
    )  # fmt: skip
    return figure


def embedded(features_ND: npt.NDArray[Any]) -> Floats:
    """(N, 2): t-SNE of the features, the same for the same features."""
    perplexity = min(30.0, (len(features_ND) - 1) / 3)
    made = TSNE(perplexity=perplexity, random_state=seed("figures", "t-SNE") % 2**32).fit_transform(
        features_ND.astype(np.float32)
    )
    return np.asarray(made, np.float64)


@styled
def pool_map(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """The pool's features by t-SNE, and on it what each strategy bought after round 0 (lowest seed), by round: Figure 5
    of ISAL.

    None: nothing was bought, or the gallery has fewer than five images or two features.
    """
    runs, row = first_runs(experiment), gallery.row
    if not runs or len(gallery.features_ND) < 5 or gallery.features_ND.shape[1] < 2:
        return None
    at_N2 = embedded(gallery.features_ND)
    rounds = sorted({record.round for run in runs.values() for record in run.records if record.round})
    shade = dict(zip(rounds, matplotlib.colormaps["plasma"](np.linspace(0, 0.85, len(rounds))), strict=True))
    figure, grid = panels(list(runs), 4, 2.2, 2.1)
    for axes, run in zip(grid, runs.values(), strict=True):
        axes.scatter(at_N2[:, 0], at_N2[:, 1], s=3, color=FAINT, linewidth=0, rasterized=True)
        for record in run.records:
            rows = [row[place] for place in record.bought if place in row and record.round]
            if rows:
                axes.scatter(at_N2[rows, 0], at_N2[rows, 1], s=9, color=[shade[record.round]], linewidth=0)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    handles = [Line2D([], [], color=shade[one], marker="o", linestyle="") for one in rounds]
    figure.set_figwidth(figure.get_figwidth() + 1)
    key(figure, handles, [f"round {one}" for one in rounds])
    entitle(
        figure,
        f"{experiment.title}: what was bought",
        "t-SNE of round 0's features",
        f"{len(at_N2):,} of the pool's {max(run.header.num_pool for run in runs.values() if run.header):,} images",
        "runs of the lowest seed",
        free=1.0,
    )
    return figure


@styled
def contact_sheet(experiment: Experiment, gallery: Gallery, strategy: str, per_round: int = 8) -> Figure | None:
    """The first images that a strategy bought in each round (lowest seed) of those that have a thumbnail, one row a
    round, boxes drawn in: Figure 6 of ISAL.

    None: it bought nothing after round 0, or none of that has a thumbnail.
    """
    run, row = first_runs(experiment).get(strategy), gallery.row
    bought = {one.round: [row[place] for place in one.bought if place in row][:per_round] for one in run.records} \
        if run else {}  # fmt: skip
    bought = {number: rows for number, rows in bought.items() if rows}
    if not any(bought):
        return None
    high, wide = gallery.thumbs_NHW3.shape[1:3]
    gap = max(1, round(0.05 * wide))
    steps = (high + gap, wide + gap)
    sheet = np.full((len(bought) * steps[0] - gap, per_round * steps[1] - gap, 3), 255, np.uint8)
    figure = blank(per_round * 0.9 + 0.9, len(bought) * 0.9 * high / wide + 0.8)
    axes = figure.add_subplot()
    for line, rows in enumerate(bought.values()):
        for column, one in enumerate(rows):
            top, left = line * steps[0], column * steps[1]
            sheet[top : top + high, left : left + wide] = gallery.thumbs_NHW3[one]
            draw_boxes(axes, gallery, one, (left, top))
    axes.imshow(sheet)
    labels = [f"round {number}" if number else "initial" for number in bought]
    axes.set_yticks([line * steps[0] + high / 2 for line in range(len(bought))], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    entitle(figure, strategy, experiment.title, "the first images bought in each round", "run of the lowest seed")
    return figure


def draw_boxes(axes: Axes, gallery: Gallery, row: int, corner: tuple[int, int]) -> None:
    """Draws a thumbnail's boxes, whose upper left corner is at `corner` (x, y)."""
    boxes_K4 = gallery.drawn_K5[gallery.drawn_K5[:, 0] == row, 1:] if gallery.drawn_K5.size else np.zeros((0, 4))
    boxes_K4 = boxes_K4 + np.array([*corner, *corner]) - 0.5
    outlines_K52 = boxes_K4[:, [[0, 1], [2, 1], [2, 3], [0, 3], [0, 1]]]
    axes.add_collection(LineCollection(list(outlines_K52), colors="#FFFFFF", linewidths=1.8), autolim=False)
    axes.add_collection(LineCollection(list(outlines_K52), colors=PALETTE[4], linewidths=0.9), autolim=False)


# --- seconds --------------------------------------------------------------------------------
def seconds(experiment: Experiment) -> dict[str, list[float]]:
    """Seconds that a selection took by strategy, the mean over its rounds of each run."""
    found: dict[str, list[float]] = {name: [] for name in experiment.curves}
    for run in experiment.runs:
        taken = [one.seconds["select"] for one in run.measured if one.round > 0 and "select" in one.seconds]
        if taken:
            found[run.strategy].append(max(float(np.mean(taken)), 1e-6))  # a logarithm has no zero
    return {name: taken for name, taken in found.items() if taken}


@styled
def selection_seconds(experiment: Experiment, looks: Looks) -> Figure | None:
    """What a selection takes, in seconds: the mean over its rounds of each run as a dot, their mean as a bar.

    None: no selection was measured.
    """
    found = seconds(experiment)
    if not found:
        return None
    labels = [broken(name) for name in found]
    figure = blank(extent(labels)[0] + 4.2, pitch(labels, 0.24) * len(labels) + 1.2)
    axes = figure.add_subplot()
    for place, (name, taken) in enumerate(found.items()):
        axes.plot(taken, [place] * len(taken), **looks[name].line | {"linestyle": "", "alpha": 0.8})
        axes.plot([np.mean(taken)], [place], color=looks[name].colour, marker="|", markersize=13, markeredgewidth=2)
    axes.set_yticks(range(len(labels)), labels)
    decades = [math.floor(math.log10(end(map(end, found.values())))) for end in (min, max)]
    encoded = any("encode" in one.seconds for run in experiment.runs for one in run.measured)
    axes.set(
        xscale="log",
        xlim=(10 ** decades[0], 10 ** (decades[1] + 1)),
        xlabel="seconds a selection" + ", encodings aside" * encoded,
        ylim=(len(labels) - 0.5, -0.5),
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="x")
    entitle(figure, f"{experiment.title}: seconds of one selection", "a mark for each run", "bar: their mean")
    return figure


# --- all of them ----------------------------------------------------------------------------
def everything(experiments: Sequence[Experiment], galleries: Mapping[str, Gallery]) -> dict[str, Figure]:
    """Every figure that the data can give, by file stem; galleries by title of the experiment.

    Savings are against the reference of each experiment. ValueError where a gallery is of another pool.
    """
    looks = colours(name for one in experiments for name in one.curves)
    found: dict[str, Figure | None] = {}
    for one in experiments:
        stem = slug(one.title)
        found |= {f"{stem}-curves-{axis}": learning_curves(one, looks, axis) for axis in ("images", "boxes")}
        found[f"{stem}-savings"] = savings_curve(one, looks, one.reference) if one.reference else None
        found[f"{stem}-overlap"] = overlap(one)
        found[f"{stem}-seconds"] = selection_seconds(one, looks)
        if one.title in galleries:
            found |= {f"{stem}-{name}": figure for name, figure in shown(one, galleries[one.title]).items()}
    found |= {"penalties": penalty_matrix(experiments), "ranks": rank_diagram(experiments)}
    return {stem: figure for stem, figure in found.items() if figure is not None}


def shown(experiment: Experiment, gallery: Gallery) -> dict[str, Figure | None]:
    """The figures that need a gallery."""
    made = {
        "classes": bought_classes(experiment, gallery),
        "sizes": bought_sizes(experiment, gallery),
        "pool": pool_map(experiment, gallery),
    }
    return made | {f"bought-{slug(name)}": contact_sheet(experiment, gallery, name) for name in experiment.curves}


def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Writes STEM.png (150 dpi), STEM.svg and STEM.pdf, or those kinds of them: the same bytes for the same figure."""
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None},
    }  # fmt: skip
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    with matplotlib.rc_context(STYLE):
        for path, kind in zip(paths, kinds, strict=True):
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150, metadata=metadata[kind])
            files.replace(path, content.getvalue(), stem.parents[1])
    return paths
