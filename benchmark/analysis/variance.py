"""What makes runs differ: the initial set, the training or the selection, and how much each of them does.

A run's score is its strategy's mean plus three deviations: of its initial set, of its training within that set, and of
its selection within that training. From each initial set there are three runs (`variants.STAGGERED`): the first two
share their training, the third shares only the set. Hence, with s the variance of each deviation,

    y1 - y2                 has the variance 2 s_selection
    (y1 + y2) / 2 - y3                       2 s_training + 3/2 s_selection
    (y1 + y2 + y3) / 3                       s_initial + 5/9 s_training + 1/3 s_selection

which is solved for the three. The same holds for the differences of two strategies that share sets and trainings.
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
MIN_SETS_FOR_INTERVAL = 5  # sets that an interval takes: of fewer it would reach anywhere
FEW_SETS = 10  # fewer make estimates so rough that it is said
DESIGNS = ((20, 1), (5, 4))  # initial sets and runs of each: the same number of runs, spent in two ways
COMPONENTS = ("initial set", "training", "selection")
MEASURES = ("area", "final")


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of one strategy's scores, or of its differences from another's, in the score's unit squared."""

    experiment: str
    metric: Metric
    strategy: str
    against: str  # the other; "" where the scores are its own
    measure: str  # of MEASURES: the mean score on the way, or the last one
    num_sets: int
    estimates: tuple[Interval, Interval, Interval]  # of COMPONENTS
    level: float

    def expected_variance(self, num_sets: int, num_runs: int) -> float:
        """The variance to expect of a mean over new initial sets and so many runs of each, every one with a training
        and a selection of its own. An estimate below zero counts as none."""
        initial, training, selection = (max(0.0, one.value) for one in self.estimates)
        return initial / num_sets + (training + selection) / (num_sets * num_runs)


def contributions(scores_N3: Floats) -> Floats:
    """(..., N, 3): what each set adds to the estimates of COMPONENTS, which are the means over the sets.

    Args:
        scores_N3: (..., N, 3) of the runs of each set, in the order of `variants.STAGGERED`.
    """
    first, second, third = np.moveaxis(scores_N3, -1, 0)
    num_sets, mean_N = scores_N3.shape[-2], scores_N3.mean(-1)
    selection_N = (first - second) ** 2 / 2
    training_N = (((first + second) / 2 - third) ** 2 - 1.5 * selection_N) / 2
    around_N = (mean_N - mean_N.mean(-1, keepdims=True)) ** 2 * num_sets / (num_sets - 1)
    return np.stack([around_N - 5 / 9 * training_N - selection_N / 3, training_N, selection_N], -1)


def estimate_components(scores_N3: Floats, level: float, rng: Generator) -> tuple[Interval, Interval, Interval]:
    """The variances of COMPONENTS with intervals; ends are NaN with fewer than FEWEST sets, and of what is always 0.

    A studentised bootstrap over the initial sets: each estimate is a mean over them, so that its standard error is
    known in every replicate too. Percentiles of the estimates alone would cover 0.82 of the truths with 10 sets, where
    these cover 0.90; with 30 it is 0.90 and 0.93 (docs/variance.md).
    """
    num_sets, own_N3 = len(scores_N3), contributions(scores_N3)
    value_3, error_3 = own_N3.mean(0), own_N3.std(0, ddof=1) / math.sqrt(num_sets)
    low_3, high_3 = np.full((2, 3), np.nan)
    if num_sets >= MIN_SETS_FOR_INTERVAL:
        drawn_MN3 = contributions(scores_N3[rng.integers(num_sets, size=(REPLICATES, num_sets))])
        with np.errstate(divide="ignore", invalid="ignore"):
            away_M3 = (drawn_MN3.mean(1) - value_3) / (drawn_MN3.std(1, ddof=1) / math.sqrt(num_sets))
        for part in np.flatnonzero(error_3):
            away_M = away_M3[np.isfinite(away_M3[:, part]), part]
            high_3[part], low_3[part] = value_3[part] - error_3[part] * np.quantile(
                away_M, [(1 - level) / 2, (1 + level) / 2]
            )
    first, second, third = (Interval(*map(float, one)) for one in zip(value_3, low_3, high_3, strict=True))
    return first, second, third


