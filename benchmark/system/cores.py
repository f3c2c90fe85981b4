"""How many CPU cores this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": two cores; "max 100000": no limit


def num_cores() -> int:
    """Returns the number of cores that the system and the quota of the container let this process use, at least 1."""
    is_limited = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if is_limited else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text(encoding="utf-8").split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)
