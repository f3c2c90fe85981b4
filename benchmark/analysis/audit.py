"""The audit: checks that find faults of a run in its records. The caption of a table names the checks that fail."""

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

MAX_TINY_BATCH = 3  # images in a batch that are too few for the statistics of batch normalisation
COLLAPSE_SHARE = 1 / 3  # a fit that scores below this share of the cell's best score so far has not converged
MIN_BEST_SCORE = 0.03  # share of the scale; best scores below it are too low for a collapse to be visible
MAX_USELESS_SCORE = 0.001  # share of the scale; a run whose scores all stay below it has learned nothing
NOTABLE_DIP = 0.02  # share of the scale; where the spread of scores is unknown, a dip of this depth counts as real
BOX_TOLERANCE = 0.05  # share of a budget of boxes by which the last image of a purchase may exceed it
MIN_RUNS_FOR_SPREAD = 3  # the fewest runs from which the spread of scores is estimated
REPEATABLE_DEVICES = ("cpu", ", deterministic")  # prefix and suffix of devices that repeat results exactly


@dataclass(frozen=True)
class Fault:
    """A fault that a check found in the records."""

    check: str
    experiment: str
    where: str  # a strategy, a run or a number of labels
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


Findings = Iterator[tuple[str, str]]  # where the fault is, and its message


def find_faults(experiment: Experiment) -> list[Fault]:
    """Runs all checks on an experiment and returns the faults that they find."""
    return [
        Fault(name, experiment.title, where, message)
        for name, check in CHECKS.items()
        for where, message in check(experiment)
    ]


def round_0_agrees(experiment: Experiment) -> Findings:
    """All strategies of a seed start from the same images and score the same in round 0, where nothing is selected yet.
    Scores may differ for strategies that train something beside the model, between devices, and on devices that do not
    repeat their results exactly. Schedules without an initial set are not checked. For a paper: means over equally many
    runs are the same in round 0, or differ by no more than the published standard deviations explain."""
    has_initial_set = experiment.schedule is None or experiment.schedule.initial > 0
    if not has_initial_set or experiment.task in experiment.source_info.get("one_pass", []):
        return
    if not experiment.runs:
        yield from check_published_starts(experiment)
    for runs in runs_by_seed(experiment).values():
        [(usual_start, _)] = Counter(run.start_fingerprint for run in runs).most_common(1)
        deviating = [run for run in runs if run.start_fingerprint != usual_start]
        yield from ((run.name, "starts from other data or images") for run in deviating)
        rest = [run for run in runs if run.start_fingerprint == usual_start and not run.has_companion]
        for group in comparable_groups(rest):
            [(usual, _)] = Counter(map(round_0_score, group)).most_common(1)
            others = ((run.name, round_0_score(run)) for run in group if round_0_score(run) != usual)
            yield from ((where, f"{score:g} in round 0, where others score {usual:g}") for where, score in others)


def runs_by_seed(experiment: Experiment) -> dict[int, list[Run]]:
    """Groups the runs that have a round 0 by their seed."""
    groups: dict[int, list[Run]] = defaultdict(list)
    for run in experiment.all_runs:
        if run.header is not None and run.records and run.records[0].round == 0:
            groups[run.seed].append(run)
    return groups


