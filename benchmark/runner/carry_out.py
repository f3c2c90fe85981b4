"""Carries out a run: what is missing of a grid becomes records. Whoever watches is told; nothing is printed here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmark import config
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.experiment.settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.records import anonymous
from benchmark.records.store import Store
from benchmark.runner import forecast, gallery, launch, looks, resume, tracking
from benchmark.runner.fits import Fits
from benchmark.runner.loop import device_name
from benchmark.runner.machine import prepared
from benchmark.system import activity
from benchmark.text.words import plural

LOG = logging.getLogger("benchmark")


class Watcher:
    """Who watches a run. This one writes its remarks to the log `benchmark`; the command line shows more."""

    def say(self, line: str) -> None:
        """Takes a remark that a person should read."""
        LOG.info("%s", line)

    def stages(self, also: activity.Listener = activity.ignore) -> AbstractContextManager[None]:
        """Shows what a block is doing, and passes the reports of it on to `also`."""
        return activity.reported_to(also)

    def follow(self, events: Iterable[launch.Event], left: Mapping[Cell, int]) -> Iterator[launch.Event]:
        """Passes events on and shows them; left: rounds that each cell lacks."""
        yield from events


@dataclass(frozen=True)
class Job:
    """A run whose settings are sound."""

    chosen: Settings
    grid: Grid
    cells: list[Cell]  # in the order of running
    store: Store
    built: Built
    watcher: Watcher


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    failed: list[launch.Failure]
    unfinished: list[Cell]  # their records lack rounds
    num_cells: int
    store: Store

    @property
    def lines(self) -> list[str]:
        """What failed, and what is not recorded to its end, in words; [] where every cell is."""
        lines = [f"failed: {line}" for line in dict.fromkeys(one.line for one in self.failed)]
        if self.failed:
            again = " and the same command tries them again, once the cause is mended"
            kept = f"what is recorded stays{again * any(not launch.misfit(one) for one in self.failed)}"
            traces = f"tracebacks are in {self.store.folder / 'failures'}"
            lines.append(f"{plural(len(self.failed), 'cell')} failed; {traces}; {kept}")
        if others := len(set(self.unfinished) - {one.cell for one in self.failed}):
            are = "is" if others == 1 else "are"
            goes_on = "the same command goes on from here"
            lines.append(f"{others} of {plural(self.num_cells, 'cell')} {are} not finished; {goes_on}")
        return lines


def prepare(chosen: Settings, watcher: Watcher) -> Job:
    """What these settings ask for. The plug-ins must have been discovered.

    Raises:
        ValueError: something does not fit, or there is nothing to run.
    """
    store, built = Store(chosen.out, watcher.say, chosen.anonymous), Built(chosen, watcher)
    grid = at_look(config.read(chosen, built.num_pool, store.schedules()), store)
    for line in grid.remarks:
        watcher.say(line)
    cells = sound_cells(grid, chosen, built)
    if chosen.anonymous:
        anonymous.check(cells)
    return Job(chosen, grid, cells, store, built, watcher)


def execute(job: Job, command: Mapping[str, str], answer: Callable[[], None]) -> Outcome:
    """Runs what is missing, then gives the answer that it was run for, while nobody else may write into the folder.

    Args:
        job: what is to run.
        command: what the manifest says of it; see `records.provenance`.
        answer: writes what the records tell.

    Raises:
        ValueError: nothing could run.
    """
    chosen, grid, store, cells, say = job.chosen, job.grid, job.store, job.cells, job.watcher.say
    wanted = [described(experiment) for experiment in grid.experiments]
    with store.lock():
        if chosen.rerun_changed:
            for line in launch.set_aside_changed(grid, store, job.built.tasks):
                say(line)
        left = launch.rounds_left(cells, store)
        launch.check_versions(grid, store.joined(wanted), store)
        for line in resume.begin_anew(left, wanted, store, mix=chosen.mix_versions):
            say(line)
        for line in launch.take_over([cell for cell in cells if left.get(cell, 0) < cell.schedule.rounds], store):
            say(line)
        for line in launch.edited(cells, store):
            say(line)
        store.ask(grid.name, wanted, command)
        failed = work(job, left)
        if failed and all(one.whole_task for one in failed) and len(failed) == len(cells):
            raise ValueError("; ".join(dict.fromkeys(one.line for one in failed)))  # nothing could run
        cells = at_look(grid, store).cells()
        unfinished = launch.unfinished(cells, store)
        answer()
    return Outcome(failed, unfinished, len(cells), store)


def at_look(grid: Grid, store: Store) -> Grid:
    """The grid; of seeds=auto with the seeds of the look that its records have come to."""
    return looks.extended(grid, store) if any(one.auto for one in grid.experiments) else grid


class Built:
    """The tasks of a run on its machine, made when the first is asked for: until then the words are checked."""

    def __init__(self, chosen: Settings, watcher: Watcher) -> None:
        self.chosen, self.watcher = chosen, watcher

    @cached_property
    def tasks(self) -> launch.Tasks:
        """The tasks."""
        chosen = self.chosen if self.chosen.dry_run else of_driver(self.chosen)
        return launch.Tasks(prepared(chosen, Path(chosen.out) / ".fits"))

    def num_pool(self, spec: Spec) -> int:
        """Images in a task's pool. ValueError where the task cannot be had."""
        with self.watcher.stages():
            task = self.tasks(spec)
        if isinstance(task, ValueError):
            raise ValueError(f"{spec.label}: {task}") from task
        if isinstance(task, Exception):
            raise task
        return task.num_pool


