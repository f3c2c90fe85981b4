"""How much is left to run and how long that will take: `run ... dry_run=true`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmark.api import Machine, Requirement, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.experiment.spec import Spec
from benchmark.records.store import Store
from benchmark.runner import loop
from benchmark.runner.acquisition import Acquisition, draw_initial, selection_stage
from benchmark.runner.fit_cache import FitCache, companion_and_owner, fit_round
from benchmark.runner.measuring import Clock
from benchmark.runner.record_checks import checked_header, find_shorter_cells
from benchmark.runner.task_loading import TaskLoader
from benchmark.runner.time_limit import time_limit
from benchmark.system import activity
from benchmark.text.words import describe_error, plural


@dataclass(frozen=True)
class Pace:
    """How long a strategy takes, as measured."""

    fit: float  # seconds per labelled image
    score: float  # seconds per round
    select: float  # seconds per round
    images_per_round: float  # that a selection buys


PACE_SECONDS = 10.0  # how long a fit must have run before its pace is measured
MIN_HOURS_TO_WARN = 1.0  # longer runs on a CPU are announced at their start
UNKNOWN_PACE = Pace(math.nan, math.nan, math.nan, math.nan)


NOTE = """\
cells, rounds, fits: runs of a strategy with one seed, their rounds, and their trainings that no other cell shares
fit h, score h, select h: hours of training, of scoring on the test set, and of selecting"""


@dataclass(frozen=True)
class ForecastRow:
    """What one strategy of an experiment has left to run, at most: cells may end early."""

    experiment: str
    strategy: str
    num_cells: int
    num_rounds: int
    num_fits: int  # without those that a cell of an earlier row shares
    fit: float  # hours of training on a whole device; NaN where the task cannot be built here
    score: float  # hours of scoring, as `fit`
    select: float  # hours of selecting, as `fit`

    def table_row(self, device_share: float) -> dict[str, object]:
        """Returns the row of the table. `device_share`: the share of a device that a cell occupies."""
        stages = ("fit", "score", "select")
        hours = {f"{stage} h": rounded_hours(device_share * getattr(self, stage)) for stage in stages}
        counts = {"cells": self.num_cells, "rounds": self.num_rounds, "fits": self.num_fits}
        return {"experiment": self.experiment, "strategy": self.strategy, **counts, **hours}


def rounded_hours(hours: float) -> float | None:
    """Returns hours with three significant digits; None where they are unknown."""
    return None if math.isnan(hours) else float(f"{hours:.3g}")


def forecast_rows(
    grid: Grid, rounds_left: dict[Cell, int], store: Store, fits: FitCache, tasks: TaskLoader,
    say: Callable[[str], None], failures: list[str],
) -> list[ForecastRow]:  # fmt: skip
    """Returns a row for each strategy with cells to run, in the grid's order.

    The pace of a strategy is that of its recorded rounds. If there are none, a pilot measures it: the fit of round 0,
    its scoring and one selection; the run then finds this fit in the cache. The time of a fit is taken as proportional
    to its number of images.

    Args:
        grid: the grid to run.
        rounds_left: the rounds that each cell lacks; all entries are removed.
        store: the results folder.
        fits: the cache for the pilot's fits.
        tasks: the tasks.
        say: shows a line to the user.
        failures: names of strategies whose pilot failed, and of experiments whose task cannot be built, are added. The
            rows of the latter have no hours, and neither have those of tasks whose data or packages are missing.

    Raises:
        IncompatibleScheduleError: a schedule does not fit its task.
        ValueError: a task cannot tell what it needs.
    """
    counted_fits = {first_fit_key(cell) for cell in grid.cells() if rounds_left.get(cell, 0) < cell.schedule.rounds}
    arguments = rounds_left, counted_fits, store, fits, tasks, say, failures
    return [row for experiment in grid.experiments for row in experiment_rows(experiment, *arguments)]


def experiment_rows(
    experiment: Experiment,
    rounds_left: dict[Cell, int],
    counted_fits: set[object],
    store: Store,
    fits: FitCache,
    tasks: TaskLoader,
    say: Callable[[str], None],
    failures: list[str],
) -> Iterator[ForecastRow]:
    """Yields the rows of one experiment.

    Its cells are removed from `rounds_left`, first fits that are counted are added to `counted_fits`, and strategies
    whose pilot failed to `failures`. Raises IncompatibleScheduleError.
    """
    for strategy in experiment.strategies:
        all_cells = [cell for cell in experiment.cells() if cell.strategy == strategy]
        cells = {cell: rounds_left.pop(cell) for cell in all_cells if cell in rounds_left}
        if not cells:
            continue
        pace = recorded_pace(all_cells, store)
        if pace is None and tasks.find_missing(experiment.task):
            yield build_row(experiment, cells, UNKNOWN_PACE, counted_fits)
            continue
        if pace is None:
            task = tasks(experiment.task)
            if isinstance(task, Exception):
                if experiment.name not in failures:
                    say(f"{experiment.name}: no hours: {experiment.task.label}: {task}")
                    failures.append(experiment.name)
                yield build_row(experiment, cells, UNKNOWN_PACE, counted_fits)
                continue
            checked_header(next(iter(cells)), task, store, tasks.machine)
            try:
                pace = measure_pilot(next(iter(cells)), task, fits, tasks.machine)
            except (IncompatibleScheduleError, KeyboardInterrupt):
                raise
            except BaseException as error:
                say(f"pilot: {experiment.name} {strategy.label} failed: {describe_error(error)}")
                failures.append(f"{experiment.name} {strategy.label}")
                continue
            seconds = f"fit {1000 * pace.fit:.3g} ms per image, score {pace.score:.3g} s, select {pace.select:.3g} s"
            say(f"pilot: {experiment.name} {strategy.label}: {seconds}")
        yield build_row(experiment, cells, pace, counted_fits)


def build_row(experiment: Experiment, cells: dict[Cell, int], pace: Pace, counted_fits: set[object]) -> ForecastRow:
    """Returns the row for the rounds that these cells lack at a pace."""
    num_images, num_fits, num_selections = count_remaining_work(cells, pace.images_per_round, counted_fits)
    rounds, strategy = sum(cells.values()), next(iter(cells)).strategy.label
    hours = (pace.fit * num_images / 3600, pace.score * rounds / 3600, pace.select * num_selections / 3600)
    return ForecastRow(experiment.name, strategy, len(cells), rounds, num_fits, *hours)


def count_remaining_work(
    cells: Mapping[Cell, int], images_per_round: float, counted_fits: set[object]
) -> tuple[float, int, int]:
    """Counts what cells have left to do.

    Args:
        cells: the number of rounds that each cell lacks.
        images_per_round: images that a round buys.
        counted_fits: first fits that are counted already; those that are counted here are added.

    Returns:
        The labelled images summed over all fits, the number of fits, and the number of selections.
    """
    num_images, num_fits, num_selections = 0.0, 0, 0
    for cell, num_left in cells.items():
        for number in range(cell.schedule.rounds - num_left, cell.schedule.rounds):
            num_selections += number >= cell.schedule.rounds - cell.schedule.num_acquisitions
            can_be_shared = number == 0 and cell.schedule.initial > 0
            if can_be_shared and first_fit_key(cell) in counted_fits:
                continue
            counted_fits |= {first_fit_key(cell)} if can_be_shared else set()
            num_fits += 1
            first = cell.schedule.initial or cell.schedule.first_budget or images_per_round
            num_images += first + number * images_per_round
    return num_images, num_fits, num_selections


@dataclass
class LongRunWarner:
    """Listens to the fits of a run on a CPU, and warns once per task if they will take long.

    The warning names settings that take less time.
    """

    rounds_left: Mapping[Cell, int]  # rounds that each cell of the run lacks at its start
    tasks: TaskLoader
    say: Callable[[str], None]
    num_jobs: int = 1  # cells that run side by side
    handled_tasks: set[str] = field(default_factory=set)  # labels of tasks

    def __call__(self, stage: activity.Stage) -> None:
        """Receives a report; the first one of a fit that has run for PACE_SECONDS gives its pace."""
        seconds = time.monotonic() - stage.start_time
        if not stage.epochs or seconds < PACE_SECONDS or stage.num_done == stage.num_done_before:
            return
        labels = {stage.task} if stage.worker else self.tasks.by_label.keys()
        for label in labels - self.handled_tasks:
            self.handled_tasks.add(label)
            self.warn_if_long(label, (stage.num_done - stage.num_done_before) / seconds, stage.epochs)

    def warn_if_long(self, label: str, images_per_second: float, epochs: int) -> None:
        """Says how long the fits of a task take at `images_per_second`, if that is MIN_HOURS_TO_WARN or more."""
        cells = {cell: rounds for cell, rounds in self.rounds_left.items() if cell.task.label == label}
        by_box = any(cell.schedule.budget_in == "boxes" for cell in cells)  # the images per round are unknown then
        num_images, num_fits, counted_fits = 0.0, 0, set[object]()
        for cell, rounds in cells.items():
            per_round = 0.0 if by_box else cell.schedule.budget
            images, fits, _ = count_remaining_work({cell: rounds}, per_round, counted_fits)
            num_images, num_fits = num_images + images, num_fits + fits
        num_processes = max(1, min(self.num_jobs, len(cells)))
        hours = num_images * epochs / images_per_second / 3600 / num_processes
        if hours < MIN_HOURS_TO_WARN:
            return
        small = cpu_task_label(next(iter(cells)).task)
        hint = f"; smaller, for a CPU: 'tasks=[{small}]'" if small else ""
        work = f"{plural(num_fits, 'fit')} of {plural(epochs, 'epoch')}"
        time_text = ("at least " if by_box else "about ") + (f"{hours:.1f}" if hours < 10 else f"{hours:,.0f}")
        place = "this CPU" if num_processes == 1 else f"this CPU in {num_processes} processes"
        self.say(f"{label}: {work} take {time_text} hours on {place}, at {images_per_second:,.3g} images/s{hint}")


def cpu_task_label(spec: Spec) -> str:
    """Returns the label of a task with its recipe's settings for CPUs; "" if it has none, or they are set already."""
    recipe = spec.plugin.recipe(spec.values)
    settings = recipe.for_cpu() if hasattr(recipe, "for_cpu") else {}
    other_values = {
        name: value for name, value in spec.values.items() if name != "published" and not hasattr(recipe, name)
    }
    return spec.plugin.label({**other_values, **settings}) if settings else ""


