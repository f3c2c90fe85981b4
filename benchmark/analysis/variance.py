"""Variance components: how much of the spread of runs is due to the initial set, the training and the selection.

The score of a run is its strategy's mean plus three deviations: of its initial set, of its training within that set,
and of its selection within that training. Each initial set has three runs (`variants.STAGGERED`): the first two share
their training, and the third shares only the initial set. With s the variance of each deviation, the variances are

    y1 - y2                 2 s_selection
    (y1 + y2) / 2 - y3      2 s_training + 3/2 s_selection
    (y1 + y2 + y3) / 3      s_initial + 5/9 s_training + 1/3 s_selection

and these equations are solved for the three components. The same holds for the differences of two strategies that
share initial sets and trainings.
Shapes: N initial sets, 3 runs of each, or 3 components; M replicates, R rounds, V variants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator

from benchmark.analysis import comparisons, stats
from benchmark.analysis.curves import Curve, Experiment, Floats
from benchmark.analysis.savings import Price
from benchmark.analysis.stats import Interval
from benchmark.analysis.tables import format_latex, format_markdown, to_csv
from benchmark.contract.metrics import Metric
from benchmark.experiment.variants import ORDINARY, STAGGERED
from benchmark.seeds import seed
from benchmark.system import files
from benchmark.text.words import plural, slug

REPLICATES = 4_000
MIN_SETS_FOR_INTERVAL = 5  # with fewer initial sets an interval would be meaninglessly wide
FEW_SETS = 10  # with fewer initial sets a remark says how rough the estimates are
DESIGNS = ((20, 1), (5, 4))  # initial sets and runs of each: two ways to spend the same number of runs
COMPONENTS = ("initial set", "training", "selection")
MEASURES = ("area", "final")


@dataclass(frozen=True)
class VarianceComponents:
    """Variance components of a strategy's scores, or of its differences from another strategy, in squared units."""

    experiment: str
    metric: Metric
    strategy: str
    against: str  # the other strategy; "" for the strategy's own scores
    measure: str  # of MEASURES: the mean score over the rounds, or the last score
    num_sets: int
    estimates: tuple[Interval, Interval, Interval]  # of COMPONENTS
    level: float

    def expected_variance(self, num_sets: int, num_runs: int) -> float:
        """The expected variance of a mean over new initial sets, each with `num_runs` trainings and selections.

        An estimate below zero counts as zero.
        """
        initial, training, selection = (max(0.0, estimate.value) for estimate in self.estimates)
        return initial / num_sets + (training + selection) / (num_sets * num_runs)


def contributions(scores_N3: Floats) -> Floats:
    """The contribution of each initial set to the estimates of COMPONENTS, which are the means over the sets.

    Args:
        scores_N3: (..., N, 3) scores of the runs of each set, in the order of `variants.STAGGERED`.

    Returns:
        (..., N, 3) contributions.
    """
    first, second, third = np.moveaxis(scores_N3, -1, 0)
    num_sets, mean_N = scores_N3.shape[-2], scores_N3.mean(-1)
    selection_N = (first - second) ** 2 / 2
    training_N = (((first + second) / 2 - third) ** 2 - 1.5 * selection_N) / 2
    around_N = (mean_N - mean_N.mean(-1, keepdims=True)) ** 2 * num_sets / (num_sets - 1)
    return np.stack([around_N - 5 / 9 * training_N - selection_N / 3, training_N, selection_N], -1)


def estimate_components(scores_N3: Floats, level: float, rng: Generator) -> tuple[Interval, Interval, Interval]:
    """Estimates the variances of COMPONENTS, with intervals.

    The intervals are from a studentised bootstrap over the initial sets: each estimate is a mean over the sets, so its
    standard error is known in every replicate. With 10 sets they cover the true value in 0.90 of all cases, where plain
    percentiles of the estimates cover it in 0.82; with 30 sets it is 0.93 and 0.90 (docs/variance.md). The ends are NaN
    with fewer than MIN_SETS_FOR_INTERVAL sets, and for a component that is always 0.
    """
    num_sets, contributions_N3 = len(scores_N3), contributions(scores_N3)
    value_3, error_3 = contributions_N3.mean(0), contributions_N3.std(0, ddof=1) / math.sqrt(num_sets)
    low_3, high_3 = np.full((2, 3), np.nan)
    if num_sets >= MIN_SETS_FOR_INTERVAL:
        resampled_MN3 = contributions(scores_N3[rng.integers(num_sets, size=(REPLICATES, num_sets))])
        with np.errstate(divide="ignore", invalid="ignore"):
            t_M3 = (resampled_MN3.mean(1) - value_3) / (resampled_MN3.std(1, ddof=1) / math.sqrt(num_sets))
        for component in np.flatnonzero(error_3):
            t_M = t_M3[np.isfinite(t_M3[:, component]), component]
            ends = np.quantile(t_M, [(1 - level) / 2, (1 + level) / 2])
            high_3[component], low_3[component] = value_3[component] - error_3[component] * ends
    first, second, third = (Interval(*map(float, ends)) for ends in zip(value_3, low_3, high_3, strict=True))
    return first, second, third


