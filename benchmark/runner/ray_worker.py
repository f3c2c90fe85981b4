"""What happens in a worker of Ray: cells come as plain data, one after the other, rounds go back. Imports no Ray."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import IncompatibleScheduleError, Schedule
from benchmark.experiment.settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import Variant
from benchmark.plugins import discovery
from benchmark.records.record import Header, Measured, Record
from benchmark.records.versions import minor_version
from benchmark.runner import loop
from benchmark.runner.fit_cache import FitCache
from benchmark.runner.launch import TaskLoader
from benchmark.runner.machine import prepare_machine
from benchmark.seeds import seed
from benchmark.system import remarks
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import error_message


@dataclass(frozen=True)
class SerializedCell:
    """A cell as plain data."""

    task: dict[str, dict[str, Any]]
    strategy: dict[str, dict[str, Any]]
    schedule: dict[str, Any]
    seed: int
    variant: dict[str, int]
    key: str
    torch: str  # the driver's minor version

    @classmethod
    def from_cell(cls, cell: Cell) -> SerializedCell:
        """A cell, ready to travel."""
        task, strategy = ({spec.name: spec.values} for spec in (cell.task, cell.strategy))
        schedule, variant = asdict(cell.schedule), asdict(cell.variant)
        return cls(task, strategy, schedule, cell.seed, variant, cell.key, minor_version(torch.__version__))

    def to_cell(self) -> Cell:
        """The cell where it arrived. ValueError where the plug-ins there are others."""
        specs = Spec.read("task", self.task), Spec.read("strategy", self.strategy)
        cell = Cell(*specs, Schedule(**self.schedule), self.seed, Variant(**self.variant))
        if cell.key != self.key:
            raise ValueError("the worker has other versions of these plug-ins: install the same on every node")
        return cell


@dataclass(frozen=True)
class WorkerFailure:
    """Why a worker could not go on with a cell. Its exception stays there: not every one can travel."""

    type_name: str
    text: str
    trace: str
    is_value_error: bool  # a ValueError
    is_out_of_memory: bool
    whole_task: bool

    @classmethod
    def from_error(cls, error: BaseException, whole_task: bool = False) -> WorkerFailure:
        """What there is to tell about an error."""
        of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        trace, of_user = "".join(traceback.format_exception(error)), isinstance(error, ValueError)
        return cls(type(error).__name__, error_message(error), trace, of_user, of_memory, whole_task)

    @property
    def error(self) -> Exception:
        """The exception again: name, words and the worker's traceback."""
        kind: type[Exception] = type(self.type_name, (Exception,), {"__module__": "builtins"})
        error = ValueError(self.text) if self.is_value_error else kind(self.text)
        error.add_note(f"in a worker of Ray:\n{self.trace}")
        return error


Answer: TypeAlias = Header | tuple[Record, Measured] | WorkerFailure | str  # str: a remark


class Worker:
    """Runs cells, one after the other, and keeps the task that it built last."""

    def __init__(self, settings: dict[str, Any], scratch: str) -> None:
        self.settings, self.scratch = Settings(**settings), Path(scratch)
        self.remarks = list[str]()  # that are to be sent to the driver

    def ready(self) -> None:
        """Answers once the worker is there."""

    def run(self, serialized_cell: SerializedCell, past: Sequence[Record]) -> Iterator[Answer]:
        """The header of a cell, its task built, then the rounds that `past` lacks, each behind remarks on the work; a
        fault is the last answer."""
        answers = self.answers(serialized_cell, past)
        while True:
            answer = next_answer(answers)
            while self.remarks:  # not `yield from`: Ray sends into this generator
                yield self.remarks.pop(0)
            if answer is None:
                return
            yield answer

    def answers(self, serialized_cell: SerializedCell, past: Sequence[Record]) -> Iterator[Answer]:
        """The same without remarks; raises what a plug-in raises, but for a task that cannot be built."""
        cell, machine = self.read_cell(serialized_cell), self.tasks.machine
        task = self.tasks(cell.task)
        if isinstance(task, Exception):
            yield WorkerFailure.from_error(task, whole_task=True)
            return
        yield loop.build_header(cell, task, machine)
        fits = FitCache(self.scratch, self.settings.cache_gb, loop.device_name(machine))
        rounds = loop.run(cell, task, fits, machine, past)
        while True:
            with isolate_plugin(cell.task.name, seed("global", cell.task.name)):
                result = next(rounds, None)
            if result is None:
                return
            yield result

    @cached_property
    def tasks(self) -> TaskLoader:
        """The tasks on this machine; plug-ins are found and threads set when it is first asked for."""
        remarks.send_remarks_to(self.remarks.append)
        discovery.discover(self.settings.plugins)
        return TaskLoader(prepare_machine(self.settings, self.scratch))

    def read_cell(self, serialized_cell: SerializedCell) -> Cell:
        """The cell of an order."""
        _ = self.tasks  # which finds the plug-ins
        if serialized_cell.torch != (own := minor_version(torch.__version__)) and not self.settings.mix_versions:
            raise ValueError(f"the worker has torch {own}, not {serialized_cell.torch}: install the same on every node")
        return serialized_cell.to_cell()


def next_answer(answers: Iterator[Answer]) -> Answer | None:
    """The next answer, or the fault that kept it from coming; None after the last.

    `sys.exit()` in a plug-in is such a fault too: Ray would take it for the worker's end.
    """
    try:
        return next(answers, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return WorkerFailure.from_error(error, whole_task=isinstance(error, IncompatibleScheduleError))