def expected_standard_errors(variances_3: Sequence[float], num_sets: int) -> Floats:
    """(3,): the standard errors of the estimates where the deviations are normal and their variances are these."""
    initial, training, selection = variances_3
    mean, contrast = initial + 5 / 9 * training + selection / 3, 2 * training + 1.5 * selection
    shared = (training / 3) ** 2  # of the mean of three and the contrast: the square of their covariance
    of_contrast, of_selection = 2 * contrast**2 / num_sets, 2 * selection**2 / num_sets
    of_training = (of_contrast + 2.25 * of_selection) / 4
    of_initial = 2 * mean**2 / (num_sets - 1) + (5 / 18) ** 2 * of_contrast + of_selection / 144
    return np.sqrt([of_initial - 5 / 9 * 2 * shared / num_sets, of_training, of_selection])


# --- from records -----------------------------------------------------------------------------
def strategy_components(
    experiment: Experiment, against: str, price: Price, level: float, base_seed: int
) -> list[VarianceComponents]:
    """The components of every strategy, and of its differences from another, of the sets of which all runs are through.

    Args:
        experiment: with runs that vary training and selection alone.
        against: the other strategy; "" for none.
        price: what areas are over, as in comparisons.
        level: of the intervals.
        start: seeds what is drawn, together with the names.
    """
    made = []
    for other in dict.fromkeys(("", against)):
        for name in experiment.curves:
            sets = [
                one for one in complete_sets(experiment, name) if not other or one in complete_sets(experiment, other)
            ]
            if name == other or len(sets) < 2:
                continue
            for measure, scores_N3 in set_scores(experiment, name, other, sets, price).items():
                rng = np.random.default_rng(seed("variance", experiment.title, name, other, measure, base_seed))
                parts = estimate_components(scores_N3, level, rng)
                made.append(
                    VarianceComponents(
                        experiment.title, experiment.metric, name, other, measure, len(sets), parts, level
                    )
                )
    return sorted(made, key=lambda one: (bool(one.against), MEASURES.index(one.measure)))


def variant_curves(experiment: Experiment, strategy: str) -> list[Curve]:
    """The curves of a strategy's three variants; fewer where there are none of one."""
    known = {ORDINARY: experiment.curves, **experiment.variant_curves}
    return [known[one][strategy] for one in STAGGERED if strategy in known.get(one, {})]


def complete_sets(experiment: Experiment, strategy: str) -> list[int]:
    """The seeds whose three runs of a strategy are all through."""
    found = variant_curves(experiment, strategy)
    through = [set(curve.seeds) - curve.unfinished_seeds for curve in found]
    return sorted(set.intersection(*through)) if len(found) == len(STAGGERED) else []


def set_scores(
    experiment: Experiment, strategy: str, other: str, sets: Sequence[int], price: Price
) -> dict[str, Floats]:
    """(N, 3) of each measure: of a strategy's runs from these sets, or of their differences from another's.

    ValueError where two strategies started from other images, or have no range of cost in common.
    """
    curves = variant_curves(experiment, strategy)
    rows_V = [[curve.seeds.index(one) for one in sets] for curve in curves]
    values_VNR = np.stack([curve.value_SR[rows] for curve, rows in zip(curves, rows_V, strict=True)])
    costs_VNR = np.stack([price.cumulative_cost(curve)[rows] for curve, rows in zip(curves, rows_V, strict=True)])
    if not other:
        areas_N3 = run_areas(experiment, costs_VNR, values_VNR).T
    else:
        others = variant_curves(experiment, other)
        pairs = [pair_sets(*both, sets) for both in zip(curves, others, strict=True)]
        found = zip(curves, others, pairs, strict=True)
        both_V2N = np.stack(
            [comparisons.paired_areas(experiment, one, two, pair, price)[1] for one, two, pair in found]
        )
        areas_N3 = (both_V2N[:, 0] - both_V2N[:, 1]).T
        values_VNR = values_VNR - np.stack(
            [curve.value_SR[pair.second_rows] for curve, pair in zip(others, pairs, strict=True)]
        )
    last = np.flatnonzero(np.isfinite(values_VNR).all((0, 1)))[-1]
    return {"area": areas_N3, "final": values_VNR[..., last].T}