def first_fit_key(cell: Cell) -> object:
    """Returns what identifies the fit of round 0: cells with equal keys share it."""
    _, owner = companion_and_owner(cell)
    return cell.task.label, cell.seed, cell.variant.training, cell.schedule.initial, owner


def recorded_pace(cells: Sequence[Cell], store: Store) -> Pace | None:
    """Returns the pace of the recorded rounds; None where no selection is recorded."""
    images, fit, score, select, bought = [], [], [], [], []
    shorter = find_shorter_cells(cells, store)
    for cell in (shorter.get(cell, cell) for cell in cells):
        seconds_by_round = {measured.round: measured.seconds for measured in store.measurements(cell.path)}
        for record in store.records(cell.path)[1]:
            if (seconds := seconds_by_round.get(record.round)) is None:  # its measurement was damaged
                continue
            images.append(record.num_labelled)
            fit.append(seconds["fit"])
            score.append(seconds["score"])
            if record.round >= cell.schedule.rounds - cell.schedule.num_acquisitions:
                select.append(seconds["select"])
                bought.append(len(record.bought))
    if not select:
        return None
    return Pace(sum(fit) / sum(images), *(float(np.mean(values)) for values in (score, select, bought)))


def measure_pilot(cell: Cell, task: Task, fits: FitCache, machine: Machine) -> Pace:
    """Measures the pace of round 0 and of the selection after it."""
    initial_draw = draw_initial(cell, task)
    labelled = initial_draw.initial if len(initial_draw.initial) else np.arange(cell.schedule.num_images(0))
    fit = fit_round(cell, task, fits, labelled, 0)
    clock, acquisition = Clock(), Acquisition(cell, task, fits, initial_draw, initial_draw.initial[:0])
    with loop.scoring_stage(cell, 0), clock("score"):
        task.score(fit.model)
    if cell.schedule.num_acquisitions:
        view = acquisition.current_view(fit, [initial_draw.initial])
        round_number = cell.schedule.rounds - cell.schedule.num_acquisitions
        limit = time_limit(machine.select_timeout, cell.strategy.label)
        with selection_stage(cell, round_number), clock("select"), limit:
            acquisition.select(view, round_number)
        clock.separate_encoding(view.encoding_time)
        clock.seconds.pop("encode", None)  # encodings are computed now, and in the cache when the cell runs
        clock.seconds["select"] /= cell.schedule.num_acquisitions if cell.schedule.one_pass else 1
    num_labels = task.cost(labelled)[cell.schedule.budget_in]
    images_per_round = cell.schedule.budget / max(num_labels, 1) * len(labelled)
    return Pace(fit.seconds / len(labelled), **clock.seconds, images_per_round=images_per_round)


