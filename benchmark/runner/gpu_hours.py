"""Ends a run before it exceeds its budget of GPU hours: `gpu_hours`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator

from benchmark.experiment.cell import Cell
from benchmark.runner.events import CellStarted, Event, Failure, Round


def stop_after_gpu_hours(
    events: Generator[Event],
    gpu_hours: float | None,
    gpu_share: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Passes events on while the running rounds are likely to end within the budget of GPU hours.

    A round is expected to take as long as the longest so far of its task. A running cell uses `gpu_share` of a GPU.
    Rounds that are running when the budget ends are abandoned.

    Args:
        events: what the launcher yields.
        gpu_hours: the budget; None for no limit.
        gpu_share: the share of a GPU that a cell occupies.
        say: shows a line to the user.
        clock: the time in seconds.
    """
    if gpu_hours is None:
        yield from events
        return
    budget, spent, now = 3600 * gpu_hours, 0.0, clock()
    round_starts, longest = dict[Cell, float](), defaultdict[str, float](float)  # of running cells; by task
    for event in events:
        spent, now = spent + gpu_share * len(round_starts) * (clock() - now), clock()
        cell, task = event.cell, event.cell.task.label
        if isinstance(event, Round):
            longest[task] = max(longest[task], now - round_starts[cell])
        round_starts[cell] = now
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            del round_starts[cell]
        ahead = sum(
            max(0.0, longest[running.task.label] - (now - start_time)) for running, start_time in round_starts.items()
        )
        if round_starts and spent + gpu_share * ahead > budget:
            if not isinstance(event, CellStarted):
                yield event
            events.close()
            say(f"gpu_hours={gpu_hours:g}: {spent / 3600:.3g} are spent; the same command goes on from here")
            return
        yield event
