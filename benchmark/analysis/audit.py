"""The audit: what records say about the run that wrote them. A table that fails it says so in its caption."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis.curves import Curve, Experiment, Floats, Run, best_score, mean_over_runs
from benchmark.analysis.stats import student_quantile
from benchmark.experiment.schedule import Schedule
from benchmark.records.record import Header, Record, plugin_parameters
from benchmark.records.versions import compared_part, find_mixed_versions, minor_version
from benchmark.text.words import plural

MAX_TINY_BATCH = 3  # a batch of as few gives batch normalisation no statistics to speak of
COLLAPSE_SHARE = 1 / 3  # a fit that scores less than this share of the cell's best so far has not converged
MIN_BEST_SCORE = 0.03  # of the scale: a best score below it is none that a fit could fall from
MAX_USELESS_SCORE = 0.001  # of the scale: a run whose scores all stay below has learned nothing
NOTABLE_DIP = 0.02  # of the scale: more than a score differs by chance, where nothing tells by how much it does
BOX_TOLERANCE = 0.05  # of a budget of boxes: what the last image of a purchase may go past it
MIN_RUNS_FOR_SPREAD = 3  # as few, and more, tell how much they differ by chance
REPEATABLE_DEVICES = (
    "cpu",
    ", deterministic",
)  # how the name of a device begins, or ends, whose results are exactly repeated


@dataclass(frozen=True)
class Fault:
    """One thing that should not be so."""

    check: str
    experiment: str
    where: str  # a strategy, a cell, a label count
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


Findings = Iterator[tuple[str, str]]  # where, words


def find_faults(experiment: Experiment) -> list[Fault]:
    """Every fault of an experiment, check by check. [] where all is well."""
    return [
        Fault(name, experiment.title, where, words)
        for name, check in CHECKS.items()
        for where, words in check(experiment)
    ]


def round_0_agrees(experiment: Experiment) -> Findings:
    """Nothing is selected yet, so every strategy of a seed starts from the same images and scores the same; but for
    the score of those that train something beside the model, where a schedule starts from no label, and between devices
    or on one that does not repeat its results. Of a paper's curves: the means of equally many runs are the same, or no
    further apart than the spreads that are told explain."""
    if experiment.schedule is not None and not experiment.schedule.initial:
        return
    if not experiment.runs:
        yield from check_published_starts(experiment)
    for runs in runs_by_seed(experiment).values():
        [(usual, _)] = Counter(run.start_fingerprint for run in runs).most_common(1)
        yield from ((run.name, "starts from other data or images") for run in runs if run.start_fingerprint != usual)
        for same in comparable_groups(
            [run for run in runs if run.start_fingerprint == usual and not run.has_companion]
        ):
            [(common, _)] = Counter(map(round_0_score, same)).most_common(1)
            others = ((run.name, round_0_score(run)) for run in same if round_0_score(run) != common)
            yield from ((where, f"{score:g} in round 0, where others score {common:g}") for where, score in others)


def runs_by_seed(experiment: Experiment) -> dict[int, list[Run]]:
    """The runs that have a round 0, by their seed."""
    groups: dict[int, list[Run]] = defaultdict(list)
    for run in experiment.all_runs:
        if run.header is not None and run.records and run.records[0].round == 0:
            groups[run.seed].append(run)
    return groups


def comparable_groups(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Groups of runs whose round 0 must score the same: all, where it does; else those of one training and one device
    that repeats its results exactly."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    if len(set(map(round_0_score, runs))) > 1:
        for run in runs:
            device = next((one.device for one in run.measurements if one.round == 0), REPEATABLE_DEVICES[0])
            if device.startswith(REPEATABLE_DEVICES[0]) or device.endswith(REPEATABLE_DEVICES[1]):
                groups[device, run.variant.training].append(run)
    return groups.values()


def round_0_score(run: Run) -> float:
    """What round 0 of a run scores."""
    assert run.header is not None
    return run.records[0].scores[run.header.task_metric.name]


def check_published_starts(experiment: Experiment) -> Findings:
    """The curves of a paper that do not start where most others over as many runs do."""
    groups: dict[int, list[Curve]] = defaultdict(list)
    for curve in experiment.curves.values():
        if np.isfinite(curve.mean_R[0]) and not curve.has_companion:
            groups[curve.num_runs].append(curve)
    for curves in groups.values():
        [(common, _)] = Counter(float(curve.mean_R[0]) for curve in curves).most_common(1)
        usual = next(curve for curve in curves if curve.mean_R[0] == common)
        for curve in curves:
            if abs(curve.mean_R[0] - common) > chance_difference(curve, usual):
                yield curve.strategy, f"{curve.mean_R[0]:g} in round 0, where others score {common:g}"


def chance_difference(first: Curve, second: Curve) -> float:
    """How far apart the means of equally many, but other runs are in round 0 in 19 cases of 20; 0 where the spreads are
    not told, by which runs would be known to be others."""
    if first.std_R is None or second.std_R is None or first.num_runs < 2:
        return 0.0
    error = math.hypot(first.std_R[0], second.std_R[0]) / math.sqrt(first.num_runs)
    return student_quantile(2 * first.num_runs - 2, 0.975) * error if math.isfinite(error) else 0.0


def within_budget(experiment: Experiment) -> Findings:
    """Replayed from the indices: exact sizes, each image once, from the pool, none that is held out, and each paid.
    Under a budget of boxes: enough of them each round; by how many the last image goes past it is not recorded. Of a
    paper's curves, which have no indices: all strategies have the same label counts."""
    for run in experiment.all_runs:
        if run.header is None or experiment.schedule is None:
            continue
        for words in check_purchases(run, experiment.schedule):
            yield run.name, words
    if not experiment.runs:
        yield from check_published_counts(experiment)