def pair_sets(first: Curve, second: Curve, sets: Sequence[int]) -> stats.Pairs:
    """The runs of two curves from these sets. ValueError as `stats.paired`."""
    pairs = stats.pair_runs(first, second)
    rows = [[of[pairs.seeds.index(one)] for one in sets] for of in (pairs.first_rows, pairs.second_rows)]
    return replace(pairs, seeds=tuple(sets), first_rows=rows[0], second_rows=rows[1])


def run_areas(experiment: Experiment, costs_VNR: Floats, values_VNR: Floats) -> Floats:
    """(V, N): mean scores over the rounds that all runs have or, where these do not cost all the same, over the range
    of cost that all have."""
    there_R = np.isfinite(values_VNR).all((0, 1))
    values_VNR, costs_VNR = values_VNR[..., there_R], costs_VNR[..., there_R]
    shape, num_rounds = values_VNR.shape[:2], int(there_R.sum())
    if num_rounds > 1 and np.ptp(costs_VNR, axis=(0, 1)).any():
        flat = (costs_VNR.reshape(-1, num_rounds), values_VNR.reshape(-1, num_rounds))
        return stats.areas_at_equal_cost(*flat)[0].reshape(shape)
    rounds_R = np.array(experiment.rounds, np.float64)[there_R]
    return np.array([[stats.normalized_area(rounds_R, value_R) for value_R in values_NR] for values_NR in values_VNR])


# --- in words ---------------------------------------------------------------------------------
def remarks(experiment: Experiment, components: Sequence[VarianceComponents]) -> Iterator[str]:
    """What a reader must know of these estimates: few sets, sets left out, and what counts as selection though it is
    none."""
    fewest = min(one.num_sets for one in components)
    if fewest < FEW_SETS:
        told, better = (
            ", ".join(f"{error:.2g}" for error in expected_standard_errors((1, 1, 1), number))
            for number in (fewest, 30)
        )
        yield (
            f"{experiment.title}: {fewest} initial sets are few: of three variances of 1 the standard errors are {told}"
            f" (initial set, training, selection); with 30 they are {better}"
        )
    for name in experiment.curves:
        seeds = {run.seed for run in experiment.all_runs if run.strategy == name and run.variant != ORDINARY}
        if lacking := len(seeds - set(complete_sets(experiment, name))):
            yield f"{experiment.title}: {name}: {plural(lacking, 'set')} not finished, and left out"
        if unlike := num_unequal_starts(experiment, name):
            yield (
                f"{experiment.title}: {name}: round 0 of {plural(unlike, 'set')} was not repeated by the same training:"
                " what another device or version rounds otherwise counts as selection"
            )


def num_unequal_starts(experiment: Experiment, strategy: str) -> int:
    """How many sets have a round 0 that the first two of its runs, which differ in selection alone, score unequally."""
    sets = complete_sets(experiment, strategy)
    if not sets or experiment.schedule is None or not experiment.schedule.initial:
        return 0
    first, second = variant_curves(experiment, strategy)[:2]
    scores_2N = [curve.value_SR[[curve.seeds.index(one) for one in sets], 0] for curve in (first, second)]
    return int((scores_2N[0] != scores_2N[1]).sum())


