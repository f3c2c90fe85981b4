"""A clock that stands still while this process is stopped: by SIGSTOP, Ctrl-Z or a debugger.

The system's monotonic clock does not count a machine that sleeps, but counts a process that is stopped; the processor
time that a process used says nothing of one that waits for a GPU or sleeps. So a thread looks at the clocks four times
a second. Where it could not for over LONGEST, and the process neither computed nor waited for a processor meanwhile,
the process was stopped. A call into compiled code that does neither and lets no other thread run for so long would be
taken for a stop, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

CHECK_INTERVAL = 0.25  # seconds between two looks
MIN_STOP_SECONDS = 2.0  # seconds without a look, beyond what the process was busy, that are a stop
SCHEDSTAT = Path(
    "/proc/self/schedstat"
)  # Linux: nanoseconds that the first thread ran, and that it waited for a processor


class WorkingTime:
    """Seconds of a monotonic clock, those apart in which this process was stopped."""

    def __init__(self) -> None:
        self.stopped_seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Begins to look anew: in a process that was forked no thread does."""
        self.lock = threading.RLock()  # a signal may arrive in `seconds`, and its handler call it
        self.thread: threading.Thread | None = None
        self.last_check, self.last_busy = time.perf_counter(), busy_seconds()

    def seconds(self) -> float:
        """The time now. Only differences mean something."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.watch, name="working time", daemon=True)
            self.thread.start()
        with self.lock:
            now, used = time.perf_counter(), busy_seconds()
            missing = (
                now
                - self.last_check
                - max(CHECK_INTERVAL, *(new - old for new, old in zip(used, self.last_busy, strict=True)))
            )
            self.stopped_seconds += missing if missing > MIN_STOP_SECONDS else 0.0
            self.last_check, self.last_busy = now, used
            return now - self.stopped_seconds

    def watch(self) -> None:
        """Looks for ever."""
        while True:
            time.sleep(CHECK_INTERVAL)
            self.seconds()


def busy_seconds() -> tuple[float, float]:
    """Seconds that this process computed, and that its first thread did or waited for a processor; 0 for the latter
    where the system does not tell."""
    ran = waited = 0
    with contextlib.suppress(OSError, ValueError):
        ran, waited, *_ = map(int, SCHEDSTAT.read_bytes().split())
    return time.process_time(), (ran + waited) / 1e9


CLOCK = WorkingTime()
os.register_at_fork(after_in_child=CLOCK.restart)


def working_seconds() -> float:
    """The time now by the clock of this process, which stands still while it is stopped."""
    return CLOCK.seconds()
