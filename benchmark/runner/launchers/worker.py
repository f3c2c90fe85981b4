"""What runs in a worker: cells arrive as plain data, one after the other, and rounds go back to the driver.

A worker is a process of this machine (`worker_process`) or an actor of Ray (`ray_launch`); this file is for both.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmark.api import Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.run_settings import Settings
from benchmark.experiment.schedule import IncompatibleScheduleError, Schedule
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import Variant
from benchmark.plugins import discovery
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Header, Measured, Record
from benchmark.records.versions import minor_version
from benchmark.runner import loop, measuring
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.machine import prepare_machine
from benchmark.runner.record_checks import find_sources
from benchmark.runner.task_loading import TaskLoader
from benchmark.seeds import seed
from benchmark.system import activity, remarks
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import error_message


@dataclass(frozen=True)
class SerializedCell:
    """A cell as plain data, to be sent to a worker."""

    task: dict[str, dict[str, Any]]
    strategy: dict[str, dict[str, Any]]
    schedule: dict[str, Any]
    seed: int
    variant: dict[str, int]
    key: str
    torch: str  # its minor version on the driver

    @classmethod
    def from_cell(cls, cell: Cell) -> SerializedCell:
        """Converts a cell to plain data."""
        task, strategy = ({spec.name: spec.values} for spec in (cell.task, cell.strategy))
        schedule, variant = asdict(cell.schedule), asdict(cell.variant)
        return cls(task, strategy, schedule, cell.seed, variant, cell.key, minor_version(torch.__version__))

    def to_cell(self) -> Cell:
        """Converts plain data to the cell. ValueError where the worker has other versions of the plug-ins."""
        specs = Spec.read("task", self.task), Spec.read("strategy", self.strategy)
        cell = Cell(*specs, Schedule(**self.schedule), self.seed, Variant(**self.variant))
        if cell.key != self.key:
            raise ValueError("the worker has other versions of these plug-ins: install the same on every node")
        return cell


@dataclass(frozen=True)
class WorkerFailure:
    """Why a worker could not go on with a cell, as text, because not every exception can be sent."""

    type_name: str
    text: str
    trace: str
    is_value_error: bool
    is_out_of_memory: bool
    whole_task: bool

    @classmethod
    def from_error(cls, error: BaseException, whole_task: bool = False) -> WorkerFailure:
        """Describes an exception."""
        trace = "".join(traceback.format_exception(error))
        is_out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        is_value_error = isinstance(error, ValueError)
        return cls(type(error).__name__, error_message(error), trace, is_value_error, is_out_of_memory, whole_task)

    @property
    def error(self) -> Exception:
        """An exception with the original's name, message and the worker's traceback."""
        kind: type[Exception] = type(self.type_name, (Exception,), {"__module__": "builtins"})
        error = ValueError(self.text) if self.is_value_error else kind(self.text)
        error.add_note(f"in a worker:\n{self.trace}")
        return error


# Sources come before the header of the first cell of a task; a text is a remark.
Answer: TypeAlias = Header | tuple[Record, Measured] | WorkerFailure | Sources | activity.Stage | str


def worker_settings(settings: Settings, device: str) -> Settings:
    """Returns the settings of a run for its workers, with paths that are valid wherever a worker is started."""
    data, plugins = absolute_path(settings.data), absolute_path(settings.plugins)
    return replace(settings, device=device, data=data, plugins=plugins)


def absolute_path(folder: str | None) -> str | None:
    """Returns the absolute path of a folder; None for None."""
    return folder and str(Path(folder).absolute())


class Worker:
    """Runs cells one after the other, and keeps the last task in memory."""

    def __init__(self, settings: dict[str, Any], scratch: str) -> None:
        self.settings, self.scratch = Settings(**settings), Path(scratch)
        self.remarks = list[str]()  # to be sent to the driver
        self.sent_sources = set[str]()  # labels of tasks

    def ready(self) -> None:
        """Returns as soon as the worker runs."""

    def run(self, serialized_cell: SerializedCell, past: Sequence[Record]) -> Iterator[Answer]:
        """Yields the header of a cell once its task is built, then the rounds that `past` lacks; a failure comes last.

        Remarks are sent before the answer that they belong to.
        """
        answers = self.answers(serialized_cell, past)
        while True:
            answer = next_answer(answers)
            while self.remarks:  # not `yield from`: Ray sends into this generator
                yield self.remarks.pop(0)
            if answer is None:
                return
            yield answer

    def answers(self, serialized_cell: SerializedCell, past: Sequence[Record]) -> Iterator[Answer]:
        """Yields what `run` yields, without remarks; raises what a plug-in raises, unless a task cannot be built."""
        cell = self.read_cell(serialized_cell)
        steps = self.run_cell(cell, past)
        while True:
            with isolate_plugin(cell.task.label, seed("global", cell.path)):
                answer = next(steps, None)
            if answer is None:
                return
            yield answer

    def run_cell(self, cell: Cell, past: Sequence[Record]) -> Iterator[Answer]:
        """Yields the header of a cell and its rounds, as the local launcher runs them."""
        task, machine = self.tasks(cell.task), self.tasks.machine
        if isinstance(task, Exception):
            yield WorkerFailure.from_error(task, whole_task=True)
            return
        if (sources := self.unsent_sources(cell.task.label, task)) is not None:
            yield sources
        yield loop.build_header(cell, task, machine)
        fits = FitCache(self.scratch, self.settings.cache_gb, measuring.device_name(machine))
        yield from loop.run(cell, task, fits, machine, past)

    def unsent_sources(self, label: str, task: Task) -> Sources | None:
        """Returns the files that a task's images come from, unless the driver has them or there are none."""
        if label in self.sent_sources:
            return None
        self.sent_sources.add(label)
        sources = find_sources(task)
        return sources if sources is not None and (sources.files or sources.remarks) else None

    @cached_property
    def tasks(self) -> TaskLoader:
        """The tasks on this machine; at first use, plug-ins are discovered and the number of threads is set."""
        remarks.send_remarks_to(self.remarks.append)
        discovery.discover(self.settings.plugins)
        return TaskLoader(prepare_machine(self.settings, self.scratch))

    def read_cell(self, serialized_cell: SerializedCell) -> Cell:
        """Returns the cell that was sent. ValueError where torch has another minor version than on the driver."""
        _ = self.tasks  # discovers the plug-ins
        own_torch, driver_torch = minor_version(torch.__version__), serialized_cell.torch
        if own_torch != driver_torch and not self.settings.mix_versions:
            raise ValueError(f"the worker has torch {own_torch}, not {driver_torch}: install the same on every node")
        return serialized_cell.to_cell()


def next_answer(answers: Iterator[Answer]) -> Answer | None:
    """Returns the next answer, or the failure that prevented it; None after the last.

    `sys.exit()` in a plug-in is such a failure too: Ray would take it for the end of the worker.
    """
    try:
        return next(answers, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return WorkerFailure.from_error(error, whole_task=isinstance(error, IncompatibleScheduleError))
