"""Small set-ups in which plug-ins are checked: a strategy at its first selection, a task with one fit."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from benchmark.api import Indices, Machine, Task, View
from benchmark.conformance.shuffled_task import ShuffledTask
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins.capability_names import CAPABILITIES, MODEL_FREE
from benchmark.plugins.registry import source_file
from benchmark.runner import acquisition, fit_cache
from benchmark.runner.fit_cache import FitCache
from benchmark.system.process_state import restore, snapshot


class StrategyTrial:
    """A strategy at round 1 of a small cell."""

    def __init__(self, spec: Spec, task_spec: Spec, machine: Machine) -> None:
        self.spec, self.plugin = spec, spec.plugin
        self.cell = Cell(task_spec, spec, Schedule(initial=30, budget=10, rounds=2, validation=20), seed=0)
        self.machine = machine
        self.parts: tuple[Task, nn.Module] | None = None

    @property
    def task(self) -> Task:
        """The task, built once."""
        return self.prepare()[0]

    def prepare(self) -> tuple[Task, nn.Module]:
        """Returns the task and the model of round 0, built once."""
        if self.parts is None:
            self.cell.check_needs()
            task = self.cell.task.plugin.build(self.machine, self.cell.task.values)
            fits = FitCache(folder=source_file(self.plugin).parent, cache_gb=0, device="check")
            self.parts = (
                task,
                fit_cache.fit_round(self.cell, task, fits, acquisition.draw_initial(self.cell, task).initial, 0).model,
            )
        return self.parts

    def view(self, task: Task | None = None, ties: int = 0) -> View:
        """Returns a new view of the model of round 0; `ties` seeds the order among equals."""
        own_task, model = self.prepare()
        initial_draw = acquisition.draw_initial(self.cell, own_task)
        if isinstance(task, ShuffledTask):
            initial_draw = acquisition.InitialDraw(
                task.new_positions[initial_draw.initial], np.sort(task.new_positions[initial_draw.held_out])
            )
        return acquisition.build_view(
            replace(self.cell, seed=ties), task or own_task, initial_draw, model, [initial_draw.initial]
        )

    def observer(self) -> View:
        """Returns a view of the same state that may use every capability of the task, for checks."""
        task, model = self.prepare()
        own = self.view()
        return View(
            task, model, own.labelled, own.unlabelled,
            num_initial=own.num_initial, held_out=np.empty(0, np.int64), needs=CAPABILITIES,
        )  # fmt: skip

    @property
    def can_start_without_labels(self) -> bool:
        """Whether the strategy needs no model while nothing is labelled."""
        return not self.spec.needs_without_labels - MODEL_FREE and not self.cell.has_companion

    def view_without_labels(self) -> View:
        """Returns a view of the pool with no labels and an untrained model."""
        task = self.task
        initial_draw = acquisition.draw_initial(self.cell, task)
        return acquisition.build_view(self.cell, task, initial_draw, task.model().eval(), [])

    def choose(self, budget: int = 10, seed: int = 0, task: Task | None = None, ties: int = 0) -> Indices:
        """Returns the strategy's selection, checked as the loop checks it."""
        return self.choose_from(self.view(task, ties), budget, seed)

    def choose_from(self, view: View, budget: int, seed: int) -> Indices:
        """Returns the strategy's selection from this view, checked as the loop checks it."""
        selection = self.plugin.function(view, budget, np.random.default_rng(seed), **self.spec.values)
        return acquisition.check_selection(self.spec.label, selection, view, budget)


class FittedTask:
    """A task with one fit on a few images."""

    def __init__(self, spec: Spec, machine: Machine) -> None:
        self.spec, self.plugin, self.machine = spec, spec.plugin, machine
        self.parts: tuple[Task, nn.Module, Indices] | None = None

    def prepare(self) -> tuple[Task, nn.Module, Indices]:
        """Returns the task, a model and the images it was fitted on."""
        if self.parts is None:
            task: Task = self.plugin.build(self.machine, self.spec.values)
            labelled = np.sort(np.random.default_rng(0).permutation(task.num_pool)[: min(200, task.num_pool // 2)])
            self.parts = task, task.fit(labelled, 0), labelled
        return self.parts


def describe_side_effects(action: Callable[[], object]) -> str | None:
    """Returns a message on what a call leaves changed in torch or the process, or still running; otherwise None.

    The libraries that the call needs must be imported before, because their import changes the process too.
    """
    before, running = snapshot(), running_workers()
    action()
    changed, _ = restore(before)
    changed += [f"{worker.name} still running" for worker in running_workers() - running]
    return f"it leaves changed: {', '.join(changed)}: restore what you change, in a `finally`" if changed else None


def running_workers() -> set[Any]:
    """Returns the threads that keep the process from ending, and the processes that it started."""
    return {thread for thread in threading.enumerate() if not thread.daemon} | set(multiprocessing.active_children())
