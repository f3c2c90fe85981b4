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
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.loop import device_name
from benchmark.runner.machine import prepare_machine
from benchmark.system import activity
from benchmark.text.words import plural

LOG = logging.getLogger("benchmark")


class Watcher:
    """Who watches a run. This one writes its remarks to the log `benchmark`; the command line shows more."""

    def say(self, line: str) -> None:
        """Takes a remark that a person should read."""
        LOG.info("%s", line)

    def show_stages(self, listener: activity.Listener = activity.ignore_stage) -> AbstractContextManager[None]:
        """Shows what a block is doing, and passes the reports of it on to `also`."""
        return activity.report_to(listener)

    def show_events(self, events: Iterable[launch.Event], rounds_left: Mapping[Cell, int]) -> Iterator[launch.Event]:
        """Passes events on and shows them; left: rounds that each cell lacks."""
        yield from events


@dataclass(frozen=True)
class Job:
    """A run whose settings are sound."""

    settings: Settings
    grid: Grid
    cells: list[Cell]  # in the order of running
    store: Store
    lazy_tasks: LazyTasks
    watcher: Watcher


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    failures: list[launch.Failure]
    unfinished_cells: list[Cell]  # their records lack rounds
    num_cells: int
    store: Store

    @property
    def problems(self) -> list[str]:
        """What failed, and what is not recorded to its end, in words; [] where every cell is."""
        lines = [f"failed: {line}" for line in dict.fromkeys(one.line for one in self.failures)]
        if self.failures:
            again = " and the same command tries them again, once the cause is mended"
            kept = f"what is recorded stays{again * any(not launch.has_incompatible_schedule(one) for one in self.failures)}"
            traces = f"tracebacks are in {self.store.folder / 'failures'}"
            lines.append(f"{plural(len(self.failures), 'cell')} failed; {traces}; {kept}")
        if others := len(set(self.unfinished_cells) - {one.cell for one in self.failures}):
            are = "is" if others == 1 else "are"
            goes_on = "the same command goes on from here"
            lines.append(f"{others} of {plural(self.num_cells, 'cell')} {are} not finished; {goes_on}")
        return lines


def prepare(settings: Settings, watcher: Watcher) -> Job:
    """What these settings ask for. The plug-ins must have been discovered.

    Raises:
        ValueError: something does not fit, or there is nothing to run.
    """
    store, built = Store(settings.out, watcher.say, settings.anonymous), LazyTasks(settings, watcher)
    grid = extend_auto_grid(config.build_grid(settings, built.num_pool, store.schedules()), store)
    for line in grid.remarks:
        watcher.say(line)
    cells = list_cells(grid, settings, built)
    if settings.anonymous:
        anonymous.check_parameters(cells)
    return Job(settings, grid, cells, store, built, watcher)


def execute(job: Job, provenance: Mapping[str, str], write_answers: Callable[[], None]) -> Outcome:
    """Runs what is missing, then gives the answer that it was run for, while nobody else may write into the folder.

    Args:
        job: what is to run.
        command: what the manifest says of it; see `records.provenance`.
        answer: writes what the records tell.

    Raises:
        ValueError: nothing could run.
    """
    chosen, grid, store, cells, say = job.settings, job.grid, job.store, job.cells, job.watcher.say
    wanted = [manifest_entry(experiment) for experiment in grid.experiments]
    with store.lock():
        if chosen.rerun_changed:
            for line in launch.set_aside_changed(grid, store, job.lazy_tasks.tasks):
                say(line)
        left = launch.count_rounds_left(cells, store)
        launch.check_versions(grid, store.merge_experiments(wanted), store)
        for line in resume.restart_changed_cells(left, wanted, store, mix=chosen.mix_versions):
            say(line)
        for line in launch.copy_shorter_records(
            [cell for cell in cells if left.get(cell, 0) < cell.schedule.rounds], store
        ):
            say(line)
        for line in launch.edited_code_remarks(cells, store):
            say(line)
        store.update_manifest(grid.name, wanted, provenance)
        failed = run_missing_rounds(job, left)
        if failed and all(one.whole_task for one in failed) and len(failed) == len(cells):
            raise ValueError("; ".join(dict.fromkeys(one.line for one in failed)))  # nothing could run
        cells = extend_auto_grid(grid, store).cells()
        unfinished = launch.find_unfinished_cells(cells, store)
        write_answers()
    return Outcome(failed, unfinished, len(cells), store)


def extend_auto_grid(grid: Grid, store: Store) -> Grid:
    """The grid; of seeds=auto with the seeds of the look that its records have come to."""
    return looks.extend_grid(grid, store) if any(one.auto for one in grid.experiments) else grid


