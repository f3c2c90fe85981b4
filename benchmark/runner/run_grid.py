"""Carries out a run: the missing rounds of a grid are run and recorded. A `Watcher` is informed; nothing is printed
here."""

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
from benchmark.experiment.run_settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.records import anonymous
from benchmark.records.store import Store
from benchmark.runner import (
    forecast,
    gallery_writer,
    interim_looks,
    pool_embeddings,
    record_checks,
    resume,
    tracking,
)
from benchmark.runner.events import Event, Failure, has_incompatible_schedule
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.gpu_hours import stop_after_gpu_hours
from benchmark.runner.launchers.child_process import WorkerProcess
from benchmark.runner.launchers.launcher import Launcher
from benchmark.runner.machine import prepare_machine
from benchmark.runner.measuring import device_name
from benchmark.runner.missing_packages import find_missing_packages, run_with_packages
from benchmark.runner.task_loading import TaskLoader, check_encoders
from benchmark.system import activity
from benchmark.text.words import plural

LOG = logging.getLogger("benchmark")


class Watcher:
    """Follows a run. This one writes remarks to the log `benchmark`; the command line shows more."""

    def say(self, line: str) -> None:
        """Shows a remark to the user."""
        LOG.info("%s", line)

    def show_stages(self, listener: activity.Listener = activity.ignore_stage) -> AbstractContextManager[None]:
        """Shows what a block is doing, and passes its reports on to `listener`."""
        return activity.report_to(listener)

    def show_events(self, events: Iterable[Event], rounds_left: Mapping[Cell, int]) -> Iterator[Event]:
        """Passes events on and shows them.

        Args:
            events: what happens in the run.
            rounds_left: the number of rounds that each cell lacks.
        """
        yield from events


@dataclass(frozen=True)
class Job:
    """A run whose settings are checked."""

    settings: Settings
    grid: Grid
    cells: list[Cell]  # in the order of running
    store: Store
    lazy_tasks: LazyTasks
    watcher: Watcher
    early_workers: list[WorkerProcess]  # processes that are started already


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    failures: list[Failure]
    unfinished_cells: list[Cell]  # their records lack rounds
    num_cells: int
    store: Store

    @property
    def problems(self) -> list[str]:
        """Lines on what failed and what is not recorded completely; [] where every cell is complete."""
        lines = [f"failed: {line}" for line in dict.fromkeys(failure.line for failure in self.failures)]
        if self.failures:
            can_succeed = any(not has_incompatible_schedule(failure) for failure in self.failures)
            retry = " and the same command tries them again, once the cause is fixed" * can_succeed
            traces = f"tracebacks are in {self.store.folder / 'failures'}"
            lines.append(f"{plural(len(self.failures), 'cell')} failed; {traces}; recorded rounds stay{retry}")
        if others := len(set(self.unfinished_cells) - {failure.cell for failure in self.failures}):
            are = "is" if others == 1 else "are"
            same = "the same command goes on from here"
            lines.append(f"{others} of {plural(self.num_cells, 'cell')} {are} not finished; {same}")
        return lines


def prepare(settings: Settings, watcher: Watcher, early_workers: list[WorkerProcess]) -> Job:
    """Checks the settings of a run, and returns what is to be run. The plug-ins must have been discovered.

    Args:
        settings: the settings of the run.
        watcher: is informed.
        early_workers: worker processes that are started already, see `child_process.start_early`.

    Raises:
        ValueError: the settings do not fit together, or there is nothing to run.
    """
    store, lazy_tasks = Store(settings.out, watcher.say, settings.anonymous), LazyTasks(settings, watcher)
    grid = extend_auto_grid(config.build_grid(settings, lazy_tasks.num_pool, store.schedules()), store)
    for line in grid.remarks:
        watcher.say(line)
    cells = list_cells(grid, settings, lazy_tasks)
    if settings.anonymous:
        anonymous.check_parameters(cells)
    return Job(settings, grid, cells, store, lazy_tasks, watcher, early_workers)


