"""The figures of docs/statistics.md, drawn from the results of the simulations in the common style."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.analysis.figures.style import (
    FAINT,
    INK,
    PALETTE,
    add_title,
    draw_heat_map,
    label_heat_map,
    with_style,
)
from benchmark.text.words import plural
from tools.simulated_runs import SimulationResults
from tools.statistics_plots import (
    ALPHA,
    BLUE,
    GREEN,
    RED,
    add_legend_and_title,
    column_values,
    dashed_line,
    draw_series,
    draw_stacked_bars,
    legend_patches,
    plot_row,
    unique_values,
)


@with_style
def pairing(results: SimulationResults) -> Figure:
    """Draws the seeds of one comparison, and how often paired and unpaired intervals find a difference."""
    rows, example = results["rows"], results["example"]
    seeds = unique_values(rows, "seeds")
    labels = [f"{number} seeds, {kind}" for number in seeds for kind in ("paired", "not paired")]
    figure, (left, right) = plot_row(["one comparison of six seeds", "how often a difference is found"], labels)
    for first, second in zip(example["first"], example["second"], strict=True):
        left.plot([0, 1], [second, first], color=BLUE, marker="o", linewidth=1)
    left.set(xlim=(-0.3, 1.3), xticks=[0, 1], xticklabels=["strategy B", "strategy A"], ylabel="accuracy")
    handles = []
    for place, number in enumerate(seeds):
        for name, dashes in (("found", "-"), ("found_unpaired", ":")):
            heights = column_values(rows, name, seeds=number)
            handles.append(draw_series(right, unique_values(rows, "correlation"), heights, place, linestyle=dashes))
    right.set(xlabel="correlation of the two over seeds", ylabel="share of simulations", ylim=(0, 1.03))
    add_legend_and_title(
        figure, handles, labels, "Pairs of equal seeds share their luck",
        "a line is a seed; true difference: 1.5 standard deviations",
    )  # fmt: skip
    return figure


@with_style
def sign_flips(results: SimulationResults) -> Figure:
    """Draws all sign flips of one comparison, and the error rate by the distribution of the differences."""
    rows, example = results["rows"], results["example"]
    labels = unique_values(rows, "shape")
    figure, (left, right) = plot_row(["all 64 sign flips of six differences", "false verdicts"], labels)
    left.hist(example["flips"], 17, color=FAINT)
    for side in (-1, 1):
        left.axvline(side * example["mean"], color=RED, linewidth=1.6)
    left.set(xlabel="mean difference under a flip", ylabel="flips")
    handles = [
        draw_series(right, unique_values(rows, "seeds"), column_values(rows, "rejected", shape=name), place)
        for place, name in enumerate(labels)
    ]
    dashed_line(right, ALPHA)
    right.set(xlabel="seeds", ylabel="share of simulations", ylim=(0, None))
    note = f"red: the mean that was seen, and its opposite; as far out or further: p = {example['p']:.3g}"
    add_legend_and_title(
        figure, handles, labels, "Which sign flips give as large a mean?", note, "dashed: the promised 0.05"
    )
    return figure


@with_style
def seeds_needed(results: SimulationResults) -> Figure:
    """Draws the power over the number of seeds, among nine comparisons."""
    rows, example = [row for row in results["rows"] if row["comparisons"] == 9], results["example"]
    labels = [f"difference {row['difference']:g}" for row in rows]
    figure, [axes] = plot_row(["nine comparisons in a table"], labels)
    handles = [
        draw_series(axes, example["seeds"], example["power"][str(row["difference"])], place, markersize=4)
        for place, row in enumerate(rows)
    ]
    dashed_line(axes, 0.8)
    least = rows[0]["possible"]
    axes.axvspan(example["seeds"][0], least - 0.5, color="#eeeeee", linewidth=0)
    axes.text(least - 0.8, 0.93, "nothing can\nbe decided", ha="right", va="top", fontsize=8)
    axes.set(xlabel="seeds", ylabel="probability of a verdict", ylim=(0, 1.03), xlim=(example["seeds"][0], None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend_and_title(
        figure, handles, labels, "Possible is not yet probable",
        "difference: in units of its spread", "dashed: 4 of 5 cases",
    )  # fmt: skip
    return figure


@with_style
def holm(results: SimulationResults) -> Figure:
    """Draws the probability of a false verdict in a report, by its number of tables."""
    rows = results["rows"]
    labels = ["each test at 0.05", "Holm in each table"]
    figure, [axes] = plot_row(["equal strategies: a false verdict anywhere"], labels)
    tables = column_values(rows, "tables")
    handles = [
        draw_series(axes, tables, column_values(rows, name), place)
        for place, name in enumerate(("uncorrected", "holm"))
    ]
    dashed_line(axes, ALPHA)
    axes.set(xlabel="tables in a report, of nine comparisons each", ylabel="share of reports", ylim=(0, 1.03))
    axes.set_xticks(tables)
    add_legend_and_title(figure, handles, labels, "Many tests find something by chance", "dashed: 0.05")
    return figure


@with_style
def spread(results: SimulationResults) -> Figure:
    """Draws mean and spread of equal pairs, and how often bars and intervals cover the mean."""
    rows, example = results["rows"], results["example"]
    labels = ["± standard deviation", "95 % interval"]
    figure, (left, right) = plot_row(
        ["24 pairs of equal strategies, 3 seeds each", "how often the true mean is covered"], labels
    )
    for place, pair in enumerate(zip(example["first"], example["second"], strict=True)):
        gap = abs(pair[0][0] - pair[1][0]) > pair[0][1] + pair[1][1]
        for shift, (mean, std) in zip((-0.18, 0.18), pair, strict=True):
            left.errorbar(
                place + shift, mean, std, fmt=".", color=RED if gap else "#767676", elinewidth=1, markersize=3
            )
    left.set(xlabel="pair", ylabel="mean ± standard deviation", xticks=[])
    seeds = column_values(rows, "seeds")
    handles = [
        draw_series(right, seeds, column_values(rows, name), place)
        for place, name in enumerate(("covered", "interval"))
    ]
    dashed_line(right, 0.95)
    right.set(xlabel="seeds", ylabel="share of simulations", ylim=(0.6, 1.02), xticks=seeds)
    add_legend_and_title(
        figure, handles, labels, "Bars that do not overlap prove nothing",
        "red: disjoint bars, of strategies that are equal",
    )  # fmt: skip
    return figure


@with_style
def price(results: SimulationResults) -> Figure:
    """Draws two equal strategies, one of which pays 500 images more, over the rounds and over the cost."""
    example = results["example"]
    cost, shifted_cost, scores = (np.array(example[name]) for name in ("cost", "paid", "first"))
    labels = ["pays for its rounds", "pays 500 more"]
    figure, (left, right) = plot_row(
        ["over rounds: no difference", "over the price: it is behind"], labels, sharey=True
    )
    handles = [
        draw_series(left, range(10), scores, 0, linestyle="-"),
        draw_series(left, range(10), scores, 4, linestyle="--"),
    ]
    left.set(xlabel="round", ylabel="accuracy")
    for place, x in ((0, cost), (4, shifted_cost)):
        draw_series(right, x, scores, place, linestyle="-" if place == 0 else "--")
    right.axvspan(shifted_cost[0], cost[-1], color=BLUE, alpha=0.08, linewidth=0)
    right.set(xlabel="images paid for", xticks=[2000, 6000, 10_000])
    add_legend_and_title(
        figure, handles, labels, "The verdict is over the price", "shaded: the range of cost that both have"
    )
    return figure


@with_style
def savings_final(results: SimulationResults) -> Figure:
    """Draws what a saving is, and the mean saving of equal strategies."""
    rows, example = results["rows"], results["example"]
    cost, first, second = (np.array(example[name]) for name in ("cost", "first", "second"))
    labels = ["at the smaller final score", "at the other's final score"]
    figure, (left, right) = plot_row(["what is saved", "two equal strategies: saved on average"], labels)
    for place, (name, scores) in enumerate((("A", first), ("B", second))):
        draw_series(left, cost, scores, place, markersize=3)
        left.annotate(
            name, (cost[4], scores[4]), xytext=(-4, 8) if name == "A" else (6, -12), textcoords="offset points"
        )
    at = np.interp(second[-1], first, cost)
    left.annotate(
        "", (at, second[-1]), (cost[-1], second[-1]), arrowprops={"arrowstyle": "->", "color": RED, "lw": 1.6}
    )
    left.set(xlabel="images paid for", ylabel="accuracy", xticks=[2000, 6000, 10_000])
    seeds, errors = column_values(rows, "seeds"), column_values(rows, "error")
    right.errorbar(seeds, column_values(rows, "saved"), 2 * np.array(errors), fmt="none", ecolor=PALETTE[1], capsize=3)
    handles = [
        draw_series(right, seeds, column_values(rows, name), place) for place, name in ((1, "saved"), (4, "theirs"))
    ]
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(xlabel="seeds", ylabel="images, of 10,000", xticks=seeds)
    add_legend_and_title(
        figure, handles, labels, "Savings are a horizontal distance",
        "arrow: from B to A at the smaller final one", "bars: two standard errors",
    )  # fmt: skip
    return figure


@with_style
def few_rounds(results: SimulationResults) -> Figure:
    """Draws the error of a saving over the target score, by the number of rounds."""
    example = results["example"]
    numbers = ("4", "6", "10")
    labels = [f"{number} rounds" for number in numbers]
    figure, [axes] = plot_row(["a smooth curve seen at few points"], labels)
    handles = [
        axes.plot(example["target"], example["error"][number], color=PALETTE[place], linestyle=dashes)[0]
        for place, (number, dashes) in enumerate(zip(numbers, ("-", "--", ":"), strict=True))
    ]
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="accuracy at which the two are compared", ylabel="error of the saving, images")
    add_legend_and_title(
        figure, handles, labels, "Straight lines between few rounds",
        "both curves are known without noise, from 1,000 to 10,000 images",
    )  # fmt: skip
    return figure


@with_style
def savings_curve(results: SimulationResults) -> Figure:
    """Draws a curve of savings whose band misses the true value at some score."""
    example = results["example"]
    labels = ["saved, estimated", "saved, in truth"]
    figure, [axes] = plot_row(["ten seeds, one simulation"], labels)
    cost = example["cost"]
    axes.fill_between(cost, example["low"], example["high"], color=BLUE, alpha=0.15, linewidth=0)
    handles = [
        draw_series(axes, cost, example["saved"], 1),
        draw_series(axes, cost, example["truth"], 4, linestyle="--", marker=""),
    ]
    for ends in zip(cost, example["low"], example["truth"], example["high"], strict=True):
        if not ends[1] <= ends[2] <= ends[3]:
            axes.plot([ends[0]], [ends[2]], "o", color=RED, fillstyle="none", markersize=11)
    axes.set(xlabel="what the other paid for the score, images", ylabel="images saved")
    add_legend_and_title(
        figure, handles, labels, "An interval at each score, not for all at once",
        "shaded: 95 % intervals, pointwise", "ring: one that misses",
    )  # fmt: skip
    return figure


@with_style
def savings_band(results: SimulationResults) -> Figure:
    """Draws runs that reach a band in whole rounds, and one that never reaches it."""
    example = results["example"]
    labels = ["its first round in the band", "never there: all that it paid"]
    figure, [axes] = plot_row(["five runs of one strategy"], labels)
    axes.axhspan(70, 72, color=GREEN, alpha=0.2, linewidth=0)
    for run in example["runs"]:
        hits = [place for place, value in enumerate(run) if value >= 70]
        at, colour, mark = (hits[0], BLUE, "o") if hits else (len(run) - 1, RED, "X")
        axes.plot(example["cost"], run, color="#767676", linewidth=0.9)
        axes.plot([example["cost"][at]], [run[at]], mark, color=colour, markersize=7)
    handles = [Line2D([], [], color=colour, marker=mark, linestyle="") for colour, mark in ((BLUE, "o"), (RED, "X"))]
    axes.set(xlabel="images paid for", ylabel="accuracy")
    add_legend_and_title(
        figure, handles, labels, "In a band a run pays for whole rounds", "green: the band, from 70 to 72"
    )
    return figure


@with_style
def verdicts(results: SimulationResults) -> Figure:
    """Draws the shares of verdicts by true difference and number of seeds."""
    names = ("better", "worse", "equivalent", "undecided")
    differences = unique_values(results["rows"], "difference")
    figure, grid = plot_row([f"difference {difference:g}" for difference in differences], names, 1.35, sharey=True)
    for axes, difference in zip(grid, differences, strict=True):
        draw_stacked_bars(axes, [row for row in results["rows"] if row["difference"] == difference], names, "seeds")
        axes.set_xlabel("seeds")
    grid[0].set_ylabel("share of verdicts")
    add_legend_and_title(
        figure, legend_patches(names), names, "Three answers, not two", "one comparison", "spread 1, margin 1"
    )
    return figure


@with_style
def ranks(results: SimulationResults) -> Figure:
    """Draws how often equal strategies are said to differ, by what counts as a case."""
    rows = results["rows"][::-1]
    figure, [axes] = plot_row(["equal strategies: some two are said to differ"], width=6.2)
    labels = [
        f"{row['data_sets']} data sets x {plural(row['schedules'], 'schedule')},\n{row['counted']} count"
        for row in rows
    ]
    wrong = [row["wrong"] for row in rows]
    axes.barh(labels, wrong, 0.6, color=[RED if value > 0.1 else BLUE for value in wrong])
    for place, row in enumerate(rows):
        words = f"{row['wrong']:.2f}" if row["critical"] else "no difference is drawn"
        axes.text(max(row["wrong"], ALPHA) + 0.012, place, words, va="center", fontsize=8)
    axes.axvline(ALPHA, color=INK, linewidth=0.9, linestyle="--")
    axes.set(xlabel="share of simulations", xlim=(0, 1))
    axes.grid(False, axis="y")
    add_title(figure, "Schedules on one data set are no new evidence", "dashed: 0.05")
    return figure


@with_style
def penalties(results: SimulationResults) -> Figure:
    """Draws a penalty matrix of three equal strategies and a better one."""
    example = results["example"]
    wins = np.array(example["wins"], np.float64)
    figure, [axes] = plot_row(["row beats column: share of nine rounds"])
    draw_heat_map(axes, np.where(np.eye(len(wins), dtype=bool), np.nan, wins), 1.0)
    labels = [f"{name}  {number}" for number, name in enumerate(example["names"], start=1)]
    label_heat_map(axes, labels, len(wins))
    axes.grid(False)
    axes.set_xlabel("loses")
    add_title(figure, "Who beats whom, round by round", "five seeds; between equal ones a cell is 0.025 on average")
    return figure


@with_style
def verify(results: SimulationResults) -> Figure:
    """Draws the shares of verdicts on published curves, by the true gap and the number of our runs."""
    rows, names = results["rows"], ("reproduced", "stronger", "weaker", "inconclusive")
    truths = unique_values(rows, "truth")
    titles = [f"true gap {truth:g}, they: {column_values(rows, 'their_runs', truth=truth)[0]} runs" for truth in truths]
    figure, grid = plot_row(titles, names, 2.2, sharey=True)
    for axes, truth in zip(grid, truths, strict=True):
        draw_stacked_bars(axes, [row for row in rows if row["truth"] == truth], names, "runs")
        axes.set_xlabel("runs of ours")
    dashed_line(grid[0], ALPHA)
    grid[0].set_ylabel("share of verdicts")
    add_legend_and_title(
        figure, legend_patches(names), names, "Reproduced is shown, not assumed", "margin 1", "dashed: 0.05"
    )
    return figure


@with_style
def seeds_auto(results: SimulationResults) -> Figure:
    """Draws false verdicts over the number of seeds: testing after every seed, and the looks of seeds=auto."""
    example = results["example"]
    labels = ["p ≤ 0.05 after every seed", "looks of seeds=auto"]
    figure, [axes] = plot_row(["two equal strategies: decided so far"], labels)
    handles = [
        draw_series(axes, example["seeds"], example["peeking"], 4, marker=""),
        draw_series(axes, example["looks"], example["auto"], 1, drawstyle="steps-post"),
    ]
    dashed_line(axes, ALPHA)
    axes.set(xlabel="seeds", ylabel="share of simulations", ylim=(0, None))
    add_legend_and_title(figure, handles, labels, "Looking often, without paying for it", "dashed: 0.05")
    return figure


FIGURES: dict[str, Callable[[SimulationResults], Figure | None]] = {
    "pairing": pairing, "sign_flips": sign_flips, "seeds_needed": seeds_needed, "holm": holm, "spread": spread,
    "price": price, "savings_final": savings_final, "few_rounds": few_rounds, "savings_curve": savings_curve,
    "savings_band": savings_band, "verdicts": verdicts, "ranks": ranks, "penalties": penalties, "verify": verify,
    "seeds_auto": seeds_auto,
}  # fmt: skip