def expected_standard_errors(variances_3: Sequence[float], num_sets: int) -> Floats:
    """(3,): the standard errors of the estimates, for normal deviations with these true variances."""
    initial, training, selection = variances_3
    mean, contrast = initial + 5 / 9 * training + selection / 3, 2 * training + 1.5 * selection
    shared = (training / 3) ** 2  # the squared covariance of the mean of three runs and the contrast
    contrast_error, selection_error = 2 * contrast**2 / num_sets, 2 * selection**2 / num_sets
    training_error = (contrast_error + 2.25 * selection_error) / 4
    mean_error = 2 * mean**2 / (num_sets - 1) + (5 / 18) ** 2 * contrast_error + selection_error / 144
    return np.sqrt([mean_error - 5 / 9 * 2 * shared / num_sets, training_error, selection_error])


# --- from records -----------------------------------------------------------------------------
def strategy_components(
    experiment: Experiment, against: str, price: Price, level: float, base_seed: int
) -> list[VarianceComponents]:
    """Estimates the components of every strategy, and of its differences from another strategy.

    Only initial sets whose three runs are complete count.

    Args:
        experiment: with runs that vary training and selection alone.
        against: the other strategy; "" for none.
        price: the cost over which areas are computed, as in comparisons.
        level: of the intervals.
        base_seed: seeds the bootstrap, together with the names.
    """
    results = []
    for other in dict.fromkeys(("", against)):
        for strategy in experiment.curves:
            sets = complete_sets(experiment, strategy)
            if other:
                shared = complete_sets(experiment, other)
                sets = [number for number in sets if number in shared]
            if strategy == other or len(sets) < 2:
                continue
            for measure, scores_N3 in set_scores(experiment, strategy, other, sets, price).items():
                rng = np.random.default_rng(seed("variance", experiment.title, strategy, other, measure, base_seed))
                results.append(
                    VarianceComponents(
                        experiment.title, experiment.metric, strategy, other, measure, len(sets),
                        estimate_components(scores_N3, level, rng), level,
                    )
                )  # fmt: skip
    return sorted(results, key=lambda result: (bool(result.against), MEASURES.index(result.measure)))


def variant_curves(experiment: Experiment, strategy: str) -> list[Curve]:
    """The curves of a strategy's three variants; fewer if a variant has no runs."""
    curves = {ORDINARY: experiment.curves, **experiment.variant_curves}
    return [curves[variant][strategy] for variant in STAGGERED if strategy in curves.get(variant, {})]


def complete_sets(experiment: Experiment, strategy: str) -> list[int]:
    """The seeds of the initial sets whose three runs of a strategy are all complete."""
    curves = variant_curves(experiment, strategy)
    finished = [set(curve.seeds) - curve.unfinished_seeds for curve in curves]
    return sorted(set.intersection(*finished)) if len(curves) == len(STAGGERED) else []


def set_scores(
    experiment: Experiment, strategy: str, other: str, sets: Sequence[int], price: Price
) -> dict[str, Floats]:
    """(N, 3) scores by measure: of a strategy's runs from these initial sets, or of their differences from another's.

    Raises:
        ValueError: the two strategies started from different images, or have no range of cost in common.
    """
    curves = variant_curves(experiment, strategy)
    rows_V = [[curve.seeds.index(number) for number in sets] for curve in curves]
    values_VNR = np.stack([curve.value_SR[rows] for curve, rows in zip(curves, rows_V, strict=True)])
    if not other:
        costs_VNR = np.stack([price.cumulative_cost(curve)[rows] for curve, rows in zip(curves, rows_V, strict=True)])
        areas_N3 = run_areas(experiment, costs_VNR, values_VNR).T
    else:
        others = variant_curves(experiment, other)
        pairs = [pair_sets(first, second, sets) for first, second in zip(curves, others, strict=True)]
        areas_V2N = np.stack(
            [
                comparisons.paired_areas(experiment, first, second, pair, price)[1]
                for first, second, pair in zip(curves, others, pairs, strict=True)
            ]
        )
        areas_N3 = (areas_V2N[:, 0] - areas_V2N[:, 1]).T
        values_VNR = values_VNR - np.stack(
            [curve.value_SR[pair.second_rows] for curve, pair in zip(others, pairs, strict=True)]
        )
    last = np.flatnonzero(np.isfinite(values_VNR).all((0, 1)))[-1]
    return {"area": areas_N3, "final": values_VNR[..., last].T}


