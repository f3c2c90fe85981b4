"""What strategies bought: how much they share, of which classes and sizes, where in the pool, and how it looks.

Shapes: A strategies, S runs (seeds), N images shown, K boxes on one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE

from benchmark.analysis.curves import Experiment, Floats, Run, mean_over_runs
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.figures.style import (
    BLUE,
    FAINT,
    INK,
    PALETTE,
    add_legend,
    add_title,
    blank_figure,
    draw_heat_map,
    label_heat_map,
    numbered_names,
    panels,
    row_pitch,
    text_extent,
    with_style,
)
from benchmark.seeds import seed
from benchmark.text.escaping import make_visible
from benchmark.text.words import shorten_names

MAX_HEAT_MAPS = 4  # rounds that `overlap` shows
MAX_NAMED_CLASSES = 20  # classes that are named
MAX_CLASS_NAME = 24  # characters of a class's name at most


def selected_images(run: Run, last: float = math.inf) -> list[int]:
    """Pool positions bought after round 0, up to round `last`."""
    return [place for record in run.records if 0 < record.round <= last for place in record.bought]


def lowest_seed_runs(experiment: Experiment) -> dict[str, Run]:
    """The run of the lowest seed that bought something after round 0, by strategy."""
    found: dict[str, Run] = {}
    for run in sorted((run for run in experiment.runs if selected_images(run)), key=lambda run: run.seed):
        found.setdefault(run.strategy, run)
    return {name: found[name] for name in experiment.curves if name in found}


def jaccard_overlaps(experiment: Experiment, names: Sequence[str], last: int) -> Floats:
    """(A, A): Jaccard's overlap of what was bought after round 0 up to round `last`, the mean over the seeds that both
    strategies have so far; NaN where there is none."""
    sets = {
        (run.strategy, run.seed): set(selected_images(run, last))
        for run in experiment.runs
        if any(record.round == last for record in run.records)
    }
    seeds = sorted({one for _, one in sets})
    values_SAA = np.full((len(seeds), len(names), len(names)), np.nan)
    for place in np.ndindex(*values_SAA.shape):
        one, other = (sets.get((names[column], seeds[place[0]]), set()) for column in place[1:])
        if one and other:
            values_SAA[place] = len(one & other) / len(one | other)
    return mean_over_runs(values_SAA.reshape(len(seeds), len(names) ** 2)).reshape(len(names), len(names))


@with_style
def overlap_heat_maps(experiment: Experiment) -> Figure | None:
    """Jaccard's overlap between strategies of all that they bought after round 0, one heat map a round, the last four.

    None: fewer than two strategies bought something.
    """
    names = list(lowest_seed_runs(experiment))
    if len(names) < 2:
        return None
    rounds = sorted({record.round for run in experiment.runs for record in run.records if record.round})[
        -MAX_HEAT_MAPS:
    ]
    columns = min(2, len(rounds))
    labels = numbered_names(names)
    rows = math.ceil(len(rounds) / columns)
    wide, high = max(0.34 * len(names), 1.6), max(row_pitch(labels, 0.3) * len(names), 1.2)
    figure = blank_figure(text_extent(labels)[0] + columns * (wide + 0.2) + 0.5, rows * (high + 0.5) + 0.8)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, number in zip(grid, rounds, strict=False):
        values_AA = jaccard_overlaps(experiment, names, number)
        draw_heat_map(axes, np.where(np.eye(len(names), dtype=bool), np.nan, values_AA), 1.0)
        axes.set_title(f"up to round {number}")
        label_heat_map(axes, labels, len(names))
    for axes in grid[len(rounds) :]:
        axes.set_axis_off()
    add_title(
        figure,
        f"{experiment.title}: overlap of what was bought",
        "images that both bought, of all that one of them bought (Jaccard)",
        "mean over common seeds",
    )
    return figure


def percentages(counts: npt.NDArray[Any]) -> Floats:
    """In per cent of their sum; zero where that is zero."""
    return np.asarray(100 * counts / max(counts.sum(), 1))


def draw_histogram(axes: Axes, edges: Floats, counts: npt.NDArray[Any], pool: npt.NDArray[Any]) -> None:
    """A histogram in per cent, with the whole pool's as an outline."""
    axes.bar(edges[:-1], percentages(counts), np.diff(edges), align="edge", color=BLUE, alpha=0.75, linewidth=0)
    axes.stairs(percentages(pool), edges, color=INK, linewidth=0.9)