def execute(job: Job, provenance: Mapping[str, str], write_answers: Callable[[], None]) -> Outcome:
    """Runs what is missing, then writes the answers; the results folder stays locked until both are done.

    Args:
        job: what is to be run.
        provenance: the command and version that the manifest records; see `records.provenance`.
        write_answers: writes tables and other answers from the records.

    Raises:
        ValueError: nothing could run.
    """
    settings, grid, store, cells, say = job.settings, job.grid, job.store, job.cells, job.watcher.say
    experiments = [manifest_entry(experiment) for experiment in grid.experiments]
    with store.lock():
        if settings.rerun_changed:
            for line in record_checks.set_aside_changed(grid, store, job.lazy_tasks.tasks):
                say(line)
        rounds_left = record_checks.count_rounds_left(cells, store)
        record_checks.check_versions(grid, store.merge_experiments(experiments), store)
        for line in resume.restart_changed_cells(rounds_left, experiments, store, mix=settings.mix_versions):
            say(line)
        recorded_cells = [cell for cell in cells if rounds_left.get(cell, 0) < cell.schedule.rounds]
        for line in record_checks.copy_shorter_records(recorded_cells, store):
            say(line)
        for line in record_checks.edited_code_remarks(cells, store):
            say(line)
        store.update_manifest(grid.name, experiments, provenance)
        failures = run_missing_rounds(job, rounds_left)
        if failures and all(failure.whole_task for failure in failures) and len(failures) == len(cells):
            raise ValueError("; ".join(dict.fromkeys(failure.line for failure in failures)))  # nothing could run
        cells = extend_auto_grid(grid, store).cells()
        unfinished = record_checks.find_unfinished_cells(cells, store)
        write_answers()
    return Outcome(failures, unfinished, len(cells), store)


def extend_auto_grid(grid: Grid, store: Store) -> Grid:
    """Returns the grid; experiments of seeds=auto get the seeds of the look that their records have reached."""
    return interim_looks.extend_grid(grid, store) if any(experiment.auto for experiment in grid.experiments) else grid


class LazyTasks:
    """The tasks of a run on its machine, created at first use: until then only settings are checked."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self.settings, self.watcher = settings, watcher

    @cached_property
    def tasks(self) -> TaskLoader:
        """The loader of the tasks."""
        settings = self.settings if self.settings.dry_run else driver_settings(self.settings)
        return TaskLoader(prepare_machine(settings, Path(settings.out) / ".fits"))

    def num_pool(self, spec: Spec) -> int:
        """Returns the number of images in a task's pool. ValueError where the task cannot be built."""
        with self.watcher.show_stages():
            task = self.tasks(spec)
        if isinstance(task, ValueError):
            raise ValueError(f"{spec.label}: {task}") from task
        if isinstance(task, Exception):
            raise task
        return task.num_pool


def list_cells(grid: Grid, settings: Settings, lazy_tasks: LazyTasks) -> list[Cell]:
    """Returns the cells of a grid in the order of running.

    Raises:
        ValueError: a task cannot serve a strategy. A task that the command line describes and that cannot be built is
            reported instead.
    """
    try:
        return grid.cells(by_seed=settings.gpu_hours is not None)
    except ValueError:
        for experiment in grid.experiments:
            if experiment.name not in settings.experiments:
                lazy_tasks.num_pool(experiment.task)
        raise