def pair_sets(first: Curve, second: Curve, sets: Sequence[int]) -> stats.Pairs:
    """Pairs the runs of two curves that start from these initial sets. Raises ValueError as `stats.pair_runs` does."""
    pairs = stats.pair_runs(first, second)
    first_rows, second_rows = (
        [rows[pairs.seeds.index(number)] for number in sets] for rows in (pairs.first_rows, pairs.second_rows)
    )
    return replace(pairs, seeds=tuple(sets), first_rows=first_rows, second_rows=second_rows)


def run_areas(experiment: Experiment, costs_VNR: Floats, values_VNR: Floats) -> Floats:
    """(V, N): the area under each run's curve: its mean score over the rounds that all runs have.

    Where the rounds do not cost all runs the same, it is the mean score over the range of cost that all runs have.
    """
    complete_R = np.isfinite(values_VNR).all((0, 1))
    values_VNR, costs_VNR = values_VNR[..., complete_R], costs_VNR[..., complete_R]
    shape, num_rounds = values_VNR.shape[:2], int(complete_R.sum())
    if num_rounds > 1 and np.ptp(costs_VNR, axis=(0, 1)).any():
        flat = (costs_VNR.reshape(-1, num_rounds), values_VNR.reshape(-1, num_rounds))
        return stats.areas_at_equal_cost(*flat)[0].reshape(shape)
    rounds_R = np.array(experiment.rounds, np.float64)[complete_R]
    return np.array([[stats.normalized_area(rounds_R, value_R) for value_R in values_NR] for values_NR in values_VNR])


# --- in words ---------------------------------------------------------------------------------
def remarks(experiment: Experiment, components: Sequence[VarianceComponents]) -> Iterator[str]:
    """Caveats of these estimates: few initial sets, incomplete sets, and rounding that counts as selection."""
    num_sets = min(component.num_sets for component in components)
    if num_sets < FEW_SETS:
        here, with_30 = (
            ", ".join(f"{error:.2g}" for error in expected_standard_errors((1, 1, 1), number))
            for number in (num_sets, 30)
        )
        yield (
            f"{experiment.title}: {num_sets} initial sets are few: three variances of 1 are estimated with standard "
            f"errors of {here} (initial set, training, selection); with 30 sets they are {with_30}"
        )
    for strategy in experiment.curves:
        seeds = {run.seed for run in experiment.all_runs if run.strategy == strategy and run.variant != ORDINARY}
        if num_missing := len(seeds - set(complete_sets(experiment, strategy))):
            yield f"{experiment.title}: {strategy}: {plural(num_missing, 'set')} not finished, and left out"
        if num_unequal := num_unequal_starts(experiment, strategy):
            yield (
                f"{experiment.title}: {strategy}: round 0 of {plural(num_unequal, 'set')} was not repeated by the same "
                "training: rounding of another device or library version counts as selection"
            )


def num_unequal_starts(experiment: Experiment, strategy: str) -> int:
    """The number of initial sets whose first two runs, which differ in selection alone, score round 0 unequally."""
    sets = complete_sets(experiment, strategy)
    if not sets or experiment.schedule is None or not experiment.schedule.initial:
        return 0
    first, second = variant_curves(experiment, strategy)[:2]
    scores_2N = [curve.value_SR[[curve.seeds.index(number) for number in sets], 0] for curve in (first, second)]
    return int((scores_2N[0] != scores_2N[1]).sum())


