"""Draws all figures that the data of a results folder suffice for.

A new figure is drawn in a module beside this one and called here; its caption is in `analysis/report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.boxes_per_image import boxes_per_image
from benchmark.analysis.figures.classes import class_differences
from benchmark.analysis.figures.curves import learning_curves, savings_curve
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.figures.labels_needed import labels_needed
from benchmark.analysis.figures.ranking import penalty_matrix, rank_diagram
from benchmark.analysis.figures.seconds import selection_seconds
from benchmark.analysis.figures.selections import (
    bought_classes,
    bought_overlaps,
    bought_sizes,
    contact_sheet,
    overlap_heat_maps,
    pool_map,
)
from benchmark.analysis.figures.style import strategy_styles
from benchmark.text.words import slug


def draw_figures(
    experiments: Sequence[Experiment], galleries: Mapping[str, Gallery], number: int | None = None, level: float = 0.95
) -> dict[str, Figure]:
    """Draws all figures of these experiments. Savings are against the reference of each experiment.

    Args:
        experiments: recorded or published.
        galleries: the images of the pools, by title of the experiment.
        number: the round of the scores of single classes, None: the last one; and of the map of the pool, None: 0.
        level: the confidence level of their intervals.

    Returns:
        The figures by the stem of their files.

    Raises:
        ValueError: a gallery is of another pool.
    """
    styles = strategy_styles(name for experiment in experiments for name in experiment.curves)
    figures: dict[str, Figure | None] = {}
    for experiment in experiments:
        stem = slug(experiment.title)
        figures |= {f"{stem}-curves-{axis}": learning_curves(experiment, styles, axis) for axis in ("images", "boxes")}
        figures[f"{stem}-density"] = boxes_per_image(experiment, styles)
        if experiment.reference:
            figures[f"{stem}-labels_needed"] = labels_needed(experiment, experiment.reference, level)
            figures[f"{stem}-savings"] = savings_curve(experiment, styles, experiment.reference)
        figures[f"{stem}-class_scores"] = class_differences(experiment, number, level)
        figures[f"{stem}-overlap"] = overlap_heat_maps(experiment)
        figures[f"{stem}-seconds"] = selection_seconds(experiment, styles)
        if gallery := galleries.get(experiment.title):
            of_gallery = draw_gallery_figures(experiment, gallery, number)
            figures |= {f"{stem}-{name}": figure for name, figure in of_gallery.items()}
    figures |= {"penalties": penalty_matrix(experiments), "ranks": rank_diagram(experiments)}
    return {stem: figure for stem, figure in figures.items() if figure is not None}


def draw_gallery_figures(
    experiment: Experiment, gallery: Gallery, number: int | None = None
) -> dict[str, Figure | None]:
    """Draws the figures of what was bought, by the last part of their stems."""
    figures = {
        "classes": bought_classes(experiment, gallery),
        "sizes": bought_sizes(experiment, gallery),
        "overlaps": bought_overlaps(experiment, gallery),
        "pool": pool_map(experiment, gallery, number),
    }
    return figures | {f"bought-{slug(name)}": contact_sheet(experiment, gallery, name) for name in experiment.curves}
