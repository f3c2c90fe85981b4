"""A limit of time for one selection: `select_timeout`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.system.working_time import working_seconds

MIN_TIMER_SECONDS = 0.001  # seconds: 0 would be never


@contextmanager
def time_limit(seconds: float | None, name: str) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer; None: never. What passes while the process is stopped, by
    Ctrl-Z or SIGSTOP, does not count.

    It is heard between two steps of Python, so a call into compiled code ends first; and again after as long, should
    the block swallow it. For the main thread of a process alone: where the local launcher and Ray's workers select.
    """
    if seconds is None:
        yield
        return
    began = working_seconds()

    def ring(*_: Any) -> None:
        left = seconds - (working_seconds() - began)
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left, MIN_TIMER_SECONDS), seconds)
        else:
            raise TimeoutError(f"select_timeout={seconds:g}: {name} did not choose within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
