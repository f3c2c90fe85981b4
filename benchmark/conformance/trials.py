"""A plug-in in use: a strategy at its first selection, a task with a fit, and what a call of them leaves behind."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from benchmark.api import Indices, Machine, Task, View
from benchmark.conformance.shuffled import Shuffled
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins.registry import source
from benchmark.runner import loop
from benchmark.runner.fits import Fits
from benchmark.system.process_state import restore, snapshot


class Trial:
    """A strategy at round 1 of a small cell."""

    def __init__(self, spec: Spec, on: Spec, machine: Machine) -> None:
        self.spec, self.plugin = spec, spec.plugin
        self.cell = Cell(on, spec, Schedule(initial=30, budget=10, rounds=2, validation=20), seed=0)
        self.machine = machine
        self.built: tuple[Task, nn.Module] | None = None

    @property
    def task(self) -> Task:
        """The task, built once."""
        return self.prepared()[0]

    def prepared(self) -> tuple[Task, nn.Module]:
        """The task and the model of round 0."""
        if self.built is None:
            self.cell.check()
            task = self.cell.task.plugin.build(self.machine, self.cell.task.values)
            fits = Fits(folder=source(self.plugin).parent, cache_gb=0, device="check")
            self.built = task, loop.fit(self.cell, task, fits, loop.start(self.cell, task).initial, 0).model
        return self.built

    def view(self, task: Task | None = None, ties: int = 0) -> View:
        """A fresh view of round 0's model. ties: what the order among equals is drawn from."""
        mine, model = self.prepared()
        begin = loop.start(self.cell, mine)
        if isinstance(task, Shuffled):
            begin = loop.Start(task.place[begin.initial], np.sort(task.place[begin.held_out]))
        return loop.view(replace(self.cell, seed=ties), task or mine, begin, model, [begin.initial])

    def choose(self, budget: int = 10, seed: int = 0, task: Task | None = None, ties: int = 0) -> Indices:
        """What the strategy returns, checked as the loop checks it."""
        return self.choose_from(self.view(task, ties), budget, seed)

    def choose_from(self, view: View, budget: int, seed: int) -> Indices:
        """The same, of a view."""
        chosen = self.plugin.function(view, budget, np.random.default_rng(seed), **self.spec.values)
        return loop.checked_choice(self.spec.label, chosen, view, budget)


class Fitted:
    """A task with one fit on a few images."""

    def __init__(self, spec: Spec, machine: Machine) -> None:
        self.spec, self.plugin, self.machine = spec, spec.plugin, machine
        self.built: tuple[Task, nn.Module, Indices] | None = None

    def prepared(self) -> tuple[Task, nn.Module, Indices]:
        """The task, a model and the images it was fitted on."""
        if self.built is None:
            task: Task = self.plugin.build(self.machine, self.spec.values)
            labelled = np.sort(np.random.default_rng(0).permutation(task.num_pool)[: min(200, task.num_pool // 2)])
            self.built = task, task.fit(labelled, 0), labelled
        return self.built


def left_behind(act: Callable[[], object]) -> str | None:
    """What a call leaves changed in torch or in the process, or running. Libraries that it needs are imported by now:
    they change things, too."""
    before, running = snapshot(), workers()
    act()
    changed, _ = restore(before)
    changed += [f"{one.name} still running" for one in workers() - running]
    return f"it leaves changed: {', '.join(changed)}: put back what you change, in a `finally`" if changed else None


def workers() -> set[Any]:
    """The threads that keep the process from ending, and the processes that it started."""
    return {one for one in threading.enumerate() if not one.daemon} | set(multiprocessing.active_children())