def comparable_groups(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Groups runs of one seed whose scores in round 0 must be equal.

    Returns nothing where all scores are equal. Otherwise runs are grouped by device and by variant of training; runs on
    devices that do not repeat results exactly are left out."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    if len(set(map(round_0_score, runs))) > 1:
        for run in runs:
            device = next((row.device for row in run.measurements if row.round == 0), REPEATABLE_DEVICES[0])
            if device.startswith(REPEATABLE_DEVICES[0]) or device.endswith(REPEATABLE_DEVICES[1]):
                groups[device, run.variant.training].append(run)
    return groups.values()


def round_0_score(run: Run) -> float:
    """Returns the score of a run in round 0."""
    assert run.header is not None
    return run.records[0].scores[run.header.task_metric.name]


def check_published_starts(experiment: Experiment) -> Findings:
    """Finds the curves of a paper whose first mean differs from that of most curves over as many runs."""
    groups: dict[int, list[Curve]] = defaultdict(list)
    for curve in experiment.curves.values():
        if np.isfinite(curve.mean_R[0]) and not curve.has_companion:
            groups[curve.num_runs].append(curve)
    for curves in groups.values():
        [(usual, _)] = Counter(float(curve.mean_R[0]) for curve in curves).most_common(1)
        usual_curve = next(curve for curve in curves if curve.mean_R[0] == usual)
        for curve in curves:
            if abs(curve.mean_R[0] - usual) > chance_difference(curve, usual_curve):
                yield curve.strategy, f"{curve.mean_R[0]:g} in round 0, where others score {usual:g}"


def chance_difference(first: Curve, second: Curve) -> float:
    """Returns the difference of two means in round 0 that independent runs exceed in 1 case of 20.

    It is 0 where no standard deviations are published: strategies are then taken to share the runs of round 0."""
    if first.std_R is None or second.std_R is None or first.num_runs < 2:
        return 0.0
    error = math.hypot(first.std_R[0], second.std_R[0]) / math.sqrt(first.num_runs)
    return student_quantile(2 * first.num_runs - 2, 0.975) * error if math.isfinite(error) else 0.0


def within_budget(experiment: Experiment) -> Findings:
    """Every purchase has the size of the budget, and each image is bought once, is from the pool, is not held out, and
    is paid for. Under a budget of boxes each round buys enough boxes; by how much the last image exceeds the budget is
    not recorded. For a paper, which publishes no indices: all strategies have the same numbers of labels."""
    for run in experiment.all_runs:
        if run.header is None or experiment.schedule is None:
            continue
        for message in check_purchases(run, experiment.schedule):
            yield run.name, message
    if not experiment.runs:
        yield from check_published_counts(experiment)


def check_purchases(run: Run, schedule: Schedule) -> Iterator[str]:
    """Replays the purchases of a run from its records and yields a message for each fault."""
    assert run.header is not None
    bought, num_bought = set[int](), 0
    all_valid, num_paid_besides = has_distinct_images(run), num_held_out_paid(run)
    boxes, initial_boxes = 0.0, run.records[0].cost.get("boxes", 0.0) if run.records else 0.0
    for record in run.records:
        place = f"round {record.round}"
        budget = schedule.budget if record.round else schedule.num_images(0)
        is_exact = record.round == 0 or schedule.budget_in == "images"
        if is_exact and len(record.bought) != budget:
            yield f"{place} buys {plural(len(record.bought), 'image')} of a budget of {budget}"
        num_bought += len(record.bought)
        if not all_valid:
            yield from (f"{place} buys {fault}" for fault in check_purchase(record, bought, run.header))
            num_bought = len(bought)
        if record.num_labelled != num_bought:
            yield f"{place} was trained on {plural(record.num_labelled, 'image')}, though {num_bought} were bought"
        if record.cost.get("images") != num_bought + num_paid_besides:
            yield f"{place} is charged {record.cost.get('images', 0):g} images for {num_bought} bought"
        if record.cost.get("boxes", boxes) < boxes:
            yield f"{place} is charged fewer boxes than the round before"
        boxes = record.cost.get("boxes", boxes)
        num_left = run.header.num_pool - num_bought - len(set(run.header.held_out))
        if schedule.budget_in == "boxes" and boxes - initial_boxes < record.round * schedule.budget and num_left:
            paid = f"{boxes - initial_boxes:g} boxes since round 0"
            yield f"{place} has bought {paid} of {record.round * schedule.budget}"


def num_held_out_paid(run: Run) -> int:
    """Returns the number of held-out images that a run pays for.

    It is all of them if the strategy reads their labels, as the cost of the first round shows, and else none."""
    assert run.header is not None
    num_held_out, first = len(set(run.header.held_out)), run.records[0] if run.records else None
    return num_held_out if first and first.cost.get("images") == len(first.bought) + num_held_out else 0


def has_distinct_images(run: Run) -> bool:
    """Whether the purchases and the held-out set are pairwise different images of the pool."""
    assert run.header is not None
    every_N = np.sort(np.concatenate([run.header.held_out, *(record.bought for record in run.records)]))
    inside = not len(every_N) or (every_N[0] >= 0 and every_N[-1] < run.header.num_pool)
    return bool(inside and (every_N[1:] > every_N[:-1]).all())


def check_purchase(record: Record, bought_before: set[int], header: Header) -> Iterator[str]:
    """Yields what is wrong with the images of a purchase, and adds them to `bought_before`."""
    bought, held_out = set(record.bought), set(header.held_out)
    if num_duplicates := len(record.bought) - len(bought):
        yield f"{plural(num_duplicates, 'image')} twice"
    if num_repeated := len(bought & bought_before):
        yield f"{plural(num_repeated, 'image')} bought before"
    if num_held_out := len(bought & held_out):
        yield f"{plural(num_held_out, 'image')} of the held-out set"
    if num_outside := sum(not 0 <= index < header.num_pool for index in bought):
        yield f"{plural(num_outside, 'image')} not in the pool"
    bought_before |= bought


def check_published_counts(experiment: Experiment) -> Findings:
    """Finds published strategies that were trained on another number of images than most others.

    A difference of one is rounding. Nothing is reported where all strategies paid for equally many boxes. How many
    images lie between two rounds is the paper's choice, and not checked."""
    boxes = [mean_over_runs(curve.cost["boxes"]) for curve in experiment.curves.values() if "boxes" in curve.cost]
    if len(boxes) == len(experiment.curves) and are_boxes_equal(boxes):
        return
    counts = {name: mean_over_runs(curve.num_labelled_SR) for name, curve in experiment.curves.items()}
    for column, number in enumerate(experiment.rounds):
        in_round = {name: float(count_R[column]) for name, count_R in counts.items() if np.isfinite(count_R[column])}
        usual = Counter(in_round.values()).most_common(1)[0][0] if in_round else 0.0
        others = ((name, count) for name, count in in_round.items() if abs(count - usual) > 1)
        yield from ((name, f"round {number} has {count:,.0f} images, of others {usual:,.0f}") for name, count in others)


def are_boxes_equal(boxes_by_strategy: Sequence[Floats]) -> bool:
    """Whether these strategies paid for equally many boxes in each round, up to BOX_TOLERANCE."""
    boxes_AR = np.array(boxes_by_strategy)
    least_R, most_R = np.fmin.reduce(boxes_AR), np.fmax.reduce(boxes_AR)
    return bool((most_R <= (1 + BOX_TOLERANCE) * least_R)[np.isfinite(least_R)].all())


def no_common_dip(experiment: Experiment) -> Findings:
    """At no number of labels do all strategies (three or more) score lower than in the rounds before and after it, and
    by more than chance explains: a dip that all strategies share comes from training, not from selection. Checked where
    higher scores are better."""
    for column in range(1, len(experiment.rounds) - 1) if experiment.metric.higher_is_better else ():
        curves = [curve for curve in experiment.curves.values() if dip_depths(curve, column)]
        all_dip = len(curves) >= 3 and all(has_dip(curve, column) for curve in curves)
        if all_dip and np.mean(mean_dip_depths(curves, column)) > chance_depth(experiment, curves, column):
            yield f"{experiment.num_labelled_R[column]:,.0f} images", f"all {len(curves)} strategies dip"


def dip_depths(curve: Curve, column: int) -> dict[int, float]:
    """Returns by seed how far the score of a round lies below the mean of its neighbours.

    Seeds that lack one of the three rounds are left out. The key is 0 for the mean of a paper."""
    before_S, value_S, after_S = curve.value_SR[:, column - 1 : column + 2].T
    below_S = (before_S + after_S) / 2 - value_S
    return {seed: float(d) for seed, d in zip(curve.seeds or (0,), below_S, strict=False) if np.isfinite(d)}


def has_dip(curve: Curve, column: int) -> bool:
    """Whether the mean over the runs that have all three rounds is lower in this round than in both neighbours."""
    around_S3 = curve.value_SR[:, column - 1 : column + 2]
    before, value, after = around_S3[np.isfinite(around_S3).all(1)].mean(0)
    return bool(value < min(before, after))


def mean_dip_depths(curves: Sequence[Curve], column: int) -> list[float]:
    """Returns the mean depth over the strategies for each seed, whose fits share random numbers."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for seed, depth in dip_depths(curve, column).items():
            by_seed[seed].append(depth)
    return [float(np.mean(depths)) for depths in by_seed.values()]


def chance_depth(experiment: Experiment, curves: Sequence[Curve], column: int) -> float:
    """Returns the depth that a common dip exceeds by chance in 1 case of 40.

    It follows from the spread over seeds, or from the standard deviations that a paper publishes; NOTABLE_DIP where
    neither is known."""
    depth_S = mean_dip_depths(curves, column)
    num_runs, spread = len(depth_S), float(np.std(depth_S, ddof=1)) if len(depth_S) > 1 else math.nan
    if not any(curve.seeds for curve in curves):
        num_runs = min(curve.num_runs for curve in curves)
        spread = float(np.mean([published_depth_std(curve, column) for curve in curves]))
    if num_runs < MIN_RUNS_FOR_SPREAD or not math.isfinite(spread):
        return NOTABLE_DIP * score_scale(experiment)
    return student_quantile(num_runs - 1, 0.975) * spread / math.sqrt(num_runs)


def published_depth_std(curve: Curve, column: int) -> float:
    """Returns the standard deviation over the runs of a dip's depth, from the published deviations of three rounds.
    It is NaN where none are published."""
    if curve.std_R is None:
        return math.nan
    before, value, after = curve.std_R[column - 1 : column + 2]
    return math.hypot(before / 2, value, after / 2)


def score_scale(experiment: Experiment) -> float:
    """Returns the largest possible score: 1 where no score exceeds 1, else 100."""
    return 100.0 if best_score(experiment.curves.values()) > 1 else 1.0


def no_tail_batch(experiment: Experiment) -> Findings:
    """No model with batch normalisation is trained on a batch of three images or fewer where its recipe asks for at
    least twice as many. Checked for tasks that record their batch sizes."""
    for run in experiment.all_runs:
        for record in run.records:
            smallest, size = record.smallest_batch, intended_batch_size(run, record)
            if smallest is not None and smallest <= MAX_TINY_BATCH and 2 * smallest <= size:
                yield run.name, f"round {record.round}: a batch of {smallest} of {record.num_labelled} images"


def intended_batch_size(run: Run, record: Record) -> float:
    """Returns the batch size of the recipe: from the record, or from the task's parameter in older records."""
    if record.batch_size is not None or run.header is None:
        return record.batch_size or 0
    batch_size = plugin_parameters(run.header.cell, "task").get("batch_size")
    return batch_size if isinstance(batch_size, int) else math.inf


def rounds_are_whole(experiment: Experiment) -> Findings:
    """Every file of records holds the rounds 0, 1, 2 ... once each and in order, and no line is torn or damaged."""
    for run in experiment.all_runs:
        if run.damage:
            yield run.name, run.damage


def fits_converged(experiment: Experiment) -> Findings:
    """No score is below one third of the run's best so far, and no score of round 0 is below one third of the median
    over the seeds. Checked where higher scores are better and the best score is above 3 % of the scale."""
    if not experiment.metric.higher_is_better:
        return
    min_best = MIN_BEST_SCORE * score_scale(experiment)
    for curve in experiment.all_curves:
        median = float(np.nanmedian(curve.value_SR[:, 0])) if np.isfinite(curve.value_SR[:, 0]).any() else 0.0
        before_SR = np.insert(curve.value_SR[:, :-1], 0, median, axis=1)
        best_SR = np.fmax.accumulate(before_SR, axis=1)
        for row, column in np.argwhere((curve.value_SR < COLLAPSE_SHARE * best_SR) & (best_SR >= min_best)):
            value, best = curve.value_SR[row, column], best_SR[row, column]
            message = f"round {column} scores {value:.4g}, after {best:.4g}: not converged"
            yield row_name(curve, int(row)), message


def row_name(curve: Curve, row: int) -> str:
    """Returns the strategy and, where the row of a curve is one run, its seed."""
    return f"{curve.strategy} seed {curve.seeds[row]}{curve.variant.description}" if curve.seeds else curve.strategy


def models_are_of_use(experiment: Experiment) -> Findings:
    """No classifier predicts a single class for the whole test set where that holds several; no detector finds no box,
    or boxes of one class only; no run of several rounds scores next to nothing in all of them (checked where higher
    scores are better)."""
    for run in experiment.all_runs:
        counts = {record.round: class_counts(record) for record in run.records}
        for limit, fault in {0: "nothing is predicted", 1: "one class is predicted"}.items():
            useless = [number for number, (predicted, total) in counts.items() if predicted == limit < min(2, total)]
            if useless:
                total = counts[useless[0]][1]
                yield run.name, f"{fault} for the whole test set, which has {total:g}, in {format_rounds(useless)}"
    for curve in experiment.all_curves if experiment.metric.higher_is_better else ():
        for row, values_R in enumerate(curve.value_SR):
            finite = values_R[np.isfinite(values_R)]
            if len(finite) > 1 and finite.max() < MAX_USELESS_SCORE * score_scale(experiment):
                yield row_name(curve, row), f"no round scores more than {finite.max():.2g}: next to nothing"


def class_counts(record: Record) -> tuple[float, float]:
    """Returns the numbers of classes that a model predicts and that the test set has; infinity where not recorded."""
    scores = record.scores
    return scores.get("num_predicted_classes", math.inf), scores.get("num_test_classes", math.inf)


def format_rounds(rounds: Sequence[int]) -> str:
    """Formats round numbers: `round 2`, `rounds 0 to 2`, `rounds 0, 2, 3`."""
    if len(rounds) == 1:
        return f"round {rounds[0]}"
    is_range = len(rounds) > 2 and rounds[-1] - rounds[0] == len(rounds) - 1
    return f"rounds {rounds[0]} to {rounds[-1]}" if is_range else f"rounds {', '.join(map(str, rounds))}"


def data_are_sound(experiment: Experiment) -> Findings:
    """The task reports nothing about its images that makes results wrong, such as test images in the pool."""
    faults = dict.fromkeys(fault for sources in experiment.image_sources for fault in sources.faults)
    yield from (("the data", fault) for fault in faults)


def one_set_of_versions(experiment: Experiment) -> Findings:
    """All rounds of a run were made with the same versions of the libraries that decide numbers, and all runs with the
    same minor version of torch. Other differences between runs stand in the caption of the table."""
    runs_by_minor = defaultdict[str, list[str]](list)
    for run in experiment.all_runs:
        rows = sorted(run.measurements, key=lambda row: row.round)
        by_round = {row.round: row.versions for row in rows if row.round < len(run.records)}
        for name, numbers in find_mixed_versions(by_round.values()).items():
            second = numbers[1]
            first = next(n for n, known in by_round.items() if compared_part(name, known.get(name, "")) == second)
            yield run.name, f"made with {name} {', then '.join(numbers)}; the second from round {first} on"
        minors = {minor_version(versions["torch"]) for versions in by_round.values() if "torch" in versions}
        if len(minors) == 1:
            runs_by_minor[minors.pop()].append(run.name)
    if len(runs_by_minor) > 1:
        parts = [f"{minor} for {plural(len(names), 'cell')}, as {names[0]}" for minor, names in runs_by_minor.items()]
        yield "torch", f"cells were made with several minor versions: {', '.join(parts)}"


def selection_was_blind(experiment: Experiment) -> Findings:
    """No strategy selected images by labels that it had not paid for."""
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