class LazyTasks:
    """The tasks of a run on its machine, made when the first is asked for: until then the words are checked."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self.settings, self.watcher = settings, watcher

    @cached_property
    def tasks(self) -> launch.TaskLoader:
        """The tasks."""
        chosen = self.settings if self.settings.dry_run else driver_settings(self.settings)
        return launch.TaskLoader(prepare_machine(chosen, Path(chosen.out) / ".fits"))

    def num_pool(self, spec: Spec) -> int:
        """Images in a task's pool. ValueError where the task cannot be had."""
        with self.watcher.show_stages():
            task = self.tasks(spec)
        if isinstance(task, ValueError):
            raise ValueError(f"{spec.label}: {task}") from task
        if isinstance(task, Exception):
            raise task
        return task.num_pool


def list_cells(grid: Grid, settings: Settings, lazy_tasks: LazyTasks) -> list[Cell]:
    """The cells of a grid in the order of running. ValueError where a task cannot serve a strategy, or, said before
    that, where a task that the command line describes cannot be had."""
    try:
        return grid.cells(by_seed=settings.gpu_hours is not None)
    except ValueError:
        for one in grid.experiments:
            if one.name not in settings.experiments:
                lazy_tasks.num_pool(one.task)
        raise


def run_missing_rounds(job: Job, rounds_left: dict[Cell, int]) -> list[launch.Failure]:
    """Runs what is missing, and returns what failed; left: rounds that each cell lacks, cells may join."""
    chosen, grid, store, tasks, say = job.settings, job.grid, job.store, job.lazy_tasks.tasks, job.watcher.say
    machine, where = tasks.machine, device_name(tasks.machine)
    fits = FitCache(store.folder / ".fits", chosen.cache_gb, where)
    local = chosen.launcher == "local"
    on = where if local else "Ray"
    rest = f"{len(rounds_left)} to do, {plural(sum(rounds_left.values()), 'round')}, on {on}; records in {store.folder}"
    say(f"{plural(len(grid.cells()), 'cell')}, {rest}")
    if local:
        launch.check_encoders(rounds_left, machine)

    def run(cells: Sequence[Cell]) -> Generator[launch.Event]:
        return launch.run_locally(cells, store, fits, tasks) if local else launch_on_ray(list(cells), store, chosen)

    ran = run_auto_seeds(job, rounds_left, run) if any(one.auto for one in grid.experiments) else run(list(rounds_left))
    events = launch.stop_after_gpu_hours(ran, chosen.gpu_hours, chosen.gpus_per_cell or 1.0, say)
    events = tracking.mirror_events(events, chosen.tracking, store.folder, say)

    pictured = set[str]()

    def pictures(*experiments: Experiment) -> None:
        missing = [one for one in experiments if one.name not in pictured]
        pictured.update(one.name for one in missing)
        for words in gallery.update_galleries(missing, store, fits, tasks):
            say(words)

    if local:  # Ray's workers would wait for the driver meanwhile
        events = gallery.call_when_finished(
            events, [one for one in grid.experiments if one.auto is None], rounds_left, pictures
        )
    forewarning = (
        forecast.LongRunWarner(rounds_left, tasks, say) if machine.device.type == "cpu" else activity.ignore_stage
    )
    with job.watcher.show_stages(forewarning):
        failed = [event for event in job.watcher.show_events(events, rounds_left) if isinstance(event, launch.Failure)]
        with activity.stage("drawing what was selected"):
            pictures(*extend_auto_grid(grid, store).experiments)
    return failed


def run_auto_seeds(
    job: Job, rounds_left: dict[Cell, int], run: Callable[[Sequence[Cell]], Generator[launch.Event]]
) -> Generator[launch.Event]:
    """`looks.look_after_look`, with the manifest kept up to date."""

    def ask(experiments: Iterable[Experiment]) -> None:
        job.store.update_manifest(job.grid.name, list(map(manifest_entry, experiments)))

    return looks.run_looks(job.grid, rounds_left, job.store, run, ask, job.watcher.say)


def launch_on_ray(cells: list[Cell], store: Store, settings: Settings) -> Generator[launch.Event]:
    """`ray_launch.remote`. ValueError where Ray is not installed."""
    try:
        from benchmark.runner import ray_launch
    except ImportError as error:
        raise ValueError("launcher=ray: not installed: pip install -e '.[ray]'") from error
    return ray_launch.run_on_ray(cells, store, settings)


def driver_settings(settings: Settings) -> Settings:
    """The settings of this process, which under Ray trains nothing and may be where no GPU is."""
    return replace(settings, device="auto") if settings.launcher == "ray" and settings.device == "cuda" else settings


def manifest_entry(experiment: Experiment) -> dict[str, object]:
    """An experiment as the manifest keeps it."""
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
