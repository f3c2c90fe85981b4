"""Strategies ranked over experiments: the penalty matrix and the diagram of mean ranks.

Shapes: A strategies, T experiments.
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
    """In how many experiments row beats column, rounds after the shared one counting in parts (Ash et al., 2020).

    Of experiments whose runs are told apart, stats.RANKED or more a strategy; strategies that do not pair are left out.
    A pair that no experiment has is empty. Below, the mean of each column. None: no experiment has two such strategies.
    """
    groups = [(one, group) for one in experiments if len(group := comparable_curves(one)) > 1]
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
    """Rounds before anything is selected: one, or none where a schedule starts from no label."""
    return int(experiment.schedule is None or experiment.schedule.initial > 0)


def comparable_curves(experiment: Experiment) -> list[Curve]:
    """The strategies of stats.RANKED runs or more, less those that do not pair with most others."""
    curves = [curve for curve in experiment.curves.values() if len(curve.seeds) >= stats.MIN_PAIRS]
    while curves:
        clashes = [sum(not can_pair(one, other) for other in curves) for one in curves]
        if not any(clashes):
            break
        curves.pop(max(range(len(curves)), key=lambda place: (clashes[place], place)))
    return curves


def can_pair(first: Curve, second: Curve) -> bool:
    """Whether the runs of two strategies pair."""
    try:
        stats.pair_runs(first, second)
    except ValueError:
        return False
    return True


def sum_penalties(groups: Sequence[tuple[Experiment, Sequence[Curve]]]) -> tuple[list[str], Floats]:
    """Names and (A, A) penalties, summed over experiments, each with those of its curves that pair; NaN where none has
    the pair."""
    names = list(dict.fromkeys(curve.strategy for _, group in groups for curve in group))
    total_AA = np.full((len(names), len(names)), np.nan)
    for one, group in groups:
        places = [names.index(curve.strategy) for curve in group]
        cells, higher_AA = np.ix_(places, places), stats.penalty_matrix(group, num_shared_rounds(one))
        wins_AA = higher_AA if one.metric.higher_is_better else higher_AA.T
        total_AA[cells] = np.where(np.isnan(wins_AA), total_AA[cells], np.nan_to_num(total_AA[cells]) + wins_AA)
    return names, total_AA


@with_style
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
    found = stats.rank_strategies(shared, scores_TA, [data_set for _, data_set in tables])
    wide, long = text_extent(map(wrap_name, shared))[0] + 0.6, max(3.6, 0.28 * len(shared))
    sides = split_ranks(found)
    deep = max(sum(0.05 + text_extent([wrap_name(name)])[1] for name in side) for side in sides) + 0.5
    figure = blank_figure(long + 2 * wide, deep + 1.5)
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
    fewer = f"no test: it takes {stats.MIN_DATA_SETS} data sets" * (found.num_data_sets < stats.MIN_DATA_SETS)
    add_title(figure, f"Mean rank over {over}", "1 is best", friedman or fewer)
    return figure


def split_ranks(ranks: stats.Ranks) -> tuple[dict[str, float], dict[str, float]]:
    """Strategies with their mean ranks: the better half, best first, and the other, worst first."""
    ordered = [(ranks.strategies[one], float(ranks.mean_A[one])) for one in np.argsort(ranks.mean_A, kind="stable")]
    half = (len(ordered) + 1) // 2
    return dict(ordered[:half]), dict(ordered[half:][::-1])


def mean_areas(experiment: Experiment) -> dict[str, float]:
    """The mean area over the runs by strategy, of those whose runs are all finished and have all rounds. Over the
    rounds, or, as verdicts are, over the range of cost that all have where rounds cost unequally; turned round where
    less is better. {}: there is none."""
    whole = {
        name: curve
        for name, curve in experiment.curves.items()
        if curve.num_runs == curve.num_planned and not curve.unfinished_seeds and np.isfinite(curve.value_SR).all()
    }
    kind, sign = "boxes" if experiment.counts_boxes else "images", experiment.metric.sign
    paid = [mean_over_runs(curve.cost[kind]) for curve in whole.values() if kind in curve.cost]
    if len(experiment.rounds) < 2 or all(np.array_equal(cost_R, paid[0], equal_nan=True) for cost_R in paid):
        rounds_R = np.array(experiment.rounds, np.float64)
        return {name: sign * stats.normalized_area(rounds_R, curve.mean_R) for name, curve in whole.items()}
    try:
        areas_A, *_ = stats.areas_at_equal_cost(np.stack(paid), np.stack([curve.mean_R for curve in whole.values()]))
        return dict(zip(whole, (sign * areas_A).tolist(), strict=True))
    except ValueError:  # no range, or one counts no boxes
        return {}


def cliques(ranks: stats.Ranks) -> list[tuple[float, float]]:
    """First and last rank of every largest group, of two or more, that lies within the critical difference."""
    ordered = sorted(map(float, ranks.mean_A))
    groups: list[tuple[float, float]] = []
    if math.isnan(ranks.critical_difference):
        return groups
    for place, low in enumerate(ordered):
        inside = [rank for rank in ordered[place:] if rank - low <= ranks.critical_difference]
        if len(inside) > 1 and not (groups and inside[-1] <= groups[-1][1]):
            groups.append((low, inside[-1]))
    return groups


def draw_ranks(axes: Axes, ranks: stats.Ranks) -> None:
    """Demšar's diagram less its names: the axis of ranks, the critical difference above, groups below; y in inches."""
    num = len(ranks.strategies)
    axes.plot([1, num], [0, 0], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, num + 1):
        axes.plot([rank, rank], [0, 0.05], color=INK, linewidth=1, clip_on=False)
        axes.text(rank, 0.08, str(rank), ha="center", va="bottom", fontsize=8)
    if math.isnan(ranks.critical_difference):
        return
    axes.plot([1, min(1 + ranks.critical_difference, num)], [0.4, 0.4], color=PALETTE[4], linewidth=2.5, clip_on=False)
    beyond = ", more than the axis" * (1 + ranks.critical_difference > num)
    axes.text(
        1, 0.47, f"critical difference {ranks.critical_difference:.2f}{beyond}", ha="left", va="bottom", fontsize=8
    )
    for level, ends in enumerate(cliques(ranks)):
        axes.plot(ends, [-0.1 - 0.07 * level] * 2, color=INK, linewidth=3, solid_capstyle="round", clip_on=False)


def draw_names(axes: Axes, ranks: Mapping[str, float], left: bool, top: float) -> None:
    """Names on one side, joined to their ranks, from `top` inches down."""
    edge = axes.get_xlim()[not left]
    for name, rank in ranks.items():
        label = wrap_name(name)
        depth = top - ROW_HEIGHT * (1 + label.count("\n")) / 2
        top -= ROW_HEIGHT * (1 + label.count("\n")) + 0.05
        axes.plot([rank, rank, edge], [0, depth, depth], color="#888888", linewidth=0.8, clip_on=False)
        text = f"{label}  {rank:.2f} " if left else f" {rank:.2f}  {label}"
        axes.text(edge, depth, text, ha="right" if left else "left", va="center", fontsize=8)
