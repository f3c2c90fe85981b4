"""What a run has to do and how long that will take: `run ... dry_run=true`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmark.api import Machine, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.experiment.spec import Spec
from benchmark.records.store import Store
from benchmark.runner import loop
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launch import TaskLoader, checked_header, find_shorter_cells
from benchmark.runner.time_limit import time_limit
from benchmark.system import activity
from benchmark.text.words import describe_error, plural


@dataclass(frozen=True)
class Pace:
    """Seconds, as measured: of a fit for each labelled image, of a scoring, of a selection; and images it buys."""

    fit: float
    score: float
    select: float
    images_per_round: float


PACE_SECONDS = 10.0  # of a fit, that its pace is taken from
MIN_HOURS_TO_WARN = 1.0  # which a run says beforehand that it takes on a CPU
UNKNOWN_PACE = Pace(math.nan, math.nan, math.nan, math.nan)


NOTE = """\
cells, rounds, fits: strategies with one seed, their rounds, and trainings that no other cell shares with them
fit h, score h, select h: hours of training, of scoring on the test set, and of choosing"""


@dataclass(frozen=True)
class ForecastRow:
    """What one strategy of an experiment has to do, at most: cells may end early."""

    experiment: str
    strategy: str
    num_cells: int
    num_rounds: int
    num_fits: int  # those that no other cell shares with it
    fit: float  # hours of a device; NaN where the task cannot be had here
    score: float
    select: float

    def table_row(self, device_share: float) -> dict[str, object]:
        """The row as a table shows it; share: the part of a device that a cell has."""
        hours = {f"{what} h": rounded_hours(device_share * getattr(self, what)) for what in ("fit", "score", "select")}
        counts = {"cells": self.num_cells, "rounds": self.num_rounds, "fits": self.num_fits}
        return {"experiment": self.experiment, "strategy": self.strategy, **counts, **hours}


def rounded_hours(hours: float) -> float | None:
    """Hours of three digits; None where they are not known."""
    return None if math.isnan(hours) else float(f"{hours:.3g}")


def forecast_rows(
    grid: Grid, rounds_left: dict[Cell, int], store: Store, fits: FitCache, tasks: TaskLoader, say: Callable[[str], None],
    failures: list[str],
) -> list[ForecastRow]:  # fmt: skip
    """A row for each strategy that has cells to do, in the grid's order; those whose pilot fails join `failed`. Raises
    Misfit. Where a task cannot be had, its rows tell no hours, and it joins `failed` too.

    The pace of a strategy is that of the rounds it has recorded; where there are none, of a pilot: the fit of round 0,
    its scoring and one selection, whose fit the run then finds in the cache. A fit takes as long as it has images.

    Args:
        left: The rounds that cells lack; emptied.
    """
    shared = {first_fit_key(cell) for cell in grid.cells() if rounds_left.get(cell, 0) < cell.schedule.rounds}
    given = rounds_left, shared, store, fits, tasks, say, failures
    return [row for one in grid.experiments for row in experiment_rows(one, *given)]


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
    """The rows of one experiment; its cells leave `left`, first fits that are counted join `shared`, and strategies
    whose pilot failed join `failed`. Raises Misfit."""
    for strategy in experiment.strategies:
        cells = {
            cell: rounds_left.pop(cell)
            for cell in experiment.cells()
            if cell.strategy == strategy and cell in rounds_left
        }
        if not cells:
            continue
        pace = recorded_pace([cell for cell in experiment.cells() if cell.strategy == strategy], store)
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
            told = f"fit {1000 * pace.fit:.3g} ms an image, score {pace.score:.3g} s, select {pace.select:.3g} s"
            say(f"pilot: {experiment.name} {strategy.label}: {told}")
        yield build_row(experiment, cells, pace, counted_fits)


def build_row(experiment: Experiment, cells: dict[Cell, int], pace: Pace, counted_fits: set[object]) -> ForecastRow:
    """The rounds that these cells lack at that pace."""
    num_images, num_fits, num_selections = count_remaining_work(cells, pace.images_per_round, counted_fits)
    rounds, strategy = sum(cells.values()), next(iter(cells)).strategy.label
    hours = (pace.fit * num_images / 3600, pace.score * rounds / 3600, pace.select * num_selections / 3600)
    return ForecastRow(experiment.name, strategy, len(cells), rounds, num_fits, *hours)


def count_remaining_work(
    cells: Mapping[Cell, int], images_per_round: float, counted_fits: set[object]
) -> tuple[float, int, int]:
    """What is left to do of cells that lack so many rounds each.

    Args:
        cells: The rounds that each cell lacks.
        bought: Images that a round buys.
        shared: First fits that are counted elsewhere; those that are counted here join them.

    Returns:
        Labelled images summed over all fits, the number of fits, and the number of selections.
    """
    num_images, num_fits, num_selections = 0.0, 0, 0
    for cell, num_left in cells.items():
        for number in range(cell.schedule.rounds - num_left, cell.schedule.rounds):
            num_selections += number >= cell.schedule.rounds - cell.schedule.num_acquisitions
            opens = number == 0 and cell.schedule.initial > 0
            if opens and first_fit_key(cell) in counted_fits:
                continue
            counted_fits |= {first_fit_key(cell)} if opens else set()
            num_fits += 1
            num_images += cell.schedule.initial + (number + (not cell.schedule.initial)) * images_per_round
    return num_images, num_fits, num_selections


@dataclass
class LongRunWarner:
    """Listens to the fits of a run on a CPU: says what the run is going to take there, once a task, and which settings
    take less."""

    rounds_left: Mapping[Cell, int]  # rounds that each cell of the run lacks at its start
    tasks: TaskLoader
    say: Callable[[str], None]
    handled_tasks: set[str] = field(default_factory=set)  # labels of tasks

    def __call__(self, stage: activity.Stage) -> None:
        """Takes a report; the first of a fit that has run for a while tells its pace."""
        seconds = time.monotonic() - stage.start_time
        if not stage.epochs or seconds < PACE_SECONDS or stage.num_done == stage.num_done_before:
            return
        for label in self.tasks.by_label.keys() - self.handled_tasks:
            self.handled_tasks.add(label)
            self.warn_if_long(label, (stage.num_done - stage.num_done_before) / seconds, stage.epochs)

    def warn_if_long(self, label: str, images_per_second: float, epochs: int) -> None:
        """Says how long the fits on a task take at so many images a second, if that is long."""
        cells = {cell: rounds for cell, rounds in self.rounds_left.items() if cell.task.label == label}
        by_box = any(cell.schedule.budget_in == "boxes" for cell in cells)  # images a round are not known then
        num_images, num_fits = 0.0, 0
        shared = set[object]()
        for cell, rounds in cells.items():
            images, fits, _ = count_remaining_work({cell: rounds}, 0.0 if by_box else cell.schedule.budget, shared)
            num_images, num_fits = num_images + images, num_fits + fits
        hours = num_images * epochs / images_per_second / 3600
        if hours < MIN_HOURS_TO_WARN:
            return
        spec = next(iter(cells)).task
        small = cpu_task_label(spec)
        instead = f"; smaller, for a CPU: 'tasks=[{small}]'" if small else ""
        how_many = f"{plural(num_fits, 'fit')} of {plural(epochs, 'epoch')}"
        long = ("at least " if by_box else "about ") + (f"{hours:.1f}" if hours < 10 else f"{hours:,.0f}")
        self.say(f"{label}: {how_many} take {long} hours on this CPU, at {images_per_second:,.3g} images/s{instead}")


def cpu_task_label(spec: Spec) -> str:
    """The label of a task with the settings that its recipe has for CPUs; "" where there are none, or they are set."""
    recipe = spec.plugin.recipe(spec.values)
    settings = recipe.for_cpu() if hasattr(recipe, "for_cpu") else {}
    kept = {name: value for name, value in spec.values.items() if name != "published" and not hasattr(recipe, name)}
    return spec.plugin.label({**kept, **settings}) if settings else ""


def first_fit_key(cell: Cell) -> object:
    """What names the fit of round 0: equal ones are trained once."""
    return cell.task.label, cell.seed, cell.variant.training, cell.schedule.initial, loop.companion_and_owner(cell)[1]


def recorded_pace(cells: Sequence[Cell], store: Store) -> Pace | None:
    """The pace of what is recorded; None where no selection is."""
    images, fit, score, select, bought = [], [], [], [], []
    shorter = find_shorter_cells(cells, store)
    for cell in (shorter.get(cell, cell) for cell in cells):
        took = {one.round: one.seconds for one in store.measurements(cell.path)}
        for record in store.records(cell.path)[1]:
            if (seconds := took.get(record.round)) is None:  # its measurement was damaged
                continue
            images.append(record.num_labelled)
            fit.append(seconds["fit"])
            score.append(seconds["score"])
            if record.round >= cell.schedule.rounds - cell.schedule.num_acquisitions:
                select.append(seconds["select"])
                bought.append(len(record.bought))
    return Pace(sum(fit) / sum(images), *(float(np.mean(one)) for one in (score, select, bought))) if select else None


def measure_pilot(cell: Cell, task: Task, fits: FitCache, machine: Machine) -> Pace:
    """The pace of round 0 and of the choice after it."""
    begin = loop.draw_initial(cell, task)
    first = begin.initial if len(begin.initial) else np.arange(cell.schedule.budget)
    fitted = loop.fit_round(cell, task, fits, first, 0)
    clock, purchases = loop.Clock(), loop.Acquisition(cell, task, fits, begin, begin.initial[:0])
    with loop.scoring_stage(cell, 0), clock("score"):
        task.score(fitted.model)
    if cell.schedule.num_acquisitions:
        seen = purchases.current_view(fitted, [begin.initial])
        first_choice = cell.schedule.rounds - cell.schedule.num_acquisitions
        with (
            loop.selection_stage(cell, first_choice),
            clock("select"),
            time_limit(machine.select_timeout, cell.strategy.label),
        ):
            purchases.select(seen, first_choice)
        clock.separate_encoding(seen.encoding_time)
        clock.seconds.pop("encode", None)  # made now, and from the cache when it runs
        clock.seconds["select"] /= cell.schedule.num_acquisitions if cell.schedule.one_pass else 1
    labels = task.cost(first)[cell.schedule.budget_in]
    bought = cell.schedule.budget / max(labels, 1) * len(first)
    return Pace(fitted.seconds / len(first), **clock.seconds, images_per_round=bought)


def summary(rows: Sequence[ForecastRow], device_share: float, device: str) -> str:
    """All of it in one line."""
    cells, rounds, num_fits = (sum(getattr(row, f"num_{what}") for row in rows) for what in ("cells", "rounds", "fits"))
    timed = [row.fit + row.score + row.select for row in rows if not math.isnan(row.fit)]
    hours = f"{device_share * sum(timed):.3g} hours of {device}" if timed or not rows else "hours are not known"
    rest = f", and those of {len(rows) - len(timed)} rows that are not known" if 0 < len(timed) < len(rows) else ""
    spared = f"{rounds - num_fits} of {plural(rounds, 'fit')} are shared" if rounds else "nothing is left to do"
    return f"{plural(cells, 'cell')}, {plural(rounds, 'round')}, {plural(num_fits, 'fit')} ({spared}): {hours}{rest}"
