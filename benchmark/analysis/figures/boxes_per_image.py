"""The figure of the boxes on the images that strategies buy: which pay more for an image than random does.

Shapes: S runs (seeds), R rounds.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmark.analysis.curves import Curve, Experiment, Floats, mean_over_runs
from benchmark.analysis.figures.curves import runs_note
from benchmark.analysis.figures.style import (
    StrategyStyles,
    add_legend,
    add_title,
    legend_width,
    single_plot,
    strategy_label,
    with_style,
)


def bought_boxes_per_image(curve: Curve, has_initial_set: bool) -> Floats:
    """(S, R): the boxes on each image bought in a round, the mean over these images.

    NaN where nothing was bought, and for an initial set, which no strategy selects.
    """
    boxes_SR, images_SR = (np.diff(curve.cost[kind], axis=1, prepend=0.0) for kind in ("boxes", "images"))
    if has_initial_set:
        boxes_SR[:, :1] = np.nan
    ratio_SR: Floats = np.divide(boxes_SR, images_SR, out=np.full(boxes_SR.shape, np.nan), where=images_SR > 0)
    return ratio_SR


@with_style
def boxes_per_image(experiment: Experiment, styles: StrategyStyles) -> Figure | None:
    """Draws the mean number of boxes on an image that each strategy bought, by round (Figure 9 of GEAL's slides).

    Returns:
        The figure; None if boxes are not counted, or nothing was bought after the initial set.
    """
    has_initial_set = experiment.schedule is None or experiment.schedule.initial > 0
    means = {
        name: mean_over_runs(bought_boxes_per_image(curve, has_initial_set))
        for name, curve in experiment.curves.items()
        if {"boxes", "images"} <= curve.cost.keys()
    }
    means = {name: mean_R for name, mean_R in means.items() if np.isfinite(mean_R).any()}
    if not means:
        return None
    curves = [experiment.curves[name] for name in means]
    labels = [strategy_label(curve) for curve in curves]
    figure, axes = single_plot(labels)
    lines = [
        axes.plot(
            mean_over_runs(curve.num_labelled_SR), means[curve.strategy], **styles[curve.strategy].line_arguments
        )[0]
        for curve in curves
    ]
    axes.set(xlabel="labelled images", ylabel="boxes on an image of this purchase", ylim=(0, None))
    add_title(figure, f"{experiment.title}: boxes per bought image", runs_note(curves), free=legend_width(labels))
    add_legend(figure, lines, labels)
    return figure
