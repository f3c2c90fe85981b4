"""A time limit for one selection: `select_timeout`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.system.working_time import working_seconds

MIN_TIMER_SECONDS = 0.001  # a timer of 0 seconds never rings


@contextmanager
def time_limit(seconds: float | None, name: str) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer than `seconds`; None for no limit.

    The time in which the process is stopped by Ctrl-Z or SIGSTOP does not count. The error is raised between two steps
    of Python, so a call into compiled code ends first; if the block swallows the error, it is raised again after the
    same time. Works in the main thread of a process only: where the local launcher and workers select.
    """
    if seconds is None:
        yield
        return
    start_time = working_seconds()

    def ring(*_: Any) -> None:
        seconds_left = seconds - (working_seconds() - start_time)
        if seconds_left > 0:
            signal.setitimer(signal.ITIMER_REAL, max(seconds_left, MIN_TIMER_SECONDS), seconds)
        else:
            raise TimeoutError(f"select_timeout={seconds:g}: {name} did not select within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
