"""Every figure that the records can give, by the name of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.curves import learning_curves, savings_curve
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.figures.ranking import penalty_matrix, rank_diagram
from benchmark.analysis.figures.seconds import selection_seconds
from benchmark.analysis.figures.selections import (
    bought_classes,
    bought_sizes,
    contact_sheet,
    overlap_heat_maps,
    pool_map,
)
from benchmark.analysis.figures.style import strategy_styles
from benchmark.text.words import slug


def draw_figures(experiments: Sequence[Experiment], galleries: Mapping[str, Gallery]) -> dict[str, Figure]:
    """Every figure that the data can give, by file stem; galleries by title of the experiment.

    Savings are against the reference of each experiment. ValueError where a gallery is of another pool.
    """
    looks = strategy_styles(name for one in experiments for name in one.curves)
    found: dict[str, Figure | None] = {}
    for one in experiments:
        stem = slug(one.title)
        found |= {f"{stem}-curves-{axis}": learning_curves(one, looks, axis) for axis in ("images", "boxes")}
        found[f"{stem}-savings"] = savings_curve(one, looks, one.reference) if one.reference else None
        found[f"{stem}-overlap"] = overlap_heat_maps(one)
        found[f"{stem}-seconds"] = selection_seconds(one, looks)
        if one.title in galleries:
            found |= {
                f"{stem}-{name}": figure for name, figure in draw_gallery_figures(one, galleries[one.title]).items()
            }
    found |= {"penalties": penalty_matrix(experiments), "ranks": rank_diagram(experiments)}
    return {stem: figure for stem, figure in found.items() if figure is not None}


def draw_gallery_figures(experiment: Experiment, gallery: Gallery) -> dict[str, Figure | None]:
    """The figures that need a gallery."""
    made = {
        "classes": bought_classes(experiment, gallery),
        "sizes": bought_sizes(experiment, gallery),
        "pool": pool_map(experiment, gallery),
    }
    return made | {f"bought-{slug(name)}": contact_sheet(experiment, gallery, name) for name in experiment.curves}