def advice(components: Sequence[VarianceComponents]) -> str:
    """How to spend runs on comparing strategies, in a sentence with numbers; "" if nothing is compared."""
    differences = [component for component in components if component.against and component.measure == "area"]
    if not differences:
        return ""
    (many, once), (few, often) = DESIGNS
    ranges = []
    for design in DESIGNS:
        errors = sorted(math.sqrt(component.expected_variance(*design)) for component in differences)
        ranges.append(" to ".join(dict.fromkeys(f"{error:.2g}" for error in (errors[0], errors[-1]))))
    first = differences[0]
    return (
        f"{first.experiment}: for comparing strategies always take new initial sets: of {many * once} runs each, "
        f"{many} sets of {plural(once, 'run')} know the mean difference of {first.metric} from "
        f"{first.against} with a standard error of {ranges[0]}, {few} sets of {plural(often, 'run')} with one of "
        f"{ranges[1]}"
    )


def measure_label(component: VarianceComponents) -> str:
    """What the variance is of: `area`, `final minus random`."""
    return component.measure + f" minus {component.against}" * bool(component.against)


def rows(components: Sequence[VarianceComponents]) -> list[dict[str, object]]:
    """The rows of the printed table; `note` explains the columns."""
    table = []
    for component in components:
        scale = 1e4 if component.metric.is_share else 1.0
        estimates = {
            name: format_interval(estimate, scale)
            for name, estimate in zip(COMPONENTS, component.estimates, strict=True)
        }
        means = {
            f"{num_sets} x {num_runs}": format_number(scale * component.expected_variance(num_sets, num_runs))
            for num_sets, num_runs in DESIGNS
        }
        labels = {"of": measure_label(component), "strategy": component.strategy, "sets": component.num_sets}
        table.append({**labels, **estimates, **means})
    return table


def format_interval(interval: Interval, scale: float) -> str:
    """`0.53 [-0.21, 0.97]`; the value alone if there are no ends."""
    value, low, high = (format_number(scale * number) for number in (interval.value, interval.low, interval.high))
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def format_number(value: float) -> str:
    """A number to two significant digits; without decimals from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 9):z.2g}"


def note(components: Sequence[VarianceComponents]) -> str:
    """The meaning of the columns of `rows`, a line each. It is part of committed tables."""
    first, ((many, once), (few, often)) = components[0], DESIGNS
    unit = f"hundredths of the {first.metric}" if first.metric.is_share else f"points of {first.metric}"
    lines = {
        "of": "area: the mean score on the way, as comparisons take it; final: the score of the last round",
        "sets": "initial sets of which all three runs are through",
        ", ".join(COMPONENTS): f"the variance that each brings into single runs, in squared {unit}, and its "
        f"{100 * first.level:g} % interval; an estimate below zero says that it is small",
        f"{many} x {once}": f"the variance of a mean over {many} sets of {plural(once, 'run')}",
        f"{few} x {often}": f"the same over {few} sets of {plural(often, 'run')}: as many runs, and never better",
        "no interval": f"fewer than {MIN_SETS_FOR_INTERVAL} sets, or nothing differs: some strategies draw nothing "
        "when they select",
    }
    return "\n".join(f"{name}: {words}" for name, words in lines.items())


def tidy_rows(components: Sequence[VarianceComponents]) -> list[dict[str, object]]:
    """A row per strategy, measure and component, in the squared unit of the score."""
    return [
        {
            "task": component.experiment, "strategy": component.strategy, "against": component.against,
            "metric": component.metric.name, "measure": component.measure, "sets": component.num_sets,
            "component": name, "variance": estimate.value, "low": estimate.low, "high": estimate.high,
            "level": component.level,
        }
        for component in components
        for name, estimate in zip(COMPONENTS, component.estimates, strict=True)
    ]  # fmt: skip


def write_tables(components: Sequence[VarianceComponents], folder: Path) -> None:
    """Writes the components of one experiment to `variance/NAME.csv`, `.md` and `.tex` below a folder."""
    table, title = rows(components), f"{components[0].experiment}: variance of the {components[0].metric}"
    grid = [list(table[0]), *([str(cell) for cell in row.values()] for row in table)]
    caption = " ".join(f"{line}." for line in [*note(components).split("\n"), advice(components)] if line)
    texts = {
        "csv": to_csv(tidy_rows(components)),
        "md": format_markdown(title, grid, caption),
        "tex": format_latex(title, grid, caption),
    }
    for suffix, text in texts.items():
        path = folder / "variance" / f"{slug(components[0].experiment)}.{suffix}"
        files.write_atomically(path, text, folder.parent)
