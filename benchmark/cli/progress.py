"""Progress of a run: a bar on a terminal, otherwise one plain line for each round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from benchmark.cli.display import Display, show_activity
from benchmark.cli.terminal import say
from benchmark.experiment.cell import Cell
from benchmark.runner.events import Event, Failure, Round
from benchmark.runner.run_grid import Watcher
from benchmark.system import activity
from benchmark.system.activity import format_duration
from benchmark.text.escaping import make_lines_visible, make_visible


class TerminalWatcher(Watcher):
    """Shows a run on a terminal, or in plain lines where there is none."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display = Display(console)

    def say(self, line: str) -> None:
        """Prints a remark."""
        say(line)

    @contextmanager
    def show_stages(self, listener: activity.Listener = activity.ignore_stage) -> Iterator[None]:
        """Shows the stages of work of a block; a live line is removed afterwards."""
        with show_activity(self.console) as self.display:
            self.display.listener = listener
            yield

    def show_events(self, events: Iterable[Event], rounds_left: Mapping[Cell, int]) -> Iterator[Event]:
        """Passes events on, and shows a bar, or one line for each round."""
        yield from show_progress(events, rounds_left, self.display)
        self.display.header = None


def show_progress(events: Iterable[Event], rounds_left: Mapping[Cell, int], display: Display) -> Iterator[Event]:
    """Passes events on, and shows the bar of the grid, the current cell, rounds per hour and the time left.

    Args:
        events: the events of the run.
        rounds_left: the number of missing rounds of each cell; cells may be added while events pass.
        display: where the bar is shown.
    """
    cell = TextColumn("{task.description}", markup=False)
    console, bar = display.console, Progress(BarColumn(), MofNCompleteColumn(), cell)
    bar_task = bar.add_task("starting", total=sum(rounds_left.values()))
    display.header = bar
    start, done, skipped = time.monotonic(), 0, 0
    for event in events:
        if isinstance(event, Round):
            done, skipped = done + 1, skipped + event.num_skipped_rounds
        total = sum(rounds_left.values()) - skipped
        pace = describe_pace(done, total, time.monotonic() - start)
        bar.update(bar_task, completed=done, total=total, description=f"{pace}  {make_visible(event.cell.label)}")
        if isinstance(event, Failure) and not event.whole_task:
            text = f"failed: {event.line}" if isinstance(event.error, ValueError) else event.trace
            console.print(Text(make_lines_visible(text), style="red"), soft_wrap=True)
        if isinstance(event, Round) and not display.live:
            line = f"[{done}/{total}] {round_line(event)}  ({pace})"
            console.print(Text(make_visible(line)), soft_wrap=True)
        yield event


def round_line(event: Round) -> str:
    """Describes a finished round in one line, without the scores `num_...`, which only the audit needs."""
    values = [(name, value) for name, value in event.record.scores.items() if not name.startswith("num_")]
    scores = " ".join(f"{name} {value:.4g}" for name, value in values)
    return f"{event.cell.task.label} {event.cell.name}: {event.record.num_labelled} labelled, {scores}"


def describe_pace(done: int, total: int, seconds: float) -> str:
    """Rounds per hour, and the time left at that pace."""
    if not done:
        return "0 rounds/h"
    return f"{3600 * done / max(seconds, 1e-9):,.0f} rounds/h, {format_duration((total - done) * seconds / done)} left"