@with_style
def bought_classes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Shares of the classes in what each strategy bought after round 0 (lowest seed): of images, boxes or regions.

    None: nothing was bought, or the gallery has no classes.
    """
    num_classes = len(gallery.classes_C)
    pool = gallery.labels_P if len(gallery.labels_P) else gallery.box_class_M
    found = {name: gallery.classes_of(selected_images(run)) for name, run in lowest_seed_runs(experiment).items()}
    if not found or not len(pool):
        return None
    unit = "images" if len(gallery.labels_P) else label_unit(experiment)
    titles = [f"{name} ({len(classes)})" for name, classes in found.items()]
    figure, grid = panels(titles, 3, 2.6, 1.35, sharex=True, sharey=True)
    edges = np.arange(num_classes + 1, dtype=np.float64) - 0.5
    for axes, classes in zip(grid, found.values(), strict=True):
        counts, whole = (np.bincount(one, minlength=num_classes) for one in (classes, pool))
        draw_histogram(axes, edges, counts, whole)
    name_classes(figure, grid, gallery)
    figure.supylabel(f"% of {unit}", fontsize=9)
    add_title(
        figure,
        f"{experiment.title}: classes bought after round 0",
        f"runs of the lowest seed; in brackets: how many {unit}",
        "outline: the whole pool",
    )
    return figure


def label_unit(experiment: Experiment) -> str:
    """What an image has several labels of: boxes, or regions, all pixels of a class in an image, which nobody counts
    when paying."""
    return "boxes" if experiment.counts_boxes else "regions"


def name_classes(figure: Figure, grid: Sequence[Axes], gallery: Gallery) -> None:
    """Names the classes below the plots, shortened in the middle; where they are many they are numbered."""
    num_classes = len(gallery.classes_C)
    if num_classes > MAX_NAMED_CLASSES:
        grid[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.supxlabel("number of the class, from 0, in the order of the data set", fontsize=9)
        return
    names = shorten_names([make_visible(str(name)) for name in gallery.classes_C], MAX_CLASS_NAME)
    grid[0].set_xticks(range(num_classes), names)
    figure.set_figheight(figure.get_figheight() + text_extent(names)[0] * math.ceil(len(grid) / 3))
    for axes in grid:
        axes.tick_params("x", labelrotation=90, labelsize=7, length=0)


@with_style
def bought_sizes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Roots of the areas, in pixels, of the boxes or regions that each strategy bought after round 0 (lowest seed), in
    per cent.

    None: nothing was bought, or images have one label each.
    """
    sides = {
        name: gallery.box_side_M[np.isin(gallery.box_image_M, selected_images(run))]
        for name, run in lowest_seed_runs(experiment).items()
    }
    if not sides or not len(gallery.box_side_M):
        return None
    figure, grid = panels([f"{name} ({len(side)})" for name, side in sides.items()], 3, 2.6, 1.35, sharex=True,
                          sharey=True)  # fmt: skip
    edges = np.histogram_bin_edges(gallery.box_side_M, 24).astype(np.float64)
    whole = np.histogram(gallery.box_side_M, edges)[0]
    for axes, side in zip(grid, sides.values(), strict=True):
        draw_histogram(axes, edges, np.histogram(side, edges)[0], whole)
    figure.supylabel(f"% of {label_unit(experiment)}", fontsize=9)
    figure.supxlabel("root of the area (pixels)", fontsize=9)
    add_title(
        figure, f"{experiment.title}: sizes of the {label_unit(experiment)} bought after round 0",
        f"runs of the lowest seed; in brackets: how many {label_unit(experiment)}", "outline: the whole pool",
    )  # fmt: skip
    return figure


def embedded(features_ND: npt.NDArray[Any]) -> Floats:
    """(N, 2): t-SNE of the features, the same for the same features."""
    perplexity = min(30.0, (len(features_ND) - 1) / 3)
    made = TSNE(perplexity=perplexity, random_state=seed("figures", "t-SNE") % 2**32).fit_transform(
        features_ND.astype(np.float32)
    )
    return np.asarray(made, np.float64)


@with_style
def pool_map(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """The pool's features by t-SNE, and on it what each strategy bought after round 0 (lowest seed), by round: Figure 5
    of ISAL.

    None: nothing was bought, or the gallery has fewer than five images or two features.
    """
    runs, row = lowest_seed_runs(experiment), gallery.row_by_position
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
    add_legend(figure, handles, [f"round {one}" for one in rounds])
    add_title(
        figure,
        f"{experiment.title}: what was bought",
        "t-SNE of round 0's features",
        f"{len(at_N2):,} of the pool's {max(run.header.num_pool for run in runs.values() if run.header):,} images",
        "runs of the lowest seed",
        free=1.0,
    )
    return figure


@with_style
def contact_sheet(experiment: Experiment, gallery: Gallery, strategy: str, per_round: int = 8) -> Figure | None:
    """The first images that a strategy bought in each round (lowest seed) of those that have a thumbnail, one row a
    round, boxes drawn in: Figure 6 of ISAL.

    None: it bought nothing after round 0, or none of that has a thumbnail.
    """
    run, row = lowest_seed_runs(experiment).get(strategy), gallery.row_by_position
    bought = {one.round: [row[place] for place in one.bought if place in row][:per_round] for one in run.records} \
        if run else {}  # fmt: skip
    bought = {number: rows for number, rows in bought.items() if rows}
    if not any(bought):
        return None
    high, wide = gallery.thumbs_NHW3.shape[1:3]
    gap = max(1, round(0.05 * wide))
    steps = (high + gap, wide + gap)
    sheet = np.full((len(bought) * steps[0] - gap, per_round * steps[1] - gap, 3), 255, np.uint8)
    figure = blank_figure(per_round * 0.9 + 0.9, len(bought) * 0.9 * high / wide + 0.8)
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
    add_title(figure, strategy, experiment.title, "the first images bought in each round", "run of the lowest seed")
    return figure


def draw_boxes(axes: Axes, gallery: Gallery, row: int, corner: tuple[int, int]) -> None:
    """Draws a thumbnail's boxes, whose upper left corner is at `corner` (x, y)."""
    boxes_K4 = gallery.drawn_K5[gallery.drawn_K5[:, 0] == row, 1:] if gallery.drawn_K5.size else np.zeros((0, 4))
    boxes_K4 = boxes_K4 + np.array([*corner, *corner]) - 0.5
    outlines_K52 = boxes_K4[:, [[0, 1], [2, 1], [2, 3], [0, 3], [0, 1]]]
    axes.add_collection(LineCollection(list(outlines_K52), colors="#FFFFFF", linewidths=1.8), autolim=False)
    axes.add_collection(LineCollection(list(outlines_K52), colors=PALETTE[4], linewidths=0.9), autolim=False)
