"""Figures of what strategies bought: overlap, classes, sizes, positions in the pool, and the images themselves.

Shapes: A strategies, S runs (seeds), N images with a thumbnail, K boxes on one image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.analysis.bought_boxes import label_unit, selected_images
from benchmark.analysis.curves import Experiment, Floats, Run, mean_over_runs
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.figures.pool_features import read_pool_features
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
from benchmark.analysis.figures.tsne import tsne_positions
from benchmark.text.escaping import make_visible
from benchmark.text.words import shorten_names

MAX_HEAT_MAPS, MANY_STRATEGIES = 4, 12  # the last rounds, in the figure of overlaps: of many strategies only one
MAX_NAMED_CLASSES = 20  # more classes are numbered
MAX_CLASS_NAME = 24  # characters
LONGEST_LEVEL_NAME = 2  # characters: longer names of classes are turned by 90 degrees
MAX_VECTOR_DOTS = 200  # bought in one round: more are drawn as pixels
NO_OVERLAP = 0.05  # width of the bar of boxes that overlap none, in the figure of overlaps


def lowest_seed_runs(experiment: Experiment) -> dict[str, Run]:
    """By strategy, the run of the lowest seed that bought something after round 0."""
    runs: dict[str, Run] = {}
    for run in sorted((run for run in experiment.runs if selected_images(run)), key=lambda run: run.seed):
        runs.setdefault(run.strategy, run)
    return {name: runs[name] for name in experiment.curves if name in runs}


def selection_rounds(runs: Iterable[Run]) -> list[int]:
    """The rounds after round 0 that at least one of these runs has."""
    return sorted({record.round for run in runs for record in run.records if record.round})


def jaccard_overlaps(experiment: Experiment, names: Sequence[str], last: int) -> Floats:
    """(A, A): Jaccard's overlap of what two strategies bought after round 0 and up to round `last`.

    It is the mean over the seeds whose runs of both strategies have that round; NaN if there is no such seed.
    """
    images = {
        (run.strategy, run.seed): set(selected_images(run, last))
        for run in experiment.runs
        if any(record.round == last for record in run.records)
    }
    seeds = sorted({number for _, number in images})
    values_SAA = np.full((len(seeds), len(names), len(names)), np.nan)
    for index in np.ndindex(*values_SAA.shape):
        first, second = (images.get((names[column], seeds[index[0]]), set()) for column in index[1:])
        if first and second:
            values_SAA[index] = len(first & second) / len(first | second)
    return mean_over_runs(values_SAA.reshape(len(seeds), len(names) ** 2)).reshape(len(names), len(names))


@with_style
def overlap_heat_maps(experiment: Experiment) -> Figure | None:
    """Draws Jaccard's overlap between all that strategies bought after round 0: a heat map for each of the last rounds.

    Returns:
        The figure; None if fewer than two strategies bought something.
    """
    names = list(lowest_seed_runs(experiment))
    if len(names) < 2:
        return None
    rounds = selection_rounds(experiment.runs)[-(MAX_HEAT_MAPS if len(names) <= MANY_STRATEGIES else 1) :]
    columns = min(2, len(rounds))
    labels = numbered_names(names)
    rows = math.ceil(len(rounds) / columns)
    width, height = max(0.34 * len(names), 1.6), max(row_pitch(labels, 0.3) * len(names), 1.2)
    figure = blank_figure(text_extent(labels)[0] + columns * (width + 0.2) + 0.5, rows * (height + 0.5) + 0.8)
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
    """Counts in per cent of their sum; zeros if the sum is zero."""
    return np.asarray(100 * counts / max(counts.sum(), 1))


def draw_histogram(axes: Axes, edges: Floats, counts: npt.NDArray[Any], pool: npt.NDArray[Any]) -> None:
    """Draws a histogram in per cent, and that of the whole pool as an outline."""
    axes.bar(edges[:-1], percentages(counts), np.diff(edges), align="edge", color=BLUE, alpha=0.75, linewidth=0)
    axes.stairs(percentages(pool), edges, color=INK, linewidth=0.9)


@with_style
def bought_classes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Draws the shares of the classes in what each strategy bought after round 0, in its run of the lowest seed.

    The unit is images, boxes or regions.

    Returns:
        The figure; None if nothing was bought, or the gallery has no classes.
    """
    num_classes = len(gallery.classes_C)
    pool = gallery.labels_P if len(gallery.labels_P) else gallery.box_class_M
    classes = {name: gallery.classes_of(selected_images(run)) for name, run in lowest_seed_runs(experiment).items()}
    if not classes or not len(pool):
        return None
    unit = "images" if len(gallery.labels_P) else label_unit(experiment)
    titles = [f"{name} ({len(labels)})" for name, labels in classes.items()]
    figure, grid = panels(titles, 3, 2.6, 1.35, sharex=True, sharey=True)
    edges = np.arange(num_classes + 1, dtype=np.float64) - 0.5
    pool_counts = np.bincount(pool, minlength=num_classes)
    for axes, labels in zip(grid, classes.values(), strict=True):
        draw_histogram(axes, edges, np.bincount(labels, minlength=num_classes), pool_counts)
    name_classes(figure, grid, gallery)
    figure.supylabel(f"% of {unit}", fontsize=9)
    add_title(
        figure,
        f"{experiment.title}: classes bought after round 0",
        f"runs of the lowest seed; in brackets: how many {unit}",
        "outline: the whole pool",
    )
    return figure


