"""What a launcher reports while it runs cells."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TypeAlias

from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.records.record import Measured, Record
from benchmark.text.words import error_message


class MissingPackageError(ValueError):
    """Tasks need a package that is not installed; the message names their experiments."""


@dataclass(frozen=True)
class CellStarted:
    """Event: a cell was started."""

    cell: Cell


@dataclass(frozen=True)
class Round:
    """Event: a round was recorded."""

    cell: Cell
    record: Record
    measured: Measured

    @property
    def is_last(self) -> bool:
        """Whether it is the last round of its cell."""
        schedule = self.cell.schedule
        return self.record.round == schedule.rounds - 1 or schedule.reaches_target(self.record.scores)

    @property
    def num_skipped_rounds(self) -> int:
        """The number of rounds that are not run because this one has reached the schedule's target score."""
        schedule = self.cell.schedule
        return schedule.rounds - 1 - self.record.round if schedule.reaches_target(self.record.scores) else 0


@dataclass(frozen=True)
class Failure:
    """Event: a cell failed; the other cells go on."""

    cell: Cell
    error: BaseException
    whole_task: bool  # the task cannot be built, or does not fit the schedule: all such cells fail

    @property
    def line(self) -> str:
        """The failure in one line, which several cells may share."""
        if isinstance(self.error, MissingPackageError):
            return str(self.error)
        text = error_message(self.error).strip().splitlines() or [""]
        kind = "" if isinstance(self.error, ValueError) else f"{type(self.error).__name__}: "
        return f"{self.cell.task.label if self.whole_task else self.cell.label}: {kind}{text[0]}"

    @property
    def trace(self) -> str:
        """The traceback."""
        return "".join(traceback.format_exception(self.error))


Event: TypeAlias = CellStarted | Round | Failure


def has_incompatible_schedule(failure: Failure) -> bool:
    """Whether the cell failed because its schedule does not fit the task, so that the same command cannot succeed."""
    return isinstance(failure.error, IncompatibleScheduleError)