def check_purchases(run: Run, schedule: Schedule) -> Iterator[str]:
    """What is wrong with the purchases of a cell."""
    assert run.header is not None
    seen, num_seen = set[int](), 0
    in_order, charged = has_distinct_images(run), num_held_out_paid(run)
    boxes, start = 0.0, run.records[0].cost.get("boxes", 0.0) if run.records else 0.0
    for record in run.records:
        told = f"round {record.round}"
        wanted = schedule.budget if record.round or not schedule.initial else schedule.initial
        exact = record.round == 0 or schedule.budget_in == "images"
        if exact and len(record.bought) != wanted:
            yield f"{told} buys {plural(len(record.bought), 'image')} of a budget of {wanted}"
        num_seen += len(record.bought)
        if not in_order:
            yield from (f"{told} buys {words}" for words in check_purchase(record, seen, run.header))
            num_seen = len(seen)
        if record.num_labelled != num_seen:
            yield f"{told} was trained on {plural(record.num_labelled, 'image')}, though {num_seen} were bought"
        if record.cost.get("images") != num_seen + charged:
            yield f"{told} is charged {record.cost.get('images', 0):g} images for {num_seen} bought"
        if record.cost.get("boxes", boxes) < boxes:
            yield f"{told} is charged fewer boxes than the round before"
        boxes = record.cost.get("boxes", boxes)
        left = run.header.num_pool - num_seen - len(set(run.header.held_out))
        if schedule.budget_in == "boxes" and boxes - start < record.round * schedule.budget and left:
            yield f"{told} has bought {boxes - start:g} boxes since round 0 of {record.round * schedule.budget}"


def num_held_out_paid(run: Run) -> int:
    """Held-out images that a cell pays for, from its first round on: all where its strategy reads them, or none."""
    assert run.header is not None
    num_held_out, first = len(set(run.header.held_out)), run.records[0] if run.records else None
    return num_held_out if first and first.cost.get("images") == len(first.bought) + num_held_out else 0


