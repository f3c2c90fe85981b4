"""Live progress of a run: a bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmark.launch import Event, Failure, Round


def follow(events: Iterable[Event], total: int, console: Console) -> Iterator[Event]:
    """Passes events on and shows them: the grid's bar, the cell in work, rounds per hour, time left."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("starting", total=total)
        began, done = time.monotonic(), 0
        for event in events:
            if isinstance(event, Round):
                done, total = done + 1, total - event.spared
            pace = speed(done, total, time.monotonic() - began)
            bar.update(shown, completed=done, total=total, description=f"{pace}  {event.cell.label}")
            if isinstance(event, Failure) and not event.whole_task:
                words = f"failed: {event.line}" if isinstance(event.error, ValueError) else event.trace
                console.print(words, style="red", markup=False, highlight=False, soft_wrap=True)
            if isinstance(event, Round) and not console.is_terminal:
                line = f"[{done}/{total}] {told(event)}  ({pace})"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            yield event


def told(event: Round) -> str:
    """A round in one line."""
    scores = " ".join(f"{name} {value:.4g}" for name, value in event.record.scores.items())
    label = f"{event.cell.task.label} {event.cell.strategy.label} seed {event.cell.seed}"
    return f"{label}: {event.record.num_labelled} labelled, {scores}"


def speed(done: int, total: int, seconds: float) -> str:
    """Rounds per hour and the time left at that pace."""
    if not done:
        return "0 rounds/h"
    left = (total - done) * seconds / done
    hours, rest = divmod(int(left), 3600)
    clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{3600 * done / max(seconds, 1e-9):,.0f} rounds/h, {clock} left"