def advice(components: Sequence[VarianceComponents]) -> str:
    """How to spend runs on comparing strategies, in a sentence with figures; "" where nothing is compared."""
    compared = [one for one in components if one.against and one.measure == "area"]
    if not compared:
        return ""
    (many, once), (few, often) = DESIGNS
    told = []
    for design in DESIGNS:
        errors = sorted(math.sqrt(one.expected_variance(*design)) for one in compared)
        told.append(" to ".join(dict.fromkeys(f"{end:.2g}" for end in (errors[0], errors[-1]))))
    return (
        f"{compared[0].experiment}: for comparing strategies always take new initial sets: of {many * once} runs each, "
        f"{many} sets of {plural(once, 'run')} know the mean difference of {compared[0].metric} from "
        f"{compared[0].against} with a standard error of {told[0]}, {few} sets of {plural(often, 'run')} with one of "
        f"{told[1]}"
    )


def measure_label(component: VarianceComponents) -> str:
    """Whose variance it is: `area`, `final minus random`."""
    return component.measure + f" minus {component.against}" * bool(component.against)


def rows(components: Sequence[VarianceComponents]) -> list[dict[str, object]]:
    """The components for people, a row each; columns: see `note`."""
    made = []
    for one in components:
        scale = 1e4 if one.metric.is_share else 1.0
        parts = {name: format_interval(part, scale) for name, part in zip(COMPONENTS, one.estimates, strict=True)}
        means = {f"{sets} x {runs}": format_number(scale * one.expected_variance(sets, runs)) for sets, runs in DESIGNS}
        made.append({"of": measure_label(one), "strategy": one.strategy, "sets": one.num_sets, **parts, **means})
    return made


def format_interval(interval: Interval, scale: float) -> str:
    """`0.53 [-0.21, 0.97]`; without ends where there are none."""
    ends = [format_number(scale * one) for one in (interval.value, interval.low, interval.high)]
    return ends[0] if math.isnan(interval.low) else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def format_number(value: float) -> str:
    """A number to two digits, whole from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 9):z.2g}"


def note(components: Sequence[VarianceComponents]) -> str:
    """What the columns of `rows` are, a line each."""
    first, ((many, once), (few, often)) = components[0], DESIGNS
    unit = f"hundredths of the {first.metric}" if first.metric.is_share else f"points of {first.metric}"
    lines = {
        "of": "area: the mean score on the way, as comparisons take it; final: the score of the last round",
        "sets": "initial sets of which all three runs are through",
        ", ".join(COMPONENTS): f"the variance that each brings into single runs, in squared {unit}, and its "
        f"{100 * first.level:g} % interval; an estimate below zero says that it is small",
        f"{many} x {once}": f"the variance of a mean over {many} sets of {plural(once, 'run')}",
        f"{few} x {often}": f"the same over {few} sets of {plural(often, 'run')}: as many runs, and never better",
        "no interval": f"fewer than {MIN_SETS_FOR_INTERVAL} sets, or nothing differs: some strategies draw nothing when they select",
    }
    return "\n".join(f"{name}: {words}" for name, words in lines.items())


def tidy_rows(components: Sequence[VarianceComponents]) -> list[dict[str, object]]:
    """One row a strategy, measure and component, in the score's unit squared."""
    return [
        {
            "task": one.experiment, "strategy": one.strategy, "against": one.against, "metric": one.metric.name,
            "measure": one.measure, "sets": one.num_sets, "component": name, "variance": part.value, "low": part.low,
            "high": part.high, "level": one.level,
        }
        for one in components
        for name, part in zip(COMPONENTS, one.estimates, strict=True)
    ]  # fmt: skip


def write_tables(components: Sequence[VarianceComponents], folder: Path) -> None:
    """variance/NAME.csv, .md and .tex of the components of one experiment."""
    made, title = rows(components), f"{components[0].experiment}: variance of the {components[0].metric}"
    grid = [list(made[0]), *([str(cell) for cell in row.values()] for row in made)]
    below = " ".join(f"{line}." for line in [*note(components).split("\n"), advice(components)] if line)
    texts = {
        "csv": to_csv(tidy_rows(components)),
        "md": format_markdown(title, grid, below),
        "tex": format_latex(title, grid, below),
    }
    for ending, text in texts.items():
        files.write_atomically(folder / "variance" / f"{slug(components[0].experiment)}.{ending}", text, folder.parent)