def sound_cells(grid: Grid, chosen: Settings, built: Built) -> list[Cell]:
    """The cells of a grid in the order of running. ValueError where a task cannot serve a strategy, or, said before
    that, where a task that the command line describes cannot be had."""
    try:
        return grid.cells(tables_first=chosen.gpu_hours is not None)
    except ValueError:
        for one in grid.experiments:
            if one.name not in chosen.experiments:
                built.num_pool(one.task)
        raise


def work(job: Job, left: dict[Cell, int]) -> list[launch.Failure]:
    """Runs what is missing, and returns what failed; left: rounds that each cell lacks, cells may join."""
    chosen, grid, store, tasks, say = job.chosen, job.grid, job.store, job.built.tasks, job.watcher.say
    machine, where = tasks.machine, device_name(tasks.machine)
    fits = Fits(store.folder / ".fits", chosen.cache_gb, where)
    local = chosen.launcher == "local"
    on = where if local else "Ray"
    rest = f"{len(left)} to do, {plural(sum(left.values()), 'round')}, on {on}; records in {store.folder}"
    say(f"{plural(len(grid.cells()), 'cell')}, {rest}")
    if local:
        launch.check_encoders(left, machine)

    def run(cells: Sequence[Cell]) -> Generator[launch.Event]:
        return launch.local(cells, store, fits, tasks) if local else on_ray(list(cells), store, chosen)

    ran = in_looks(job, left, run) if any(one.auto for one in grid.experiments) else run(list(left))
    events = launch.within(ran, chosen.gpu_hours, chosen.gpus_per_cell or 1.0, say)
    events = tracking.mirrored(events, chosen.tracking, store.folder, say)

    pictured = set[str]()

    def pictures(*experiments: Experiment) -> None:
        missing = [one for one in experiments if one.name not in pictured]
        pictured.update(one.name for one in missing)
        for words in gallery.update(missing, store, fits, tasks):
            say(words)

    if local:  # Ray's workers would wait for the driver meanwhile
        events = gallery.followed(events, [one for one in grid.experiments if one.auto is None], left, pictures)
    forewarning = forecast.Forewarning(left, tasks, say) if machine.device.type == "cpu" else activity.ignore
    with job.watcher.stages(forewarning):
        failed = [event for event in job.watcher.follow(events, left) if isinstance(event, launch.Failure)]
        with activity.stage("drawing what was selected"):
            pictures(*at_look(grid, store).experiments)
    return failed


def in_looks(
    job: Job, left: dict[Cell, int], run: Callable[[Sequence[Cell]], Generator[launch.Event]]
) -> Generator[launch.Event]:
    """`looks.look_after_look`, with the manifest kept up to date."""

    def ask(experiments: Iterable[Experiment]) -> None:
        job.store.ask(job.grid.name, list(map(described, experiments)))

    return looks.look_after_look(job.grid, left, job.store, run, ask, job.watcher.say)


def on_ray(cells: list[Cell], store: Store, chosen: Settings) -> Generator[launch.Event]:
    """`ray_launch.remote`. ValueError where Ray is not installed."""
    try:
        from benchmark.runner import ray_launch
    except ImportError as error:
        raise ValueError("launcher=ray: not installed: pip install -e '.[ray]'") from error
    return ray_launch.remote(cells, store, chosen)


def of_driver(chosen: Settings) -> Settings:
    """The settings of this process, which under Ray trains nothing and may be where no GPU is."""
    return replace(chosen, device="auto") if chosen.launcher == "ray" and chosen.device == "cuda" else chosen


def described(experiment: Experiment) -> dict[str, object]:
    """An experiment as the manifest keeps it."""
    cells = [
        {
            "path": cell.path, "key": cell.key, "strategy": cell.strategy.label, "seed": cell.seed,
            "dagger": list(cell.daggers), "companion": cell.companion, **cell.variant.told,
        }
        for cell in experiment.cells()
    ]  # fmt: skip
    schedule = experiment.schedule.identity()
    auto = {"auto": experiment.auto.identity()} if experiment.auto else {}
    return {"name": experiment.name, "task": experiment.task.label, "schedule": schedule, **auto, "cells": cells}
