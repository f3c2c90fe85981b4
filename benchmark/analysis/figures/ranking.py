"""Figures that rank strategies over experiments: the penalty matrix and the diagram of mean ranks.

Shapes: A strategies, T experiments, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.analysis import stats
from benchmark.analysis.curves import Curve, Experiment, Floats, mean_over_runs
from benchmark.analysis.figures.style import (
    INK,
    PALETTE,
    ROW_HEIGHT,
    add_title,
    blank_figure,
    draw_heat_map,
    label_heat_map,
    numbered_names,
    row_pitch,
    text_extent,
    with_style,
)
from benchmark.text.words import plural, wrap_name


@with_style
def penalty_matrix(experiments: Sequence[Experiment]) -> Figure | None:
    """Draws in how many experiments the row beats the column; each round counts as a fraction (Ash et al., 2020).

    Experiments count if their runs are recorded, with `stats.MIN_PAIRS` or more runs per strategy. Strategies that do
    not pair are left out. A pair that is in no experiment has an empty cell. The last row is the mean of each column.

    Returns:
        The figure; None if no experiment has two such strategies.
    """
    groups = [(experiment, group) for experiment in experiments if len(group := comparable_curves(experiment)) > 1]
    names, wins_AA = sum_penalties(groups)
    if not np.isfinite(wins_AA[~np.eye(len(names), dtype=bool)]).any():
        return None
    others_AA = np.where(np.eye(len(names), dtype=bool), np.nan, wins_AA)
    rows = np.concatenate([others_AA, [mean_over_runs(others_AA)]])
    labels = [*numbered_names(names), "mean: how often it is beaten"]
    figure = blank_figure(text_extent(labels)[0] + 0.45 * len(names) + 0.5, row_pitch(labels, 0.32) * len(labels) + 1.3)
    axes = figure.add_subplot()
    draw_heat_map(axes, rows, max(1.0, float(np.nanmax(rows))))
    axes.axhline(len(names) - 0.5, color="white", linewidth=3)
    label_heat_map(axes, labels, len(names))
    axes.set_xlabel("loses")
    add_title(
        figure, "Row beats column: share of rounds",
        f"paired t-tests at 5 %, summed over {plural(len(groups), 'experiment')}", "by chance 0.025 in each experiment",
        "single rounds, not corrected: the verdicts are in the tables",
    )  # fmt: skip
    return figure


def num_shared_rounds(experiment: Experiment) -> int:
    """The number of rounds before any selection: 1, or 0 where a schedule starts without labels."""
    return int(experiment.schedule is None or experiment.schedule.initial > 0)


def comparable_curves(experiment: Experiment) -> list[Curve]:
    """The curves of `stats.MIN_PAIRS` runs or more, without those that do not pair with most others."""
    curves = [curve for curve in experiment.curves.values() if len(curve.seeds) >= stats.MIN_PAIRS]
    while curves:
        num_clashes = [sum(not can_pair(curve, other) for other in curves) for curve in curves]
        if not any(num_clashes):
            break
        curves.pop(max(range(len(curves)), key=lambda number: (num_clashes[number], number)))
    return curves


def can_pair(first: Curve, second: Curve) -> bool:
    """Whether the runs of two strategies pair."""
    try:
        stats.pair_runs(first, second)
    except ValueError:
        return False
    return True


def sum_penalties(groups: Sequence[tuple[Experiment, Sequence[Curve]]]) -> tuple[list[str], Floats]:
    """Sums the penalties over experiments.

    Args:
        groups: each experiment with its comparable curves.

    Returns:
        The names of the strategies, and (A, A) penalties; NaN for a pair that is in no experiment.
    """
    names = list(dict.fromkeys(curve.strategy for _, group in groups for curve in group))
    total_AA = np.full((len(names), len(names)), np.nan)
    for experiment, group in groups:
        indices = [names.index(curve.strategy) for curve in group]
        cells, higher_AA = np.ix_(indices, indices), stats.penalty_matrix(group, num_shared_rounds(experiment))
        wins_AA = higher_AA if experiment.metric.higher_is_better else higher_AA.T
        total_AA[cells] = np.where(np.isnan(wins_AA), total_AA[cells], np.nan_to_num(total_AA[cells]) + wins_AA)
    return names, total_AA


@with_style
def rank_diagram(experiments: Sequence[Experiment]) -> Figure | None:
    """Draws mean ranks over data sets, by the area under the curve (Demšar, 2006).

    From `stats.MIN_DATA_SETS` data sets on, it shows Nemenyi's critical difference, and bars join strategies that are
    not shown to differ. It ranks the strategies that all experiments share; an experiment without records is left out.

    Returns:
        The figure; None for fewer than two experiments or two shared strategies.
    """
    tables = [(areas, experiment.data_set) for experiment in experiments if (areas := mean_areas(experiment))]
    shared = [name for name in tables[0][0] if all(name in areas for areas, _ in tables)] if tables else []
    if len(tables) < 2 or len(shared) < 2:
        return None
    scores_TA = np.array([[areas[name] for name in shared] for areas, _ in tables])
    ranks = stats.rank_strategies(shared, scores_TA, [data_set for _, data_set in tables])
    margin, length = text_extent(map(wrap_name, shared))[0] + 0.6, max(3.6, 0.28 * len(shared))
    sides = split_ranks(ranks)
    depth = max(sum(0.05 + text_extent([wrap_name(name)])[1] for name in side) for side in sides) + 0.5
    top = 0.3 if math.isnan(ranks.critical_difference) else 0.75  # room for the critical difference
    figure = blank_figure(length + 2 * margin, depth + top + 0.75)
    figure.set_layout_engine("none")  # names stand outside the axes
    width, height = figure.get_size_inches()
    axes = figure.add_axes((margin / width, 0.02, length / width, (depth + top) / height))
    axes.set(xlim=(1, len(shared)), ylim=(-depth, top))
    axes.set_axis_off()
    draw_ranks(axes, ranks)
    for side, left in zip(sides, (True, False), strict=True):
        draw_names(axes, side, left, -0.2 - 0.07 * len(cliques(ranks)))
    friedman = "" if math.isnan(ranks.p) else f"Friedman's p = {ranks.p:.2g}"
    several = f", {len(tables)} experiments" * (len(tables) > ranks.num_data_sets)
    data_sets = plural(ranks.num_data_sets, "data set") + several
    few = f"no test: it takes {stats.MIN_DATA_SETS} data sets" * (ranks.num_data_sets < stats.MIN_DATA_SETS)
    add_title(figure, f"Mean rank over {data_sets}", "1 is best", friedman or few)
    return figure


def split_ranks(ranks: stats.Ranks) -> tuple[dict[str, float], dict[str, float]]:
    """Strategies with their mean ranks: the better half, best first, and the worse half, worst first."""
    order = np.argsort(ranks.mean_A, kind="stable")
    ordered = [(ranks.strategies[index], float(ranks.mean_A[index])) for index in order]
    half = (len(ordered) + 1) // 2
    return dict(ordered[:half]), dict(ordered[half:][::-1])


def mean_areas(experiment: Experiment) -> dict[str, float]:
    """The area under the mean curve by strategy, for strategies whose runs all have all rounds; higher is better.

    Areas are over the rounds, or, as for the verdicts, over the range of cost that all strategies have where rounds
    cost unequally. {} if there is none. The sign is changed where a lower score is better.
    """
    complete = {
        name: curve
        for name, curve in experiment.curves.items()
        if curve.num_runs == curve.num_planned and not curve.unfinished_seeds and np.isfinite(curve.value_SR).all()
    }
    kind, sign = "boxes" if experiment.counts_boxes else "images", experiment.metric.sign
    costs = [mean_over_runs(curve.cost[kind]) for curve in complete.values() if kind in curve.cost]
    if len(experiment.rounds) < 2 or all(np.array_equal(cost_R, costs[0], equal_nan=True) for cost_R in costs):
        rounds_R = np.array(experiment.rounds, np.float64)
        return {name: sign * stats.normalized_area(rounds_R, curve.mean_R) for name, curve in complete.items()}
    values_AR = np.stack([curve.mean_R for curve in complete.values()])
    try:
        areas_A, *_ = stats.areas_at_equal_cost(np.stack(costs), values_AR)
        return dict(zip(complete, (sign * areas_A).tolist(), strict=True))
    except ValueError:  # they have no range of cost in common, or one of them counts no boxes
        return {}


def cliques(ranks: stats.Ranks) -> list[tuple[float, float]]:
    """First and last rank of each maximal group of two or more strategies within the critical difference."""
    ordered = sorted(map(float, ranks.mean_A))
    groups: list[tuple[float, float]] = []
    if math.isnan(ranks.critical_difference):
        return groups
    for number, first in enumerate(ordered):
        group = [rank for rank in ordered[number:] if rank - first <= ranks.critical_difference]
        if len(group) > 1 and not (groups and group[-1] <= groups[-1][1]):
            groups.append((first, group[-1]))
    return groups


def draw_ranks(axes: Axes, ranks: stats.Ranks) -> None:
    """Draws Demšar's diagram without names: the axis of ranks, the critical difference above it, groups below it.

    y is in inches.
    """
    num_strategies, critical = len(ranks.strategies), ranks.critical_difference
    axes.plot([1, num_strategies], [0, 0], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, num_strategies + 1):
        axes.plot([rank, rank], [0, 0.05], color=INK, linewidth=1, clip_on=False)
        axes.text(rank, 0.08, str(rank), ha="center", va="bottom", fontsize=8)
    if math.isnan(critical):
        return
    axes.plot([1, min(1 + critical, num_strategies)], [0.4, 0.4], color=PALETTE[4], linewidth=2.5, clip_on=False)
    beyond = ", more than the axis" * (1 + critical > num_strategies)
    axes.text(1, 0.47, f"critical difference {critical:.2f}{beyond}", ha="left", va="bottom", fontsize=8)
    for level, ends in enumerate(cliques(ranks)):
        axes.plot(ends, [-0.1 - 0.07 * level] * 2, color=INK, linewidth=3, solid_capstyle="round", clip_on=False)


def draw_names(axes: Axes, ranks: Mapping[str, float], left: bool, top: float) -> None:
    """Draws the names of one side, with lines to their ranks, from `top` inches downwards."""
    edge = axes.get_xlim()[not left]
    for name, rank in ranks.items():
        label = wrap_name(name)
        depth = top - ROW_HEIGHT * (1 + label.count("\n")) / 2
        top -= ROW_HEIGHT * (1 + label.count("\n")) + 0.05
        axes.plot([rank, rank, edge], [0, depth, depth], color="#888888", linewidth=0.8, clip_on=False)
        text = f"{label}  {rank:.2f} " if left else f" {rank:.2f}  {label}"
        axes.text(edge, depth, text, ha="right" if left else "left", va="center", fontsize=8)
