"""A clock that stands still while this process is stopped by SIGSTOP, Ctrl-Z or a debugger.

The system's monotonic clock does not count the time in which the machine sleeps, but it counts the time in which a
process is stopped; the processor time of a process does not count waiting for a GPU. Therefore a thread checks the
clocks four times a second. If it could not run for over MIN_STOP_SECONDS, and the process neither computed nor waited
for a processor meanwhile, the process was stopped. A call into compiled code that does neither, and lets no other
thread run for so long, would count as a stop, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

CHECK_INTERVAL = 0.25  # seconds between two checks
MIN_STOP_SECONDS = 2.0  # seconds without a check and without being busy that count as a stop
SCHEDSTAT = Path("/proc/self/schedstat")  # on Linux: nanoseconds that the first thread ran, and waited for a processor


class WorkingTime:
    """A monotonic clock in seconds, without the time in which this process was stopped."""

    def __init__(self) -> None:
        self.stopped_seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Starts checking again: a forked process has no thread that does."""
        self.lock = threading.RLock()  # the handler of a signal that arrives in `seconds` may call it again
        self.thread: threading.Thread | None = None
        self.last_check, self.last_busy = time.perf_counter(), busy_seconds()

    def seconds(self) -> float:
        """Returns the current time; only differences are meaningful."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.watch, name="working time", daemon=True)
            self.thread.start()
        with self.lock:
            now, busy = time.perf_counter(), busy_seconds()
            busy_since = [new - old for new, old in zip(busy, self.last_busy, strict=True)]
            missing = now - self.last_check - max(CHECK_INTERVAL, *busy_since)
            self.stopped_seconds += missing if missing > MIN_STOP_SECONDS else 0.0
            self.last_check, self.last_busy = now, busy
            return now - self.stopped_seconds

    def watch(self) -> None:
        """Checks the clocks for ever."""
        while True:
            time.sleep(CHECK_INTERVAL)
            self.seconds()


def busy_seconds() -> tuple[float, float]:
    """Returns seconds of this process's computing, and of its first thread's computing and waiting for a processor.

    The latter is 0 where the system does not tell.
    """
    ran = waited = 0
    with contextlib.suppress(OSError, ValueError):
        ran, waited, *_ = map(int, SCHEDSTAT.read_bytes().split())
    return time.process_time(), (ran + waited) / 1e9


CLOCK = WorkingTime()
os.register_at_fork(after_in_child=CLOCK.restart)


def working_seconds() -> float:
    """Returns the time of this process's clock, which stands still while the process is stopped."""
    return CLOCK.seconds()