def summary(rows: Sequence[ForecastRow], device_share: float, device: str, num_jobs: int = 1) -> str:
    """Returns the whole forecast in one line.

    Args:
        rows: the rows of the forecast.
        device_share: the share of a device that a cell occupies.
        device: the name of the device.
        num_jobs: cells that will run side by side.
    """
    counts = ("num_cells", "num_rounds", "num_fits")
    cells, rounds, num_fits = (sum(getattr(row, count) for row in rows) for count in counts)
    timed = [row.fit + row.score + row.select for row in rows if not math.isnan(row.fit)]
    hours = f"{device_share * sum(timed):.3g} hours of {device}" if timed or not rows else "hours are not known"
    if timed and (num_processes := min(num_jobs, cells)) > 1:
        hours += f", {sum(timed) / num_processes:.3g} in {num_processes} processes"
    num_unknown = len(rows) - len(timed) if timed else 0
    rest = f", without {plural(num_unknown, 'row')} whose hours are not known" if num_unknown else ""
    shared = f"{rounds - num_fits} of {plural(rounds, 'fit')} are shared" if rounds else "nothing is left to do"
    return f"{plural(cells, 'cell')}, {plural(rounds, 'round')}, {plural(num_fits, 'fit')} ({shared}): {hours}{rest}"


def missing_lines(grid: Grid, tasks: TaskLoader) -> list[str]:
    """Returns a line for each package and each data set that is missing: where it comes from, and who needs it."""
    needed_by = dict[Requirement, list[str]]()
    for experiment in grid.experiments:
        for requirement in tasks.find_missing(experiment.task):
            needed_by.setdefault(requirement, []).append(experiment.name)
    return [f"missing: {part.name} ({', '.join(names)}): {part.source}" for part, names in needed_by.items()]