def has_distinct_images(run: Run) -> bool:
    """Whether all that was bought or is held out are different images of the pool, as it should be."""
    assert run.header is not None
    every_N = np.sort(np.concatenate([run.header.held_out, *(record.bought for record in run.records)]))
    inside = not len(every_N) or (every_N[0] >= 0 and every_N[-1] < run.header.num_pool)
    return bool(inside and (every_N[1:] > every_N[:-1]).all())


def check_purchase(record: Record, bought_before: set[int], header: Header) -> Iterator[str]:
    """What of a purchase should not have been bought. Adds the purchase to those `seen`."""
    bought, held_out = set(record.bought), set(header.held_out)
    if twice := len(record.bought) - len(bought):
        yield f"{plural(twice, 'image')} twice"
    if again := len(bought & bought_before):
        yield f"{plural(again, 'image')} bought before"
    if taken := len(bought & held_out):
        yield f"{plural(taken, 'image')} of the held-out set"
    if outside := sum(not 0 <= index < header.num_pool for index in bought):
        yield f"{plural(outside, 'image')} not in the pool"
    bought_before |= bought


def check_published_counts(experiment: Experiment) -> Findings:
    """Where a strategy of a paper was trained on another number of images than most others (one more or less is
    rounding), unless all paid for as many boxes. How far apart rounds are is the paper's choice."""
    boxes = [mean_over_runs(curve.cost["boxes"]) for curve in experiment.curves.values() if "boxes" in curve.cost]
    if len(boxes) == len(experiment.curves) and are_boxes_equal(boxes):
        return
    counts = {name: mean_over_runs(curve.num_labelled_SR) for name, curve in experiment.curves.items()}
    for number, round_ in enumerate(experiment.rounds):
        there = {name: float(count_R[number]) for name, count_R in counts.items() if np.isfinite(count_R[number])}
        usual = Counter(there.values()).most_common(1)[0][0] if there else 0.0
        others = ((name, count) for name, count in there.items() if abs(count - usual) > 1)
        yield from ((name, f"round {round_} has {count:,.0f} images, of others {usual:,.0f}") for name, count in others)


def are_boxes_equal(boxes_by_strategy: Sequence[Floats]) -> bool:
    """Whether these strategies have paid for as many boxes in each round, as far as whole images allow."""
    boxes_AR = np.array(boxes_by_strategy)
    least_R, most_R = np.fmin.reduce(boxes_AR), np.fmax.reduce(boxes_AR)
    return bool((most_R <= (1 + BOX_TOLERANCE) * least_R)[np.isfinite(least_R)].all())


def no_common_dip(experiment: Experiment) -> Findings:
    """No label count at which every strategy (three at least) scores less than in the rounds before and after it, and
    by more than chance: what all share comes from training, not from selection. Asked of scores that rise."""
    for number in range(1, len(experiment.rounds) - 1) if experiment.metric.higher_is_better else ():
        curves = [curve for curve in experiment.curves.values() if dip_depths(curve, number)]
        dips = len(curves) >= 3 and all(has_dip(curve, number) for curve in curves)
        if dips and np.mean(mean_dip_depths(curves, number)) > chance_depth(experiment, curves, number):
            yield f"{experiment.num_labelled_R[number]:,.0f} images", f"all {len(curves)} strategies dip"


def dip_depths(curve: Curve, column: int) -> dict[int, float]:
    """By seed, 0 for a paper's mean: how far a round is below the middle of those around it, where all are there."""
    before_S, value_S, after_S = curve.value_SR[:, column - 1 : column + 2].T
    below_S = (before_S + after_S) / 2 - value_S
    return {seed: float(d) for seed, d in zip(curve.seeds or (0,), below_S, strict=False) if np.isfinite(d)}


def has_dip(curve: Curve, column: int) -> bool:
    """Whether the mean of the runs that have this round and both around it dips there."""
    around_S3 = curve.value_SR[:, column - 1 : column + 2]
    before, value, after = around_S3[np.isfinite(around_S3).all(1)].mean(0)
    return bool(value < min(before, after))


