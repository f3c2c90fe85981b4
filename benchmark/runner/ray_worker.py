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
from benchmark.experiment.schedule import Misfit, Schedule
from benchmark.experiment.settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import Variant
from benchmark.plugins import discovery
from benchmark.records.record import Header, Measured, Record
from benchmark.records.versions import minor
from benchmark.runner import loop
from benchmark.runner.fits import Fits
from benchmark.runner.launch import Tasks
from benchmark.runner.machine import prepared
from benchmark.seeds import seed
from benchmark.system import remarks
from benchmark.system.process_state import contained
from benchmark.text.words import message


@dataclass(frozen=True)
class Order:
    """A cell as plain data."""

    task: dict[str, dict[str, Any]]
    strategy: dict[str, dict[str, Any]]
    schedule: dict[str, Any]
    seed: int
    variant: dict[str, int]
    key: str
    torch: str  # the driver's minor version

    @classmethod
    def of(cls, cell: Cell) -> Order:
        """A cell, ready to travel."""
        task, strategy = ({spec.name: spec.values} for spec in (cell.task, cell.strategy))
        schedule, variant = asdict(cell.schedule), asdict(cell.variant)
        return cls(task, strategy, schedule, cell.seed, variant, cell.key, minor(torch.__version__))

    def cell(self) -> Cell:
        """The cell where it arrived. ValueError where the plug-ins there are others."""
        specs = Spec.read("task", self.task), Spec.read("strategy", self.strategy)
        cell = Cell(*specs, Schedule(**self.schedule), self.seed, Variant(**self.variant))
        if cell.key != self.key:
            raise ValueError("the worker has other versions of these plug-ins: install the same on every node")
        return cell


@dataclass(frozen=True)
class Fault:
    """Why a worker could not go on with a cell. Its exception stays there: not every one can travel."""

    kind: str
    words: str
    trace: str
    of_user: bool  # a ValueError
    of_memory: bool
    whole_task: bool

    @classmethod
    def of(cls, error: BaseException, whole_task: bool = False) -> Fault:
        """What there is to tell about an error."""
        of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        trace, of_user = "".join(traceback.format_exception(error)), isinstance(error, ValueError)
        return cls(type(error).__name__, message(error), trace, of_user, of_memory, whole_task)

    @property
    def error(self) -> Exception:
        """The exception again: name, words and the worker's traceback."""
        kind: type[Exception] = type(self.kind, (Exception,), {"__module__": "builtins"})
        error = ValueError(self.words) if self.of_user else kind(self.words)
        error.add_note(f"in a worker of Ray:\n{self.trace}")
        return error


Answer: TypeAlias = Header | tuple[Record, Measured] | Fault | str  # str: a remark


class Worker:
    """Runs cells, one after the other, and keeps the task that it built last."""

    def __init__(self, settings: dict[str, Any], scratch: str) -> None:
        self.settings, self.scratch = Settings(**settings), Path(scratch)
        self.remarks = list[str]()  # that are to be sent to the driver

    def ready(self) -> None:
        """Answers once the worker is there."""

    def run(self, order: Order, past: Sequence[Record]) -> Iterator[Answer]:
        """The header of a cell, its task built, then the rounds that `past` lacks, each behind remarks on the work; a
        fault is the last answer."""
        answers = self.answers(order, past)
        while True:
            answer = next_of(answers)
            while self.remarks:  # not `yield from`: Ray sends into this generator
                yield self.remarks.pop(0)
            if answer is None:
                return
            yield answer

    def answers(self, order: Order, past: Sequence[Record]) -> Iterator[Answer]:
        """The same without remarks; raises what a plug-in raises, but for a task that cannot be built."""
        cell, machine = self.cell(order), self.tasks.machine
        task = self.tasks(cell.task)
        if isinstance(task, Exception):
            yield Fault.of(task, whole_task=True)
            return
        yield loop.header(cell, task, machine)
        fits = Fits(self.scratch, self.settings.cache_gb, loop.device_name(machine))
        rounds = loop.run(cell, task, fits, machine, past)
        while True:
            with contained(cell.task.name, seed("global", cell.task.name)):
                result = next(rounds, None)
            if result is None:
                return
            yield result

    @cached_property
    def tasks(self) -> Tasks:
        """The tasks on this machine; plug-ins are found and threads set when it is first asked for."""
        remarks.listen(self.remarks.append)
        discovery.discover(self.settings.plugins)
        return Tasks(prepared(self.settings, self.scratch))

    def cell(self, order: Order) -> Cell:
        """The cell of an order."""
        _ = self.tasks  # which finds the plug-ins
        if order.torch != (own := minor(torch.__version__)) and not self.settings.mix_versions:
            raise ValueError(f"the worker has torch {own}, not {order.torch}: install the same on every node")
        return order.cell()


def next_of(answers: Iterator[Answer]) -> Answer | None:
    """The next answer, or the fault that kept it from coming; None after the last.

    `sys.exit()` in a plug-in is such a fault too: Ray would take it for the worker's end.
    """
    try:
        return next(answers, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Fault.of(error, whole_task=isinstance(error, Misfit))