def run_missing_rounds(job: Job, rounds_left: dict[Cell, int]) -> list[Failure]:
    """Runs what is missing, and returns what failed; with seeds=auto, later looks add cells to `rounds_left`."""
    settings, grid, store, tasks, say = job.settings, job.grid, job.store, job.lazy_tasks.tasks, job.watcher.say
    fits = FitCache(store.folder / ".fits", settings.cache_gb, device_name(tasks.machine))
    launcher, num_left = Launcher.from_settings(settings, store, fits, tasks, job.early_workers), len(rounds_left)
    num_rounds = plural(sum(rounds_left.values()), "round")
    cells_left = f"{plural(len(grid.cells()), 'cell')}, {num_left} to do, {num_rounds}"
    say(f"{cells_left}, on {launcher.describe_place(num_left)}; records in {store.folder}")
    if hint := launcher.hint(num_left):
        say(hint)
    if settings.launcher == "local":
        check_encoders(rounds_left, tasks.machine)
    has_auto_seeds = any(experiment.auto for experiment in grid.experiments)
    error_by_task = find_missing_packages(grid, tasks) if settings.launcher == "local" else {}

    def run(cells: Sequence[Cell]) -> Generator[Event]:
        return run_with_packages(cells, error_by_task, store, launcher.run, say)

    all_events = run_auto_seeds(job, rounds_left, run) if has_auto_seeds else run(list(rounds_left))
    events = stop_after_gpu_hours(all_events, settings.gpu_hours, settings.gpus_per_cell or 1.0, say)
    events = tracking.mirror_events(events, settings.tracking, store.folder, say)

    done = set[str]()  # names of experiments

    def draw_galleries(*experiments: Experiment) -> None:
        missing = [experiment for experiment in experiments if experiment.name not in done]
        done.update(experiment.name for experiment in missing)
        for line in gallery_writer.update_galleries(missing, store, fits, tasks):
            say(line)

    if launcher.trains_here(num_left):  # workers would wait for the driver meanwhile
        without_looks = [experiment for experiment in grid.experiments if experiment.auto is None]
        events = gallery_writer.call_when_finished(events, without_looks, rounds_left, draw_galleries)
    on_cpu = tasks.machine.device.type == "cpu"
    warner = forecast.LongRunWarner(rounds_left, tasks, say, launcher.num_jobs) if on_cpu else activity.ignore_stage
    with job.watcher.show_stages(warner):
        shown_events = job.watcher.show_events(events, rounds_left)
        failures = [event for event in shown_events if isinstance(event, Failure)]
        with activity.stage("drawing what was selected"):
            experiments = extend_auto_grid(grid, store).experiments
            draw_galleries(*experiments)
        if settings.embed_round is not None:
            for line in pool_embeddings.write_embeddings(experiments, settings.embed_round, store, fits, tasks):
                say(line)
    return failures


def run_auto_seeds(
    job: Job, rounds_left: dict[Cell, int], run: Callable[[Sequence[Cell]], Generator[Event]]
) -> Generator[Event]:
    """Runs look after look, see `interim_looks.run_looks`, and keeps the manifest up to date."""

    def update_manifest(experiments: Iterable[Experiment]) -> None:
        job.store.update_manifest(job.grid.name, list(map(manifest_entry, experiments)))

    return interim_looks.run_looks(job.grid, rounds_left, job.store, run, update_manifest, job.watcher.say)


def driver_settings(settings: Settings) -> Settings:
    """Returns the settings of this process. Under Ray it trains nothing, and may run where no GPU is."""
    return replace(settings, device="auto") if settings.launcher == "ray" and settings.device == "cuda" else settings


def manifest_entry(experiment: Experiment) -> dict[str, object]:
    """Returns an experiment as the manifest stores it."""
    cells = [
        {
            "path": cell.path, "key": cell.key, "strategy": cell.strategy.label, "seed": cell.seed,
            "dagger": list(cell.daggers), "companion": cell.has_companion, **cell.variant.non_defaults,
        }
        for cell in experiment.cells()
    ]  # fmt: skip
    schedule = experiment.schedule.identity()
    auto = {"auto": experiment.auto.identity()} if experiment.auto else {}
    return {"name": experiment.name, "task": experiment.task.label, "schedule": schedule, **auto, "cells": cells}