def mean_dip_depths(curves: Sequence[Curve], column: int) -> list[float]:
    """The mean depth over the strategies, seed by seed: a seed's strategies share what their fits draw."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for seed, one in dip_depths(curve, column).items():
            by_seed[seed].append(one)
    return [float(np.mean(those)) for those in by_seed.values()]


def chance_depth(experiment: Experiment, curves: Sequence[Curve], column: int) -> float:
    """How deep a common dip is by chance in 39 cases of 40, as the seeds differ, or the spreads that a paper tells have
    it; a notable share of the scale where neither is known."""
    depth_S = mean_dip_depths(curves, column)
    num_runs, spread = len(depth_S), float(np.std(depth_S, ddof=1)) if len(depth_S) > 1 else math.nan
    if not any(curve.seeds for curve in curves):
        num_runs = min(curve.num_runs for curve in curves)
        spread = float(np.mean([published_depth_std(curve, column) for curve in curves]))
    if num_runs < MIN_RUNS_FOR_SPREAD or not math.isfinite(spread):
        return NOTABLE_DIP * score_scale(experiment)
    return student_quantile(num_runs - 1, 0.975) * spread / math.sqrt(num_runs)


def published_depth_std(curve: Curve, column: int) -> float:
    """The standard deviation over the runs of the depth of a round, from what a paper tells of three rounds; NaN where
    it does not."""
    if curve.std_R is None:
        return math.nan
    before, value, after = curve.std_R[column - 1 : column + 2]
    return math.hypot(before / 2, value, after / 2)


def score_scale(experiment: Experiment) -> float:
    """The best score that there can be: 1 where no score is above it, else 100."""
    return 100.0 if best_score(experiment.curves.values()) > 1 else 1.0


def no_tail_batch(experiment: Experiment) -> Findings:
    """No fit with a batch of a few images, far fewer than its recipe asks for, where layers take their statistics from
    the batch. Asked of the tasks that tell in what batches they train."""
    for run in experiment.all_runs:
        for record in run.records:
            smallest, size = record.smallest_batch, intended_batch_size(run, record)
            if smallest is not None and smallest <= MAX_TINY_BATCH and 2 * smallest <= size:
                yield run.name, f"round {record.round}: a batch of {smallest} of {record.num_labelled} images"


def intended_batch_size(run: Run, record: Record) -> float:
    """Images in a batch as the recipe has them: as the record tells, older ones by a parameter of the task."""
    if record.batch_size is not None or run.header is None:
        return record.batch_size or 0
    told = plugin_parameters(run.header.cell, "task").get("batch_size")
    return told if isinstance(told, int) else math.inf


def rounds_are_whole(experiment: Experiment) -> Findings:
    """Rounds 0, 1, 2 ... each once, and no line of a file that is torn or damaged."""
    for run in experiment.all_runs:
        if run.damage:
            yield run.name, run.damage


def fits_converged(experiment: Experiment) -> Findings:
    """No score below a third of the cell's best so far, and none of round 0 below a third of the median seed's; but
    where that is hardly a score itself, or less is better."""
    if not experiment.metric.higher_is_better:
        return
    least = MIN_BEST_SCORE * score_scale(experiment)
    for curve in experiment.all_curves:
        median = float(np.nanmedian(curve.value_SR[:, 0])) if np.isfinite(curve.value_SR[:, 0]).any() else 0.0
        before_SR = np.insert(curve.value_SR[:, :-1], 0, median, axis=1)
        best_SR = np.fmax.accumulate(before_SR, axis=1)
        for row, number in np.argwhere((curve.value_SR < COLLAPSE_SHARE * best_SR) & (best_SR >= least)):
            value, best = curve.value_SR[row, number], best_SR[row, number]
            words = f"round {number} scores {value:.4g}, after {best:.4g}: not converged"
            yield row_name(curve, int(row)), words


def row_name(curve: Curve, row: int) -> str:
    """A row of a curve: strategy and seed, where it is told."""
    return f"{curve.strategy} seed {curve.seeds[row]}{curve.variant.description}" if curve.seeds else curve.strategy


def models_are_of_use(experiment: Experiment) -> Findings:
    """No model that predicts one class for all of the test set, where that has more; no detector that finds no box, or
    boxes of one class only; no run of several rounds that all score next to nothing, unless less is better."""
    for run in experiment.all_runs:
        counts = {record.round: class_counts(record) for record in run.records}
        for number, words in {0: "nothing is predicted", 1: "one class is predicted"}.items():
            useless = [round_ for round_, (predicted, there) in counts.items() if predicted == number < min(2, there)]
            if useless:
                there = counts[useless[0]][1]
                yield run.name, f"{words} for the whole test set, which has {there:g}, in {format_rounds(useless)}"
    for curve in experiment.all_curves if experiment.metric.higher_is_better else ():
        for row, values_R in enumerate(curve.value_SR):
            there_R = values_R[np.isfinite(values_R)]
            if len(there_R) > 1 and there_R.max() < MAX_USELESS_SCORE * score_scale(experiment):
                yield row_name(curve, row), f"no round scores more than {there_R.max():.2g}: next to nothing"


def class_counts(record: Record) -> tuple[float, float]:
    """How many classes a model predicts on the test set, and how many there are; infinite where it is not told."""
    scores = record.scores
    return scores.get("num_predicted_classes", math.inf), scores.get("num_test_classes", math.inf)


def format_rounds(rounds: Sequence[int]) -> str:
    """`round 2`, `rounds 0 to 2`, `rounds 0, 2, 3`."""
    if len(rounds) == 1:
        return f"round {rounds[0]}"
    whole = len(rounds) > 2 and rounds[-1] - rounds[0] == len(rounds) - 1
    return f"rounds {rounds[0]} to {rounds[-1]}" if whole else f"rounds {', '.join(map(str, rounds))}"


def data_are_sound(experiment: Experiment) -> Findings:
    """Nothing that the task says of its images makes results wrong: no test image is in the pool."""
    faults = dict.fromkeys(words for sources in experiment.image_sources for words in sources.faults)
    yield from (("the data", words) for words in faults)


def one_set_of_versions(experiment: Experiment) -> Findings:
    """No cell whose rounds were made with several versions of a library that decides numbers, and no minor version of
    torch that some cells were made with and others were not. What else differs between cells the caption tells."""
    minors = defaultdict[str, list[str]](list)
    for run in experiment.all_runs:
        rounds = sorted(run.measurements, key=lambda one: one.round)
        told = {one.round: one.versions for one in rounds if one.round < len(run.records)}
        for name, numbers in find_mixed_versions(told.values()).items():
            first = next(n for n, versions in told.items() if compared_part(name, versions.get(name, "")) == numbers[1])
            yield run.name, f"made with {name} {', then '.join(numbers)}; the second from round {first} on"
        if len(known := {minor_version(versions["torch"]) for versions in told.values() if "torch" in versions}) == 1:
            minors[known.pop()].append(run.name)
    if len(minors) > 1:
        parts = [f"{number} for {plural(len(names), 'cell')}, as {names[0]}" for number, names in minors.items()]
        yield "torch", f"cells were made with several minor versions: {', '.join(parts)}"


def selection_was_blind(experiment: Experiment) -> Findings:
    """No strategy chose by labels that it had not paid for."""
    for name, curve in experiment.curves.items():
        yield from ((name, dagger) for dagger in curve.daggers)


CHECKS: dict[str, Callable[[Experiment], Findings]] = {
    "round 0 agrees": round_0_agrees,
    "within budget": within_budget,
    "rounds are whole": rounds_are_whole,
    "no common dip": no_common_dip,
    "no tail batch": no_tail_batch,
    "fits converged": fits_converged,
    "models are of use": models_are_of_use,
    "data are sound": data_are_sound,
    "one set of versions": one_set_of_versions,
    "selection was blind": selection_was_blind,
}