def name_classes(figure: Figure, grid: Sequence[Axes], gallery: Gallery) -> None:
    """Writes the names of the classes below the plots; many classes are numbered instead."""
    num_classes = len(gallery.classes_C)
    if num_classes > MAX_NAMED_CLASSES:
        grid[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.supxlabel("number of the class, from 0, in the order of the data set", fontsize=9)
        return
    names = shorten_names([make_visible(str(name)) for name in gallery.classes_C], MAX_CLASS_NAME)
    grid[0].set_xticks(range(num_classes), names)
    is_level = max(map(len, names)) <= LONGEST_LEVEL_NAME
    if not is_level:
        figure.set_figheight(figure.get_figheight() + text_extent(names)[0] * math.ceil(len(grid) / 3))
    for axes in grid:
        axes.tick_params("x", labelrotation=0 if is_level else 90, labelsize=7, length=0)


@with_style
def bought_sizes(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Draws the sizes of the boxes or regions that each strategy bought after round 0, in its run of the lowest seed.

    A size is the square root of the area in pixels; a bar is a share in per cent.

    Returns:
        The figure; None if nothing was bought, or images have one label each.
    """
    edges = np.histogram_bin_edges(gallery.box_side_M, 24).astype(np.float64)
    return draw_boxes_bought(experiment, gallery, gallery.box_side_M, edges, "sizes", "root of the area (pixels)")


@with_style
def bought_overlaps(experiment: Experiment, gallery: Gallery) -> Figure | None:
    """Draws how far the boxes that each strategy bought after round 0 overlap another box of their image.

    The first bar are boxes that overlap none.

    Returns:
        The figure; None if nothing was bought, or no box of the pool overlaps another, as far as the gallery knows.
    """
    if not gallery.box_overlap_M.any():
        return None
    edges = np.linspace(-NO_OVERLAP, 1, 22, dtype=np.float64)
    values_M = np.where(gallery.box_overlap_M > 0, gallery.box_overlap_M, -NO_OVERLAP / 2)
    label = "largest IoU with another box of the image"
    figure = draw_boxes_bought(experiment, gallery, values_M, edges, "overlaps", label)
    for axes in figure.axes if figure is not None else ():
        axes.set_xticks([-NO_OVERLAP / 2, 0.25, 0.5, 0.75, 1], ["none", "0.25", "0.5", "0.75", "1"])
    return figure


def draw_boxes_bought(
    experiment: Experiment, gallery: Gallery, values_M: npt.NDArray[Any], edges: Floats, what: str, label: str
) -> Figure | None:
    """Draws the histogram of a property of boxes: of those that each strategy bought, and of the whole pool.

    Args:
        experiment: whose purchases are drawn.
        gallery: of its pool.
        values_M: the property of each box of the pool; empty if it is not known.
        edges: of the bins.
        what: the name of the property, in the title.
        label: of the axis.
    """
    values = {
        name: values_M[np.isin(gallery.box_image_M, selected_images(run))]
        for name, run in lowest_seed_runs(experiment).items()
        if len(values_M)
    }
    if not values:
        return None
    titles, unit = [f"{name} ({len(own)})" for name, own in values.items()], label_unit(experiment)
    figure, grid = panels(titles, 3, 2.6, 1.35, sharex=True, sharey=True)
    pool_counts = np.histogram(values_M, edges)[0]
    for axes, own in zip(grid, values.values(), strict=True):
        draw_histogram(axes, edges, np.histogram(own, edges)[0], pool_counts)
    figure.supylabel(f"% of {unit}", fontsize=9)
    figure.supxlabel(label, fontsize=9)
    add_title(
        figure, f"{experiment.title}: {what} of the {unit} bought after round 0",
        f"runs of the lowest seed; in brackets: how many {unit}", "outline: the whole pool",
    )  # fmt: skip
    return figure


@with_style
def pool_map(experiment: Experiment, gallery: Gallery, number: int | None = None) -> Figure | None:
    """Draws the pool by t-SNE of its features, and in colour what each strategy bought by round (Figure 5 of ISAL).

    It shows the purchases after round 0 of each strategy's run of the lowest seed.

    Args:
        experiment: whose purchases are drawn.
        gallery: has the features of some images by the model of round 0.
        number: a round whose features of the whole pool are drawn where a run stored them.

    Returns:
        The figure; None if nothing was bought, or there are features of fewer than five images, or fewer than two.
    """
    runs = lowest_seed_runs(experiment)
    features = read_pool_features(experiment, number or 0)
    if features is not None:
        names = {str(name): int(model) for name, model in zip(features.strategies_A, features.model_A, strict=True)}
        runs = {name: run for name, run in runs.items() if name in names}
        positions_N, features_MND = features.positions_N, features.features_MND
    else:
        names, positions_N = dict.fromkeys(runs, 0), gallery.shown_N
        features_MND = gallery.features_ND[None].astype(np.float32)
    if not runs or features_MND.shape[1] < 5 or features_MND.shape[2] < 2:
        return None
    layouts = {model: tsne_positions(features_MND[model]) for model in {names[name] for name in runs}}
    row_by_position = {int(position): row for row, position in enumerate(positions_N)}
    rounds = selection_rounds(runs.values())
    colours = dict(zip(rounds, matplotlib.colormaps["plasma"](np.linspace(0, 0.85, len(rounds))), strict=True))
    figure, grid = panels(list(runs), 4, 2.2, 2.1)
    for axes, (name, run) in zip(grid, runs.items(), strict=True):
        draw_purchases(axes, layouts[names[name]], row_by_position, run, colours)
    num_pool = max(run.header.num_pool for run in runs.values() if run.header)
    handles = [Line2D([], [], color=colours[number], marker="o", linestyle="") for number in rounds]
    figure.set_figwidth(figure.get_figwidth() + 1)
    add_legend(figure, handles, [f"round {number}" for number in rounds])
    add_title(
        figure,
        f"{experiment.title}: what was bought",
        f"t-SNE of round {number if features is not None and number else 0}'s features",
        "each strategy's own model" * (len(layouts) > 1),
        f"{len(positions_N):,} of the pool's {num_pool:,} images",
        "runs of the lowest seed",
        free=1.0,
    )
    return figure


def draw_purchases(
    axes: Axes, xy_N2: Floats, row_by_position: Mapping[int, int], run: Run, colours: Mapping[int, Any]
) -> None:
    """Draws a pool, and in colour what a run bought in each round; the more images, the smaller their dots."""
    shrink = min(1.0, (1_000 / len(xy_N2)) ** 0.5)
    axes.scatter(xy_N2[:, 0], xy_N2[:, 1], s=3 * shrink, color=FAINT, linewidth=0, rasterized=True)
    for record in run.records:
        rows = [row_by_position[position] for position in record.bought if position in row_by_position]
        if rows and record.round:
            colour, many = colours[record.round], len(rows) > MAX_VECTOR_DOTS
            axes.scatter(xy_N2[rows, 0], xy_N2[rows, 1], s=9 * shrink, color=[colour], linewidth=0, rasterized=many)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@with_style
def contact_sheet(experiment: Experiment, gallery: Gallery, strategy: str, per_round: int = 8) -> Figure | None:
    """Draws the first images that a strategy bought, a row for each round, with their boxes (Figure 6 of ISAL).

    It shows images that have a thumbnail, from the run of the lowest seed.

    Returns:
        The figure; None if the strategy bought nothing after round 0, or none of that has a thumbnail.
    """
    run, row_by_position = lowest_seed_runs(experiment).get(strategy), gallery.row_by_position
    rows_by_round = dict[int, list[int]]()
    for record in run.records if run else []:
        rows = [row_by_position[position] for position in record.bought if position in row_by_position]
        if rows:
            rows_by_round[record.round] = rows[:per_round]
    if not any(rows_by_round):
        return None
    height, width = gallery.thumbs_NHW3.shape[1:3]
    gap = max(1, round(0.05 * width))
    steps = (height + gap, width + gap)
    sheet = np.full((len(rows_by_round) * steps[0] - gap, per_round * steps[1] - gap, 3), 255, np.uint8)
    figure = blank_figure(per_round * 0.9 + 0.9, len(rows_by_round) * 0.9 * height / width + 0.8)
    axes = figure.add_subplot()
    for line, rows in enumerate(rows_by_round.values()):
        for column, row in enumerate(rows):
            top, left = line * steps[0], column * steps[1]
            sheet[top : top + height, left : left + width] = gallery.thumbs_NHW3[row]
            draw_boxes(axes, gallery, row, (left, top))
    axes.imshow(sheet)
    labels = [f"round {number}" if number else "initial" for number in rows_by_round]
    axes.set_yticks([line * steps[0] + height / 2 for line in range(len(labels))], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    add_title(figure, strategy, experiment.title, "the first images bought in each round", "run of the lowest seed")
    return figure


def draw_boxes(axes: Axes, gallery: Gallery, row: int, corner: tuple[int, int]) -> None:
    """Draws the boxes of a thumbnail whose upper left corner is at `corner` (x, y)."""
    boxes_K4 = gallery.drawn_K5[gallery.drawn_K5[:, 0] == row, 1:] if gallery.drawn_K5.size else np.zeros((0, 4))
    boxes_K4 = boxes_K4 + np.array([*corner, *corner]) - 0.5
    outlines_K52 = boxes_K4[:, [[0, 1], [2, 1], [2, 3], [0, 3], [0, 1]]]
    axes.add_collection(LineCollection(list(outlines_K52), colors="#FFFFFF", linewidths=1.8), autolim=False)
    axes.add_collection(LineCollection(list(outlines_K52), colors=PALETTE[4], linewidths=0.9), autolim=False)
