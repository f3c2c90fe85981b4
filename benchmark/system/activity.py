"""Reports of progress: code that reads images, trains or selects sends them, and the command line shows them.

Without a listener (in Python, tests and Ray's workers) reports go nowhere and cost no measurable time. Worker processes
send theirs to the driver, which calls `forward`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

REPORT_SECONDS = 0.1  # between two reports of a stage

T = TypeVar("T")
Listener: TypeAlias = "Callable[[Stage], None]"


@dataclass
class Stage:
    """A piece of work in progress, possibly part of another one."""

    listener: Listener
    name: str  # "reading images"
    total: int | None = None  # number of units; None: unknown
    unit: str = ""  # what is counted: "images"
    epochs: int = 0  # passes over the data that make up the total; 0: the work is not divided into epochs
    num_done: int = 0
    outer: Stage | None = None
    start_time: float = field(default_factory=lambda: time.monotonic())
    worker: int = 0  # the number of the worker process that does it; 0: this process
    task: str = ""  # label of the task that a worker process is at

    def __post_init__(self) -> None:
        self.num_done_before, self.report_time = self.num_done, self.start_time

    def advance(self, number: int = 1) -> None:
        """Counts units as done, and reports if the last report was some time ago."""
        self.num_done += number
        now = time.monotonic()
        if now - self.report_time >= REPORT_SECONDS:
            self.report_time = now
            self.listener(self)

    def detach(self) -> Stage:
        """Returns the stage as it is now, by its full name, without the stages around it and without a listener."""
        start = self.num_done_before, None, self.start_time
        copy = Stage(ignore_stage, self.full_name, self.total, self.unit, self.epochs, *start)
        copy.num_done = self.num_done
        return copy

    @property
    def full_name(self) -> str:
        """The name of the stage after that of the stage around it: "selecting with badge: reading images"."""
        outer = self.outer.full_name if self.outer is not None else ""
        return f"{outer}: {self.name}" if outer else self.name

    def status_line(self) -> str:
        """Returns the stage in one line: name, count, speed, time left."""
        seconds = time.monotonic() - self.start_time if self.full_name else 0.0
        if not self.total:
            return f"{self.full_name} ({seconds:.0f} s)" if seconds >= 1 else self.full_name
        unit = f" {self.unit}" if self.unit else ""
        parts = [f"{self.num_done:,} of {self.total:,}{unit}"]
        if self.epochs:
            parts = [f"epoch {min(self.num_done * self.epochs // self.total + 1, self.epochs):,} of {self.epochs:,}"]
        per_second = (self.num_done - self.num_done_before) / max(seconds, 1e-9)
        if per_second and self.epochs:
            parts.append(f"{per_second:,.0f}{unit}/s" if per_second >= 10 else f"{per_second:.2g}{unit}/s")
        if per_second and seconds >= 1:
            parts.append(f"{format_duration((self.total - self.num_done) / per_second)} left")
        return f"{self.full_name}: {', '.join(parts)}"


def ignore_stage(stage: Stage) -> None:
    """Ignores a report."""


current_stage: ContextVar[Stage] = ContextVar("stage", default=Stage(ignore_stage, ""))  # noqa: B039  nobody changes it


@contextmanager
def report_to(listener: Listener) -> Iterator[None]:
    """Reports the stages of a block, in this thread, to `listener`.

    A stage is reported at its start and at most every 0.1 seconds as it advances; the stage around it again at its end.
    """
    token = current_stage.set(Stage(listener, ""))
    try:
        yield
    finally:
        current_stage.reset(token)


def forward(stage: Stage) -> None:
    """Reports a stage of another process to the listener of this one."""
    current_stage.get().listener(stage)


@contextmanager
def stage(
    name: str, total: int | None = None, unit: str = "", *, epochs: int = 0, num_done: int = 0
) -> Iterator[Stage]:
    """Runs a block as one stage; call `advance` of the result to count units.

    Args:
        name: what is done, in words that follow "the benchmark is": "reading images".
        total: the number of units; None if unknown.
        unit: what is counted, in the plural: "images".
        epochs: the number of passes over the data that make up the total: the epoch is shown instead of the count. 0
            for work that is not divided into epochs.
        num_done: the units that an interrupted run has done before.
    """
    outer = current_stage.get()
    inner = Stage(outer.listener, name, total, unit, epochs, num_done, outer)
    token = current_stage.set(inner)
    try:
        inner.listener(inner)
        yield inner
    finally:
        current_stage.reset(token)
        outer.listener(outer)


def track(
    items: Iterable[T], name: str, unit: str = "images", total: int | None = None, *, epochs: int = 0,
    num_done: int = 0, size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:  # fmt: skip
    """Passes items on, and counts each when the next one is requested.

    Args:
        items: anything to iterate over.
        name: what is done with them: "reading images".
        unit: what is counted, in the plural.
        total: the number of units; None for the number of items, if it is known.
        epochs: as in `stage`.
        num_done: as in `stage`.
        size: the number of units that an item counts for.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if total == 1:  # not worth a report, and some callers read single images a thousand times
        yield from items
        return
    outer = current_stage.get()  # the new stage does not become current: a generator may be abandoned halfway
    inner = Stage(outer.listener, name, total, unit, epochs, num_done, outer)
    inner.listener(inner)
    for item in items:
        yield item
        inner.advance(size(item))
    outer.listener(outer)


def format_duration(seconds: float) -> str:
    """Returns seconds as hours, minutes and seconds: 1:02:03."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
